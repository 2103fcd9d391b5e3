"""Draws the picture that `GlimpseEnv.render` returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glimpse.pictures.drawing import below, beside, draw_scanpath, on_canvas, through_the_middle

SIDE, GAP = 512, 8  # the overview and the glimpse are drawn into squares of this side, beside each other
VOLUME_HEIGHT, VOLUME_WIDTH = 320, 980  # of volumes, each is drawn as a row of three planes, below each other


def draw(
    overview: NDArray[np.uint8],
    glimpse: NDArray[np.uint8],
    scanpath: NDArray[np.float32],
    boxes: NDArray[np.float64],
    sides: Sequence[float],
    glimpse_sides: Sequence[float],
) -> NDArray[np.uint8]:
    """Draws the overview with numbered glimpses on it, and the current glimpse beside it.

    Volumes are shown as three cuts through the last glimpse (through the middle before the first one), with the glimpse
    below.

    Args:
        overview: `(channel, *size)`.
        glimpse: `(channel, *size)`, the last glimpse.
        scanpath: `(n, d)` centres of the glimpses in [-1, 1].
        boxes: `(n, d)` extents of the glimpses, as shares of the image.
        sides: Physical lengths of the image's axes, `(d,)`; they give the picture its true proportions, which the
            overview may not have.
        glimpse_sides: Physical lengths of the glimpse's axes, `(d,)`.

    Returns:
        A picture `(height, width, 3)`; its size depends only on the number of axes.
    """
    volume = len(sides) == 3
    height, width = (VOLUME_HEIGHT, VOLUME_WIDTH) if volume else (SIDE, SIDE)
    shown = _fitted(lambda high: Image.fromarray(draw_scanpath(overview, scanpath, boxes, high, sides)), height, width)
    seen = _fitted(lambda high: through_the_middle(glimpse, high, glimpse_sides), height, width)
    return np.array(below([shown, seen]) if volume else beside([shown, seen], gap=GAP))


def _fitted(drawn: Callable[[int], Image.Image], height: int, width: int) -> Image.Image:
    """Returns a drawing on a canvas of a given size; it is drawn less high if it would be too wide."""
    high = height
    while (image := drawn(high)).width > width and high > 1:
        high = min(high - 1, high * width // image.width)
    return on_canvas(image, (width, height))
