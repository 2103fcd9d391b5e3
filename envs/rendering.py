"""Pictures of an episode under way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glimpse.pictures.drawing import below, beside, draw_scanpath, through_the_middle

HEIGHT = 512  # of a picture, in pixels
_VOLUME_HEIGHT = 320  # of each of two rows of three planes


def draw(
    overview: NDArray[np.uint8],
    glimpse: NDArray[np.uint8],
    scanpath: NDArray[np.float32],
    boxes: NDArray[np.float64],
    sides: Sequence[float],
    glimpse_sides: Sequence[float],
) -> NDArray[np.uint8]:
    """Draws the overview with numbered glimpses on it, and the current glimpse beside it.

    Volumes are shown by three cuts through the last glimpse (the middle before the first), and the glimpse below.

    Args:
        overview: `(channel, *size)`.
        glimpse: `(channel, *size)`, the last one read.
        scanpath: `(n, d)` centres of the glimpses in [-1, 1].
        boxes: `(n, d)` their extents as shares of the image.
        sides: Lengths of the image's axes, `(d,)`: an overview may squeeze it, the picture does not.
        glimpse_sides: Lengths of the glimpse's axes, `(d,)`.

    Returns:
        `(height, width, 3)`; of one size in all of an episode, whatever zooms it has.
    """
    volume = len(sides) == 3
    height = _VOLUME_HEIGHT if volume else HEIGHT
    left = Image.fromarray(draw_scanpath(overview, scanpath, boxes, height, sides))
    right = through_the_middle(glimpse, height, glimpse_sides)
    return np.array(below([left, right]) if volume else beside([left, right], gap=8))
