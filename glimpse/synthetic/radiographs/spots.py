"""Small round shadows in lungs: nodules, and what merely looks like them until one looks closely.

Both kinds are drawn from the same sizes, contrasts and softness, and hold the same fine strokes at the same places. In
a nodule, the strokes radiate from the middle, as spicules do; in a look-alike, they lie around it in layers, as in a
calcified granuloma. Brightness, contrast, histogram and power spectrum are the same (see
`glimpse.synthetic.equalising`), and so is the mean in every square of 8 x 8 pixels: an overview shows nothing of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
from jaxtyping import Float

from glimpse.synthetic.equalising import Stroke, equalised, strokes, without_block_means
from glimpse.synthetic.placing import Room, each, share_that_fits, whole_squares

SQUARE = 8
"""Side, in pixels, of the squares that have the same mean whatever the kind: an overview's pixel of 2048 in 256."""

NODULE, LOOKALIKE = "nodule", "lookalike"
RADII = (34.0, 46.0)  # pixels; half of that in small images
CONTRASTS = (0.30, 0.38)  # of what a ray loses
STROKE = Stroke(wave=10.0, width=4.0, length=7.0)  # pixels
HEIGHT = 0.09  # root mean square of the strokes over the contrast
_DENSITY = 0.016  # strokes per pixel
_FIRST, _LAST = 0.25, 1.3  # radii from the middle between which strokes lie
_FADE = 0.6  # radii over which strokes fade at their reach
_REACH = 1.6  # radii that a spot with its strokes covers
_APART = 4.0  # radii between the middles of two spots, at least
_CANDIDATES = 3000


@dataclass(frozen=True)
class Spot:
    """One shadow; lengths in level-0 pixels.

    Attributes:
        kind: "nodule" or "lookalike".
        y: middle.
        x: middle.
        radius: where it has fallen to half.
        contrast: what a ray through its middle loses.
        softness: width of its rim over its radius.
    """

    kind: str
    y: float
    x: float
    radius: float
    contrast: float
    softness: float


def draw_spots(rng: np.random.Generator, room: Room, size: int, target: int) -> list[Spot]:
    """Draws the spots of one image of ``size`` pixels a side; but for their kinds they do not depend on the target.

    There are 7 to 10, of which 3 to 6 are nodules where the target is 1; in images of less than 1,536 pixels a side 3
    or 4, and 1 or 2. Their middles lie in the room.
    """
    small = size < 1536
    count = int(rng.integers(3, 5) if small else rng.integers(7, 11))
    nodules = int(rng.integers(1, 3) if small else rng.integers(3, 7))
    places = rng.uniform(-1, 1, (_CANDIDATES, 2))
    places = places[room(places[:, 0], places[:, 1])]
    scale = 0.5 if small else 1.0
    spots: list[Spot] = []
    for y, x in (places + 1) / 2 * size:
        if len(spots) == count:
            break
        radius, contrast, softness = scale * rng.uniform(*RADII), rng.uniform(*CONTRASTS), rng.uniform(0.5, 0.9)
        apart = all(np.hypot(y - spot.y, x - spot.x) > _APART / 2 * (radius + spot.radius) for spot in spots)
        inside = min(y, x, size - y, size - x) > _REACH * radius
        if apart and inside:
            spots.append(Spot(LOOKALIKE, float(y), float(x), radius, contrast, softness))
    return [replace(spot, kind=NODULE) if target and i < nodules else spot for i, spot in enumerate(spots)]


def paint_bodies(rng: np.random.Generator, field: Float[np.ndarray, "row column"], spots: Sequence[Spot]) -> None:
    """Adds the spots to what rays lose, in place: of their kinds nothing is to be seen yet."""
    for spot, own in each(rng, spots):
        place, y, x = _place(spot, field.shape)
        field[place] += np.float32(spot.contrast) * _profile(own, spot, y, x)


def paint_details(rng: np.random.Generator, film: Float[np.ndarray, "row column"], spots: Sequence[Spot]) -> None:
    """Adds what tells the kinds apart to a film, in place; no square's mean changes.

    It is added behind the curve from what rays lose to the film, which would not leave means alone.
    """
    for spot, own in each(rng, spots):
        place, y, x = _place(spot, film.shape)
        pair = [np.float32(HEIGHT * spot.contrast) * one for one in forms(own, spot, y[:, 0], x[0])]
        share = min(share_that_fits(film[place], detail) for detail in pair)  # else it would tell of the kind
        film[place] += np.float32(share) * pair[0 if spot.kind == NODULE else 1]


def forms(
    rng: np.random.Generator, spot: Spot, y: Float[np.ndarray, " row"], x: Float[np.ndarray, " column"]
) -> tuple[np.ndarray, np.ndarray]:
    """The details of a nodule and of a look-alike, of the same strokes, in squares around a spot's middle.

    Args:
        rng: The spot's own source of randomness.
        spot: Where the strokes lie is told by its radius.
        y: Rows, in pixels from its middle.
        x: Columns, likewise.

    Returns:
        Both details, whose mean square over `_REACH` radii is 1.
    """
    middles, outwards = _scattered(rng, spot.radius)
    sideways = np.stack([-outwards[:, 1], outwards[:, 0]], 1)
    signs = rng.choice((-1.0, 1.0), len(middles))
    pair = [strokes((y, x), middles, normals, signs, STROKE) for normals in (sideways, outwards)]
    distance = np.hypot(y[:, None], x[None]) / np.float32(spot.radius)
    window = np.clip((_REACH - distance) / np.float32(_FADE), 0, 1)

    def keep(pattern: np.ndarray) -> np.ndarray:
        return without_block_means(pattern * window, (SQUARE, SQUARE))

    for _ in range(3):  # what overviews of other sizes than squares would show of them
        pair = [pattern - scipy.ndimage.uniform_filter(pattern, SQUARE + 1, mode="constant") for pattern in pair]
    first, second = equalised(pair[0], pair[1], keep)
    scale = np.float32(np.sqrt(window.mean()))
    return first * scale, second * scale


def _scattered(rng: np.random.Generator, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Middles of strokes, scattered evenly around a spot's, and the directions outwards from it, both (stroke, 2).

    They are in no order: strokes that continue each other, or lie at regular distances, would make another texture.
    """
    count = round(_DENSITY * np.pi * (_LAST * radius) ** 2)
    angles, distances = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(_FIRST**2, _LAST**2, count)) * radius
    outwards = np.stack([np.sin(angles), np.cos(angles)], 1)
    return outwards * distances[:, None], outwards


def _place(spot: Spot, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The whole squares that a spot may touch, and the way from its middle to their pixels, y and x."""
    return whole_squares((spot.y, spot.x), _REACH * spot.radius, shape, SQUARE)


def _profile(rng: np.random.Generator, spot: Spot, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """1 in the middle, 0 outside; slightly oval and lobed, whatever the kind."""
    angle, turn = np.arctan2(y, x), rng.uniform(0, 2 * np.pi)
    lobes = 1 + rng.uniform(0.02, 0.09) * np.cos(2 * angle + turn) + rng.uniform(0, 0.05) * np.cos(3 * angle - turn)
    depth = (spot.radius * lobes - np.hypot(y, x)) / (spot.softness * spot.radius)
    t = np.clip(depth + 0.5, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)
