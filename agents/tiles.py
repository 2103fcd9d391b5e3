"""The patches of a full scan: a tiling of the image, of which those with foreground are read."""

import itertools
import math

import numpy as np
from jaxtyping import Float, Int, UInt8

from glimpse.sources import ImageSource
from glimpse.views import Views

LEAST_FOREGROUND = 0.25  # a patch with a smaller share of foreground is not read


def foreground_tiles(views: Views, source: ImageSource, zoom: int = 0) -> Int[np.ndarray, "tile d"]:
    """The patches of a case with foreground in them, as indices into a tiling that begins at the image's corner.

    Tile i of an axis spans level-0 pixels [i e, (i + 1) e), with e the glimpse's extent; the last one may reach over
    the image's edge. There is always at least one.
    """
    extent = views.extent(source, zoom)
    share = views.foreground(source)[0].astype(np.float64)
    for axis, (pixels, side) in enumerate(zip(source.shape, extent, strict=True)):
        weights = _overlap(share.shape[axis], pixels, side)
        share = np.moveaxis(np.tensordot(weights, share, (1, axis)), 0, axis)
    return np.argwhere(share >= min(LEAST_FOREGROUND, share.max()))


def _overlap(cells: int, pixels: int, side: float) -> Float[np.ndarray, "tile cell"]:
    """What share of each tile (its part inside the image) each of `cells` equal parts of an axis covers."""
    starts = side * np.arange(math.ceil(pixels / side - 1e-9))[:, None]
    edges = np.linspace(0, pixels, cells + 1)
    covered = np.clip(np.minimum(starts + side, edges[1:]) - np.maximum(starts, edges[:-1]), 0, None)
    return covered / covered.sum(1, keepdims=True)


def tile_locations(
    views: Views, source: ImageSource, tiles: Int[np.ndarray, "tile d"], zoom: int = 0
) -> Float[np.ndarray, "tile d"]:
    """Centres of tiles as locations in [-1, 1]; beyond it where a tile's centre lies outside the image."""
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
    """The pixels that `views.glimpse` gives at the tiles' centres, by one read of the box around all of them."""
    extent, size = views.extent(source, zoom), views.glimpse_size
    low, high = tiles.min(0), tiles.max(0) + 1
    region = source.read((low + high) / 2 * extent, (high - low) * extent, tuple((high - low) * size))
    split = region.reshape(len(region), *itertools.chain(*zip(high - low, size, strict=True)))
    axes = range(1, split.ndim)
    return split.transpose(*axes[::2], 0, *axes[1::2])[tuple((tiles - low).T)]
