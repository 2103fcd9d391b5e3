"""What an agent sees of a case: one overview, its foreground, and glimpses; the same for everybody who looks."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from glimpse.geometry import Extent, MissingSpacingError, Numbers
from glimpse.sources.base import ImageSource
from glimpse.sources.caches import overviews

_PAIRS = 1 << 20  # glimpses and marks compared at once


@dataclass(frozen=True)
class Views:
    """Sizes of what is seen.

    Overviews and foregrounds are cached (GLIMPSE_OVERVIEW_CACHE_MB, 512 MB for the process), shared by equal sizes, and
    read-only.

    Attributes:
        overview_size: pixels of the overview per axis.
        glimpse_size: pixels of every glimpse per axis.
        glimpse_extents: fields of view, one per zoom; anything that `Extent.parse` reads.
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
        object.__setattr__(self, "glimpse_extents", tuple(Extent.parse(extent) for extent in self.glimpse_extents))
        if not self.glimpse_extents:
            raise ValueError("glimpse_extents is empty: give at least one field of view, e.g. (128,) or ('64um',).")

    @property
    def ndim(self) -> int:
        """Number of axes of the images."""
        return len(self.overview_size)

    def extent(self, source: ImageSource, zoom: int = 0) -> np.ndarray:
        """Field of view of a zoom in level-0 pixels of a source, float64 (d,).

        Raises:
            MissingSpacingError: the extent is physical and the source's spacing is unknown.
        """
        return self.glimpse_extents[zoom].to_pixels(source.frame)

    def sides(self, source: ImageSource, zoom: int = 0) -> tuple[float, ...]:
        """Lengths of a glimpse's axes in a source's unit, or in level-0 pixels where it has none."""
        return tuple((self.extent(source, zoom) / source.shape * source.frame.sides).tolist())

    def overview(self, source: ImageSource) -> UInt8[np.ndarray, "channel *size"]:
        """The whole image at overview size; cached and read-only."""
        key = ("overview", _identity(source), self.overview_size)
        return overviews.get(key, lambda: source.overview(self.overview_size))

    def foreground(self, source: ImageSource) -> UInt8[np.ndarray, "1 *size"]:
        """The foreground of the overview, 0 or 1; cached and read-only."""
        key = ("foreground", _identity(source), self.overview_size)
        return overviews.get(key, lambda: source.foreground(self.overview(source))[None].astype(np.uint8))

    def glimpse(
        self, source: ImageSource, location: Numbers, zoom: int = 0, margin: float | int = 1.0
    ) -> UInt8[np.ndarray, "channel *size"]:
        """The patch around a location.

        Args:
            source: the image.
            location: its centre in [-1, 1]^d, (d,).
            zoom: index into ``glimpse_extents``.
            margin: enlarges extent and size alike, at the same resolution; leaves room for augmentation.

        Returns:
            uint8 (channel, *size), with size ``glimpse_size`` times ``margin``, rounded.
        """
        extent = self.extent(source, zoom)
        size = self.glimpse_size
        if margin != 1.0:
            size = tuple(max(round(n * margin), 1) for n in size)
            extent = extent * np.divide(size, self.glimpse_size)
        return source.read(source.frame.to_pixels(location), extent, size)

    def pixels_read(self, source: ImageSource, locations: np.ndarray, zooms: Sequence[int] | np.ndarray) -> int:
        """Level-0 pixels of the glimpses at locations (n, d), clipped to the image; overlaps count each time.

        A wide field of view counts with the whole area it covers, although a coarser level is read for it.
        """
        count = len(zooms)
        if count == 0:
            return 0
        centers = source.frame.to_pixels(np.asarray(locations, np.float64).reshape(count, self.ndim))
        half = np.stack([self.extent(source, int(zoom)) for zoom in zooms]) / 2
        sides = np.minimum(centers + half, source.shape) - np.maximum(centers - half, 0)
        return round(float(np.maximum(sides, 0).prod(axis=1).sum()))

    def foreground_pixels(self, source: ImageSource) -> float:
        """Level-0 pixels of the foreground."""
        return float(self.foreground(source).mean()) * math.prod(source.shape)

    def share(self, source: ImageSource, locations: np.ndarray, zooms: Sequence[int] | np.ndarray) -> float:
        """Pixels read over pixels of the foreground: what part of what there is to see has been looked at."""
        return self.pixels_read(source, locations, zooms) / self.foreground_pixels(source)

    def hits(
        self,
        source: ImageSource,
        locations: np.ndarray,
        zooms: Sequence[int] | np.ndarray,
        marks: Float[np.ndarray, "mark 2 d"],
    ) -> Bool[np.ndarray, " mark"]:
        """Which marks some glimpse hits: it shows the mark whole, or lies in it.

        On every axis a glimpse and the mark overlap by at least the smaller of their sides, less half a pixel for what
        rounding takes away.

        Args:
            source: the image.
            locations: of the glimpses, (n, d).
            zooms: their fields of view, (n,).
            marks: low and high corners of boxes in level-0 pixels.
        """
        count = len(zooms)
        if count == 0 or len(marks) == 0:
            return np.zeros(len(marks), bool)
        centers = source.frame.to_pixels(np.asarray(locations, np.float64).reshape(count, self.ndim))[:, None]
        half = np.stack([self.extent(source, int(zoom)) for zoom in zooms])[:, None] / 2
        found = []
        for part in np.array_split(np.asarray(marks, np.float64), math.ceil(count * len(marks) / _PAIRS)):
            low, high = part[:, 0], part[:, 1]
            overlap = np.minimum(centers + half, high) - np.maximum(centers - half, low)
            found.append((overlap >= np.minimum(2 * half, high - low) - 0.5).all(axis=2).any(axis=0))
        return np.concatenate(found)

    def problems(self, source: ImageSource, grid: tuple[int, ...] | None = None) -> list[str]:
        """What makes it impossible to look at a source with these sizes; empty where all is well.

        Args:
            source: the image.
            grid: cells of the overview that the agent can point at, per axis; None where it points anywhere.
        """
        if source.ndim != self.ndim:
            return [
                f"{source.name}: the image has {source.ndim} axes, overview_size {self.overview_size} has {self.ndim}. "
                "Give one size per axis of the image."
            ]
        try:
            extents = np.stack([self.extent(source, zoom) for zoom in range(len(self.glimpse_extents))])
        except (MissingSpacingError, ValueError) as error:
            return [str(error)]
        found = [
            f"{source.name}: a glimpse of {text} ({_sizes(extent)} pixels) is larger than the image "
            f"({_sizes(source.shape)} pixels). Choose a smaller glimpse_extents, or leave the case out."
            for text, extent in zip(map(str, self.glimpse_extents), extents, strict=True)
            if (extent > np.asarray(source.shape)).any()
        ]
        return found + ([] if grid is None else self._coarse_cells(source, grid, extents.max(axis=0)))

    def _coarse_cells(self, source: ImageSource, grid: tuple[int, ...], widest: np.ndarray) -> list[str]:
        if len(grid) != self.ndim:
            return [f"{source.name}: a grid of {len(grid)} axes cannot point into an image of {self.ndim} axes."]
        pitch = np.divide(source.shape, grid)
        if (pitch <= widest * (1 + 1e-9)).all():
            return []
        return [
            f"{source.name}: cells coarser than glimpses: {_sizes(grid)} cells lie {_sizes(pitch)} pixels apart, but a "
            f"glimpse spans {_sizes(widest)}, so parts of the image cannot be reached. Choose a larger overview_size "
            "(more cells) or a larger glimpse_extents."
        ]


def _identity(source: ImageSource) -> Hashable:
    return (type(source).__qualname__, source.identity)


def _sizes(values: Sequence[float | int] | np.ndarray) -> str:
    return " x ".join(f"{float(value):.6g}" for value in values)
