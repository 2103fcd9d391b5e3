"""Paints one slide from its layout and the atlas.

Stain amounts are laid down first (stroma, glands), turned into colours by the slide's own staining (Beer-Lambert), and
then the blobs, folds and ink go on top in colour.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from glimpse.synthetic.slides.atlas import Atlas
from glimpse.synthetic.slides.blobs import paint_blob
from glimpse.synthetic.slides.layout import COARSE, Layout, Stroke
from glimpse.synthetic.slides.textures import UNIT, smooth_noise

PATCH = 512
"""Side of the squares that a slide is painted in; squares of bare glass are skipped."""

_HEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.10, 0.78, 0.25])


@dataclass(frozen=True)
class Staining:
    """How one slide is stained: the colour of any amounts of both stains, and of the bare glass."""

    table: np.ndarray  # uint8 (65536, 3), indexed by 256 * hematoxylin + eosin
    glass: np.ndarray  # uint8 (3,)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Staining":
        """Draws strengths, hues and the glass's brightness; the same law for every slide."""
        glass = 243 + rng.uniform(-4, 4) + rng.uniform(-1.5, 1.5, 3)
        hematoxylin = _HEMATOXYLIN * rng.uniform(0.85, 1.12) * (1 + rng.normal(0, 0.04, 3))
        eosin = _EOSIN * rng.uniform(0.8, 1.2) * (1 + rng.normal(0, 0.06, 3))
        amount = np.arange(256)[:, None] / UNIT
        first, second = np.exp(-amount * hematoxylin), np.exp(-amount * eosin)
        colours = glass * first[:, None] * second[None, :]
        return cls((colours.reshape(-1, 3) + 0.5).astype(np.uint8), (glass + 0.5).astype(np.uint8))

    def colour(self, stain: np.ndarray) -> np.ndarray:
        """Colours uint8 (height, width, 3) of stain amounts uint8 (2, height, width)."""
        index = (stain[0].astype(np.uint16) << 8) | stain[1]
        return self.table.take(index, axis=0)


def paint(rng: np.random.Generator, layout: Layout, atlas: Atlas) -> np.ndarray:
    """Paints a slide; uint8 (size, size, 3)."""
    staining = Staining.draw(rng)
    stain = np.zeros((2, layout.size, layout.size), np.uint8)
    _lay_stroma(rng, stain, layout, atlas)
    _set_glands(stain, layout, atlas)
    slide = np.empty((layout.size, layout.size, 3), np.uint8)
    slide.reshape(layout.size, -1)[:] = np.tile(staining.glass, layout.size)
    _cut_out(rng, slide, stain, layout, staining)
    del stain
    for blob in layout.blobs:
        paint_blob(rng, slide, blob, atlas.blobs[blob.kind], staining.colour)
    for stroke in layout.folds:
        _tint(rng, slide, stroke, layout, only_tissue=True)
    for stroke in layout.pens:
        _tint(rng, slide, stroke, layout, only_tissue=False)
    return slide


def _squares(layout: Layout) -> Iterator[tuple[slice, slice, tuple[float, float, float, float]]]:
    """Yields rows, columns and the box on the coarse maps of every square that holds tissue."""
    for top in range(0, layout.size, PATCH):
        for left in range(0, layout.size, PATCH):
            bottom, right = min(top + PATCH, layout.size), min(left + PATCH, layout.size)
            box = (left / COARSE, top / COARSE, right / COARSE, bottom / COARSE)
            cells = layout.depth[top // COARSE : bottom // COARSE, left // COARSE : right // COARSE]
            if (cells > -2 * COARSE).any():
                yield slice(top, bottom), slice(left, right), box


def _enlarge(coarse: Image.Image, rows: slice, columns: slice, box: tuple[float, float, float, float]) -> np.ndarray:
    size = (columns.stop - columns.start, rows.stop - rows.start)
    return np.asarray(coarse.resize(size, Image.Resampling.BILINEAR, box=box))


def _flip(array: np.ndarray, turn: int) -> np.ndarray:
    """One of the 8 flips and turns of the last two axes."""
    array = array.swapaxes(-1, -2) if turn & 4 else array
    return array[..., :: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]


def _lay_stroma(rng: np.random.Generator, stain: np.ndarray, layout: Layout, atlas: Atlas) -> None:
    """Covers the tissue with dense and loose stroma, blended along a smooth map."""
    side = layout.size // COARSE
    mix = np.clip(0.5 + 1.6 * smooth_noise(rng, (side, side), side / 22), 0, 1) * 127
    blend = Image.fromarray(mix.astype(np.uint8))
    textures = []
    for texture in (atlas.dense, atlas.loose):
        shift = tuple(rng.integers(texture.shape[-1], size=2))
        turned = np.ascontiguousarray(_flip(texture, int(rng.integers(8))))
        textures.append(np.roll(turned, shift, axis=(1, 2)))
    width = textures[0].shape[-1]
    for rows, columns, box in _squares(layout):
        weight = _enlarge(blend, rows, columns, box).astype(np.int16)
        area = (slice(None), slice(rows.start % width, rows.start % width + weight.shape[0]),
                slice(columns.start % width, columns.start % width + weight.shape[1]))  # fmt: skip
        dense, loose = (texture[area].astype(np.int16) for texture in textures)
        stain[:, rows, columns] = dense + (((loose - dense) * weight) >> 7)


def _set_glands(stain: np.ndarray, layout: Layout, atlas: Atlas) -> None:
    for gland in layout.glands:
        stamp = atlas.glands[gland.stamp]
        colour, cover = _flip(stamp.stain, gland.turn), _flip(stamp.cover, gland.turn)
        half = cover.shape[0] // 2
        top, left = max(gland.y - half, 0), max(gland.x - half, 0)
        area = stain[:, top : gland.y + half + 1, left : gland.x + half + 1]
        rows = slice(top - gland.y + half, top - gland.y + half + area.shape[1])
        columns = slice(left - gland.x + half, left - gland.x + half + area.shape[2])
        weight = cover[rows, columns].astype(np.int32)
        below = area.astype(np.int32)
        area[:] = below + (((colour[:, rows, columns] - below) * weight + 128) // 255)


def _cut_out(
    rng: np.random.Generator, slide: np.ndarray, stain: np.ndarray, layout: Layout, staining: Staining
) -> None:
    """Colours the tissue, ragged at its border and unevenly thick."""
    side = layout.depth.shape[0]
    depth = Image.fromarray(layout.depth)
    thickness = Image.fromarray((1 + 0.07 * smooth_noise(rng, (side, side), side / 30)).astype(np.float32))
    rag = 6 * smooth_noise(rng, (PATCH, PATCH), 6) + 10 * smooth_noise(rng, (PATCH, PATCH), 28)
    for rows, columns, box in _squares(layout):
        inside = _enlarge(depth, rows, columns, box)
        cover = np.clip((inside + rag[: inside.shape[0], : inside.shape[1]]) / 5 + 0.5, 0, 1)
        cover *= _enlarge(thickness, rows, columns, box)
        slide[rows, columns] = staining.colour(np.minimum(stain[:, rows, columns] * cover, 255).astype(np.uint8))


def _tint(rng: np.random.Generator, slide: np.ndarray, stroke: Stroke, layout: Layout, only_tissue: bool) -> None:
    """Multiplies the slide by the stroke's transmittance along its line, soft and uneven."""
    if len(stroke.points) < 2:
        return
    margin = int(stroke.width) + 16
    low = np.maximum(stroke.points.min(0).astype(int) - margin, 0) // COARSE * COARSE
    high = np.minimum(-(-(stroke.points.max(0).astype(int) + margin) // COARSE) * COARSE, layout.size)
    if (high - low < COARSE).any():
        return
    step = 4
    mask = Image.new("L", [int(value) for value in (high - low)[::-1] // step])
    line = [(float(x), float(y)) for y, x in (stroke.points - low) / step]
    ImageDraw.Draw(mask).line(line, fill=255, width=max(2, round(stroke.width / step)), joint="curve")
    strength = np.asarray(mask.filter(ImageFilter.GaussianBlur(1.5))) / np.float32(255)
    uneven = smooth_noise(rng, (256, 256), (1.2, 12)) * 0.1 + smooth_noise(rng, (256, 256), 12) * 0.08
    repeats = [-(-length // 256) for length in strength.shape]
    strength = strength * np.clip(0.9 + np.tile(uneven, repeats)[: strength.shape[0], : strength.shape[1]], 0.4, 1)
    if only_tissue:
        cells = slice(low[0] // COARSE, high[0] // COARSE), slice(low[1] // COARSE, high[1] // COARSE)
        inside = np.clip(layout.depth[cells] / 24, 0, 1).repeat(COARSE // step, 0).repeat(COARSE // step, 1)
        strength = strength * inside
    _multiply(slide, strength, low, step, np.array(stroke.transmittance, np.float32))


def _multiply(slide: np.ndarray, strength: np.ndarray, low: np.ndarray, step: int, transmittance: np.ndarray) -> None:
    """Multiplies by `transmittance ** strength`, where `strength` is given every `step` pixels from `low` on."""
    source = Image.fromarray(strength.astype(np.float32))
    part = 256 // step
    for top in range(0, strength.shape[0], part):
        for left in range(0, strength.shape[1], part):
            bottom, right = min(top + part, strength.shape[0]), min(left + part, strength.shape[1])
            if not strength[top:bottom, left:right].any():
                continue
            rows = slice(int(low[0]) + top * step, int(low[0]) + bottom * step)
            columns = slice(int(low[1]) + left * step, int(low[1]) + right * step)
            power = _enlarge(source, rows, columns, (left, top, right, bottom))[..., None]
            slide[rows, columns] = slide[rows, columns] * np.exp(power * np.log(transmittance)) + np.float32(0.5)
