"""How much of what a cell would show has been seen already: overlaps of glimpses, in any number of dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEAR = 2.0
"""What lies within a glimpse that is enlarged so many times, along each axis, is near to it."""


@dataclass
class Coverage:
    """What earlier glimpses have shown, at each step of some episodes.

    Attributes:
        visited: Whether a cell was looked at.
        share: The share of the view at a cell that earlier glimpses have shown: the sum of its overlaps with them, at
            most 1. The view has the extent with which the next glimpse will be read.
        near: The same of glimpses `NEAR` times as large: the share that lies near to what was seen. It is 0 where the
            locator takes no account of it.
        zoom: The index of that extent, where all candidates are of the first.
        absent: Which candidates are not there yet, because the wide glimpse in which they lie has not been read. None
            where all are there.
        step: How many glimpses were read before; None where the locator is not told.
    """

    visited: Bool[Tensor, "batch time cell"]
    share: Float[Tensor, "batch time cell"]
    near: Float[Tensor, "batch time cell"]
    zoom: Int[Tensor, "batch time"]
    absent: Bool[Tensor, "batch time cell"] | None = None
    step: Int[Tensor, "batch time"] | None = None

    def at(self, index: Int[Tensor, "batch some"] | None) -> "Coverage":
        """Returns what was seen of the candidates with these indices; None means all."""
        if index is None:
            return self

        def some(values: Tensor) -> Tensor:
            return values.gather(-1, of_rows(index, len(values))[:, None].expand(-1, values.shape[1], -1))

        absent = None if self.absent is None else some(self.absent)
        return Coverage(some(self.visited), some(self.share), some(self.near), self.zoom, absent, self.step)


def of_rows(of_cases: Tensor, rows: int) -> Tensor:
    """Returns what belongs to each of `rows` rows; those of one case follow each other."""
    return of_cases if len(of_cases) == rows else of_cases.repeat_interleave(rows // len(of_cases), 0)


def overlaps(
    axes: Sequence[Float[Tensor, "_"] | Float[Tensor, "batch 1 _"]],
    sides: Float[Tensor, "batch d"],
    location: Float[Tensor, "batch time d"],
    own: Float[Tensor, "batch time d"],
) -> list[Float[Tensor, "batch time _"]]:
    r"""Returns which share of the view at each cell a glimpse covers, separately along each axis.

    The covered share of a cell's view is the product over all axes. Along an axis, a view of side v at x and a glimpse
    of side g at y overlap by min(v, g, (v + g) / 2 - |x - y|), if that is positive.

    Args:
        axes: The coordinates of the cells along each axis, in [-1, 1], of all rows or of each.
        sides: The sides of the view at a cell, in units of these coordinates.
        location: The centres of glimpses.
        own: The sides of these glimpses.
    """
    shares = []
    for axis, cells in enumerate(axes):
        view, glimpse = sides[:, None, None, axis], own[..., axis, None]
        reach = (view + glimpse) / 2 - (cells - location[..., axis, None]).abs()
        shares.append(torch.minimum(reach.clamp_min(0), torch.minimum(view, glimpse)) / view)
    return shares


def mutual(
    location: Float[Tensor, "batch time d"], sides: Float[Tensor, "batch time d"], enlarged: float = 1.0
) -> Float[Tensor, "batch time time"]:
    """Returns which share of glimpse j each glimpse i covers once it is enlarged, at index (i, j)."""
    return covered_shares(location, sides, location, enlarged * sides)


def covered_shares(
    location: Float[Tensor, "batch view d"],
    sides: Float[Tensor, "batch view d"],
    place: Float[Tensor, "batch time d"],
    own: Float[Tensor, "batch time d"],
) -> Float[Tensor, "batch time view"]:
    """Returns which share of each view at `location` a glimpse at `place` covers, with the sides of both."""
    reach = (own[:, :, None] + sides[:, None]) / 2 - (place[:, :, None] - location[:, None]).abs()
    covered = torch.minimum(reach.clamp_min(0), torch.minimum(own[:, :, None], sides[:, None]))
    return (covered / sides[:, None]).prod(-1)


def product(shares: Sequence[Float[Tensor, "batch time _"]]) -> Float[Tensor, "batch time cell"]:
    """Multiplies the shares along the axes; cells are in C order."""
    whole = shares[0]
    for share in shares[1:]:
        whole = (whole[..., None] * share[..., None, :]).flatten(2)
    return whole


def summed(shares: Sequence[Float[Tensor, "batch time _"]]) -> Float[Tensor, "batch cell"]:
    """Returns `product(shares).sum(1)`, without the memory for every step."""
    return torch.einsum("bti,btj->bij", shares[0], product(shares[1:])).flatten(1) if shares[1:] else shares[0].sum(1)
