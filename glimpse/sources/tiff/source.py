"""TIFFs of microscopes as sources: only the tiles that a glimpse touches are decoded, each channel through a window."""

import math
import os
import threading
import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

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
    whole_frame,
)
from glimpse.sources.held import HeldOpen
from glimpse.sources.resampling import Cut
from glimpse.sources.slide.foreground import bright_on_dark, ground_is_bright, tissue
from glimpse.sources.stated import checked_mpp, given_instead
from glimpse.sources.tiff.channels import channel_windows, check_windows, chosen_channels
from glimpse.sources.tiff.layout import Layout, Level, cut_short, describe
from glimpse.sources.tiff.segments import SegmentError, Stack
from glimpse.sources.windows import LinearWindow, finite_sample, percentile_window

MAX_VALUES = 1 << 22  # pixels times channels; a wider read is made in parts
MAX_OPEN = 256  # files held open at once; each costs a file descriptor
LEVEL_TOLERANCE = 1.01  # a level counts as fine enough when it is at most 1 % too coarse
_SAMPLED = 1 << 22  # pixels of the coarsest level that percentiles are taken of; of a larger one, blocks of it
_BLOCKS, _BLOCK = 8, 256  # so many blocks along each axis, of so many pixels
_PROBE, _LARGEST_PROBE = 64, 2048  # pixels of the view that tells bright grounds from dark ones, and of what it shows


@dataclass(frozen=True, eq=False)
class _Opened:
    """A file as a memory map, and how its values become greys.

    Attributes:
        stacks: the channels that are read, of each level.
        low: value that is black, (channel, 1, 1).
        scale: greys per unit of the values, (channel, 1, 1).
        ground: grey outside the image.
    """

    stacks: tuple[Stack, ...]
    low: np.ndarray
    scale: np.ndarray
    ground: int

    def greys(self, level: int, cut: Cut, inverted: bool) -> UInt8[np.ndarray, "channel height width"]:
        """Means over boxes through the windows; what lies outside the image is the ground."""
        values, cover = cut.means(self.stacks[level])
        if not np.isfinite(values).all():
            values = np.nan_to_num(values, nan=0.0)
        shades = np.clip((values - self.low) * self.scale, 0, 255)
        shades = 255 - shades if inverted else shades
        shades = shades * cover + np.float32(self.ground) * (1 - cover)
        return np.floor(shades + np.float32(0.5)).astype(np.uint8)


class TiffSource(ImageSource):
    """A plane of one or several channels in a TIFF: OME-TIFF, ImageJ, QPTIFF, and what else OpenSlide does not read.

    Levels may be SubIFDs or pages, pixels tiled or in strips, of 8 to 64 bits; tifffile decodes them. Red, green and
    blue of 8 bits are shown as they are, on white. All else is shown through a window for each channel, on black;
    a single channel whose ground is bright is a bright field, on white.

    The spacing is ``mpp``, else that of OME-XML, else that of ImageJ or of the resolution, else unknown.

    Args:
        path: the file.
        channels: names or numbers of the channels that are read, in this order; by default all.
        windows: which values are black and white: "auto" (percentiles of each channel on the coarsest level), [low,
            high], a list of these, one for each channel, or a mapping from names to these. By default colours have the
            whole range of their type, and other channels "auto".
        frame: which plane of a stack of depths or times, from 0.
        image: name or number of the image of a file that holds several.
        mpp: micrometres per pixel, in place of what the file says (with a warning if they differ by more than 5 %).
        name: what messages call it; by default the path.

    Raises:
        ValueError: the windows are none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        channels: Sequence[str | int] | str | int | None = None,
        windows: Any = None,
        frame: int | str | None = None,
        image: str | int | None = None,
        mpp: float | int | None = None,
        name: str | None = None,
    ) -> None:
        self.path: Path = Path(path).absolute()  # whatever the working directory is later
        self.name = name or str(path)
        check_windows(windows)
        self._options: dict[str, Any] = {
            "channels": channels, "windows": windows, "frame": frame, "image": image, "name": name,
            "mpp": checked_mpp(self.name, mpp),
        }  # fmt: skip
        self._plane = whole_frame(self.path, frame)
        self._lock = threading.RLock()
        self._layout: Layout | None = None
        self._chosen: tuple[int, ...] = ()
        self._frame: Frame | None = None
        self._windows: tuple[LinearWindow, ...] | None = None
        self._colours = self._bright = False
        self._held: _Opened | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.path, self._options)

    @property
    def frame(self) -> Frame:
        if self._frame is None:
            layout = self._known_layout()
            spacing: tuple[float, ...] | None = layout.spacing
            if self._options["mpp"] is not None:
                spacing = given_instead(self.name, (self._options["mpp"],) * 2, spacing, "um", "mpp")
            self._frame = Frame(layout.levels[0].shape, spacing, "um" if spacing else None, self.name)
        return self._frame

    @property
    def channels(self) -> int:
        self._known_layout()
        return len(self._chosen)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Returns the names of the channels that are read; a number for those without."""
        layout = self._known_layout()
        return tuple(layout.names[index] for index in self._chosen)

    @property
    def background(self) -> UInt8[np.ndarray, " channel"]:
        return np.full(self.channels, self._opened().ground, np.uint8)

    @property
    def identity(self) -> Hashable:
        return file_identity(self.path, "tiff", *(repr(self._options[name]) for name in _OF_PIXELS))

    @property
    def lasting_identity(self) -> Hashable:
        return self.identity

    @property
    def files(self) -> Sequence[Path]:
        return (self.path,)

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        opened, layout = self._opened(), self._known_layout()
        start, width = region(center, extent, size, 2)
        number, cut = _cut(layout, len(self._chosen), start, width, size)
        if cut.pixels > MAX_VALUES and max(size) > 1:
            return read_in_parts(self, start, width, size, axis=0 if size[0] > 1 else 1)  # strips are whole rows
        try:
            return opened.greys(number, cut, layout.inverted)
        except SegmentError as error:
            raise self._damaged(number, cut, error) from error

    def shown(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> Float[np.ndarray, "2 d"]:
        layout = self._known_layout()
        start, width = region(center, extent, size, 2)
        number, cut = _cut(layout, len(self._chosen), start, width, size)
        if cut.pixels > MAX_VALUES:
            return np.stack([start, np.add(start, width)])
        scale = np.asarray(layout.levels[number].scale)
        low = np.add(cut.first, cut.start)[1:] * scale
        return np.stack([low, low + cut.extent[1:] * scale])

    def foreground(self, overview: UInt8[np.ndarray, "channel *size"]) -> Bool[np.ndarray, "*size"]:
        """Returns where tissue is: by its colour on a bright field, by its light on a dark one; it is never empty."""
        return tissue(overview) if self._opened().ground else bright_on_dark(overview)

    def check(self) -> None:
        """Compares the size of the file with what it should be, and reads a far corner and the coarsest level.

        Raises:
            RegionReadError: one of the two reads failed, so that a part of the image is damaged.
            ImageReadError: both failed, or the file is missing or truncated.
        """
        needed, size = self._known_layout().end, os.path.getsize(self.path)
        if needed > size:
            raise cut_short(self.path, needed, "pixels", size)
        corner, failures = np.asarray(self.shape) - 0.5, []
        coarsest = self._known_layout().levels[-1].scale
        for center, extent in ((corner, (1.0, 1.0)), (np.asarray(self.shape) / 2, coarsest)):
            try:
                self.read(center, np.asarray(extent), (1, 1))
            except RegionReadError as error:
                failures.append(error)
        if len(failures) > 1:  # more than a damaged part
            raise ImageReadError(str(failures[0]))
        if failures:
            raise failures[0]

    def close(self) -> None:
        self.let_go()
        _open_tiffs.forget(self)

    def let_go(self) -> None:
        """Drops the memory map; the next read opens the file again, and reads under way keep it until they end."""
        self._held = None

    def _known_layout(self) -> Layout:
        if self._layout is None:
            with self._lock:
                if self._layout is None:
                    if not self.path.is_file():
                        raise missing_file(self.path)
                    check_readable(self.path)
                    given = self._options["channels"]
                    layout = describe(self.path, self._plane, self._options["image"], given is not None)
                    self._chosen = tuple(chosen_channels(self.path, layout.names, given))
                    channel_windows(self.path, [layout.names[i] for i in self._chosen], self._options["windows"])
                    self._layout = layout
        return self._layout

    def _opened(self) -> _Opened:
        opened = self._held
        if opened is None:
            with self._lock:
                opened = self._held
                if opened is None:
                    opened = self._held = self._open()
                    _open_tiffs.opened(self)
        return opened

    def _open(self) -> _Opened:
        layout = self._known_layout()
        check_readable(self.path)
        content, file = np.memmap(self.path, np.uint8, "r").view(np.ndarray), (str(self.path), file_identity(self.path))
        dtype = layout.dtype
        missing = float(np.iinfo(dtype).max) if layout.colours and dtype.kind in "ui" else 0.0
        stacks = tuple(
            Stack([level.planes[i] for i in self._chosen], level.shape, dtype, content, file, missing)
            for level in layout.levels
        )
        if self._windows is None:
            try:
                if dtype.kind == "f":
                    self._check_values(stacks)
                self._colours, self._bright = self._kind_of_light(layout, stacks)
                self._windows = self._found_windows(layout, stacks[-1])
            except SegmentError as error:
                whole = Cut.of((0, 0, 0), stacks[-1].shape, stacks[-1].shape)
                raise self._damaged(len(stacks) - 1, whole, error) from error
        return _Opened(stacks, *_as_factors(self._windows), 255 * self._bright)

    def _check_values(self, stacks: Sequence[Stack]) -> None:
        """Refuses an image without any finite value, and warns of channels without one.

        Raises:
            ImageReadError: there is none.
        """
        sample = np.stack([one.reshape(-1) for one in _sample(stacks[-1])])
        finite_sample(self.path, sample, (rows for stack in reversed(stacks) for rows in _rows_of(stack)))
        names, missing = self.channel_names, ~np.isfinite(sample).any(axis=1)
        named = [name for name, absent in zip(names, missing, strict=True) if absent]
        if named and not missing.all():
            warnings.warn(
                f"{self.name}: hardly any value is a finite number in the channels {', '.join(named)}, so they show "
                "nothing. Choose others with env.cohort.channels.",
                UserWarning,
                stacklevel=2,
            )

    def _kind_of_light(self, layout: Layout, stacks: tuple[Stack, ...]) -> tuple[bool, bool]:
        """Tells whether the channels are red, green and blue, and whether the ground is bright.

        Some programs write the colours of a bright field as three channels of 8 bits without names.
        """
        if layout.colours:
            return True, True
        if not layout.perhaps_colours and len(layout.names) > 1:
            return False, False
        window = LinearWindow(0.0, 255.0) if layout.perhaps_colours else percentile_window(_sample(stacks[-1])[0])
        shape, count = layout.levels[-1].shape, len(self._chosen)
        part = [float(min(n, _LARGEST_PROBE)) for n in shape]  # of a large image of one level, a corner has to do
        cut = Cut.of((0.0, 0.0, 0.0), (float(count), *part), (count, *(min(n, _PROBE) for n in shape)))
        shown = _Opened(stacks, *_as_factors([window] * count), 0).greys(len(stacks) - 1, cut, layout.inverted)
        bright = ground_is_bright(np.rint(shown.mean(axis=0)).astype(np.uint8))
        return bright and layout.perhaps_colours, bright

    def _found_windows(self, layout: Layout, coarsest: Stack) -> tuple[LinearWindow, ...]:
        """Returns the windows that are given; in place of the others the range of colours, or percentiles."""
        names = [layout.names[index] for index in self._chosen]
        given = channel_windows(self.path, names, self._options["windows"])
        if self._colours and layout.dtype.kind in "ui" and self._options["windows"] is None:
            return (LinearWindow(0.0, float(np.iinfo(layout.dtype).max)),) * len(names)
        if all(window is not None for window in given):
            return tuple(window for window in given if window is not None)
        values = _sample(coarsest)
        return tuple(window or percentile_window(one) for window, one in zip(given, values, strict=True))

    def _damaged(self, level: int, cut: Cut, error: SegmentError) -> RegionReadError:
        (top, left), (bottom, right) = cut.first[1:], cut.last[1:]
        place = f"level {level}, {right - left} x {bottom - top} pixels from (x {left}, y {top}) of this level"
        return RegionReadError(
            f"{self.path}: cannot be read at {place} ({error}). A part of the file is damaged: copy it again and "
            "compare its size with the original's; env.cohort.on_error=skip shows such parts as background."
        )


_OF_PIXELS = ("channels", "windows", "frame", "image")  # options that change what is shown
_open_tiffs = HeldOpen(MAX_OPEN)


def _rebuild(path: Path, options: dict[str, Any]) -> TiffSource:
    return TiffSource(path, **options)


def _cut(
    layout: Layout, channels: int, start: Sequence[float], width: Sequence[float], size: Sequence[int]
) -> tuple[int, Cut]:
    """Returns the number of the coarsest level that is fine enough, and what to read of its (channel, y, x)."""
    finest = min(one / n for one, n in zip(width, size, strict=True)) * LEVEL_TOLERANCE
    fine = [number for number, level in enumerate(layout.levels) if max(level.scale) <= finest]
    number = fine[-1] if fine else 0
    level: Level = layout.levels[number]
    first = [value / scale for value, scale in zip(start, level.scale, strict=True)]
    extent = [value / scale for value, scale in zip(width, level.scale, strict=True)]
    return number, Cut.of((0.0, *first), (float(channels), *extent), (channels, *size))


def _as_factors(windows: Sequence[LinearWindow]) -> tuple[np.ndarray, np.ndarray]:
    """Returns what is black, and how many greys a unit of the values is, (channel, 1, 1) each."""
    low = np.array([window.low for window in windows], np.float32)
    scale = np.array([255 / (window.high - window.low) for window in windows], np.float32)
    return low.reshape(-1, 1, 1), scale.reshape(-1, 1, 1)


def _sample(stack: Stack) -> Sequence[np.ndarray]:
    """Returns values of each channel: all of a level that is small enough, else those of blocks at even distances."""
    channels, height, width = stack.shape
    if height * width * channels <= _SAMPLED:
        return list(stack[slice(0, channels), slice(0, height), slice(0, width)])
    blocks = []
    for top in _starts(height):
        for left in _starts(width):
            rows, columns = slice(top, min(top + _BLOCK, height)), slice(left, min(left + _BLOCK, width))
            blocks.append(stack[slice(0, channels), rows, columns].reshape(channels, -1))
    return list(np.concatenate(blocks, axis=1))


def _rows_of(stack: Stack) -> Iterator[np.ndarray]:
    """Yields all values of a level, some rows at a time."""
    channels, height, width = stack.shape
    for top in range(0, height, _BLOCK):
        yield stack[slice(0, channels), slice(top, min(top + _BLOCK, height)), slice(0, width)]


def _starts(length: int) -> list[int]:
    count = min(_BLOCKS, math.ceil(length / _BLOCK))
    return sorted({round(place) for place in np.linspace(0, max(length - _BLOCK, 0), count)})
