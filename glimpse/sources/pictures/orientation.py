"""Pictures that are stored lying down or mirrored: the EXIF and TIFF tag `Orientation`, undone."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TAG = 0x0112
UPRIGHT = 1
_PNG_SIGNATURE = 8  # bytes


def known(value: Any) -> int:
    """Returns the orientation that a tag states, 1 to 8; `UPRIGHT` where it states none that exists."""
    try:
        return int(value) if 1 <= int(value) <= 8 else UPRIGHT
    except (TypeError, ValueError):
        return UPRIGHT


def of_picture(path: Path, image: Image.Image) -> int:
    """Returns the orientation of a PNG or JPEG file; damaged EXIF data are ignored.

    Args:
        path: the file.
        image: the same file, opened.
    """
    try:
        exif = _png_exif(path) if image.format == "PNG" else image.getexif()
        return known(exif.get(TAG))
    except Exception:  # Pillow raises many kinds on damaged EXIF data
        return UPRIGHT


def lies_down(orientation: int) -> bool:
    """Tells whether height and width are exchanged."""
    return orientation >= 5


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns a view of pixels (height, width, ...) as they are to be seen (Exif 2.32, 4.6.5, Orientation)."""
    if lies_down(orientation):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _png_exif(path: Path) -> Image.Exif:
    """Reads the EXIF data of a PNG chunk by chunk, because Pillow would decode the whole image to look behind it."""
    exif = Image.Exif()
    with open(path, "rb") as file:
        file.seek(_PNG_SIGNATURE)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                exif.load(file.read(length))
                break
            file.seek(length + 4, 1)
    return exif
