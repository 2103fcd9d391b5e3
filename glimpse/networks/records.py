"""What passes between policy and learning algorithm: named records of tensors, batch first."""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from glimpse.networks.aggregator import Cache
from glimpse.networks.locator import Candidates


@dataclass(frozen=True)
class Conduct:
    """How a policy acts in one pass, where this is not its own affair.

    Attributes:
        locator: says where to look in place of the policy's own locator; the pass then goes on until its budget is
            spent.
        may_stop: whether the policy may end an episode by itself. Where it may not, stopping is no part of the
            probabilities.
        train_encoder: whether gradients reach the encoder.
    """

    locator: nn.Module | None = None
    may_stop: bool = True
    train_encoder: bool = True


OWN_CONDUCT = Conduct()


@dataclass
class Scene:
    """The encoded overviews of some cases."""

    token: Float[Tensor, "case embed"]
    candidates: Candidates
    features: Float[Tensor, "case embed *cells"]  # what both are made of


@dataclass
class State:
    """What the policy carries through an episode."""

    memory: Float[Tensor, "batch hidden"]
    answer: Float[Tensor, "batch embed"]  # the aggregator's embedding of what has been seen so far
    cache: Cache
    visited: Bool[Tensor, "batch cell"]
    zoom: Int[Tensor, "batch"]  # of the glimpse asked for last
    seen: Float[Tensor, "batch pooled"]  # what the last glimpse showed


class Decision(NamedTuple):
    """One action of the policy per row, with what learning needs of it."""

    location: Tensor  # float (batch, d)
    cell: Tensor  # int (batch,)
    zoom: Tensor  # int (batch,)
    stop: Tensor  # bool (batch,)
    prediction: Tensor  # float (batch, output)
    log_prob: Tensor  # float (batch,)
    value: Tensor  # float (batch,)


@dataclass
class Episodes:
    """Complete episodes of a few cases; rows are ordered by case, all rollouts of the first case first.

    Step t < `length` read glimpse t; step t = `length` stopped; later steps are padding.
    """

    overview: UInt8[Tensor, "case channel *size"]
    foreground: UInt8[Tensor, "case 1 *size"]
    features: Float[Tensor, "case embed *cells"]  # of the overview, as encoded in the rollout
    glimpse: UInt8[Tensor, "batch time channel *glimpse"]
    seen: Float[Tensor, "batch time pooled"]  # what each glimpse showed, as encoded in the rollout
    location: Float[Tensor, "batch time d"]
    cell: Int[Tensor, "batch time"]
    zoom: Int[Tensor, "batch time"]
    length: Int[Tensor, "batch"]
    forced: Bool[Tensor, "batch"]  # the budget, not the policy, ended the episode
    prediction: Float[Tensor, "batch step output"]  # step = time + 1
    log_prob: Float[Tensor, "batch step"]
    value: Float[Tensor, "batch step"]
    reward: Float[Tensor, "batch step"]
    target: Tensor

    @property
    def rollouts(self) -> int:
        """Rollouts per case."""
        return len(self.length) // len(self.overview)

    @property
    def read(self) -> Bool[Tensor, "batch time"]:
        """Where a glimpse was read."""
        steps = torch.arange(self.cell.shape[1], device=self.length.device)
        return steps < self.length[:, None]

    @property
    def answered(self) -> Bool[Tensor, "batch step"]:
        """Where a prediction was given: one step more than glimpses were read."""
        steps = torch.arange(self.cell.shape[1] + 1, device=self.length.device)
        return steps <= self.length[:, None]

    @property
    def decided(self) -> Bool[Tensor, "batch step"]:
        """Where the policy had a choice: everywhere but at the step where the budget was spent."""
        last = torch.arange(self.cell.shape[1] + 1, device=self.length.device) == self.length[:, None]
        return self.answered & ~(last & self.forced[:, None])

    def of_cases(self, cases: Int[Tensor, "some"]) -> "Episodes":
        """The episodes of these cases only."""
        rows = (cases[:, None] * self.rollouts + torch.arange(self.rollouts)).flatten()
        per_case = ("overview", "foreground", "features")
        return Episodes(**{f.name: getattr(self, f.name)[cases if f.name in per_case else rows] for f in fields(self)})


@dataclass
class Glimpses:
    """Some more glimpses of each row of `Episodes`, that no decision led to."""

    seen: Float[Tensor, "batch more pooled"]
    location: Float[Tensor, "batch more d"]
    zoom: Int[Tensor, "batch more"]

    def of_rows(self, rows: Int[Tensor, "some"]) -> "Glimpses":
        """Those of these rows only."""
        return Glimpses(self.seen[rows], self.location[rows], self.zoom[rows])


@dataclass
class Evaluation:
    """Episodes seen with the current parameters, with gradients."""

    log_prob: Float[Tensor, "batch step"]
    entropy: Float[Tensor, "batch step"]
    value: Float[Tensor, "batch step"]
    prediction: Float[Tensor, "batch step output"]
    glimpse_prediction: Float[Tensor, "batch time output"]  # answers from single glimpses, for the auxiliary loss
    extra_prediction: Float[Tensor, "batch more output"] | None = None  # after each glimpse that followed the episode
