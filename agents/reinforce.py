"""REINFORCE (Williams 1992) with a leave-one-out baseline or a critic, on complete episodes."""

from jaxtyping import Float
from torch import Tensor

from glimpse.agents.base import GlimpseAlgorithm
from glimpse.agents.learner import Loss, PolicyLearner
from glimpse.agents.returns import masked_mean
from glimpse.networks.records import Episodes, Evaluation


class ReinforceLearner(PolicyLearner):
    """Policy loss: the mean of -A_t log pi(a_t | s_t) over all decisions, with the advantage A_t."""

    def policy_loss(self, episodes: Episodes, evaluation: Evaluation, advantage: Float[Tensor, "batch step"]) -> Loss:
        loss = -masked_mean(advantage * evaluation.log_prob, episodes.decided)
        return Loss(loss, {"policy_loss": loss.detach()})


class Reinforce(GlimpseAlgorithm):
    """The agent that learns with REINFORCE (see `ReinforceLearner`); its options are in `glimpse.agents.options`."""

    learner_class = ReinforceLearner
