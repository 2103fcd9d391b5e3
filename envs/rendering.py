"""Pictures of an episode, drawn with Pillow only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

HEIGHT = 512  # of a picture, in pixels
_GAP = 8
_WIDEST = 4.0  # width over height of what is drawn
_FRESH, _OLD, _PATH = (214, 39, 40), (31, 119, 180), (90, 90, 90)


def draw(
    overview: NDArray[np.uint8],
    glimpse: NDArray[np.uint8],
    scanpath: NDArray[np.float32],
    boxes: NDArray[np.float64],
    shape: Sequence[int],
    height: int = HEIGHT,
) -> NDArray[np.uint8]:
    """Draws the overview with numbered glimpses on it, and the current glimpse beside it.

    Volumes are shown by the slice through the last glimpse (the middle one before the first); glimpses of other slices
    are projected on it.

    Args:
        overview: `(channel, *size)`.
        glimpse: `(channel, *size)`, the last one read.
        scanpath: `(n, d)` centres of the glimpses in [-1, 1].
        boxes: `(n, d)` their extents as shares of the image.
        shape: Of the whole image, `(d,)`: an overview may squeeze it, the picture does not.
        height: Of the picture, in pixels.

    Returns:
        `(height, width, 3)`; the width follows from the image's proportions, up to four to one.
    """
    depths = scanpath[-1, :-2] if len(scanpath) else np.zeros(max(0, overview.ndim - 3))
    proportions = shape[-1] / shape[-2] if len(shape) > 1 else _WIDEST
    left = _enlarge(_flat_image(overview, depths), height, proportions, Image.Resampling.BILINEAR)
    _draw_scanpath(left, scanpath, boxes)
    patch = _flat_image(glimpse, np.zeros(max(0, glimpse.ndim - 3)))
    right = _enlarge(patch, height, patch.shape[1] / patch.shape[0], Image.Resampling.NEAREST)
    picture = Image.new("RGB", (left.width + _GAP + right.width, height), "white")
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width + _GAP, 0))
    return np.array(picture)


def _flat_image(image: NDArray[np.uint8], depths: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Returns `(height, width, 3)`: a slice at the given depths in [-1, 1] through all axes but the last two."""
    if image.ndim == 2:  # one axis only: a signal becomes a band
        image = np.repeat(image[:, None], max(1, image.shape[-1] // 8), axis=1)
    for depth in depths:
        image = image[:, min(image.shape[1] - 1, int((depth + 1) / 2 * image.shape[1]))]
    colours = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    return np.ascontiguousarray(colours.transpose(1, 2, 0))


def _enlarge(pixels: NDArray[np.uint8], height: int, proportions: float, resampling: Image.Resampling) -> Image.Image:
    width = round(height * min(_WIDEST, max(1 / _WIDEST, proportions)))
    return Image.fromarray(pixels).resize((width, height), resampling)


def _draw_scanpath(picture: Image.Image, scanpath: NDArray[np.float32], boxes: NDArray[np.float64]) -> None:
    """Draws lines from glimpse to glimpse, a box at each, and its number; the last one in another colour."""
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=max(12, picture.height // 36))
    size = np.array([picture.width, picture.height])
    centres = (_as_xy(scanpath) + 1) / 2 * size
    halves = np.maximum(_as_xy(boxes) * size / 2, 3)
    pen.line([tuple(centre) for centre in centres.tolist()], fill=_PATH, width=1)
    for number, (centre, half) in enumerate(zip(centres, halves, strict=True), start=1):
        colour = _FRESH if number == len(centres) else _OLD
        corner, opposite = centre - half, centre + half
        pen.rectangle([*corner.tolist(), *opposite.tolist()], outline=colour, width=2)
        place = (opposite[0] + 2, corner[1] - 2)
        pen.text(place, str(number), fill=colour, font=font, stroke_width=2, stroke_fill="white")


def _as_xy(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns the last two axes as (x, y), float64 `(n, 2)`; a signal's only axis is x."""
    exact = np.asarray(points, np.float64)
    return np.concatenate([exact, np.zeros_like(exact)], axis=-1) if exact.shape[-1] == 1 else exact[..., :-3:-1]
