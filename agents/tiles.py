"""The patches of a full scan: the image is divided into tiles, and those with foreground are read."""

import itertools
import math

import numpy as np
from jaxtyping import Float, Int, UInt8

from glimpse.sources import ImageSource
from glimpse.views import Views

LEAST_FOREGROUND = 0.25  # a patch with a smaller share of foreground is not read


def foreground_tiles(views: Views, source: ImageSource, zoom: int = 0) -> Int[np.ndarray, "tile d"]:
    """Returns the tiles with at least `LEAST_FOREGROUND`, as their indices along each axis; there is at least one.

    Tile i of an axis spans level-0 pixels [i e, (i + 1) e), where e is the extent of a glimpse; the last tile may
    extend beyond the edge of the image.
    """
    extent = views.extent(source, zoom)
    share = views.foreground(source)[0].astype(np.float64)
    for axis, (pixels, side) in enumerate(zip(source.shape, extent, strict=True)):
        weights = _overlap(share.shape[axis], pixels, side)
        share = np.moveaxis(np.tensordot(weights, share, (1, axis)), 0, axis)
    return np.argwhere(share >= min(LEAST_FOREGROUND, share.max()))


def _overlap(cells: int, pixels: int, side: float) -> Float[np.ndarray, "tile cell"]:
    """Returns which share of each tile's part inside the image each of `cells` equal parts of an axis covers."""
    starts = side * np.arange(math.ceil(pixels / side - 1e-9))[:, None]
    edges = np.linspace(0, pixels, cells + 1)
    covered = np.clip(np.minimum(starts + side, edges[1:]) - np.maximum(starts, edges[:-1]), 0, None)
    return covered / covered.sum(1, keepdims=True)


def tile_locations(
    views: Views, source: ImageSource, tiles: Int[np.ndarray, "tile d"], zoom: int = 0
) -> Float[np.ndarray, "tile d"]:
    """Returns the centres of tiles as locations; they are outside [-1, 1] where a centre is outside the image."""
    return source.frame.to_location((tiles + 0.5) * views.extent(source, zoom)).astype(np.float32)


def blocks(tiles: Int[np.ndarray, "tile d"], side: int) -> list[Int[np.ndarray, "some"]]:
    """Groups the indices of tiles by blocks of `side` tiles per axis, blocks and tiles in raster order."""
    block = tiles // side
    order = np.lexsort((*tiles.T[::-1], *block.T[::-1]))
    new = (np.diff(block[order], axis=0) != 0).any(1)
    return np.split(order, np.flatnonzero(new) + 1)


def read_tiles(
    views: Views, source: ImageSource, tiles: Int[np.ndarray, "tile d"], zoom: int = 0
) -> UInt8[np.ndarray, "tile channel *size"]:
    """Returns what `views.glimpse` returns at the tiles' centres, with one read of the box around all tiles."""
    extent, size = views.extent(source, zoom), views.glimpse_size
    low, high = tiles.min(0), tiles.max(0) + 1
    region = source.read((low + high) / 2 * extent, (high - low) * extent, tuple((high - low) * size))
    split = region.reshape(len(region), *itertools.chain(*zip(high - low, size, strict=True)))
    axes = range(1, split.ndim)
    return split.transpose(*axes[::2], 0, *axes[1::2])[tuple((tiles - low).T)]
