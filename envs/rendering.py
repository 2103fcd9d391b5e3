"""Draws the picture that `GlimpseEnv.render` returns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glimpse.pictures.drawing import below, beside, draw_scanpath, through_the_middle

HEIGHT = 512  # height of a picture in pixels
_VOLUME_HEIGHT = 320  # height of each of the two rows of planes


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
        A picture `(height, width, 3)`, of the same size at all steps of an episode.
    """
    volume = len(sides) == 3
    height = _VOLUME_HEIGHT if volume else HEIGHT
    left = Image.fromarray(draw_scanpath(overview, scanpath, boxes, height, sides))
    right = through_the_middle(glimpse, height, glimpse_sides)
    return np.array(below([left, right]) if volume else beside([left, right], gap=8))
