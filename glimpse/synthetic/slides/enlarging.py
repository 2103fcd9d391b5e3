"""Bilinear enlargement of coarse maps by a whole factor: the values of Pillow's `resize`, in less than half its time.

Positions within a cell repeat from cell to cell, so that each axis is a stack of small matrix products. Enlarging a
part of a map gives the same values as cutting that part out of the enlarged map.
"""

from functools import cache

import numpy as np

Cells = tuple[slice, slice]


def bordered(coarse: np.ndarray) -> np.ndarray:
    """A map (height, width) with each border cell once more around it, as `enlarged` wants it."""
    return np.pad(coarse, 1, mode="edge")


def enlarged(coarse: np.ndarray, factor: int, cells: Cells | None = None) -> np.ndarray:
    """Enlarges a map, or some cells of it.

    Args:
        coarse: float32 or uint8 (height + 2, width + 2), with the border that `bordered` adds.
        factor: Pixels per cell, a power of two of at most 64, so that no product of a value and a weight is rounded.
        cells: Rows and columns of the map without its border; by default all.

    Returns:
        An array of the same type, (rows * factor, columns * factor). As in Pillow, values are rounded after each axis;
        columns come first.
    """
    if cells is not None:
        rows, columns = cells
        coarse = coarse[rows.start : rows.stop + 2, columns.start : columns.stop + 2]
    exact = np.float32 if coarse.dtype == np.uint8 else np.float64
    wide = _down(coarse.T.astype(exact), factor, coarse.dtype)
    return _down(wide.T.astype(exact), factor, coarse.dtype)


def _down(lines: np.ndarray, factor: int, dtype: np.dtype) -> np.ndarray:
    """Enlarges the first axis; between the middles of two lines their weights are the same for every pair."""
    lines = np.ascontiguousarray(lines)
    step, item = lines.strides
    pairs = np.lib.stride_tricks.as_strided(
        lines, (len(lines) - 1, 2, lines.shape[1]), (step, step, item), writeable=False
    )
    blended = np.matmul(_weights(factor, lines.dtype), pairs).reshape(-1, lines.shape[1])
    blended = blended[factor // 2 : -(factor // 2)]
    if dtype == np.uint8:
        blended += 0.5
    return blended.astype(dtype)


@cache
def _weights(factor: int, dtype: np.dtype) -> np.ndarray:
    """Shares (factor, 2) of two neighbouring cells at the pixels between their middles."""
    later = (np.arange(factor) + 0.5) / factor
    return np.stack([1 - later, later], axis=1).astype(dtype)
