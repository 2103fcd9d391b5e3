"""Radiographs in PNG, TIFF and JPEG files."""

import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from glimpse.sources.base import ImageReadError, UnsupportedImageError, one_frame
from glimpse.sources.quiet import quiet
from glimpse.sources.radiograph import orientation
from glimpse.sources.radiograph.header import Header, coloured, damaged, palette_window, truncated, unsupported
from glimpse.sources.radiograph.stored import Stored
from glimpse.sources.windows import LinearWindow, Window

SUFFIXES = (".png", ".jpg", ".jpeg")  # of files that are radiographs before they are anything else
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
_UNSTATED_DPI = (0.0, 1.0, 72.0, 96.0)  # what programs write that know nothing of the size of a pixel
_GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I", "F")
_PALETTE = 3  # TIFF's PhotometricInterpretation
_EXPORT = "Save it as a greyscale PNG of 8 or 16 bits."


def magic(path: Path) -> bytes:
    """Returns the first eight bytes of a file."""
    with open(path, "rb") as file:
        return file.read(8)


def describe(path: Path, frame: int | None) -> Header:
    """Reads the header of a picture, not its pixels.

    Raises:
        ImageReadError: the file is truncated or damaged.
        UnsupportedImageError: it is no picture of a known kind, or it holds several pages and none of them is chosen.
    """
    if magic(path)[:4] in TIFF:
        return _describe_tiff(path, frame)
    one_frame(path, 1, frame)
    with _opened(path) as image:
        resolution = image.info.get("dpi") or (0.0, 0.0)
        spacing = _spacing(float(resolution[1]), float(resolution[0]), 25.4)
        header = Header((image.height, image.width), spacing, windows=_window(image.mode in ("I;16", "I", "F")))
        return _turned(header, orientation.of_picture(path, image))


def decode(path: Path, header: Header, frame: int | None) -> np.ndarray:
    """Reads the grey values of a picture, (height, width).

    Raises:
        ImageReadError: the file is truncated or damaged.
        UnsupportedImageError: it is coloured.
    """
    if magic(path)[:4] in TIFF:
        return _decode_tiff(path, header, frame or 0)
    with _opened(path) as image:
        if magic(path) == PNG:
            _refuse_deep_colours(path)
        try:
            return orientation.upright(_grey(path, image), orientation.of_picture(path, image))
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            if isinstance(error, UnsupportedImageError | ImageReadError):
                raise
            raise damaged(path, error) from error


def is_grey(path: Path) -> bool:
    """Tells whether a TIFF is grey, or coloured with equal channels; False where it cannot be read."""
    try:
        with quiet(tifffile.logger()), tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages.first
            if page.photometric in (0, 1) and page.samplesperpixel == 1:
                return True
            if page.photometric not in (2, 3) or page.is_tiled:
                return False
        header = _describe_tiff(path, 0)
        _decode_tiff(path, header, 0)
    except Exception:  # the reader that the suffix calls for says what is wrong
        return False
    return True


# ---------------------------------------------------------------------------------------------- Pillow
@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    head = magic(path)
    kind = PngImageFile if head == PNG else TiffImageFile if head[:4] in TIFF else JpegImageFile
    try:
        image = kind(path)  # as Image.open does, but without its warning of large images
    except (OSError, SyntaxError, ValueError) as error:
        if head.startswith(JPEG):  # so short a beginning is also found in files that are no pictures
            raise unsupported(path, "but not one that can be read", "Copy or export it again.") from error
        raise damaged(path, "its header cannot be read" if os.path.getsize(path) else "it is empty") from error
    with image:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)
        if image.width * image.height > limit:
            rule = f"which is too large ({image.width} x {image.height} pixels, Pillow reads {limit:,})"
            raise unsupported(path, rule, "Save it as an uncompressed TIFF.")
        yield image


def _grey(path: Path, image: Image.Image) -> np.ndarray:
    image.load()
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in _GREY:
        pixels = np.asarray(image)
        return pixels[..., 0] if pixels.ndim == 3 else pixels
    if image.mode not in ("RGB", "RGBA", "P", "RGBX", "YCbCr"):
        raise coloured(path, image.mode)
    return _one_of_three(path, np.asarray(image.convert("RGB")))


def _one_of_three(path: Path, pixels: np.ndarray) -> np.ndarray:
    first = pixels[..., 0]
    if any((first != pixels[..., channel]).any() for channel in (1, 2)):
        raise coloured(path, "its three channels differ")
    return np.ascontiguousarray(first)


def _refuse_deep_colours(path: Path) -> None:
    """Refuses 16-bit colours, which Pillow would silently cut to 8 bits."""
    with open(path, "rb") as file:
        head = file.read(26)
    if len(head) == 26 and head[24] == 16 and head[25] != 0:
        raise unsupported(path, "which has 16 bits in several channels", "Save it as 16-bit greyscale.")


# ---------------------------------------------------------------------------------------------- TIFF
def _describe_tiff(path: Path, frame: int | None) -> Header:
    with _tiff(path) as tiff:
        pages = _pages(tiff)
        page = pages[one_frame(path, len(pages), frame)]
        if page.dtype is None or page.dtype.kind not in "buif" or page.photometric not in (0, 1, 2, _PALETTE, 6):
            raise unsupported(path, "whose pixels are of a kind that no radiograph has", _EXPORT)
        needed = max(a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=False))
        if needed > os.path.getsize(path):
            raise truncated(path, needed, os.path.getsize(path))
        turn, palette = _tiff_orientation(page), _tiff_palette(path, page)
        plain = page.is_memmappable and page.ndim == 2 and turn == orientation.UPRIGHT and palette is None
        dtype = page.dtype.newbyteorder(tiff.byteorder).str
        windows = _window(page.dtype.itemsize > 1 or page.dtype.kind == "f")
        header = Header(
            (page.imagelength, page.imagewidth),
            _tiff_spacing(page),
            windows=windows if palette is None else (palette_window(palette),),
            inverted=int(page.photometric) == 0,
            stored=Stored(page.dataoffsets[0], dtype) if plain else None,
        )
        return _turned(header, turn)


def _decode_tiff(path: Path, header: Header, frame: int) -> np.ndarray:
    with _tiff(path) as tiff:
        page = _pages(tiff)[frame]
        turn, palette = _tiff_orientation(page), _tiff_palette(path, page)
        try:
            pixels = page.asarray(maxworkers=1)
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            with _opened(path) as image:  # which knows more compressions
                image.seek(page.index)
                image.load()
                pixels = np.asarray(image)
    pixels = orientation.upright(pixels, turn)
    if pixels.shape[:2] != header.shape:
        raise unsupported(path, f"whose channels are stored apart (shape {pixels.shape})", _EXPORT)
    if pixels.ndim == 3:
        pixels = _one_of_three(path, pixels) if pixels.shape[2] >= 3 else pixels[..., 0]
    if palette is not None:
        return palette[pixels]
    return pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels


@contextmanager
def _tiff(path: Path) -> Iterator[Any]:
    try:
        with quiet(tifffile.logger()), tifffile.TiffFile(path) as tiff:
            yield tiff
    except (ImageReadError, UnsupportedImageError):
        raise
    except ValueError as error:
        raise error if str(error).startswith(str(path)) else damaged(path, error) from error
    except Exception as error:  # tifffile raises many kinds on damaged files
        raise damaged(path, error) from error


def _pages(tiff: Any) -> list[Any]:
    """Returns the pages of a TIFF but for smaller versions of them."""
    return [page for page in tiff.pages if not page.is_reduced] or [tiff.pages.first]


def _tiff_orientation(page: Any) -> int:
    tag = page.tags.get(orientation.TAG)
    return orientation.UPRIGHT if tag is None else orientation.known(tag.value)


def _tiff_palette(path: Path, page: Any) -> np.ndarray | None:
    """Returns the greys of a palette, uint16 (entry,), or None where the picture has none.

    Raises:
        UnsupportedImageError: the palette has colours.
    """
    if int(page.photometric) != _PALETTE:
        return None
    colours = np.asarray(page.colormap)
    if (colours != colours[0]).any():
        raise coloured(path, "its palette has colours")
    return colours[0]


def _turned(header: Header, turn: int) -> Header:
    """Returns the header of a picture as it is to be seen."""
    if not orientation.lies_down(turn):
        return header
    return replace(header, shape=header.shape[::-1], spacing=header.spacing and header.spacing[::-1])


def _tiff_spacing(page: Any) -> tuple[float, float] | None:
    unit = page.tags.get("ResolutionUnit")
    length = {2: 25.4, 3: 10.0}.get(int(unit.value) if unit else 2)
    values = []
    for name in ("YResolution", "XResolution"):
        tag = page.tags.get(name)
        top, bottom = tag.value if tag else (0, 1)
        values.append(top / bottom if bottom else 0.0)
    return None if length is None else _spacing(values[0], values[1], length)


def _spacing(down: float, across: float, length: float) -> tuple[float, float] | None:
    """Returns millimetres per pixel from pixels per ``length`` millimetres; None where that is only a default."""
    if any(min(abs(value * 25.4 / length - dpi) for dpi in _UNSTATED_DPI) < 0.05 for value in (down, across)):
        return None
    return (length / down, length / across) if min(down, across) > 0 else None


def _window(deep: bool) -> tuple[Window, ...]:
    """8 bits are shown as they are; what is black and white in more of them has to be found out."""
    return () if deep else (LinearWindow(0.0, 255.0),)
