"""Radiographs in PNG, TIFF and JPEG files."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glimpse.sources.base import ImageReadError, UnsupportedImageError, one_frame
from glimpse.sources.pictures import orientation
from glimpse.sources.pictures.errors import damaged, unsupported
from glimpse.sources.pictures.files import (
    PNG,
    TIFF,
    check_size,
    check_whole,
    magic,
    opened,
    orientation_of,
    pages_of,
    pixels_of,
    tiff_file,
)
from glimpse.sources.pictures.stored import Stored
from glimpse.sources.radiograph.header import Header, coloured, palette_window
from glimpse.sources.windows import LinearWindow, Window

_UNSTATED_DPI = (0.0, 1.0, 72.0, 96.0)  # what programs write that know nothing of the size of a pixel
_GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I", "F")
_PALETTE = 3  # TIFF's PhotometricInterpretation
_EXPORT = "Save it as a greyscale PNG of 8 or 16 bits."


def describe(path: Path, frame: int | None) -> Header:
    """Reads the header of a picture, not its pixels.

    Raises:
        ImageReadError: the file is truncated or damaged.
        UnsupportedImageError: it is no picture of a known kind, or it holds several pages and none of them is chosen.
    """
    if magic(path)[:4] in TIFF:
        return _describe_tiff(path, frame)
    one_frame(path, 1, frame)
    with opened(path) as image:
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
    with opened(path) as image:
        if magic(path) == PNG:
            _refuse_deep_colours(path)
        try:
            return orientation.upright(_grey(path, image), orientation.of_picture(path, image))
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            if isinstance(error, UnsupportedImageError | ImageReadError):
                raise
            raise damaged(path, error) from error


def is_grey(path: Path) -> bool:
    """Tells whether a picture is grey, or coloured with equal channels; it is decoded where only its pixels say so.

    What cannot be read counts as grey where its header does not say otherwise; a TIFF counts as coloured.
    """
    tiff = magic(path)[:4] in TIFF
    try:
        return _is_grey_tiff(path) if tiff else _is_grey_picture(path)
    except Exception:  # the reader that the suffix calls for says what is wrong
        return not tiff


def _is_grey_picture(path: Path) -> bool:
    with opened(path) as image:
        if image.mode in _GREY:
            return True
        try:
            image.draft("RGB", (1, 1))  # of a JPEG, every eighth pixel does
            _grey(path, image)
        except Exception:  # coloured, or damaged
            return False
    return True


def _is_grey_tiff(path: Path) -> bool:
    with tiff_file(path) as tiff:
        page: Any = tiff.pages.first
        if page.photometric in (0, 1) and page.samplesperpixel == 1:
            return True
        if page.photometric not in (2, 3) or page.is_tiled:
            return False
    _decode_tiff(path, _describe_tiff(path, 0), 0)
    return True


# ---------------------------------------------------------------------------------------------- Pillow
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
    with tiff_file(path) as tiff:
        pages = pages_of(tiff)
        page = pages[one_frame(path, len(pages), frame)]
        if page.dtype is None or page.dtype.kind not in "buif" or page.photometric not in (0, 1, 2, _PALETTE, 6):
            raise unsupported(path, "whose pixels are of a kind that no radiograph has", _EXPORT)
        check_whole(path, page)
        turn, palette = orientation_of(page), _tiff_palette(path, page)
        plain = page.is_memmappable and page.ndim == 2 and turn == orientation.UPRIGHT and palette is None
        if not plain:
            check_size(path, page.imagelength, page.imagewidth)
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
    with tiff_file(path) as tiff:
        page = pages_of(tiff)[frame]
        palette = _tiff_palette(path, page)
        pixels, _ = pixels_of(path, page)
    if pixels.shape[:2] != header.shape:
        raise unsupported(path, f"whose channels are stored apart (shape {pixels.shape})", _EXPORT)
    if pixels.ndim == 3:
        pixels = _one_of_three(path, pixels) if pixels.shape[2] >= 3 else pixels[..., 0]
    if palette is not None:
        return palette[pixels]
    return pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels


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
