"""Pixels of a slide, read and composited on white without the copies that a picture of Pillow costs.

`openslide.OpenSlide.read_region` turns what OpenSlide writes, (blue, green, red, alpha) with colours multiplied by
alpha, into a picture, and an array is a copy of that picture. Where every pixel is opaque, and that is nearly always
so, nothing of this is needed: this module has OpenSlide write into an array, and looks at alpha and the order of the
colours when fewer pixels are in hand. The functions of openslide-python that it calls for this are not public; where a
version lacks them, it goes the public way.
"""

import ctypes
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import openslide
from jaxtyping import UInt8
from numpy.typing import DTypeLike
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

Written = UInt8[np.ndarray, "height width 4"]
"""Pixels as OpenSlide writes them: blue, green, red and alpha, with colours multiplied by alpha."""

_OPAQUE, _OPAQUE_PIXEL = 0xFF000000, np.array([0, 0, 0, 255], np.uint8)
_HELD = 1 << 20  # bytes that each thread keeps of each kind of memory
_PIXEL = ctypes.POINTER(ctypes.c_uint32)
_own = threading.local()
_TURNED = [2, 1, 0, 3]  # red and blue change places


def read_pixels(
    slide: openslide.OpenSlide, corner: tuple[int, int], level: int, size: tuple[int, int], kept: Kept | None = None
) -> Written:
    """Reads a region as OpenSlide writes it, for `planes` or `on_white`.

    Args:
        slide: the slide.
        corner: level-0 pixels (x, y).
        level: which level to read.
        size: pixels of the level (width, height), at least 1.
        kept: what lies outside becomes transparent; None where all is shown.

    Returns:
        The region; the next read of this thread may write over it.

    Raises:
        openslide.OpenSlideError: the region is damaged.
    """
    handle = getattr(slide, "_osr", None)
    if _read is None or _to_rgba is None or handle is None:
        pixels = _shown(np.asarray(slide.read_region(corner, level, size)), kept)
        return _on_white(pixels).take(_TURNED, axis=-1)
    pixels, pointer = _room_to_read(size[1], size[0])
    _read(handle, pointer, *corner, level, *size)
    return _shown(pixels, kept)


def on_white(pixels: Written) -> Written:
    """Composites pixels on white, perhaps in their own memory; where all are opaque they are returned as they are."""
    if pixels.view("<u4").min() >= _OPAQUE:
        return pixels
    if _to_rgba is None:
        return np.minimum(pixels.astype(np.uint16) + (255 - pixels[..., 3:]), 255).astype(np.uint8) | _OPAQUE_PIXEL
    _to_rgba(pixels.view(np.uint32))  # in place
    return _on_white(pixels).take(_TURNED, axis=-1)


def planes(pixels: Written, down: int = 1, across: int = 1) -> UInt8[np.ndarray, "3 rows columns"]:
    """Returns red, green and blue on white, each of them the mean of down x across pixels.

    It rounds as `PIL.Image.Image.reduce` does, and takes half its time where down x across is a power of two up to 256,
    as between most levels: rows are added as 16 bits per colour, and columns as whole pixels of 64 bits. The sums of
    alpha, which are the highest bits, tell whether all pixels are opaque.

    Args:
        pixels: what `read_pixels` has returned.
        down: how many rows become one; a divisor of the height.
        across: how many columns become one; a divisor of the width.
    """
    height, width = pixels.shape[:2]
    count = down * across
    if count == 1:
        return _split(on_white(pixels).reshape(height, -1).view("<u4"), 8, 0)
    if count > 256 or count & (count - 1):
        opaque = np.ascontiguousarray(on_white(pixels))
        picture = Image.frombuffer("RGBX", (width, height), opaque, "raw", "RGBX", 0, 1)
        return planes_of(picture.reduce((across, down)))
    flat = pixels.reshape(height, -1)
    rows = _summed("rows", [flat[row::down] for row in range(down)], np.dtype("<u2"))
    whole = rows.view("<u8")
    summed = _summed("whole", [whole[:, column::across] for column in range(across)], whole.dtype)
    if summed.min() < count * 255 << 48:
        return planes(on_white(pixels), down, across)
    summed += np.uint64(0x0000000100010001 * (count // 2))
    return _split(summed, 16, count.bit_length() - 1)


def planes_of(picture: Image.Image) -> UInt8[np.ndarray, "3 rows columns"]:
    """Returns red, green and blue of a picture that was made of opaque pixels, which are blue, green, red and alpha."""
    return _split(np.asarray(picture).reshape(picture.height, -1).view("<u4"), 8, 0)


def _summed(name: str, parts: list[np.ndarray], dtype: np.dtype[Any]) -> np.ndarray:
    """Returns the sum of arrays, in memory that the next sum of the same name in this thread writes over."""
    made = _room(name, parts[0].shape, dtype)
    if len(parts) == 1:
        made[...] = parts[0]
    else:
        np.add(parts[0], parts[1], out=made, dtype=dtype)
    for part in parts[2:]:
        made += part
    return made


def _split(pixels: np.ndarray, bits: int, rounded: int) -> UInt8[np.ndarray, "3 height width"]:
    """Returns red, green and blue of pixels that are one number each: `bits` per colour, without the lowest ones."""
    made = np.empty((3, *pixels.shape), np.uint8)
    for plane, band in zip(made, (2, 1, 0), strict=True):
        np.right_shift(pixels, pixels.dtype.type(band * bits + rounded), out=plane, casting="unsafe")
    return made


def _room_to_read(height: int, width: int) -> tuple[Written, Any]:
    """Returns memory to read into, and a pointer to it, which is made once for each thread's own."""
    pixels = _room("read", (height, width, 4), np.uint8)
    if pixels.nbytes > _HELD:
        return pixels, pixels.ctypes.data_as(_PIXEL)
    pointer = getattr(_own, "pointer", None)
    if pointer is None:
        pointer = _own.pointer = pixels.ctypes.data_as(_PIXEL)
    return pixels, pointer


def _room(name: str, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Returns memory to write into; for glimpses it is the thread's own, since fresh memory costs time at each page."""
    dtype = np.dtype(dtype)
    count = math.prod(shape) * dtype.itemsize
    if count > _HELD:
        return np.empty(shape, dtype)
    held = getattr(_own, name, None)
    if held is None:
        held = np.empty(_HELD, np.uint8)
        setattr(_own, name, held)
    return held[:count].view(dtype).reshape(shape)


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
