"""Images of `benchmarks.scale`: each file holds a number, and its pixels are drawn from it where they are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glimpse.geometry import Frame
from glimpse.sources import ArraySource, ImageSource
from glimpse.sources.base import file_identity

SIDE = 256


class SeedSource(ImageSource):
    """An image whose pixels follow from the number in its file."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = Path(path), str(path)
        self._array: ArraySource | None = None

    def __reduce__(self) -> Any:
        return SeedSource, (self.path,)

    def _opened(self) -> ArraySource:
        if self._array is None:
            seed = int(self.path.read_text(encoding="ascii"))
            pixels = np.random.default_rng(seed).integers(40 + 100 * (seed % 2), 200, (3, SIDE, SIDE), np.uint8)
            self._array = ArraySource(pixels, name=self.name)
        return self._array

    def close(self) -> None:
        self._array = None

    @property
    def frame(self) -> Frame:
        return Frame((SIDE, SIDE))

    @property
    def channels(self) -> int:
        return 3

    @property
    def background(self) -> np.ndarray:
        return np.zeros(3, np.uint8)

    @property
    def identity(self) -> Any:
        return file_identity(self.path)

    @property
    def lasting_identity(self) -> Any:
        return self.identity

    def read(self, center: Any, extent: Any, size: Sequence[int]) -> np.ndarray:
        return self._opened().read(center, extent, size)
