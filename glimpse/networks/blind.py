"""Locators that do not learn where to look, which others are compared with: at random places, and on a regular grid."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

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
    """

    roams = True

    def level_logits(self, logits: Tensor, best: Tensor) -> Tensor:
        """Returns logits of which only that of the last level is not very low."""
        return masked(torch.zeros_like(logits), torch.arange(logits.shape[-1]) == logits.shape[-1] - 1)

    def __init__(self, budget: int) -> None:
        super().__init__()
        self.budget = budget

    def forward(
        self,
        states: Float[Tensor, "batch time hidden"],
        candidates: Candidates,
        seen: Coverage,
    ) -> CellDistribution:
        plans = torch.stack([self.plan(row, candidates.grid.cells) for row in candidates.open.cpu()]).to(states.device)
        plans = plans.repeat_interleave(seen.visited.shape[0] // len(plans), 0)
        step = seen.visited.sum(-1).clamp_max(self.budget - 1)
        logits = states.new_full(seen.visited.shape, CLOSED)
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
