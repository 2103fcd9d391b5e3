"""Brains as T1-weighted MR shows them after contrast medium: folded cortex, ventricles, cerebellum, brain stem.

What is around a brain has been taken off, as it usually is before brains are analysed.

Axes are (z, y, x), growing to superior, anterior and right; brightness is about 0 (air) to 1.2 (fat).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from glimpse.synthetic.volumes.fields import Volume, axes_mm, blend, blend_ellipsoid, ellipsoid, smooth_field, step

ADULT = 192.0
"""Millimetres from front to back of a volume in which the head has the size of an adult's."""

FLUID, GREY, WHITE = 0.2, 0.5, 0.68


class Head(NamedTuple):
    """A brain, and where in it spots may lie (every `coarse`-th voxel)."""

    volume: Volume
    room: np.ndarray


class _Depths(NamedTuple):
    """Millimetres below surfaces; negative outside."""

    cerebrum: Volume
    cerebellum: Volume
    stem: Volume

    @property
    def brain(self) -> Volume:
        """Below the surface of any of them."""
        return np.maximum(np.maximum(self.cerebrum, self.cerebellum), self.stem)


def make_head(rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], coarse: int) -> Head:
    """Draws a brain without noise, bias or spots.

    Args:
        rng: The volume's own source of randomness.
        shape: Voxels per axis.
        spacing: Side of a voxel in millimetres; below `ADULT` millimetres from front to back, the head is smaller.
        coarse: Voxels between those of `room`.
    """
    adult = ADULT / (shape[1] * spacing[1])  # the anatomy is drawn in an adult's millimetres
    side = (np.asarray(spacing) * adult).tolist()
    axes = axes_mm(shape, side)
    depths = _depths(rng, axes, shape, side)
    cortex = _cortex(rng, axes, depths, shape, side)
    inner = depths.brain
    volume = FLUID * step(inner + 1.0)
    tissue = GREY + (WHITE - GREY) * step(cortex - 3.0, 1.6)
    tissue += 0.012 * smooth_field(rng, shape, side, 9.0)
    blend(volume, tissue, step(np.minimum(inner, cortex), 1.2))
    deep = _deep(rng, axes, volume)
    pick = (slice(coarse // 2, None, coarse),) * 3
    room = (depths.cerebrum[pick] > 12) & (cortex[pick] > 3.5) & (deep[pick] < -4)
    return Head(volume, room)


def _depths(
    rng: np.random.Generator, axes: Sequence[np.ndarray], shape: Sequence[int], side: Sequence[float]
) -> _Depths:
    z, y, x = axes
    grow = rng.uniform(0.93, 1.0, 3).tolist()
    wobble = 1.2 * smooth_field(rng, shape, side, 28.0)
    cerebrum = ellipsoid(axes, (10, 0, 0), (57 * grow[0], 77 * grow[1], 62 * grow[2])) + wobble
    cerebrum = np.minimum(cerebrum, z + 26 - 0.10 * y)  # the base is flat
    cerebellum = ellipsoid(axes, (-33, -40, 0), (21, 29, 45)) + 0.5 * wobble
    cerebellum = np.minimum(cerebellum, -cerebrum - 2)
    stem = 11 - np.sqrt(x**2 + (y + 14 + 0.15 * z) ** 2) + 0 * z
    stem = np.minimum(stem, 4 - z)
    return _Depths(cerebrum, cerebellum, np.minimum(stem, z + 70))


def _cortex(
    rng: np.random.Generator, axes: Sequence[np.ndarray], depths: _Depths, shape: Sequence[int], side: Sequence[float]
) -> Volume:
    """Depth below the folded surface: sulci are the sheets on which a smooth random field is zero."""
    z, y, x = axes
    folds = 3.6 * np.abs(smooth_field(rng, shape, side, 7.5, band=True))
    folds += np.clip(depths.cerebrum - 19, 0, None) * 0.6
    fissure = np.abs(x + 1.2 * np.sin(y / 23)) + np.clip(-4 - z, 0, None) - 0.3
    folded = np.minimum(np.minimum(folds - 0.35, fissure), depths.cerebrum)
    bend = y + 40 + 1.5 * folds
    leaves = 1.6 + 1.5 * np.sin((z - 0.35 * bend) * 1.25) + np.clip(depths.cerebellum - 6, 0, None)
    leaved = np.minimum(leaves, depths.cerebellum)
    return np.maximum(np.maximum(folded, leaved), np.minimum(depths.stem, 6) * 1.5)


def _deep(rng: np.random.Generator, axes: Sequence[np.ndarray], volume: Volume) -> Volume:
    """Paints grey nuclei and ventricles; returns the depth below the surface of the latter."""
    z, y, x = axes
    width = rng.uniform(0.8, 1.35)
    ventricles = np.minimum(2.2 - np.abs(x), ellipsoid(axes, (4, -4, 0), (10, 14, 10))) + 0 * volume
    for sign in (-1, 1):
        for middle, radii in (((2, -10, 15), (9, 14, 9)), ((3, 10, 25), (8, 16, 6)), ((13, 16, 14), (8, 12, 5))):
            blend_ellipsoid(volume, axes, (middle[0], middle[1], sign * middle[2]), radii, 0.555, 2)
        tilted = (z - 0.10 * y, y, x - sign * (3 - 0.22 * y))
        horn = ellipsoid(tilted, (13, -2, sign * 7), (8, 32, 5 * width))
        back = ellipsoid((z, y, x), (4, -32, sign * 21), (9, 11, 4.5 * width))
        ventricles = np.maximum(ventricles, np.maximum(horn, back))
    blend(volume, FLUID, step(ventricles, 1.2))
    return ventricles
