"""MR and CT volumes: NIfTI files and folders of DICOM slices, memory-mapped, in canonical axes."""

import math
import os
import threading
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from glimpse.geometry import Frame, Numbers
from glimpse.sources.base import ImageSource, check_readable, file_identity, one_frame, region, understood, whole_frame
from glimpse.sources.held import HeldOpen
from glimpse.sources.resampling import Cut
from glimpse.sources.stated import checked_mpp, given_instead, spacing_per_axis
from glimpse.sources.volume import nifti
from glimpse.sources.volume.body import HOUNSFIELD_AIR, ValueRange, body_mask, lung_mask
from glimpse.sources.volume.dicom_folder import files_below, folder_identity
from glimpse.sources.volume.dicom_series import open_series
from glimpse.sources.volume.grid import VoxelGrid
from glimpse.sources.volume.nifti import NiftiLayout
from glimpse.sources.volume.slabs import Means, means_in_slabs
from glimpse.sources.volume.unpacked import open_unpacked
from glimpse.sources.windows import (
    PERCENTILES,
    LinearWindow,
    finite_sample,
    greys,
    parse_windows,
    percentile_window,
    regular_sample,
)

MAX_PIXELS = 1 << 21  # a wider read is made slab by slab
MAX_OPEN = 256  # volumes held open at once; each costs a file descriptor
_FOREGROUNDS = ("body", "lungs")


@dataclass(frozen=True)
class _Opened:
    """A volume as a memory map, and how its values become greys.

    Attributes:
        stored: the file's values (z, y, x).
        slope: a stored value ``x`` means ``slope x + intercept``.
        intercept: see ``slope``.
        windows: one per channel.
    """

    stored: np.ndarray
    slope: float
    intercept: float
    windows: tuple[LinearWindow, ...]

    def read(self, start: list[float], extent: list[float], size: list[int]) -> UInt8[np.ndarray, "channel *size"]:
        if extent == size:  # most glimpses: nothing to average
            z, y, x = (math.floor(value + 0.5) for value in start)
            part = self.stored[z : z + size[0], y : y + size[1], x : x + size[2]]
            if min(z, y, x) >= 0 and list(part.shape) == size:
                return greys(self._meant(part), self.windows)
        cut = Cut.of(start, extent, size)
        slowest_first = sorted(range(3), key=lambda axis: -abs(self.stored.strides[axis]))
        values, cover = means_in_slabs(cut, self.stored.shape, self._means, MAX_PIXELS, slowest_first)
        return greys(values, self.windows, cover)

    def _means(self, cut: Cut) -> Means:
        """Returns means over boxes; only the pixels inside the image are fetched."""
        shape = self.stored.shape
        first = tuple(min(max(a, 0), n) for a, n in zip(cut.first, shape, strict=True))
        moved = Cut(
            tuple(a - f for a, f in zip(cut.first, first, strict=True)),
            tuple(b - f for b, f in zip(cut.last, first, strict=True)),
            cut.start, cut.extent, cut.size,
        )  # fmt: skip
        return moved.means(self._meant(_part(self.stored, cut)))

    def _meant(self, stored: np.ndarray) -> Float[np.ndarray, "*size"]:
        """Returns what stored values mean, float32; NaN becomes the lowest value that is shown."""
        # The rows of a block lie far apart, so fetching takes most of the time; converting goes faster from a copy.
        with np.errstate(over="ignore"):  # what is beyond its range becomes infinite
            values = np.ascontiguousarray(stored).astype(np.float32)
        if self.slope != 1.0:
            values *= np.float32(self.slope)
        if self.intercept != 0.0:
            values += np.float32(self.intercept)
        if stored.dtype.kind == "f" and not np.isfinite(values).all():
            low, high = min(w.low for w in self.windows), max(w.high for w in self.windows)
            np.nan_to_num(values, copy=False, nan=low, posinf=high, neginf=low)
        return values


class _Sampled(NamedTuple):
    """What a regular sample of a volume tells: the automatic window, and what hardly any values lie beyond."""

    window: LinearWindow
    values: ValueRange


def _sample(path: Path, stored: np.ndarray, layout: NiftiLayout) -> _Sampled:
    planes = np.moveaxis(stored, int(np.argmax(np.abs(stored.strides))), 0)
    known = finite_sample(path, regular_sample(stored), planes).astype(np.float64) * layout.slope + layout.intercept
    return _Sampled(percentile_window(known), ValueRange(*np.percentile(known, PERCENTILES).tolist()))


def _part(image: np.ndarray, cut: Cut) -> np.ndarray:
    """Returns the pixels of a cut that lie inside an image."""
    z, y, x = (
        slice(min(max(a, 0), n), max(min(b, n), 0))
        for a, b, n in zip(cut.first, cut.last, image.shape, strict=True)
    )  # fmt: skip
    return image[z, y, x]


class VolumeSource(ImageSource):
    """A volume (z, y, x) whose indices grow to superior, anterior and the patient's right.

    This is the transpose of what nibabel calls the closest canonical orientation; oblique volumes take their nearest
    axes. Nothing is loaded: a `.nii` is memory-mapped, a `.nii.gz` or a folder of DICOM slices is unpacked once into
    the cache that `glimpse.sources.volume.unpacked` describes. What lies outside the volume is black: 0 in every
    channel.

    Args:
        path: a NIfTI file, compressed or not, or a folder that holds a DICOM series.
        windows: which values are black and white, one channel for each: "auto" (percentiles of a regular sample),
            names of `glimpse.sources.windows.CT_WINDOWS` (Hounsfield units), [low, high], or a list of these.
        spacing: millimetres per pixel, one value or (z, y, x), in place of what the file says; a file that states a
            length of 0, a negative one or none says nothing, and its spacing is unknown.
        name: what messages call it; by default the path.
        frame: which volume of a file or series that holds several, from 0.
        series: SeriesInstanceUID, number or description, where a folder holds several series.
        foreground: where looking can make sense: "body" (a head counts as one), or "lungs" (CT only; air within it).
        mpp: micrometres per pixel, likewise, one value for all axes; it counts more than ``spacing``, because it is
            said of this image alone.

    Raises:
        ValueError: the windows or the foreground are none of these.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        windows: Any = "auto",
        spacing: Sequence[float] | float | int | None = None,
        name: str | None = None,
        frame: int | str | None = None,
        series: str | int | None = None,
        foreground: str = "body",
        mpp: float | None = None,
    ) -> None:
        if foreground not in _FOREGROUNDS:
            raise ValueError(f"foreground is one of {', '.join(_FOREGROUNDS)}, got {foreground!r}.")
        self._lungs = foreground == "lungs"
        self.path: Path = Path(path).absolute()  # whatever the working directory is later
        self.name = name or str(path)
        self._windows = parse_windows(windows)
        self._spacing = None if spacing is None else spacing_per_axis(self.name, spacing, 3)
        self._volume, self._series = whole_frame(self.path, frame), None if series is None else str(series)
        self._mpp = checked_mpp(self.name, mpp)
        self._lock = threading.Lock()
        self._layout: NiftiLayout | None = None
        self._frame: Frame | None = None
        self._sampled: _Sampled | None = None
        self._held: _Opened | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        windows = ["auto" if window is None else (window.low, window.high) for window in self._windows]
        options = {
            "windows": windows, "spacing": self._spacing, "name": self.name, "frame": self._volume,
            "series": self._series, "foreground": _FOREGROUNDS[self._lungs], "mpp": self._mpp,
        }  # fmt: skip
        return _rebuild, (self.path, options)

    @property
    def frame(self) -> Frame:
        if self._frame is None:
            with self._lock:
                layout = self._known_layout()
                spacing: tuple[float, ...] | None = layout.spacing
                if self._mpp is not None:
                    spacing = given_instead(self.name, (self._mpp / 1000,) * 3, layout.spacing, "mm", "mpp")
                elif self._spacing is not None:
                    spacing = given_instead(self.name, self._spacing, layout.spacing, "mm", "spacing")
                self._frame = Frame(layout.shape, spacing, "mm" if spacing else None, self.name)
        return self._frame

    @property
    def channels(self) -> int:
        return len(self._windows)

    @property
    def background(self) -> UInt8[np.ndarray, " channel"]:
        return np.zeros(self.channels, np.uint8)

    @property
    def identity(self) -> Hashable:
        options = (self._windows, self._spacing, self._volume, self._series, self._lungs)
        of_path = folder_identity if self.path.is_dir() else file_identity
        return of_path(self.path, *options)

    @property
    def lasting_identity(self) -> Hashable:
        return self.identity

    @property
    def files(self) -> Sequence[Path]:
        return tuple(files_below(self.path)) if self.path.is_dir() else (self.path,)

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        start, width = region(center, extent, size, 3)
        return self._opened().read(start, width, [int(n) for n in size])

    @property
    def grid(self) -> VoxelGrid:
        """Returns how the axes of the image lie in the file, and where its voxels lie in the body.

        It is what the file says, also where the spacing was given instead.
        """
        with self._lock:
            return self._known_layout().grid

    def foreground(self, overview: UInt8[np.ndarray, "channel *size"]) -> Bool[np.ndarray, "*size"]:
        """Returns where head, body or lungs are, told from air by the first channel; it is never empty."""
        window = self._opened().windows[0]
        assert self._sampled is not None, "a volume that was opened has been sampled"
        values = self._sampled.values
        air = 255 * float(window(np.array(HOUNSFIELD_AIR, np.float32)))
        known = air if values.hounsfield_air and 0 < air < 255 else None
        body = body_mask(overview[0], values, known)
        return lung_mask(overview[0], body, air) if self._lungs and values.hounsfield_air else body

    def close(self) -> None:
        self.let_go()
        _open_volumes.forget(self)

    def let_go(self) -> None:
        """Drops the handle; the next read opens the file again, and reads under way keep it until they end."""
        self._held = None

    def _opened(self) -> _Opened:
        opened = self._held
        if opened is None:
            with self._lock:
                opened = self._held
                if opened is None:
                    opened = self._held = self._open()
                    _open_volumes.opened(self)
        return opened

    def _open(self) -> _Opened:
        layout = self._known_layout()
        with understood(self.path), self._unpacked() as file:
            stored = layout.mapped(file, self.path, 0 if self.path.is_dir() else self._volume or 0)
            sampled = self._sampled = self._sampled or _sample(self.path, stored, layout)
        windows = tuple(window or sampled.window for window in self._windows)
        return _Opened(stored, layout.slope, layout.intercept, windows)

    def _known_layout(self) -> NiftiLayout:
        if self._layout is None:
            check_readable(self.path)
            with understood(self.path):
                if self.path.is_dir():
                    with self._unpacked() as file:
                        layout = nifti.layout_of(file, self.path)
                else:
                    layout = nifti.read_layout(self.path)
                Frame(layout.shape, layout.spacing, "mm", self.name)  # refuses sizes that make no sense
            if not self.path.is_dir():  # of a folder, the one that was chosen is unpacked
                one_frame(self.path, layout.volumes, self._volume, "volume")
            elif layout.description:  # told whenever it is opened, not only when it is converted
                width, height = layout.stored[:2]
                warnings.warn(
                    f"{self.name}: {layout.description}; they were put where they lie, on a grid of right angles of "
                    f"{height} x {width} pixels.",
                    UserWarning,
                    stacklevel=2,
                )
            self._layout = layout
        return self._layout

    def _unpacked(self) -> BinaryIO:
        """Opens an uncompressed NIfTI file of the volume."""
        check_readable(self.path)
        if self.path.is_dir():
            return open_series(self.path, self._series, self._volume)
        if nifti.is_packed(self.path):
            return open_unpacked(file_identity(self.path.resolve()), partial(nifti.unpack, self.path))
        return open(self.path, "rb")


def _rebuild(path: Path, options: dict[str, Any]) -> VolumeSource:
    return VolumeSource(path, **options)


_open_volumes = HeldOpen(MAX_OPEN)
