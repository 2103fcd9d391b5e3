"""What pictures are made of: the scanpath on the overview, the strip of glimpses, the heat map over the cells.

Pictures are uint8 arrays (height, width, 3). Volumes are shown by their maximum along all axes but the last two.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from glimpse.tasks.base import probability_caption

Picture = UInt8[np.ndarray, "height width 3"]
Colour = tuple[int, int, int]

DARK, WHITE = (40, 40, 40), (255, 255, 255)
_GAP, _TEXT = 10, 14
_ORDER, _HEAT = "winter", "inferno"  # colour maps of the order of glimpses, and of probabilities


def draw_scanpath(
    overview: UInt8[np.ndarray, "channel *size"],
    scanpath: Float[np.ndarray, "glimpse d"],
    extents: Float[np.ndarray, "glimpse d"],
    height: int = 512,
) -> Picture:
    """The scanpath on the overview: a numbered box of true size per glimpse, joined by lines, coloured by order.

    Args:
        overview: the image.
        scanpath: locations in [-1, 1].
        extents: fields of view as shares of the image, per axis.
        height: of the picture.
    """
    picture = enlarged(flat(overview), height, Image.Resampling.BICUBIC)
    pen, scale = ImageDraw.Draw(picture), np.array([picture.width, picture.height])
    centres = (xy(scanpath) + 1) / 2 * scale
    halves = np.maximum(xy(extents) * scale / 2, 3)
    colours = order_colours(len(centres))
    for i, (one, other) in enumerate(pairwise(centres)):
        pen.line([*one, *other], fill=WHITE, width=3)
        pen.line([*one, *other], fill=colours[i + 1], width=1)
    for centre, half, colour in zip(centres, halves, colours, strict=True):
        for grown, width, outline in ((2, 5, WHITE), (1, 3, colour)):
            pen.rectangle([*(centre - half - grown), *(centre + half + grown)], outline=outline, width=width)
    for i, (centre, half) in enumerate(zip(centres, halves, strict=True)):
        write(pen, (centre[0] + half[0] + 3, centre[1] - half[1] - 4), str(i + 1), colours[i], halo=2)
    return np.array(picture)


def heat_map(
    overview: UInt8[np.ndarray, "channel *size"], cells: Float[np.ndarray, "*grid"], height: int = 512
) -> Picture:
    """The locator's probabilities over the cells, laid over a pale overview; the most probable cell is brightest.

    What is shown is the square root of p / max p, so that places with a tenth of the chance can still be seen.
    """
    picture = enlarged(flat(overview), height, Image.Resampling.BICUBIC).convert("L").convert("RGB")
    plane = cells.max(tuple(range(cells.ndim - 2))) if cells.ndim > 2 else np.atleast_2d(cells)
    strength = np.sqrt(plane / max(float(plane.max()), 1e-12)).astype(np.float32)
    share = np.array(Image.fromarray(strength).resize(picture.size, Image.Resampling.NEAREST))[..., None]
    colour = colormaps[_HEAT](0.25 + 0.7 * share[..., 0])[..., :3] * 255
    pale = 0.5 * np.asarray(picture, np.float32) + 0.5 * 255
    return np.rint((1 - share) * pale + share * colour).astype(np.uint8)


def glimpse_strip(
    glimpses: np.ndarray,
    probabilities: Float[np.ndarray, "step output"],
    names: Sequence[str],
    overview: UInt8[np.ndarray, "channel *size"] | None = None,
    height: int = 96,
    width: int = 1034,
    captions: Sequence[tuple[str, float]] | None = None,
) -> Picture:
    """Glimpses in order, framed in the colours of the scanpath, each with the answer after it.

    Args:
        glimpses: uint8 (glimpse, channel, *size).
        probabilities: after each prefix of glimpses: one row more than glimpses.
        names: of the outputs; of two, the probability of the second is shown, of more, the highest.
        overview: shown first, with the answer before the first glimpse.
        height: of one glimpse, in pixels.
        width: of the strip at most; it goes on in the next row.
        captions: what to show of each answer instead (see `Task.caption`).
    """
    images = [] if overview is None else [enlarged(flat(overview), height, Image.Resampling.BICUBIC)]
    images += [enlarged(flat(glimpse), height, Image.Resampling.BICUBIC) for glimpse in glimpses]
    frames = [DARK] * (len(images) - len(glimpses)) + order_colours(len(glimpses))
    labels = [""] * (len(images) - len(glimpses)) + [str(i + 1) for i in range(len(glimpses))]
    texts = captions or [probability_caption(answer, names) for answer in probabilities]
    tiles = [_tile(*parts) for parts in zip(images, frames, labels, texts[len(texts) - len(images) :], strict=True)]
    per_row = max(1, (width + _GAP) // (max((tile.width for tile in tiles), default=1) + _GAP))
    rows = [beside(tiles[i : i + per_row]) for i in range(0, len(tiles), per_row)]
    return np.array(below(rows))


def _tile(image: Image.Image, frame: Colour, label: str, caption: tuple[str, float]) -> Image.Image:
    """One glimpse in its frame, its number, and the answer after it as text and bar."""
    tile = Image.new("RGB", (max(image.width + 6, 90), image.height + 6 + 30), WHITE)
    pen, (text, share) = ImageDraw.Draw(tile), caption
    pen.rectangle([0, 0, image.width + 5, image.height + 5], fill=frame)
    tile.paste(image, (3, 3))
    if label:
        write(pen, (7, 5), label, frame, halo=2)
    top, wide = image.height + 10, tile.width - 1
    write(pen, (0, top), text, DARK, size=12)
    pen.rectangle([0, top + 18, wide, top + 24], fill=(225, 225, 225))
    pen.rectangle([0, top + 18, share * wide, top + 24], fill=frame)
    return tile


# ---------------------------------------------------------------------------------------------- small parts
def flat(image: UInt8[np.ndarray, "channel *size"]) -> Picture:
    """An image as (height, width, 3): a volume's maximum, a signal as a band, one channel in grey."""
    if image.ndim == 2:
        image = np.repeat(image[:, None], max(1, image.shape[-1] // 8), axis=1)
    if image.ndim > 3:
        image = image.max(tuple(range(1, image.ndim - 2)))
    colours = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    return np.ascontiguousarray(colours.transpose(1, 2, 0))


def order_colours(count: int) -> list[Colour]:
    """One colour per glimpse, by its place in the order."""
    shades = colormaps[_ORDER](np.linspace(0, 1, max(count, 1)))[:count, :3] * 255
    return [(int(red), int(green), int(blue)) for red, green, blue in shades]


def xy(points: np.ndarray) -> Float[np.ndarray, "point 2"]:
    """The last two axes as (x, y); a signal's only axis is x."""
    points = np.asarray(points, np.float64)
    return np.concatenate([points, np.zeros_like(points)], -1) if points.shape[-1] == 1 else points[..., :-3:-1]


def enlarged(pixels: Picture, height: int, resampling: Image.Resampling) -> Image.Image:
    width = max(1, round(height * pixels.shape[1] / pixels.shape[0]))
    return Image.fromarray(pixels).resize((width, height), resampling)


def write(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: Colour, size: int = _TEXT, halo: int = 0
) -> None:
    pen.text(place, text, fill=colour, font=ImageFont.load_default(size=size), stroke_width=halo, stroke_fill=WHITE)


def on_canvas(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    canvas = Image.new("RGB", size, WHITE)
    canvas.paste(image, (0, 0))
    return canvas


def beside(images: Sequence[Image.Image]) -> Image.Image:
    width = sum(image.width for image in images) + _GAP * (len(images) - 1)
    canvas, left = Image.new("RGB", (width, max(image.height for image in images)), WHITE), 0
    for image in images:
        canvas.paste(image, (left, 0))
        left += image.width + _GAP
    return canvas


def below(images: Sequence[Image.Image]) -> Image.Image:
    images = images or [Image.new("RGB", (1, 1), WHITE)]
    height = sum(image.height for image in images) + _GAP * (len(images) - 1)
    canvas, top = Image.new("RGB", (max(image.width for image in images), height), WHITE), 0
    for image in images:
        canvas.paste(image, (0, top))
        top += image.height + _GAP
    return canvas
