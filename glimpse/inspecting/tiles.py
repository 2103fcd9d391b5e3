"""Looks at how a TIFF and its tiles begin, which is quick and finds what a bad copy has cut off or overwritten."""

import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile

from glimpse.sources.quiet import quiet

_LOOKED_AT = 4096  # so many tiles of each level are looked at
_HEAD = 64  # bytes of each
_DIRECTORIES = 4096  # so many directories are followed; a file may lead in a circle
_UNCOMPRESSED, _JPEG, _DEFLATE, _JPEG_2000 = 1, 7, (8, 32946), (33003, 33004, 33005, 34712)
_CODESTREAM, _BOX = b"\xff\x4f\xff", b"\0\0\0\x0cjP"


def damaged_tiles(path: Path) -> str:
    """Says how many tiles begin as no tile of their compression does; "" if none is found, or the file is no TIFF.

    Tiles of no bytes are background, and those that are not compressed may hold anything.
    """
    try:
        with quiet(tifffile.logger()), tifffile.TiffFile(path) as tiff, open(path, "rb") as file:
            pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
            found = [_of_page(page, level, file) for level, page in enumerate(pages) if page.is_tiled]
    except (OSError, ValueError, struct.error, tifffile.TiffFileError, IndexError, KeyError, AttributeError, TypeError):
        return ""  # a dialect that tifffile does not follow
    return next((text for text in found if text), "")


def cut_short(path: Path) -> str:
    """Says that a TIFF ends before one of its directories does; "" if it does not, or the file is no TIFF."""
    with open(path, "rb") as file:
        head, length = file.read(16), os.path.getsize(path)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 16:
            return ""
        version = struct.unpack_from(f"{order}H", head, 2)[0]
        if version not in (42, 43):
            return ""
        offset, count, entry, start = ("I", "H", 12, 4) if version == 42 else ("Q", "Q", 20, 8)
        place = struct.unpack_from(order + offset, head, start)[0]
        for _ in range(_DIRECTORIES):
            if not place:
                return ""
            file.seek(min(place, length))
            found = file.read(struct.calcsize(count))
            number = struct.unpack(order + count, found)[0] if len(found) == struct.calcsize(count) else 0
            end = place + len(found) + number * entry
            if not found or end + struct.calcsize(offset) > length:
                return f"the file is truncated: a directory of it reaches to byte {end:,}, it ends at byte {length:,}"
            file.seek(end)
            place = struct.unpack(order + offset, file.read(struct.calcsize(offset)))[0]
    return ""


def _of_page(page: tifffile.TiffPage, level: int, file: BinaryIO) -> str:
    offsets, counts = page.dataoffsets, page.databytecounts
    wrong, first = 0, 0
    chosen = np.unique(np.linspace(0, len(offsets) - 1, min(len(offsets), _LOOKED_AT)).astype(int)).tolist()
    for index in chosen:
        if not counts[index]:
            continue
        file.seek(offsets[index])
        head = file.read(min(counts[index], _HEAD))
        if not _begins_well(head, int(page.compression)):
            first = first if wrong else index
            wrong += 1
    if not wrong:
        return ""
    across = -(-page.imagewidth // page.tilewidth)
    left, top = first % across * page.tilewidth, first // across % -(-page.imagelength // page.tilelength)
    return (
        f"{wrong} of {len(chosen)} tiles that were looked at are overwritten, the first at x {left}, "
        f"y {top * page.tilelength} of page {level} of the file"
    )


def _begins_well(head: bytes, compression: int) -> bool:
    if compression == _UNCOMPRESSED:
        return True
    if compression == _JPEG:
        return head[:2] == b"\xff\xd8"
    if compression in _DEFLATE:
        return len(head) >= 2 and head[0] & 15 == 8 and (head[0] * 256 + head[1]) % 31 == 0
    if compression in _JPEG_2000:
        return head.startswith((_CODESTREAM, _BOX))
    return bool(head.strip(b"\0"))
