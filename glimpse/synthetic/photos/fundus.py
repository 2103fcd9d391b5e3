"""The back of an eye as a fundus camera photographs it: a disc on black, with optic disc, macula and vessels."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy
from jaxtyping import Float
from PIL import Image, ImageDraw

GRID = 768
"""Pixels per side that everything smooth is painted in; it is enlarged afterwards."""

VESSEL_GRID = 1536
"""Pixels per side that vessels are drawn in."""

Field: TypeAlias = Float[np.ndarray, "row column"]
"""Values at places of the image, float32."""

_GROUND = (0.70, 0.33, 0.14)  # red, green and blue of a retina in full light, of white
_NERVE = (0.98, 0.78, 0.50)  # of the optic disc
BLOOD = (0.30, 1.00, 0.75)
"""How much of red, green and blue blood takes away, relative to green; melanin is much like it."""

_TO_MACULA = 0.58  # halves of the image's side between optic disc and macula
_BLANK = 0.012  # of white: what a camera sees of the black surround


@dataclass(frozen=True)
class Anatomy:
    """What differs between eyes and pictures; lengths in halves of the image's side, y down and x to the right.

    Attributes:
        side: +1 where the optic disc lies on the right of the picture, as in a right eye; -1 on the left.
        radius: of the field of view.
        shift: of its middle, (y, x).
        nerve: middle of the optic disc, (y, x).
        nerve_radius: of the optic disc.
        cup: radius of its cup over its own.
        pigment: how dark the eye is, over the usual.
        light: where most light falls on, (y, x), and how uneven it is (third).
        exposure: brightness of the picture over the usual.
    """

    side: int
    radius: float
    shift: tuple[float, float]
    nerve: tuple[float, float]
    nerve_radius: float
    cup: float
    pigment: float
    light: tuple[float, float, float]
    exposure: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Anatomy":
        """An eye, and how it was photographed."""
        side = 1 if rng.random() < 0.5 else -1
        return cls(
            side=side,
            radius=rng.uniform(0.95, 0.98),
            shift=(rng.uniform(-0.01, 0.01), rng.uniform(-0.01, 0.01)),
            nerve=(rng.uniform(-0.07, 0.05), side * rng.uniform(0.42, 0.54)),
            nerve_radius=rng.uniform(0.115, 0.14),
            cup=rng.uniform(0.3, 0.55),
            pigment=rng.uniform(0.75, 1.3),
            light=(rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.05, 0.16)),
            exposure=rng.uniform(0.88, 1.12),
        )

    @property
    def macula(self) -> tuple[float, float]:
        """Middle of the macula, (y, x)."""
        return self.nerve[0] + 0.04, self.nerve[1] - self.side * _TO_MACULA


def in_retina(anatomy: Anatomy, y: Float[np.ndarray, " point"], x: Float[np.ndarray, " point"]) -> np.ndarray:
    """Whether points in [-1, 1] of the image lie inside the field of view and off the optic disc, bool (point,)."""
    inside = np.hypot(y - anatomy.shift[0], x - anatomy.shift[1]) < anatomy.radius - 0.09
    return inside & (np.hypot(y - anatomy.nerve[0], x - anatomy.nerve[1]) > 1.6 * anatomy.nerve_radius)


def paint_fundus(rng: np.random.Generator, anatomy: Anatomy, size: int) -> Float[np.ndarray, "3 size size"]:
    """Paints a retina in its light, without its surround: red, green and blue, of white.

    Args:
        rng: source of randomness.
        anatomy: the eye.
        size: pixels per side.
    """
    axis = (np.arange(GRID, dtype=np.float32) + 0.5) * (2 / GRID) - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    melanin = anatomy.pigment * _melanin(rng, anatomy, y, x)
    nerve, cup = _nerve(anatomy, y, x)
    light = _light(anatomy, y, x)
    blood = np.exp(-0.85 * enlarge(_vessels(rng, anatomy), size))
    picture = np.empty((3, size, size), np.float32)
    for channel, (ground, pale, share) in enumerate(zip(_GROUND, _NERVE, BLOOD, strict=True)):
        colour = np.float32(ground) * np.exp(np.float32(-share) * melanin)
        colour += nerve * (np.float32(pale) * (np.float32(0.82) + np.float32(0.18) * cup) - colour)
        np.multiply(enlarge(colour * light, size), blood ** np.float32(share), out=picture[channel])
    return picture


def mask_out(picture: Float[np.ndarray, "3 size size"], anatomy: Anatomy) -> None:
    """Makes everything outside the round field of view black, in place; its edge is three pixels wide."""
    size = picture.shape[-1]
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    distance = np.hypot((axis - np.float32(anatomy.shift[0]))[:, None], (axis - np.float32(anatomy.shift[1]))[None])
    view = rise(np.float32(anatomy.radius) - distance, 6 / size)
    picture -= np.float32(_BLANK)
    picture *= view
    picture += np.float32(_BLANK)


def enlarge(field: Field, size: int) -> Field:
    """A field in more or fewer pixels, by cubic interpolation."""
    if field.shape == (size, size):
        return field
    return np.asarray(Image.fromarray(field).resize((size, size), Image.Resampling.BICUBIC))


def rise(distance: np.ndarray, width: float) -> np.ndarray:
    """0 to 1 where a signed distance passes 0, over a width: ``3 t^2 - 2 t^3``."""
    t = np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


# ---------------------------------------------------------------------------------------------- the ground
def _melanin(rng: np.random.Generator, anatomy: Anatomy, y: Field, x: Field) -> Field:
    """What pigment takes away: more in the macula, uneven everywhere."""
    away = np.hypot(y - np.float32(anatomy.macula[0]), x - np.float32(anatomy.macula[1]))
    macula = 0.40 * np.exp(-0.5 * (away / np.float32(0.10)) ** 2) + 0.18 * np.exp(-0.5 * (away / np.float32(0.26)) ** 2)
    uneven = 0.07 * _mottle(rng, 40) + 0.05 * _mottle(rng, 9) + 0.035 * _mottle(rng, 2.5)
    return (0.12 + macula + uneven).astype(np.float32)


def _nerve(anatomy: Anatomy, y: Field, x: Field) -> tuple[Field, Field]:
    """The optic disc, slightly higher than wide, and its pale cup, both 0 to 1."""
    away = np.hypot((y - np.float32(anatomy.nerve[0])) / 1.06, x - np.float32(anatomy.nerve[1]))
    radius = anatomy.nerve_radius
    return rise(radius - away, 0.045), rise(radius * anatomy.cup - away, 0.07)


def _light(anatomy: Anatomy, y: Field, x: Field) -> Field:
    """Less light towards the edge, and more on one side."""
    uneven = anatomy.light[2] * (anatomy.light[0] * y + anatomy.light[1] * x)
    fall = 1 - 0.32 * (y**2 + x**2) ** 1.2
    return (anatomy.exposure * (fall + uneven)).clip(0.2, None).astype(np.float32)


def _mottle(rng: np.random.Generator, width: float) -> Field:
    """Smooth noise of unit deviation; ``width`` in pixels of the grid."""
    step = max(1, int(width // 2))
    coarse = rng.standard_normal((GRID // step + 1, GRID // step + 1), dtype=np.float32)
    smooth = scipy.ndimage.gaussian_filter(coarse, width / step, mode="wrap")
    return enlarge(smooth / smooth.std(), GRID)


# ---------------------------------------------------------------------------------------------- vessels
def _vessels(rng: np.random.Generator, anatomy: Anatomy) -> Field:
    """Arteries and veins that leave the optic disc, arch around the macula, branch and taper; up to 1 in veins."""
    scale = 2
    picture = Image.new("L", (scale * VESSEL_GRID, scale * VESSEL_GRID))
    tree = _Tree(rng, ImageDraw.Draw(picture), scale * VESSEL_GRID)
    for up in (-1, 1):
        for wide in (1.0, 0.72):  # a vein and its artery
            tree.grow(*_arcade(rng, anatomy, up), width=wide * rng.uniform(19, 25), ink=150 + 80 * (wide == 1))
            way = (0.0 if anatomy.side > 0 else np.pi) + up * anatomy.side * rng.uniform(0.35, 1.1)
            tree.wander(_at(anatomy.nerve), way, wide * rng.uniform(11, 15), 140 + 70 * (wide == 1))
    for _ in range(5):  # small ones towards the macula
        way = (np.pi if anatomy.side > 0 else 0.0) + rng.uniform(-0.8, 0.8)
        tree.wander(_at(anatomy.nerve), way, rng.uniform(5, 7.5), 130)
    return scipy.ndimage.gaussian_filter(np.asarray(picture.reduce(scale), np.float32) / 255, 0.7)


def _at(place: tuple[float, float]) -> np.ndarray:
    return np.array(place, float)


def _arcade(rng: np.random.Generator, anatomy: Anatomy, up: int) -> tuple[np.ndarray, np.ndarray]:
    """Places (step, 2) along an arch from the optic disc around the macula, and what each heads for (step,)."""
    middle, start = _at(anatomy.macula), _at(anatomy.nerve)
    turn = np.linspace(0, rng.uniform(2.3, 2.7), 60)
    sway = scipy.ndimage.gaussian_filter1d(np.cumsum(rng.normal(0, 0.008, len(turn))), 2.0)
    reach = (_TO_MACULA + (rng.uniform(-0.04, 0.10) + sway) * np.sin(np.minimum(turn, np.pi / 2))) * (1 + 0.07 * turn)
    places = middle + np.stack([up * reach * np.sin(turn), anatomy.side * reach * np.cos(turn)], 1)
    places += (start - places[0]) * (1 - np.linspace(0, 1, len(turn)))[:, None]
    steps = np.gradient(places, axis=0)
    return places, np.arctan2(steps[:, 0], steps[:, 1])


class _Tree:
    """Draws vessels with a pen.

    Args:
        rng: source of randomness.
        pen: of the picture.
        size: of the picture, in pixels per side.
    """

    def __init__(self, rng: np.random.Generator, pen: ImageDraw.ImageDraw, size: int) -> None:
        self._rng, self._pen, self._size = rng, pen, size

    def grow(self, places: np.ndarray, ways: np.ndarray, width: float, ink: int) -> None:
        """Draws a vessel along places, with branches to both sides; ``width`` in pixels."""
        for index in range(1, len(places)):
            self._stretch(places[index - 1], places[index], width, ink)
            width *= 0.985
            if index > 4 and self._rng.random() < 0.16:
                side = self._rng.choice((-1, 1))
                self.wander(places[index], ways[index] + side * self._rng.uniform(0.5, 1.1), 0.55 * width, ink - 10)

    def wander(self, place: np.ndarray, way: float, width: float, ink: int) -> None:
        """Draws a vessel that finds its own way, with branches, until it is too thin or leaves the picture."""
        bend = 0.0
        while width > 1.6 and np.abs(place).max() < 1:
            bend = 0.8 * bend + self._rng.normal(0, 0.05)
            way += bend
            end = place + 0.02 * np.array([np.sin(way), np.cos(way)])
            self._stretch(place, end, width, ink)
            place, width = end, width * 0.975
            if width > 3 and self._rng.random() < 0.06:
                turn = self._rng.choice((-1, 1)) * self._rng.uniform(0.4, 0.9)
                self.wander(place, way + turn, width * 0.7, ink - 10)

    def _stretch(self, start: np.ndarray, end: np.ndarray, width: float, ink: int) -> None:
        ends = [float((value + 1) / 2 * self._size) for value in (start[1], start[0], end[1], end[0])]
        fill = int(np.clip(ink * min(1.0, width / 6), 30, 255))
        self._pen.line(ends, fill=fill, width=max(1, round(width)))
        if width > 5:  # without gaps at bends
            half = width / 2 - 0.5
            self._pen.ellipse([ends[2] - half, ends[3] - half, ends[2] + half, ends[3] + half], fill=fill)
