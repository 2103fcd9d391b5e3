"""What lies where on one slide, drawn from the slide's own seed before anything is painted.

Positions are level-0 pixels, (y, x). Both classes are laid out by the same draws; only the kind of some blobs differs,
so nothing but those blobs can tell a positive slide.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from glimpse.synthetic.slides.textures import smooth_noise

COARSE = 16
"""Level-0 pixels per cell of the coarse maps."""

PEN_COLOURS = ((0.16, 0.28, 0.72), (0.10, 0.50, 0.34), (0.16, 0.16, 0.19))
"""Transmittance (red, green, blue) of blue, green and black ink."""


@dataclass(frozen=True)
class Blob:
    """A dark round patch of cells: `kind` is "tumour" or "aggregate"."""

    kind: str
    y: float
    x: float
    radius: float


@dataclass(frozen=True)
class Gland:
    """A gland stamp: where its middle lies, which of the atlas's stamps, and which of the 8 flips and turns."""

    y: int
    x: int
    stamp: int
    turn: int


@dataclass(frozen=True)
class Stroke:
    """A streak along a line of points (n, 2): a tissue fold, or ink of a transmittance."""

    points: np.ndarray
    width: float
    transmittance: tuple[float, float, float]


@dataclass(frozen=True)
class Layout:
    """Plan of one slide."""

    size: int
    depth: np.ndarray  # float32 (size / 16, size / 16): distance to the tissue's border in pixels, negative on glass
    blobs: tuple[Blob, ...]
    glands: tuple[Gland, ...]
    folds: tuple[Stroke, ...]
    pens: tuple[Stroke, ...]


def lay_out(rng: np.random.Generator, size: int, target: int, stamps: int) -> Layout:
    """Draws the plan of a slide.

    Args:
        rng: The slide's own source of randomness.
        size: Side of the slide in pixels, a multiple of 16.
        target: 1 if some of the blobs are tumour, 0 if none is.
        stamps: Number of gland stamps to choose from.
    """
    depth = _tissue(rng, size)
    blobs = _blobs(rng, depth, target)
    glands = _glands(rng, depth, blobs, stamps)
    folds = tuple(_fold(rng, depth) for _ in range(rng.integers(0, 4)))
    pens = tuple(_pen(rng, depth, blobs) for _ in range(rng.integers(0, 4)))
    return Layout(size, depth, blobs, glands, folds, pens)


def _tissue(rng: np.random.Generator, size: int) -> np.ndarray:
    """Depth map of 1 to 4 irregular pieces that together cover 36 to 44 % of the slide."""
    side = size // COARSE
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
    inside = ndimage.binary_opening(inside, iterations=max(1, side // 128))
    depth = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    return (ndimage.gaussian_filter(depth, 0.7) * COARSE).astype(np.float32)


def _blobs(rng: np.random.Generator, depth: np.ndarray, target: int) -> tuple[Blob, ...]:
    small = depth.shape[0] * COARSE < 3072  # a small slide has less room
    count = int(rng.integers(3, 5) if small else rng.integers(6, 11))
    places: list[tuple[float, float, float]] = []
    middles = (np.arange(depth.shape[0]) + 0.5) * COARSE
    taken: list[tuple[np.ndarray, float]] = []
    for radius in rng.uniform(100, 180, count) * (0.8 if small else 1.0):
        y, x = _free_place(rng, depth, taken, float(radius))
        taken.append((np.hypot(middles[:, None] - y, middles - x), float(radius)))
        places.append((y, x, float(radius)))
    foci = rng.permutation(count)[: rng.integers(1, 3) if small else rng.integers(3, 7)]
    kinds = ["tumour" if target and index in foci else "aggregate" for index in range(count)]
    return tuple(Blob(kind, *place) for kind, place in zip(kinds, places, strict=True))


def _free_place(
    rng: np.random.Generator, depth: np.ndarray, taken: list[tuple[np.ndarray, float]], radius: float
) -> tuple[float, float]:
    """A place within the tissue and apart from the blobs already placed; where there is no room, as good as it gets.

    Args:
        rng: The slide's own source of randomness.
        depth: Of the tissue, at every cell.
        taken: For each blob already placed, the distance of every cell from its middle, and its radius.
        radius: Of the blob to be placed.
    """
    room = depth - 1.15 * radius
    for distance, other in taken:
        room = np.minimum(room, distance - 1.2 * (other + radius) - 24)
    free = np.flatnonzero(room > min(0.0, float(room.max()) - 1))
    row, column = divmod(int(rng.choice(free)), depth.shape[1])
    shift = rng.uniform(-COARSE / 2, COARSE / 2, 2)
    return float((row + 0.5) * COARSE + shift[0]), float((column + 0.5) * COARSE + shift[1])


def _glands(rng: np.random.Generator, depth: np.ndarray, blobs: tuple[Blob, ...], stamps: int) -> tuple[Gland, ...]:
    """Glands in lobules: a jittered lattice, kept where a smooth field is high and no blob lies."""
    size = depth.shape[0] * COARSE
    lobules = smooth_noise(rng, depth.shape, depth.shape[0] / 18)
    pitch = 215
    lattice = (np.mgrid[: size // pitch + 1, : size // pitch + 1].reshape(2, -1).T + 0.5) * pitch
    lattice = lattice + rng.uniform(-0.38, 0.38, lattice.shape) * pitch
    middles = np.array([(blob.y, blob.x) for blob in blobs]).T
    reaches = np.array([blob.radius + 110 for blob in blobs])
    glands = []
    for y, x in rng.permutation(lattice):
        stamp, turn, clear = int(rng.integers(stamps)), int(rng.integers(8)), rng.random()
        cell = tuple(min(max(int(middle // COARSE), 0), depth.shape[0] - 1) for middle in (y, x))
        if depth[cell] <= 60 or lobules[cell] <= 0.15 - 0.3 * clear:
            continue
        if (np.hypot(y - middles[0], x - middles[1]) >= reaches).all():  # far from all blobs
            glands.append(Gland(int(y), int(x), stamp, turn))
    return tuple(glands)


def _curve(rng: np.random.Generator, start: np.ndarray, length: float, bend: float) -> np.ndarray:
    """Points every 16 pixels along a smoothly bending line."""
    steps = max(4, int(length / 16))
    course = rng.uniform(0, 2 * np.pi) + bend * np.cumsum(rng.normal(0, 1, steps) / 6 + rng.normal(0, 0.12))
    return start + np.cumsum(16 * np.stack([np.sin(course), np.cos(course)], axis=1), axis=0)


def _fold(rng: np.random.Generator, depth: np.ndarray) -> Stroke:
    """A fold: a dark streak across the tissue."""
    size = depth.shape[0] * COARSE
    start = (rng.choice(np.argwhere(depth > 20)) + 0.5) * COARSE
    points = _curve(rng, start, size * rng.uniform(0.1, 0.35), bend=0.35)
    return Stroke(points, rng.uniform(10, 26), (0.55, 0.30, 0.52))


def _pen(rng: np.random.Generator, depth: np.ndarray, blobs: tuple[Blob, ...]) -> Stroke:
    """A stroke of ink, on glass or over tissue, but not over a blob: what decides the slide stays readable."""
    size = depth.shape[0] * COARSE
    colour = PEN_COLOURS[rng.integers(len(PEN_COLOURS))]
    width = rng.uniform(0.009, 0.022) * size
    points = np.zeros((0, 2))
    for _ in range(40):
        start = rng.uniform(0.03, 0.97, 2) * size
        points = _curve(rng, start, size * rng.uniform(0.12, 0.45), bend=0.45)
        gaps = [np.hypot(*(points - (blob.y, blob.x)).T).min() - blob.radius for blob in blobs]
        if min(gaps) > width + 24:
            return Stroke(points, width, colour)
    return Stroke(points[:0], width, colour)
