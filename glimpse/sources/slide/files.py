"""What slide files say of themselves: pixel size, completeness, and why they cannot be read."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openslide
import tifffile

from glimpse.sources.base import ImageReadError, UnsupportedImageError, describe_content
from glimpse.sources.dicom import is_dicom, read_dataset
from glimpse.sources.quiet import quiet
from glimpse.sources.stated import given_instead

# Micrometres per pixel that a scanned slide can have; 72 dpi, which many writers put by default, is 353.
PLAUSIBLE_MPP = (0.01, 20.0)
LARGEST_TILE = 1 << 29  # bytes of a tile that is unpacked
_MICROMETRES = {"centimeter": 1e4, "inch": 25400.0}
_MPP_TIMES_POWER = 10.0  # 20x scans at about 0.5 um/px, 40x at about 0.25
_SERIES = "SeriesInstanceUID"
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_REMEDY = (
    "Copy the file again and compare its size with the original's, or leave the case out (env.cohort.on_error=skip)."
)


def known_mpp(properties: Mapping[str, str], name: str, given: float | None) -> tuple[float, float] | None:
    """Micrometres per pixel (y, x): ``given``, else mpp, else TIFF resolution, else objective power, else None.

    A warning says so where the given size contradicts the file, and where the size is guessed.

    Args:
        properties: OpenSlide's properties of the slide.
        name: of the slide, for warnings.
        given: what the cohort says.
    """
    stated = plausible(properties.get("openslide.mpp-y"), properties.get("openslide.mpp-x"))
    stated = stated or _resolution(properties)
    if given is not None:
        vertical, horizontal = given_instead(name, (given, given), stated, "um", "mpp")
        return vertical, horizontal
    power = _number(properties.get("openslide.objective-power"))
    if stated is not None or not power > 0:
        return stated
    guess = _MPP_TIMES_POWER / power
    warnings.warn(
        f"{name}: the slide states no pixel size; assuming {guess:g} um per pixel from its objective power of "
        f"{power:g}. Physical sizes are only as good as this guess: if it is wrong, write the pixel size into the "
        "column mpp of the CSV, or for all slides into env.cohort.mpp, or mpp of glimpse predict.",
        UserWarning,
        stacklevel=2,
    )
    return guess, guess


def _resolution(properties: Mapping[str, str]) -> tuple[float, float] | None:
    """Micrometres per pixel (y, x) after the TIFF tags, or None where they say nothing plausible."""
    length = _MICROMETRES.get(properties.get("tiff.ResolutionUnit", "").lower())
    if length is None:
        return None
    pixels = (_number(properties.get(f"tiff.{axis}Resolution")) for axis in "YX")
    return plausible(*(length / value if value > 0 else math.nan for value in pixels))


def check_complete(path: Path) -> None:
    """Compares where a TIFF-based slide's pixels should lie with the size of the file.

    Files of other formats, and TIFF dialects that tifffile cannot follow, pass: for these a test read has to do.

    Raises:
        ImageReadError: the file ends before its pixels do.
    """
    directory = _tiff_directory(path)
    size = os.path.getsize(path)
    if directory is not None and directory.needed > size:
        raise ImageReadError(
            f"{path}: the file is truncated: its pixels reach to byte {directory.needed:,}, it ends at byte {size:,}. "
            f"{_REMEDY}"
        )


def check_tiles(properties: Mapping[str, str], path: Path) -> None:
    """Refuses a slide whose header says that its tiles are huge: where there is no memory for one, OpenSlide aborts.

    Raises:
        ImageReadError: a level has such tiles.
    """
    names = [f"openslide.level[{i}].tile" for i in range(int(properties.get("openslide.level-count", "0")))]
    tiles = [tuple(_number(properties.get(f"{name}-{side}")) for side in ("width", "height")) for name in names]
    if not tiles or any(math.isnan(side) for sides in tiles for side in sides):  # OpenSlide does not say it of all
        directory = _tiff_directory(path)
        tiles = [] if directory is None else [directory.tile]
    for wide, high in tiles:
        if wide * high * 4 > LARGEST_TILE:
            raise ImageReadError(
                f"{path}: its header says that tiles have {wide:.0f} x {high:.0f} pixels, which OpenSlide would unpack "
                f"whole. It is probably damaged. {_REMEDY} If it is not, convert it, e.g. with 'vips tiffsave --tile "
                "--pyramid'."
            )


def explain_unreadable(path: Path, error: Exception) -> ImageReadError | UnsupportedImageError:
    """Returns the error for a file that OpenSlide fails on; it depends on what the file is."""
    known, content = detected_format(path), describe_content(path)
    if known is None and os.path.getsize(path) > 0:
        directory = _tiff_directory(path)
        if not is_tiff(path):
            return UnsupportedImageError(
                f"{path}: suffix {path.suffix!r} with {content}: not a slide. Correct the path, or convert the file, "
                "e.g. with 'vips tiffsave --tile --pyramid'."
            )
        if directory is not None and not directory.tiled and 0 < directory.needed <= os.path.getsize(path):
            return UnsupportedImageError(
                f"{path}: suffix {path.suffix!r} with {content}, but one that is not tiled. Convert it, e.g. with "
                "'vips tiffsave --tile --pyramid'."
            )
    kind = content if known is None else f"a slide of format {known!r}"
    return ImageReadError(f"{path}: cannot be read ({error}; {kind}). It is probably truncated or damaged. {_REMEDY}")


@dataclass(frozen=True)
class _Directory:
    """What a TIFF's directory says: the byte its pixels reach to, whether its first page is tiled, its largest tile."""

    needed: int
    tiled: bool
    tile: tuple[float, float]


def is_tiff(path: Path) -> bool:
    """Tells whether a file begins as TIFFs do, of 4 GB and more included."""
    with open(path, "rb") as file:
        return file.read(4) in _TIFF_MAGIC


def _tiff_directory(path: Path) -> _Directory | None:
    """Reads the directory of a TIFF; None where there is none that can be followed."""
    if not is_tiff(path):
        return None
    try:
        with quiet(tifffile.logger()), tifffile.TiffFile(path) as tiff:
            ends = [
                start + count
                for page in tiff.pages
                for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)
            ]
            pages: Any = tiff.pages
            tiles = [(page.tilewidth, page.tilelength) for page in pages if page.is_tiled]
            largest = max(tiles, key=math.prod, default=(0, 0))
            return _Directory(max(ends, default=0), bool(tiff.pages.first.is_tiled), largest)
    except Exception:  # tifffile raises many kinds on dialects it does not know, and those may still be readable
        return None


def detected_format(path: Path) -> str | None:
    """Returns the name that OpenSlide has for the format of a file, or None where it knows none."""
    try:
        return openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None


def dicom_files(path: Path) -> list[Path] | None:
    """Returns the files of a slide in DICOM: those of its series in its folder.

    It returns None for other files, and where pydicom is not installed or cannot read them.
    """
    try:
        if not is_dicom(path):
            return None
        series = read_dataset(path, stop_before_pixels=True, specific_tags=[_SERIES]).get(_SERIES)
        return [
            file
            for file in sorted(path.parent.iterdir())
            if file.is_file()
            and is_dicom(file)
            and read_dataset(file, stop_before_pixels=True, specific_tags=[_SERIES]).get(_SERIES) == series
        ]
    except Exception:  # of many kinds; reading says what is wrong
        return None


def _number(text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan


def plausible(vertical: str | float | None, horizontal: str | float | None) -> tuple[float, float] | None:
    """Returns micrometres per pixel (y, x) where a scanned slide can have them, else None."""
    low, high = PLAUSIBLE_MPP
    values = [_number(str(value)) for value in (vertical, horizontal)]
    return (values[0], values[1]) if all(low <= value <= high for value in values) else None
