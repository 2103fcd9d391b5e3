"""What TIFFs of microscopes say of themselves: names of channels and images, and the size of a pixel."""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from glimpse.sources.slide.files import plausible

_OME_UNITS = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4,
    "in": 25400.0, "thou": 25.4,
}  # fmt: skip
_IMAGEJ_UNITS = {"um": 1.0, "micron": 1.0, "microns": 1.0, "µm": 1.0, "μm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4,
                 "inch": 25400.0}  # fmt: skip
_TYPE_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)  # bytes of a value of each of TIFF's types
_TAG_UNITS = {2: 25400.0, 3: 1e4}  # ResolutionUnit: inch, centimetre


@dataclass(frozen=True)
class OmeImage:
    """What OME-XML says of an image.

    Attributes:
        name: what it is called; "" if nothing.
        shape: its rows and columns.
        channels: names of its channels; "" for those without.
        spacing: micrometres per pixel (y, x), or None.
    """

    name: str
    shape: tuple[int, int]
    channels: tuple[str, ...]
    spacing: tuple[float, float] | None


def ome_images(text: str | None) -> list[OmeImage]:
    """Returns the images that OME-XML describes, in order; none where it cannot be read."""
    try:
        root = ElementTree.fromstring(text or "")
    except (ElementTree.ParseError, ValueError):
        return []
    found = []
    for image in _inside(root, "Image"):
        for pixels in _inside(image, "Pixels"):
            shape = int(_number(pixels.get("SizeY")) or 0), int(_number(pixels.get("SizeX")) or 0)
            names = tuple((one.get("Name") or "").strip() for one in _inside(pixels, "Channel"))
            sizes = [_ome_length(pixels, f"PhysicalSize{axis}") for axis in "YX"]
            spacing = (sizes[0], sizes[1]) if all(0 < one < math.inf for one in sizes) else None
            found.append(OmeImage((image.get("Name") or "").strip(), shape, names, spacing))
    return found


def directory_end(path: Path) -> int:
    """Returns the byte that the first directory of a TIFF reaches to, its texts and tables included.

    tifffile leaves out what lies beyond the end of the file, and OME-XML is often written last.
    """
    with open(path, "rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        wide = head[2:4] in (b"+\0", b"\0+")
        offset, count, entry = ("Q", "Q", "HHQQ") if wide else ("I", "H", "HHII")
        start = struct.unpack_from(order + offset, head, 8 if wide else 4)[0]
        file.seek(start)
        (entries,) = struct.unpack(order + count, file.read(struct.calcsize(order + count)))
        length = struct.calcsize(order + entry)
        table = file.read(entries * length)
        end = start + struct.calcsize(order + count) + entries * length
    for place in range(0, len(table) - length + 1, length):
        _, kind, values, value = struct.unpack_from(order + entry, table, place)
        size = values * (_TYPE_SIZES[kind] if kind < len(_TYPE_SIZES) else 0)
        if size > struct.calcsize(order + offset):
            end = max(end, value + size)
    return end


def _inside(element: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    """Returns the children of a tag, whatever the version of the schema that the namespace names."""
    return [one for one in element if one.tag.rpartition("}")[2] == tag]


def _ome_length(pixels: ElementTree.Element, name: str) -> float:
    """Returns a length in micrometres, which is OME's unit where none is given; NaN where there is none."""
    return _number(pixels.get(name)) * _OME_UNITS.get(pixels.get(f"{name}Unit", "µm"), math.nan)


def tagged_spacing(page: Any, imagej: Mapping[str, Any] | None) -> tuple[float, float] | None:
    """Returns micrometres per pixel (y, x) after the resolution of a page; None where it says nothing plausible.

    Args:
        page: the page.
        imagej: what ImageJ says of the file, which has a unit of its own.
    """
    unit = page.tags.get("ResolutionUnit")
    length = _TAG_UNITS.get(int(unit.value) if unit else 2, math.nan)
    if imagej and imagej.get("unit"):
        length = _IMAGEJ_UNITS.get(_unescaped(str(imagej["unit"])).strip().lower(), length)
    values = []
    for name in ("YResolution", "XResolution"):
        tag = page.tags.get(name)
        top, bottom = tag.value if tag else (0, 1)
        values.append(length * bottom / top if top else math.nan)
    return plausible(*values)


def _unescaped(text: str) -> str:
    """ImageJ writes letters beyond ASCII as backslash, u and four digits."""
    return re.sub(r"\\u([0-9A-Fa-f]{4})", lambda found: chr(int(found[1], 16)), text)


def imagej_names(imagej: Mapping[str, Any] | None, channels: int) -> list[str]:
    """Returns the labels that ImageJ gives to the channels; none where they are not one for each."""
    labels = (imagej or {}).get("Labels") or []
    labels = [labels] if isinstance(labels, str) else list(labels)
    return [str(one).strip() for one in labels] if len(labels) == channels else []


def qpi_name(page: Any) -> str:
    """Returns the name that a page of a QPTIFF (Akoya, PerkinElmer) has for its channel; "" if none."""
    found = re.search(r"<Name>(.*?)</Name>", page.description or "", re.DOTALL)
    return found[1].strip() if found else ""


def _number(text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan
