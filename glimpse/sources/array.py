"""Arrays as sources: in memory, or memory-mapped from a .npy file."""

import itertools
import math
import os
import threading
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from glimpse.geometry import Frame, Numbers
from glimpse.sources.base import (
    ImageReadError,
    ImageSource,
    UnsupportedImageError,
    check_readable,
    file_identity,
    missing_file,
    read_in_parts,
    region,
)
from glimpse.sources.resampling import Cut
from glimpse.sources.stated import checked_mpp

SUFFIXES = (".npy",)
MAX_PIXELS = 1 << 24  # a wider read is made in parts

_serial = itertools.count()


def is_array(path: Path) -> bool:
    """Tells whether a file holds a NumPy array."""
    with open(path, "rb") as file:
        return file.read(6) == b"\x93NUMPY"


class ArraySource(ImageSource):
    """A uint8 array (channel, *shape) in any number of dimensions.

    Args:
        array: the array, or the path of a .npy file, which is memory-mapped.
        spacing: size of a pixel per axis, or one value for all.
        unit: "um" or "mm", needed with ``spacing``.
        background: value outside the image, one or one per channel.
        name: what messages call it; by default the path.
        mpp: micrometres per pixel; the same as ``spacing=mpp, unit="um"``, and counts more than ``spacing``.

    Raises:
        UnsupportedImageError: the array is not uint8 or has fewer than two axes.
    """

    def __init__(
        self,
        array: np.ndarray | str | os.PathLike[str],
        spacing: Sequence[float] | float | int | None = None,
        unit: str | None = None,
        background: int | Sequence[int] = 0,
        name: str | None = None,
        mpp: float | int | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "spacing": spacing, "unit": unit, "background": background, "name": name, "mpp": mpp,
        }  # fmt: skip
        self._spacing, self._unit = (spacing, unit) if mpp is None else (mpp, "um")
        self._lock = threading.Lock()
        self._array: np.ndarray | None = None
        self._frame: Frame | None = None
        self._background = np.atleast_1d(np.asarray(background, np.uint8))
        if isinstance(array, np.ndarray):
            self.path = None
            self.name = name or f"array of shape {array.shape}"
            self._identity: Hashable = ("array", os.getpid(), next(_serial))
            self._array = self._checked(array)
        else:
            self.path = Path(array).absolute()  # whatever the working directory is later
            self.name = name or str(array)
        checked_mpp(self.name, mpp)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._array if self.path is None else self.path, self._options)

    @property
    def frame(self) -> Frame:
        if self._frame is None:
            shape = self._opened().shape[1:]
            spacing = self._spacing
            if spacing is not None:
                spacing = tuple(np.broadcast_to(np.asarray(spacing, np.float64), (len(shape),)).tolist())
            self._frame = Frame(shape, spacing, self._unit, self.name)
        return self._frame

    @property
    def channels(self) -> int:
        return self._opened().shape[0]

    @property
    def background(self) -> UInt8[np.ndarray, " channel"]:
        return np.broadcast_to(self._background, (self.channels,))

    @property
    def identity(self) -> Hashable:
        return self._identity if self.path is None else file_identity(self.path)

    @property
    def files(self) -> Sequence[Path] | None:
        return None if self.path is None else (self.path,)

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        array = self._opened()
        start, width = region(center, extent, size, array.ndim - 1)
        cut = Cut.of(start, width, size)
        if cut.pixels > MAX_PIXELS and max(size) > 1:
            return read_in_parts(self, start, width, size)
        block = self._block(array, cut.first, cut.last)
        if cut.factors is not None:
            return _reduce(block, cut.factors)
        return _area_resample(block, cut.start, cut.extent, size)

    def close(self) -> None:
        if self.path is not None:
            self._array = None

    def _opened(self) -> np.ndarray:
        array = self._array
        if array is None:
            with self._lock:
                array = self._array
                if array is None:
                    array = self._array = self._checked(_open_npy(self.path))
        return array

    def _checked(self, array: np.ndarray) -> np.ndarray:
        if array.dtype != np.uint8 or array.ndim < 2:
            raise UnsupportedImageError(
                f"{self.name}: expected a uint8 array of shape (channel, *shape), got {array.dtype} {array.shape}. "
                "Scale the values to 0..255, convert with .astype(numpy.uint8), and put the channels first."
            )
        if len(self._background) not in (1, array.shape[0]):
            raise ValueError(
                f"{self.name}: background has {len(self._background)} values, the array {array.shape[0]} channels. "
                "Give one value, or one per channel."
            )
        return array

    def _block(self, array: np.ndarray, first: Sequence[int], last: Sequence[int]) -> np.ndarray:
        """Returns pixels [first, last) per axis: a view, or a copy with background where they leave the array."""
        shape = array.shape[1:]
        inside = [(max(a, 0), min(b, n)) for a, b, n in zip(first, last, shape, strict=True)]
        if all(a == x and b == y for (a, b), x, y in zip(inside, first, last, strict=True)):
            return array[(slice(None), *(slice(a, b) for a, b in inside))]
        sides = [b - a for a, b in zip(first, last, strict=True)]
        block = np.empty((array.shape[0], *sides), np.uint8)
        block[:] = self._background.reshape(-1, *[1] * len(shape))
        if all(a < b for a, b in inside):
            target = tuple(slice(a - f, b - f) for (a, b), f in zip(inside, first, strict=True))
            block[(slice(None), *target)] = array[(slice(None), *(slice(a, b) for a, b in inside))]
        return block


def _rebuild(array: np.ndarray | Path, options: dict[str, Any]) -> ArraySource:
    return ArraySource(array, **options)


def _open_npy(path: Path | None) -> np.ndarray:
    assert path is not None, "an array in memory is open from the start"
    if not path.is_file():
        raise missing_file(path)
    check_readable(path)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ImageReadError(
            f"{path}: cannot be read as a NumPy array ({error}). The file is probably truncated: write it again."
        ) from error


def _reduce(block: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Returns rounded means of boxes of ``factors`` pixels."""
    if all(factor == 1 for factor in factors):
        return np.ascontiguousarray(block)
    for axis, factor in enumerate(factors, start=1):
        if factor > 1:
            parts = block.reshape(*block.shape[:axis], -1, factor, *block.shape[axis + 1 :])
            block = parts.sum(axis=axis + 1, dtype=np.uint64 if block.dtype == np.uint64 else np.uint32)
    area = math.prod(factors)
    return ((block + area // 2) // area).astype(np.uint8)


def _area_resample(
    block: np.ndarray, start: Sequence[float], extent: Sequence[float], size: Sequence[int]
) -> np.ndarray:
    """Returns means over boxes with fractional edges; ``start`` and ``extent`` are in pixels of the block."""
    values = block.astype(np.float32)
    for axis, (begin, width, count) in enumerate(zip(start, extent, size, strict=True), start=1):
        edges = begin + width * np.arange(count + 1) / count
        pixels = np.arange(block.shape[axis])
        low = np.maximum(edges[:-1, None], pixels)
        high = np.minimum(edges[1:, None], pixels + 1)
        weights = (np.maximum(high - low, 0) * (count / width)).astype(np.float32)
        values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
