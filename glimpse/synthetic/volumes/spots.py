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

_PLATES = 1.35
"""Radii from its middle within which a spot has plates."""

_FADE = 0.5
"""Radii over which plates fade at their reach."""

_FIRST, _LAST = 0.25, 1.15
"""Radii from its middle between which the middles of plates lie."""

_DENSITY = 1.5
"""Plates per cube whose side is a wave."""

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
    height: float = 0.22
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
    places, outwards, sideways = _scattered(rng, radius, wave, rule.level)
    stroke = Stroke(wave, 0.4 * wave, 0.6 * wave)
    axes, signs = [offset.ravel() for offset in offsets], rng.choice((-1.0, 1.0), len(places))
    first, second = (strokes(axes, places, normals, signs, stroke) for normals in (outwards, sideways))
    distance = np.sqrt(sum(offset**2 for offset in offsets)) / radius
    window = np.clip((_PLATES - distance) / _FADE, 0, 1).astype(np.float32)
    around, upright = equalised(first, second, lambda pattern: without_block_means(pattern * window, _sides(spacing)))
    scale = np.float32(np.sqrt(window.mean()))
    return around * scale, upright * scale


def _scattered(rng: np.random.Generator, radius: float, wave: float, level: bool) -> tuple[np.ndarray, ...]:
    """Places of plates, scattered evenly around the middle, and directions out from it and across, all (plate, 3).

    They are in no order: plates that continue each other, or lie at regular distances, would make another texture.
    """
    count = round(_DENSITY * 4 / 3 * np.pi * (_LAST * radius / wave) ** 3)
    outwards = rng.standard_normal((count, 3))
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    places = outwards * np.cbrt(rng.uniform(_FIRST**3, _LAST**3, (count, 1))) * radius
    turned = np.cross(outwards, rng.standard_normal((count, 3)))
    if level:
        outwards[:, 0] = 0
        turned = outwards[:, [0, 2, 1]] * (1, -1, 1)
    directions = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (outwards, turned)]
    return places, *directions


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
