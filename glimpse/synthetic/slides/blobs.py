"""Paints the dark blobs so that tumour and lymphoid aggregate differ in their cells but not in the overview.

A blob first exists as a flat field of colour, drawn by the same law for both kinds and blended into the slide. Its
cells are then painted, and shifted smoothly in colour until every 16 x 16 block has the mean that the flat field had.
Reduced 16 times, the two kinds are therefore equal in law; at full resolution the cells tell them apart.
"""

from collections.abc import Callable

import numpy as np

from glimpse.synthetic.slides.enlarging import bordered, enlarged
from glimpse.synthetic.slides.layout import COARSE, Blob
from glimpse.synthetic.slides.textures import UNIT, smooth_noise

ROUNDS = 4
"""Repetitions of the smooth shift; what is left then is below the steps of JPEG."""

_FADE, _WIDEST = 7, 1.3  # pixels over which the border fades; largest radius, relative to the blob's

_MEAN = (0.93, 0.50)  # hematoxylin and eosin of the flat field, between the means of both kinds' cells


def paint_blob(
    rng: np.random.Generator,
    slide: np.ndarray,
    blob: Blob,
    texture: np.ndarray,
    colour: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Paints one blob onto a slide.

    Args:
        rng: Source of randomness, drawn from alike for both kinds.
        slide: uint8 (height, width, 3), painted on in place; a fourth channel stays as it is.
        blob: Where, how large, of which kind.
        texture: Stain of the kind's cells, uint8 (2, side, side).
        colour: The slide's staining: stain (2, h, w) to colours (h, w, 3), or 4 channels with an unused last one.
    """
    reach = 1.35 * blob.radius + 8
    low = [max(int((middle - reach) // COARSE) * COARSE, 0) for middle in (blob.y, blob.x)]
    high = [min(-int(-(middle + reach) // COARSE) * COARSE, size)
            for middle, size in zip((blob.y, blob.x), slide.shape, strict=False)]  # fmt: skip
    rows, columns = slice(low[0], high[0]), slice(low[1], high[1])
    shape = high[0] - low[0], high[1] - low[1]
    cover = _outline(rng, blob, rows, columns)
    share = np.maximum(_block_means(cover), np.float32(0.15))
    cells, flat = colour(_cut(rng, texture, shape)), colour(_flat_field(rng, shape))
    for channel in range(3):  # one after the other: contiguous planes are several times faster than interleaved ones
        below = slide[rows, columns, channel].astype(np.float32)
        wanted = _block_means(_over(below, flat[..., channel], cover))
        painted = _match(_over(below, cells[..., channel], cover), wanted, cover, share)
        painted += np.float32(0.5)
        slide[rows, columns, channel] = painted


def _over(below: np.ndarray, above: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Lays one plane over another, as far as it covers."""
    mixed = above - below
    mixed *= cover
    mixed += below
    return mixed


def _outline(rng: np.random.Generator, blob: Blob, rows: slice, columns: slice) -> np.ndarray:
    """How far the blob covers each pixel: an irregular disc with a ragged border."""
    waves = {wave: (blob.radius * 0.14 / wave * rng.normal(), rng.uniform(0, 2 * np.pi)) for wave in range(2, 6)}
    dy = np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5) - np.float32(blob.y)
    dx = np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5) - np.float32(blob.x)
    distance = np.hypot(dy[:, None], dx)
    rag = 9 * smooth_noise(rng, distance.shape, 6)
    # The waves decide only near the border; further in or out the sum of their heights does.
    height, margin, beyond = sum(abs(high) for high, _ in waves.values()), _FADE / 2 + 0.1, rag - distance
    inside = beyond > margin - (blob.radius - height)
    cover = inside.astype(np.float32)
    some = np.nonzero((beyond >= -margin - (blob.radius + height)) & ~inside)
    turn = np.arctan2(dy[some[0]], dx[some[1]])
    radius = np.full_like(turn, blob.radius)
    for wave, (high, phase) in waves.items():
        radius += high * np.cos(wave * turn + phase)
    depth = np.minimum(radius, _WIDEST * blob.radius) - distance[some] + rag[some]
    cover[some] = np.clip(depth / _FADE + 0.5, 0, 1)
    return cover


def _cut(rng: np.random.Generator, texture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A random piece of a texture, flipped and turned at random; takes as many draws for every texture."""
    top, left = (int(rng.random() * (texture.shape[axis + 1] - max(shape))) for axis in range(2))
    turn = int(rng.integers(8))
    piece = texture.swapaxes(1, 2) if turn & 4 else texture
    piece = piece[:, top : top + shape[0], left : left + shape[1]]
    return np.ascontiguousarray(piece[:, :: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1])


def _flat_field(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Stain that varies slowly and, from block to block, a little; uint8 (2, height, width)."""
    blocks = shape[0] // COARSE, shape[1] // COARSE
    level = np.exp(rng.normal(0, 0.06))
    grain = 0.07 * smooth_noise(rng, blocks, 2.5) + 0.05 * rng.standard_normal(blocks)
    planes = [level * mean * (1 + grain + 0.02 * rng.standard_normal(blocks)) for mean in _MEAN]
    return np.stack([_smooth(plane.astype(np.float32)) * UNIT for plane in planes]).astype(np.uint8)


def _smooth(blocks: np.ndarray) -> np.ndarray:
    return enlarged(bordered(blocks), COARSE)


def _block_means(plane: np.ndarray) -> np.ndarray:
    """Means of blocks, summed row after row and then column after column."""
    rows, columns = plane.shape[0] // COARSE, plane.shape[1] // COARSE
    summed = plane.reshape(rows, COARSE, -1).sum(1)  # in two steps: along whole lines of memory first
    return summed.reshape(rows, columns, COARSE).transpose(2, 0, 1).copy().sum(0) / np.float32(COARSE**2)


def _match(painted: np.ndarray, wanted: np.ndarray, cover: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Shifts one colour smoothly, where the blob covers, until the means of the blocks are those wanted."""
    shift = np.zeros_like(wanted)
    for _ in range(ROUNDS):
        shift += (wanted - _block_means(_shifted(painted, shift, cover))) / share
    result = _shifted(painted, shift, cover)
    missing = wanted - _block_means(result)
    result += missing.repeat(COARSE, 0).repeat(COARSE, 1)
    return np.clip(result, 0, 255, out=result)


def _shifted(painted: np.ndarray, shift: np.ndarray, cover: np.ndarray) -> np.ndarray:
    result = cover * _smooth(shift)
    result += painted
    return np.clip(result, 0, 255, out=result)
