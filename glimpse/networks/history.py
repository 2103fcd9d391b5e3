"""What had been seen at each step of stored episodes, and which places there were."""

import math
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glimpse.networks.frontier import same_view
from glimpse.networks.overlap import NEAR, Coverage, overlaps, product, summed
from glimpse.networks.records import Episodes


@dataclass
class WideCells:
    """The cells of all wide glimpses of stored episodes.

    Attributes:
        location: Their centres in [-1, 1]^d.
        level: The field of view with which a glimpse in a wide one would be read.
        since: From which step on its cells are there.
        grid: How many cells a wide glimpse has along each axis.
    """

    location: Float[Tensor, "batch view cell d"]
    level: Int[Tensor, "batch view"]
    since: Int[Tensor, "batch view"]
    grid: tuple[int, ...]

    def axes(self) -> list[Float[Tensor, "row 1 _"]]:
        """Returns the coordinates of the cells of each wide glimpse, of all rows in turn, along each axis."""
        cells = self.location.flatten(0, 1).unflatten(1, self.grid)
        first = (0,) * len(self.grid)
        return [
            cells[(slice(None), *first[:axis], slice(None), *first[axis + 1 :], axis)][:, None]
            for axis in range(len(self.grid))
        ]


class History:
    """What had been seen at each step; arrays of steps times cells are made when they are asked for.

    Args:
        axes: The coordinates of the cells along each axis.
        episodes: The episodes.
        sides: The sides of glimpses of each extent (batch, zoom, d), in units of these coordinates.
        minds_near: Whether to say what was near to what was seen; if not, nothing was.
        wide: The cells of wide glimpses; None where locators choose among the cells of overviews only.
        index: The indices of the cells of overviews that are asked for (batch, some), in order; None means all.
    """

    def __init__(
        self,
        axes: list[Tensor],
        episodes: Episodes,
        sides: Tensor,
        minds_near: bool,
        wide: WideCells | None = None,
        index: Int[Tensor, "batch some"] | None = None,
    ) -> None:
        self.axes, self.sides, self.read, self.cell = axes, sides, episodes.read, episodes.cell
        self.minds_near, self.wide, self.zoom = minds_near, wide, episodes.zoom
        self.location = episodes.location.to(sides)
        rows = torch.arange(len(sides), device=sides.device)[:, None]
        self.own = sides[rows, episodes.zoom]
        cells = math.prod(map(len, axes))
        count = cells + (0 if wide is None else wide.location[0, :, :, 0].numel())
        first, self.index = self._first_read(count, cells), index
        if index is not None:
            first = torch.cat([first.gather(1, index), first[:, cells:]], 1)
            self.along = torch.unravel_index(index, [len(axis) for axis in axes])
        self.first_read = first if wide is None else self._also_elsewhere(first, wide)

    def _first_read(self, count: int, of_overview: int) -> Int[Tensor, "batch cell"]:
        """Returns the step at which each candidate was first looked at; time + 1 where it never was."""
        batch, time = self.cell.shape
        steps = torch.arange(time, device=self.cell.device).expand(batch, time)
        never = ~self.read if count > of_overview else ~self.read | (self.cell >= of_overview)
        first = torch.full((batch, count), time + 1, device=self.cell.device)
        return first.scatter_reduce_(1, self.cell.clamp_max(count - 1), steps.masked_fill(never, time + 1), "amin")

    def _also_elsewhere(self, first: Int[Tensor, "batch cell"], wide: WideCells) -> Int[Tensor, "batch cell"]:
        """Returns the same steps; a place that several wide glimpses show was looked at in all of them at once."""
        location = wide.location.flatten(1, 2)
        level = wide.level.repeat_interleave(wide.location.shape[2], 1)
        own = first[:, first.shape[1] - level.shape[1] :]
        for step in reversed(range(self.cell.shape[1])):
            at = slice(step, step + 1)
            same = (
                same_view(location, level, self.location[:, at], self.zoom[:, at], self.sides)[:, 0] & self.read[:, at]
            )
            own = torch.where(same, own.clamp_max(step), own)
        return torch.cat([first[:, : first.shape[1] - level.shape[1]], own], 1)

    @torch.no_grad()
    def before(self, steps: range, zoom: Int[Tensor, "batch some"]) -> Coverage:
        """Returns what had been seen before each of some steps, whose glimpses have the extents `zoom`."""
        share = self._shares(steps, 1.0)
        near = self._shares(steps, NEAR) if self.minds_near else share.new_zeros(()).expand_as(share)
        step = torch.arange(steps.start, steps.stop, device=share.device)[:, None]
        visited, before = self.first_read[:, None] < step, step[:, 0].expand(len(share), -1)
        if self.wide is None:
            return Coverage(visited, share, near, zoom, step=before)
        since = self.wide.since.repeat_interleave(self.wide.location.shape[2], 1)
        later = since[:, None] > step
        there = later.new_zeros(*later.shape[:2], share.shape[-1] - later.shape[-1])
        return Coverage(visited, share, near, zoom, torch.cat([there, later], -1), before)

    def _shares(self, steps: range, enlarged: float) -> Float[Tensor, "batch some cell"]:
        """Returns the share of each candidate's view that the enlarged glimpses before each step cover, at most 1."""
        share = self._covered(steps, enlarged).clamp_max(1)
        if self.wide is None:
            return share
        return torch.cat([share, self._of_wide(steps, enlarged).clamp_max(1)], -1)

    def _covered(self, steps: range, enlarged: float) -> Float[Tensor, "batch some cell"]:
        """Returns the sum of the shares of the view at each cell of the overview that enlarged glimpses cover."""
        first, last = steps[0], steps[-1]
        covered = overlaps(self.axes, self.sides[:, 0], self.location[:, :last], enlarged * self.own[:, :last])
        covered[0] = covered[0] * self.read[:, :last, None]  # what was never read has shown nothing
        earlier, since = summed([share[:, :first] for share in covered]), [share[:, first:] for share in covered]
        if self.index is None:
            each = product(since)
        else:
            earlier = earlier.gather(1, self.index)
            first_axis, *others = (
                share.gather(2, at[:, None].expand(-1, share.shape[1], -1))
                for share, at in zip(since, self.along, strict=True)
            )
            each = reduce(torch.mul, others, first_axis)
        return torch.cat([earlier[:, None], earlier[:, None] + each.cumsum(1)], 1)

    def _of_wide(self, steps: range, enlarged: float) -> Float[Tensor, "batch some n"]:
        """Returns the same of the cells of wide glimpses, by glimpses that are not wider than what they would show.

        A wide glimpse shows what lies in it from afar only.
        """
        wide, first, last = self.wide, steps[0], steps[-1]
        assert wide is not None
        batch, views, each = wide.location.shape[:3]
        row = torch.arange(batch, device=wide.location.device).repeat_interleave(views)  # of each wide glimpse
        level = wide.level.flatten()
        covered = overlaps(
            wide.axes(), self.sides[row, level], self.location[row, :last], enlarged * self.own[row, :last]
        )
        counts = self.read[row, :last] & (self.zoom[row, :last] >= level[:, None])
        covered[0] = covered[0] * counts[..., None]
        earlier = summed([share[:, :first] for share in covered])[:, None]
        since = product([share[:, first:] for share in covered]).cumsum(1)
        shown = torch.cat([earlier, earlier + since], 1)
        return shown.unflatten(0, (batch, views)).transpose(1, 2).reshape(batch, len(steps), views * each)
