"""Small round shadows in lungs: nodules, and what merely looks like them until one looks closely.

Both kinds are drawn from the same sizes, contrasts and softness, and have the same mean in every square of 8 x 8
pixels: what tells them apart averages out in an overview. A nodule has a rim of fine spicules and a grainy inside; a
look-alike (a vessel seen end-on, a nipple's shadow, a calcified granuloma) is smooth, with faint rings at most.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from glimpse.synthetic.radiographs.chest import Anatomy, in_lungs

SQUARE = 8
"""Side, in pixels, of the squares that have the same mean whatever the kind: an overview's pixel of 2048 in 256."""

LOOKALIKES = ("vessel", "nipple", "granuloma")
NODULE = "nodule"
RADII = (28.0, 40.0)  # pixels; half of that in small images
CONTRASTS = (0.30, 0.38)  # of what a ray loses
SPICULES = 0.8  # their height, and
GRAIN = 0.2  # that of the grain within, over the contrast
_REACH = 1.9  # radii that a spot with its spicules covers
_APART = 4.0  # radii between the middles of two spots, at least
_CANDIDATES = 3000
_DARKEST, _LIGHTEST = 0.02, 0.98  # of white, which leaves room for noise


@dataclass(frozen=True)
class Spot:
    """One shadow; lengths in level-0 pixels.

    Attributes:
        kind: "nodule", "vessel", "nipple" or "granuloma".
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


def draw_spots(rng: np.random.Generator, anatomy: Anatomy, size: int, target: int) -> list[Spot]:
    """Draws the spots of one image of ``size`` pixels a side; but for their kinds they do not depend on the target.

    There are 7 to 10, of which 3 to 6 are nodules where the target is 1; in images of less than 1,536 pixels a side 3
    or 4, and 1 or 2.
    """
    small = size < 1536
    count = int(rng.integers(3, 5) if small else rng.integers(7, 11))
    nodules = int(rng.integers(1, 3) if small else rng.integers(3, 7))
    places = rng.uniform(-1, 1, (_CANDIDATES, 2))
    places = places[in_lungs(anatomy, places[:, 0], places[:, 1])]
    scale = 0.5 if small else 1.0
    spots: list[Spot] = []
    for y, x in (places + 1) / 2 * size:
        if len(spots) == count:
            break
        radius, contrast, softness = scale * rng.uniform(*RADII), rng.uniform(*CONTRASTS), rng.uniform(0.5, 0.9)
        kind = LOOKALIKES[rng.integers(len(LOOKALIKES))]
        apart = all(np.hypot(y - spot.y, x - spot.x) > _APART / 2 * (radius + spot.radius) for spot in spots)
        inside = min(y, x, size - y, size - x) > _REACH * radius
        if apart and inside:
            spots.append(Spot(kind, float(y), float(x), radius, contrast, softness))
    return [replace(spot, kind=NODULE) if target and i < nodules else spot for i, spot in enumerate(spots)]


def paint_bodies(rng: np.random.Generator, field: Float[np.ndarray, "row column"], spots: Sequence[Spot]) -> None:
    """Adds the spots to what rays lose, in place: of their kinds nothing is to be seen yet."""
    for spot, own in _each(rng, spots):
        place, y, x = _place(spot, field.shape)
        field[place] += np.float32(spot.contrast) * _profile(own, spot, y, x)


def paint_details(rng: np.random.Generator, film: Float[np.ndarray, "row column"], spots: Sequence[Spot]) -> None:
    """Adds what tells the kinds apart to a film, in place; no square's mean changes.

    It is added behind the curve from what rays lose to the film, which would not leave means alone.
    """
    for spot, own in _each(rng, spots):
        place, y, x = _place(spot, film.shape)
        detail = _spicules(own, spot, y, x) if spot.kind == NODULE else _rings(spot, y, x)
        detail = np.float32(spot.contrast) * _without_means(detail)
        film[place] += detail * _share_that_fits(film[place], detail)


def _share_that_fits(film: np.ndarray, detail: np.ndarray) -> float:
    """The part of a detail that can be added without leaving the film's range, where means would change."""
    room = np.where(detail > 0, _LIGHTEST - film, film - _DARKEST)
    return float(np.clip((room / np.maximum(np.abs(detail), 1e-6)).min(), 0, 1))


def _each(rng: np.random.Generator, spots: Sequence[Spot]) -> Iterator[tuple[Spot, np.random.Generator]]:
    """The spots with random numbers of their own, so that one can change without the others."""
    for spot, seed in zip(spots, rng.integers(0, 2**32, len(spots)), strict=True):
        yield spot, np.random.default_rng(seed)


def _place(spot: Spot, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The whole squares that a spot may touch, and the way from its middle to their pixels, y and x."""
    sides = []
    for middle, side in zip((spot.y, spot.x), shape, strict=True):
        low = max(int((middle - _REACH * spot.radius) // SQUARE), 0)
        high = min(int((middle + _REACH * spot.radius) // SQUARE) + 1, side // SQUARE)
        sides.append(slice(low * SQUARE, high * SQUARE))
    y, x = np.mgrid[sides[0], sides[1]].astype(np.float32) + np.float32(0.5)
    return (sides[0], sides[1]), y - np.float32(spot.y), x - np.float32(spot.x)


def _profile(rng: np.random.Generator, spot: Spot, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """1 in the middle, 0 outside; slightly oval and lobed, whatever the kind."""
    angle, turn = np.arctan2(y, x), rng.uniform(0, 2 * np.pi)
    lobes = 1 + rng.uniform(0.02, 0.09) * np.cos(2 * angle + turn) + rng.uniform(0, 0.05) * np.cos(3 * angle - turn)
    depth = (spot.radius * lobes - np.hypot(y, x)) / (spot.softness * spot.radius)
    t = np.clip(depth + 0.5, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def _spicules(rng: np.random.Generator, spot: Spot, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Fine rays that cross the rim, and grain within."""
    distance = np.hypot(y, x) / np.float32(spot.radius)
    detail = GRAIN * np.clip(2.2 - 2 * distance, 0, 1) * _grain(rng, y.shape)
    count = round(2 * np.pi * spot.radius / rng.uniform(7.5, 9))
    for angle in (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * (2 * np.pi / count):
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        end = spot.radius * rng.uniform(1.25, 1.75)
        rises, falls = np.clip((along / spot.radius - 0.5) * 3, 0, 1), np.clip((end - along) * 2 / spot.radius, 0, 1)
        detail += SPICULES * rises * falls * np.exp(-0.5 * (across / rng.uniform(1.3, 1.9)) ** 2)
    return detail.astype(np.float32)


def _grain(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of unit deviation whose grains are some pixels wide."""
    grain = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 1.7)
    return grain / max(float(grain.std()), 1e-6)


def _rings(spot: Spot, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The layers of a granuloma, the wall of a vessel; a nipple has none."""
    height = {"granuloma": 0.12, "vessel": 0.07, "nipple": 0.0}[spot.kind]
    distance = np.hypot(y, x)
    inside = np.clip((spot.radius - distance) / 4, 0, 1)
    return (height * inside * np.cos(distance * (2 * np.pi / 10))).astype(np.float32)


def _without_means(detail: np.ndarray) -> np.ndarray:
    """Takes means off: first those around every pixel, for overviews of other sizes, then what squares still have."""
    for _ in range(3):
        detail = detail - ndimage.uniform_filter(detail, SQUARE + 1, mode="constant")
    return detail - _square_means(detail).repeat(SQUARE, axis=0).repeat(SQUARE, axis=1)


def _square_means(detail: np.ndarray) -> np.ndarray:
    rows, columns = detail.shape[0] // SQUARE, detail.shape[1] // SQUARE
    return detail.reshape(rows, SQUARE, columns, SQUARE).mean(axis=(1, 3))
