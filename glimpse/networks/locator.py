"""The locator: gives a distribution over where to look next, either over cells of the overview or over [-1, 1]^d.

A locator turns states of the memory into a distribution, a `Where`. A choice is a location together with the index of
the cell of the overview in which it lies.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glimpse.geometry import CellGrid
from glimpse.networks.overlap import Coverage
from glimpse.settings.options import at_least

CLOSED = -1e9
_BOUND = 50.0  # lower logits are those of places that are closed, or as good as closed
SEEN_PENALTY = 10.0
"""Taken off the logit of a cell whose view was seen completely; for learned locators, the weight before training."""


@dataclass
class Candidates:
    """The cells from which locators choose. There is one row per case, for all of its rollouts, or one per rollout.

    They are the cells of overviews. Where there are several fields of view, the cells of wide glimpses follow them; the
    rows then have locations of their own (see `glimpse.networks.frontier`).

    Attributes:
        keys: What `PointerLocator` compares with the state.
        unary: A score of each cell that does not depend on the state.
        open: Whether a cell has any foreground, so that it may be chosen.
        sides: The sides of a glimpse of each extent, in units of [-1, 1] along each axis.
        locations: Centres of the cells in [-1, 1].
        grid: The cells of overviews.
        level: The index of the extent with which a glimpse at each cell would be read; None where there is only one.
    """

    keys: Float[Tensor, "case cell embed"]
    unary: Float[Tensor, "case cell"]
    open: Bool[Tensor, "case cell"]
    sides: Float[Tensor, "case zoom d"]
    locations: Float[Tensor, "cell d"] | Float[Tensor, "case cell d"]
    grid: CellGrid
    level: Int[Tensor, "case cell"] | None = None

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
    very low values of closed cells.
    """

    def __init__(
        self,
        logits: Float[Tensor, "batch time cell"],
        locations: Float[Tensor, "cell d"] | Float[Tensor, "batch cell d"],
        level: Int[Tensor, "case cell"] | None = None,
    ) -> None:
        self.logits, self.log_probs, self.locations = logits, F.log_softmax(logits, -1), locations
        self.level = None if level is None else level.repeat_interleave(len(logits) // len(level), 0)[:, None]

    def best(self, levels: int) -> Float[Tensor, "batch time zoom"]:
        """Returns the highest logit of each level; it is very low where there is no place left."""
        assert self.level is not None
        parts = (self.logits.masked_fill(self.level != level, CLOSED) for level in range(levels))
        return torch.stack([part.amax(-1) for part in parts], -1)

    def at(self, zoom: Int[Tensor, "batch time"]) -> "CellDistribution":
        """Returns the distribution over the places of one level at each step."""
        if self.level is None:
            return self
        return CellDistribution(self.logits.masked_fill(self.level != zoom[..., None], CLOSED), self.locations)

    def sample(self, generator: torch.Generator | None = None) -> Choice:
        """Samples by inverting the cumulative distribution, so that a cell of probability 0 is never drawn."""
        below = self.logits.softmax(-1).cumsum(-1, dtype=torch.float64)
        shape = (*below.shape[:2], 1)
        level = torch.rand(shape, generator=generator, dtype=below.dtype, device=below.device) * below[..., -1:]
        cell = torch.searchsorted(below, level, right=True)[..., 0].clamp_max(below.shape[-1] - 1)
        return Choice(self._at(cell), cell)

    def mode(self) -> Choice:
        cell = self.log_probs.argmax(-1)
        return Choice(self._at(cell), cell)

    def _at(self, cell: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time d"]:
        if self.locations.ndim == 2:
            return self.locations[cell]
        return self.locations[torch.arange(len(cell), device=cell.device)[:, None], cell]

    def log_prob(self, choice: Choice) -> Float[Tensor, "batch time"]:
        return self.log_probs.gather(-1, choice.cell[..., None])[..., 0]

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
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return self._choice(self.normal.mean + self.normal.stddev * noise)

    def mode(self) -> Choice:
        return self._choice(self.normal.mean)

    def log_prob(self, choice: Choice) -> Float[Tensor, "batch time"]:
        return self.normal.log_prob(choice.location).sum(-1)

    def entropy(self) -> Float[Tensor, "batch time"]:
        return self.normal.entropy().sum(-1)


class PointerLocator(nn.Module):
    """Chooses a cell of the overview; its logit is a learned unary score plus query(state) . key(cell) / sqrt(embed).

    This is a pointer network (Vinyals, Fortunato, Jaitly 2015) that points at cells of the overview. From the logit of
    a cell whose view was seen already, in part or completely, a penalty is taken: its weight, which is learned for each
    extent, times the share that was seen.

    The channels of a pretrained encoder differ a hundredfold in size, and its features have a large common part.
    `calibrate` makes them alike: mean 0 and standard deviation 1 over a sample of cells. Before it is called, features
    are taken as they are.

    Args:
        embed: Width of the features of cells.
        hidden: Width of the memory's state.
        ndim: Number of axes of the images; not used.
        zooms: Number of extents of glimpses.
        seen_penalty: The weight of the penalty before training.
        learn_seen_penalty: Whether the weights are trained.
        near_penalty: The weight, before training, of another penalty: times the share of a view that lies within an
            earlier glimpse of twice its sides. Where things are wider than a glimpse, it leads on to the next one.
            With 0, there is none.
        unary_layers: Layers of the unary score. Features of a pretrained encoder need no more than 1, and with few
            cases a second layer learns what is chance.
    """

    shift: Tensor
    spread: Tensor
    near_penalty: Tensor
    unary_gain = 3.0  # early in training, the look of a cell says more about its worth than the state does

    def __init__(
        self,
        embed: int,
        hidden: int,
        ndim: int = 2,
        zooms: int = 1,
        seen_penalty: float = SEEN_PENALTY,
        learn_seen_penalty: bool = True,
        near_penalty: float = 0.0,
        unary_layers: int = 2,
    ) -> None:
        super().__init__()
        for name, weight in (("seen_penalty", seen_penalty), ("near_penalty", near_penalty)):
            at_least(name, weight, 0)
        at_least("unary_layers", unary_layers, 1, whole=True)
        self.seen_penalty = nn.Parameter(torch.full((zooms,), float(seen_penalty)), requires_grad=learn_seen_penalty)
        near, self.minds_near = torch.full((zooms,), float(near_penalty)), near_penalty > 0
        if learn_seen_penalty and self.minds_near:
            self.near_penalty = nn.Parameter(near)
        else:  # not among the parameters, so that runs from before there was one can be continued
            self.register_buffer("near_penalty", near)
        self.key, self.query = nn.Linear(embed, embed), nn.Linear(hidden, embed)
        self.unary = _unary(embed, unary_layers)
        self.register_buffer("shift", torch.zeros(embed))
        self.register_buffer("spread", torch.ones(embed))
        self.finer = nn.ModuleList(_Reader(embed, unary_layers) for _ in range(zooms - 1))
        if zooms > 1:  # what the best place of each level is worth, by its logit
            self.worth_slope, self.worth_offset = nn.Parameter(torch.zeros(zooms)), nn.Parameter(torch.zeros(zooms))

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in ("shift", "spread"):  # policies that were saved before there were any have none
            state.setdefault(prefix + name, getattr(self, name))
        state.setdefault(prefix + "near_penalty", torch.zeros_like(self.near_penalty))
        super()._load_from_state_dict(state, prefix, *rest)

    def describe(
        self,
        features: Float[Tensor, "case cell embed"],
        where: Float[Tensor, "*case cell embed"],
        level: Int[Tensor, "case"] | None = None,
    ) -> tuple[Float[Tensor, "case cell embed"], Float[Tensor, "case cell"]]:
        """Returns keys and unary scores of cells, from their features and the embeddings of their locations.

        `level` is the index of the extent with which a glimpse at these cells would be read; None means the first. The
        cells of overviews and those of wide glimpses look different, so each level has scores of its own.
        """
        if level is None:
            return self._described(self, features, where)
        keys, unary = torch.zeros_like(features), torch.zeros_like(features[..., 0])
        for index in level.unique().tolist():
            rows = (level == index).nonzero()[:, 0]
            part: Any = self if index == 0 else self.finer[index - 1]
            key, score = self._described(part, features[rows], where[rows])
            keys, unary = keys.index_copy(0, rows, key), unary.index_copy(0, rows, score)
        return keys, unary

    def _described(self, part: Any, features: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        features = (features - part.shift) / part.spread
        return part.key(features) + where, part.unary(features)[..., 0] * self.unary_gain

    def calibrate(self, features: Float[Tensor, "*batch embed"], level: int = 0) -> None:
        """Takes the statistics of features of a sample of cells of a level; they are not trained."""
        part: Any = self if level == 0 else self.finer[level - 1]
        flat = features.flatten(0, -2)
        part.shift.copy_(flat.mean(0))
        part.spread.copy_(flat.std(0) + 1e-3)

    def forward(
        self,
        states: Float[Tensor, "batch time hidden"],
        candidates: Candidates,
        seen: Coverage,
    ) -> CellDistribution:
        """Returns a distribution over the cells that are open and not visited.

        The rows of a batch are ordered by case: all rollouts of the first case come first.
        """
        keys = candidates.keys
        by_case = states.reshape(keys.shape[0], -1, states.shape[-1])
        logits = self.logits(by_case, keys, candidates.unary).view(seen.visited.shape)
        level = candidates.level
        zoom = seen.zoom[..., None] if level is None else level.repeat_interleave(len(states) // len(level), 0)[:, None]
        logits = logits - self.penalty(seen.share, seen.near, zoom)
        logits = logits.masked_fill(closed_cells(candidates, seen), CLOSED)
        return CellDistribution(logits, candidates.locations, level)

    def level_logits(
        self, logits: Float[Tensor, "batch time zoom"], best: Float[Tensor, "batch time zoom"]
    ) -> Float[Tensor, "batch time zoom"]:
        """Returns the logits of levels: those of the state, and what the best place of each level is worth.

        A fine glimpse is worth what it shows, and a wide one what the choice inside it will bring. So it looks more
        closely where something promising was seen from afar, and elsewhere when nothing is left there.
        """
        return masked(logits + self.worth_slope * best.clamp_min(-_BOUND) + self.worth_offset, available(best))

    @torch.no_grad()
    def value_levels(self, slope: Float[Tensor, " zoom"], offset: Float[Tensor, " zoom"], unit: float) -> None:
        """Sets what the best place of each level is worth: slope times its logit plus offset, in units of the loss.

        A difference of `unit` makes one level e times as probable as another.
        """
        self.worth_slope.copy_(slope / unit)
        self.worth_offset.copy_(offset / unit)

    def penalty(
        self,
        share: Float[Tensor, "batch time cell"],
        near: Float[Tensor, "batch time cell"],
        zoom: Int[Tensor, "batch #time #cell"],
    ) -> Float[Tensor, "batch time cell"]:
        """Returns what is taken off the logits of cells of whose view a share was seen, or is near to what was seen.

        `zoom` is the index of the extent of the view, of all cells (batch, time, 1) or of each.
        """
        return self.seen_penalty[zoom] * share + self.near_penalty[zoom] * near

    def logits(
        self,
        states: Float[Tensor, "case time hidden"],
        keys: Float[Tensor, "case cell embed"],
        unary: Float[Tensor, "case cell"],
    ) -> Float[Tensor, "case time cell"]:
        """Returns the logits of all cells, open or not, from the keys and unary scores that `describe` returned."""
        return self.query(states) @ keys.transpose(1, 2) / math.sqrt(keys.shape[-1]) + unary[:, None]


class _Reader(nn.Module):
    """What `PointerLocator` says of the cells of wide glimpses of one field of view."""

    shift: Tensor
    spread: Tensor

    def __init__(self, embed: int, unary_layers: int) -> None:
        super().__init__()
        self.key, self.unary = nn.Linear(embed, embed), _unary(embed, unary_layers)
        self.register_buffer("shift", torch.zeros(embed))
        self.register_buffer("spread", torch.ones(embed))


def _unary(embed: int, layers: int) -> nn.Sequential:
    hidden = [layer for _ in range(layers - 1) for layer in (nn.Linear(embed, embed), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(embed, 1))


class GaussianLocator(nn.Module):
    """A normal distribution around tanh(W state), as in the recurrent attention model (Mnih et al. 2014).

    The standard deviation is learned, too, unless `learn_std` is False. It takes no account of what was seen already,
    and with several fields of view it looks anywhere with any of them.
    """

    roams = True

    def __init__(
        self, embed: int, hidden: int, ndim: int = 2, zooms: int = 1, std: float = 0.2, learn_std: bool = True
    ) -> None:
        super().__init__()
        self.mean = nn.Linear(hidden, ndim)
        self.log_std = nn.Parameter(torch.tensor(math.log(std)), requires_grad=learn_std)

    def level_logits(self, logits: Tensor, best: Tensor) -> Tensor:
        """Returns the logits as they are."""
        return logits

    def describe(
        self,
        features: Float[Tensor, "case cell embed"],
        where: Float[Tensor, "*case cell embed"],
        level: Int[Tensor, "case"] | None = None,
    ) -> tuple[Float[Tensor, "case cell embed"], Float[Tensor, "case cell"]]:
        """Returns zeros, because this locator does not use cells."""
        return torch.zeros_like(features), torch.zeros_like(features[..., 0])

    def forward(
        self,
        states: Float[Tensor, "batch time hidden"],
        candidates: Candidates,
        seen: Coverage,
    ) -> GaussianDistribution:
        return GaussianDistribution(self.mean(states).tanh(), self.log_std.exp(), candidates)


def levels_of(locator: Any, logits: Float[Tensor, "batch time zoom"], where: Where) -> Float[Tensor, "batch time zoom"]:
    """Returns the logits of fields of view as a locator has them, from the policy's own and from where it could look.

    A locator may say what it makes of them with a method `level_logits`, which gets the highest logit of each level.
    Without one, it chooses among the levels that have places left. A locator that `roams` may look anywhere with any
    field of view.
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
    """Returns which cells may not be chosen: closed and absent ones, and visited ones while others are left."""
    outside = ~candidates.open.repeat_interleave(seen.visited.shape[0] // len(candidates.open), 0)[:, None]
    outside = outside if seen.absent is None else outside | seen.absent
    closed = outside | seen.visited
    if candidates.level is None:
        return torch.where(closed.all(-1, keepdim=True), outside.expand_as(closed), closed)
    first = candidates.level.repeat_interleave(len(closed) // len(candidates.level), 0)[:, None] == 0
    return torch.where((closed | ~first).all(-1, keepdim=True) & first, outside.expand_as(closed), closed)
