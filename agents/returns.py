r"""Computes gains, returns and advantages of complete episodes, with discount 1.

The reward is r_t = s(p_t) - s(p_{t-1}) - c_t: the gain in score of the prediction in action t, less the cost of the
glimpse that action t reads. But p_t was made before that glimpse was read, so the gain at step t is not a consequence
of where action t looks; the gain at step t + 1 is. `consequences` moves each gain to the action that caused it. All
arrays are (batch, step), with one row per episode.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glimpse.ranks.sharing import gathered, total


def gains(score: Float[Tensor, "batch step"], answered: Bool[Tensor, "batch step"]) -> Float[Tensor, "batch step"]:
    """Returns the gain in score of each answer over the answer before (0 before the first); 0 after the end."""
    before = torch.cat([torch.zeros_like(score[:, :1]), score[:, :-1]], 1)
    return (score - before).masked_fill(~answered, 0.0)


def consequences(reward: Float[Tensor, "batch step"], gain: Float[Tensor, "batch step"]) -> Float[Tensor, "batch step"]:
    r"""Returns what action t caused, \rho_t = (r_t - g_t) + g_{t+1}: minus the glimpse's cost, plus its gain."""
    following = torch.cat([gain[:, 1:], torch.zeros_like(gain[:, :1])], 1)
    return reward - gain + following


def all_at_the_end(
    reward: Float[Tensor, "batch step"], decided: Bool[Tensor, "batch step"]
) -> Float[Tensor, "batch step"]:
    """Returns rewards that are 0 except at the last decision, which gets the return of the whole episode."""
    last = (decided.sum(1, keepdim=True) - 1).clamp_min(0)
    return torch.zeros_like(reward).scatter_(1, last, reward.sum(1, keepdim=True))


def returns_to_go(reward: Float[Tensor, "batch step"]) -> Float[Tensor, "batch step"]:
    r"""Returns R_t = \sum_{k >= t} \rho_k."""
    return reward.flip(1).cumsum(1).flip(1)


def leave_one_out(returns: Float[Tensor, "batch step"], rollouts: int) -> Float[Tensor, "batch step"]:
    r"""Returns the advantage over the other rollouts of the same case (Kool, van Hoof, Welling 2019).

    A_t^i = R_t^i - 1/(K-1) \sum_{j != i} R_t^j for K rollouts. R_t of an episode that has ended is 0.
    """
    if rollouts < 2:
        raise ValueError(f"A leave-one-out baseline needs at least two rollouts per case, got {rollouts}.")
    groups = returns.view(-1, rollouts, returns.shape[1])
    others = (groups.sum(1, keepdim=True) - groups) / (rollouts - 1)
    return (groups - others).view(returns.shape)


def generalised_advantage(
    reward: Float[Tensor, "batch step"],
    value: Float[Tensor, "batch step"],
    decided: Bool[Tensor, "batch step"],
    gae_lambda: float,
) -> Float[Tensor, "batch step"]:
    r"""Returns generalised advantage estimates with discount 1 (Schulman et al. 2016).

    \delta_t = \rho_t + V_{t+1} - V_t and A_t = \delta_t + \lambda A_{t+1}; V is 0 after the last decision.
    """
    value = value.masked_fill(~decided, 0.0)
    following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], 1)
    delta = reward + following - value
    advantage, running = torch.zeros_like(delta), torch.zeros_like(delta[:, 0])
    for step in reversed(range(delta.shape[1])):
        running = delta[:, step] + gae_lambda * running
        advantage[:, step] = running
    return advantage.masked_fill(~decided, 0.0)


def standardised(
    advantage: Float[Tensor, "batch step"], decided: Bool[Tensor, "batch step"]
) -> Float[Tensor, "batch step"]:
    """Returns advantages divided by their standard deviation over all decisions, so that their scale is always 1."""
    every = gathered(advantage[decided])  # of all ranks
    spread = every.std() if len(every) > 1 else advantage.new_tensor(1.0)
    return (advantage / (spread + 1e-6)).masked_fill(~decided, 0.0)


def masked_mean(values: Float[Tensor, "batch step"], mask: Bool[Tensor, "batch step"]) -> Float[Tensor, ""]:
    """Returns the mean over the entries where `mask` is True; 0 if there are none.

    With several ranks, it is this one's part of the mean over all of them (see `glimpse.ranks.sharing`).
    """
    return (values * mask).sum() / total(mask.sum()).clamp_min(1)
