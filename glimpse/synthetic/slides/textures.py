"""Textures of stained tissue, painted once per process and cut from by every slide.

A texture is a uint8 array (2, height, width) of stain: the amount of hematoxylin and of eosin at each pixel, in steps
of `1 / UNIT`. Amounts become colours in `glimpse.synthetic.slides.tissue`, so one texture serves slides of any
staining.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

UNIT = 80.0
"""Steps of a texture per unit of stain."""

Stain = np.ndarray
"""float32 or uint8 (2, height, width): hematoxylin, eosin."""


@dataclass(frozen=True)
class Nucleus:
    """One drawn nucleus: its stain, and how far it covers what lies beneath (0 to 1)."""

    stain: np.ndarray  # float32 (2, side, side), in units of stain
    cover: np.ndarray  # float32 (side, side)


@dataclass(frozen=True)
class Shape:
    """What a kind of nucleus looks like: radii in pixels, amounts in units of stain, each a range to draw from."""

    radius: tuple[float, float]
    aspect: tuple[float, float]  # long radius / short radius
    wobble: float  # relative size of the bumps of the contour
    interior: tuple[float, float]  # hematoxylin inside
    rim: float  # further hematoxylin on the membrane
    clumps: float  # spread of the chromatin
    nucleoli: tuple[int, int] = (0, 0)  # least and most, both included


TUMOUR = Shape((9.5, 13.5), (1.05, 1.6), 0.10, (0.55, 1.05), 0.75, 0.34, (1, 3))
LYMPHOCYTE = Shape((5.6, 7.0), (1.0, 1.15), 0.025, (1.35, 1.75), 0.2, 0.2)
EPITHELIAL = Shape((5.4, 6.6), (1.5, 2.0), 0.03, (0.95, 1.35), 0.25, 0.15)
SPINDLE = Shape((2.4, 3.4), (3.2, 5.5), 0.05, (0.95, 1.35), 0.1, 0.1)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float | tuple[float, float]) -> np.ndarray:
    """Periodic Gaussian noise of mean 0 and deviation 1, correlated over `scale` pixels (per axis)."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    scales = (scale, scale) if isinstance(scale, int | float) else scale
    noise = np.fft.irfft2(np.fft.rfft2(noise) * _damping(shape, scales), s=shape).astype(np.float32)
    spread = max(float(noise.std()), 1e-6)
    noise -= noise.mean()
    noise /= spread
    return noise


@lru_cache(maxsize=64)  # maps and blobs of all slides have the same few shapes
def _damping(shape: tuple[int, int], scales: tuple[float, float]) -> np.ndarray:
    """What a Gaussian of such scales leaves of each frequency of `np.fft.rfft2`."""
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    return np.exp(-2 * np.pi**2 * ((rows * scales[0]) ** 2 + (columns * scales[1]) ** 2))


def draw_nucleus(rng: np.random.Generator, shape: Shape, angle: float | None = None) -> Nucleus:
    """Draws one nucleus of a kind, its long axis at `angle` from the x axis (radians), at random without."""
    radius, aspect = rng.uniform(*shape.radius), rng.uniform(*shape.aspect)
    long, short = radius * np.sqrt(aspect), radius / np.sqrt(aspect)
    if shape is SPINDLE:
        long, short = radius * aspect, radius
    half = int(np.ceil(long * (1 + 2.5 * shape.wobble))) + 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    angle = rng.uniform(0, np.pi) if angle is None else angle
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    turn = np.arctan2(across / short, along / long)
    contour = np.ones_like(x)
    for wave in range(2, 6):
        contour += shape.wobble * rng.normal() * np.cos(wave * turn + rng.uniform(0, 2 * np.pi)) / np.sqrt(wave - 1)
    inside = (contour - np.hypot(along / long, across / short)) * short  # about the distance to the contour
    cover = np.clip(inside + 0.5, 0, 1)
    clumps = ndimage.gaussian_filter(rng.standard_normal(x.shape, dtype=np.float32), 1.3) * 4.5
    stain = rng.uniform(*shape.interior) + shape.clumps * clumps
    stain += shape.rim * np.clip(1 - np.abs(inside - 1.0) / 1.4, 0, 1)
    stain += _nucleoli(rng, shape, along / long, across / short, long, short)
    stain = np.clip(stain, 0.15, 2.6)
    return Nucleus(np.stack([stain, 0.25 + 0.15 * stain]).astype(np.float32), cover)


def _nucleoli(
    rng: np.random.Generator, shape: Shape, along: np.ndarray, across: np.ndarray, long: float, short: float
) -> np.ndarray:
    spots = np.zeros_like(along)
    for _ in range(rng.integers(shape.nucleoli[0], shape.nucleoli[1] + 1)):
        a, b = rng.uniform(-0.45, 0.45, 2)
        distance = np.hypot((along - a) * long, (across - b) * short)
        spots = np.maximum(spots, np.clip(rng.uniform(1.9, 2.9) - distance + 0.5, 0, 1))
    return 1.3 * spots


def paste(canvas: Stain, nucleus: Nucleus, y: int, x: int) -> None:
    """Lays a nucleus onto a float32 canvas around a pixel; the canvas is periodic."""
    side = nucleus.cover.shape[0]
    top, left = y - side // 2, x - side // 2
    if top >= 0 and left >= 0 and top + side <= canvas.shape[1] and left + side <= canvas.shape[2]:
        area = canvas[:, top : top + side, left : left + side]
        area += nucleus.cover * (nucleus.stain - area)
        return
    rows = np.arange(top, top + side) % canvas.shape[1]
    columns = np.arange(left, left + side) % canvas.shape[2]
    area = canvas[:, rows[:, None], columns]
    canvas[:, rows[:, None], columns] = area + nucleus.cover * (nucleus.stain - area)


def scatter(rng: np.random.Generator, side: int, pitch: float, jitter: float, keep: float = 1.0) -> np.ndarray:
    """Integer points (n, 2) of a jittered hexagonal lattice on a periodic square, in random order."""
    rows, columns = round(side / (pitch * 0.866)), round(side / pitch)
    row, column = np.mgrid[:rows, :columns].reshape(2, -1).astype(float)
    points = np.stack([(row + 0.5) * side / rows, (column + 0.25 + 0.5 * (row % 2)) * side / columns], axis=1)
    points = points + rng.normal(0, jitter * pitch, points.shape)
    points = points[rng.random(len(points)) < keep]
    return rng.permutation(points.astype(int) % side)


def cellular(
    rng: np.random.Generator, side: int, shape: Shape, pitch: float, jitter: float, keep: float, ground: Stain
) -> Stain:
    """Crowded nuclei of one kind on a ground of cytoplasm; uint8 (2, side, side)."""
    canvas = ground.astype(np.float32)
    bank = [draw_nucleus(rng, shape) for _ in range(400)]
    for y, x in scatter(rng, side, pitch, jitter, keep):
        paste(canvas, bank[rng.integers(len(bank))], y, x)
    return to_bytes(canvas)


def to_bytes(stain: Stain) -> Stain:
    """Units of stain to the uint8 steps that textures are kept in."""
    return np.clip(stain * UNIT + 0.5, 0, 255).astype(np.uint8)


def fibrous(rng: np.random.Generator, side: int, length: float, gaps: float, cells: float) -> Stain:
    """Wavy bundles of pink fibres with spindle-shaped and a few round nuclei; uint8 (2, side, side), periodic.

    Args:
        rng: Source of randomness.
        side: Side of the texture in pixels.
        length: Length over which a fibre keeps its course, in pixels.
        gaps: How much clear space there is between the bundles, 0 to 1.
        cells: Nuclei per 10,000 square pixels.
    """
    bend = [smooth_noise(rng, (side, side), length) * length * 0.55 for _ in range(2)]
    y, x = np.mgrid[:side, :side].astype(np.float32)
    fibres = 0.6 * smooth_noise(rng, (side, side), (2.2, 40)) + 0.5 * smooth_noise(rng, (side, side), (7, 90))
    fibres += 0.25 * smooth_noise(rng, (side, side), 1.2)
    fibres = ndimage.map_coordinates(fibres, [y + bend[0], x + bend[1]], order=1, mode="grid-wrap")
    body = 0.1 * smooth_noise(rng, (side, side), 60)
    eosin = np.clip(0.62 + body + 0.13 * fibres, 0.12, None)
    eosin *= 1 - gaps * np.clip((-fibres - 0.55) * 1.6, 0, 1)
    canvas = np.stack([0.06 + 0.12 * eosin, eosin]).astype(np.float32)
    _add_stromal_cells(rng, canvas, _direction(bend[0]), round(cells * side**2 / 1e4))
    return to_bytes(canvas)


def _direction(bend_y: np.ndarray) -> np.ndarray:
    """Angle of fibres that run along lines of constant `y + bend_y`."""
    across = np.stack([1 + np.gradient(bend_y, axis=0), np.gradient(bend_y, axis=1)])
    return np.arctan2(-across[1], across[0])


def _add_stromal_cells(rng: np.random.Generator, canvas: Stain, slope: np.ndarray, count: int) -> None:
    bins = 24
    spindles = [[draw_nucleus(rng, SPINDLE, np.pi * k / bins) for _ in range(8)] for k in range(bins)]
    round_ones = [draw_nucleus(rng, LYMPHOCYTE) for _ in range(32)]
    for y, x in rng.integers(0, canvas.shape[1], (count, 2)):
        turn = round((slope[y, x] + rng.normal(0, 0.2)) / np.pi * bins) % bins
        bank = spindles[turn] if rng.random() < 0.82 else round_ones
        paste(canvas, bank[rng.integers(len(bank))], int(y), int(x))
