"""Bright spots in volumes: lesions and look-alikes of the same bodies, whose fine plates are arranged otherwise.

A spot is a soft, slightly elongated body that holds small plates, brighter and darker than the body by turns. In one
arrangement they lie around its middle, as a closed rim lies around a core; in the other they stand upright, so that the
rim is broken into pieces that radiate. In heads the closed rim is the lesion's, as of an abscess or a metastasis; in
chests the radiating one is, as of a nodule with spicules.

Brightness, contrast, histogram and power spectrum of the two are the same (see `glimpse.synthetic.equalising`), and so
is the mean of every voxel of an overview: it shows the same blob for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glimpse.synthetic.equalising import Stroke, equalised, strokes, without_block_means
from glimpse.synthetic.volumes.fields import Volume

_REACH = 13.0
"""Millimetres from its middle within which a spot changes voxels."""

_PLATES = 1.25
"""Radii from its middle within which a spot has plates."""

_FADE = 0.3
"""Radii over which plates fade at their reach."""

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
        height: root mean square of the plates over the mean brightness of a body.
        wave: distance of bright plates in radii.
        upright: whether the plates of lesions stand upright rather than lie around the middle.
        level: whether plates are perpendicular to slices, where voxels are too deep to show others.
    """

    spots: tuple[int, int]
    lesions: tuple[int, int]
    apart: float
    radius: tuple[float, float]
    weight: tuple[float, float]
    height: float = 0.4
    wave: float = 0.44
    upright: bool = False
    level: bool = False


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


def paint_spot(
    volume: Volume, spot: Spot, rule: Rule, spacing: Sequence[float]
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Adds a spot to a volume, in place; returns the block of voxels it lies in and which of them it covers."""
    block, offsets = _block(volume.shape, spot, spacing)
    rng = np.random.default_rng(spot.seed)
    body = _body(rng, offsets, spot.radius)
    around, upright = forms(rng, rule, spot.radius, offsets, spacing)
    pattern = body + rule.height * (upright if (spot.kind == "lesion") == rule.upright else around)
    total = spot.weight * 4 / 3 * np.pi * spot.radius**3
    volume[block] += (pattern * (total / (body.sum() * np.prod(spacing)))).astype(np.float32)
    return block, body > 0.5


def forms(
    rng: np.random.Generator, rule: Rule, radius: float, offsets: Sequence[np.ndarray], spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """The same plates lying around a spot's middle and standing upright, each of mean square 1 over their reach.

    Args:
        rng: The spot's own source of randomness.
        rule: How plates are.
        radius: Of the spot in millimetres.
        offsets: Millimetres from its middle along every axis, of whole blocks, shaped so that they broadcast.
        spacing: Side of a voxel per axis in millimetres.
    """
    wave = rule.wave * radius
    places, outwards, sideways = (_level if rule.level else _balls)(rng, radius, wave)
    stroke = Stroke(wave, 0.42 * wave, 0.5 * wave)
    axes, signs = [offset.ravel() for offset in offsets], np.ones(len(places))
    pair = [strokes(axes, places, normals, signs, stroke) for normals in (outwards, sideways)]
    distance = np.sqrt(sum(offset**2 for offset in offsets)) / radius
    window = np.clip((_PLATES - distance) / _FADE, 0, 1).astype(np.float32)
    around, upright = equalised(*pair, lambda pattern: without_block_means(pattern * window, _sides(spacing)))
    scale = np.float32(np.sqrt(window.mean()))
    return around * scale, upright * scale


def _balls(rng: np.random.Generator, radius: float, wave: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of plates on balls one wave apart, and directions out from and across the middle, all (plate, 3)."""
    places, outwards, sideways = [], [], []
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    for ball in np.arange(0.9 * wave, radius * 1.1, wave):
        count = max(6, round(4 * np.pi * ball**2 / wave**2))
        height = 1 - (2 * np.arange(count) + 1) / count  # a spiral of Fibonacci's: points evenly spaced
        angle = np.arange(count) * np.pi * (3 - np.sqrt(5)) + rng.uniform(0, 2 * np.pi)
        flat = np.sqrt(1 - height**2)
        outward = np.stack([height, flat * np.sin(angle), flat * np.cos(angle)], 1) @ turn
        across = np.cross(outward, rng.standard_normal((count, 3)))
        places.append(outward * ball + rng.normal(0, 0.04 * wave, (count, 3)))
        outwards.append(outward)
        sideways.append(across / np.linalg.norm(across, axis=1, keepdims=True))
    return np.concatenate(places), np.concatenate(outwards), np.concatenate(sideways)


def _level(rng: np.random.Generator, radius: float, wave: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Likewise, on rings of several slices; both directions lie in the slices."""
    places, outwards = [], []
    for level in np.arange(-1, 2) * wave + rng.uniform(-0.2, 0.2) * wave:
        reach = np.sqrt(max(1 - (level / (1.1 * radius)) ** 2, 0)) * 1.1 * radius
        for ring in np.arange(0.9 * wave, reach, wave):
            count = max(4, round(2 * np.pi * ring / wave))
            angle = (np.arange(count) + rng.uniform() + rng.uniform(-0.1, 0.1, count)) * (2 * np.pi / count)
            outward = np.stack([np.zeros(count), np.sin(angle), np.cos(angle)], 1)
            places.append(outward * ring + (level, 0, 0))
            outwards.append(outward)
    out = np.concatenate(outwards)
    return np.concatenate(places), out, np.stack([out[:, 0], -out[:, 2], out[:, 1]], 1)


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


def _sides(spacing: Sequence[float]) -> list[int]:
    """Voxels along the sides of a block."""
    return [round(EVEN / side) for side in spacing]
