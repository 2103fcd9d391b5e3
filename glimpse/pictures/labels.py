"""Numbers and scale bars on pictures: dark on light tags, none of which covers another."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

_RINGS = 12  # distances that are tried around a box
_MICROMETRES = 1000  # per millimetre
_LIGHT, _INK = (255, 255, 255), (20, 20, 20)
_BAR_TEXT = 12


def place_tags(
    boxes: Float[np.ndarray, "tag 4"], sizes: Float[np.ndarray, "tag 2"], canvas: tuple[float, float]
) -> Float[np.ndarray, "tag 2"]:
    """Returns where to put tags beside boxes: the upper left corner (x, y) of each.

    Tags are placed in order, each at the first of some places around its box, from near to far, where it lies inside
    the canvas and covers no tag that was placed before; where there is none, at the nearest place of the canvas that is
    free. Where none is, it stays at the first one that lies inside.

    Args:
        boxes: left, top, right and bottom of the boxes.
        sizes: width and height of the tags.
        canvas: width and height of the picture.
    """
    placed: list[np.ndarray] = []
    for box, size in zip(boxes, sizes, strict=True):
        room = np.maximum(np.array(canvas) - size, 0)
        places = np.concatenate([np.clip(_around(box, size), 0, room), _everywhere(box, size, room)])
        taken = np.array([[*one, *(one + other)] for one, other in zip(placed, sizes, strict=False)]).reshape(-1, 4)
        low, high = places[:, None], places[:, None] + size
        free = ~((low < taken[:, 2:]) & (taken[:, :2] < high)).all(2).any(1)
        placed.append(places[int(free.argmax())])
    return np.array(placed).reshape(-1, 2)


def _everywhere(
    box: Float[np.ndarray, "4"], size: Float[np.ndarray, "2"], room: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "place 2"]:
    """Returns places of a tag all over the canvas, half a tag apart, the nearest ones to a box first."""
    along = [np.arange(0, most + 1, max(side / 2, 1.0)) for most, side in zip(room, size, strict=True)]
    places = np.stack(np.meshgrid(*along, indexing="ij"), -1).reshape(-1, 2)
    return places[np.square(places + size / 2 - (box[:2] + box[2:]) / 2).sum(1).argsort(kind="stable")]


def _around(box: Float[np.ndarray, "4"], size: Float[np.ndarray, "2"]) -> Float[np.ndarray, "place 2"]:
    """Returns places of a tag around a box, the best one first."""
    left, top, right, bottom = box
    places = []
    for ring in range(_RINGS):
        gap = 3 + 0.7 * size[1] * ring
        before, after, above, below = left - size[0] - gap, right + gap, top - size[1] - gap, bottom + gap
        places += [(after, top - 4), (before, top - 4), (after, above), (before, above), (left, above), (left, below)]
        places += [(after, below), (before, below)]
    return np.array(places)


def tag_size(text: str, size: int) -> tuple[float, float]:
    """Returns the width and height of a tag with this text."""
    return ImageFont.load_default(size=size).getlength(text) + 7, size + 5


def plate(
    pen: ImageDraw.ImageDraw, place: Sequence[float], size: Sequence[float], outline: tuple[int, int, int]
) -> None:
    """Draws the light ground of a tag."""
    box = [place[0], place[1], place[0] + size[0] - 1, place[1] + size[1] - 1]
    pen.rounded_rectangle(box, radius=3, fill=_LIGHT, outline=outline, width=1)


def nice_length(most: float) -> float:
    """Returns the longest of 1, 2 and 5 times a power of ten that is not longer than `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (5, 2, 1) if step * power <= most * (1 + 1e-9))


def length_text(length: float, unit: str) -> str:
    """Returns a length as a text; from 1,000 um on it is in mm."""
    return f"{length / _MICROMETRES:g} mm" if unit == "um" and length >= _MICROMETRES else f"{length:g} {unit}"


def draw_scale_bar(panel: Image.Image, width: float, unit: str) -> None:
    """Draws a scale bar of about a fifth of the width into the lower left corner of a picture.

    Args:
        panel: the picture.
        width: physical length of its width.
        unit: of the width, "um" or "mm".
    """
    length = nice_length(width / 4)
    text, wide = length_text(length, unit), round(length / width * panel.width)
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(size=_BAR_TEXT)
    room = max(wide, font.getlength(text)) + 10
    top = panel.height - 28
    plate(pen, (4, top), (room, 24), _LIGHT)
    pen.text((9, top + 1), text, fill=_INK, font=font)
    pen.rectangle([9, top + 18, 9 + wide - 1, top + 20], fill=_INK)
