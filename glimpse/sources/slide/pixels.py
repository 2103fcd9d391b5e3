"""Opaque pixels of a slide, read without the copies that a picture of Pillow costs.

`openslide.OpenSlide.read_region` turns what OpenSlide writes, (blue, green, red, alpha) with colours multiplied by
alpha, into a picture, and an array is a copy of that picture. Where every pixel is opaque, and that is nearly always
so, nothing of this is needed: this module has OpenSlide write into an array, and leaves the order of the colours to
whoever has fewer pixels in hand. The functions of openslide-python that it calls for this are not public; where a
version lacks them, it goes the public way.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import openslide
from jaxtyping import UInt8
from openslide import lowlevel
from PIL import Image

try:
    from openslide import _convert

    _to_rgba: Callable[[Any], None] | None = _convert.argb2rgba
except (ImportError, AttributeError):  # another version of openslide-python
    _to_rgba = None
_read: Callable[..., Any] | None = getattr(lowlevel, "_read_region", None)

Kept = tuple[slice, slice]
"""The rows and columns that are shown."""

_OPAQUE = 0xFF000000
_HELD = 1 << 20  # bytes that each thread keeps to read into
_own = threading.local()
_TURNED = [2, 1, 0, 3]  # red and blue change places


def opaque_pixels(
    slide: openslide.OpenSlide, corner: tuple[int, int], level: int, size: tuple[int, int], kept: Kept | None = None
) -> UInt8[np.ndarray, "height width 4"]:
    """Reads a region, and composites it on white.

    Args:
        slide: the slide.
        corner: level-0 pixels (x, y).
        level: which level to read.
        size: pixels of the level (width, height), at least 1.
        kept: what lies outside becomes white, too; None where all is shown.

    Returns:
        Blue, green, red, and a byte that means nothing; the next read of this thread may write over it.

    Raises:
        openslide.OpenSlideError: the region is damaged.
    """
    handle = getattr(slide, "_osr", None)
    if _read is None or _to_rgba is None or handle is None:
        pixels = _shown(np.asarray(slide.read_region(corner, level, size)), kept)
        opaque = pixels.view("<u4").min() >= _OPAQUE
        return (pixels if opaque else _on_white(pixels)).take(_TURNED, axis=-1)
    pixels = _room(size[1], size[0])
    _read(handle, pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32)), *corner, level, *size)
    pixels = _shown(pixels, kept)
    if pixels.view("<u4").min() >= _OPAQUE:
        return pixels
    _to_rgba(pixels.view(np.uint32))  # in place
    return _on_white(pixels).take(_TURNED, axis=-1)


def planes(
    pixels: UInt8[np.ndarray, "height width 4"], down: int = 1, across: int = 1
) -> UInt8[np.ndarray, "3 rows columns"]:
    """Returns red, green and blue of what `opaque_pixels` has read, each of them the mean of down x across pixels.

    It rounds as `PIL.Image.Image.reduce` does, and takes half its time where down x across is a power of two up to 256,
    as between most levels: rows are added as 16 bits per colour, and columns as whole pixels of 64 bits.

    Args:
        pixels: blue, green, red, and a byte that means nothing.
        down: how many rows become one; a divisor of the height.
        across: how many columns become one; a divisor of the width.
    """
    height, width = pixels.shape[:2]
    count = down * across
    if count == 1:
        return _split(pixels.reshape(height, -1).view("<u4"), 8, 0)
    if count > 256 or count & (count - 1):
        picture = Image.frombuffer("RGBX", (width, height), np.ascontiguousarray(pixels), "raw", "RGBX", 0, 1)
        return planes(np.asarray(picture.reduce((across, down))))
    flat = pixels.reshape(height, -1)
    rows = flat[::down].astype("<u2") if down == 1 else np.add(flat[::down], flat[1::down], dtype="<u2")
    for row in range(2, down):
        rows += flat[row::down]
    whole = rows.view("<u8")
    summed = whole[:, ::across].copy()
    for column in range(1, across):
        summed += whole[:, column::across]
    summed += np.uint64(0x0001000100010001 * (count // 2))
    return _split(summed, 16, count.bit_length() - 1)


def _split(pixels: np.ndarray, bits: int, rounded: int) -> UInt8[np.ndarray, "3 height width"]:
    """Returns red, green and blue of pixels that are one number each: `bits` per colour, without the lowest ones."""
    made = np.empty((3, *pixels.shape), np.uint8)
    for plane, band in zip(made, (2, 1, 0), strict=True):
        np.right_shift(pixels, pixels.dtype.type(band * bits + rounded), out=plane, casting="unsafe")
    return made


def _room(height: int, width: int) -> UInt8[np.ndarray, "height width 4"]:
    """Returns memory to read into; for glimpses it is the thread's own, since fresh memory costs time at each page."""
    count = height * width * 4
    if count > _HELD:
        return np.empty((height, width, 4), np.uint8)
    held = getattr(_own, "held", None)
    if held is None:
        held = _own.held = np.empty(_HELD, np.uint8)
    return held[:count].reshape(height, width, 4)


def _shown(pixels: np.ndarray, kept: Kept | None) -> np.ndarray:
    """Makes transparent what is not kept."""
    if kept is None:
        return pixels
    cleared = np.zeros_like(pixels)
    cleared[kept] = pixels[kept]
    return cleared


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """Composites RGBA (height, width, 4) on white, ``alpha colour + (1 - alpha) 255``, rounded; alpha becomes 255."""
    alpha = pixels[..., 3:].astype(np.uint16)
    mixed = (pixels.astype(np.uint16) * alpha + 255 * (255 - alpha) + 127) // 255
    mixed[..., 3] = 255
    return mixed.astype(np.uint8)
