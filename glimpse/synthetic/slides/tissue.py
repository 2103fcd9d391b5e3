"""Paints one slide from its layout and the atlas.

Stain amounts are laid down first (stroma, glands), turned into colours by the slide's own staining (Beer-Lambert), and
then the blobs, folds and ink go on top in colour.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from glimpse.synthetic.slides.atlas import Atlas
from glimpse.synthetic.slides.blobs import paint_blob
from glimpse.synthetic.slides.enlarging import bordered, enlarged
from glimpse.synthetic.slides.layout import COARSE, Layout, Stroke
from glimpse.synthetic.slides.textures import UNIT, smooth_noise

PATCH = 512
"""Side of the square of noise that frays the tissue's border, repeated over the slide."""

BLOCK = 128
"""Side of the blocks that are told apart as glass, border and inner tissue; glass is not painted at all."""

_GLASS, _BORDER, _INNER = 0, 1, 2

_SOFT = 5
"""Pixels over which the tissue's border fades."""

_HEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.10, 0.78, 0.25])


@dataclass(frozen=True)
class Staining:
    """How one slide is stained: the colour of any amounts of both stains. The first colour is that of the glass.

    A colour is four bytes, red, green, blue and one that is not used, so that it is copied as one number.
    """

    table: np.ndarray  # uint32 (65536,), indexed by 256 * hematoxylin + eosin

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Staining":
        """Draws strengths, hues and the glass's brightness; the same law for every slide."""
        glass = 243 + rng.uniform(-4, 4) + rng.uniform(-1.5, 1.5, 3)
        hematoxylin = _HEMATOXYLIN * rng.uniform(0.85, 1.12) * (1 + rng.normal(0, 0.04, 3))
        eosin = _EOSIN * rng.uniform(0.8, 1.2) * (1 + rng.normal(0, 0.06, 3))
        amount = np.arange(256)[:, None] / UNIT
        first, second = np.exp(-amount * hematoxylin), np.exp(-amount * eosin)
        table = np.zeros((256, 256, 4), np.uint8)
        table[..., :3] = glass * first[:, None] * second[None, :] + 0.5
        return cls(table.view(np.uint32).ravel())

    def packed(self, stain: np.ndarray) -> np.ndarray:
        """Colours uint32 (height, width) of stain amounts uint8 (2, height, width)."""
        index = stain[0].astype(np.uint16)
        index <<= 8
        index |= stain[1]
        return self.table.take(index)

    def colour(self, stain: np.ndarray) -> np.ndarray:
        """The same as uint8 (height, width, 4), the last channel unused."""
        return _channels(self.packed(stain))


def _channels(packed: np.ndarray) -> np.ndarray:
    return packed.view(np.uint8).reshape(*packed.shape, 4)


@dataclass(frozen=True)
class Piece:
    """A rectangle of pixels within one square of `PATCH`; `border`: whether the tissue ends in it or near it."""

    rows: slice
    columns: slice
    border: bool

    @property
    def cells(self) -> tuple[slice, slice]:
        """The rectangle on coarse maps."""
        rows, columns = self.rows, self.columns
        return slice(rows.start // COARSE, rows.stop // COARSE), slice(columns.start // COARSE, columns.stop // COARSE)

    def within(self, side: int) -> tuple[slice, slice]:
        """The rectangle on a texture that repeats after `side` pixels, a multiple of `PATCH`."""
        top, left = self.rows.start % side, self.columns.start % side
        height, width = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        return slice(top, top + height), slice(left, left + width)


def paint(rng: np.random.Generator, layout: Layout, atlas: Atlas) -> np.ndarray:
    """Paints a slide; uint8 (size, size, 4), the last channel unused."""
    staining = Staining.draw(rng)
    blend, textures = _stroma(rng, layout, atlas)
    thickness, rag = _thickness(rng, layout), _rag(rng)
    pieces = list(_pieces(layout, rag))
    stain = np.empty((2, layout.size, layout.size), np.uint8)  # on glass it stays as it is, and nothing reads it
    _lay_stroma(stain, pieces, blend, textures)
    _set_glands(stain, layout, atlas)
    packed = np.full((layout.size, layout.size), staining.table[0])
    _cut_out(packed, stain, pieces, (bordered(layout.depth), thickness), rag, staining)
    del stain
    slide = _channels(packed)
    for blob in layout.blobs:
        paint_blob(rng, slide, blob, atlas.blobs[blob.kind], staining.colour)
    for stroke in layout.folds:
        _tint(rng, slide, stroke, layout, only_tissue=True)
    for stroke in layout.pens:
        _tint(rng, slide, stroke, layout, only_tissue=False)
    return slide


def _pieces(layout: Layout, rag: np.ndarray) -> Iterator[Piece]:
    """Yields the tissue in pieces: blocks of one kind that lie side by side within a square of `PATCH`."""
    per_square = PATCH // BLOCK
    for row, line in enumerate(_kinds_of_blocks(layout, rag).tolist()):
        start = 0
        for column in range(1, len(line) + 1):
            if column == len(line) or column % per_square == 0 or line[column] != line[start]:
                if line[start] != _GLASS:
                    rows, columns = slice(row * BLOCK, (row + 1) * BLOCK), slice(start * BLOCK, column * BLOCK)
                    yield Piece(rows, columns, line[start] == _BORDER)
                start = column


def _kinds_of_blocks(layout: Layout, rag: np.ndarray) -> np.ndarray:
    """Tells blocks apart by the depth of their cells, and of the cells beside them, which depths are blended with."""
    cells, blocks = BLOCK // COARSE, layout.size // BLOCK
    lowest = ndimage.minimum_filter(layout.depth, 3).reshape(blocks, cells, blocks, cells).min((1, 3))
    highest = ndimage.maximum_filter(layout.depth, 3).reshape(blocks, cells, blocks, cells).max((1, 3))
    fade = 0.5 * _SOFT + 0.1  # a little more than half the width, for rounding
    kinds = np.full(lowest.shape, _BORDER)
    kinds[lowest + rag.min() > fade] = _INNER
    kinds[highest + rag.max() < -fade] = _GLASS
    side = PATCH // COARSE
    for top in range(0, len(layout.depth), side):
        for left in range(0, len(layout.depth), side):
            if (layout.depth[top : top + side, left : left + side] <= -2 * COARSE).all():  # noise alone is no tissue
                kinds[top // cells : (top + side) // cells, left // cells : (left + side) // cells] = _GLASS
    return kinds


def _flip(array: np.ndarray, turn: int) -> np.ndarray:
    """One of the 8 flips and turns of the last two axes."""
    array = array.swapaxes(-1, -2) if turn & 4 else array
    return array[..., :: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]


def _stroma(rng: np.random.Generator, layout: Layout, atlas: Atlas) -> tuple[np.ndarray, list[np.ndarray]]:
    """How much of the stroma is loose, 0 to 127, as a smooth coarse map; and the textures of dense and loose stroma."""
    side = layout.size // COARSE
    mix = np.clip(0.5 + 1.6 * smooth_noise(rng, (side, side), side / 22), 0, 1) * 127
    textures = []
    for texture in (atlas.dense, atlas.loose):
        shift = tuple(rng.integers(texture.shape[-1], size=2))
        turned = np.ascontiguousarray(_flip(texture, int(rng.integers(8))))
        textures.append(np.roll(turned, shift, axis=(1, 2)))
    return bordered(mix.astype(np.uint8)), textures


def _lay_stroma(stain: np.ndarray, pieces: Sequence[Piece], blend: np.ndarray, textures: Sequence[np.ndarray]) -> None:
    """Covers the tissue with dense and loose stroma, blended along a smooth map."""
    dense, loose = (texture.astype(np.int16) for texture in textures)
    loose -= dense
    for piece in pieces:
        area = (slice(None), *piece.within(dense.shape[-1]))
        mixed = loose[area] * enlarged(blend, COARSE, piece.cells)
        mixed >>= 7
        mixed += dense[area]
        stain[:, piece.rows, piece.columns] = mixed


def _set_glands(stain: np.ndarray, layout: Layout, atlas: Atlas) -> None:
    for gland in layout.glands:
        stamp = atlas.glands[gland.stamp]
        colour, cover = (np.ascontiguousarray(_flip(array, gland.turn)) for array in (stamp.stain, stamp.cover))
        half = cover.shape[0] // 2
        top, left = max(gland.y - half, 0), max(gland.x - half, 0)
        area = stain[:, top : gland.y + half + 1, left : gland.x + half + 1]
        rows = slice(top - gland.y + half, top - gland.y + half + area.shape[1])
        columns = slice(left - gland.x + half, left - gland.x + half + area.shape[2])
        weight = cover[rows, columns].astype(np.int32)
        below = area.astype(np.int32)
        area[:] = below + (((colour[:, rows, columns] - below) * weight + 128) // 255)


def _thickness(rng: np.random.Generator, layout: Layout) -> np.ndarray:
    side = layout.depth.shape[0]
    return bordered((1 + 0.07 * smooth_noise(rng, (side, side), side / 30)).astype(np.float32))


def _rag(rng: np.random.Generator) -> np.ndarray:
    """How many pixels the tissue's border is moved outwards, float32 (PATCH, PATCH)."""
    return 6 * smooth_noise(rng, (PATCH, PATCH), 6) + 10 * smooth_noise(rng, (PATCH, PATCH), 28)


def _cut_out(
    packed: np.ndarray,
    stain: np.ndarray,
    pieces: Sequence[Piece],
    maps: tuple[np.ndarray, np.ndarray],
    rag: np.ndarray,
    staining: Staining,
) -> None:
    """Colours the tissue, ragged at its border and unevenly thick; `maps` are its depth and its thickness."""
    depth, thickness = maps
    for piece in pieces:
        cover = enlarged(thickness, COARSE, piece.cells)
        if piece.border:
            inside = enlarged(depth, COARSE, piece.cells)
            inside += rag[piece.within(PATCH)]
            inside /= _SOFT
            inside += np.float32(0.5)
            cover *= np.clip(inside, 0, 1, out=inside)
        amounts = stain[:, piece.rows, piece.columns] * cover
        colours = staining.packed(np.minimum(amounts, 255, out=amounts).astype(np.uint8))
        packed[piece.rows, piece.columns] = colours


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
    source = bordered(strength.astype(np.float32))
    part = 256 // step
    for top in range(0, strength.shape[0], part):
        for left in range(0, strength.shape[1], part):
            bottom, right = min(top + part, strength.shape[0]), min(left + part, strength.shape[1])
            if not strength[top:bottom, left:right].any():
                continue
            rows = slice(int(low[0]) + top * step, int(low[0]) + bottom * step)
            columns = slice(int(low[1]) + left * step, int(low[1]) + right * step)
            power = enlarged(source, step, (slice(top, bottom), slice(left, right)))
            for channel, logarithm in enumerate(np.log(transmittance)):  # planes are contiguous, which is faster
                area = slide[rows, columns, channel]
                area[:] = area * np.exp(power * logarithm) + np.float32(0.5)
