"""Small images made of pieces of shared patterns, painted where they are read."""

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int, UInt8

from glimpse.geometry import Frame, Numbers
from glimpse.sources.array import _area_resample, _reduce
from glimpse.sources.base import ImageSource, never_empty, region


class CollageSource(ImageSource):
    """A black canvas of one channel with square pieces of patterns; where they meet, the brighter one shows.

    Only the pieces' numbers and places are kept; the patterns are shared by all images of a cohort. A read paints what
    it shows at full resolution, so it is for images of some hundred pixels a side; see `SpriteSource` for larger ones.

    Args:
        shape: pixels of the image, (height, width).
        patterns: uint8 (pattern, height, width), shared.
        pieces: of each piece the pattern, the upper left corner (y, x) in the pattern, the side, and the upper left
            corner (y, x) on the canvas, int (piece, 6); all of them lie inside pattern and canvas.
        identity: equal for two images exactly when they show the same.
        name: what messages call it.
    """

    path = None

    def __init__(
        self,
        shape: Sequence[int],
        patterns: UInt8[np.ndarray, "pattern height width"],
        pieces: Int[np.ndarray, "piece 6"],
        identity: Hashable,
        name: str = "collage",
    ) -> None:
        self._frame, self._patterns, self._pieces = _frame(tuple(shape)), patterns, pieces
        self._identity, self.name = identity, name

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
            return _reduce(self._painted(first, [f * n for f, n in zip(factors, size, strict=True)]), factors)
        first = [math.floor(value) for value in start]
        sides = [math.ceil(value + w) - f for value, w, f in zip(start, width, first, strict=True)]
        return _area_resample(
            self._painted(first, sides), [s - f for s, f in zip(start, first, strict=True)], width, size
        )

    def foreground(self, overview: UInt8[np.ndarray, "channel *size"]) -> Bool[np.ndarray, "*size"]:
        """Wherever the overview is not black; never empty."""
        return never_empty(overview[0] > 0)

    def _painted(self, first: Sequence[int], sides: Sequence[int]) -> UInt8[np.ndarray, "1 height width"]:
        """A region at full resolution."""
        block = np.zeros((1, *sides), np.uint8)
        for pattern, top, left, side, y, x in self._pieces.tolist():
            low = max(y, first[0]), max(x, first[1])
            high = min(y + side, first[0] + sides[0]), min(x + side, first[1] + sides[1])
            if low[0] < high[0] and low[1] < high[1]:
                there = block[0, low[0] - first[0] : high[0] - first[0], low[1] - first[1] : high[1] - first[1]]
                rows = slice(low[0] - y + top, high[0] - y + top)
                columns = slice(low[1] - x + left, high[1] - x + left)
                np.maximum(there, self._patterns[pattern, rows, columns], out=there)
        return block


@lru_cache(maxsize=16)
def _frame(shape: tuple[int, ...]) -> Frame:
    return Frame(shape)  # shared: there may be 100,000 images of one shape
