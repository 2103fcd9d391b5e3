"""Radiographs in DICOM files: what their headers mean (PS3.3, C.7.6.3, C.11) and where their pixels lie."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from glimpse.sources.base import one_frame
from glimpse.sources.dicom import require_pydicom
from glimpse.sources.pictures.dicom_pixels import (
    PALETTE,
    Element,
    check_whole,
    damage_named,
    decoded,
    looked_up,
    number,
    numbers,
    palette_of,
    read_header,
    refuse_no_image,
    spacing_of,
)
from glimpse.sources.pictures.errors import damaged, unsupported
from glimpse.sources.pictures.files import check_size
from glimpse.sources.pictures.stored import Bits, Stored
from glimpse.sources.radiograph.header import Header, coloured, palette_window
from glimpse.sources.windows import LinearWindow, LookupWindow, SigmoidWindow, Window

_EXPORT = "Export it again as a single grey image, or leave the case out."


def describe(path: Path, frame: int | None) -> Header:
    """Reads the header of a DICOM file, not its pixels.

    Raises:
        ImageReadError: the file is truncated or damaged.
        UnsupportedImageError: it holds no grey image, or several frames and none of them is chosen.
        MissingExtraError: pydicom is not installed.
    """
    with damage_named(path):
        data, element = read_header(path)
        _refuse_other_kinds(path, data)
        if element is None:
            raise damaged(path, "it ends before its pixels")
        return _header(path, data, element, one_frame(path, int(data.get("NumberOfFrames") or 1), frame))


def decode(path: Path, header: Header, frame: int | None) -> np.ndarray:
    """Reads the pixels of a file that cannot be mapped, (height, width), and applies its palette or modality LUT.

    Raises:
        ImageReadError: the file is truncated or damaged.
        UnsupportedImageError: nobody knows its compression, or it is coloured.
        MissingExtraError: the decoder of its compression is not installed.
    """
    with damage_named(path):
        data, element = read_header(path)
        assert element is not None, "described before"
        first = _layout(data, element, frame or 0)
        if element.syntax.is_encapsulated or element.syntax.is_deflated:
            pixels = decoded(path, element.syntax, frame or 0)
            byte_coded = element.syntax.is_deflated or element.syntax == require_pydicom().uid.RLELossless
            pixels = first.bits.clean(pixels) if byte_coded and first.bits else pixels
        else:
            pixels = first.open(path, header.shape)[:, :]
        table = _grey_palette(path, data) or _modality_table(data)
        return pixels if table is None else looked_up(pixels, table)


def _grey_palette(path: Path, data: Any) -> tuple[int, np.ndarray] | None:
    """Returns the first input and the greys of a palette, or None where the image has none.

    Raises:
        UnsupportedImageError: the palette has colours.
        ImageReadError: it is damaged.
    """
    palette = palette_of(path, data)
    if palette is None:
        return None
    first, colours = palette
    if (colours != colours[:, :1]).any():
        raise coloured(path, "its palette has colours")
    return first, colours[:, 0]


def _refuse_other_kinds(path: Path, data: Any) -> None:
    """Raises an error that says what else it is, if it is no grey image."""
    name = refuse_no_image(path, data)
    photometric = data.get("PhotometricInterpretation", "MONOCHROME2")
    if int(data.get("SamplesPerPixel") or 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2", PALETTE):
        raise coloured(path, photometric)
    if int(data.get("BitsAllocated", 16)) not in (8, 16, 32):
        raise unsupported(path, f"which has {data.BitsAllocated} bits per pixel (SOP class: {name})", _EXPORT)


def _header(path: Path, data: Any, element: Element, frame: int) -> Header:
    shape = (int(data.Rows), int(data.Columns))
    stored = _layout(data, element, frame)
    native = not (element.syntax.is_encapsulated or element.syntax.is_deflated)
    check_whole(path, element, stored.end(shape))
    if not native:
        check_size(path, *shape)
    palette = _grey_palette(path, data)
    table = palette or _modality_table(data)
    slope, intercept = (1.0, 0.0) if table else (number(data, "RescaleSlope", 1.0), number(data, "RescaleIntercept"))
    return Header(
        shape,
        spacing_of(data),
        slope,
        intercept,
        tuple(_windows(data, intercept)) if palette is None else (palette_window(palette[1]),),
        inverted="MONOCHROME1" in str(data.get("PhotometricInterpretation"))
        or data.get("PresentationLUTShape") == "INVERSE",
        stored=stored if native and table is None else None,
        padding=_padding(data, table) if palette is None else None,
    )


def _layout(data: Any, element: Element, frame: int) -> Stored:
    """Returns where the words of a frame would lie if they were not compressed, and which of their bits count."""
    allocated = int(data.get("BitsAllocated", 16))
    stored = int(data.get("BitsStored") or allocated)
    signed = bool(data.get("PixelRepresentation", 0))
    bits = Bits(stored, int(data.get("HighBit", stored - 1)), signed)
    if not 0 < stored <= allocated or not stored - 1 <= bits.high < allocated:
        raise ValueError(f"{stored} bits up to bit {bits.high} are stored in {allocated}")
    order = "<" if element.syntax.is_little_endian else ">"
    dtype = f"{order}{'i' if signed else 'u'}{allocated // 8}"
    size = int(data.Rows) * int(data.Columns) * allocated // 8
    return Stored(element.offset + frame * size, dtype, None if stored == allocated else bits)


def _padding(data: Any, table: tuple[int, np.ndarray] | None) -> tuple[float, float] | None:
    first = numbers(data, "PixelPaddingValue")
    if not first:
        return None
    ends = sorted([first[0], *(numbers(data, "PixelPaddingRangeLimit") or first)])
    if table is not None:
        ends = sorted(float(table[1][int(np.clip(end - table[0], 0, len(table[1]) - 1))]) for end in ends)
    return ends[0], ends[-1]


def _modality_table(data: Any) -> tuple[int, np.ndarray] | None:
    sequence = data.get("ModalityLUTSequence")
    return _table(data, sequence[0], bool(data.get("PixelRepresentation", 0))) if sequence else None


def _windows(data: Any, intercept: float) -> Iterator[Window]:
    """Yields the windows that a file states: its tables, then its pairs of centre and width (C.11.2)."""
    signed = bool(data.get("PixelRepresentation", 0)) or intercept < 0
    for item in data.get("VOILUTSequence") or ():
        yield LookupWindow.scaled(*_table(data, item, signed))
    kind = str(data.get("VOILUTFunction") or "LINEAR").upper()
    for center, width in zip(numbers(data, "WindowCenter"), numbers(data, "WindowWidth"), strict=False):
        if kind == "SIGMOID" and width > 0:
            yield SigmoidWindow(center, width)
        elif kind == "LINEAR_EXACT" and width > 0:
            yield LinearWindow.linear_exact(center, width)
        elif width >= 1:
            yield LinearWindow.linear(center, width)


def _table(data: Any, item: Any, signed: bool) -> tuple[int, np.ndarray]:
    """Returns the first input and the entries of a table (C.11.1.1.1), which may be words or bytes."""
    count, first, _ = (int(value) for value in item.LUTDescriptor)
    count = count or 1 << 16
    first = first - (1 << 16) if signed and first >= 1 << 15 else first
    content = item.LUTData
    if isinstance(content, bytes):
        little = data.original_encoding[1]
        dtype = "u1" if len(content) < 2 * count else ("<u2" if little else ">u2")
        entries = np.frombuffer(content, dtype)[:count]
    else:
        entries = np.atleast_1d(np.asarray(content))[:count]
    if len(entries) < count:
        raise ValueError(f"a table of {count} entries has only {len(entries)}")
    return first, entries.astype(np.uint16)
