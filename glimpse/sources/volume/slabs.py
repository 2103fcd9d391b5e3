"""Means over wide regions, slab by slab, so that memory does not grow with what is read."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float

from glimpse.sources.resampling import Cut

Number = TypeVar("Number")
Means: TypeAlias = tuple[Float[np.ndarray, "*size"], Float[np.ndarray, "*size"]]
"""What `Cut.means` returns: means over the part of each box inside the image, and how large that part is."""


def pixels_inside(cut: Cut, shape: Sequence[int]) -> int:
    """How many pixels of an image of a shape a cut takes."""
    sides = zip(cut.first, cut.last, shape, strict=True)
    return math.prod(max(min(last, n) - max(first, 0), 0) for first, last, n in sides)


def means_in_slabs(
    cut: Cut, shape: Sequence[int], means: Callable[[Cut], Means], limit: int, order: Sequence[int]
) -> Means:
    """The means of a cut, of at most so many pixels at once.

    Args:
        cut: what to read.
        shape: of the image.
        means: reads a cut of few pixels.
        limit: pixels that are few enough.
        order: the axes, the one along which memory is slowest first; slabs lie across it.
    """
    if pixels_inside(cut, shape) <= limit:
        return means(cut)
    axis = next((axis for axis in order if cut.size[axis] > 1), None)
    if axis is not None:
        middle = cut.size[axis] // 2
        halves = [_outputs(cut, axis, 0, middle), _outputs(cut, axis, middle, cut.size[axis])]
        (a, inside_a), (b, inside_b) = (means_in_slabs(half, shape, means, limit, order) for half in halves)
        return np.concatenate([a, b], axis), np.concatenate([inside_a, inside_b], axis)
    axis = next((axis for axis in order if cut.last[axis] - cut.first[axis] > 1), None)
    if axis is None:
        return means(cut)
    first, second = _pixels(cut, axis)
    a, inside_a = means_in_slabs(first, shape, means, limit, order)
    b, inside_b = means_in_slabs(second, shape, means, limit, order)
    part_a, part_b = inside_a * first.extent[axis], inside_b * second.extent[axis]
    inside = part_a + part_b
    mixed = (a * part_a + b * part_b) / np.maximum(inside, 1e-12)
    return mixed.astype(np.float32), (inside / cut.extent[axis]).astype(np.float32)


def _outputs(cut: Cut, axis: int, begin: int, end: int) -> Cut:
    """The part of a cut that makes its values [begin, end) along an axis."""
    step = cut.extent[axis] / cut.size[axis]
    low, high = (cut.start[axis] + cut.extent[axis] * place / cut.size[axis] for place in (begin, end))
    floor = math.floor(low + 1e-9)  # an edge that lies on a pixel's must not take in the pixel before it
    ceil = max(math.ceil(high - 1e-9), floor + 1)
    return _replaced(cut, axis, (floor, ceil), max(low - floor, 0.0), step * (end - begin), end - begin)


def _pixels(cut: Cut, axis: int) -> tuple[Cut, Cut]:
    """A cut of one value, parted between two pixels of an axis."""
    length = cut.last[axis] - cut.first[axis]
    middle = length // 2
    start, end = cut.start[axis], cut.start[axis] + cut.extent[axis]
    return (
        _replaced(cut, axis, (0, middle), start, middle - start, 1),
        _replaced(cut, axis, (middle, length), 0.0, end - middle, 1),
    )


def _replaced(cut: Cut, axis: int, pixels: tuple[int, int], start: float, extent: float, size: int) -> Cut:
    """A cut with another part along one axis; ``pixels`` count from its first."""
    first, last = (cut.first[axis] + pixel for pixel in pixels)
    return Cut(
        _with(cut.first, axis, first),
        _with(cut.last, axis, last),
        _with(cut.start, axis, start),
        _with(cut.extent, axis, extent),
        _with(cut.size, axis, size),
    )


def _with(values: tuple[Number, ...], axis: int, value: Number) -> tuple[Number, ...]:
    changed = list(values)
    changed[axis] = value
    return tuple(changed)
