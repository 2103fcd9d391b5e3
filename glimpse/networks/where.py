"""Where to look next: places, distributions over them, and the levels to which they belong.

A choice is a location together with the index of the cell in which it lies. A locator turns states of the memory into a
distribution over choices, a `Where`.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glimpse.geometry import CellGrid
from glimpse.networks.overlap import Coverage, of_rows
from glimpse.ranks.sharing import own_rows

CLOSED = -1e9
"""The logit of places that cannot be chosen."""


@dataclass
class Candidates:
    """The cells from which locators choose. There is one row per case, for all of its rollouts, or one per rollout.

    They are the cells of overviews. Only those are here that may be looked at, unless all of them may, or the locator
    roams; the rows then have locations of their own. Where there are several fields of view, the cells of wide glimpses
    follow them (see `glimpse.networks.frontier`).

    Attributes:
        keys: What `PointerLocator` compares with the state.
        unary: A score of each cell that does not depend on the state.
        open: Whether a cell has any foreground, so that it may be chosen.
        sides: The sides of a glimpse of each extent, in units of [-1, 1] along each axis.
        locations: Centres of the cells in [-1, 1].
        grid: The cells of overviews.
        level: The index of the extent with which a glimpse at each cell would be read; None where there is only one.
        index: The indices of these cells among all of them, in order, which is how they are named in a `Choice`; None
            where all cells are here.
    """

    keys: Float[Tensor, "case cell embed"]
    unary: Float[Tensor, "case cell"]
    open: Bool[Tensor, "case cell"]
    sides: Float[Tensor, "case zoom d"]
    locations: Float[Tensor, "cell d"] | Float[Tensor, "case cell d"]
    grid: CellGrid
    level: Int[Tensor, "case cell"] | None = None
    index: Int[Tensor, "case cell"] | None = None

    def nearest(self, location: Float[Tensor, "*batch d"]) -> Int[Tensor, "*batch"]:
        """Returns the index of the cell of the overview in which a location lies."""
        index = torch.zeros(location.shape[:-1], dtype=torch.long, device=location.device)
        for axis, cells in enumerate(self.grid.cells):
            before, side = self.grid.margins[axis][0], self.grid.side[axis]
            pixels = (location[..., axis] + 1) / 2 * self.grid.size[axis]
            along = ((pixels + before) / side).floor().long().clamp(0, cells - 1)
            index = index * cells + along
        return index


class Choice(NamedTuple):
    """A place to look at: `location` float (batch, time, d), and `cell` int (batch, time), in which it lies."""

    location: Tensor
    cell: Tensor


@runtime_checkable
class Where(Protocol):
    """The interface of distributions over choices; there is one distribution per row and step."""

    def sample(self, generator: torch.Generator | None = None) -> Choice: ...
    def mode(self) -> Choice: ...
    def log_prob(self, choice: Choice) -> Tensor: ...
    def entropy(self) -> Tensor: ...


class CellDistribution:
    """A categorical distribution over cells, from logits (batch, time, cell) that are very low for closed cells.

    Probabilities are computed as softmax of the logits and not as `exp` of the log-probabilities, which is slow for the
    very low values of closed cells. A level is chosen by `worth`, or without it by the logits, as a cell of this level
    is in any case.
    """

    def __init__(
        self,
        logits: Float[Tensor, "batch time cell"],
        locations: Float[Tensor, "cell d"] | Float[Tensor, "batch cell d"],
        level: Int[Tensor, "case cell"] | None = None,
        index: Int[Tensor, "batch cell"] | None = None,
        worth: Float[Tensor, "batch time cell"] | None = None,
    ) -> None:
        self.logits, self.log_probs, self.locations = logits, F.log_softmax(logits, -1), locations
        self.worth = logits if worth is None else worth.masked_fill(logits <= CLOSED / 2, CLOSED)
        self.level = None if level is None else level.repeat_interleave(len(logits) // len(level), 0)[:, None]
        self.index = index

    def best(self, levels: int) -> Float[Tensor, "batch time zoom"]:
        """Returns the highest worth of each level; it is very low where there is no place left."""
        assert self.level is not None
        parts = (self.worth.masked_fill(self.level != level, CLOSED) for level in range(levels))
        return torch.stack([part.amax(-1) for part in parts], -1)

    def at(self, zoom: Int[Tensor, "batch time"]) -> "CellDistribution":
        """Returns the distribution over the places of one level at each step."""
        if self.level is None:
            return self
        logits = self.logits.masked_fill(self.level != zoom[..., None], CLOSED)
        return CellDistribution(logits, self.locations, index=self.index)

    def sample(self, generator: torch.Generator | None = None) -> Choice:
        """Samples by inverting the cumulative distribution, so that a cell of probability 0 is never drawn."""
        below = self.logits.softmax(-1).cumsum(-1, dtype=torch.float64)
        draw = functools.partial(torch.rand, generator=generator, dtype=below.dtype, device=below.device)
        level = own_rows(draw, *below.shape[:2], 1) * below[..., -1:]
        cell = torch.searchsorted(below, level, right=True)[..., 0].clamp_max(below.shape[-1] - 1)
        return self._choice(cell)

    def mode(self) -> Choice:
        return self._choice(self.log_probs.argmax(-1))

    def _choice(self, place: Int[Tensor, "batch time"]) -> Choice:
        return Choice(self._at(place), place if self.index is None else self.index.gather(1, place))

    def _at(self, cell: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time d"]:
        if self.locations.ndim == 2:
            return self.locations[cell]
        return self.locations[torch.arange(len(cell), device=cell.device)[:, None], cell]

    def log_prob(self, choice: Choice) -> Float[Tensor, "batch time"]:
        place = choice.cell
        if self.index is not None:
            place = torch.searchsorted(self.index, place.contiguous()).clamp_max(self.index.shape[1] - 1)
        return self.log_probs.gather(-1, place[..., None])[..., 0]

    def of_all(self, count: int) -> Float[Tensor, "batch time all"]:
        """Returns the probabilities of all `count` cells, 0 of those that are not here."""
        probabilities = self.logits.softmax(-1)
        if self.index is None:
            return probabilities
        index = self.index[:, None].expand_as(probabilities)
        return probabilities.new_zeros(*probabilities.shape[:2], count).scatter(-1, index, probabilities)

    def entropy(self) -> Float[Tensor, "batch time"]:
        return -(self.logits.softmax(-1) * self.log_probs.clamp_min(-50)).sum(-1)


class GaussianDistribution:
    """A normal distribution over locations with mean (batch, time, d) and one standard deviation for all axes."""

    def __init__(self, mean: Float[Tensor, "batch time d"], std: Tensor, candidates: Candidates) -> None:
        self.normal, self.candidates = torch.distributions.Normal(mean, std), candidates

    def _choice(self, location: Tensor) -> Choice:
        location = location.clamp(-1, 1)
        return Choice(location, self.candidates.nearest(location))

    def sample(self, generator: torch.Generator | None = None) -> Choice:
        mean = self.normal.mean
        draw = functools.partial(torch.randn, generator=generator, dtype=mean.dtype, device=mean.device)
        return self._choice(self.normal.mean + self.normal.stddev * own_rows(draw, *mean.shape))

    def mode(self) -> Choice:
        return self._choice(self.normal.mean)

    def log_prob(self, choice: Choice) -> Float[Tensor, "batch time"]:
        return self.normal.log_prob(choice.location).sum(-1)

    def entropy(self) -> Float[Tensor, "batch time"]:
        return self.normal.entropy().sum(-1)


def levels_of(locator: Any, logits: Float[Tensor, "batch time zoom"], where: Where) -> Float[Tensor, "batch time zoom"]:
    """Returns the logits of fields of view as a locator has them, from the policy's own and from where it could look.

    A locator may say what it makes of them with a method `level_logits`, which gets what the best place of each level
    is worth (see `CellDistribution.best`). Without one, it chooses among the levels that have places left. A locator
    that `roams` may look anywhere with any field of view.
    """
    own = getattr(locator, "level_logits", None)
    best = where.best(logits.shape[-1]) if isinstance(where, CellDistribution) and where.level is not None else None
    best = torch.zeros_like(logits) if best is None else best
    return masked(logits, available(best)) if own is None else own(logits, best)


def at_level(where: Where, zoom: Int[Tensor, "batch time"]) -> Where:
    """Returns a distribution over places with one field of view at each step."""
    return where.at(zoom) if isinstance(where, CellDistribution) else where


def available(best: Float[Tensor, "batch time zoom"]) -> Bool[Tensor, "batch time zoom"]:
    """Returns which levels have places left, by their highest logits."""
    return best > CLOSED / 2


def masked(logits: Tensor, there: Bool[Tensor, "*batch zoom"]) -> Tensor:
    """Returns logits with those very low that are not available."""
    return logits.masked_fill(~there.to(logits.device), CLOSED)


def closed_cells(candidates: Candidates, seen: Coverage) -> Bool[Tensor, "batch time cell"]:
    """Returns which cells may not be chosen: closed and absent ones, and visited ones while others are left.

    With several fields of view, others are those of all levels; where none is left, cells of the overview count again.
    """
    outside = ~candidates.open.repeat_interleave(seen.visited.shape[0] // len(candidates.open), 0)[:, None]
    outside = outside if seen.absent is None else outside | seen.absent
    closed = outside | seen.visited
    if candidates.level is None:
        return torch.where(closed.all(-1, keepdim=True), outside.expand_as(closed), closed)
    first = candidates.level.repeat_interleave(len(closed) // len(candidates.level), 0)[:, None] == 0
    return torch.where(closed.all(-1, keepdim=True) & first, outside.expand_as(closed), closed)


def over_cells(
    logits: Float[Tensor, "batch time cell"],
    candidates: Candidates,
    seen: Coverage,
    worth: Float[Tensor, "batch time cell"] | None = None,
) -> CellDistribution:
    """Returns the distribution over the cells that may be chosen; `worth` is as of `CellDistribution`."""
    left = logits.masked_fill(closed_cells(candidates, seen), CLOSED)
    index, locations = candidates.index, candidates.locations
    locations = locations if locations.ndim == 2 else of_rows(locations, len(logits))
    index = None if index is None else of_rows(index, len(logits))
    return CellDistribution(left, locations, candidates.level, index, worth)


def open_ones(inside: Bool[Tensor, "case cell"]) -> Int[Tensor, "case some"]:
    """Returns the indices of cells that are open, in order; rows with fewer of them have others, too."""
    most = int(inside.sum(1).max())
    first = (~inside).byte().sort(dim=1, stable=True).indices[:, :most]
    return first.sort(1).values
