"""Whole-slide images through OpenSlide: SVS, NDPI, MRXS, SCN, tiled TIFF, DICOM."""

import functools
import math
import os
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from glimpse.geometry import Frame, Numbers
from glimpse.sources.base import (
    ImageReadError,
    ImageSource,
    RegionReadError,
    check_readable,
    file_identity,
    missing_file,
    read_in_parts,
    region,
    understood,
)
from glimpse.sources.caches import clears
from glimpse.sources.held import HeldOpen
from glimpse.sources.slide.files import (
    check_complete,
    check_tiles,
    detected_format,
    dicom_files,
    explain_unreadable,
    known_mpp,
)
from glimpse.sources.slide.foreground import tissue
from glimpse.sources.slide.pixels import Kept, on_white, planes, planes_of, read_pixels
from glimpse.sources.stated import checked_mpp
from glimpse.sources.volume.dicom_folder import files_below, folder_identity

_SINGLE_FILES = (".svs", ".ndpi", ".scn", ".tif", ".tiff", ".bif", ".svslide")  # with all pixels in the one file
LEVEL_TOLERANCE = 1.01  # a level counts as fine enough when it is at most 1 % too coarse
MAX_PIXELS = 1 << 24  # a wider read is made in parts
MAX_OPEN = 256  # slides held open at once; each costs a file descriptor or two


def is_slide(path: Path) -> bool:
    """Tells whether OpenSlide knows the format of a file."""
    return detected_format(path) is not None


@dataclass(frozen=True)
class _Levels:
    """What a read needs to know of a slide; lengths are in (y, x) order.

    Attributes:
        frame: the image's own grid, which is the slide's bounds where it states them.
        offset: level-0 pixels of the slide before the frame begins.
        downsamples: of each level, increasing.
        bounded: whether the frame is only a part of the slide.
    """

    frame: Frame
    offset: tuple[int, int]
    downsamples: tuple[float, ...]
    bounded: bool


class SlideSource(ImageSource):
    """A whole-slide image; three channels, white outside the slide and where it is transparent.

    The spacing is ``mpp``, else the file's mpp, else its TIFF resolution, else a guess from the objective power (with a
    warning), else unknown. Where the slide states the bounds of its non-empty part, these are the image.

    Args:
        path: the file (for MRXS the .mrxs file, for DICOM any file of the series).
        mpp: micrometres per pixel, in place of what the file says (with a warning if they differ by more than 5 %).
        name: what messages call it; by default the path.
    """

    def __init__(self, path: str | os.PathLike[str], mpp: float | int | None = None, name: str | None = None) -> None:
        self.path: Path = Path(path).absolute()  # whatever the working directory is later
        self.name = name or str(path)
        self._mpp = checked_mpp(self.name, mpp)
        self._options: dict[str, Any] = {"mpp": mpp, "name": name}
        self._lock = threading.Lock()
        self._levels: _Levels | None = None
        self._slide: openslide.OpenSlide | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.path, self._options)

    @property
    def frame(self) -> Frame:
        return (self._levels or self._known_levels()).frame

    @property
    def channels(self) -> int:
        return 3

    @property
    def background(self) -> UInt8[np.ndarray, " channel"]:
        return np.full(3, 255, np.uint8)

    @property
    def identity(self) -> Hashable:
        return file_identity(self.path)

    @property
    def lasting_identity(self) -> Hashable | None:
        suffix = self.path.suffix.lower()
        if suffix == ".mrxs":  # the pixels are in the folder beside it
            beside = self.path.with_suffix("")
            return (self.identity, folder_identity(beside)) if beside.is_dir() else None
        return self.identity if suffix in _SINGLE_FILES else None

    @property
    def files(self) -> Sequence[Path] | None:
        suffix = self.path.suffix.lower()
        if suffix == ".mrxs":
            beside = self.path.with_suffix("")
            return (self.path, *files_below(beside)) if beside.is_dir() else None
        return (self.path,) if suffix in _SINGLE_FILES else dicom_files(self.path)

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        levels = self._levels or self._known_levels()
        start, width = region(center, extent, size, 2)
        cut = _cut(levels.downsamples, tuple(width), tuple(size))
        if cut.high * cut.wide > MAX_PIXELS and max(size) > 1:
            return read_in_parts(self, start, width, size)
        if cut.factors is None:
            return planes_of(self._resample(levels, cut, cut.begin(levels, start), (size[0], size[1])))
        down, across = cut.factors
        pixels = self._pixels(levels, cut.level, cut.first(levels, start), (down * size[0], across * size[1]))
        return planes(pixels, down, across)

    def shown(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> Float[np.ndarray, "2 d"]:
        levels = self._known_levels()
        start, width = region(center, extent, size, 2)
        cut = _cut(levels.downsamples, tuple(width), tuple(size))
        if cut.factors is None or cut.high * cut.wide > MAX_PIXELS:
            return np.stack([start, np.add(start, width)])
        low = np.subtract(_level_0(cut.first(levels, start), cut.scale), levels.offset).astype(np.float64)
        return np.stack([low, low + np.multiply(cut.factors, size) * cut.scale])

    @property
    def offset(self) -> tuple[int, ...]:
        return self._known_levels().offset

    def foreground(self, overview: UInt8[np.ndarray, "channel *size"]) -> Bool[np.ndarray, "*size"]:
        """Returns where tissue is, rather than glass or the scanner's dark ground (see `tissue`); it is never empty."""
        return tissue(overview)

    def check(self) -> None:
        """Compares the size of the file with what it should be, and reads a far corner and the coarsest level.

        Raises:
            RegionReadError: one of the two reads failed, so that a part of the slide is damaged.
            ImageReadError: both failed, or the file is missing or truncated.
        """
        self._known_levels()
        check_complete(self.path)
        corner, lowest = np.asarray(self.shape) - 0.5, self._known_levels().downsamples[-1]
        failures = []
        for center, extent in ((corner, 1.0), (np.asarray(self.shape) / 2, lowest)):
            try:
                self.read(center, extent, (1, 1))
            except RegionReadError as error:
                failures.append(error)
        if len(failures) > 1:  # more than a damaged part
            raise ImageReadError(str(failures[0]))
        if failures:
            raise failures[0]

    def close(self) -> None:
        self.let_go()
        _open_slides.forget(self)

    def let_go(self) -> None:
        """Drops the handle; the next read opens the file again, and reads under way keep it until they end."""
        self._slide = None

    def _handle(self) -> openslide.OpenSlide:
        slide = self._slide
        if slide is None:
            with self._lock:
                slide = self._slide
                if slide is None:
                    slide = self._slide = _open(self.path)
                    _open_slides.opened(self)
        return slide

    def _known_levels(self) -> _Levels:
        if self._levels is None:
            slide = self._handle()
            with self._lock:
                if self._levels is None:
                    with understood(self.path):
                        check_tiles(slide.properties, self.path)
                        self._levels = _describe(slide, self.name, self._mpp)
        return self._levels

    def _pixels(
        self, levels: _Levels, level: int, first: tuple[int, int], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "height width 4"]:
        """Reads pixels of a level from ``first`` on, as `read_pixels` does."""
        scale = levels.downsamples[level]
        corner = _level_0(first, scale)[::-1]
        kept = _inside(levels, scale, first) if levels.bounded else None
        return self._region(corner, level, (size[1], size[0]), kept)

    def _region(self, corner: tuple[int, int], level: int, size: tuple[int, int], kept: Kept | None) -> np.ndarray:
        """Reads a region as `read_pixels` does.

        OpenSlide keeps a handle in its error state for ever, and every read of the handle then fails. So a read that
        fails is made again with a handle of its own: perhaps another thread's read has failed, not this one.

        Args:
            corner: level-0 pixels (x, y) of the slide.
            level: which level to read.
            size: pixels of the level (width, height).
            kept: what of them is shown.

        Raises:
            RegionReadError: the region is damaged; the message names slide, level and place.
        """
        slide = self._handle()
        try:
            return read_pixels(slide, corner, level, size, kept)
        except openslide.OpenSlideError:
            self._drop(slide)
        fresh = _open(self.path)
        try:
            return read_pixels(fresh, corner, level, size, kept)
        except openslide.OpenSlideError as error:
            place = f"level {level}, {size[0]} x {size[1]} pixels from (x {corner[0]}, y {corner[1]}) at level 0"
            raise RegionReadError(
                f"{self.path}: cannot be read at {place} ({error}). A part of the file is damaged: copy it again and "
                "compare its size with the original's; env.cohort.on_error=skip shows such parts as background."
            ) from error

    def _drop(self, slide: openslide.OpenSlide) -> None:
        """Lets go of a handle that has failed, unless another thread has replaced it already."""
        with self._lock:
            if self._slide is slide:
                self._slide = None

    def _resample(self, levels: _Levels, cut: "_Cut", begin: tuple[float, float], size: tuple[int, int]) -> Image.Image:
        """Resamples a region whose edges fall inside pixels."""
        box = (*begin, begin[0] + cut.high, begin[1] + cut.wide)
        top, left = math.floor(box[0]), math.floor(box[1])
        bottom, right = max(math.ceil(box[2]), top + 1), max(math.ceil(box[3]), left + 1)
        pixels = self._pixels(levels, cut.level, (top, left), (bottom - top, right - left))
        size_read = (right - left, bottom - top)
        picture = Image.frombuffer("RGBX", size_read, on_white(pixels), "raw", "RGBX", 0, 1)
        inner = (box[1] - left, box[0] - top, box[3] - left, box[2] - top)
        return picture.resize((size[1], size[0]), Image.Resampling.BOX, box=inner)


@dataclass(frozen=True)
class _Cut:
    """How regions of one extent and size are read.

    Attributes:
        level: the level to read.
        scale: its downsample.
        high, wide: sides of a region in pixels of the level.
        factors: pixels (y, x) of the level per pixel of the result, where these are whole; regions start at the nearest
            pixel then. Otherwise None.
    """

    level: int
    scale: float
    high: float
    wide: float
    factors: tuple[int, int] | None

    def begin(self, levels: _Levels, start: Sequence[float]) -> tuple[float, float]:
        """Where a region begins, in pixels (y, x) of the level."""
        (top, left), scale = levels.offset, self.scale
        return (start[0] + top) / scale, (start[1] + left) / scale

    def first(self, levels: _Levels, start: Sequence[float]) -> tuple[int, int]:
        """The pixel (y, x) of the level nearest to where a region begins."""
        top, left = self.begin(levels, start)
        return math.floor(top + 0.5), math.floor(left + 0.5)


@functools.lru_cache(1024)
def _cut(downsamples: tuple[float, ...], width: tuple[float, ...], size: tuple[int, ...]) -> _Cut:
    rows, columns = size
    level = _best_level(downsamples, min(width[0] / rows, width[1] / columns))
    scale = downsamples[level]
    high, wide = width[0] / scale, width[1] / scale
    down, across = round(high / rows), round(wide / columns)
    whole = down >= 1 and across >= 1 and abs(down * rows - high) < 0.5 and abs(across * columns - wide) < 0.5
    return _Cut(level, scale, high, wide, (down, across) if whole else None)


def _level_0(pixel: tuple[int, int], scale: float) -> tuple[int, int]:
    """Returns the level-0 pixel (y, x) from which OpenSlide reads a pixel of a level."""
    return round(pixel[0] * scale), round(pixel[1] * scale)


_open_slides = HeldOpen(MAX_OPEN)
_cache: openslide.OpenSlideCache | None = None
_cache_lock = threading.Lock()


def _shared_cache() -> openslide.OpenSlideCache:
    """The process's one cache of decoded tiles; GLIMPSE_OPENSLIDE_CACHE_MB sets its size (512)."""
    global _cache
    with _cache_lock:
        if _cache is None:
            _cache = openslide.OpenSlideCache(int(float(os.environ.get("GLIMPSE_OPENSLIDE_CACHE_MB", "512")) * 2**20))
        return _cache


def _clear() -> None:
    """Closes all slides and leaves their decoded tiles; the next ones that are opened have another cache."""
    global _cache
    _open_slides.let_all_go()
    with _cache_lock:
        _cache = None


clears(_clear)


def _rebuild(path: Path, options: dict[str, Any]) -> SlideSource:
    return SlideSource(path, **options)


def _open(path: Path) -> openslide.OpenSlide:
    if not path.is_file():
        raise missing_file(path)
    check_readable(path)
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise explain_unreadable(path, error) from error
    slide.set_cache(_shared_cache())
    return slide


def _describe(slide: openslide.OpenSlide, name: str, mpp: float | None) -> _Levels:
    properties = slide.properties
    width, height = slide.dimensions
    bounds = [properties.get(f"openslide.bounds-{key}") for key in ("y", "x", "height", "width")]
    top, left, rows, columns = (0, 0, height, width) if None in bounds else (int(str(value)) for value in bounds)
    spacing = known_mpp(properties, name, mpp)
    frame = Frame((rows, columns), spacing, "um" if spacing else None, name)
    bounded = (top, left, rows, columns) != (0, 0, height, width)
    return _Levels(frame, (top, left), tuple(float(value) for value in slide.level_downsamples), bounded)


def _best_level(downsamples: Sequence[float], scale: float) -> int:
    """Returns the coarsest level that is still fine enough for ``scale`` level-0 pixels per pixel."""
    for level in range(len(downsamples) - 1, 0, -1):
        if downsamples[level] <= scale * LEVEL_TOLERANCE:
            return level
    return 0


def _inside(levels: _Levels, scale: float, first: tuple[int, int]) -> Kept:
    """Returns which pixels of a level, from ``first`` on, lie inside the frame and not only on the slide."""
    kept = []
    for axis in (0, 1):
        begin = round(levels.offset[axis] / scale) - first[axis]
        end = round((levels.offset[axis] + levels.frame.shape[axis]) / scale) - first[axis]
        kept.append(slice(max(begin, 0), max(end, 0)))
    return kept[0], kept[1]
