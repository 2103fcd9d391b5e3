"""Radiographs in DICOM files: what their headers mean (PS3.3, C.7.6.3, C.11) and where their pixels lie."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from glimpse.errors import MissingExtraError
from glimpse.sources.base import ImageReadError, UnsupportedImageError, one_frame
from glimpse.sources.dicom import read_dataset, require_decoder, require_pydicom, undecoded
from glimpse.sources.radiograph.header import Header, coloured, damaged, palette_window, truncated, unsupported
from glimpse.sources.radiograph.stored import Bits, Stored
from glimpse.sources.windows import LinearWindow, LookupWindow, SigmoidWindow, Window

# The size of a pixel in the patient, where it was calibrated; else on the detector; else on the scanned film.
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_PIXELS = (0x7FE0, 0x0010)
_ITEM, _DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_PALETTE = "PALETTE COLOR"
_EXPORT = "Export it again as a single grey image, or leave the case out."


@dataclass(frozen=True)
class _Element:
    """Where a file's pixel data begin, how many bytes they say they are, and how they are encoded."""

    offset: int
    length: int
    syntax: Any


def describe(path: Path, frame: int | None) -> Header:
    """Reads the header of a DICOM file, not its pixels.

    Raises:
        ImageReadError: the file is truncated or damaged.
        UnsupportedImageError: it holds no grey image, or several frames and none of them is chosen.
        MissingExtraError: pydicom is not installed.
    """
    try:
        data, element = _read(path)
        _refuse_other_kinds(path, data)
        if element is None:
            raise damaged(path, "it ends before its pixels")
        return _header(path, data, element, one_frame(path, int(data.get("NumberOfFrames") or 1), frame))
    except (ImageReadError, UnsupportedImageError, MissingExtraError):
        raise
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise damaged(path, error) from error
    except Exception as error:  # pydicom raises many kinds on damaged headers
        raise damaged(path, error) from error


def decode(path: Path, header: Header, frame: int | None) -> np.ndarray:
    """Reads the pixels of a file that cannot be mapped, (height, width), and applies its palette or modality LUT.

    Raises:
        ImageReadError: the file is truncated or damaged.
        UnsupportedImageError: nobody knows its compression, or it is coloured.
        MissingExtraError: the decoder of its compression is not installed.
    """
    pydicom = require_pydicom()
    try:
        data, element = _read(path)
        assert element is not None, "described before"
        first = _layout(data, element, frame or 0)
        if element.syntax.is_encapsulated or element.syntax.is_deflated:
            require_decoder(path, element.syntax)
            pixels = pydicom.pixels.pixel_array(read_dataset(path), index=frame or 0)
            byte_coded = element.syntax.is_deflated or element.syntax == pydicom.uid.RLELossless
            pixels = first.bits.clean(pixels) if byte_coded and first.bits else pixels
        else:
            pixels = first.open(path, header.shape)[:, :]
    except (ImageReadError, UnsupportedImageError, MissingExtraError):
        raise
    except Exception as error:  # each decoder raises its own kinds on damaged pixels
        found = damaged(path, error)
        if element is not None and element.syntax.is_encapsulated:
            found = ImageReadError(f"{found} {undecoded(element.syntax)}")
        raise found from error
    table = _palette(path, data) or _modality_table(data)
    return pixels if table is None else table[1][np.clip(pixels.astype(np.int64) - table[0], 0, len(table[1]) - 1)]


def _read(path: Path) -> tuple[Any, _Element | None]:
    """Reads the data set without its pixels, and where these are; None where it has none."""
    with open(path, "rb") as file:
        data = read_dataset(file, stop_before_pixels=True)
        implicit, little = data.original_encoding
        syntax = data.file_meta.TransferSyntaxUID
        if syntax.is_deflated:
            whole = read_dataset(path)
            return data, _Element(0, len(whole.PixelData), syntax) if "PixelData" in whole else None
        start, order = file.tell(), "<" if little else ">"
        head = file.read(12)
        if len(head) < 12 or struct.unpack(order + "HH", head[:4]) != _PIXELS:
            return data, None
        length = struct.unpack(order + "I", head[4:8] if implicit else head[8:])[0]
        return data, _Element(start + (8 if implicit else 12), length, syntax)


def _refuse_other_kinds(path: Path, data: Any) -> None:
    """Raises an error that says what else it is, if it is no grey image."""
    kind = data.get("SOPClassUID") or data.file_meta.get("MediaStorageSOPClassUID")
    name = getattr(kind, "name", "") or "none stated"
    if "Rows" not in data or "Columns" not in data:
        if "Image Storage" in name:
            raise damaged(path, "its header ends before the size of the image")
        raise unsupported(path, f"which holds no image (SOP class: {name})", "Correct the path, or leave the case out.")
    photometric = data.get("PhotometricInterpretation", "MONOCHROME2")
    if int(data.get("SamplesPerPixel") or 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2", _PALETTE):
        raise coloured(path, photometric)
    if int(data.get("BitsAllocated", 16)) not in (8, 16, 32):
        raise unsupported(path, f"which has {data.BitsAllocated} bits per pixel (SOP class: {name})", _EXPORT)


def _header(path: Path, data: Any, element: _Element, frame: int) -> Header:
    shape = (int(data.Rows), int(data.Columns))
    stored = _layout(data, element, frame)
    native = not (element.syntax.is_encapsulated or element.syntax.is_deflated)
    if native:
        if stored.end(shape) > min(os.path.getsize(path), element.offset + element.length):
            raise truncated(path, stored.end(shape), min(os.path.getsize(path), element.offset + element.length))
    elif element.syntax.is_encapsulated:
        with open(path, "rb") as file:
            _check_fragments(path, file, element.offset)
    palette = _palette(path, data)
    table = palette or _modality_table(data)
    slope, intercept = (1.0, 0.0) if table else (_number(data, "RescaleSlope", 1.0), _number(data, "RescaleIntercept"))
    return Header(
        shape,
        _spacing(data),
        slope,
        intercept,
        tuple(_windows(data, intercept)) if palette is None else (palette_window(palette[1]),),
        inverted="MONOCHROME1" in str(data.get("PhotometricInterpretation"))
        or data.get("PresentationLUTShape") == "INVERSE",
        stored=stored if native and table is None else None,
        padding=_padding(data, table) if palette is None else None,
    )


def _layout(data: Any, element: _Element, frame: int) -> Stored:
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


def _check_fragments(path: Path, file: BinaryIO, offset: int) -> None:
    """Walks over the fragments of compressed pixels (PS3.5, A.4) without reading them."""
    size = os.path.getsize(path)
    while offset < size:
        file.seek(offset)
        head = file.read(8)
        if len(head) < 8:
            raise damaged(path, "it ends within its compressed pixels")
        group, element, length = struct.unpack("<HHI", head)
        if (group, element) == _DELIMITER:
            return
        if (group, element) != _ITEM:
            raise damaged(path, f"at byte {offset:,} of its compressed pixels there is no fragment")
        offset += 8 + length
    if offset > size:
        raise truncated(path, offset, size)


def _number(data: Any, keyword: str, default: float = 0.0) -> float:
    value = data.get(keyword)
    return default if value is None or value == "" else float(value)


def _numbers(data: Any, keyword: str) -> list[float]:
    """Returns the values of an element of one or several; empty where it is absent."""
    value = data.get(keyword)
    if value is None or value == "":
        return []
    values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    return [float(one) for one in values if one is not None and one != ""]


def _spacing(data: Any) -> tuple[float, float] | None:
    """Returns millimetres per pixel (y, x): the first of `SPACINGS` that makes sense; some converters write zeros."""
    for keyword in SPACINGS:
        values = _numbers(data, keyword)
        if len(values) == 2 and all(0 < value < np.inf for value in values):
            return values[0], values[1]
    return None


def _padding(data: Any, table: tuple[int, np.ndarray] | None) -> tuple[float, float] | None:
    first = _numbers(data, "PixelPaddingValue")
    if not first:
        return None
    ends = sorted([first[0], *(_numbers(data, "PixelPaddingRangeLimit") or first)])
    if table is not None:
        ends = sorted(float(table[1][int(np.clip(end - table[0], 0, len(table[1]) - 1))]) for end in ends)
    return ends[0], ends[-1]


def _modality_table(data: Any) -> tuple[int, np.ndarray] | None:
    sequence = data.get("ModalityLUTSequence")
    return _table(data, sequence[0], bool(data.get("PixelRepresentation", 0))) if sequence else None


def _palette(path: Path, data: Any) -> tuple[int, np.ndarray] | None:
    """Returns the first input and the greys of a palette (C.7.6.3.1.5), or None where the image has none.

    Raises:
        UnsupportedImageError: the palette has colours.
        ImageReadError: it is damaged.
    """
    if data.get("PhotometricInterpretation") != _PALETTE:
        return None
    try:
        count, first, bits = (int(value) for value in data.RedPaletteColorLookupTableDescriptor)
        signed = bool(data.get("PixelRepresentation", 0))
        first = first - (1 << 16) if signed and first >= 1 << 15 else first
        inputs = np.arange(first, first + (count or 1 << 16))
        if bits == 8 and len(inputs) > 256:  # pydicom counts entries in the type of the colours
            raise ValueError(f"{len(inputs)} entries of 8 bits")
        colours = require_pydicom().pixels.apply_color_lut(inputs, data)[..., :3]
    except (AttributeError, ValueError, TypeError, IndexError) as error:
        raise damaged(path, f"its palette is missing or damaged: {error}") from error
    if (colours != colours[:, :1]).any():
        raise coloured(path, "its palette has colours")
    return first, colours[:, 0]


def _windows(data: Any, intercept: float) -> Iterator[Window]:
    """Yields the windows that a file states: its tables, then its pairs of centre and width (C.11.2)."""
    signed = bool(data.get("PixelRepresentation", 0)) or intercept < 0
    for item in data.get("VOILUTSequence") or ():
        yield LookupWindow.scaled(*_table(data, item, signed))
    kind = str(data.get("VOILUTFunction") or "LINEAR").upper()
    for center, width in zip(_numbers(data, "WindowCenter"), _numbers(data, "WindowWidth"), strict=False):
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
