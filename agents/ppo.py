"""Proximal policy optimisation (Schulman et al. 2017) on complete episodes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from glimpse.agents.base import GlimpseAlgorithm
from glimpse.agents.learner import Loss, PolicyLearner
from glimpse.agents.options import Losses, Options
from glimpse.agents.returns import masked_mean
from glimpse.errors import SettingsError
from glimpse.networks.records import Episodes, Evaluation


@dataclass(frozen=True)
class PPOLosses(Losses):
    r"""The losses of all agents, and how far a policy may move from the policy that played the rollout.

    Attributes:
        clip_range: \epsilon, the relative change of a decision's probability beyond which the loss does not improve.
    """

    clip_range: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.clip_range > 0:
            raise SettingsError(f"Expected clip_range above 0, got {self.clip_range}.")


@dataclass(frozen=True)
class PPOOptions(Options):
    """All options of `PPO`."""

    losses: PPOLosses


class PPOLearner(PolicyLearner):
    r"""Policy loss: the mean of -min(w_t A_t, clip(w_t, 1 - \epsilon, 1 + \epsilon) A_t) over all decisions.

    Here w_t = pi(a_t | s_t) / pi_old(a_t | s_t), which is 1 at the first minibatch, and A_t is the advantage. Where the
    first minibatch is the only one, the gradient is that of REINFORCE.
    """

    losses: PPOLosses

    def policy_loss(self, episodes: Episodes, evaluation: Evaluation, advantage: Float[Tensor, "batch step"]) -> Loss:
        epsilon = self.losses.clip_range
        log_ratio = (evaluation.log_prob - episodes.log_prob).masked_fill(~episodes.decided, 0.0)
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
        loss = -masked_mean(torch.minimum(ratio * advantage, clipped * advantage), episodes.decided)
        with torch.no_grad():
            divergence = masked_mean(ratio - 1 - log_ratio, episodes.decided)
            outside = masked_mean(((ratio - 1).abs() > epsilon).float(), episodes.decided)
        return Loss(loss, {"policy_loss": loss.detach(), "approx_kl": divergence, "clip_fraction": outside})


class PPO(GlimpseAlgorithm):
    """The agent that learns with proximal policy optimisation (see `PPOLearner`).

    Its options are those of `glimpse.agents.options`, with `n_epochs=2` by default, and `clip_range`.
    """

    options_class = PPOOptions
    learner_class = PPOLearner
    defaults = {"n_epochs": 2}
