"""Opens PNG, JPEG, WebP and TIFF files, with Pillow and tifffile."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from glimpse.sources.base import ImageReadError, UnsupportedImageError, describe_content
from glimpse.sources.pictures import orientation
from glimpse.sources.pictures.errors import damaged, truncated, unsupported
from glimpse.sources.quiet import quiet

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
_RIFF, _WEBP = b"RIFF", b"WEBP"


def magic(path: Path) -> bytes:
    """Returns the first eight bytes of a file."""
    with open(path, "rb") as file:
        return file.read(8)


def is_webp(path: Path) -> bool:
    """Tells whether a file begins as WebP files do."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head[:4] == _RIFF and head[8:] == _WEBP


def check_size(path: Path, height: int, width: int) -> None:
    """Refuses a picture that would not fit into memory when it is decoded, whatever its file weighs.

    Raises:
        UnsupportedImageError: it has more than twice `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    limit = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)
    if width * height > limit:
        rule = f"which is too large ({width} x {height} pixels, at most {limit:,} are decoded)"
        raise unsupported(path, rule, "Save it as an uncompressed TIFF.")


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Opens a picture, and reads no more than its header.

    Raises:
        ImageReadError: the header is damaged.
        UnsupportedImageError: it is of another kind, or too large to be decoded.
    """
    head = magic(path)
    kinds = ((PngImageFile, head == PNG), (TiffImageFile, head[:4] in TIFF), (WebPImageFile, is_webp(path)))
    kind = next((kind for kind, fits in kinds if fits), JpegImageFile)
    try:
        image = kind(path)  # as Image.open does, but without its warning of large images
    except (OSError, SyntaxError, ValueError) as error:
        if head.startswith(JPEG):  # so short a beginning is also found in files that are no pictures
            raise unsupported(path, "but not one that can be read", "Copy or export it again.") from error
        if kind is JpegImageFile and not describe_content(path).startswith(("unknown", "no content")):
            raise unsupported(path, "which is not read", "Export it as PNG or JPEG.") from error
        raise damaged(path, "its header cannot be read" if os.path.getsize(path) else "it is empty") from error
    with image:
        check_size(path, image.height, image.width)
        yield image


# ---------------------------------------------------------------------------------------------- TIFF
@contextmanager
def tiff_file(path: Path) -> Iterator[Any]:
    """Opens a TIFF file; whatever tifffile raises meanwhile becomes an error that names it.

    Raises:
        ImageReadError: it is truncated or damaged.
    """
    try:
        with quiet(tifffile.logger()), tifffile.TiffFile(path) as tiff:
            yield tiff
    except (ImageReadError, UnsupportedImageError):
        raise
    except ValueError as error:
        raise error if str(error).startswith(str(path)) else damaged(path, error) from error
    except Exception as error:  # tifffile raises many kinds on damaged files
        raise damaged(path, error) from error


def pages_of(tiff: Any) -> list[Any]:
    """Returns the pages of a TIFF but for smaller versions of them."""
    return [page for page in tiff.pages if not page.is_reduced] or [tiff.pages.first]


def orientation_of(page: Any) -> int:
    """Returns the orientation that a page states, 1 to 8."""
    tag = page.tags.get(orientation.TAG)
    return orientation.UPRIGHT if tag is None else orientation.known(tag.value)


def check_whole(path: Path, page: Any) -> None:
    """Refuses a page whose pixels reach beyond the end of the file.

    Raises:
        ImageReadError: they do.
    """
    needed = max((a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
    if needed > os.path.getsize(path):
        raise truncated(path, needed, os.path.getsize(path))


def pixels_of(path: Path, page: Any) -> tuple[np.ndarray, bool]:
    """Decodes a page, upright.

    Returns:
        Its pixels, (height, width) or with samples as a third axis, which is the first where channels are stored
        apart; and whether it was Pillow that has decoded them, because tifffile does not know the compression.
    """
    try:
        pixels = page.asarray(maxworkers=1)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        with opened(path) as image:
            image.seek(page.index)
            image.load()  # which turns it upright
            return np.asarray(image), True
    apart = pixels.ndim == 3 and int(page.planarconfig) == 2
    pixels = np.moveaxis(pixels, 0, -1) if apart else pixels
    return orientation.upright(pixels, orientation_of(page)), False
