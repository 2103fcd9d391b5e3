"""The atlas of one process: every texture and stamp that slides are painted from."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from glimpse.synthetic.slides.textures import (
    EPITHELIAL,
    LYMPHOCYTE,
    TUMOUR,
    Stain,
    cellular,
    draw_nucleus,
    fibrous,
    paste,
    smooth_noise,
    to_bytes,
)

SIDE = 1024
"""Side of the stroma's textures in pixels."""

GLANDS = 40
"""Number of different gland stamps."""


@dataclass(frozen=True)
class Stamp:
    """A gland: its stain, uint8 (2, side, side), and how far it covers the stroma, uint8 (side, side), 255 wholly."""

    stain: Stain
    cover: np.ndarray


@dataclass(frozen=True)
class Atlas:
    """All textures, uint8 (2, side, side) in steps of `textures.UNIT`, and the gland stamps."""

    dense: Stain
    loose: Stain
    blobs: dict[str, Stain]  # by kind: "tumour", "aggregate"
    glands: tuple[Stamp, ...]


@cache
def atlas(version: int, seed: int) -> Atlas:
    """Paints the atlas of a cohort (about three seconds); the same in every process."""
    rng = np.random.default_rng([version, seed, 0xA71A5])
    return Atlas(
        dense=fibrous(rng, SIDE, length=130, gaps=0.35, cells=3.2),
        loose=fibrous(rng, SIDE, length=90, gaps=0.9, cells=4.5),
        blobs={"tumour": _tumour(rng), "aggregate": _aggregate(rng)},
        glands=tuple(_gland(rng) for _ in range(GLANDS)),
    )


def _tumour(rng: np.random.Generator, side: int = 2048) -> Stain:
    """Large, crowded nuclei of uneven shape with open chromatin and nucleoli, in purplish cytoplasm."""
    mottle = 0.07 * smooth_noise(rng, (side, side), 5) + 0.05 * smooth_noise(rng, (side, side), 1.5)
    ground = np.stack([0.52 + mottle, 0.62 + mottle])
    return cellular(rng, side, TUMOUR, pitch=25.5, jitter=0.13, keep=0.97, ground=ground)


def _aggregate(rng: np.random.Generator, side: int = 1280) -> Stain:
    """Small, round, dark, uniform nuclei, densely packed with hardly any cytoplasm."""
    mottle = 0.08 * smooth_noise(rng, (side, side), 3) + 0.05 * smooth_noise(rng, (side, side), 1.2)
    ground = np.stack([0.16 + mottle * 0.5, 0.42 + mottle])
    return cellular(rng, side, LYMPHOCYTE, pitch=14.6, jitter=0.19, keep=0.97, ground=ground)


def _gland(rng: np.random.Generator) -> Stamp:
    """A ring of epithelium around a lumen: nuclei in a row near the base, cytoplasm towards the lumen."""
    lumen, thickness = 9 + 90 * rng.random() ** 1.7, rng.uniform(30, 42)
    half = int(lumen * 1.5 + thickness) + 14
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    angles = np.linspace(-np.pi, np.pi, 721)
    bumps = np.ones_like(angles)
    for wave in range(2, 7):
        bumps += rng.normal() * 0.22 / wave * np.cos(wave * angles + rng.uniform(0, 2 * np.pi))
    bumps = np.clip(bumps, 0.5, 1.5)
    depth = np.hypot(y, x) - np.interp(np.arctan2(y, x), angles, bumps * lumen)  # 0 at the lumen
    texture = 0.08 * smooth_noise(rng, x.shape, 2.5)
    cytoplasm = np.clip(np.minimum(depth + 1 + 12 * texture, thickness - depth + 1), 0, 1)
    secretion = np.clip(0.1 + 0.1 * smooth_noise(rng, x.shape, 9) + 0.3 * texture, 0, None) * (rng.random() < 0.4)
    eosin = cytoplasm * (0.52 + texture) + (1 - cytoplasm) * secretion
    canvas = np.stack([cytoplasm * (0.26 + texture), eosin]).astype(np.float32)
    _line(rng, canvas, angles, bumps * lumen, thickness)
    cover = np.clip((thickness + 4 - depth) / 2, 0, 1)
    canvas[1] += 0.45 * np.clip(1 - np.abs(depth - thickness - 1) / 2, 0, 1)
    return Stamp(to_bytes(ndimage.gaussian_filter(canvas, (0, 0.5, 0.5))), (cover * 255).astype(np.uint8))


def _line(rng: np.random.Generator, canvas: Stain, angles: np.ndarray, lumen: np.ndarray, thickness: float) -> None:
    """Sets the nuclei, their long axes pointing to the lumen, in one and a half rows."""
    centre = canvas.shape[1] // 2
    angle = -np.pi
    while angle < np.pi:
        inner = float(np.interp(angle, angles, lumen))
        radius = inner + thickness * float(np.clip(rng.normal(0.66, 0.1), 0.4, 0.78))
        nucleus = draw_nucleus(rng, EPITHELIAL, angle + rng.normal(0, 0.15))
        y, x = centre + radius * np.sin(angle), centre + radius * np.cos(angle)
        paste(canvas, nucleus, round(y), round(x))
        angle += rng.uniform(7.5, 11.5) / radius
