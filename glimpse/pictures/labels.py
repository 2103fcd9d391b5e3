"""Numbers and scale bars on pictures: dark on light tags, none of which covers another."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageFont

_RINGS = 12  # distances that are tried around a box
_MICROMETRES = 1000  # per millimetre
_LIGHT, _INK = (255, 255, 255), (20, 20, 20)
_BAR_TEXT = 11
_FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@functools.lru_cache
def letters(size: int) -> ImageFont.FreeTypeFont:
    """Returns the font of all pictures, in pixels; Pillow's own font has no letters but those of ASCII."""
    return ImageFont.truetype(_FONT, size)


def literal(text: str) -> str:
    """Returns a text as Matplotlib has to get it so that dollar signs are not taken for formulas."""
    return text.replace("$", r"\$")


def shortened(text: str, length: int) -> str:
    """Returns a text of at most `length` letters; of a longer one the beginning, with an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def fitting(text: str, size: int, width: int) -> str:
    """Returns as much of a text as fits into a width in pixels, with an ellipsis where it is cut."""
    font = letters(size)
    if font.getlength(text) <= width:
        return text
    end = len(text)
    while end > 1 and font.getlength(f"{text[:end]}…") > width:
        end = min(end - 1, int(end * max(0.5, width / font.getlength(text[:end]))))
    return f"{text[:end]}…"


def place_tags(
    boxes: Float[np.ndarray, "tag 4"],
    sizes: Float[np.ndarray, "tag 2"],
    canvas: tuple[float, float],
    kept: Float[np.ndarray, "kept 4"] | None = None,
) -> Float[np.ndarray, "tag 2"]:
    """Returns where to put tags beside boxes: the upper left corner (x, y) of each.

    Tags are placed in order, each at the first of some places around its box, from near to far, where it lies inside
    the canvas and covers neither its own box nor a tag that was placed before; where there is none, at the first one
    that covers no other tag, and then at the nearest place of the canvas that covers none. Where every place does, it
    stays at the first one that lies inside.

    Args:
        boxes: left, top, right and bottom of the boxes.
        sizes: width and height of the tags.
        canvas: width and height of the picture.
        kept: left, top, right and bottom of what tags must not cover either, such as a scale bar.
    """
    kept = np.zeros((0, 4)) if kept is None else kept
    placed: list[np.ndarray] = []
    for box, size in zip(boxes, sizes, strict=True):
        room = np.maximum(np.array(canvas) - size, 0)
        around = np.clip(_around(box, size), 0, room)
        places = np.concatenate([around, _everywhere(box, size, room)])
        taken = np.array([[*one, *(one + other)] for one, other in zip(placed, sizes, strict=False)]).reshape(-1, 4)
        free = ~_covers(places, size, np.concatenate([taken, kept]))
        beside = free[: len(around)] & ~_covers(around, size, box[None])
        placed.append(places[int((beside if beside.any() else free).argmax())])
    return np.array(placed).reshape(-1, 2)


def _covers(
    places: Float[np.ndarray, "place 2"], size: Float[np.ndarray, "2"], boxes: Float[np.ndarray, "box 4"]
) -> Bool[np.ndarray, " place"]:
    """Returns at which places a tag would cover a part of any box."""
    low, high = places[:, None], places[:, None] + size
    return ((low < boxes[:, 2:]) & (boxes[:, :2] < high)).all(2).any(1)


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
    return letters(size).getlength(text) + 7, size + 5


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
    """Returns a length as a text; from 1,000 µm on it is in mm."""
    large = unit == "um" and length >= _MICROMETRES
    return f"{length / _MICROMETRES:g} mm" if large else f"{length:g} {unit.replace('um', 'µm')}"


def draw_scale_bar(
    panel: Image.Image, width: float, unit: str, boxes: Float[np.ndarray, "glimpse 4"] | None = None
) -> tuple[float, float, float, float]:
    """Draws a scale bar of about a fifth of the width into a corner of a picture, by default the lower left one.

    Args:
        panel: the picture.
        width: physical length of its width.
        unit: of the width, "um" or "mm".
        boxes: left, top, right and bottom of outlines; of the lower corners and the upper right one, that is taken
            where the bar lies on the fewest.

    Returns:
        Left, top, right and bottom of what it covers.
    """
    length = nice_length(width / 4)
    text, wide = length_text(length, unit), round(length / width * panel.width)
    pen, font = ImageDraw.Draw(panel), letters(_BAR_TEXT)
    room = max(wide, font.getlength(text)) + 10
    low, right = panel.height - 28, panel.width - 4 - room
    corners = [(4.0, float(low)), (right, float(low)), (right, 4.0)]
    left, top = min(corners, key=lambda corner: _outlines_below((*corner, corner[0] + room, corner[1] + 24), boxes))
    plate(pen, (left, top), (room, 24), _LIGHT)
    pen.text((left + 5, top + 1), text, fill=_INK, font=font)
    pen.rectangle([left + 5, top + 18, left + 5 + wide - 1, top + 20], fill=_INK)
    return left, top, left + room, top + 24


def _outlines_below(bar: tuple[float, float, float, float], boxes: Float[np.ndarray, "glimpse 4"] | None) -> int:
    """Returns how many boxes a bar covers in part: not those around it."""
    if boxes is None or not len(boxes):
        return 0
    left, top, right, bottom = bar
    met = (boxes[:, 0] < right) & (boxes[:, 2] > left) & (boxes[:, 1] < bottom) & (boxes[:, 3] > top)
    around = (boxes[:, 0] < left) & (boxes[:, 2] > right) & (boxes[:, 1] < top) & (boxes[:, 3] > bottom)
    return int((met & ~around).sum())
