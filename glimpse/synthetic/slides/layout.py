"""What lies where on one slide, drawn from the slide's own seed before anything is painted.

Positions are level-0 pixels, (y, x). Number, place, size and outline of the spots are drawn before the target is looked
at, and both classes by the same draws; only the kind of some spots differs.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy
from PIL import Image, ImageDraw

CELL = 16
"""Level-0 pixels per cell of the coarse maps."""

STROMA, NECROSIS, HAEMORRHAGE, FAT = 1, 2, 3, 4
"""Labels of tissue; 0 is glass."""

FOCUS, LOOK_ALIKE = "tumour focus", "look-alike"

_MARGIN = 2  # cells around a spot's outline within its box
_LAYOUTS = 50
_LARGE = 3072


@dataclass(frozen=True)
class Spot:
    """A dark island of tissue.

    Attributes:
        kind: `FOCUS` or `LOOK_ALIKE`.
        outline: its border, (points, 2).
        y: row of the middle of the largest circle inside.
        x: its column.
        radius: of that circle.
    """

    kind: str
    outline: np.ndarray
    y: float
    x: float
    radius: float

    @cached_property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of cells around the spot."""
        low = self.outline.min(0) // CELL - _MARGIN
        high = self.outline.max(0) // CELL + _MARGIN + 1
        return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))

    @cached_property
    def covered(self) -> np.ndarray:
        """Mask of the cells of the box that the spot covers, or touches."""
        rows, columns = self.box
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        mask = polygon(self.outline / CELL - (rows.start, columns.start) - 0.5, shape)
        return scipy.ndimage.binary_dilation(mask)


@dataclass(frozen=True)
class Layout:
    """Plan of one slide.

    Attributes:
        size: side in pixels.
        labels: uint8 (size / 16, size / 16), kind of tissue of each cell.
        spots: the dark islands; those of a slide lie apart.
    """

    size: int
    labels: np.ndarray
    spots: tuple[Spot, ...]


def lay_out(
    rng: np.random.Generator,
    size: int,
    target: int,
    tissue_map: np.ndarray,
    islands: np.ndarray,
    all_foci: bool = False,
) -> Layout:
    """Draws the plan of a slide.

    Args:
        rng: The slide's own source of randomness.
        size: Side of the slide in pixels, a multiple of 16.
        target: 1 if some of the spots are tumour, 0 if none is.
        tissue_map: Labels of the tissue of a real slide, from which windows are taken.
        islands: Outlines of its tumour islands, (island, points, 2), centred and with a largest extent of 1.
        all_foci: Whether all spots are foci where the target is 1. If not, 1 to 3 are, and at least one is a
            look-alike.

    Raises:
        RuntimeError: There is no room for two spots.
    """
    for _ in range(_LAYOUTS):
        labels = _tissue(rng, size, tissue_map)
        spots, covered = _spots(rng, labels, islands, large=size >= _LARGE)
        if len(spots) >= 2:
            break
    else:
        raise RuntimeError(f"No room for two spots in {_LAYOUTS} layouts of {size} pixels; make larger slides.")
    labels[scipy.ndimage.binary_dilation(covered, iterations=2)] = STROMA  # a spot lies in solid tissue
    foci = rng.permutation(len(spots))[: len(spots) if all_foci else rng.integers(1, min(3, len(spots) - 1) + 1)]
    if target:
        spots = [replace(spot, kind=FOCUS) if index in foci else spot for index, spot in enumerate(spots)]
    return Layout(size, labels, tuple(spots))


def lay_out_plain(rng: np.random.Generator, size: int, tissue_map: np.ndarray) -> Layout:
    """Draws the plan of a slide without spots; the arguments are those of `lay_out`."""
    return Layout(size, _tissue(rng, size, tissue_map), ())


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Gaussian noise of mean 0 and deviation 1 that is correlated over `scale` pixels and continues itself."""
    noise = scipy.ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), scale, mode="wrap")
    return (noise - noise.mean()) / max(float(noise.std()), 1e-6)


def polygon(outline: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bool mask of a polygon of points (y, x), in pixels of the mask."""
    mask = Image.new("1", shape[::-1])
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for y, x in outline], fill=1)
    return np.asarray(mask)


def _tissue(rng: np.random.Generator, size: int, tissue_map: np.ndarray) -> np.ndarray:
    """Labels of the tissue of a slide, uint8 (size / 16, size / 16)."""
    inside = _pieces(rng, size // CELL)
    return np.where(inside, _kinds(rng, inside.shape, tissue_map), 0).astype(np.uint8)


def _pieces(rng: np.random.Generator, side: int) -> np.ndarray:
    """Mask of 1 to 4 irregular pieces of tissue that together cover 36 to 44 % of the slide."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
    field = np.full((side, side), -9.0)
    pieces, turn = int(rng.integers(1, 5)), rng.uniform(0, 2 * np.pi)
    for piece in range(pieces):
        angle = turn + 2 * np.pi * piece / pieces
        reach = 0.0 if pieces == 1 else rng.uniform(0.42, 0.58)
        dy, dx = y - reach * np.sin(angle), x - reach * np.cos(angle)
        tilt, aspect = rng.uniform(0, np.pi), rng.uniform(1.0, 1.7)
        along, across = dx * np.cos(tilt) + dy * np.sin(tilt), dy * np.cos(tilt) - dx * np.sin(tilt)
        field = np.maximum(field, -np.hypot(along / aspect, across * aspect) / rng.uniform(0.85, 1.15))
    for scale, weight in ((side / 9, 0.09), (side / 26, 0.035), (side / 70, 0.012)):
        field += weight * smooth_noise(rng, (side, side), scale)
    edge = 1 - (np.abs(y) ** 5 + np.abs(x) ** 5) ** 0.2 + 0.05 * smooth_noise(rng, (side, side), side / 14)
    field -= np.clip(0.2 - edge, 0, None) * 3  # keep off the slide's border
    field[np.maximum(np.abs(y), np.abs(x)) > 0.95] = -99
    inside = field > np.quantile(field, 1 - rng.uniform(0.36, 0.44))
    return scipy.ndimage.binary_opening(inside, iterations=max(1, side // 128))


def _kinds(rng: np.random.Generator, shape: tuple[int, int], tissue_map: np.ndarray) -> np.ndarray:
    """A turned window of a real slide's map; holes are stroma, and fat, in which no spot can lie, covers little."""
    for _ in range(30):
        matrix = _turning(rng) * rng.uniform(0.75, 2)
        middle = rng.uniform(0.15, 0.85, 2) * tissue_map.shape
        offset = middle - matrix @ (np.array(shape) / 2)
        window = scipy.ndimage.affine_transform(tissue_map, matrix, offset, shape, order=0, output=np.uint8)
        if (window > 0).mean() > 0.6 and (window == FAT).mean() < 0.35:
            break
    else:
        window = np.zeros(shape, np.uint8)
    return np.where(window == 0, STROMA, window)


def _spots(
    rng: np.random.Generator, labels: np.ndarray, islands: np.ndarray, large: bool
) -> tuple[list[Spot], np.ndarray]:
    """Look-alikes in solid tissue, apart from each other, and the cells that they cover."""
    solid = (labels > 0) & (labels != FAT)
    depth = scipy.ndimage.distance_transform_edt(solid) * CELL
    taken, covered = np.zeros_like(solid), np.zeros_like(solid)
    spots: list[Spot] = []
    for _ in range(int(rng.integers(4, 8) if large else rng.integers(2, 4))):
        extent = float(rng.uniform(280, 620) if large else rng.uniform(170, 300))
        for attempt in range(60):
            if attempt % 15 == 14:
                extent = max(0.85 * extent, 160.0)
            free = np.argwhere((depth > 0.3 * extent) & ~taken)
            if not len(free):
                continue
            ring = islands[rng.integers(len(islands))].astype(np.float64) @ _turning(rng)
            ring *= extent / np.ptp(ring, axis=0).max()
            ring += (free[rng.integers(len(free))] + 0.5) * CELL - (ring.min(0) + ring.max(0)) / 2
            mask = polygon(ring / CELL - 0.5, solid.shape)
            border = CELL * (_MARGIN + 1)
            fits = ring.min() > border and ring.max() < labels.shape[0] * CELL - border
            if fits and mask.any() and solid[mask].mean() > 0.93 and not taken[mask].any():
                spots.append(_spot(ring, mask))
                covered |= mask
                taken |= scipy.ndimage.binary_dilation(mask, iterations=6)
                break
    return spots, covered


def _spot(ring: np.ndarray, mask: np.ndarray) -> Spot:
    inside = scipy.ndimage.distance_transform_edt(mask)
    row, column = np.unravel_index(int(inside.argmax()), mask.shape)
    middle = (float(row) + 0.5) * CELL, (float(column) + 0.5) * CELL
    return Spot(LOOK_ALIKE, ring, *middle, float(inside.max()) * CELL)


def _turning(rng: np.random.Generator) -> np.ndarray:
    """Matrix (2, 2) of a random rotation, mirrored or not."""
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return rotation @ np.diag([rng.choice([-1.0, 1.0]), 1.0])
