"""The locator: gives a distribution over where to look next, either over cells of the overview or over [-1, 1]^d.

A locator turns states of the memory into a distribution, a `Where`. A choice is a location together with the index of
the cell of the overview in which it lies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

_CLOSED = -1e9


@dataclass
class Candidates:
    """The cells of the overviews, from which locators choose. There is one row per case, for all of its rollouts.

    Attributes:
        keys: What `PointerLocator` compares with the state.
        unary: A score of each cell that does not depend on the state.
        open: Whether a cell has any foreground, so that it may be chosen.
        locations: Centres of the cells in [-1, 1].
        grid: Number of cells per axis.
    """

    keys: Float[Tensor, "case cell embed"]
    unary: Float[Tensor, "case cell"]
    open: Bool[Tensor, "case cell"]
    locations: Float[Tensor, "cell d"]
    grid: tuple[int, ...]

    def nearest(self, location: Float[Tensor, "*batch d"]) -> Int[Tensor, "*batch"]:
        """Returns the index of the cell in which a location lies."""
        index = torch.zeros(location.shape[:-1], dtype=torch.long, device=location.device)
        for axis, cells in enumerate(self.grid):
            along = ((location[..., axis] + 1) / 2 * cells).floor().long().clamp(0, cells - 1)
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

    def __init__(self, logits: Float[Tensor, "batch time cell"], locations: Float[Tensor, "cell d"]) -> None:
        self.logits, self.log_probs, self.locations = logits, F.log_softmax(logits, -1), locations

    def sample(self, generator: torch.Generator | None = None) -> Choice:
        """Samples by inverting the cumulative distribution, so that a cell of probability 0 is never drawn."""
        below = self.logits.softmax(-1).cumsum(-1, dtype=torch.float64)
        shape = (*below.shape[:2], 1)
        level = torch.rand(shape, generator=generator, dtype=below.dtype, device=below.device) * below[..., -1:]
        cell = torch.searchsorted(below, level, right=True)[..., 0].clamp_max(below.shape[-1] - 1)
        return Choice(self.locations[cell], cell)

    def mode(self) -> Choice:
        cell = self.log_probs.argmax(-1)
        return Choice(self.locations[cell], cell)

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

    This is a pointer network (Vinyals, Fortunato, Jaitly 2015) that points at cells of the overview.
    """

    unary_gain = 3.0  # early in training, the look of a cell says more about its worth than the state does

    def __init__(self, embed: int, hidden: int, ndim: int = 2) -> None:
        super().__init__()
        self.key, self.query = nn.Linear(embed, embed), nn.Linear(hidden, embed)
        self.unary = nn.Sequential(nn.Linear(embed, embed), nn.ReLU(), nn.Linear(embed, 1))

    def describe(
        self, features: Float[Tensor, "case cell embed"], where: Float[Tensor, "*case cell embed"]
    ) -> tuple[Float[Tensor, "case cell embed"], Float[Tensor, "case cell"]]:
        """Returns keys and unary scores of cells, from their features and the embeddings of their locations."""
        return self.key(features) + where, self.unary(features)[..., 0] * self.unary_gain

    def forward(
        self,
        states: Float[Tensor, "batch time hidden"],
        candidates: Candidates,
        visited: Bool[Tensor, "batch time cell"],
    ) -> CellDistribution:
        """Returns a distribution over the cells that are open and not visited.

        The rows of a batch are ordered by case: all rollouts of the first case come first.
        """
        keys = candidates.keys
        by_case = states.reshape(keys.shape[0], -1, states.shape[-1])
        logits = self.logits(by_case, keys, candidates.unary).view(visited.shape)
        return CellDistribution(logits.masked_fill(closed_cells(candidates, visited), _CLOSED), candidates.locations)

    def logits(
        self,
        states: Float[Tensor, "case time hidden"],
        keys: Float[Tensor, "case cell embed"],
        unary: Float[Tensor, "case cell"],
    ) -> Float[Tensor, "case time cell"]:
        """Returns the logits of all cells, open or not, from the keys and unary scores that `describe` returned."""
        return self.query(states) @ keys.transpose(1, 2) / math.sqrt(keys.shape[-1]) + unary[:, None]


class GaussianLocator(nn.Module):
    """A normal distribution around tanh(W state), as in the recurrent attention model (Mnih et al. 2014).

    The standard deviation is learned, too, unless `learn_std` is False.
    """

    def __init__(self, embed: int, hidden: int, ndim: int = 2, std: float = 0.2, learn_std: bool = True) -> None:
        super().__init__()
        self.mean = nn.Linear(hidden, ndim)
        self.log_std = nn.Parameter(torch.tensor(math.log(std)), requires_grad=learn_std)

    def describe(
        self, features: Float[Tensor, "case cell embed"], where: Float[Tensor, "*case cell embed"]
    ) -> tuple[Float[Tensor, "case cell embed"], Float[Tensor, "case cell"]]:
        """Returns zeros, because this locator does not use cells."""
        return torch.zeros_like(features), torch.zeros_like(features[..., 0])

    def forward(
        self,
        states: Float[Tensor, "batch time hidden"],
        candidates: Candidates,
        visited: Bool[Tensor, "batch time cell"],
    ) -> GaussianDistribution:
        return GaussianDistribution(self.mean(states).tanh(), self.log_std.exp(), candidates)


class RandomLocator(nn.Module):
    """Looks at random cells of the foreground, at each one at most once while there are others left."""

    def forward(
        self,
        states: Float[Tensor, "batch time hidden"],
        candidates: Candidates,
        visited: Bool[Tensor, "batch time cell"],
    ) -> CellDistribution:
        logits = states.new_zeros(visited.shape)
        return CellDistribution(logits.masked_fill(closed_cells(candidates, visited), _CLOSED), candidates.locations)


class ShuffledLocator(nn.Module):
    """Looks at the cells of the foreground in a random order that is drawn from a seed and the case's index.

    It is made for deterministic reading: its mode gives the next cell in that order. The order depends on the seed and
    the case only, not on how many cases are read at once.

    Args:
        seed: Seed of the orders.
        cases: The index of the case in each row of the batch.
    """

    def __init__(self, seed: int, cases: Sequence[int]) -> None:
        super().__init__()
        self.seed, self.cases = seed, tuple(cases)
        self._priority: Tensor | None = None

    def forward(
        self, states: Tensor, candidates: Candidates, visited: Bool[Tensor, "batch time cell"]
    ) -> CellDistribution:
        if self._priority is None:
            draws = [np.random.default_rng((self.seed, case)).random(visited.shape[-1]) for case in self.cases]
            self._priority = torch.from_numpy(np.stack(draws)).float().to(visited.device)
        closed = closed_cells(candidates, visited)
        logits = self._priority[:, None].expand(visited.shape).masked_fill(closed, _CLOSED)
        return CellDistribution(logits, candidates.locations)


class GridLocator(nn.Module):
    """Looks at `budget` points of a regular grid over the foreground, in raster order.

    The grid is the coarsest one with at least `budget` points in the foreground; if it has more, an evenly spaced
    selection of them is taken. Along an axis that is shorter than the pitch of the grid, there is one point in the
    middle.
    """

    def __init__(self, budget: int) -> None:
        super().__init__()
        self.budget = budget

    def forward(
        self,
        states: Float[Tensor, "batch time hidden"],
        candidates: Candidates,
        visited: Bool[Tensor, "batch time cell"],
    ) -> CellDistribution:
        plans = torch.stack([self.plan(row, candidates.grid) for row in candidates.open.cpu()]).to(states.device)
        plans = plans.repeat_interleave(visited.shape[0] // len(plans), 0)
        step = visited.sum(-1).clamp_max(self.budget - 1)
        logits = states.new_full(visited.shape, _CLOSED)
        return CellDistribution(logits.scatter_(-1, plans.gather(1, step)[..., None], 0.0), candidates.locations)

    def plan(self, foreground: Bool[Tensor, "cell"], grid: tuple[int, ...]) -> Int[Tensor, "budget"]:
        """Returns the indices of the cells to look at, in order."""
        for pitch in range(max(grid), 0, -1):
            lattice = torch.zeros(grid, dtype=torch.bool)
            lattice[tuple(slice(min(pitch, cells) // 2, None, pitch) for cells in grid)] = True
            points = (lattice.flatten() & foreground).nonzero()[:, 0]
            if len(points) >= self.budget or pitch == 1:
                break
        order = ((torch.arange(self.budget) + 0.5) * len(points) / self.budget).floor().long()
        return points[order]


def closed_cells(candidates: Candidates, visited: Bool[Tensor, "batch time cell"]) -> Bool[Tensor, "batch time cell"]:
    """Returns which cells may not be chosen: those outside the foreground, and visited ones while others are left."""
    outside = ~candidates.open.repeat_interleave(visited.shape[0] // len(candidates.open), 0)[:, None]
    closed = outside | visited
    return torch.where(closed.all(-1, keepdim=True), outside.expand_as(closed), closed)
