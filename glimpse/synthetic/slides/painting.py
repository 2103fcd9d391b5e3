"""Paints a slide: stroma from one end to the other, its spots, the stain, and what the scanner adds.

A look-alike is painted with the phantom of a focus of the same outline, drawn by the same draws, and then takes the
means of small blocks from it in the final colours. So an overview cannot tell it from a focus.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from PIL import Image, ImageFilter

from glimpse.synthetic.slides.enlarging import Cells, bordered, enlarged
from glimpse.synthetic.slides.layout import (
    CELL,
    FAT,
    HAEMORRHAGE,
    LOOK_ALIKE,
    NECROSIS,
    Layout,
    Spot,
    polygon,
    smooth_noise,
)
from glimpse.synthetic.slides.likeness import matched
from glimpse.synthetic.slides.quilting import DENSITY, turned
from glimpse.synthetic.slides.staining import Look
from glimpse.synthetic.slides.texture import Sheets

_TINTS = {NECROSIS: (0.85, 0.80, 0.90), HAEMORRHAGE: (0.75, 1.20, 1.35)}
"""Optical densities (red, green, blue) of kinds of tissue, as factors of the stroma's."""

_BLOCK = 256  # pixels a side that are painted at a time
_FINE = 4  # pixels per cell of a spot's soft outline
_PLACES = 150  # random windows among which one that overlaps the others least is taken


@dataclass(frozen=True)
class Window:
    """A place on a sheet that continues itself: its upper left corner in pixels, and which of the 8 turns."""

    y: int
    x: int
    turn: int

    def cut(self, sheet: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """Pixels of the sheet, turned first, in rows and columns counted from the window's corner."""
        at = (
            (start + np.arange(part.start, part.stop)) % len(sheet)
            for start, part in ((self.y, rows), (self.x, columns))
        )
        return turned(sheet, self.turn)[np.ix_(*at)]


def paint(rng: np.random.Generator, layout: Layout, look: Look, sheets: Sheets, walls: np.ndarray) -> Image.Image:
    """Paints a slide in full resolution.

    Args:
        rng: The slide's own source of randomness.
        layout: What lies where.
        look: Its staining and scanning.
        sheets: The tissue.
        walls: Of fat cells (see `glimpse.synthetic.slides.texture`).
    """
    slide = _Slide(rng, layout, look, sheets, walls)
    image = np.empty((layout.size, layout.size, 3), np.uint8)
    image[:] = look.empty
    step = _BLOCK // CELL
    for row, column in np.ndindex(layout.size // _BLOCK, layout.size // _BLOCK):
        cells = slice(row * step, (row + 1) * step), slice(column * step, (column + 1) * step)
        if slide.has_tissue(cells):
            image[_pixels(cells)] = slide.scanned(slide.stained(slide.ground(cells), cells), cells)
    places = _apart(rng, layout.spots, len(sheets.tumour))
    for spot, place in zip(layout.spots, places, strict=True):
        colours, inside = slide.spot(rng, spot, place)
        image[_pixels(spot.box)][inside] = slide.scanned(colours, spot.box)[inside]
    return _focused(Image.fromarray(image), look.sharpness)


class _Slide:
    """What all parts of a slide share."""

    def __init__(self, rng: np.random.Generator, layout: Layout, look: Look, sheets: Sheets, walls: np.ndarray) -> None:
        self._look, self._sheets = look, sheets
        self._window = _anywhere(rng, len(sheets.ground))
        self._walls, self._wall_window = walls, _anywhere(rng, len(walls))
        labels = layout.labels
        self._tissue = scipy.ndimage.binary_dilation(labels > 0, iterations=2)
        gain = 1 + np.clip(0.1 * smooth_noise(rng, labels.shape, 10), -0.25, 0.25)
        gains = np.repeat(gain[..., None], 3, axis=-1)
        for kind, tint in _TINTS.items():
            gains += _blurred(labels == kind, 1.5)[..., None] * (np.array(tint, np.float32) - 1)
        self._gains = [bordered(gains[..., channel]) for channel in range(3)]
        self._amount, self._fat = bordered(_blurred(labels > 0, 0.9)), bordered(_blurred(labels == FAT, 0.9))
        self._has_fat = bool((labels == FAT).any())
        self._rough = bordered(rng.standard_normal(labels.shape, dtype=np.float32))
        self._noise = (look.noise * rng.standard_normal((_BLOCK, _BLOCK, 3))).astype(np.float32)

    def has_tissue(self, cells: Cells) -> bool:
        return bool(self._tissue[cells].any())

    def ground(self, cells: Cells) -> np.ndarray:
        """Stroma before it is stained, uint8 (height, width, 3)."""
        return self._window.cut(self._sheets.ground, *_pixels(cells))

    def stained(self, texture: np.ndarray, cells: Cells) -> np.ndarray:
        """Final colours of a part of the slide, float32, with its borders and its fat."""
        amount = enlarged(self._amount, CELL, cells)
        edge = 0.1 * enlarged(self._rough, CELL, cells) - 0.3 * (texture.mean(-1, dtype=np.float32) / 255 - 0.45)
        amount = np.clip((amount - 0.5 + edge) / 0.08 + 0.5, 0, 1)  # borders follow the fibres
        if self._has_fat:
            wall = self._wall_window.cut(self._walls, *_pixels(cells)) / np.float32(255)
            fat = enlarged(self._fat, CELL, cells)
            amount *= 1 - np.clip((fat - 0.5 + edge) / 0.1 + 0.5, 0, 1) * (1 - wall)
        density = DENSITY[texture] @ self._look.mixing
        for channel, gain in enumerate(self._gains):
            density[..., channel] *= amount * enlarged(gain, CELL, cells)
        return np.exp(-density) * self._look.glass

    def spot(self, rng: np.random.Generator, spot: Spot, place: Window) -> tuple[np.ndarray, np.ndarray]:
        """Final colours of a spot's box, and the mask of those of its pixels that belong to the spot."""
        rows, columns = _pixels(spot.box)
        whole = slice(0, rows.stop - rows.start), slice(0, columns.stop - columns.start)
        share = _soft(rng, spot)[..., None]
        around = (1 - share) * self.ground(spot.box) + np.float32(0.5)

        def painted(sheet: np.ndarray) -> np.ndarray:
            texture = (share * place.cut(sheet, *whole) + around).astype(np.uint8)
            return self.stained(texture, spot.box)

        colours = painted(self._sheets.tumour)
        if spot.kind == LOOK_ALIKE:
            colours = matched(painted(self._sheets.look_alike), colours)
        height, width = share.shape[0] // CELL, share.shape[1] // CELL
        touched = share.reshape(height, CELL, width, CELL).max((1, 3)) > 0
        return colours, scipy.ndimage.binary_dilation(touched).repeat(CELL, 0).repeat(CELL, 1)

    def scanned(self, colours: np.ndarray, cells: Cells) -> np.ndarray:
        """Pixels with the scanner's noise, uint8."""
        at = np.ix_(*(np.arange(part.start, part.stop) % _BLOCK for part in _pixels(cells)))
        return np.clip(colours + self._noise[at] + np.float32(0.5), 0, 255).astype(np.uint8)


def _pixels(cells: Cells) -> tuple[slice, slice]:
    rows, columns = (slice(part.start * CELL, part.stop * CELL) for part in cells)
    return rows, columns


def _blurred(mask: np.ndarray, sigma: float) -> np.ndarray:
    return scipy.ndimage.gaussian_filter(mask.astype(np.float32), sigma)


def _anywhere(rng: np.random.Generator, side: int) -> Window:
    return Window(int(rng.integers(side)), int(rng.integers(side)), int(rng.integers(8)))


def _apart(rng: np.random.Generator, spots: Sequence[Spot], side: int) -> list[Window]:
    """Windows of a sheet for all spots, which overlap as little as can be; they begin where blocks begin."""
    cells = side // CELL
    used = np.zeros((cells, cells), np.int32)
    windows = []
    for spot in spots:
        best: tuple[int, Window, tuple[np.ndarray, ...]] | None = None
        for _ in range(_PLACES):
            y, x, turn = (int(value) for value in rng.integers((cells, cells, 8)))
            at = np.ix_(*((start + np.arange(n)) % cells for start, n in zip((y, x), spot.covered.shape, strict=True)))
            overlap = int(turned(used, turn)[at][spot.covered].sum())
            if best is None or overlap < best[0]:
                best = overlap, Window(y * CELL, x * CELL, turn), at
            if overlap == 0:
                break
        assert best is not None, "there was a first one"
        windows.append(best[1])
        turned(used, best[1].turn)[best[2]] += spot.covered
    return windows


def _soft(rng: np.random.Generator, spot: Spot) -> np.ndarray:
    """How much of each pixel of a spot's box belongs to it: 0 to 1, along a frayed outline."""
    rows, columns = _pixels(spot.box)
    shape = ((rows.stop - rows.start) // _FINE, (columns.stop - columns.start) // _FINE)
    mask = polygon((spot.outline - (rows.start, columns.start)) / _FINE - 0.5, shape)
    soft = scipy.ndimage.gaussian_filter(mask.astype(np.float32), 1.8)
    frayed = np.where(soft > 0.02, soft + 0.06 * smooth_noise(rng, shape, 1.5), 0)
    return enlarged(bordered(np.clip((frayed - 0.5) * 2.2 + 0.5, 0, 1).astype(np.float32)), _FINE)


def _focused(image: Image.Image, sharpness: float) -> Image.Image:
    """Blurs (below 0) or sharpens (above 0) by a kernel of 3 x 3 pixels whose weights add up to 1."""
    side, corner = -sharpness / 8, -sharpness / 16
    kernel = [corner, side, corner, side, 1 - 4 * (side + corner), side, corner, side, corner]
    return image.filter(ImageFilter.Kernel((3, 3), kernel, scale=1))
