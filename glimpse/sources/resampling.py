"""Resampling by area in any number of dimensions, without rounding: for values that are windowed afterwards."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

_SMALL = np.float32(1e-6)  # a smaller share of a box is rounding
_MANY = 4  # with more pixels in a box, sums take less time than a product with the weights of all pixels


@runtime_checkable
class Sliced(Protocol):
    """An array, or whatever else has a shape and can be sliced into arrays."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def ndim(self) -> int: ...

    def __getitem__(self, index: tuple[slice, ...], /) -> np.ndarray: ...


@dataclass(frozen=True)
class Cut:
    """Which pixels a read of ``size`` values takes along each axis, and where its first value begins.

    Attributes:
        first: first pixel, per axis; may lie before the image.
        last: one past the last pixel, per axis; may lie behind the image.
        start: of the region, in pixels from ``first``.
        extent: of the region, in pixels.
        size: values of the result.
    """

    first: tuple[int, ...]
    last: tuple[int, ...]
    start: tuple[float, ...]
    extent: tuple[float, ...]
    size: tuple[int, ...]

    @classmethod
    def of(cls, start: Sequence[float], extent: Sequence[float], size: Sequence[int]) -> "Cut":
        """The pixels of a region; where the extent is a whole multiple of the size, it starts at the nearest pixel."""
        factors = [round(width / count) for width, count in zip(extent, size, strict=True)]
        whole = [f >= 1 and abs(f * n - w) < 0.5 for f, n, w in zip(factors, size, extent, strict=True)]
        if all(whole):
            first = tuple(math.floor(value + 0.5) for value in start)
            widths = tuple(float(f * n) for f, n in zip(factors, size, strict=True))
            last = tuple(f + int(w) for f, w in zip(first, widths, strict=True))
            return cls(first, last, (0.0,) * len(first), widths, tuple(size))
        first = tuple(math.floor(value) for value in start)
        last = tuple(max(math.ceil(s + w), f + 1) for s, w, f in zip(start, extent, first, strict=True))
        offset = tuple(s - f for s, f in zip(start, first, strict=True))
        return cls(first, last, offset, tuple(extent), tuple(size))

    @property
    def factors(self) -> tuple[int, ...] | None:
        """Whole pixels per value along each axis; None where boxes have edges inside pixels."""
        if any(self.start) or any(width % count for width, count in zip(self.extent, self.size, strict=True)):
            return None
        return tuple(round(width / count) for width, count in zip(self.extent, self.size, strict=True))

    @property
    def pixels(self) -> int:
        """How many pixels it takes."""
        return math.prod(last - first for first, last in zip(self.first, self.last, strict=True))

    def means(self, image: Sliced) -> tuple[Float[np.ndarray, "*size"], Float[np.ndarray, "*size"]]:
        """Means over the part of each box that lies in an image (*shape), and how large that part is, 0 to 1.

        Values that are not finite are left out of the means; a box that has no other is NaN.
        """
        block: np.ndarray = image[
            tuple(
                slice(min(max(a, 0), n), max(min(b, n), 0))
                for a, b, n in zip(self.first, self.last, image.shape, strict=True)
            )
        ]
        known: np.ndarray = np.isfinite(block) if block.dtype.kind == "f" else np.ones(1, bool)
        if known.all():
            return self._means(block, image.shape)
        there: np.ndarray = np.where(known, block, 0)
        values, cover = self._means(there, image.shape)
        share = self._means(known.astype(np.float64), image.shape)[0]
        return np.where(share > _SMALL, values / np.maximum(share, _SMALL), np.float32(np.nan)), cover

    def _means(self, block: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Returns what `means` does, of what was cut from an image of a shape."""
        cover = np.ones((1,) * block.ndim, np.float32)
        for axis, length in enumerate(shape):
            block, part = self._mean_along(block, axis, length)
            cover = cover * part.reshape(_shape_along(axis, block.ndim))
        return block.astype(np.float32, copy=False), cover

    def _mean_along(self, block: np.ndarray, axis: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Means along one axis of what was cut from an image of a length, and each mean's part inside the image."""
        count, pixels = self.size[axis], self.last[axis] - self.first[axis]
        inside = block.shape[axis] == pixels
        if inside and self.start[axis] == 0 and self.extent[axis] == pixels and pixels % count == 0:
            factor = pixels // count
            if factor > 1:
                parts = block.reshape(*block.shape[:axis], count, factor, *block.shape[axis + 1 :])
                block = parts.mean(axis=axis + 1, dtype=np.float64)
            return block, np.ones(count, np.float32)
        begin = min(max(self.first[axis], 0), length) - self.first[axis]
        edges = self.start[axis] + self.extent[axis] * np.arange(count + 1) / count
        if block.shape[axis] > _MANY * count:
            sums, total = _sums_along(block, axis, np.clip(edges - begin, 0, block.shape[axis]))
            values = sums / np.maximum(total, 1e-12).reshape(_shape_along(axis, block.ndim))
            return values, np.minimum(total * count / self.extent[axis], 1).astype(np.float32)
        there = np.arange(begin, begin + block.shape[axis])
        low, high = np.maximum(edges[:-1, None], there), np.minimum(edges[1:, None], there + 1)
        weights = np.maximum(high - low, 0)
        total = weights.sum(axis=1)
        weights /= np.maximum(total, 1e-12)[:, None]
        values = np.moveaxis(np.tensordot(weights, block.astype(np.float64), axes=(1, axis)), 0, axis)
        return values, np.minimum(total * count / self.extent[axis], 1).astype(np.float32)


def _sums_along(
    block: np.ndarray, axis: int, edges: Float[np.ndarray, " edge"]
) -> tuple[np.ndarray, Float[np.ndarray, " box"]]:
    """Returns the sums of an array over boxes along an axis, and the lengths of the boxes.

    Args:
        block: The array.
        axis: The axis.
        edges: Where boxes begin and end, in pixels from the array's first edge, in ascending order. Of a pixel in which
            an edge lies, the part counts that is inside the box.
    """
    pixels, low, high = block.shape[axis], edges[:-1], edges[1:]
    first, last = np.floor(low).astype(int), np.floor(high).astype(int)  # the pixels in which the edges lie
    parts = (first, np.minimum(high, first + 1) - low), (last, np.where(last > first, high - last, 0.0))
    shape = _shape_along(axis, block.ndim)
    sums = sum(block.take(np.minimum(pixel, pixels - 1), axis) * share.reshape(shape) for pixel, share in parts)
    short = block.dtype.kind in "bu" and block.dtype.itemsize <= 2 and pixels < 1 << 16  # fits without rounding
    for box in np.flatnonzero(last > first + 1).tolist():  # whole pixels between the edges
        whole = block[(*(slice(None),) * axis, slice(first[box] + 1, last[box]))]
        sums[(*(slice(None),) * axis, box)] += whole.sum(axis, np.uint32 if short else np.float64)
    return sums, high - low


def _shape_along(axis: int, ndim: int) -> list[int]:
    """Returns the shape in which values along an axis are multiplied with an array."""
    return [-1 if other == axis else 1 for other in range(ndim)]
