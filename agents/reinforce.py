"""REINFORCE (Williams 1992) with a leave-one-out baseline or a critic, on complete episodes."""

from torch import Tensor

from glimpse.agents.base import GlimpseAlgorithm
from glimpse.agents.returns import masked_mean
from glimpse.networks.records import Episodes, Evaluation


class Reinforce(GlimpseAlgorithm):
    """One pass over each rollout: the loss is the mean of -A_t log pi(a_t | s_t)."""

    def policy_loss(
        self, episodes: Episodes, evaluation: Evaluation, advantage: Tensor, returns: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        policy = -masked_mean(advantage * evaluation.log_prob, episodes.decided)
        common, logs = self.common_losses(episodes, evaluation, returns)
        return policy + common, {**logs, "policy_loss": policy.item()}
