"""Draws the parts of pictures: the scanpath on the overview, the strip of glimpses, and the heat map of cells.

Pictures are uint8 arrays (height, width, 3). Volumes are shown as cuts in three planes, side by side (see
`glimpse.pictures.planes`).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib import colormaps
from PIL import Image, ImageDraw

from glimpse.pictures.labels import draw_scale_bar, fitting, letters, place_tags, plate, tag_size
from glimpse.pictures.planes import Picture, Plane, coloured, planes
from glimpse.tasks.base import probability_caption

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""

BLACK, DARK, WHITE = (0, 0, 0), (40, 40, 40), (255, 255, 255)
_GAP, _TEXT, _CAPTION = 10, 13, 11
_LONGEST = 240  # pixels of the text below a glimpse
_WIDEST = 4.0  # largest ratio of width to height of a picture
_ORDER, _HEAT = "winter", "inferno"  # colour maps for the order of glimpses and for probabilities
_SHADES = 32  # of layers
_LEAST_SCALED = 100  # pixels: smaller panels have no room for a scale bar
_NEAREST = Image.Resampling.NEAREST


def draw_scanpath(
    overview: UInt8[np.ndarray, "channel *size"],
    scanpath: Float[np.ndarray, "glimpse d"],
    extents: Float[np.ndarray, "glimpse d"],
    height: int = 512,
    sides: Sequence[float] | None = None,
    at: Float[np.ndarray, " d"] | None = None,
    order: Sequence[int] | None = None,
    count: int = 0,
    unit: str | None = None,
    bar_aside: bool = False,
) -> Picture:
    """Draws the scanpath on the overview: one numbered box of true size per glimpse, joined by lines.

    Numbers are dark on light tags, none of which covers another one while there is room. Colours show the order of the
    glimpses. In a volume, boxes that the cut goes through have thick lines, others thin ones.

    Args:
        overview: the overview of the image.
        scanpath: locations of the glimpses in [-1, 1].
        extents: fields of view of the glimpses, as shares of the image along each axis.
        height: largest height of the picture in pixels; it is at most four times as wide.
        sides: physical lengths of the image's axes, in any unit; the size of the overview when not given.
        at: location through which a volume is cut; when not given, that of the last glimpse, or the middle.
        order: where only some glimpses are drawn: the place of each one among all of them, from 0 on.
        count: the number of all glimpses, of which those in `order` are drawn; 0 where all of them are.
        unit: of `sides`, "um" or "mm", for scale bars; None draws none.
        bar_aside: whether a scale bar may be in another corner than the lower left one, where it lies on fewer boxes.
            Not for films, in which it would move about.
    """
    if at is None:
        at = scanpath[-1] if len(scanpath) else np.zeros(overview.ndim - 1)
    panels = _panels(overview, at, height, sides)
    order = range(len(scanpath)) if order is None else order
    shades = order_colours(max(count, len(scanpath)))
    marks = [(str(place + 1), shades[place]) for place in order]
    for plane, panel in panels:
        centres, boxes = plane.places(scanpath) * panel.size, plane.lengths(extents) * panel.size
        halves, near = np.maximum(boxes / 2, 3), plane.crosses(at, scanpath, extents)
        _draw_path(panel, centres, halves, near, [colour for _, colour in marks])
        outlines = np.concatenate([centres - halves, centres + halves], 1)
        kept = [*_name(plane, panel), *_scale(plane, panel, sides, unit, outlines if bar_aside else None)]
        _number(panel, outlines, near, marks, kept)
    return np.array(beside([panel for _, panel in panels]))


def _scale(
    plane: Plane,
    panel: Image.Image,
    sides: Sequence[float] | None,
    unit: str | None,
    outlines: Float[np.ndarray, "glimpse 4"] | None = None,
) -> list[Box]:
    """Draws a scale bar, where there is room, beside outlines if it can; returns what it covers."""
    if sides is None or unit is None or min(panel.size) < _LEAST_SCALED:
        return []
    return [draw_scale_bar(panel, plane.proportions(sides)[1], unit, outlines)]


def _draw_path(
    panel: Image.Image,
    centres: Float[np.ndarray, "glimpse 2"],
    halves: Float[np.ndarray, "glimpse 2"],
    near: Bool[np.ndarray, " glimpse"],
    colours: Sequence[Colour],
) -> None:
    """Draws lines and boxes; positions are pixels (x, y) of the panel. Boxes that are not `near` are thin."""
    pen = ImageDraw.Draw(panel)
    for i, (one, other) in enumerate(pairwise(centres)):
        pen.line([*one, *other], fill=WHITE, width=5)
        pen.line([*one, *other], fill=colours[i + 1], width=3)  # a line of one pixel would look dashed
    for i in np.argsort(near, kind="stable"):  # thin boxes first, so that thick ones lie above them
        centre, half = centres[i], halves[i]
        for grown, width, outline in ((2, 5, WHITE), (1, 3, colours[i])) if near[i] else ((0, 1, colours[i]),):
            pen.rectangle([*(centre - half - grown), *(centre + half + grown)], outline=outline, width=width)


def _number(
    panel: Image.Image,
    boxes: Float[np.ndarray, "glimpse 4"],
    near: Bool[np.ndarray, " glimpse"],
    marks: Sequence[tuple[str, Colour]],
    kept: Sequence[Box],
) -> None:
    """Draws a number beside each box (left, top, right, bottom), but not on what is to be `kept` free."""
    pen, heights = ImageDraw.Draw(panel), [_TEXT if one else _TEXT - 3 for one in near]
    sizes = np.array([tag_size(mark, size) for (mark, _), size in zip(marks, heights, strict=True)]).reshape(-1, 2)
    places = place_tags(boxes, sizes, panel.size, np.array(kept, np.float64).reshape(-1, 4))
    for place, size, (mark, colour), high in zip(places, sizes, marks, heights, strict=True):
        _tag(pen, place.tolist(), size.tolist(), mark, colour, high)


def _tag(
    pen: ImageDraw.ImageDraw, place: Sequence[float], size: Sequence[float], text: str, colour: Colour, high: int
) -> None:
    """Draws a number, dark on light ground, with an outline in the colour of its glimpse."""
    plate(pen, place, size, colour)
    write(pen, (place[0] + 3.5, place[1] + 1), text, DARK, size=high)


def _name(plane: Plane, panel: Image.Image) -> list[Box]:
    """Writes the name of the cut on a panel, and which side of the body is on the left; returns what they cover."""
    pen, covered = ImageDraw.Draw(panel), []
    for place, text in (((4, 2), plane.name), ((4, panel.height / 2 - 7), plane.left)):
        if text:
            write(pen, place, text, DARK, size=12, halo=2)
            covered.append(pen.textbbox(place, text, letters(12), stroke_width=2))
    return covered


def heat_map(
    overview: UInt8[np.ndarray, "channel *size"],
    cells: Float[np.ndarray, "*grid"],
    height: int = 512,
    sides: Sequence[float] | None = None,
    unit: str | None = None,
) -> Picture:
    """Draws the probabilities of cells over a pale overview; the most probable cell is brightest.

    The brightness is the square root of p / max p, so that cells with a tenth of the highest probability can still be
    seen. A volume is cut through the most probable cell; the colours show the highest probability along the axis that
    is cut.

    Args:
        overview: the overview of the image.
        cells: probabilities, or other numbers of at least 0.
        height: largest height of the picture in pixels.
        sides: physical lengths of the image's axes, as for `draw_scanpath`.
        unit: of `sides`, for scale bars, as for `draw_scanpath`.
    """
    peak = (2.0 * np.array(np.unravel_index(cells.argmax(), cells.shape)) + 1) / cells.shape - 1
    panels = _panels(overview, peak, height, sides)
    heated = [_heated(panel, plane, cells) for plane, panel in panels]
    for (plane, _), panel in zip(panels, heated, strict=True):
        _scale(plane, panel, sides, unit)
    return np.array(beside(heated))


def _strength(plane: Plane, cells: Float[np.ndarray, "*grid"]) -> Float[np.ndarray, "height width"]:
    """Returns how strongly heat maps show each cell, from 0 to 1."""
    return np.sqrt(plane.most(cells) / max(float(cells.max()), 1e-12)).astype(np.float32)


def heat_layers(plane: Plane, cells: Float[np.ndarray, "step *grid"]) -> Image.Image:
    """Draws heat maps as layers to lay over an overview, one pixel per cell, one step below the other.

    Colours and strength are those of `heat_map`; the less probable a cell is, the more transparent it is.

    Args:
        plane: the plane of the picture.
        cells: probabilities of each step.
    """
    strength = np.concatenate([_strength(plane, one) for one in cells])
    levels = np.linspace(0, 1, _SHADES)
    layer = Image.fromarray(np.rint(strength * (_SHADES - 1)).astype(np.uint8)).convert("P")
    layer.putpalette(np.rint(_hot(levels) * 255).astype(np.uint8).tobytes())
    layer.info["transparency"] = np.rint(0.85 * levels * 255).astype(np.uint8).tobytes()
    return layer


def _hot(share: np.ndarray) -> Float[np.ndarray, "*size 3"]:
    return colormaps[_HEAT](0.25 + 0.7 * share)[..., :3]


def _heated(panel: Image.Image, plane: Plane, cells: Float[np.ndarray, "*grid"]) -> Image.Image:
    strength = _strength(plane, cells)
    share = np.array(Image.fromarray(strength).resize(panel.size, _NEAREST))[..., None]
    colour = _hot(share[..., 0]) * 255
    pale = 0.5 * np.asarray(panel.convert("L").convert("RGB"), np.float32) + 0.5 * 255
    heated = Image.fromarray(np.rint((1 - share) * pale + share * colour).astype(np.uint8))
    _name(plane, heated)
    return heated


def draw_labels(
    image: UInt8[np.ndarray, "channel *size"],
    labels: Int[np.ndarray, "*size"],
    height: int = 320,
    sides: Sequence[float] | None = None,
    at: Float[np.ndarray, " d"] | None = None,
    unit: str | None = None,
) -> Picture:
    """Draws numbered labels over an image, one for each of its pixels, in the colours of the scanpath; 0 is none.

    Args:
        image: the image.
        labels: for each pixel the number of the first look that showed it, or 0.
        height: largest height of the picture in pixels.
        sides: physical lengths of the image's axes, as for `draw_scanpath`.
        at: location through which a volume is cut; when not given, the middle of the first look, or of the image.
        unit: of `sides`, for scale bars, as for `draw_scanpath`.
    """
    first = np.argwhere(labels == 1)
    if at is None:
        at = (2 * first.mean(0) + 1) / labels.shape - 1 if len(first) else np.zeros(labels.ndim)
    shades = np.array([BLACK, *order_colours(int(labels.max()))], np.uint8)
    drawn = []
    for plane, panel in _panels(image, at, height, sides):
        shown = np.array(Image.fromarray(plane.cut(labels, at).astype(np.int32)).resize(panel.size, _NEAREST))
        mixed = np.rint(0.4 * np.asarray(panel) + 0.6 * shades[shown]).astype(np.uint8)
        drawn.append(Image.fromarray(np.where(shown[..., None] > 0, mixed, np.asarray(panel))))
        _name(plane, drawn[-1])
        _scale(plane, drawn[-1], sides, unit)
    return np.array(beside(drawn))


def glimpse_strip(
    glimpses: np.ndarray,
    probabilities: Float[np.ndarray, "step output"],
    names: Sequence[str],
    overview: UInt8[np.ndarray, "channel *size"] | None = None,
    height: int = 96,
    width: int = 1034,
    captions: Sequence[tuple[str, float]] | None = None,
    sides: Sequence[float] | None = None,
    glimpse_sides: Sequence[float] | Float[np.ndarray, "glimpse d"] | None = None,
    before: int = 0,
    count: int = 0,
    unit: str | None = None,
) -> Picture:
    """Draws the glimpses in order, framed in the colours of the scanpath, each with the answer after it.

    Glimpses of volumes are shown as the three slices through their middle.

    Args:
        glimpses: uint8 (glimpse, channel, *size).
        probabilities: the answers before the first glimpse and after each glimpse, one row each.
        names: names of the outputs. With two outputs the probability of the second is shown, with more the highest one.
        overview: shown first, with the answer before the first glimpse; None leaves it out.
        height: height of one glimpse in pixels.
        width: largest width of the strip in pixels; glimpses that do not fit go into more rows.
        captions: texts and lengths of bars to show in place of `probabilities` (see `Task.caption`).
        sides: physical lengths of the image's axes, as for `draw_scanpath`.
        glimpse_sides: physical lengths of the axes of all glimpses, or of each one (see `Trace.look_sides`), in any
            unit; the size in pixels when not given.
        before: how many glimpses come before those that are drawn.
        count: the number of all glimpses; 0 where none comes after those that are drawn.
        unit: of `sides` and `glimpse_sides`, for scale bars where there is room, as for `draw_scanpath`.
    """
    shades = order_colours(max(count, before + len(glimpses)))[before : before + len(glimpses)]
    images = [] if overview is None else [through_the_middle(overview, height, sides, unit=unit)]
    own = None if glimpse_sides is None else np.broadcast_to(glimpse_sides, (len(glimpses), glimpses.ndim - 2)).tolist()
    for i, glimpse in enumerate(glimpses):
        images.append(through_the_middle(glimpse, height, None if own is None else own[i], unit=unit))
    frames = [DARK] * (len(images) - len(glimpses)) + shades
    labels = [""] * (len(images) - len(glimpses)) + [str(before + i + 1) for i in range(len(glimpses))]
    texts = captions or [probability_caption(answer, names) for answer in probabilities]
    tiles = [_tile(*parts) for parts in zip(images, frames, labels, texts[len(texts) - len(images) :], strict=True)]
    per_row = max(1, (width + _GAP) // (max((tile.width for tile in tiles), default=1) + _GAP))
    rows = [beside(tiles[i : i + per_row]) for i in range(0, len(tiles), per_row)]
    return np.array(below(rows))


def _tile(image: Image.Image, frame: Colour, label: str, caption: tuple[str, float]) -> Image.Image:
    """Draws one glimpse in its frame, with its number, and the answer after it as a text and a bar."""
    text, share = fitting(one_line(caption[0]), _CAPTION, max(image.width + 6, _LONGEST)), caption[1]
    written = math.ceil(letters(_CAPTION).getlength(text)) + 1
    tile = Image.new("RGB", (max(image.width + 6, 90, written), image.height + 6 + 30), WHITE)
    pen = ImageDraw.Draw(tile)
    tile.paste(framed(image, frame, label), (0, 0))
    top, wide = image.height + 10, tile.width - 1
    write(pen, (0, top), text, DARK, size=_CAPTION)
    pen.rectangle([0, top + 18, wide, top + 24], fill=(225, 225, 225))
    pen.rectangle([0, top + 18, share * wide, top + 24], fill=frame)
    return tile


# ---------------------------------------------------------------------------------------------- small parts
def framed(image: Image.Image, colour: Colour, label: str = "", low: bool = False) -> Image.Image:
    """Draws an image in a frame of 3 pixels, with a label in its upper left corner, or in the lower right one."""
    made = Image.new("RGB", (image.width + 6, image.height + 6), colour)
    made.paste(image, (3, 3))
    if label:
        size = tag_size(label, _TEXT)
        place = (made.width - size[0] - 5, made.height - size[1] - 4) if low else (5, 4)
        _tag(ImageDraw.Draw(made), place, size, label, colour, _TEXT)
    return made


def through_the_middle(
    image: UInt8[np.ndarray, "channel *size"],
    height: int,
    sides: Sequence[float] | None = None,
    ground: Colour = WHITE,
    unit: str | None = None,
) -> Image.Image:
    """Draws an image with at most the given height; of a volume, the three cuts through its middle on a ground.

    With the `unit` of its sides, "um" or "mm", there are scale bars where there is room.
    """
    panels = _panels(image, np.zeros(image.ndim - 1), height, sides)
    for plane, panel in panels:
        _scale(plane, panel, sides, unit)
    return beside([panel for _, panel in panels], 2, ground)


def _panels(
    image: UInt8[np.ndarray, "channel *size"], at: np.ndarray, height: int, sides: Sequence[float] | None
) -> list[tuple[Plane, Image.Image]]:
    """Draws the image in each of its planes, all at the same scale and in true physical proportions."""
    size = image.shape[1:]
    shown = planes(size)
    lengths = [plane.proportions(sides or size) for plane in shown]
    scale = min(height / max(high for high, _ in lengths), _WIDEST * height / max(wide for _, wide in lengths))
    panels = []
    for plane, (high, wide) in zip(shown, lengths, strict=True):
        pixels = Image.fromarray(coloured(plane.cut(image, at), colour=len(size) < 3))
        target = max(1, round(wide * scale)), max(1, round(high * scale))
        panels.append((plane, pixels.resize(target, Image.Resampling.BICUBIC)))
    return panels


def order_colours(count: int) -> list[Colour]:
    """Returns one colour per glimpse, which shows its position in the order."""
    shades = colormaps[_ORDER](np.linspace(0, 1, max(count, 1)))[:count, :3] * 255
    return [(int(red), int(green), int(blue)) for red, green, blue in shades]


def one_line(text: str) -> str:
    """Returns a text as it can be drawn: with spaces in place of line breaks and characters that show nothing."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def write(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: Colour, size: int = _TEXT, halo: int = 0
) -> None:
    pen.text(place, text, fill=colour, font=letters(size), stroke_width=halo, stroke_fill=WHITE)


def on_canvas(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    canvas = Image.new("RGB", size, WHITE)
    canvas.paste(image, (0, 0))
    return canvas


def beside(images: Sequence[Image.Image], gap: int = _GAP, ground: Colour = WHITE) -> Image.Image:
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    canvas, left = Image.new("RGB", (width, max(image.height for image in images)), ground), 0
    for image in images:
        canvas.paste(image, (left, 0))
        left += image.width + gap
    return canvas


def below(images: Sequence[Image.Image], gap: int = _GAP) -> Image.Image:
    images = images or [Image.new("RGB", (1, 1), WHITE)]
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    canvas, top = Image.new("RGB", (max(image.width for image in images), height), WHITE), 0
    for image in images:
        canvas.paste(image, (0, top))
        top += image.height + gap
    return canvas
