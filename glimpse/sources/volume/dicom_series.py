"""Folders of DICOM slices as volumes: put in order by where the slices lie, and converted once."""

import hashlib
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from glimpse.sources.base import ImageReadError, UnsupportedImageError, missing_file
from glimpse.sources.dicom import INSTALL, is_dicom, require_pydicom
from glimpse.sources.volume.unpacked import open_unpacked

UNEVEN = 0.05  # of the distance of slices: more is not rounding
_SAME_DIRECTION = 1e-3
_DIRECTORY = "1.2.840.10008.1.3.10"  # DICOMDIR: a table of contents, no image
_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM's axes run to left, posterior and superior
_REMEDY = "Copy the series again, or leave the case out (on_error=skip)."
_CONVERT = "Convert the series to NIfTI, e.g. with dcm2niix."
_TAGS = [
    "SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "Modality", "Rows", "Columns", "SamplesPerPixel",
    "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "BitsStored",
    "BitsAllocated", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "MediaStorageSOPClassUID",
]  # fmt: skip


def is_series(path: Path) -> bool:
    """Whether a folder holds DICOM files."""
    return path.is_dir() and any(is_dicom(file) for file in _files(path))


def folder_identity(path: Path, *options: Hashable) -> Hashable:
    """Identity of the pixels in a folder: the names, times and sizes of its files, and the reader's options."""
    listing = []
    for file in _files(path):
        status = os.stat(file)
        listing.append((file.name, status.st_mtime_ns, status.st_size))
    return (os.fspath(path), hashlib.sha256(repr(listing).encode()).hexdigest(), *options)


def open_series(path: Path, series: str | None = None) -> BinaryIO:
    """A series as an uncompressed NIfTI file, open for reading; converted where that has not been done before.

    Values are what the stored ones mean (rescale slope and intercept of each slice): int16, or float32 where they do
    not fit.

    Args:
        path: the folder; files that are not DICOM are left aside.
        series: SeriesInstanceUID, number or description, where there are several.

    Raises:
        ImageReadError: a file is damaged, or slices are missing.
        UnsupportedImageError: the files are no volume.
        ValueError: there are several series and none is chosen, or no such series.
        MissingExtraError: pydicom is not installed.
    """
    return open_unpacked(folder_identity(path.resolve(), "series", series), partial(_convert, path, series))


def _files(path: Path) -> list[Path]:
    """The folder's files, by name."""
    try:
        with os.scandir(path) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_file() and not entry.name.startswith("."))
    except FileNotFoundError as error:
        raise missing_file(path) from error


# ---------------------------------------------------------------------------------------------- what the headers say
@dataclass(frozen=True)
class _Slice:
    """One file; lengths in millimetres, positions and directions in DICOM's axes (left, posterior, superior).

    Attributes:
        path: the file.
        shape: rows and columns.
        position: of the centre of the first pixel.
        along: directions in which the column's and the row's index grows, (2, 3).
        pitch: distance of columns and of rows.
        thickness: of the slice, or None.
        slope: a stored value ``x`` means ``slope x + intercept``.
        intercept: see ``slope``.
        limits: of stored values.
    """

    path: Path
    shape: tuple[int, int]
    position: np.ndarray
    along: np.ndarray
    pitch: tuple[float, float]
    thickness: float | None
    slope: float
    intercept: float
    limits: tuple[int, int]


def _headers(path: Path) -> list[tuple[Path, Any]]:
    pydicom = require_pydicom()
    found = []
    for file in _files(path):
        if not is_dicom(file):
            continue
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
        except Exception as error:  # pydicom raises many kinds on damaged files
            raise _damaged(file, error) from error
        if header.file_meta.get("MediaStorageSOPClassUID") != _DIRECTORY:
            found.append((file, header))
    return found


def _chosen(path: Path, found: list[tuple[Path, Any]], series: str | None) -> list[tuple[Path, Any]]:
    """The files of the one series that is asked for."""
    groups: dict[str, list[tuple[Path, Any]]] = {}
    for file, header in found:
        groups.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((file, header))
    if series is not None:
        names = ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription")
        named = {u: g for u, g in groups.items() if series in [str(g[0][1].get(name, "")) for name in names]}
    else:
        named = groups
    if len(named) == 1:
        return next(iter(named.values()))
    lines = [
        f"  {uid} ({group[0][1].get('SeriesDescription', '')}, {len(group)} files)" for uid, group in groups.items()
    ]
    rule = f"it holds {len(groups)} series" if series is None else f"{len(named)} of its series are called {series!r}"
    raise ValueError(
        f"{path}: {rule}, a volume is one. Choose it with the option series='<SeriesInstanceUID>':\n" + "\n".join(lines)
    )


def _slice(path: Path, header: Any) -> _Slice:
    """What a header says.

    Raises:
        UnsupportedImageError: it is not that of a slice.
    """
    if int(header.get("NumberOfFrames") or 1) != 1 or int(header.get("SamplesPerPixel") or 1) != 1:
        raise UnsupportedImageError(
            f"{path}: expected one grey slice per file, got {header.get('NumberOfFrames') or 1} frames of "
            f"{header.get('SamplesPerPixel') or 1} samples per pixel. {_CONVERT}"
        )
    needed = ("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    missing = [name for name in needed if header.get(name) in (None, "", [])]
    if missing:
        raise UnsupportedImageError(
            f"{path}: it does not say where its pixels lie ({', '.join(missing)} missing), so it is no slice of a "
            "volume. Leave out of the folder what does not belong to the volume."
        )
    bits = int(header.get("BitsStored") or header.get("BitsAllocated") or 16)
    signed = int(header.get("PixelRepresentation") or 0) == 1
    down, across = (float(value) for value in header.PixelSpacing)
    thickness = header.get("SliceThickness")
    return _Slice(
        path,
        (int(header.Rows), int(header.Columns)),
        np.array(header.ImagePositionPatient, np.float64),
        np.array(header.ImageOrientationPatient, np.float64).reshape(2, 3),
        (across, down),
        float(thickness) if thickness else None,
        float(1 if header.get("RescaleSlope") is None else header.RescaleSlope),
        float(header.get("RescaleIntercept") or 0),
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1),
    )


# ---------------------------------------------------------------------------------------------- the grid
def _in_order(path: Path, slices: Sequence[_Slice]) -> list[_Slice]:
    """The slices by their place along the normal.

    Raises:
        UnsupportedImageError: they do not form one grid.
        ImageReadError: some are missing.
    """
    first = slices[0]
    for one in slices:
        same = one.shape == first.shape and np.allclose(one.pitch, first.pitch, rtol=1e-3, atol=0)
        if not same or not np.allclose(one.along, first.along, rtol=0, atol=_SAME_DIRECTION):
            raise UnsupportedImageError(
                f"{path}: expected slices of one size, pixel spacing and direction, but {first.path.name} and "
                f"{one.path.name} differ: {_described(first)} and {_described(one)}. Leave out of the folder what does "
                "not belong to the volume (often a scout view)."
            )
    normal = np.cross(*first.along)
    ordered = sorted(slices, key=lambda one: float(one.position @ normal))
    places = np.array([one.position @ normal for one in ordered])
    if len(ordered) > 1:
        _check_distances(path, ordered, np.diff(places))
    elif first.thickness is None:
        raise UnsupportedImageError(f"{path}: one slice without SliceThickness is no volume. Add the other slices.")
    return ordered


def _described(one: _Slice) -> str:
    across, down = one.pitch
    return f"{one.shape[0]} x {one.shape[1]} pixels of {down:g} x {across:g} mm along {one.along.round(3).tolist()}"


def _check_distances(path: Path, ordered: Sequence[_Slice], distances: np.ndarray) -> None:
    usual = float(np.median(distances))
    if usual <= 0 or distances.min() < UNEVEN * usual:
        at = int(distances.argmin())
        raise UnsupportedImageError(
            f"{path}: {ordered[at].path.name} and {ordered[at + 1].path.name} lie at the same place: several volumes "
            f"(echoes, phases) in one series, or copies. Leave one of each place in the folder, or: {_CONVERT}"
        )
    at = int(np.abs(distances - usual).argmax())
    if abs(distances[at] - usual) <= UNEVEN * usual:
        return
    steps = distances / usual
    names = f"{ordered[at].path.name} and {ordered[at + 1].path.name} lie {distances[at]:.4g} mm apart"
    if (np.abs(steps - np.rint(steps)) <= UNEVEN * np.rint(steps)).all():
        lost = int(np.rint(steps).sum()) - len(distances)
        raise ImageReadError(f"{path}: slices are missing ({lost}): {names}, most others {usual:.4g} mm. {_REMEDY}")
    raise UnsupportedImageError(
        f"{path}: expected slices at even distances, but {names}, most others {usual:.4g} mm. "
        "Leave out of the folder what does not belong to the volume, or resample it to an even grid."
    )


def _affine(ordered: Sequence[_Slice]) -> np.ndarray:
    """From indices (column, row, slice) to millimetres to the right, anterior and superior, (4, 4)."""
    first, last = ordered[0], ordered[-1]
    affine = np.eye(4)
    affine[:3, :2] = (first.along * np.array(first.pitch)[:, None]).T
    if len(ordered) > 1:
        affine[:3, 2] = (last.position - first.position) / (len(ordered) - 1)
    else:
        affine[:3, 2] = np.cross(*first.along) * first.thickness
    affine[:3, 3] = first.position
    affine[:3] = _TO_RAS @ affine[:3]
    return affine


# ---------------------------------------------------------------------------------------------- conversion
def _convert(path: Path, series: str | None, file: BinaryIO) -> None:
    """Writes a series as NIfTI-2, whose affine keeps all of its digits, slice by slice."""
    import nibabel

    found = _headers(path)
    if not found:
        raise UnsupportedImageError(f"{path}: a folder without DICOM files. Correct the path.")
    ordered = _in_order(path, [_slice(*one) for one in _chosen(path, found, series)])
    dtype = _dtype(ordered)
    rows, columns = ordered[0].shape
    header = nibabel.Nifti2Header()
    header.set_data_dtype(dtype)
    header.set_data_shape((columns, rows, len(ordered)))
    header.set_sform(_affine(ordered), "scanner")
    header.set_xyzt_units("mm")
    header["vox_offset"] = header.single_vox_offset
    header.write_to(file)
    file.write(bytes(header.single_vox_offset - file.tell()))
    for one in ordered:
        values = _pixels(one) * one.slope + one.intercept
        file.write(np.rint(values).astype(dtype).tobytes() if dtype.kind == "i" else values.astype(dtype).tobytes())


def _dtype(slices: Sequence[_Slice]) -> np.dtype:
    """int16 where every meant value is a whole number that fits, else float32."""
    ends = np.array([[end * one.slope + one.intercept for end in one.limits] for one in slices])
    whole = all(one.slope.is_integer() and one.intercept.is_integer() for one in slices)
    limits = np.iinfo(np.int16)
    return np.dtype("<i2" if whole and ends.min() >= limits.min and ends.max() <= limits.max else "<f4")


def _pixels(one: _Slice) -> np.ndarray:
    """Stored values of a slice, float64 (row, column)."""
    try:
        pixels = np.asarray(require_pydicom().dcmread(one.path).pixel_array)
    except (RuntimeError, NotImplementedError, ImportError) as error:
        raise UnsupportedImageError(
            f"{one.path}: its pixels cannot be decompressed here ({' '.join(str(error).split())}). Run: {INSTALL}"
        ) from error
    except Exception as error:  # pydicom and its decoders raise many kinds on damaged files
        raise _damaged(one.path, error) from error
    if pixels.shape != one.shape:
        raise ImageReadError(f"{one.path}: expected {one.shape} pixels, got {pixels.shape}. {_REMEDY}")
    return pixels.astype(np.float64)


def _damaged(path: Path, error: Exception) -> ImageReadError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageReadError(f"{path}: cannot be read ({reason}). It is probably truncated or damaged. {_REMEDY}")
