"""A chest as X-rays see it from behind: how much every ray is weakened, from shapes that lie over each other."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy
from jaxtyping import Float
from PIL import Image, ImageDraw

GRID = 512
"""Pixels per side that anatomy is painted in; it is enlarged afterwards."""

Field: TypeAlias = Float[np.ndarray, "*place"]
"""Values at places of the image, float32."""


@dataclass(frozen=True)
class Anatomy:
    """What differs between patients; lengths in halves of the image's side, y down and x to the right.

    Attributes:
        width: of the chest over the usual one.
        tilt: of the whole patient, in radians.
        shift: of the chest's middle, (y, x).
        dome: height of the right and left half of the diaphragm (y).
        heart: width of the heart's shadow.
        pitch: distance between neighbouring ribs behind.
        phase: where they begin, in pitches.
        slope: of the ribs in front.
        clavicle: height of the collar bones (y).
        spine: curve of the spine, its amplitude (x).
        tissue: what soft tissue weakens, over the usual.
    """

    width: float
    tilt: float
    shift: tuple[float, float]
    dome: tuple[float, float]
    heart: float
    pitch: float
    phase: float
    slope: float
    clavicle: float
    spine: float
    tissue: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Anatomy":
        """A patient."""
        low = rng.uniform(0.42, 0.56)
        return cls(
            width=rng.uniform(0.93, 1.06),
            tilt=rng.normal(0, 0.02),
            shift=(rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04)),
            dome=(low, low + rng.uniform(0.02, 0.08)),
            heart=rng.uniform(0.27, 0.36),
            pitch=rng.uniform(0.135, 0.16),
            phase=rng.uniform(0, 1),
            slope=rng.uniform(0.5, 0.75),
            clavicle=rng.uniform(-0.66, -0.56),
            spine=rng.normal(0, 0.015),
            tissue=rng.uniform(0.9, 1.15),
        )


def in_lungs(anatomy: Anatomy, y: Float[np.ndarray, " point"], x: Float[np.ndarray, " point"]) -> np.ndarray:
    """Whether points in [-1, 1] of the image lie in lungs that neither heart nor diaphragm covers, bool (point,)."""
    y, x = _of_patient(anatomy, y, x)
    return (_lungs(anatomy, y, x) > 0.88) & (_heart(anatomy, y, x) < 0.08)


def paint_chest(rng: np.random.Generator, anatomy: Anatomy) -> Field:
    """Adds up what the parts weaken: tissue less lungs, heart, spine, vessels, ribs and collar bones.

    Returns:
        What a ray loses, float32 (512, 512): 0 in air, about 0.35 in a lung, about 1 in the spine.
    """
    axis = (np.arange(GRID, dtype=np.float32) + 0.5) * (2 / GRID) - 1
    y, x = _of_patient(anatomy, *np.meshgrid(axis, axis, indexing="ij"))
    side = np.abs(x)
    body, lungs, heart = _body(y, side), _lungs(anatomy, y, x), _heart(anatomy, y, x)
    field = 0.62 * anatomy.tissue * body - 0.40 * lungs
    field += 0.30 * heart * lungs + 0.08 * heart
    field += _spine(anatomy, y, x) + _abdomen(anatomy, y, x) * body
    cage = np.clip(1 - (side / 0.86) ** 4, 0, 1) * _rise(0.80 - y, 0.15)
    field += (0.115 * _ribs_behind(anatomy, y, side) + 0.075 * _ribs_in_front(anatomy, y, side)) * cage
    field += (0.12 * _clavicles(anatomy, y, side) + 0.08 * _shoulders(y, side)) * body
    field += lungs * (0.34 * _vessels(rng, anatomy) + 0.014 * _mottle(rng, 5) + 0.010 * _mottle(rng, 1.5))
    field += body * 0.05 * _mottle(rng, 24)
    return np.maximum(field, 0).astype(np.float32)


def enlarge(field: Float[np.ndarray, "row column"], size: int) -> Float[np.ndarray, "size size"]:
    """A field in more or fewer pixels, by cubic interpolation."""
    if field.shape == (size, size):
        return field
    return np.asarray(Image.fromarray(field).resize((size, size), Image.Resampling.BICUBIC))


def _of_patient(anatomy: Anatomy, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in the image, in the patient's own coordinates."""
    y, x = y - np.float32(anatomy.shift[0]), x - np.float32(anatomy.shift[1])
    cosine, sine = np.float32(np.cos(anatomy.tilt)), np.float32(np.sin(anatomy.tilt))
    return cosine * y + sine * x, (cosine * x - sine * y) / np.float32(anatomy.width)


def _rise(distance: Field, width: float) -> Field:
    """0 to 1 where a signed distance passes 0, over a width: ``3 t^2 - 2 t^3``."""
    t = np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def _bump(distance: Field, width: float) -> Field:
    """A Gaussian of a standard deviation."""
    return np.exp(-0.5 * (distance / np.float32(width)) ** 2)


# ---------------------------------------------------------------------------------------------- soft tissue
def _body(y: Field, side: Field) -> Field:
    """Thickness of the trunk and the neck."""
    neck = 0.26 + 0.9 * _rise(y + 0.86, 0.28) * np.clip((y + 1.05) / 0.3, 0, 1)
    half = np.minimum(neck, 1.02 - 0.06 * np.clip(y + 0.2, 0, 1))
    return np.sqrt(np.clip(1 - (side / half) ** 4, 0, 1))


def _lungs(anatomy: Anatomy, y: Field, x: Field) -> Field:
    """Two lungs between the ribs, the diaphragm and the middle; soft at their rims, where rays cross less of them."""
    side = np.abs(x)
    inner = 0.13 + 0.05 * _rise(y - 0.1, 0.5) - 0.03 * _rise(-0.3 - y, 0.4)
    outer = 0.76 * np.sqrt(np.clip(1 - (np.clip(0.25 - y, 0, None) / 1.06) ** 2.6, 0, 1)) + 0.03 * _rise(y, 0.8)
    right = x < 0  # the patient's right is the picture's left
    height = np.where(right, np.float32(anatomy.dome[0]), np.float32(anatomy.dome[1]))
    floor = height + 0.55 * np.abs(side - 0.36) ** 1.9 + 0.35 * np.clip(side - 0.62, 0, None)
    lungs = _rise(side - inner, 0.05) * _rise(outer - side, 0.09) * _rise(floor - y, 0.045)
    return lungs * (0.82 + 0.18 * _bump(side - 0.42, 0.2))


def _heart(anatomy: Anatomy, y: Field, x: Field) -> Field:
    """The heart, mostly on the picture's right, with the knob of the aorta and the roots of the lungs."""
    tilted = x - 0.13 - 0.25 * (y - 0.25)
    heart = _rise(1 - np.hypot(tilted / anatomy.heart, (y - 0.28) / 0.36), 0.16)
    knob = _rise(1 - np.hypot((x - 0.12) / 0.085, (y + 0.22) / 0.10), 0.35)
    roots = _bump(np.hypot(np.abs(x) - 0.19, (y - 0.02) / 1.8), 0.055)
    return np.maximum(np.maximum(heart, 0.5 * knob), 0.35 * roots)


def _abdomen(anatomy: Anatomy, y: Field, x: Field) -> Field:
    """Liver and spleen below the diaphragm, and the air in the stomach."""
    below = _rise(y - anatomy.dome[0] - 0.16, 0.5)
    bubble = _rise(1 - np.hypot((x - 0.36) / 0.16, (y - anatomy.dome[1] - 0.17) / 0.09), 0.3)
    return 0.22 * below - 0.16 * bubble


def _mottle(rng: np.random.Generator, width: float) -> Field:
    """Smooth noise of unit deviation; ``width`` in pixels of the grid."""
    step = max(1, int(width // 2))
    coarse = rng.standard_normal((GRID // step, GRID // step), dtype=np.float32)
    smooth = scipy.ndimage.gaussian_filter(coarse, width / step, mode="wrap")
    return enlarge(smooth / smooth.std(), GRID)


# ---------------------------------------------------------------------------------------------- bones
def _spine(anatomy: Anatomy, y: Field, x: Field) -> Field:
    """The spine, and the dark windpipe before it."""
    middle = x - anatomy.spine * np.sin(3 * y)
    vertebra = 0.5 + 0.5 * np.cos(2 * np.pi * y / 0.125)
    column = _rise(0.085 - np.abs(middle), 0.06)
    process = _bump(np.hypot(middle, 0.5 * ((y / 0.125 + 0.5) % 1 - 0.5) * 0.125), 0.013)
    windpipe = _rise(0.045 - np.abs(middle - 0.005), 0.03) * _rise(-0.12 - y, 0.12)
    return column * (0.06 + 0.035 * vertebra) + 0.03 * process + 0.14 * _bump(x, 0.14) - 0.11 * windpipe


def _band(distance: Field, half: float) -> Field:
    """A bone across: its cortex weakens most where rays touch it."""
    inside = _rise(half - np.abs(distance), 0.012)
    return inside * (0.62 + 0.55 * np.clip(np.abs(distance) / np.float32(half), 0, 1) ** 4)


def _ribs_behind(anatomy: Anatomy, y: Field, side: Field) -> Field:
    """Ten pairs that leave the spine nearly level, and fall towards the side."""
    fall = 0.62 * np.clip(side - 0.22, 0, None) ** 1.8 - 0.10 * np.clip(0.3 - side, 0, None)
    number = (y - fall + 0.78) / anatomy.pitch - anatomy.phase
    nearest = np.rint(number)
    distance = (number - nearest) * anatomy.pitch / np.sqrt(1 + (1.1 * np.clip(side - 0.22, 0, None) ** 0.8) ** 2)
    return _band(distance, 0.032) * ((nearest >= 0) & (nearest <= 9)) * _rise(side - 0.07, 0.06)


def _ribs_in_front(anatomy: Anatomy, y: Field, side: Field) -> Field:
    """Six pairs that come from the side and fall towards the middle, where they turn into cartilage."""
    pitch = 1.25 * anatomy.pitch
    fall = anatomy.slope * (0.72 - side) - 0.5 * np.clip(side - 0.5, 0, None) ** 2
    number = (y - fall + 0.62) / pitch - anatomy.phase / 2
    nearest = np.rint(number)
    distance = (number - nearest) * pitch / np.float32(np.hypot(1, anatomy.slope))
    return _band(distance, 0.036) * ((nearest >= 0) & (nearest <= 5)) * _rise(side - 0.34, 0.22)


def _clavicles(anatomy: Anatomy, y: Field, side: Field) -> Field:
    """The collar bones, thicker towards the middle."""
    middle = anatomy.clavicle - 0.13 * _rise(side - 0.38, 0.6) + 0.03 * np.sin(7 * side)
    width = 0.030 + 0.012 * _bump(side - 0.1, 0.07)
    return _band((y - middle) * np.float32(0.032) / width, 0.032) * _rise(side - 0.07, 0.04) * _rise(0.92 - side, 0.1)


def _shoulders(y: Field, side: Field) -> Field:
    """Shoulder blades and the heads of the arms."""
    blade = _rise(side - 0.74 - 0.12 * (y + 0.2), 0.05) * _rise(0.98 - side, 0.1) * _rise(0.12 - y, 0.3)
    head = _rise(1 - np.hypot((side - 0.98) / 0.16, (y + 0.58) / 0.17), 0.2)
    return np.clip(0.6 * blade * _rise(y + 0.6, 0.3) + head, 0, 1.2)


# ---------------------------------------------------------------------------------------------- vessels
def _vessels(rng: np.random.Generator, anatomy: Anatomy) -> Field:
    """Vessels that leave the roots of the lungs, branch and taper."""
    scale = 2
    picture = Image.new("L", (scale * GRID, scale * GRID))
    pen = ImageDraw.Draw(picture)
    for side in (-1, 1):
        for _ in range(13):
            start = np.array([0.02 + anatomy.shift[0] + rng.normal(0, 0.07), anatomy.shift[1] + 0.19 * side])
            away = 0.0 if side > 0 else np.pi
            _branch(rng, pen, start, away + rng.uniform(-1.45, 1.45), rng.uniform(6, 10), scale)
    return scipy.ndimage.gaussian_filter(np.asarray(picture.reduce(scale), np.float32) / 255, 0.6)


def _branch(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, start: np.ndarray, angle: float, width: float, scale: int
) -> None:
    """Draws one vessel and its branches; ``width`` in pixels of the enlarged grid."""
    place = start
    while width > 0.8:
        angle += rng.normal(0, 0.16)
        end = place + 0.035 * np.array([np.sin(angle), np.cos(angle)])
        ends = [float((value + 1) / 2 * GRID * scale) for value in (place[1], place[0], end[1], end[0])]
        pen.line(ends, fill=int(min(40 + 16 * width, 200)), width=max(1, round(width)))
        place, width = end, width * 0.90
        if width < 6 and rng.random() < 0.28:
            turn = rng.choice((-1, 1)) * rng.uniform(0.4, 0.9)
            _branch(rng, pen, place, angle + turn, width * 0.7, scale)
