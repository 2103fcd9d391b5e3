"""What DICOM headers say of slices: of files with one each, and of files with many frames."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glimpse.sources.base import UnsupportedImageError

CONVERT = "Convert the series to NIfTI, e.g. with dcm2niix."
_NEEDED = ("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_GROUPS = (
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence",
    "FrameContentSequence", "MREchoSequence",
)  # fmt: skip
_ORDER = (  # what tells slices of one place from each other, in this order
    "TemporalPositionIdentifier", "TemporalPositionIndex", "AcquisitionNumber", "FrameAcquisitionNumber", "EchoNumbers",
    "EffectiveEchoTime", "InstanceNumber",
)  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """One slice; lengths are in millimetres, positions and directions in DICOM's axes (left, posterior, superior).

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
        frame: of the file that it is.
        order: tells slices of one place from each other, and sorts them.
        between: how far slices lie apart according to the header (SpacingBetweenSlices); 0 where it does not say.
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
    frame: int = 0
    order: tuple[float, ...] = ()
    between: float = 0.0


def slices_of(path: Path, header: Any) -> list[Slice]:
    """Returns what a header says of the slices of its file.

    Files with many frames say it for each of them, in functional groups (PS3.3, C.7.6.16), as enhanced CT and MR do.

    Raises:
        UnsupportedImageError: it is not that of slices.
    """
    frames = int(header.get("NumberOfFrames") or 1)
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if int(header.get("SamplesPerPixel") or 1) != 1 or (frames != 1 and (not groups or len(groups) != frames)):
        raise UnsupportedImageError(
            f"{path}: expected one grey slice per file, or frames of which each says where it lies, got {frames} "
            f"frames of {header.get('SamplesPerPixel') or 1} samples per pixel. {CONVERT}"
        )
    if not groups:
        return [_slice(path, header, {})]
    shared = dict(_stated(header.get("SharedFunctionalGroupsSequence")))
    return [_slice(path, header, shared | dict(_stated([group])), frame) for frame, group in enumerate(groups)]


def _stated(groups: Any) -> Iterator[tuple[str, Any]]:
    """Yields the elements of functional groups by their names."""
    for group in groups or ():
        for name in _GROUPS:
            for item in group.get(name) or ():
                yield from ((element.keyword, element.value) for element in item if element.keyword)


def _slice(path: Path, header: Any, own: dict[str, Any], frame: int = 0) -> Slice:
    """Returns one slice; ``own`` counts more than the header.

    Raises:
        UnsupportedImageError: it does not say where it lies.
    """

    def get(name: str) -> Any:
        return own.get(name, header.get(name))

    missing = [name for name in _NEEDED if get(name) in (None, "", [])]
    if missing:
        raise UnsupportedImageError(
            f"{path}: it does not say where its pixels lie ({', '.join(missing)} missing), so it is no slice of a "
            "volume. Leave out of the folder what does not belong to the volume."
        )
    if not all(0 < float(value) < np.inf for value in get("PixelSpacing")):
        raise UnsupportedImageError(
            f"{path}: expected PixelSpacing as two lengths above 0, got {list(get('PixelSpacing'))}. Correct it in the "
            "files, or convert the series to NIfTI and give env.cohort.spacing."
        )
    bits = int(header.get("BitsStored") or header.get("BitsAllocated") or 16)
    signed = int(header.get("PixelRepresentation") or 0) == 1
    down, across = (float(value) for value in get("PixelSpacing"))
    thickness = get("SliceThickness")
    return Slice(
        path,
        (int(header.Rows), int(header.Columns)),
        np.array(get("ImagePositionPatient"), np.float64),
        np.array(get("ImageOrientationPatient"), np.float64).reshape(2, 3),
        (across, down),
        float(thickness) if thickness else None,
        float(1 if get("RescaleSlope") is None else get("RescaleSlope")),
        float(get("RescaleIntercept") or 0),
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1),
        frame,
        tuple(_number(get(name)) for name in _ORDER),
        abs(_number(get("SpacingBetweenSlices"))),
    )


def _number(value: Any) -> float:
    """Returns a number, or the first of several; 0 where there is none."""
    first = value if value is None or isinstance(value, str | int | float) else next(iter(value), None)
    try:
        return float(first or 0)
    except (TypeError, ValueError):
        return 0.0
