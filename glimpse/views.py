"""What an agent sees of a case: the overview, its foreground, and glimpses. All code that reads cases uses this."""

import functools
import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from glimpse.geometry import CellGrid, Extent, Frame, MissingSpacingError, Numbers
from glimpse.sources.base import ImageSource
from glimpse.sources.caches import glimpses, overviews

LARGER, MISORDERED = "is larger than the image", "the fields of view have to go from wide to fine"
_PAIRS = 1 << 20  # so many pairs of a glimpse and a mark are compared at once


class MisfitError(ValueError):
    """An image cannot be looked at with the sizes of an environment's views.

    Attributes:
        what: which case it is, and why, without what to do.
        views: the sizes.
        channels: number of channels of the image.
    """

    def __init__(self, what: str, views: "Views", channels: int, remedy: str = "") -> None:
        super().__init__(f"{what} {remedy}".rstrip())
        self.what, self.views, self.channels = what, views, channels


@dataclass(frozen=True)
class Views:
    """The sizes of overviews and glimpses, and the methods that read them from sources.

    Overviews and foregrounds are cached and read-only. There is one cache per process; its size is set by the
    environment variable GLIMPSE_OVERVIEW_CACHE_MB, and is 512 MB by default. Glimpses that are likely to be read again,
    in training, have a cache of their own (`kept_glimpse`; GLIMPSE_GLIMPSE_CACHE_MB, 256).

    Attributes:
        overview_size: pixels of the overview per axis.
        glimpse_size: pixels of every glimpse per axis.
        glimpse_extents: fields of view, from wide to fine (agents refuse another order), one per zoom; anything that
            `Extent.parse` reads.
    """

    overview_size: tuple[int, ...]
    glimpse_size: tuple[int, ...]
    glimpse_extents: tuple[Extent, ...]

    def __post_init__(self) -> None:
        for name in ("overview_size", "glimpse_size"):
            size = tuple(int(n) for n in getattr(self, name))
            object.__setattr__(self, name, size)
            if not size or min(size) < 1:
                raise ValueError(f"{name} must be at least one pixel on every axis, got {size}.")
        if len(self.overview_size) != len(self.glimpse_size):
            raise ValueError(
                f"overview_size {self.overview_size} and glimpse_size {self.glimpse_size} must have equally many axes."
            )
        extents = tuple(Extent.parse(extent).at(self.glimpse_size) for extent in self.glimpse_extents)
        object.__setattr__(self, "glimpse_extents", extents)
        if not self.glimpse_extents:
            raise ValueError("glimpse_extents is empty: give at least one field of view, e.g. (128,) or ('64um',).")

    @property
    def ndim(self) -> int:
        """Number of axes of the images."""
        return len(self.overview_size)

    def extent(self, source: ImageSource, zoom: int = 0) -> np.ndarray:
        """Returns the field of view of a zoom in level-0 pixels of a source, float64 (d,), read-only.

        Raises:
            MissingSpacingError: the extent is physical and the source's spacing is unknown.
        """
        return _in_pixels(self.glimpse_extents[zoom], source.frame)

    def extents(self, source: ImageSource) -> Float[np.ndarray, "zoom d"]:
        """Returns all fields of view in level-0 pixels of a source (see `extent`)."""
        return np.stack([self.extent(source, zoom) for zoom in range(len(self.glimpse_extents))])

    def relative_extents(self, source: ImageSource) -> Float[np.ndarray, "zoom d"]:
        """Returns the sides of a glimpse of each field of view, as shares of the image's sides, float32."""
        extents = [self.extent(source, zoom) / source.shape for zoom in range(len(self.glimpse_extents))]
        return np.array(extents, np.float32)

    def sides(self, source: ImageSource, zoom: int = 0) -> tuple[float, ...]:
        """Returns the lengths of a glimpse's axes in the source's unit, or in level-0 pixels if it has none."""
        return tuple((self.extent(source, zoom) / source.shape * source.frame.sides).tolist())

    def overview(self, source: ImageSource) -> UInt8[np.ndarray, "channel *size"]:
        """Returns the whole image at the size of the overview; it is cached and read-only."""
        key = ("overview", identity_of(source), self.overview_size)
        return overviews.get(key, lambda: source.overview(self.overview_size))

    def foreground(self, source: ImageSource) -> UInt8[np.ndarray, "1 *size"]:
        """Returns the foreground of the overview, 0 or 1; it is cached and read-only."""
        key = ("foreground", identity_of(source), self.overview_size)
        return overviews.get(key, lambda: source.foreground(self.overview(source))[None].astype(np.uint8))

    def glimpse(
        self, source: ImageSource, location: Numbers, zoom: int = 0, margin: float | int = 1.0
    ) -> UInt8[np.ndarray, "channel *size"]:
        """Reads the glimpse at a location.

        Args:
            source: the image.
            location: centre of the glimpse in [-1, 1]^d, (d,).
            zoom: index into ``glimpse_extents``.
            margin: factor that enlarges field of view and size, at the same resolution, as room for augmentation.

        Returns:
            uint8 (channel, *size), with size ``glimpse_size`` times ``margin``, rounded.
        """
        extent = self.extent(source, zoom)
        size = self.glimpse_size
        if margin != 1.0:
            size = tuple(max(round(n * margin), 1) for n in size)
            extent = extent * np.divide(size, self.glimpse_size)
        return source.read(source.frame.to_pixels(location), extent, size)

    def shown(self, source: ImageSource, location: Numbers, zoom: int = 0) -> Float[np.ndarray, "2 d"]:
        """Returns the region that `glimpse` shows: its low and high corner in level-0 pixels of the source's frame."""
        return source.shown(source.frame.to_pixels(location), self.extent(source, zoom), self.glimpse_size)

    def kept_glimpse(
        self, source: ImageSource, location: Numbers, zoom: int = 0, identity: Hashable | None = None
    ) -> UInt8[np.ndarray, "channel *size"]:
        """Returns what `glimpse` returns, read-only, from a cache if it was read before.

        Args:
            source: the image.
            location: centre of the glimpse in [-1, 1]^d, (d,).
            zoom: index into ``glimpse_extents``.
            identity: what `identity_of` returns; where it is given, the file is not looked at again.
        """
        place, extent = np.asarray(location, np.float32).tobytes(), self.glimpse_extents[zoom]
        key = (identity or identity_of(source), self.glimpse_size, extent.values, extent.unit, int(zoom), place)
        return glimpses.get(key, lambda: self.glimpse(source, location, zoom))

    def pixels_read(self, source: ImageSource, locations: np.ndarray, zooms: Sequence[int] | np.ndarray) -> int:
        """Returns the number of pixels that glimpses at locations (n, d) show; overlaps count each time.

        Glimpses are clipped to the image. A glimpse of the finest field of view counts the level-0 pixels that it
        covers, and a wider one, which shows them reduced, as many fewer.
        """
        count = len(zooms)
        if count == 0:
            return 0
        centers = source.frame.to_pixels(np.asarray(locations, np.float64).reshape(count, self.ndim))
        extents = self.extents(source)
        areas = extents.prod(axis=1)
        half, reduced = extents[np.asarray(zooms)] / 2, (areas.min() / areas)[np.asarray(zooms)]
        sides = np.minimum(centers + half, source.shape) - np.maximum(centers - half, 0)
        return round(float((np.maximum(sides, 0).prod(axis=1) * reduced).sum()))

    def foreground_pixels(self, source: ImageSource) -> float:
        """Returns the number of level-0 pixels in the foreground."""
        return float(self.foreground(source).mean()) * math.prod(source.shape)

    def share(self, source: ImageSource, locations: np.ndarray, zooms: Sequence[int] | np.ndarray) -> float:
        """Returns `pixels_read` divided by `foreground_pixels`; it may exceed 1."""
        return self.pixels_read(source, locations, zooms) / self.foreground_pixels(source)

    def hits(
        self,
        source: ImageSource,
        locations: np.ndarray,
        zooms: Sequence[int] | np.ndarray,
        marks: Float[np.ndarray, "mark 2 d"],
    ) -> Bool[np.ndarray, " mark"]:
        """Returns which marks are hit: a glimpse hits a mark if it contains the mark, or if the mark contains it.

        More exactly, glimpse and mark must overlap along every axis by at least the smaller of their sides, less half a
        pixel because of rounding. Of several fields of view only the finest counts: a wide glimpse shows a mark from
        afar.

        Args:
            source: the image.
            locations: locations of the glimpses, (n, d).
            zooms: indices of their fields of view, (n,).
            marks: low and high corners of the marks, in level-0 pixels.
        """
        if len(zooms) == 0 or len(marks) == 0:
            return np.zeros(len(marks), bool)
        extents = self.extents(source)
        areas = extents.prod(axis=1)
        fine = (areas <= areas.min() * (1 + 1e-9))[np.asarray(zooms)]
        count = max(1, int(fine.sum()))
        chosen = np.asarray(locations, np.float64).reshape(len(fine), self.ndim)[fine]
        centers, half = source.frame.to_pixels(chosen)[:, None], extents[np.asarray(zooms)][fine][:, None] / 2
        found = []
        for part in np.array_split(np.asarray(marks, np.float64), math.ceil(count * len(marks) / _PAIRS)):
            low, high = part[:, 0], part[:, 1]
            overlap = np.minimum(centers + half, high) - np.maximum(centers - half, low)
            found.append((overlap >= np.minimum(2 * half, high - low) - 0.5).all(axis=2).any(axis=0))
        return np.concatenate(found)

    def problems(
        self, image: ImageSource | Frame, grid: CellGrid | None = None, view_grid: CellGrid | None = None
    ) -> list[str]:
        """Returns messages that say why an image cannot be read with these sizes; an empty list if it can.

        What to do depends on who asks: a training may change its sizes, a trained policy keeps them.

        Args:
            image: the image, or only its level-0 grid.
            grid: the cells of the overview from which the agent chooses locations; None if it can choose any location.
            view_grid: the cells of wide glimpses, from which it chooses those of the next field of view.
        """
        if image.ndim != self.ndim:
            return [
                f"{image.name}: the image has {image.ndim} axes, overview_size {self.overview_size} has {self.ndim}. "
                "Give one size per axis of the image."
            ]
        frame = image if isinstance(image, Frame) else image.frame
        try:
            extents = np.stack([extent.to_pixels(frame) for extent in self.glimpse_extents])
        except (MissingSpacingError, ValueError) as error:
            return [str(error)]
        found = [
            f"{image.name}: a glimpse of {text} ({_sizes(extent)} pixels) {LARGER} ({_sizes(frame.shape)} pixels)."
            for text, extent in zip(map(str, self.glimpse_extents), extents, strict=True)
            if (extent > np.asarray(frame.shape)).any()
        ]
        if grid is not None and (why := unreached(frame.shape, extents, grid, view_grid or grid)):
            found.append(f"{image.name}: {why}")
        return found


def unreached(
    shape: Sequence[int],
    extents: Float[np.ndarray, "zoom d"],
    grid: CellGrid,
    view_grid: CellGrid,
    pixels: str = "pixels",
) -> str:
    """Says why parts of an image cannot be reached from cells; "" if all of it can.

    Args:
        shape: pixels of the image per axis.
        extents: the fields of view in such pixels.
        grid: the cells of the overview, at which glimpses of the first field of view are read.
        view_grid: the cells of wide glimpses, at which those of the next field of view are read.
        pixels: what these pixels are called.
    """
    if len(grid.side) != len(shape):
        return f"a grid of {len(grid.side)} axes cannot point into an image of {len(shape)} axes."
    if why := misordered(extents, pixels):
        return f"{why}."
    lost = "so parts of the image cannot be reached."
    pitch = np.multiply(shape, grid.pitch)
    if (pitch > extents[0] * (1 + 1e-9)).any():
        return (
            f"cells coarser than glimpses: {_sizes(grid.cells)} cells lie {_sizes(pitch)} {pixels} apart, but a "
            f"glimpse spans {_sizes(extents[0])}, {lost}"
        )
    for wide, fine in itertools.pairwise(extents):
        apart = wide * view_grid.pitch
        if (apart > fine * (1 + 1e-9)).any():
            return (
                f"a glimpse of {_sizes(wide)} {pixels} has cells that lie {_sizes(apart)} {pixels} apart, but the next "
                f"field of view spans {_sizes(fine)}, {lost}"
            )
    return ""


def misordered(extents: Float[np.ndarray, "zoom d"], unit: str = "pixels") -> str:
    """Says that fields of view do not go from wide to fine; "" if they do. `unit` is that of extents.

    None is wider than the one before it on any axis, and each is finer on one axis at least: of a stack of few slices,
    all of them may span the whole depth.
    """
    before, change = extents[:-1], np.diff(extents, axis=0)
    if (change <= 1e-9 * before).all() and (change < -1e-9 * before).any(axis=1).all():
        return ""
    return (
        f"{MISORDERED}, each finer than the one before it, but they span "
        f"{', '.join(_sizes(extent) for extent in extents)} {unit}"
    )


def identity_of(source: ImageSource) -> Hashable:
    """Returns what tells the pixels of a source from those of all others, and of the same file before a change."""
    return (type(source).__qualname__, source.identity)


@functools.lru_cache(1024)
def _in_pixels(extent: Extent, frame: Frame) -> np.ndarray:
    pixels = extent.to_pixels(frame)
    pixels.setflags(write=False)
    return pixels


def _sizes(values: Sequence[float | int] | np.ndarray) -> str:
    return " x ".join(f"{float(value):.6g}" for value in values)
