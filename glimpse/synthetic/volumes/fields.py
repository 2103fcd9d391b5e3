"""Building blocks of synthetic volumes: smooth random fields, soft edges, and axes in millimetres."""

from collections.abc import Sequence

import numpy as np
import scipy

Volume = np.ndarray
"""float32 (depth, height, width)."""


def axes_mm(shape: Sequence[int], spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Millimetres from the middle of a grid along z, y and x, shaped so that they broadcast to a volume."""
    z, y, x = (((np.arange(n) + 0.5 - n / 2) * side).astype(np.float32) for n, side in zip(shape, spacing, strict=True))
    return z[:, None, None], y[None, :, None], x[None, None, :]


def smooth_field(
    rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], scale: float, band: bool = False
) -> Volume:
    """Smooth noise of mean 0 and standard deviation about 1.

    White noise at nodes `scale` apart is interpolated by cubic B-splines, axis by axis, so that the cost is that of
    three thin matrix products.

    Args:
        rng: Source of randomness.
        shape: Voxels per axis.
        spacing: Side of a voxel per axis in millimetres.
        scale: Distance of nodes in millimetres.
        band: Whether to leave out what varies slower than that, so that zero crossings are evenly spaced.
    """
    weights = [_spline(n, side / scale) for n, side in zip(shape, spacing, strict=True)]
    nodes = rng.standard_normal([w.shape[1] for w in weights], np.float32)
    if band:
        nodes -= scipy.ndimage.gaussian_filter(nodes, 1.2, mode="wrap")
    for weight in weights:  # each product consumes the first axis and appends its finer one
        nodes = np.tensordot(nodes, weight, axes=(0, 1))
    return np.ascontiguousarray(nodes / 0.479**1.5, np.float32)


def _spline(voxels: int, step: float) -> np.ndarray:
    """Weights (voxel, node) of cubic B-splines at nodes 1 apart, for voxels `step` apart."""
    nodes = int(np.ceil(voxels * step)) + 3
    distance = np.abs((np.arange(voxels) + 0.5)[:, None] * step + 1 - np.arange(nodes))
    inner = 2 / 3 - distance**2 + distance**3 / 2
    outer = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, inner, outer).astype(np.float32)


def step(depth: Volume, width: float = 1.0) -> Volume:
    """A soft edge: 0 outside, 1 inside, linear over `width` around depth 0."""
    return np.clip(depth / np.float32(width) + np.float32(0.5), 0, 1)


def ellipsoid(axes: Sequence[np.ndarray], middle: Sequence[float], radii: Sequence[float]) -> Volume:
    """Depth in millimetres below an ellipsoid's surface, roughly; negative outside."""
    squares = [((axis - m) / r) ** 2 for axis, m, r in zip(axes, middle, radii, strict=True)]
    return (1 - np.sqrt(squares[0] + squares[1] + squares[2])) * np.float32(min(radii))


def blend(volume: Volume, value: Volume | float, share: Volume) -> None:
    """Mixes a value into a volume, in place."""
    volume += (np.asarray(value, np.float32) - volume) * share


def blend_ellipsoid(
    volume: Volume,
    axes: Sequence[np.ndarray],
    middle: Sequence[float],
    radii: Sequence[float],
    value: float,
    width: float,
) -> None:
    """Mixes a value into an ellipsoid with an edge `width` wide, in place; only the box around it is touched."""
    reach = 1 + (0.5 * width + 0.1) / min(radii)  # a little more than where the edge ends, for rounding
    box = []
    for axis, m, r in zip(axes, middle, radii, strict=True):
        inside = np.flatnonzero(np.abs(axis.ravel() - m) <= reach * r)
        box.append(slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0))
    near = [axis[(slice(None),) * n + (part,)] for n, (axis, part) in enumerate(zip(axes, box, strict=True))]
    blend(volume[tuple(box)], value, step(ellipsoid(near, middle, radii), width))
