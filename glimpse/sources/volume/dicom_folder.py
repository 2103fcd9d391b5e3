"""Folders of DICOM files: which of them are slices, and of which series."""

import hashlib
import os
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

from glimpse.settings.quoting import plain
from glimpse.sources.base import ImageReadError, UnsupportedImageError, begins_as_dicom, unopened
from glimpse.sources.dicom import read_dataset, require_pydicom

REMEDY = "Copy the series again, or leave the case out (env.cohort.on_error=skip)."
SUFFIXES = (".dcm", ".dicom", ".ima")  # of files that are slices, or damaged ones
_NAMES = ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription")
_DIRECTORY = "1.2.840.10008.1.3.10"  # DICOMDIR: a table of contents, no image
_NUMBERS = re.compile(r"0|[1-9][0-9]*|[0-9]+(\.[0-9]+){2,}")  # numbers and UIDs that a command line keeps as they are
_TAGS = [
    "SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "Modality", "Rows", "Columns",
    "SamplesPerPixel", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "SpacingBetweenSlices", "BitsStored", "BitsAllocated", "PixelRepresentation", "RescaleSlope",
    "RescaleIntercept", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "TemporalPositionIdentifier", "AcquisitionNumber", "EchoNumbers", "InstanceNumber",
]  # fmt: skip


def is_series(path: Path) -> bool:
    """Tells whether a folder or its subfolders hold DICOM files.

    Raises:
        ImageReadError: a file or folder may not be read.
    """
    return path.is_dir() and any(begins_as_dicom(_head(file)) for file in files_below(path))


def folder_identity(path: Path, *options: Hashable) -> Hashable:
    """Returns the identity of the pixels in a folder: names, times and sizes of all files below it, and options.

    Raises:
        ImageReadError: the folder is missing or may not be read.
    """
    listing = []
    for file in sorted(files_below(path)):
        status = os.stat(file)
        listing.append((os.fspath(file.relative_to(path)), status.st_mtime_ns, status.st_size))
    return (os.fspath(path.absolute()), hashlib.sha256(repr(listing).encode()).hexdigest(), *options)


def chosen_headers(path: Path, series: str | None = None) -> list[tuple[Path, Any]]:
    """Returns the files of one series below a folder, with their headers.

    Files that are not DICOM, and DICOM files that hold no image (reports, tables of contents), are left aside.

    Args:
        path: the folder.
        series: SeriesInstanceUID, number or description, where there are several.

    Raises:
        ImageReadError: a file is damaged, or may not be read.
        UnsupportedImageError: there is no image, there are several series and none is chosen, or there is no such one.
        MissingExtraError: pydicom is not installed.
    """
    groups: dict[str, list[tuple[Path, Any]]] = {}
    for file in sorted(files_below(path)):
        header = _header(file)
        if header is not None:
            groups.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((file, header))
    if not groups:
        raise UnsupportedImageError(f"{path}: a folder without DICOM files that hold images. Correct the path.")
    found = groups if series is None else {uid: group for uid, group in groups.items() if series in _names(group)}
    if len(found) == 1:
        return next(iter(found.values()))
    listed = ", ".join(_listed(uid, group) for uid, group in groups.items())
    rule = f"it holds {len(groups)} series" if series is None else f"{len(found)} of its series are called {series!r}"
    largest = max(groups, key=lambda uid: len(groups[uid]))
    example = _typeable(largest, [_names(group) for uid, group in groups.items() if uid != largest], groups[largest])
    raise UnsupportedImageError(
        f"{path}: {rule}, a volume is one: {listed}. Choose one by its description, number or UID, such as "
        f"env.cohort.series={example}, or in a column 'series' of the CSV (for predict, of input=<CSV>); in Python "
        f"with series={example!r}."
    )


def damaged(path: Path, error: object) -> ImageReadError:
    """Returns the error for a slice that cannot be read."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageReadError(f"{path}: cannot be read ({reason}). It is probably truncated or damaged. {REMEDY}")


def files_below(path: Path) -> Iterator[Path]:
    """Yields all files below a folder, those of the folder itself first; hidden ones are left out.

    Raises:
        ImageReadError: the folder or one below it is missing, or may not be read.
    """

    def refused(error: OSError) -> None:
        raise unopened(Path(error.filename or path), error) from error

    for folder, inner, names in os.walk(path, onerror=refused):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (file for name in sorted(names) if (file := Path(folder, name)).is_file() and name[0] != ".")


def _head(file: Path) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read(132)
    except OSError as error:
        raise unopened(file, error) from error


def _header(file: Path) -> Any | None:
    """Reads the header of a DICOM file that holds an image; None for other files."""
    require_pydicom()
    if not begins_as_dicom(_head(file)):
        if file.suffix.lower() in SUFFIXES:
            raise damaged(file, "its name is that of a DICOM file, its content is not")
        return None
    try:
        header = read_dataset(file, stop_before_pixels=True, specific_tags=_TAGS)
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise damaged(file, error) from error
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    image = "Rows" in header or "Image Storage" in getattr(kind, "name", "")
    return header if image and kind != _DIRECTORY else None


def _names(group: list[tuple[Path, Any]]) -> list[str]:
    """Returns what a series can be called: its UID, number and description, those that it has."""
    header = group[0][1]
    return [str(value).strip() for name in _NAMES if (value := header.get(name)) not in (None, "")]


def _listed(uid: str, group: list[tuple[Path, Any]]) -> str:
    header = group[0][1]
    described = header.get("SeriesDescription") or "without description"
    number = f"number {header.SeriesNumber}, " if header.get("SeriesNumber") is not None else ""
    return f"{described} ({number}{len(group)} {'file' if len(group) == 1 else 'files'}, {uid or 'without UID'})"


def _typeable(uid: str, others: list[list[str]], group: list[tuple[Path, Any]]) -> str:
    """Returns the shortest name of a series that only it has and that a command line takes as it is; else its UID."""
    taken = {name for names in others for name in names}
    found = [name for name in _names(group) if plain(name) or _NUMBERS.fullmatch(name)]
    return min((name for name in found if name not in taken), key=len, default=uid)
