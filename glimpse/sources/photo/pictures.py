"""Photographs in PNG, JPEG, WebP and TIFF files."""

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glimpse.sources.base import ImageReadError, UnsupportedImageError, one_frame
from glimpse.sources.photo.header import Header, eight_bits, on_black
from glimpse.sources.pictures import orientation
from glimpse.sources.pictures.errors import damaged, unsupported
from glimpse.sources.pictures.files import (
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

_SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_COLOURS = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = 0, 1, 2, 3  # TIFF's PhotometricInterpretation
_BY_PILLOW = (5, 6, 8)  # CMYK, YCbCr, CIELab
_MULTIPLIED, _APART = 1, 2  # TIFF's ExtraSamples: alpha that colours were multiplied with, or were not
_EXPORT = "Save it as a PNG or TIFF of 8 or 16 bits."
_DARK = 8  # what stays below this part of the range is shown nearly black


def describe(path: Path, frame: int | None) -> Header:
    """Reads the header of a picture, not its pixels; resolutions say nothing of what was photographed.

    Raises:
        ImageReadError: the file is truncated or damaged.
        UnsupportedImageError: it is no picture of a known kind, it is too large to be decoded, or it holds several
            pages and none of them is chosen.
    """
    if magic(path)[:4] in TIFF:
        return _describe_tiff(path, frame)
    with opened(path) as image:
        one_frame(path, getattr(image, "n_frames", 1), frame)
        _check_mode(path, image.mode)
        return Header(_turned(image.height, image.width, orientation.of_picture(path, image)))


def decode(path: Path, frame: int) -> np.ndarray:
    """Reads the colours of a picture, upright, uint8 (height, width, 3).

    Raises:
        ImageReadError: the file is truncated or damaged.
    """
    if magic(path)[:4] in TIFF:
        return _decode_tiff(path, frame)
    with opened(path) as image:
        try:
            turn = orientation.of_picture(path, image)
            if frame:
                image.seek(frame)
            return orientation.upright(_rgb(path, image), turn)
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            if isinstance(error, UnsupportedImageError | ImageReadError):
                raise
            raise damaged(path, error) from error


def is_picture(path: Path, tiles: bool = False) -> bool:
    """Tells whether a TIFF is one that this reader knows: of 8 to 16 bits, and not in tiles, as slides are.

    Args:
        path: the file.
        tiles: whether one picture without levels may be in tiles.
    """
    try:
        with tiff_file(path) as tiff:
            page: Any = tiff.pages.first
            _check_page(path, page)
            return not page.is_tiled or (tiles and len(tiff.pages) == 1 and not page.subifds)
    except Exception:  # the reader that is asked for says what is wrong
        return False


def _turned(height: int, width: int, turn: int) -> tuple[int, int]:
    return (width, height) if orientation.lies_down(turn) else (height, width)


# ---------------------------------------------------------------------------------------------- Pillow
def _check_mode(path: Path, mode: str) -> None:
    if mode not in (*_SIXTEEN, *_WITH_ALPHA, *_COLOURS):
        raise unsupported(path, f"whose pixels are of a kind that no photograph has ({mode})", _EXPORT)


def _rgb(path: Path, image: Image.Image) -> np.ndarray:
    tiles: Any = getattr(image, "tile", ())
    deep = any(";16" in str(tile[3]) for tile in tiles)  # colours of 16 bits, of which Pillow keeps the highest 8
    image.load()
    _check_mode(path, image.mode)
    if image.mode in _SIXTEEN:
        values = np.asarray(image)
        _tell_darkness(path, values, 16, 16)
        return _three(eight_bits(values, 16))
    if deep:
        _tell_darkness(path, np.asarray(image.convert("RGB")), 8, 16)
    if image.mode == "RGBa":  # multiplied with alpha already
        return np.asarray(image)[..., :3]
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        pixels = np.asarray(image.convert("RGBA"))
        return on_black(pixels[..., :3], pixels[..., 3])
    return np.asarray(image.convert("RGB"))


def _tell_darkness(path: Path, values: np.ndarray, bits: int, stored: int) -> None:
    """Warns where values of a number of bits, of those that are stored, take the lowest part of their range only."""
    if values.max() < (1 << bits) // _DARK:
        warnings.warn(
            f"{path}: it is shown nearly black, since no value reaches an eighth of what its {stored} bits can hold. "
            "Save it with values over the whole range, if it is not so dark.",
            UserWarning,
            stacklevel=2,
        )


def _three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


# ---------------------------------------------------------------------------------------------- TIFF
def _check_page(path: Path, page: Any) -> None:
    photometrics = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, *_BY_PILLOW)
    deep = page.dtype is None or page.dtype.kind not in "bu" or page.dtype.itemsize > 2
    if deep or page.photometric not in photometrics or page.imagedepth > 1:
        raise unsupported(path, "whose pixels are of a kind that no photograph has", _EXPORT)


def _describe_tiff(path: Path, frame: int | None) -> Header:
    with tiff_file(path) as tiff:
        pages = pages_of(tiff)
        page = pages[one_frame(path, len(pages), frame)]
        _check_page(path, page)
        check_whole(path, page)
        turn = orientation_of(page)
        plain = page.is_memmappable and page.dtype.itemsize == 1 and page.shape[2:] == (3,)
        plain = plain and int(page.photometric) == _RGB and turn == orientation.UPRIGHT
        if not plain:
            check_size(path, page.imagelength, page.imagewidth)
        stored = Stored(page.dataoffsets[0], "u1") if plain else None
        return Header(_turned(page.imagelength, page.imagewidth, turn), stored=stored)


def _decode_tiff(path: Path, frame: int) -> np.ndarray:
    with tiff_file(path) as tiff:
        page = pages_of(tiff)[frame]
        if int(page.photometric) in _BY_PILLOW:
            return _by_pillow(path, page.index)
        pixels, by_pillow = pixels_of(path, page)
        if by_pillow:
            return _by_pillow(path, page.index)
        bits = int(page.bitspersample)
        if int(page.photometric) == _PALETTE:
            indices = pixels if pixels.ndim == 2 else pixels[..., 0]
            return eight_bits(np.asarray(page.colormap), 16).T[indices]
        values = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else eight_bits(pixels, bits)
        values = values[..., None] if values.ndim == 2 else values
        extra = [int(one) for one in page.extrasamples]
        colours = values[..., :3] if int(page.photometric) == _RGB else _three(values[..., 0])
        colours = 255 - colours if int(page.photometric) == _WHITE_IS_ZERO else colours
        if bits > 8:
            _tell_darkness(path, colours, 8, bits)
        return on_black(colours, values[..., -len(extra)]) if extra[:1] == [_APART] else colours


def _by_pillow(path: Path, index: int) -> np.ndarray:
    with opened(path) as image:  # which knows more compressions and colours, and turns them upright
        image.seek(index)
        return _rgb(path, image)
