"""Locators that do not learn where to look, which others are compared with: at random places, and on a regular grid."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glimpse.geometry import CellGrid
from glimpse.networks.locator import SEEN_PENALTY
from glimpse.networks.overlap import Coverage
from glimpse.networks.where import CLOSED, Candidates, CellDistribution, available, masked, over_cells


class RandomLocator(nn.Module):
    """Looks at random cells of the foreground, at each one at most once while there are others left.

    Cells whose view was seen already are less probable, by the penalty with which learned locators begin. Of several
    fields of view, each one that has places left is as probable as the others.
    """

    def level_logits(self, logits: Tensor, best: Tensor) -> Tensor:
        """Returns equal logits of all levels that have places left."""
        return masked(torch.zeros_like(logits), available(best))

    def forward(
        self,
        states: Float[Tensor, "batch time hidden"],
        candidates: Candidates,
        seen: Coverage,
    ) -> CellDistribution:
        return over_cells(-SEEN_PENALTY * seen.share, candidates, seen)


class ShuffledLocator(nn.Module):
    """Looks at cells as `RandomLocator` does, with random numbers drawn from a seed and the case's index.

    It is made for deterministic reading: its mode is what `RandomLocator` might choose. One random number per cell
    serves the whole episode, and depends on the seed and the case only, not on how many cases are read at once.

    Args:
        seed: Seed of the orders.
        cases: The index of the case in each row of the batch.
    """

    def __init__(self, seed: int, cases: Sequence[int]) -> None:
        super().__init__()
        self.seed, self.cases = seed, tuple(cases)
        self._noise, self._steps = torch.zeros(len(self.cases), 0), 0

    def level_logits(self, logits: Tensor, best: Tensor) -> Tensor:
        """Returns logits of which the highest is a random level among those that have places left."""
        self._steps += 1
        draws = [
            np.random.default_rng((self.seed, case, self._steps)).gumbel(size=logits.shape[-1]) for case in self.cases
        ]
        return masked(torch.from_numpy(np.stack(draws))[:, None].to(logits), available(best))

    def forward(self, states: Tensor, candidates: Candidates, seen: Coverage) -> CellDistribution:
        count = seen.share.shape[-1] if candidates.index is None else int(candidates.index[:, -1].max()) + 1
        if self._noise.shape[1] < count:  # the first numbers of a case stay the same when there are more
            # The cell with the largest sum of logit and Gumbel noise is a sample from the softmax of the logits.
            draws = [np.random.default_rng((self.seed, case)).gumbel(size=count) for case in self.cases]
            self._noise = torch.from_numpy(np.stack(draws)).float().to(seen.share.device)
        noise = self._noise[:, :count] if candidates.index is None else self._noise.gather(1, candidates.index)
        logits = noise[:, None] - SEEN_PENALTY * seen.share
        return over_cells(logits, candidates, seen)


class WideFirstLocator(ShuffledLocator):
    """Looks as `ShuffledLocator` does, but at wide places first: every field of view gets the same part of the budget.

    Args:
        seed, cases: As of `ShuffledLocator`.
        budget: How many glimpses will be read.
    """

    def __init__(self, seed: int, cases: Sequence[int], budget: int) -> None:
        super().__init__(seed, cases)
        self.budget = max(1, budget)

    def level_logits(self, logits: Tensor, best: Tensor) -> Tensor:
        """Returns the highest logit for the level whose turn it is, and lower ones for levels farther from it."""
        levels = logits.shape[-1]
        turn = min(self._steps * levels // self.budget, levels - 1)
        self._steps += 1
        distance = (torch.arange(levels, device=logits.device) - turn).abs()
        return masked(-distance.to(logits).expand_as(logits), available(best))


class GridLocator(nn.Module):
    """Looks at `budget` points of a regular grid over the foreground, in raster order.

    The grid is the coarsest one with at least `budget` points in the foreground; if it has more, an evenly spaced
    selection of them is taken. Along an axis that is shorter than the pitch of the grid, there is one point in the
    middle. Of several fields of view it takes the last, the finest.

    Where the foreground has fewer cells than that, each of them gets an equal part of the budget, and the points lie on
    a finer grid within the cell.
    """

    roams = True

    def level_logits(self, logits: Tensor, best: Tensor) -> Tensor:
        """Returns logits of which only that of the last level is not very low."""
        return masked(torch.zeros_like(logits), torch.arange(logits.shape[-1]) == logits.shape[-1] - 1)

    def __init__(self, budget: int) -> None:
        super().__init__()
        self.budget = max(budget, 1)  # without glimpses, nobody asks where they lie
        self._given: tuple[Tensor, ...] = ()
        self._plans: tuple[Tensor, Tensor] | None = None

    def forward(
        self,
        states: Float[Tensor, "batch time hidden"],
        candidates: Candidates,
        seen: Coverage,
    ) -> CellDistribution:
        assert seen.step is not None, "a grid goes on from how many glimpses were read"
        plans, points = self._planned(candidates)
        step = seen.step.clamp_max(self.budget - 1)
        rows = torch.arange(len(step), device=step.device)[:, None] // (len(step) // len(plans))
        cell, place = (planned.to(step.device)[rows, step] for planned in (plans, points))
        logits = states.new_full(seen.visited.shape, CLOSED).scatter_(-1, cell[..., None], 0.0)
        return _Planned(logits, candidates.locations, place)

    def _planned(self, candidates: Candidates) -> tuple[Int[Tensor, "case budget"], Float[Tensor, "case budget d"]]:
        """Returns the cells to look at and the places in them; those of the last step, if the images are the same."""
        given = candidates.open.cpu(), candidates.locations.cpu(), candidates.sides[:, -1].cpu()
        if self._plans is None or not all(map(torch.equal, given, self._given)):
            opened, centres, finest = given
            plans = [self.plan(row, candidates.grid.cells) for row in opened]
            points = [_spread(plan, centres, candidates.grid, sides) for plan, sides in zip(plans, finest, strict=True)]
            self._given, self._plans = given, (torch.stack(plans), torch.stack(points))
        return self._plans

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


class _Planned(CellDistribution):
    """A distribution over cells of which one is certain, with the place in it at which to look.

    Args:
        logits: Very low for all cells but one.
        locations: Centres of the cells in [-1, 1].
        place: The places, in [-1, 1].
    """

    def __init__(
        self,
        logits: Float[Tensor, "batch time cell"],
        locations: Float[Tensor, "cell d"],
        place: Float[Tensor, "batch time d"],
    ) -> None:
        super().__init__(logits, locations)
        self.place = place

    def _at(self, cell: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time d"]:
        return self.place


def _spread(
    plan: Int[Tensor, "budget"], centres: Float[Tensor, "cell d"], grid: CellGrid, sides: Float[Tensor, " d"]
) -> Float[Tensor, "budget d"]:
    """Returns where to look: at the centres of cells, or spread over those that a plan has several times in a row.

    Points of one cell lie in the part of it that is inside the image. `sides` are those of a glimpse: an axis along
    which a cell is many glimpses wide has the more points.
    """
    cells, counts = plan.unique_consecutive(return_counts=True)
    if len(cells) == len(plan):
        return centres[plan]
    half, made = torch.tensor(grid.pitch).to(centres), []  # of a cell, in units of [-1, 1]
    for centre, count in zip(centres[cells], counts.tolist(), strict=True):
        low, high = (centre - half).clamp_min(-1), (centre + half).clamp_max(1)
        within = low + _lattice(count, (2 * half / sides).tolist()).to(centre) * (high - low)
        made.append(centre[None] if count == 1 else within)
    return torch.cat(made)


def _lattice(count: int, widths: Sequence[float]) -> Float[Tensor, "count d"]:
    """Returns points of a regular grid in [0, 1]^d, in raster order; `widths` say how long the axes are."""
    parts = [1] * len(widths)
    while math.prod(parts) < count:
        longest = max(range(len(parts)), key=lambda axis: widths[axis] / parts[axis])
        parts[longest] += 1
    axes = torch.meshgrid(*((torch.arange(part) + 0.5) / part for part in parts), indexing="ij")
    points = torch.stack(axes, -1).flatten(0, -2)
    return points[((torch.arange(count) + 0.5) * len(points) / count).floor().long()]
