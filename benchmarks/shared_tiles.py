"""Slides of any size in a few megabytes, for `benchmarks.gigapixel`: pyramidal TIFFs whose tiles share their bytes."""

import io
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

TILE = 256
STEP = 4  # between the sides of two levels, as scanners write them
_SMALLEST = 512  # side of the last level, at most
_PAINTED = 1024  # levels of at most this side have tiles of their own: one shared tile would cover too much of them
_PIXELS_PER_CENTIMETRE = 20_000  # at level 0: 0.5 um per pixel
_GLASS, _STAINED, _RADIUS = 243, (200, 120, 170), 0.3  # colours, and the radius of the tissue as a share of the side
_KINDS = 8  # different tiles of tissue

# Types of TIFF fields: the code, the numbers that a value is made of, and how many of them.
_SHORT, _LONG, _RATIONAL, _LONG8 = (3, "<u2", 1), (4, "<u4", 1), (5, "<u4", 2), (16, "<u8", 1)


def write_slide(path: Path, side: int, seed: int = 0) -> Path:
    """Writes a square slide with a disc of stained tissue on glass, and returns its path.

    Every level has tiles of 256 x 256 pixels, JPEG. On levels wider than 1,024 pixels, all tiles of glass are one and
    the same, and those of tissue are a few; a tile belongs to the tissue if its middle does. What grows with the image
    is only the list of its tiles, 16 bytes for each.

    Args:
        path: where to write it; an unfinished file never lies there.
        side: pixels per side at level 0, a multiple of 256.
        seed: of the texture, and of where the tissue lies.

    Raises:
        ValueError: the side is not a multiple of 256 above 0.
    """
    if side <= 0 or side % TILE:
        raise ValueError(f"side must be a multiple of {TILE} above 0, got {side}.")
    sides = [side]
    while sides[-1] > _SMALLEST:
        sides.append(sides[-1] // STEP)
    rng = np.random.default_rng(seed)
    tissue = _Tissue(rng.uniform(0.4, 0.6, 2))
    unfinished = path.with_suffix(".unfinished")
    with open(unfinished, "wb") as file:
        file.write(b"II" + struct.pack("<HHHQ", 43, 8, 0, 0))
        glass = np.full((TILE, TILE, 3), _GLASS, np.uint8)
        shared = _written(file, [glass, *(_texture(rng, TILE) for _ in range(_KINDS))])
        link = 8  # where the offset of the next directory has to be put
        for level in sides:
            count = -(-level // TILE)
            if level <= _PAINTED:
                tiles = _written(file, _painted(rng, tissue, level))
                which = np.arange(count * count)
            else:
                tiles, middles = shared, (np.arange(count) + 0.5) * TILE / level
                which = (tissue.covers(middles) * rng.integers(1, _KINDS + 1, (count, count))).ravel()
            link = _add_directory(file, link, level, tiles[which], level * _PIXELS_PER_CENTIMETRE // side)
    os.replace(unfinished, path)
    return path


class _Tissue:
    """A disc; lengths are shares of the image's side."""

    def __init__(self, middle: np.ndarray) -> None:
        self._middle = middle

    def covers(self, places: np.ndarray) -> np.ndarray:
        """Whether the points of a square grid lie in it, bool (n, n), from their places (n,) along either axis."""
        return np.hypot(places[:, None] - self._middle[0], places - self._middle[1]) < _RADIUS


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    return np.clip(np.array(_STAINED) + rng.normal(0, 25, (side, side, 1)), 0, 255).astype(np.uint8)


def _painted(rng: np.random.Generator, tissue: _Tissue, side: int) -> list[np.ndarray]:
    """The tiles of a whole level, row by row."""
    covered = tissue.covers((np.arange(side) + 0.5) / side)[..., None]
    count = -(-side // TILE)
    level = np.full((count * TILE, count * TILE, 3), _GLASS, np.uint8)
    level[:side, :side] = np.where(covered, _texture(rng, side), np.uint8(_GLASS))
    return [tile for row in np.split(level, count, 0) for tile in np.split(row, count, 1)]


def _written(file: BinaryIO, tiles: Sequence[np.ndarray]) -> np.ndarray:
    """Appends tiles as JPEGs; returns where each begins and how long it is, int (tile, 2)."""
    places = []
    for tile in tiles:
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(tile)).save(stream, "JPEG", quality=80)
        places.append((file.tell(), len(stream.getvalue())))
        file.write(stream.getvalue())
    return np.array(places, np.int64)


def _add_directory(file: BinaryIO, link: int, side: int, tiles: np.ndarray, resolution: int) -> int:
    """Appends the directory of a level and links to it; returns where the link to the next one belongs.

    Args:
        file: a BigTIFF, open at its end.
        link: where the offset of this directory has to be put.
        side: pixels of the level per side.
        tiles: where each tile begins and how long it is, int (tile, 2), row by row.
        resolution: pixels per centimetre.
    """
    fields = [
        (254, _LONG, [0 if link == 8 else 1]),  # a reduced image or not
        (256, _LONG, [side]),
        (257, _LONG, [side]),
        (258, _SHORT, [8, 8, 8]),
        (259, _SHORT, [7]),  # JPEG
        (262, _SHORT, [6]),  # YCbCr
        (277, _SHORT, [3]),
        (282, _RATIONAL, [resolution, 1]),
        (283, _RATIONAL, [resolution, 1]),
        (296, _SHORT, [3]),  # centimetres
        (322, _LONG, [TILE]),
        (323, _LONG, [TILE]),
        (324, _LONG8, tiles[:, 0]),
        (325, _LONG8, tiles[:, 1]),
        (530, _SHORT, [2, 2]),  # of chroma, as Pillow writes it
    ]
    entries = []
    for tag, (code, kind, each), values in fields:
        data = np.asarray(values, kind).tobytes()
        if len(data) > 8:  # it lies elsewhere
            at = file.tell()
            file.write(data)
            data = struct.pack("<Q", at)
        entries.append(struct.pack("<HHQ", tag, code, len(values) // each) + data.ljust(8, b"\0"))
    directory = file.tell()
    file.write(struct.pack("<Q", len(entries)) + b"".join(entries))
    following = file.tell()
    file.write(struct.pack("<Q", 0))
    file.seek(link)
    file.write(struct.pack("<Q", directory))
    file.seek(0, os.SEEK_END)
    return following
