"""Folders of DICOM slices as volumes: put in order by where the slices lie, and converted once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from glimpse.errors import UserError
from glimpse.sources.base import ImageReadError, UnsupportedImageError
from glimpse.sources.dicom import read_dataset, require_decoder
from glimpse.sources.volume.dicom_folder import REMEDY, chosen_headers, damaged, folder_identity
from glimpse.sources.volume.unpacked import open_unpacked

UNEVEN = 0.05  # of the distance of slices: more is not rounding
_SAME_DIRECTION = 1e-3
_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM's axes run to left, posterior and superior
_CONVERSION = "series, subfolders and files without preamble included"  # changes when a conversion gives other values
_CONVERT = "Convert the series to NIfTI, e.g. with dcm2niix."


def open_series(path: Path, series: str | None = None) -> BinaryIO:
    """Opens a series as an uncompressed NIfTI file, which is made if that has not been done before.

    Values are what the stored ones mean (rescale slope and intercept of each slice): int16, or float32 where they do
    not fit.

    Args:
        path: the folder; its subfolders are looked into, and files that are not DICOM are left aside.
        series: SeriesInstanceUID, number or description, where there are several.

    Raises:
        ImageReadError: a file is damaged or may not be read, or slices are missing.
        UnsupportedImageError: the files are no volume, or there are several series and none is chosen, or no such one.
        MissingExtraError: pydicom is not installed.
    """
    return open_unpacked(folder_identity(path.resolve(), _CONVERSION, series), partial(_convert, path, series))


# ---------------------------------------------------------------------------------------------- what the headers say
@dataclass(frozen=True)
class _Slice:
    """One file; lengths are in millimetres, positions and directions in DICOM's axes (left, posterior, superior).

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


def _slice(path: Path, header: Any) -> _Slice:
    """Returns what a header says.

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
    if not all(0 < float(value) < np.inf for value in header.PixelSpacing):
        raise UnsupportedImageError(
            f"{path}: expected PixelSpacing as two lengths above 0, got {list(header.PixelSpacing)}. Correct it in the "
            "files, or convert the series to NIfTI and give env.cohort.spacing."
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
    """Sorts slices by their place along the normal.

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
        raise ImageReadError(f"{path}: slices are missing ({lost}): {names}, most others {usual:.4g} mm. {REMEDY}")
    raise UnsupportedImageError(
        f"{path}: expected slices at even distances, but {names}, most others {usual:.4g} mm. "
        "Leave out of the folder what does not belong to the volume, or resample it to an even grid."
    )


def _affine(ordered: Sequence[_Slice]) -> np.ndarray:
    """Returns the affine from indices (column, row, slice) to millimetres (right, anterior, superior), (4, 4)."""
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

    ordered = _in_order(path, [_slice(*one) for one in chosen_headers(path, series)])
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
    """Returns int16 where every meant value is a whole number that fits, else float32."""
    ends = np.array([[end * one.slope + one.intercept for end in one.limits] for one in slices])
    whole = all(one.slope.is_integer() and one.intercept.is_integer() for one in slices)
    limits = np.iinfo(np.int16)
    return np.dtype("<i2" if whole and ends.min() >= limits.min and ends.max() <= limits.max else "<f4")


def _pixels(one: _Slice) -> np.ndarray:
    """Reads the stored values of a slice, float64 (row, column)."""
    try:
        data = read_dataset(one.path)
        if data.file_meta.TransferSyntaxUID.is_encapsulated:
            require_decoder(one.path, data.file_meta.TransferSyntaxUID)
        pixels = np.asarray(data.pixel_array)
    except UserError:
        raise
    except Exception as error:  # pydicom and its decoders raise many kinds on damaged files
        raise damaged(one.path, error) from error
    if pixels.shape != one.shape:
        raise ImageReadError(f"{one.path}: expected {one.shape} pixels, got {pixels.shape}. {REMEDY}")
    return pixels.astype(np.float64)
