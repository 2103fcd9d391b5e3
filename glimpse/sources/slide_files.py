"""What slide files say of themselves: pixel size, completeness, and why they cannot be read."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import openslide
import tifffile

from glimpse.sources.base import ImageReadError, UnsupportedImageError, describe_content

# Micrometres per pixel that a scanned slide can have; 72 dpi, which many writers put by default, is 353.
PLAUSIBLE_MPP = (0.01, 20.0)
_MICROMETRES = {"centimeter": 1e4, "inch": 25400.0}
_MPP_TIMES_POWER = 10.0  # 20x scans at about 0.5 um/px, 40x at about 0.25
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_REMEDY = "Copy the file again and compare its size with the original's, or leave the case out (on_error=skip)."


def known_mpp(properties: Mapping[str, str], name: str, fallback: float | None) -> tuple[float, float] | None:
    """Micrometres per pixel (y, x): mpp, else TIFF resolution, else objective power, else ``fallback``, else None.

    Args:
        properties: OpenSlide's properties of the slide.
        name: of the slide, for the warning.
        fallback: what the cohort says.
    """
    stated = _plausible(properties.get("openslide.mpp-y"), properties.get("openslide.mpp-x"))
    if stated is not None:
        return stated
    length = _MICROMETRES.get(properties.get("tiff.ResolutionUnit", "").lower())
    if length is not None:
        pixels = (_number(properties.get(f"tiff.{axis}Resolution")) for axis in "YX")
        resolution = _plausible(*(length / value if value > 0 else math.nan for value in pixels))
        if resolution is not None:
            return resolution
    power = _number(properties.get("openslide.objective-power"))
    if power > 0:
        guess = _MPP_TIMES_POWER / power
        said = "" if fallback is None else f" The cohort's mpp of {fallback:g} is not used."
        warnings.warn(
            f"{name}: the slide states no pixel size; assuming {guess:g} um per pixel from its objective power of "
            f"{power:g}.{said} Physical sizes are only as good as this guess: if it is wrong, write the pixel size "
            "into the file.",
            UserWarning,
            stacklevel=2,
        )
        return guess, guess
    return None if fallback is None else (fallback, fallback)


def check_complete(path: Path) -> None:
    """Compares where a TIFF-based slide's pixels should lie with the size of the file.

    Files of other formats, and TIFF dialects that tifffile cannot follow, pass: for these a test read has to do.

    Raises:
        ImageReadError: the file ends before its pixels do.
    """
    needed = _needed_bytes(path)
    size = os.path.getsize(path)
    if needed is not None and needed > size:
        raise ImageReadError(
            f"{path}: the file is truncated: its pixels reach to byte {needed:,}, it ends at byte {size:,}. {_REMEDY}"
        )


def _needed_bytes(path: Path) -> int | None:
    with open(path, "rb") as file:
        if file.read(4) not in _TIFF_MAGIC:
            return None
    try:
        with tifffile.TiffFile(path) as tiff:
            ends = [
                start + count
                for page in tiff.pages
                for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)
            ]
    except Exception:  # tifffile raises many kinds on dialects it does not know, and those may still be readable
        return None
    return max(ends, default=0)


def explain_unreadable(path: Path, error: Exception) -> str:
    """A message for a file that OpenSlide fails on.

    Raises:
        UnsupportedImageError: the file is whole, but not of a kind that OpenSlide reads.
    """
    known = _detected(path)
    if known is None and _is_whole_tiff(path):
        raise UnsupportedImageError(
            f"{path}: suffix {path.suffix!r} with {describe_content(path)}, but not one that can be read in tiles. "
            "Convert it, e.g. with 'vips tiffsave --tile --pyramid'."
        ) from error
    kind = describe_content(path) if known is None else f"a slide of format {known!r}"
    return f"{path}: cannot be read ({error}; {kind}). The file is probably truncated or damaged. {_REMEDY}"


def _detected(path: Path) -> str | None:
    try:
        return openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None


def _is_whole_tiff(path: Path) -> bool:
    needed = _needed_bytes(path)
    return needed is not None and 0 < needed <= os.path.getsize(path)


def _number(text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan


def _plausible(vertical: str | float | None, horizontal: str | float | None) -> tuple[float, float] | None:
    low, high = PLAUSIBLE_MPP
    values = [_number(str(value)) for value in (vertical, horizontal)]
    return (values[0], values[1]) if all(low <= value <= high for value in values) else None
