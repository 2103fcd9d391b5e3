"""Records of tensors that policies and learning algorithms exchange; the first axis of every tensor is the batch."""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from glimpse.networks.aggregator import Cache
from glimpse.networks.frontier import Frontier
from glimpse.networks.overlap import Coverage
from glimpse.networks.where import Candidates


@dataclass(frozen=True)
class Conduct:
    """Changes how a policy acts in one pass; agents and readers use it to replace parts of its behaviour.

    Attributes:
        locator: is used in place of the policy's own locator; episodes then go on until the budget is spent.
        may_stop: whether the policy may end an episode by itself. If not, log-probabilities leave stopping out.
        train_encoder: whether gradients are computed for the encoder, where any of its parameters trains.
    """

    locator: nn.Module | None = None
    may_stop: bool = True
    train_encoder: bool = True


OWN_CONDUCT = Conduct()
NEVER = 1 << 30
"""The step of what was never read."""
ENDLESS = 1 << 30
"""The number of glimpses that are left where nobody has said how many may be read."""


@dataclass
class Scene:
    """The encoded overviews of some cases."""

    token: Float[Tensor, "case embed"]
    candidates: Candidates
    features: Float[Tensor, "case features *cells"]  # the encoder's feature maps, from which both are computed
    open: Bool[Tensor, "case cell"]  # which cells of the overview have any foreground


@dataclass
class WideGlimpses:
    """The wide glimpses that some rows have just read, where there are several fields of view.

    Attributes:
        rows: The rows.
        features: The encoder's feature maps, whose cells are candidates for the next field of view.
        opened: Which cells may be chosen.
        on_host, zoom: The rows, and their fields of view, on the host.
    """

    rows: Int[Tensor, "view"]
    features: Float[Tensor, "view features *cells"]
    opened: Bool[Tensor, "view cell"]
    on_host: Int[Tensor, "view"]
    zoom: Int[Tensor, "view"]


@dataclass
class State:
    """What the policy carries through an episode."""

    memory: Float[Tensor, "batch hidden"]
    answer: Float[Tensor, "batch embed"]  # the aggregator's embedding of what has been seen so far
    cache: Cache
    visited: Bool[Tensor, "batch cell"]
    sides: Float[Tensor, "batch zoom d"]  # of glimpses, as in `Candidates`
    covered: Float[Tensor, "batch cell"]  # the sum of shares of a cell's view that each glimpse has shown
    near: Float[Tensor, "batch cell"]  # the same of enlarged glimpses
    zoom: Int[Tensor, "batch"]  # of the last glimpse
    cell: Int[Tensor, "batch"]  # the index of the candidate at which the last glimpse lies
    seen: Float[Tensor, "batch pooled"]  # pooled features of the last glimpse
    step: Int[Tensor, "batch"]  # how many glimpses were read
    left: Int[Tensor, "batch"]  # how many may still be read
    frontier: Frontier | None = None  # where there are several fields of view
    wide: WideGlimpses | None = None  # of the last glimpses

    def coverage(self) -> Coverage:
        """Returns what was seen of the cells of the overview before the next glimpse."""
        share, near = (shown.clamp_max(1)[:, None] for shown in (self.covered, self.near))
        zoom = torch.zeros_like(self.zoom)[:, None]
        return Coverage(self.visited[:, None], share, near, zoom, step=self.step[:, None])


class Decision(NamedTuple):
    """One action of the policy per row, with its log-probability and the value of the state, for learning."""

    location: Tensor  # float (batch, d)
    cell: Tensor  # int (batch,), the index of the candidate
    zoom: Tensor  # int (batch,)
    stop: Tensor  # bool (batch,)
    prediction: Tensor  # float (batch, output)
    log_prob: Tensor  # float (batch,)
    value: Tensor  # float (batch,)
    zoom_log_probs: Tensor  # float (batch, zoom), of all fields of view


@dataclass
class Episodes:
    """Complete episodes of a few cases. Rows are ordered by case: all rollouts of the first case come first.

    At step t < `length` glimpse t was read, step t = `length` ended the episode, and later steps are padding.
    """

    overview: UInt8[Tensor, "case channel *size"]
    foreground: UInt8[Tensor, "case 1 *size"]
    extents: Float[Tensor, "case zoom d"]  # sides of glimpses, as shares of the image's sides
    features: Float[Tensor, "case features *cells"]  # of the overview, as encoded in the rollout
    glimpse: UInt8[Tensor, "batch time channel *glimpse"]
    seen: Float[Tensor, "batch time pooled"]  # pooled features of each glimpse, as encoded in the rollout
    location: Float[Tensor, "batch time d"]
    cell: Int[Tensor, "batch time"]
    zoom: Int[Tensor, "batch time"]
    length: Int[Tensor, "batch"]
    budget: Int[Tensor, "batch"]  # how many glimpses could be read
    forced: Bool[Tensor, "batch"]  # True where the spent budget, not the policy, ended the episode
    prediction: Float[Tensor, "batch step output"]  # step = time + 1
    log_prob: Float[Tensor, "batch step"]
    value: Float[Tensor, "batch step"]
    reward: Float[Tensor, "batch step"]
    target: Tensor
    maps: Float[Tensor, "batch view features *viewcells"]  # feature maps of wide glimpses, as encoded in the rollout
    opened: Bool[Tensor, "batch view viewcell"]  # which of their cells could be looked at
    view_step: Int[Tensor, "batch view"]  # the step at which each of them was read; that of padding is beyond all

    @property
    def rollouts(self) -> int:
        """Rollouts per case."""
        return len(self.length) // len(self.overview)

    @property
    def left(self) -> Int[Tensor, "batch step"]:
        """How many glimpses could still be read at each step."""
        return self.budget[:, None] - torch.arange(self.cell.shape[1] + 1, device=self.budget.device)

    @property
    def read(self) -> Bool[Tensor, "batch time"]:
        """True at steps where a glimpse was read."""
        steps = torch.arange(self.cell.shape[1], device=self.length.device)
        return steps < self.length[:, None]

    @property
    def is_view(self) -> Bool[Tensor, "batch view"]:
        """True for wide glimpses, False for padding."""
        return self.view_step < self.length[:, None]

    @property
    def answered(self) -> Bool[Tensor, "batch step"]:
        """True at steps where a prediction was given: at one step more than glimpses were read."""
        steps = torch.arange(self.cell.shape[1] + 1, device=self.length.device)
        return steps <= self.length[:, None]

    @property
    def decided(self) -> Bool[Tensor, "batch step"]:
        """True at steps where the policy had a choice: all but the last step of episodes that the budget ended."""
        last = torch.arange(self.cell.shape[1] + 1, device=self.length.device) == self.length[:, None]
        return self.answered & ~(last & self.forced[:, None])

    def of_cases(self, cases: Int[Tensor, "some"]) -> "Episodes":
        """Returns the episodes of the cases with these indices."""
        rows = (cases[:, None] * self.rollouts + torch.arange(self.rollouts)).flatten()
        per_case = ("overview", "foreground", "extents", "features")
        return Episodes(**{f.name: getattr(self, f.name)[cases if f.name in per_case else rows] for f in fields(self)})


@dataclass
class Glimpses:
    """Extra glimpses for each row of `Episodes`, which the policy has not chosen."""

    seen: Float[Tensor, "batch more pooled"]
    location: Float[Tensor, "batch more d"]
    zoom: Int[Tensor, "batch more"]

    def of_rows(self, rows: Int[Tensor, "some"]) -> "Glimpses":
        """Returns the glimpses of the rows with these indices."""
        return Glimpses(self.seen[rows], self.location[rows], self.zoom[rows])


@dataclass
class Evaluation:
    """What the current parameters say about stored episodes, with gradients."""

    log_prob: Float[Tensor, "batch step"]
    entropy: Float[Tensor, "batch step"]
    value: Float[Tensor, "batch step"]
    prediction: Float[Tensor, "batch step output"]
    glimpse_prediction: Float[Tensor, "batch time output"]  # answers from single glimpses
    extra_prediction: Float[Tensor, "batch more output"] | None = None  # answers after each extra glimpse
    first_logits: Float[Tensor, "case place"] | None = None  # of the cells that were asked for, as the first choice
    view_scores: Float[Tensor, "batch view cell"] | None = None  # the locator's unary scores of cells of wide glimpses
