"""Small bright spots in volumes: lesions and look-alikes that weigh the same, and are spread out alike.

A lesion is a broken shell around a dark core. A look-alike is an even, slightly elongated body of the same total
brightness and the same mean square distance from its middle. Voxels of an overview are about as wide as a spot, and
what they see of it is little more than these two numbers; in full resolution the core and the gaps show.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from glimpse.synthetic.fields import Volume

_REACH = 6.5
"""Millimetres from its middle within which a spot changes voxels."""

_RIM = 0.65
"""Standard deviation of a shell across its thickness, in millimetres."""

_GRAIN = 1.0
"""Relative spread of a shell's brightness along it."""

_CORE, _CORE_SHARE = 0.8, 0.42
"""How dark a core is against a shell, and its spread against the shell's radius."""

_SWELL = 0.985
"""Factor on the extent of look-alikes: evens out what an overview sees of shapes beyond mean squares."""


@dataclass(frozen=True)
class Spot:
    """A spot before it is painted.

    Attributes:
        kind: "lesion" or "lookalike".
        middle: (z, y, x) in voxels, the first of which spans 0 to 1.
        radius: of a lesion's shell, in millimetres.
        weight: mean brightness over the ball that has as many cubic millimetres as the spot, in units of the volume.
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
    places = np.argwhere(room)
    places = places[rng.permutation(len(places))[:4000]] * coarse + rng.uniform(0, coarse, (min(len(places), 4000), 3))
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
    distance = np.sqrt(sum(axis**2 for axis in offsets))
    if spot.kind == "lesion":
        pattern = _shell(rng, distance, spot.radius, spacing)
        covered = distance < spot.radius + 2 * _RIM
    else:
        pattern = _body(rng, offsets, spot.radius)
        covered = pattern > 0.5
    voxel = float(np.prod(spacing))
    total = spot.weight * 4 / 3 * np.pi * spot.radius**3
    volume[block] += (pattern * (total / (pattern.sum() * voxel))).astype(np.float32)
    return block, covered


def _block(shape: Sequence[int], spot: Spot, spacing: Sequence[float]) -> tuple[tuple[slice, ...], list[np.ndarray]]:
    """The voxels around a spot, and their middles' millimetres from its own."""
    block, offsets = [], []
    for axis, (n, middle, side) in enumerate(zip(shape, spot.middle, spacing, strict=True)):
        low, high = max(0, int(middle - _REACH / side)), min(n, int(middle + _REACH / side) + 2)
        block.append(slice(low, high))
        apart = (np.arange(low, high) + 0.5 - middle) * side
        offsets.append(apart.reshape([-1 if a == axis else 1 for a in range(3)]))
    return tuple(block), offsets


def _shell(rng: np.random.Generator, distance: np.ndarray, radius: float, spacing: Sequence[float]) -> np.ndarray:
    """A shell with gaps; what lies in its core is darker than what is around it."""
    rim = np.exp(-((distance - radius) ** 2) / (2 * _RIM**2))
    grain = ndimage.gaussian_filter(rng.standard_normal(distance.shape), [0.45 / side for side in spacing])
    rim = rim * np.clip(1 + _GRAIN * grain / grain.std(), 0, None)
    return rim - _CORE * np.exp(-(distance**2) / (2 * (_CORE_SHARE * radius) ** 2))


def _mean_square(radius: float) -> float:
    """Mean square distance from its middle of what a lesion adds: a shell of radius r and spread s less its core.

    The integrals over space of w(d) and of w(d) d^2, for a shell w(d) = exp(-(d - r)^2 / 2 s^2), are k (r^2 + s^2) and
    k (r^4 + 6 r^2 s^2 + 3 s^4) with k = 4 pi s sqrt(2 pi); for a core w(d) = a exp(-d^2 / 2 c^2), they are
    a (2 pi)^1.5 c^3 and 3 c^2 times that.
    """
    core_spread = _CORE_SHARE * radius
    core = _CORE * (2 * np.pi) ** 1.5 * core_spread**3
    scale = 4 * np.pi * _RIM * np.sqrt(2 * np.pi)
    shell = scale * (radius**2 + _RIM**2)
    squares = scale * (radius**4 + 6 * radius**2 * _RIM**2 + 3 * _RIM**4)
    return float((squares - 3 * core_spread**2 * core) / (shell - core))


def _body(rng: np.random.Generator, offsets: Sequence[np.ndarray], radius: float) -> np.ndarray:
    """An even ellipsoid that is spread out like a lesion of a radius.

    Its mean square distance from the middle is (a^2 + 2 b^2) / 5, for semi-axes a, b, b.
    """
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    aspect = rng.uniform(1.1, 1.35)
    short = _SWELL * np.sqrt(5 * _mean_square(radius) / (aspect**2 + 2))
    along = sum(axis * part for axis, part in zip(offsets, direction, strict=True))
    across = sum(axis**2 for axis in offsets) - along**2
    depth = (1 - np.sqrt((along / aspect) ** 2 + across) / short) * short
    return np.clip(depth / 1.0 + 0.5, 0, 1)
