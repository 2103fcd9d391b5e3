"""Photographs in DICOM files: red, green and blue, luminance and chrominance, or a palette (PS3.3, C.7.6.3.1.2)."""

from pathlib import Path
from typing import Any

import numpy as np

from glimpse.sources.base import one_frame
from glimpse.sources.photo.header import Header, eight_bits
from glimpse.sources.pictures.dicom_pixels import (
    PALETTE,
    Element,
    check_whole,
    damage_named,
    decoded,
    looked_up,
    palette_of,
    read_header,
    refuse_no_image,
    spacing_of,
)
from glimpse.sources.pictures.errors import damaged, unsupported
from glimpse.sources.pictures.files import check_size
from glimpse.sources.pictures.stored import Stored

_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "YBR_PARTIAL_420")
_HALVED = "YBR_FULL_422"  # two samples per pixel, since neighbours share their chrominance
_CENTIMETRES = 3  # of PhysicalUnitsXDirection (C.8.5.5.1.1)
_EXPORT = "Export it again as an image of 8 or 16 bits in RGB, or leave the case out."


def is_grey(path: Path) -> bool:
    """Tells whether a file holds greys, which have windows.

    Raises:
        ImageReadError: the file is truncated or damaged.
        MissingExtraError: pydicom is not installed.
    """
    with damage_named(path):
        data, _ = read_header(path)
        return str(data.get("PhotometricInterpretation")).startswith("MONOCHROME")


def describe(path: Path, frame: int | None) -> Header:
    """Reads the header of a DICOM file, not its pixels.

    Raises:
        ImageReadError: the file is truncated or damaged.
        UnsupportedImageError: it holds no coloured image, it is too large to be decoded, or it holds several frames and
            none of them is chosen.
        MissingExtraError: pydicom is not installed.
    """
    with damage_named(path):
        data, element = read_header(path)
        _refuse_other_kinds(path, data)
        if element is None:
            raise damaged(path, "it ends before its pixels")
        shape = (int(data.Rows), int(data.Columns))
        index = one_frame(path, int(data.get("NumberOfFrames") or 1), frame)
        size = _bytes(data)
        check_whole(path, element, element.offset + (index + 1) * size)
        palette_of(path, data)
        plain = _is_plain(data, element)
        if not plain:
            check_size(path, *shape)
        stored = Stored(element.offset + index * size, "u1") if plain else None
        return Header(shape, spacing_of(data) or _of_ultrasound(data), stored)


def decode(path: Path, frame: int) -> np.ndarray:
    """Reads the colours of a frame, uint8 (height, width, 3); palettes are applied, and chrominance is undone.

    Raises:
        ImageReadError: the file is truncated or damaged.
        UnsupportedImageError: nobody knows its compression.
        MissingExtraError: the decoder of its compression is not installed.
    """
    with damage_named(path):
        data, element = read_header(path)
        assert element is not None, "described before"
        pixels = decoded(path, element.syntax, frame)
        palette = palette_of(path, data)
        if palette is not None:
            first, colours = palette
            return looked_up(pixels, (first, eight_bits(colours, 8 if colours.max() <= 255 else 16)))
        return eight_bits(pixels, int(data.get("BitsStored") or data.BitsAllocated))


def _refuse_other_kinds(path: Path, data: Any) -> None:
    name = refuse_no_image(path, data)
    photometric = str(data.get("PhotometricInterpretation", "none stated"))
    if photometric not in (*_COLOURS, PALETTE):
        raise unsupported(path, f"whose colours are stored as {photometric} (SOP class: {name})", _EXPORT)
    if photometric in _COLOURS and int(data.get("SamplesPerPixel") or 1) != 3:
        raise damaged(path, f"its colours are stored as {photometric}, but in {data.get('SamplesPerPixel')} samples")
    if int(data.get("BitsAllocated", 8)) not in (8, 16, 32) or data.get("PixelRepresentation", 0):
        raise unsupported(path, f"which has {data.BitsAllocated} bits per sample (SOP class: {name})", _EXPORT)


def _bytes(data: Any) -> int:
    """Returns how many bytes a frame takes that is not compressed."""
    samples = 2 if data.get("PhotometricInterpretation") == _HALVED else int(data.get("SamplesPerPixel") or 1)
    return int(data.Rows) * int(data.Columns) * samples * int(data.get("BitsAllocated", 8)) // 8


def _is_plain(data: Any, element: Element) -> bool:
    """Tells whether red, green and blue lie side by side in the file, 8 bits each."""
    syntax = element.syntax
    native = not (syntax.is_encapsulated or syntax.is_deflated) and syntax.is_little_endian
    plain = data.get("PhotometricInterpretation") == "RGB" and int(data.get("PlanarConfiguration") or 0) == 0
    return native and plain and int(data.BitsAllocated) == 8 and int(data.get("BitsStored") or 8) == 8


def _of_ultrasound(data: Any) -> tuple[float, float] | None:
    """Returns millimetres per pixel (y, x) as the regions of an ultrasound image state them, if they all agree."""
    found = set()
    for region in data.get("SequenceOfUltrasoundRegions") or ():
        units = region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")
        if units == (_CENTIMETRES, _CENTIMETRES):
            found.add((abs(float(region.PhysicalDeltaY)) * 10, abs(float(region.PhysicalDeltaX)) * 10))
    return found.pop() if len(found) == 1 and min(next(iter(found))) > 0 else None
