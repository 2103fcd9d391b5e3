"""The grid that slices form: their order, their distances, the volumes at one place, and a tilted gantry."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy  # whose parts are imported where they are used first: `scipy.ndimage` takes long
from jaxtyping import Float

from glimpse.sources.base import ImageReadError, UnsupportedImageError, one_frame
from glimpse.sources.volume.dicom_folder import REMEDY
from glimpse.sources.volume.dicom_slices import CONVERT, Slice

UNEVEN = 0.05  # of the distance of slices: more is not rounding
_SAME_DIRECTION = 1e-3
_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM's axes run to left, posterior and superior
_SHIFTED = 0.5  # pixels; slices that are shifted by less lie above each other
_LARGEST_CANVAS = 2.0  # times the pixels of a slice


def in_order(path: Path, slices: Sequence[Slice], volume: int | None = None) -> list[Slice]:
    """Sorts slices by their place along the normal.

    Args:
        path: the folder, for messages.
        slices: in any order.
        volume: which one, from 0, where every place has several slices (echoes, phases), which count in the order of
            time, acquisition, echo and instance.

    Raises:
        UnsupportedImageError: they do not form one grid, or several volumes and none is chosen.
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
    ordered = sorted(slices, key=lambda one: (round(float(one.position @ normal), 3), one.order, one.path, one.frame))
    ordered = _one_volume(path, ordered, np.array([one.position @ normal for one in ordered]), volume)
    places = np.array([one.position @ normal for one in ordered])
    if len(ordered) > 1:
        _check_distances(path, ordered, np.diff(places))
    elif first.thickness is None:
        raise UnsupportedImageError(f"{path}: one slice without SliceThickness is no volume. Add the other slices.")
    return ordered


def _one_volume(path: Path, ordered: Sequence[Slice], places: np.ndarray, volume: int | None) -> list[Slice]:
    """Returns the slices of one volume, where every place has the same number of slices."""
    steps = np.diff(places)
    new = np.r_[True, steps > UNEVEN * max(steps.max(initial=0.0), 1e-9)] if len(ordered) > 1 else np.array([True])
    counts = np.diff(np.r_[np.flatnonzero(new), len(ordered)])
    volumes = int(counts[0]) if (counts == counts[0]).all() else 1
    return list(ordered[one_frame(path, volumes, volume, "volume") :: volumes])


def _described(one: Slice) -> str:
    across, down = one.pitch
    return f"{one.shape[0]} x {one.shape[1]} pixels of {down:g} x {across:g} mm along {one.along.round(3).tolist()}"


def _check_distances(path: Path, ordered: Sequence[Slice], distances: np.ndarray) -> None:
    usual = float(np.median(distances))
    if usual <= 0 or distances.min() < UNEVEN * usual:
        at = int(distances.argmin())
        raise UnsupportedImageError(
            f"{path}: {ordered[at].path.name} and {ordered[at + 1].path.name} lie at the same place: several volumes "
            f"(echoes, phases) in one series, or copies. Leave one of each place in the folder, or: {CONVERT}"
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


@dataclass(frozen=True)
class Canvas:
    """The rows and columns that hold all slices, where a tilted gantry has shifted them against each other.

    Attributes:
        shape: rows and columns.
        first: pixels (row, column) of the first slice before its own first one; 0 or less.
        shifts: of each slice against the first one, in pixels (row, column).
        tilt: what is said of the shifts, in at most 80 characters; "" where the slices lie straight above each other.
    """

    shape: tuple[int, int]
    first: tuple[int, int]
    shifts: Float[np.ndarray, "slice 2"]
    tilt: str = ""

    def placed(self, values: Float[np.ndarray, "row column"], index: int) -> Float[np.ndarray, "height width"]:
        """Returns a slice where it lies, between pixels by linear interpolation; around it is its least value."""
        at = self.shifts[index] - self.first
        if self.shape == values.shape:
            return values
        whole = np.floor(at + 1e-6).astype(int)
        canvas = np.full(self.shape, values.min())
        canvas[whole[0] : whole[0] + values.shape[0], whole[1] : whole[1] + values.shape[1]] = values
        rest = np.maximum(at - whole, 0)
        if (rest < 1e-6).all():
            return canvas
        return scipy.ndimage.shift(canvas, rest, order=1, mode="grid-constant", cval=values.min())


def canvas_of(path: Path, ordered: Sequence[Slice]) -> Canvas:
    """Returns the canvas of slices: their own rows and columns, unless they do not lie straight above each other.

    Raises:
        UnsupportedImageError: they are shifted so far that they hardly lie above each other.
    """
    first = ordered[0]
    moved = np.array([one.position - first.position for one in ordered])
    shifts = (moved @ first.along.T / np.array(first.pitch))[:, ::-1]  # (row, column)
    if np.abs(shifts).max() <= _SHIFTED:
        return Canvas(first.shape, (0, 0), np.zeros_like(shifts))
    low, high = np.floor(shifts.min(axis=0) + 1e-6).astype(int), np.ceil(shifts.max(axis=0) - 1e-6).astype(int)
    shape = int(first.shape[0] + high[0] - low[0]), int(first.shape[1] + high[1] - low[1])
    normal = np.cross(*first.along)
    across = np.linalg.norm(moved[-1] - (moved[-1] @ normal) * normal)
    tilt = math.degrees(math.atan2(float(across), float(moved[-1] @ normal)))
    told = f"its slices are shifted against each other by up to {np.abs(shifts).max():.1f} pixels"
    if math.prod(shape) > _LARGEST_CANVAS * math.prod(first.shape):
        raise UnsupportedImageError(
            f"{path}: {told}, so far that they are no volume of right angles. Leave out of the folder what does not "
            f"belong to the volume, or: {CONVERT}"
        )
    said = f"slices shifted by up to {np.abs(shifts).max():.1f} pixels ({tilt:.1f} degrees, as by a tilted gantry)"
    return Canvas(shape, (int(low[0]), int(low[1])), shifts, said)


def grid_affine(ordered: Sequence[Slice], canvas: Canvas) -> Float[np.ndarray, "4 4"]:
    """Returns the affine from indices (column, row, slice) to millimetres (right, anterior, superior)."""
    first, normal = ordered[0], np.cross(*ordered[0].along)
    distance = first.thickness or 0.0
    if len(ordered) > 1:
        distance = float((ordered[-1].position - first.position) @ normal) / (len(ordered) - 1)
    affine = np.eye(4)
    affine[:3, :2] = (first.along * np.array(first.pitch)[:, None]).T
    affine[:3, 2] = normal * distance
    affine[:3, 3] = first.position + affine[:3, :2] @ np.array(canvas.first[::-1])
    affine[:3] = _TO_RAS @ affine[:3]
    return affine
