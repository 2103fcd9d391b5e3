"""Chest-like volumes in Hounsfield units: lungs with branching vessels, heart, aorta, spine, ribs and diaphragm.

Axes are (z, y, x), growing to superior, anterior and right. The chest is a small one, so that files stay small.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from glimpse.synthetic.volumes.fields import Volume, axes_mm, blend, blend_ellipsoid, ellipsoid, smooth_field, step

WIDTH = 192.0
"""Millimetres from side to side of a volume that holds the whole chest."""

AIR, LUNG, FAT, MUSCLE, BLOOD, LIVER, BONE, MARROW = -1000.0, -840.0, -95.0, 50.0, 130.0, 75.0, 520.0, 190.0


class Chest(NamedTuple):
    """A chest, and where in it spots may lie (every `coarse`-th voxel)."""

    volume: Volume
    room: np.ndarray


def make_chest(rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], coarse: int) -> Chest:
    """Draws a chest without noise or spots.

    Args:
        rng: The volume's own source of randomness.
        shape: Voxels per axis.
        spacing: Side of a voxel per axis in millimetres; below `WIDTH` millimetres from side to side, the chest is
            smaller.
        coarse: Voxels between those of `room`.
    """
    side = (np.asarray(spacing) * (WIDTH / (shape[2] * spacing[2]))).tolist()
    axes = axes_mm(shape, side)
    wobble = 2.0 * smooth_field(rng, shape, side, 30.0)
    body = _superellipse(axes, (64 + 0.04 * axes[0], 90 + 0.05 * axes[0])) + wobble
    lungs, middle = _lungs(rng, axes, wobble, body)
    volume = _wall(axes, body, lungs, wobble)
    _mediastinum(rng, axes, volume, middle)
    texture = LUNG + 22 * smooth_field(rng, shape, side, 9.0) - 0.5 * axes[1]
    blend(volume, texture.astype(np.float32), step(lungs, 1.5))
    vessels = _vessels(rng, axes, shape, side, lungs)
    volume += vessels * step(lungs, 3.0)
    pick = (slice(coarse // 2, None, coarse),) * 3
    return Chest(volume, (lungs[pick] > 8) & (vessels[pick] < 60))


def _superellipse(axes: Sequence[np.ndarray], radii: tuple[np.ndarray, np.ndarray]) -> Volume:
    """Depth below a rounded box around the z axis."""
    _, y, x = axes
    return (1 - ((y / radii[0]) ** 4 + (np.abs(x) / radii[1]) ** 3) ** np.float32(0.3)) * np.float32(64)


def _lungs(rng: np.random.Generator, axes: Sequence[np.ndarray], wobble: Volume, body: Volume) -> tuple[Volume, Volume]:
    """Depth below the pleura, and below the surface of what lies between the lungs."""
    z, y, x = axes
    size = rng.uniform(0.95, 1.05)
    both = [ellipsoid(axes, (-8, -2, sign * 43), (84, 54 * size, 39 * size)) for sign in (-1, 1)]
    heart = ellipsoid(axes, (-30, 14, -12), (34, 30, 36))
    middle = np.maximum(heart, (1 - np.sqrt(((x + 3) / 22) ** 2 + ((y + 4) / 52) ** 2)) * 22 + 0.02 * z + wobble)
    domes = [z + 58 - 26 * np.exp(-((x - sign * 42) ** 2 + (y - 4) ** 2) / np.float32(1500.0)) for sign in (-1, 1)]
    lungs = np.maximum(*both) + wobble
    lungs = np.minimum(np.minimum(lungs, body - 15), np.minimum(-middle, np.minimum(*domes)))
    return lungs, middle


def _wall(axes: Sequence[np.ndarray], body: Volume, lungs: Volume, wobble: Volume) -> Volume:
    """Air, skin, fat, muscle, organs below the diaphragm, ribs, spine and breastbone."""
    z, y, x = axes
    volume = np.full(np.broadcast_shapes(z.shape, y.shape, x.shape), AIR, np.float32)
    blend(volume, MUSCLE, step(body))
    blend(volume, FAT, step(body - 1.8) * step(8.5 + wobble - body, 2))
    blend(volume, LIVER, step(body - 14) * step(-30 - z, 3))
    blend(volume, FAT, step(3 - np.abs(body - 12.5), 2) * 0.5)
    turn = np.arctan2(x, y + 60)  # ribs run down towards the front
    rib = np.cos((z + 26 * np.cos(turn)) * np.float32(2 * np.pi / 21)) - 0.42
    ribs = np.minimum(rib * 6, 3.6 - np.abs(body - 12.5)) - np.clip(np.abs(y) - 55, 0, None)
    blend(volume, BONE, step(ribs, 1.5))
    blend(volume, MARROW, step(ribs - 1.6, 1.2))
    spine = 13.5 - np.sqrt(x**2 + ((y + 39) * 1.1) ** 2)
    disc = step(np.cos(z * np.float32(2 * np.pi / 22)) * 5 + 3.6, 1.5)
    process = np.minimum(3.2 - np.abs(x), np.minimum(-y - 40, y + 60))
    for depth in (spine + 0 * z, process + 2 * np.cos(z * np.float32(2 * np.pi / 22))):
        blend(volume, BONE, step(depth, 1.5) * disc)
        blend(volume, MARROW, step(depth - 1.8, 1.5) * disc)
    canal = 5 - np.sqrt(x**2 + (y + 53) ** 2)
    blend(volume, 25.0, step(canal + 0 * z - np.clip(-52 - y, 0, None), 1.5))
    breast = np.minimum(12 - np.abs(x), 4 - np.abs(body - 13)) + np.clip(y, None, 0)
    blend(volume, MARROW, step(breast, 2))
    blend(volume, MUSCLE, step(-lungs) * step(lungs + 2.0) * 0.6)
    return volume


def _mediastinum(rng: np.random.Generator, axes: Sequence[np.ndarray], volume: Volume, middle: Volume) -> None:
    """Fat, heart, aorta, windpipe and its two branches, in place."""
    z, y, x = axes
    blend(volume, FAT * 0.6, step(middle) * step(z + 10, 30))
    blend_ellipsoid(volume, axes, (-30, 14, -12), (30, 27, 32), MUSCLE, 2)
    for place in ((-32, 18, -20), (-26, 10, 2)):
        blend_ellipsoid(volume, axes, place, (20, 14, 11), BLOOD, 3)
    blend(volume, BLOOD, step(10 - np.sqrt((x + 15) ** 2 + (y + 24) ** 2) - np.clip(z - 40, 0, None), 1.5))
    blend(
        volume, BLOOD, step(10 - np.sqrt((x - 2 - rng.uniform(-2, 2)) ** 2 + (y - 12) ** 2) - np.abs(z - 28) * 0.3, 1.5)
    )
    fork = np.clip(12 - z, 0, 34)
    for sign in (-1, 1):
        tube = 6.2 - 0.05 * fork - np.sqrt((x - 1 - sign * 0.9 * fork) ** 2 + (y + 10) ** 2)
        tube = np.minimum(tube, z + 20)
        blend(volume, MUSCLE, step(tube + 1.6, 1))
        blend(volume, AIR, step(tube, 1))


def _vessels(
    rng: np.random.Generator, axes: Sequence[np.ndarray], shape: Sequence[int], side: Sequence[float], lungs: Volume
) -> Volume:
    """Brightness over lung of two trees: walks from the roots of the lungs that thin out, bend and fork."""
    points = [_tree(rng, sign) for sign in (-1, 1)]
    walks = np.concatenate(points)  # (point, 4): z, y, x, radius in millimetres
    index = np.floor(walks[:, :3] / side + np.asarray(shape) / 2).astype(int)
    inside = ((index >= 0) & (index < shape)).all(1)
    total = np.zeros(shape, np.float32)
    for low, high, blur in ((0.0, 0.9, 0.45), (0.9, 1.6, 0.9), (1.6, 9.0, 1.9)):
        chosen = inside & (walks[:, 3] >= low) & (walks[:, 3] < high)
        layer = np.zeros(shape, np.float32)
        layer[tuple(index[chosen].T)] = 1
        layer = scipy.ndimage.gaussian_filter(layer, [blur / s for s in side], truncate=2.5)
        total = np.maximum(total, np.clip(layer * np.float32(2 * np.pi * blur**2 * 850 / _STEP_SHARE), 0, 850))
    return total


_STEP_SHARE = 1.6
"""Voxels that a millimetre of a walk touches, times their area; sets how bright vessels are."""


def _tree(rng: np.random.Generator, sign: int) -> np.ndarray:
    """Points (point, 4) of one lung's vessels."""
    heads = np.tile(np.array([[-4.0, -6.0, sign * 20.0]]), (14, 1)) + rng.normal(0, 5, (14, 3)) * (1.6, 1, 0.3)
    ways = rng.standard_normal((14, 3)) * (1.2, 0.9, 0.4) + (-0.1, 0, sign * 0.9)
    radius = np.full(14, 2.3)
    points = []
    for stage in range(6):
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        for _ in range(int(11 * 0.92**stage / 0.4)):
            ways += rng.normal(0, 0.045, ways.shape)
            heads = heads + 0.4 * ways / np.linalg.norm(ways, axis=1, keepdims=True)
            points.append(np.column_stack([heads, radius]))
        heads, radius = np.repeat(heads, 2, 0), np.repeat(radius, 2) * rng.uniform(0.62, 0.86, 2 * len(heads))
        ways = np.repeat(ways, 2, 0) + rng.normal(0, 0.5, (len(heads), 3))
    return np.concatenate(points)
