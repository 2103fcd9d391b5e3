"""Small dark red spots on a retina: microaneurysms, and what merely looks like them until one looks closely.

Both kinds lie in a reddish haze, are drawn in the same sizes and depths, and hold the same blood. Microaneurysms are
round dots of about a dozen pixels; look-alikes are short pieces of vessel. Values and power spectrum are the same (see
`glimpse.synthetic.equalising`), and so is the mean of every colour in every square of 12 x 12 pixels: an overview shows
nothing of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
from jaxtyping import Float

from glimpse.synthetic.equalising import equalised, without_block_means
from glimpse.synthetic.photos.fundus import BLOOD, rise
from glimpse.synthetic.placing import Room, each, share_that_fits, whole_squares

SQUARE = 12
"""Side, in pixels, of the squares that have the same mean whatever the kind: an overview's pixel of 3072 in 256."""

ANEURYSM, LOOKALIKE = "microaneurysm", "lookalike"
RADII = (5.6, 6.8)  # pixels, of a dot
DEPTHS = (0.55, 0.75)  # of what green light loses in a dot
HAZES = (0.34, 0.44)  # and in the middle of its haze
REACH = 54.0  # pixels from the middle of a spot that its haze covers
_HAZE = 19.0  # pixels, standard deviation
_DOTS = (2, 4)  # in a spot, the second excluded
_SCATTER = 14.0  # pixels from the middle of a spot within which dots lie
_BETWEEN = 2.4  # radii between the middles of two dots, at least
_HALF_WIDTH = 0.47  # of a piece of vessel, in radii of the dot that it replaces
_SMOOTH = 9.0  # pixels: what is coarser than that is the same in both kinds
_SMOOTHLY = 5  # times that means of squares are taken off smoothly
_APART = 150.0  # pixels between the middles of two spots, at least; half of that in small images
_CANDIDATES = 3000


@dataclass(frozen=True)
class Spot:
    """One spot; lengths in level-0 pixels.

    Attributes:
        kind: "microaneurysm" or "lookalike".
        y: middle.
        x: middle.
        radius: of its dots.
        depth: of what green light loses in them.
        haze: likewise, in the middle of its haze.
    """

    kind: str
    y: float
    x: float
    radius: float
    depth: float
    haze: float


def draw_spots(rng: np.random.Generator, room: Room, size: int, target: int) -> list[Spot]:
    """Draws the spots of one image of ``size`` pixels a side; but for their kinds they do not depend on the target.

    There are 7 to 10, of which 3 to 6 hold microaneurysms where the target is 1; in images of less than 1,536 pixels a
    side 3 or 4, and 1 or 2. Their middles lie in the room.
    """
    small = size < 1536
    count = int(rng.integers(3, 5) if small else rng.integers(7, 11))
    sought = int(rng.integers(1, 3) if small else rng.integers(3, 7))
    places = rng.uniform(-1, 1, (_CANDIDATES, 2))
    places = places[room(places[:, 0], places[:, 1])]
    apart = _APART / 2 if small else _APART
    spots: list[Spot] = []
    for y, x in (places + 1) / 2 * size:
        if len(spots) == count:
            break
        if all(np.hypot(y - spot.y, x - spot.x) > apart for spot in spots):
            drawn = [float(rng.uniform(*ends)) for ends in (RADII, DEPTHS, HAZES)]
            spots.append(Spot(LOOKALIKE, float(y), float(x), *drawn))
    return [replace(spot, kind=ANEURYSM) if target and i < sought else spot for i, spot in enumerate(spots)]


def paint_spots(rng: np.random.Generator, picture: Float[np.ndarray, "3 row column"], spots: Sequence[Spot]) -> None:
    """Paints the spots into a picture, of white, in place.

    Hazes and what the kinds have in common take away a share of the light; what tells the kinds apart is added, so that
    the mean of no square depends on it.
    """
    shares = np.array(BLOOD, np.float32)[:, None, None]
    for spot, own in each(rng, spots):
        place, y, x = whole_squares((spot.y, spot.x), REACH, picture.shape[1:], SQUARE)
        common, *pair = forms(own, spot, y[:, 0], x[0])
        haze = np.float32(spot.haze) * np.exp(-(y**2 + x**2) / np.float32(2 * _HAZE**2))
        film = picture[(slice(None), *place)]
        film *= np.exp(-shares * (np.float32(spot.depth) * common + haze))
        colour = film.mean((1, 2), keepdims=True) * (1 - np.exp(np.float32(-spot.depth) * shares))
        details = [-colour * one for one in pair]
        share = min(share_that_fits(film, detail) for detail in details)  # else it would tell of the kind
        film += np.float32(share) * details[0 if spot.kind == ANEURYSM else 1]


def forms(
    rng: np.random.Generator, spot: Spot, y: Float[np.ndarray, " row"], x: Float[np.ndarray, " column"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The blood of a spot: what both kinds have in common, and what microaneurysms and look-alikes have beyond that.

    Args:
        rng: the spot's own source of randomness.
        spot: how large its dots are.
        y: rows, in pixels from its middle.
        x: columns, likewise.

    Returns:
        Three arrays (row, column); the sum of the first and one of the others is about 1 in a dot, and 0 beside it.
    """
    middles = _scattered(rng, spot.radius)
    dots, pieces = _dots(y, x, middles, spot.radius), _pieces(rng, y, x, middles, spot.radius)
    pieces *= dots.sum() / pieces.sum()
    common = scipy.ndimage.gaussian_filter((dots + pieces) / 2, _SMOOTH, mode="constant")
    distance = np.hypot(y[:, None], x[None])
    window = np.clip((np.float32(REACH) - distance) / np.float32(12), 0, 1)

    def keep(pattern: np.ndarray) -> np.ndarray:
        return _without_square_means(pattern * window)

    pair = [pattern - common for pattern in (dots, pieces)]
    pair = [pattern - scipy.ndimage.gaussian_filter(pattern, _SMOOTH, mode="constant") for pattern in pair]
    scale = np.float32(np.sqrt(np.mean([keep(pattern) ** 2 for pattern in pair])))
    first, second = equalised(pair[0], pair[1], keep)
    return common, first * scale, second * scale


def _without_square_means(pattern: np.ndarray) -> np.ndarray:
    """Takes the mean off every square, most of it smoothly, so that no edges of squares are to be seen."""
    for _ in range(_SMOOTHLY):
        means = pattern - without_block_means(pattern, (SQUARE, SQUARE))
        pattern = pattern - scipy.ndimage.gaussian_filter(means, SQUARE / 3, mode="constant", truncate=2.5)
    return without_block_means(pattern, (SQUARE, SQUARE))


def _scattered(rng: np.random.Generator, radius: float) -> np.ndarray:
    """Middles of the dots of a spot, (dot, 2)."""
    count = int(rng.integers(*_DOTS))
    middles: list[np.ndarray] = []
    while len(middles) < count:
        middle = rng.uniform(-_SCATTER, _SCATTER, 2)
        if all(np.hypot(*(middle - other)) > _BETWEEN * radius for other in middles):
            middles.append(middle)
    return np.array(middles)


def _dots(y: np.ndarray, x: np.ndarray, middles: np.ndarray, radius: float) -> np.ndarray:
    blood = np.zeros((len(y), len(x)), np.float32)
    for row, column in middles:
        distance = np.hypot(y[:, None] - row, x[None] - column)
        np.maximum(blood, rise(radius - distance, 2.5), out=blood, casting="same_kind")
    return blood


def _pieces(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, middles: np.ndarray, radius: float) -> np.ndarray:
    """Bent pieces of vessel as large as dots, in any direction."""
    blood = np.zeros((len(y), len(x)), np.float32)
    half = _HALF_WIDTH * radius
    length = np.pi * radius**2 / (4 * half)
    for row, column in middles:
        way, bend = rng.uniform(0, np.pi), rng.uniform(-0.02, 0.02)
        down, across = y[:, None] - row, x[None] - column
        along = down * np.sin(way) + across * np.cos(way)
        aside = across * np.sin(way) - down * np.cos(way) + bend * along**2
        piece = rise(half - np.abs(aside), 2.5) * rise(length - np.abs(along), 2.5)
        np.maximum(blood, piece, out=blood, casting="same_kind")
    return blood
