"""Two glyphs far apart among noise strokes, and a question about how they relate.

Target "match": are both glyphs of one shape? Each glyph's shape is uniform whatever the answer, so neither tells
anything alone, and an answer from the sign of a sum h(a) + h(b) over tokens that do not know of each other cannot be
much better than a guess. If p of K shapes have h > 0, equal pairs are told by a share p / K of the shapes, while all
p (p - 1) unequal pairs among them are mistaken for equal ones; so at best, with p = K / 2, it is right in
1/2 + K / (8 (K - 1)) of the cases: 0.643 for 8 shapes. This holds for mean pooling and for attention pooling under a
linear head alike: the sign of sum_t w_t g_t / sum_t w_t + c is that of sum_t w_t (g_t + c), a sum again.

What a token tells beside the shape (where it was read, how the glyph is turned) can make h another one for each glyph.
By the same count, in which one order of each unequal pair is then wrong, no such answer exceeds 3/4. The bounds are on
answers of an aggregator: a policy whose memory relates what it saw could still say so by where it looks next.

Target "left": does the ring lie left of the cross? Tokens know their locations, so pooling can answer this in part.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from glimpse.cohort import Case, Cohort, CohortError
from glimpse.settings.options import at_least
from glimpse.sources.drawn.sprites import SpriteSource
from glimpse.synthetic.glyphs.numbers import numbers_of

SIDE = 32  # of the square that a glyph or stroke lies in
RADIUS = 12.0  # of a glyph of medium size, in pixels
APART = 96  # pixels between two glyphs on some axis: no glimpse of 64 pixels shows parts of both
APART_LEFT = 32  # pixels between their centres on the x axis, where it matters which one is left
TARGETS = ("match", "left")
SPLITS = ("train", "val", "test")
_VARIANTS, _STROKES = 128, 1024  # drawings of each shape, and of strokes, per split
_WIDTH = 3.6  # of lines, in pixels
_INK = 28_000.0  # the sum over a drawing's pixels, the same for all of them, so that a shrunken one tells little
_REDRAWS = 1000

Grid = Float[np.ndarray, "count side side"]


@dataclass(frozen=True)
class Plan:
    """How images look.

    Attributes:
        size: side of an image in pixels.
        shapes: number of shapes, the first of `SHAPES`.
        strokes: number of noise strokes.
        target: "match" or "left".
    """

    size: int = 512
    shapes: int = 8
    strokes: int = 12
    target: str = "match"

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"env.cohort.target: expected a target of {', '.join(TARGETS)}, got {self.target!r}.")
        at_least("env.cohort.size", self.size, 256, whole=True, most=10_000)
        at_least("env.cohort.shapes", self.shapes, 2, whole=True, most=len(SHAPES))
        at_least("env.cohort.strokes", self.strokes, 0, whole=True)


# ---------------------------------------------------------------------------------------------- drawing
def _segment(x: Grid, y: Grid, start: tuple[float, float], end: tuple[float, float]) -> Grid:
    """Distance to the line between two points (x, y), less half its width."""
    along = end[0] - start[0], end[1] - start[1]
    share = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / (along[0] ** 2 + along[1] ** 2)
    share = np.clip(share, 0, 1)
    return np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1]) - _WIDTH / 2


def _ring(x: Grid, y: Grid) -> Grid:
    return np.abs(np.hypot(x, y) - RADIUS + _WIDTH / 2) - _WIDTH / 2


def _plus(x: Grid, y: Grid) -> Grid:
    reach = RADIUS - _WIDTH / 2
    return np.minimum(_segment(x, y, (-reach, 0), (reach, 0)), _segment(x, y, (0, -reach), (0, reach)))


def _cross(x: Grid, y: Grid) -> Grid:
    return _plus((x + y) / math.sqrt(2), (y - x) / math.sqrt(2))


def _square(x: Grid, y: Grid) -> Grid:
    return np.maximum(np.abs(x), np.abs(y)) - 0.85 * RADIUS


def _frame(x: Grid, y: Grid) -> Grid:
    return np.abs(_square(x, y) + _WIDTH / 2) - _WIDTH / 2


def _triangle(x: Grid, y: Grid) -> Grid:
    slope = math.sqrt(3) / 2
    return np.maximum(np.maximum(slope * x - 0.5 * y, -slope * x - 0.5 * y), y) - 0.53 * RADIUS


def _disc(x: Grid, y: Grid) -> Grid:
    return np.hypot(x, y) - RADIUS


def _chevron(x: Grid, y: Grid) -> Grid:
    top, reach = (0.0, -0.7 * RADIUS), 0.85 * RADIUS
    return np.minimum(_segment(x, y, top, (-reach, reach)), _segment(x, y, top, (reach, reach)))


_DISTANCES: dict[str, Callable[[Grid, Grid], Grid]] = {
    "ring": _ring,
    "cross": _cross,
    "square": _square,
    "triangle": _triangle,
    "plus": _plus,
    "disc": _disc,
    "chevron": _chevron,
    "frame": _frame,
}
SHAPES = tuple(_DISTANCES)


def draw_glyphs(rng: np.random.Generator, shape: str, count: int) -> UInt8[np.ndarray, "count side side"]:
    """Drawings of a shape, of slightly different size, orientation and brightness."""
    scale = rng.uniform(0.9, 1.1, (count, 1, 1))
    x, y = _turned(rng.uniform(-0.17, 0.17, (count, 1, 1)))
    return _inked(rng, scale * _DISTANCES[shape](x / scale, y / scale))


def draw_strokes(rng: np.random.Generator, count: int) -> UInt8[np.ndarray, "count side side"]:
    """One to three parallel lines in any direction; with as much ink as a glyph."""
    x, y = _turned(rng.uniform(0, math.pi, (count, 1, 1)))
    lines, pitch = rng.integers(1, 4, (count, 1, 1)), rng.uniform(6.0, 7.5, (count, 1, 1))
    reach = rng.uniform(8.0, 10.5, (count, 1, 1))
    place = np.clip(np.rint(y / pitch + (lines - 1) / 2), 0, lines - 1) - (lines - 1) / 2  # of the nearest line
    beyond = np.maximum(np.abs(x) - reach, 0)
    return _inked(rng, np.hypot(beyond, y - place * pitch) - _WIDTH / 2)


def _turned(angle: Float[np.ndarray, "count 1 1"]) -> tuple[Grid, Grid]:
    """Coordinates x and y of a square's pixels, from its centre and along axes turned by an angle."""
    places = np.arange(SIDE) - (SIDE - 1) / 2
    x, y = places[None, None, :], places[None, :, None]
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def _inked(rng: np.random.Generator, distance: Grid) -> UInt8[np.ndarray, "count side side"]:
    """Pixels by the part of them that lies inside, in brightnesses that make up for how much that is."""
    covered = np.clip(0.5 - distance, 0, 1)
    level = rng.uniform(0.85, 1.15, len(covered)) * _INK / covered.sum((1, 2))
    return np.rint(covered * np.minimum(level, 255)[:, None, None]).astype(np.uint8)


# ---------------------------------------------------------------------------------------------- images
def make_cases(split: str, count: int, plan: Plan, seed: int) -> list[Case]:
    """The images of one split, rendered where they are read; deterministic from the seed.

    Half of the answers are 1, give or take one.

    Raises:
        ValueError: the strokes do not find room.
    """
    rng = np.random.default_rng((seed, SPLITS.index(split)))
    glyphs = [draw_glyphs(rng, shape, _VARIANTS) for shape in SHAPES[: plan.shapes]]
    patterns = np.concatenate([*glyphs, draw_strokes(rng, _STROKES)])
    boxes = _boxes(patterns > 0)
    targets = rng.permutation(np.arange(count) % 2)
    corners = _place(rng, count, plan)
    kinds = _choose_shapes(rng, targets, corners, plan)
    drawn = kinds * _VARIANTS + rng.integers(_VARIANTS, size=kinds.shape)
    noise = plan.shapes * _VARIANTS + rng.integers(_STROKES, size=(count, plan.strokes))
    index = np.concatenate([drawn, noise], 1).astype(np.int32)
    marks = (boxes[drawn] + corners[:, :2, None]).astype(np.float32)
    key, shape = ("relations", split, count, seed, plan), (plan.size, plan.size)
    cases = []
    for number in range(count):
        name = f"{split}-{number:05d}"
        source = SpriteSource(shape, patterns, index[number], corners[number], (key, number), name)
        cases.append(Case(name, name, source, int(targets[number]), split, marks[number]))
    return cases


def _choose_shapes(
    rng: np.random.Generator, targets: Int[np.ndarray, " image"], corners: np.ndarray, plan: Plan
) -> Int[np.ndarray, "image 2"]:
    """The shapes of both glyphs, as numbers: equal or not, or the ring and the cross in the order asked for."""
    if plan.target == "left":
        first_is_left = corners[:, 0, 1] < corners[:, 1, 1]
        first = (first_is_left != (targets == 1)).astype(np.int64)  # 0, the ring, where it lies as the target says
        return np.stack([first, 1 - first], 1)
    first = rng.integers(plan.shapes, size=len(targets))
    other = (first + rng.integers(1, plan.shapes, size=len(targets))) % plan.shapes
    return np.stack([first, np.where(targets == 1, first, other)], 1)


def _place(rng: np.random.Generator, images: int, plan: Plan) -> Int[np.ndarray, "image sprite 2"]:
    """Corners of squares that do not overlap, anywhere in the image; the first two are the glyphs'."""
    corners = np.zeros((images, 2 + plan.strokes, 2), np.int32)
    for sprite in range(corners.shape[1]):
        todo = np.arange(images)
        for _ in range(_REDRAWS):
            corners[todo, sprite] = rng.integers(0, plan.size - SIDE + 1, (len(todo), 2))
            todo = todo[_too_near(corners[todo, :sprite], corners[todo, sprite], plan)]
            if not len(todo):
                break
        else:
            raise ValueError(
                f"{plan.strokes} strokes do not find room in {plan.size} x {plan.size} pixels. Ask for fewer, or for a "
                "larger image."
            )
    swapped = rng.random(images) < 0.5  # the second glyph had the first to avoid, which must not tell them apart
    corners[swapped, :2] = corners[swapped, 1::-1]
    return corners


def _too_near(
    before: Int[np.ndarray, "image sprite 2"], corner: Int[np.ndarray, "image 2"], plan: Plan
) -> Bool[np.ndarray, " image"]:
    """Which images' newest square is too near one of those before."""
    away = np.abs(before - corner[:, None])
    second = before.shape[1] == 1
    near = (away.max(-1) < (APART if second else SIDE)).any(-1)
    if second and plan.target == "left":
        near |= away[:, 0, 1] < APART_LEFT
    return near


def _boxes(drawn: Bool[np.ndarray, "pattern side side"]) -> Int[np.ndarray, "pattern 2 2"]:
    """Low and high corners of what is drawn."""
    sides = []
    for axis in (2, 1):
        along = np.asarray(drawn.any(axis))
        sides.append(np.stack([along.argmax(1), SIDE - along[:, ::-1].argmax(1)], 1))
    return np.stack(sides, 2)


NUMBERS = MappingProxyType({"train": 16_000, "val": 500, "test": 1000})
"""Images per split where nothing else is said."""


def load_relations(
    target: Literal["match", "left"] = "match",
    *,
    n: Mapping[str, int] = NUMBERS,
    size: int = 512,
    shapes: int = 8,
    strokes: int = 12,
    seed: int = 0,
) -> Cohort:
    """Lays out the images of all splits; they are rendered where they are read.

    Args:
        target: "match" (1 where both glyphs have one shape) or "left" (1 where the ring lies left of the cross); see
            `glimpse.synthetic.glyphs.relations` for what pooling can make of them.
        n: images per split; by default 16,000 train, 500 val and 1,000 test.
        size: side of an image, 256 to 10,000 pixels.
        shapes: how many different ones there are, 2 to 8; "left" takes the first two.
        strokes: number of noise strokes.
        seed: of the images.

    Raises:
        CohortError: the numbers do not go together.
    """
    try:
        numbers, plan = numbers_of(n, NUMBERS), Plan(size, shapes, strokes, target)
        parts = [make_cases(split, numbers[split], plan, seed) for split in NUMBERS]
    except ValueError as error:
        raise CohortError(str(error)) from error
    return Cohort([case for part in parts for case in part])
