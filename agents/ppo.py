"""Proximal policy optimisation (Schulman et al. 2017) on complete episodes."""

from typing import Any

import torch
from torch import Tensor

from glimpse.agents.base import GlimpseAlgorithm
from glimpse.agents.returns import masked_mean
from glimpse.networks.records import Episodes, Evaluation


class PPO(GlimpseAlgorithm):
    r"""Several passes over each rollout, the probability ratio clipped.

    The loss is the mean of -min(w_t A_t, clip(w_t, 1 - \epsilon, 1 + \epsilon) A_t) with
    w_t = pi(a_t | s_t) / pi_old(a_t | s_t), which is 1 at the first minibatch.

    Args:
        clip_range: epsilon.
        **options: of `GlimpseAlgorithm`.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: Any = 1e-3,
        *,
        clip_range: float = 0.2,
        n_epochs: int = 2,
        **options: Any,
    ) -> None:
        self.clip_range = clip_range
        super().__init__(policy, env, learning_rate, n_epochs=n_epochs, **options)

    def policy_loss(
        self, episodes: Episodes, evaluation: Evaluation, advantage: Tensor, returns: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        log_ratio = (evaluation.log_prob - episodes.log_prob).masked_fill(~episodes.decided, 0.0)
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
        policy = -masked_mean(torch.minimum(ratio * advantage, clipped * advantage), episodes.decided)
        common, logs = self.common_losses(episodes, evaluation, returns)
        with torch.no_grad():
            divergence = masked_mean(ratio - 1 - log_ratio, episodes.decided).item()
            outside = masked_mean(((ratio - 1).abs() > self.clip_range).float(), episodes.decided).item()
        logs = {**logs, "policy_loss": policy.item(), "approx_kl": divergence, "clip_fraction": outside}
        return policy + common, logs
