"""Where the pixels of DICOM files lie, and what headers say of them whatever they show."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from glimpse.errors import MissingExtraError
from glimpse.sources.base import ImageReadError, UnsupportedImageError
from glimpse.sources.dicom import read_dataset, require_decoder, require_pydicom, undecoded
from glimpse.sources.pictures.errors import damaged, truncated, unsupported

# The size of a pixel in the patient, where it was calibrated; else on the detector; else on the scanned film.
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_PIXELS = (0x7FE0, 0x0010)
_ITEM, _DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
PALETTE = "PALETTE COLOR"


@dataclass(frozen=True)
class Element:
    """Where a file's pixel data begin, how many bytes they say they are, and how they are encoded."""

    offset: int
    length: int
    syntax: Any


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Makes an error that names the file of whatever pydicom and its decoders raise on damaged files.

    Raises:
        ImageReadError: something was raised inside that is not clear by itself.
    """
    try:
        yield
    except (ImageReadError, UnsupportedImageError, MissingExtraError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise damaged(path, error) from error


def read_header(path: Path) -> tuple[Any, Element | None]:
    """Reads the data set without its pixels, and where these are; None where it has none."""
    with open(path, "rb") as file:
        data = read_dataset(file, stop_before_pixels=True)
        little = data.original_encoding[1]
        syntax = data.file_meta.TransferSyntaxUID
        if syntax.is_deflated:
            whole = read_dataset(path)
            return data, Element(0, len(whole.PixelData), syntax) if "PixelData" in whole else None
        start, order = file.tell(), "<" if little else ">"
        head = file.read(12)
        if len(head) < 12 or struct.unpack(order + "HH", head[:4]) != _PIXELS:
            return data, None
        implicit = head[4:6] not in (b"OB", b"OW", b"UN")  # as length these would be odd, which none is
        length = struct.unpack(order + "I", head[4:8] if implicit else head[8:])[0]
        return data, Element(start + (8 if implicit else 12), length, syntax)


def refuse_no_image(path: Path, data: Any) -> str:
    """Returns the name of what a file holds.

    Raises:
        ImageReadError: its header ends too early.
        UnsupportedImageError: it holds no image.
    """
    kind = data.get("SOPClassUID") or data.file_meta.get("MediaStorageSOPClassUID")
    name = getattr(kind, "name", "") or "none stated"
    if "Rows" not in data or "Columns" not in data:
        if "Image Storage" in name:
            raise damaged(path, "its header ends before the size of the image")
        raise unsupported(path, f"which holds no image (SOP class: {name})", "Correct the path, or leave the case out.")
    return name


def check_whole(path: Path, element: Element, end: int) -> None:
    """Refuses a file that ends before its pixels do, without reading them.

    Args:
        path: the file.
        element: where the pixels begin.
        end: one past the last byte of the pixels that are wanted, if they were not compressed.

    Raises:
        ImageReadError: it does.
    """
    if element.syntax.is_encapsulated:
        with open(path, "rb") as file:
            check_fragments(path, file, element.offset)
    elif not element.syntax.is_deflated:
        there = min(os.path.getsize(path), element.offset + element.length)
        if end > there:
            raise truncated(path, end, there)


def check_fragments(path: Path, file: BinaryIO, offset: int) -> None:
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


def decoded(path: Path, syntax: Any, frame: int) -> np.ndarray:
    """Decodes the pixels of a frame, (height, width) or (height, width, 3); of colours, as red, green and blue.

    Raises:
        ImageReadError: the decoder fails.
        UnsupportedImageError: nobody knows the compression.
        MissingExtraError: its decoder is not installed.
    """
    require_decoder(path, syntax)
    try:
        return require_pydicom().pixels.pixel_array(read_dataset(path), index=frame)
    except Exception as error:  # each decoder raises its own kinds on damaged pixels
        if not syntax.is_encapsulated:
            raise
        raise ImageReadError(f"{damaged(path, error)} {undecoded(syntax)}") from error


def number(data: Any, keyword: str, default: float = 0.0) -> float:
    """Returns the value of an element of one; the default where it is absent or empty."""
    value = data.get(keyword)
    return default if value is None or value == "" else float(value)


def numbers(data: Any, keyword: str) -> list[float]:
    """Returns the values of an element of one or several; empty where it is absent."""
    value = data.get(keyword)
    if value is None or value == "":
        return []
    values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    return [float(one) for one in values if one is not None and one != ""]


def spacing_of(data: Any) -> tuple[float, float] | None:
    """Returns millimetres per pixel (y, x): the first of `SPACINGS` that makes sense; some converters write zeros."""
    for keyword in SPACINGS:
        values = numbers(data, keyword)
        if len(values) == 2 and all(0 < value < np.inf for value in values):
            return values[0], values[1]
    return None


def palette_of(path: Path, data: Any) -> tuple[int, np.ndarray] | None:
    """Returns the first input and the colours (entry, 3) of a palette (C.7.6.3.1.5); None where the image has none.

    Raises:
        ImageReadError: it is damaged.
    """
    if data.get("PhotometricInterpretation") != PALETTE:
        return None
    try:
        count, first, bits = (int(value) for value in data.RedPaletteColorLookupTableDescriptor)
        signed = bool(data.get("PixelRepresentation", 0))
        first = first - (1 << 16) if signed and first >= 1 << 15 else first
        inputs = np.arange(first, first + (count or 1 << 16))
        if bits == 8 and len(inputs) > 256:  # pydicom counts entries in the type of the colours
            raise ValueError(f"{len(inputs)} entries of 8 bits")
        colours = require_pydicom().pixels.apply_color_lut(inputs, data)[..., :3]
        swapped = colours.itemsize == 2 and not data.original_encoding[1] and "RedPaletteColorLookupTableData" in data
        return first, colours.byteswap() if swapped else colours  # pydicom reads words in the machine's order
    except (AttributeError, ValueError, TypeError, IndexError) as error:
        raise damaged(path, f"its palette is missing or damaged: {error}") from error


def looked_up(pixels: np.ndarray, table: tuple[int, np.ndarray]) -> np.ndarray:
    """Returns the entries of a table, given with its first input, that pixels stand for."""
    return table[1][np.clip(pixels.astype(np.int64) - table[0], 0, len(table[1]) - 1)]


def is_coloured(path: Path) -> bool:
    """Tells whether a DICOM file holds colours, by its header; False where it cannot be read."""
    try:
        data, _ = read_header(path)
        palette = palette_of(path, data)
    except Exception:  # the reader says what is wrong
        return False
    if palette is not None:
        return bool((palette[1] != palette[1][:, :1]).any())
    return int(data.get("SamplesPerPixel") or 1) == 3
