"""Writer of Aperio SVS files: classic TIFF with JPEG tiles, laid out the way OpenSlide's `aperio` reader expects.

An SVS file is a chain of TIFF directories: the tiled full-resolution image, whose description starts with `Aperio` and
holds the magnification and the pixel size, a stripped thumbnail, then the tiled lower levels. Pillow encodes the tiles;
equal tiles (glass, and copies of tissue) are stored once. Levels are cut tile by tile, so they need not be in memory.
"""

import hashlib
import io
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

TILE = 256
"""Side of a tile in pixels."""

_SHORT, _LONG, _ASCII = 3, 4, 2
_JPEG, _YCBCR = 7, 6
_FORMATS = {_SHORT: "H", _LONG: "I"}
_MAX_BYTES = 2**32 - 1

Tag = tuple[int, int, Sequence[int] | bytes]
"""Number, type and values of one entry of a TIFF directory."""


class Level(Protocol):
    """As much of an array (height, width, 3) as the writer needs: an array itself, or what makes tiles when asked.

    Where a region is of one colour, an array that repeats one pixel (`np.broadcast_to`) spares the writer hashing it.
    """

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and 3."""
        ...

    def __getitem__(self, region: tuple[slice, slice], /) -> np.ndarray:
        """Returns some rows and columns; slices may reach beyond the far edges, as those of arrays may."""
        ...


def write_svs(
    path: Path, levels: Sequence[Level], *, mpp: float = 0.5, magnification: int = 20, quality: int = 75
) -> None:
    """Writes a pyramid as an Aperio SVS file.

    Args:
        path: File to write; an existing one is overwritten.
        levels: uint8 (height, width, 3), the full resolution first, each later one smaller: arrays, or any `Level`. The
            last one is also the thumbnail, which is read whole.
        mpp: Size of a full-resolution pixel in micrometres.
        magnification: Power of the objective, Aperio's `AppMag`.
        quality: JPEG quality of the tiles, 1 to 95.

    Raises:
        ValueError: If a level is not a uint8 RGB image.
    """
    for level in levels:
        if level.dtype != np.uint8 or len(level.shape) != 3 or level.shape[2] != 3:
            raise ValueError(f"{path}: expected levels of dtype uint8 and shape (height, width, 3), got "
                             f"{level.dtype} {level.shape}; convert them before writing.")  # fmt: skip
    height, width = levels[0].shape[:2]
    size = f"Aperio Image Library v12.0.15 \r\n{width}x{height} [0,0 {width}x{height}] ({TILE}x{TILE})"
    facts = f"JPEG/RGB Q={quality}|AppMag = {magnification}|MPP = {mpp:g}"
    thumbnail = levels[-1][:, :]
    with open(path, "wb") as file:
        tiff = _Tiff(file)
        tiff.add_tiled(levels[0], f"{size} {facts}", quality)
        tiff.add_stripped(thumbnail, f"{size} -> {thumbnail.shape[1]}x{thumbnail.shape[0]} - |{facts}", quality)
        for level in levels[1:]:
            tiff.add_tiled(level, f"{size} -> {level.shape[1]}x{level.shape[0]} {facts}", quality)


class _Tiff:
    """Appends little-endian directories to a file, each linked from the one before it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._file.write(b"II*\0" + bytes(4))
        self._link = 4  # where the offset of the next directory belongs

    def add_tiled(self, image: Level, description: str, quality: int) -> None:
        """Adds an image in tiles of 256 x 256; equal tiles share their bytes."""
        stored: dict[bytes, tuple[int, int]] = {}  # where the bytes of a tile begin, and how many there are
        offsets, counts = [], []
        for tile in _tiles(image):
            key = _digest(tile)
            if key not in stored:
                stream = _encode(tile, quality)
                stored[key] = self._append(stream), len(stream)
            offset, count = stored[key]
            offsets.append(offset)
            counts.append(count)
        layout: list[Tag] = [
            (322, _SHORT, [TILE]),
            (323, _SHORT, [TILE]),
            (324, _LONG, offsets),
            (325, _LONG, counts),
        ]
        self._add_directory(image, description, layout)

    def add_stripped(self, image: np.ndarray, description: str, quality: int) -> None:
        """Adds a small image as one strip."""
        stream = _encode(image, quality)
        layout: list[Tag] = [
            (273, _LONG, [self._append(stream)]),
            (278, _LONG, [image.shape[0]]),
            (279, _LONG, [len(stream)]),
        ]
        self._add_directory(image, description, layout)

    def _add_directory(self, image: Level, description: str, layout: list[Tag]) -> None:
        tags: list[Tag] = [
            (256, _LONG, [image.shape[1]]),
            (257, _LONG, [image.shape[0]]),
            (258, _SHORT, [8, 8, 8]),
            (259, _SHORT, [_JPEG]),
            (262, _SHORT, [_YCBCR]),
            (270, _ASCII, description.encode("ascii") + b"\0"),
            (277, _SHORT, [3]),
            (284, _SHORT, [1]),
            (530, _SHORT, [2, 2]),
            *layout,
        ]
        entries = [self._entry(*tag) for tag in sorted(tags, key=lambda tag: tag[0])]
        offset = self._append(struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))
        self._file.seek(self._link)
        self._file.write(struct.pack("<I", offset))
        self._link = offset + 2 + 12 * len(entries)

    def _entry(self, number: int, kind: int, values: Sequence[int] | bytes) -> bytes:
        data = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{_FORMATS[kind]}", *values)
        inline = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", self._append(data))
        return struct.pack("<HHI", number, kind, len(values)) + inline

    def _append(self, data: bytes) -> int:
        """Writes at the end of the file, on an even offset as TIFF demands, and returns that offset."""
        offset = self._file.seek(0, io.SEEK_END)
        if offset % 2:
            self._file.write(b"\0")
            offset += 1
        if offset + len(data) > _MAX_BYTES:
            raise ValueError(f"{self._file.name}: a classic TIFF ends at 4 GiB; write a smaller image.")
        self._file.write(data)
        return offset


def _tiles(image: Level) -> Iterator[np.ndarray]:
    """Yields the tiles in C order; those on the far edges are filled up by repeating the last pixels."""
    height, width = image.shape[:2]
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            tile = image[top : top + TILE, left : left + TILE]
            missing = [(0, TILE - tile.shape[0]), (0, TILE - tile.shape[1]), (0, 0)]
            yield np.pad(tile, missing, mode="edge") if tile.shape[:2] != (TILE, TILE) else tile


def _digest(tile: np.ndarray) -> bytes:
    """What tells a tile from others without encoding it."""
    repeats = not any(tile.strides[:2])
    return _flat_digest(tile[0, 0].tobytes()) if repeats else _hashed(tile.tobytes())


@lru_cache(maxsize=16)
def _flat_digest(colour: bytes) -> bytes:
    """The digest of a tile of one colour, such as the glass around the tissue, of which a slide has thousands."""
    return _hashed(colour * TILE**2)


def _hashed(pixels: bytes) -> bytes:
    return hashlib.blake2b(pixels, digest_size=16).digest()


def _encode(image: np.ndarray, quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling=2)
    return stream.getvalue()
