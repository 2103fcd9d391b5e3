"""Images made of small sprites on an empty canvas: as large as one likes, rendered where one looks."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from glimpse.geometry import Frame, Numbers
from glimpse.sources.array import _reduce
from glimpse.sources.base import ImageSource, never_empty, region

PAINTED_PIXELS = 1 << 16  # a wider region is not painted; its sprites are resampled one by one
FOREGROUND_LEVEL = 12.0  # mean of 2 x 2 overview pixels from which on there is something to see


class SpriteSource(ImageSource):
    """An empty canvas, black and of one channel, with square sprites that do not overlap.

    Only the sprites' numbers and places are kept; their patterns are shared by all images of a cohort. A read touches
    the sprites in its region only, so its cost does not depend on the size of the image.

    Args:
        shape: pixels of the image, (height, width).
        patterns: uint8 (pattern, side, side), shared.
        index: which pattern each sprite shows, int (sprite,).
        corners: level-0 pixels of each sprite's upper left corner, int (sprite, 2).
        identity: equal for two images exactly when they show the same.
        name: what messages call it.
        foreground_level: mean of 2 x 2 overview pixels above which there is something to see. None: wherever a sprite
            lies, however faint an overview shows it.
    """

    path = None

    def __init__(
        self,
        shape: Sequence[int],
        patterns: UInt8[np.ndarray, "pattern side side"],
        index: Int[np.ndarray, " sprite"],
        corners: Int[np.ndarray, "sprite 2"],
        identity: Hashable,
        name: str = "sprites",
        foreground_level: float | None = FOREGROUND_LEVEL,
    ) -> None:
        self._foreground_level = foreground_level
        order = np.argsort(corners[:, 0], kind="stable")
        self._index, self._corners = np.asarray(index)[order], np.asarray(corners)[order]
        self._rows = np.ascontiguousarray(self._corners[:, 0])
        self._patterns, self._side = patterns, patterns.shape[1]
        self._frame, self._identity, self.name = Frame(tuple(shape), name=name), identity, name

    @property
    def frame(self) -> Frame:
        return self._frame

    @property
    def channels(self) -> int:
        return 1

    @property
    def background(self) -> UInt8[np.ndarray, " channel"]:
        return np.zeros(1, np.uint8)

    @property
    def identity(self) -> Hashable:
        return self._identity

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        start, width = region(center, extent, size, 2)
        factors = [round(w / n) for w, n in zip(width, size, strict=True)]
        if all(f >= 1 and abs(f * n - w) < 0.5 for f, n, w in zip(factors, size, width, strict=True)):
            first = [math.floor(value + 0.5) for value in start]
            sides = [f * n for f, n in zip(factors, size, strict=True)]
            if sides[0] * sides[1] <= PAINTED_PIXELS:
                return _reduce(self._painted(first, sides), factors)
            sums, area = self._resampled(first, factors, size), math.prod(factors)
            return ((sums + area // 2) // area).astype(np.uint8)[None]
        steps = [w / n for w, n in zip(width, size, strict=True)]
        means = self._resampled(start, steps, size) / math.prod(steps)
        return np.clip(np.rint(means), 0, 255).astype(np.uint8)[None]

    def foreground(self, overview: UInt8[np.ndarray, "channel *size"]) -> Bool[np.ndarray, "*size"]:
        """Blocks of 2 x 2 overview pixels with something in them, or the pixels in which sprites lie; never empty."""
        height, width = overview.shape[1:]
        if self._foreground_level is None:
            return self._touched((height, width))
        padded = np.pad(overview[0], ((0, height % 2), (0, width % 2)))
        blocks = padded.reshape((height + 1) // 2, 2, (width + 1) // 2, 2).mean((1, 3)) > self._foreground_level
        return never_empty(blocks.repeat(2, 0).repeat(2, 1)[:height, :width])

    def _touched(self, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
        """The pixels of an overview of some size in which any part of a sprite lies."""
        mask, scale = np.zeros(size, bool), np.divide(size, self._frame.shape)
        first = np.floor(self._corners * scale).astype(int)
        last = np.ceil((self._corners + self._side) * scale).astype(int)
        for (top, left), (bottom, right) in zip(first.tolist(), last.tolist(), strict=True):
            mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
        return never_empty(mask)

    def _within(self, first: Sequence[float], last: Sequence[float]) -> Int[np.ndarray, " some"]:
        """The sprites that reach into a region."""
        low, high = np.searchsorted(self._rows, (first[0] - self._side, last[0]), side="right")
        columns = self._corners[low:high, 1]
        return low + np.flatnonzero((columns > first[1] - self._side) & (columns < last[1]))

    def _painted(self, first: Sequence[int], sides: Sequence[int]) -> UInt8[np.ndarray, "1 height width"]:
        block = np.zeros((1, *sides), np.uint8)
        last = (first[0] + sides[0], first[1] + sides[1])
        for sprite in self._within(first, last).tolist():
            y, x = (int(corner) - f for corner, f in zip(self._corners[sprite], first, strict=True))
            top, left = max(y, 0), max(x, 0)
            bottom, right = min(y + self._side, sides[0]), min(x + self._side, sides[1])
            if bottom > top and right > left:
                pattern = self._patterns[self._index[sprite]]
                block[0, top:bottom, left:right] = pattern[top - y : bottom - y, left - x : right - x]
        return block

    def _resampled(
        self, start: Sequence[float], steps: Sequence[float], size: Sequence[int]
    ) -> Float[np.ndarray, "height width"]:
        """Sums of the image over boxes of `steps` pixels; edges count by the part that lies inside."""
        sprites = self._within(start, [s + step * n for s, step, n in zip(start, steps, size, strict=True)])
        patterns = self._patterns[self._index[sprites]].astype(np.float64)
        weights, cells = [], []
        for axis in range(2):
            cell, weight = self._overlaps(self._corners[sprites, axis] - start[axis], steps[axis])
            weights.append(weight)
            cells.append(cell)
        parts = weights[0] @ patterns @ weights[1].transpose(0, 2, 1)
        margin = [weight.shape[1] for weight in weights]
        canvas = np.zeros([n + 2 * m for n, m in zip(size, margin, strict=True)])
        rows, columns = (
            np.clip(cell + m, 0, n + m)[:, None] + np.arange(m) for cell, m, n in zip(cells, margin, size, strict=True)
        )
        np.add.at(canvas, (rows[:, :, None], columns[:, None, :]), parts)
        return canvas[margin[0] : margin[0] + size[0], margin[1] : margin[1] + size[1]]

    def _overlaps(
        self, corner: Float[np.ndarray, " sprite"], step: float
    ) -> tuple[Int[np.ndarray, " sprite"], Float[np.ndarray, "sprite cell side"]]:
        """The first box that each sprite touches, and how much of each of its pixels lies in it and the next ones."""
        count = math.ceil(self._side / step) + 1
        cell = np.floor(corner / step).astype(np.int64)
        edges = (cell[:, None] + np.arange(count + 1)) * step - corner[:, None]
        pixels = np.arange(self._side)
        low = np.maximum(edges[:, :-1, None], pixels)
        high = np.minimum(edges[:, 1:, None], pixels + 1)
        return cell, np.maximum(high - low, 0.0)
