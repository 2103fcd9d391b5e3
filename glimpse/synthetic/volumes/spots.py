"""Bright spots in volumes: lesions and look-alikes of the same bodies, of which only lesions are grainy.

A spot is a soft, slightly elongated body. That of a look-alike is even; in a lesion, fine grains are brighter and
darker by turns. Grains are less wide than the voxels of an overview, whose means they leave as they are, so that an
overview shows the same blob for both; in full resolution the grains show.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from glimpse.synthetic.volumes.fields import Volume

_REACH = 13.0
"""Millimetres from its middle within which a spot changes voxels."""

_GRAIN, _GRAIN_WIDTH = 0.6, 0.8
"""Standard deviation of grains over a spot's brightness, and half their width in millimetres."""

EVEN = 4.0
"""Side in millimetres of the blocks, counted from the volume's corner, that have the same mean whatever the kind: the
voxels of an overview."""


@dataclass(frozen=True)
class Spot:
    """A spot before it is painted.

    Attributes:
        kind: "lesion" or "lookalike".
        middle: (z, y, x) in voxels, the first of which spans 0 to 1.
        radius: of the ball that has as many cubic millimetres as the spot, in millimetres.
        weight: mean brightness over that ball, in units of the volume.
        seed: of its shape.
    """

    kind: str
    middle: tuple[float, float, float]
    radius: float
    weight: float
    seed: int


@dataclass(frozen=True)
class Rule:
    """How spots are drawn.

    Attributes:
        spots: least and most of them in a volume.
        lesions: least and most of them in a positive one.
        apart: least distance in millimetres.
        radius: least and greatest radius in millimetres.
        weight: least and greatest weight.
    """

    spots: tuple[int, int]
    lesions: tuple[int, int]
    apart: float
    radius: tuple[float, float]
    weight: tuple[float, float]


def draw_spots(
    rng: np.random.Generator, target: int, rule: Rule, room: np.ndarray, spacing: Sequence[float], coarse: int
) -> list[Spot]:
    """Draws where spots lie and what they are; the target decides over nothing but kinds.

    Args:
        rng: The volume's own source of randomness.
        target: 1 if some of the spots are lesions.
        rule: How many, how large, how far apart.
        room: Where middles may lie, bool, every `coarse`-th voxel of the volume's grid.
        spacing: Side of a voxel per axis in millimetres.
        coarse: See `room`.
    """
    count = int(rng.integers(rule.spots[0], rule.spots[1] + 1))
    lesions = int(rng.integers(rule.lesions[0], rule.lesions[1] + 1)) * target
    everywhere = np.argwhere(room)
    corners = everywhere[rng.permutation(len(everywhere))[:4000]] * coarse
    places = corners + rng.uniform(0, coarse, corners.shape)
    chosen: list[np.ndarray] = []
    for place in places:
        if all(np.linalg.norm((place - other) * spacing) >= rule.apart for other in chosen):
            chosen.append(place)
        if len(chosen) == count:
            break
    order, radii = rng.permutation(len(chosen)), rng.uniform(*rule.radius, len(chosen))
    weights, seeds = rng.uniform(*rule.weight, len(chosen)), rng.integers(1 << 31, size=len(chosen))
    return [
        Spot(
            "lesion" if order[i] < lesions else "lookalike", tuple(place.tolist()), radii[i], weights[i], int(seeds[i])
        )
        for i, place in enumerate(chosen)
    ]


def paint_spot(volume: Volume, spot: Spot, spacing: Sequence[float]) -> tuple[tuple[slice, ...], np.ndarray]:
    """Adds a spot to a volume, in place; returns the block of voxels it lies in and which of them it covers."""
    block, offsets = _block(volume.shape, spot, spacing)
    rng = np.random.default_rng(spot.seed)
    body = _body(rng, offsets, spot.radius)
    pattern = body + _grains(rng, body, spacing) if spot.kind == "lesion" else body
    total = spot.weight * 4 / 3 * np.pi * spot.radius**3
    volume[block] += (pattern * (total / (body.sum() * np.prod(spacing)))).astype(np.float32)
    return block, body > 0.5


def _block(shape: Sequence[int], spot: Spot, spacing: Sequence[float]) -> tuple[tuple[slice, ...], list[np.ndarray]]:
    """The voxels around a spot, in whole blocks, and their middles' millimetres from its own."""
    block, offsets = [], []
    for axis, (n, middle, side, even) in enumerate(zip(shape, spot.middle, spacing, _sides(spacing), strict=True)):
        low = max(0, int((middle - _REACH / side) // even)) * even
        high = min(n // even, int((middle + _REACH / side) // even) + 1) * even
        block.append(slice(low, high))
        apart = (np.arange(low, high) + 0.5 - middle) * side
        offsets.append(apart.reshape([-1 if a == axis else 1 for a in range(3)]))
    return tuple(block), offsets


def _body(rng: np.random.Generator, offsets: Sequence[np.ndarray], radius: float) -> np.ndarray:
    """A soft ellipsoid of semi-axes a, b, b with a b^2 = r^3."""
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    aspect = rng.uniform(1.05, 1.3)
    short = radius / aspect ** (1 / 3)
    along = sum(axis * part for axis, part in zip(offsets, direction, strict=True))
    across = sum(axis**2 for axis in offsets) - along**2
    depth = (1 - np.sqrt((along / aspect) ** 2 + across) / short) * short
    return np.clip(depth / 1.5 + 0.5, 0, 1)


def _grains(rng: np.random.Generator, body: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Noise within a body that an overview does not show: its mean is 0 in every block, and about 0 anywhere."""
    noise = ndimage.gaussian_filter(rng.standard_normal(body.shape), [_GRAIN_WIDTH / side for side in spacing])
    grains = body * noise * (_GRAIN / noise.std())
    sides = _sides(spacing)
    for _ in range(3):  # first around every voxel, for overviews of other sizes, then what blocks still have
        grains -= ndimage.uniform_filter(grains, [side // 2 * 2 + 1 for side in sides], mode="constant")
    split = [part for n, side in zip(grains.shape, sides, strict=True) for part in (n // side, side)]
    means = grains.reshape(split).mean((1, 3, 5))
    return grains - means.repeat(sides[0], 0).repeat(sides[1], 1).repeat(sides[2], 2)


def _sides(spacing: Sequence[float]) -> list[int]:
    """Voxels along the sides of a block."""
    return [round(EVEN / side) for side in spacing]
