"""Draws the picture that `GlimpseEnv.render` returns, and shows it in a window."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glimpse.pictures.drawing import below, beside, draw_scanpath, on_canvas, through_the_middle

SIDE, GAP = 512, 8  # the overview and the glimpse are drawn into squares of this side, beside each other
VOLUME_HEIGHT, VOLUME_WIDTH = 320, 980  # of volumes, each is drawn as a row of three planes, below each other
_WINDOWLESS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")  # backends of matplotlib that only write files
_DPI = 100
_LOG = logging.getLogger(__name__)


def draw(
    overview: NDArray[np.uint8],
    glimpse: NDArray[np.uint8],
    scanpath: NDArray[np.float32],
    boxes: NDArray[np.float64],
    sides: Sequence[float],
    glimpse_sides: Sequence[float],
    unit: str | None = None,
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
        unit: Of these lengths, "um" or "mm", for scale bars where there is room; None draws none.

    Returns:
        A picture `(height, width, 3)`; its size depends only on the number of axes.
    """
    volume = len(sides) == 3
    height, width = (VOLUME_HEIGHT, VOLUME_WIDTH) if volume else (SIDE, SIDE)

    def path(high: int) -> Image.Image:
        return Image.fromarray(draw_scanpath(overview, scanpath, boxes, high, sides, unit=unit))

    def last(high: int) -> Image.Image:
        return through_the_middle(glimpse, high, glimpse_sides, unit=unit if len(scanpath) else None)

    shown, seen = (_fitted(drawn, height, width) for drawn in (path, last))
    return np.array(below([shown, seen]) if volume else beside([shown, seen], gap=GAP))


def _fitted(drawn: Callable[[int], Image.Image], height: int, width: int) -> Image.Image:
    """Returns a drawing on a canvas of a given size; it is drawn less high if it would be too wide."""
    high = height
    while (image := drawn(high)).width > width and high > 1:
        high = min(high - 1, high * width // image.width)
    return on_canvas(image, (width, height))


class Window:
    """A window, or in a notebook the output of a cell, that shows one picture after another.

    Args:
        title: What stands above it.
        fps: How many pictures it shows in a second; after each it waits.
    """

    def __init__(self, title: str, fps: float) -> None:
        self.title, self.fps = title, fps
        self._figure: Any = None
        self._image: Any = None
        self._warned = False

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Shows a picture `(height, width, 3)` in place of the one before; without a screen, it warns once."""
        from matplotlib import pyplot  # chooses what to show windows with, which takes a while

        backend = pyplot.get_backend().lower().rpartition(".")[2]
        if backend in _WINDOWLESS:
            if not self._warned:
                self._warned = True
                # No warning of Python: Gymnasium's checker, which tries every mode, takes these for errors.
                _LOG.warning(
                    "render_mode='human' needs a screen, but matplotlib only writes files here (backend %s). Nothing "
                    "is shown. Use render_mode='rgb_array', and gymnasium.wrappers.RecordVideo for a film, which takes "
                    "the extra video (pip install 'glimpse-rl[video]').",
                    backend,
                )
            return
        if self._figure is None or not pyplot.fignum_exists(self._figure.number):  # it is new, or was closed
            high, wide = picture.shape[:2]
            self._figure = pyplot.figure(self.title, figsize=(wide / _DPI, high / _DPI), dpi=_DPI)
            axes = self._figure.add_axes((0, 0, 1, 1))
            axes.set_axis_off()
            self._image = axes.imshow(picture)
        self._image.set_data(picture)
        if "inline" in backend:
            display = sys.modules["IPython"].display
            display.clear_output(wait=True)
            display.display(self._figure)
        pyplot.pause(1 / self.fps)

    def close(self) -> None:
        """Closes the window; another picture opens it again."""
        if self._figure is not None:
            from matplotlib import pyplot

            pyplot.close(self._figure)
            self._figure = self._image = None
