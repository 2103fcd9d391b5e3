"""The frontier of episodes that zoom: the cells of wide glimpses, each a candidate for the next finer field of view.

Fields of view make levels, from wide to fine. The cells of the overview are candidates for the first level, and the
cells of a glimpse of one level are candidates for the next. So candidates grow with what was read, and not with the
size of the image. A candidate is chosen and kept by its index: first come the cells of the overview, then those of the
first wide glimpse, of the second, and so on.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glimpse.networks.devices import to_device
from glimpse.networks.overlap import NEAR, Coverage, covered_shares
from glimpse.networks.where import Candidates

_SAME = 0.01  # of the side of a view
_PADDED = ("keys", "unary", "open", "location", "level", "covered", "near", "visited")


@dataclass
class Described:
    """The cells of some wide glimpses, as candidates.

    Attributes:
        keys, unary: As of `glimpse.networks.where.Candidates`.
        open: Whether a cell lies inside the image and is not plain.
        location: Centres in [-1, 1]^d of the image.
    """

    keys: Float[Tensor, "view cell embed"]
    unary: Float[Tensor, "view cell"]
    open: Bool[Tensor, "view cell"]
    location: Float[Tensor, "view cell d"]


@dataclass
class Frontier:
    """The candidates in the wide glimpses of some episodes, and the way so far. `n` is padded to the longest row.

    Attributes:
        keys, unary, open, location: As of `Described`.
        level: The index of the field of view with which a candidate would be read.
        covered: The sum of the shares of a candidate's view that glimpses of its own level or finer ones have shown.
        near: The same of enlarged glimpses; zeros where `minds_near` is False.
        visited: Whether it was looked at.
        path: The centres of the glimpses so far.
        zooms: Their fields of view.
        views: How many of them were wide; on the host.
        per_view: How many cells a wide glimpse has.
        minds_near: Whether what is near to what was seen matters.
    """

    keys: Float[Tensor, "batch n embed"]
    unary: Float[Tensor, "batch n"]
    open: Bool[Tensor, "batch n"]
    location: Float[Tensor, "batch n d"]
    level: Int[Tensor, "batch n"]
    covered: Float[Tensor, "batch n"]
    near: Float[Tensor, "batch n"]
    visited: Bool[Tensor, "batch n"]
    path: Float[Tensor, "batch time d"]
    zooms: Int[Tensor, "batch time"]
    views: Int[Tensor, "batch"]
    per_view: int
    minds_near: bool

    @classmethod
    def empty(cls, like: Float[Tensor, "batch embed"], ndim: int, per_view: int, minds_near: bool) -> "Frontier":
        """Returns the frontier of episodes that have begun."""
        batch = len(like)

        def none(*shape: int, dtype: torch.dtype = like.dtype) -> Tensor:
            return torch.zeros(batch, 0, *shape, dtype=dtype, device=like.device)

        return cls(
            keys=none(like.shape[1]),
            unary=none(),
            open=none(dtype=torch.bool),
            location=none(ndim),
            level=none(dtype=torch.long),
            covered=none(),
            near=none(),
            visited=none(dtype=torch.bool),
            path=none(ndim),
            zooms=none(dtype=torch.long),
            views=torch.zeros(batch, dtype=torch.long),
            per_view=per_view,
            minds_near=minds_near,
        )

    def seen(
        self,
        place: Float[Tensor, "batch d"],
        zoom: Int[Tensor, "batch"],
        sides: Float[Tensor, "batch zoom d"],
        index: Int[Tensor, "batch"],
    ) -> "Frontier":
        """Returns the frontier after a glimpse at `place`.

        Args:
            place: The centres of the glimpses.
            zoom: Their fields of view.
            sides: The sides of every field of view, in units of [-1, 1].
            index: Which of these candidates were chosen; below 0 where it was none of them.
        """
        parts: dict[str, Any] = {"covered": self.covered, "near": self.near}
        for name, enlarged in self._enlarged:
            parts[name] = parts[name] + self._shares(place[:, None], zoom[:, None], sides, enlarged)[:, 0]
        visited, at = self.visited, index.clamp_min(0)[:, None]
        if visited.shape[1]:
            visited = visited.scatter(1, at, visited.gather(1, at) | (index >= 0)[:, None])
            visited = visited | same_view(self.location, self.level, place[:, None], zoom[:, None], sides)[:, 0]
        path, zooms = torch.cat([self.path, place[:, None]], 1), torch.cat([self.zooms, zoom[:, None]], 1)
        return replace(self, **parts, visited=visited, path=path, zooms=zooms)

    @property
    def _enlarged(self) -> tuple[tuple[str, float], ...]:
        """By how much glimpses are enlarged for `covered` and, if it matters, for `near`."""
        return (("covered", 1.0), ("near", NEAR)) if self.minds_near else (("covered", 1.0),)

    def _shares(
        self,
        place: Float[Tensor, "batch time d"],
        zoom: Int[Tensor, "batch time"],
        sides: Float[Tensor, "batch zoom d"],
        enlarged: float = 1.0,
    ) -> Float[Tensor, "batch time n"]:
        """Returns which share of each candidate's view the glimpses cover that are not wider than it."""
        return shares_of_candidates(self.location, self.level, place, zoom, sides, enlarged)

    def grown(
        self,
        rows: Int[Tensor, "view"],
        zoom: Int[Tensor, "view"],
        sides: Float[Tensor, "batch zoom d"],
        new: Described,
        on_host: Int[Tensor, "view"] | None = None,
    ) -> "Frontier":
        """Returns the frontier with the cells of wide glimpses, of at most one in each row.

        Args:
            rows: The rows in which a wide glimpse was read.
            zoom: Its field of view.
            sides: As of `seen`.
            new: Its cells.
            on_host: The rows on the host; without them, the device is waited for.
        """
        if not len(rows):
            return self
        on_host = rows.cpu() if on_host is None else on_host
        held, needed = self.keys.shape[1] // self.per_view, max(self.views[on_host].tolist()) + 1
        slots = to_device(self.views[on_host], rows.device)
        made = self if needed <= held else self.padded((needed - held) * self.per_view)
        made = replace(made, keys=made.keys.clone()) if made is self else made  # the largest; padding copies it, too
        parts = {name: getattr(made, name).unflatten(1, (-1, self.per_view)) for name in _PADDED}
        parts |= {name: part.clone() for name, part in parts.items() if name != "keys"}
        for name in ("keys", "unary", "open", "location"):
            parts[name][rows, slots] = getattr(new, name).to(parts[name])
        level = (zoom + 1)[:, None].expand(-1, self.per_view)
        parts["level"][rows, slots] = level
        for name, enlarged in self._enlarged:
            path, zooms = self.path[rows], self.zooms[rows]
            shares = shares_of_candidates(new.location, level, path, zooms, sides[rows], enlarged)
            parts[name][rows, slots] = shares.sum(1)
        parts["visited"][rows, slots] = same_view(
            new.location, level, self.path[rows], self.zooms[rows], sides[rows]
        ).any(1)
        flat: dict[str, Any] = {name: part.flatten(1, 2) for name, part in parts.items()}
        views = self.views.clone()
        views[on_host] += 1
        return replace(made, **flat, views=views)

    def padded(self, count: int) -> "Frontier":
        """Returns the frontier with so many closed candidates more."""
        more: dict[str, Any] = {}
        for name in _PADDED:
            tensor = getattr(self, name)
            more[name] = F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, count))
        return replace(self, **more)

    def coverage(self, of_overview: Coverage) -> Coverage:
        """Returns what was seen of all candidates, of the cells of the overview and of these."""
        visited = torch.cat([of_overview.visited, self.visited[:, None]], -1)
        share, near = (
            torch.cat([before, now.clamp_max(1)[:, None]], -1)
            for before, now in ((of_overview.share, self.covered), (of_overview.near, self.near))
        )
        return Coverage(visited, share, near, of_overview.zoom, step=of_overview.step)

    def merged(self, new: "Frontier", rows: Bool[Tensor, "batch"]) -> "Frontier":
        """Returns this frontier with the rows of another one where `rows` is True."""
        wide = max(one.keys.shape[1] for one in (self, new))
        long = max(one.path.shape[1] for one in (self, new))
        old, new = (one.padded(wide - one.keys.shape[1])._lengthened(long) for one in (self, new))
        parts: dict[str, Any] = {}
        for field in fields(self):
            if field.name not in ("per_view", "minds_near"):
                mine, theirs = getattr(old, field.name), getattr(new, field.name)
                there = rows.to(mine.device).view(-1, *[1] * (mine.ndim - 1))
                parts[field.name] = torch.where(there, theirs, mine)
        return replace(old, **parts)

    def _lengthened(self, time: int) -> "Frontier":
        """Pads the way so far in front with glimpses that have shown nothing: they are of no level."""
        count = time - self.path.shape[1]
        path, zooms = F.pad(self.path, (0, 0, count, 0)), F.pad(self.zooms, (count, 0), value=-1)
        return replace(self, path=path, zooms=zooms)


def shares_of_candidates(
    location: Float[Tensor, "batch n d"],
    level: Int[Tensor, "batch n"],
    place: Float[Tensor, "batch time d"],
    zoom: Int[Tensor, "batch time"],
    sides: Float[Tensor, "batch zoom d"],
    enlarged: float = 1.0,
) -> Float[Tensor, "batch time n"]:
    """Returns which share of each candidate's view the glimpses cover that are not wider than it.

    A wide glimpse shows what lies in it from afar only, so it covers none of the finer views inside it.
    """
    rows = torch.arange(len(sides), device=sides.device)[:, None]
    views, own = sides[rows, level], sides[rows, zoom.clamp_min(0)]
    shares = covered_shares(location.to(sides), views, place.to(sides), enlarged * own)
    return shares * (zoom[:, :, None] >= level[:, None])


def same_view(
    location: Float[Tensor, "batch n d"],
    level: Int[Tensor, "batch n"],
    place: Float[Tensor, "batch time d"],
    zoom: Int[Tensor, "batch time"],
    sides: Float[Tensor, "batch zoom d"],
) -> Bool[Tensor, "batch time n"]:
    """Returns which candidates would show what each glimpse has shown.

    Cells of several wide glimpses may lie at one place; a hundredth of a side makes no difference.
    """
    rows = torch.arange(len(sides), device=sides.device)[:, None]
    far = _SAME * sides[rows, zoom.clamp_min(0)]
    near = (location.to(sides)[:, None] - place.to(sides)[:, :, None]).abs() <= far[:, :, None]
    return near.all(-1) & (level[:, None] == zoom[:, :, None])


def with_frontier(candidates: Candidates, frontier: Frontier) -> Candidates:
    """Returns the open cells of overviews and those on the frontier as the candidates of each row."""
    wide = Described(frontier.keys, frontier.unary, frontier.open, frontier.location)
    return joined(candidates, wide, frontier.level)


def joined(candidates: Candidates, wide: Described, level: Int[Tensor, "batch n"]) -> Candidates:
    """Returns the open cells of overviews and those of wide glimpses, one row for each rollout, as candidates.

    Most of a large image may be background, whose cells would cost as much as others.
    """
    batch = len(wide.open)
    rollouts = batch // len(candidates.open)
    index = candidates.index
    if index is None:  # all cells are there, because all are open in some case
        count = candidates.open.shape[1]
        index = torch.arange(count, device=level.device).expand(len(candidates.open), -1)
    places = candidates.locations if candidates.index is not None else candidates.locations.expand(len(index), -1, -1)

    def both(own: Tensor, of_wide: Tensor) -> Tensor:
        return torch.cat([own.repeat_interleave(rollouts, 0), of_wide.to(own)], 1)

    behind = math.prod(candidates.grid.cells) + torch.arange(level.shape[1], device=level.device).expand(batch, -1)
    return replace(
        candidates,
        keys=both(candidates.keys, wide.keys),
        unary=both(candidates.unary, wide.unary),
        open=both(candidates.open, wide.open),
        sides=candidates.sides.repeat_interleave(rollouts, 0),
        locations=both(places, wide.location),
        level=torch.cat([level.new_zeros(batch, index.shape[1]), level], 1),
        index=torch.cat([index.repeat_interleave(rollouts, 0), behind], 1),
    )
