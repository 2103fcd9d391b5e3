"""Gigapixel MNIST: islands of strokes on a canvas of up to gigapixels, some of which hold the digits.

The foreground of an overview says where islands are, but not which of them hold digits; a wide view of an island shows
what is a digit rather than a stroke; which digit it is only a fine glimpse shows. So one has to zoom.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from glimpse.cohort import Case, Cohort
from glimpse.settings.options import at_least
from glimpse.sources.drawn.sprites import SpriteSource
from glimpse.synthetic.glyphs.megapixel_mnist import (
    DIGITS,
    STROKES,
    choose_digits,
    cohort_of,
    draw_strokes,
    read_digits,
    resized,
    target_names,
    targets_of,
)

_REDRAWS = 1000
_LEAST = {"size": 1, "islands": 1, "holding": 1, "strokes": 0, "digit_size": 8, "island_size": 1}
NUMBERS = MappingProxyType({"train": 4000, "val": 300, "test": 1000})
"""Images per split where nothing else is said."""


@dataclass(frozen=True)
class Plan:
    """How images look.

    Attributes:
        size: side of an image in pixels.
        islands: number of islands.
        holding: in how many of them the digits lie.
        strokes: number of strokes in each island.
        digit_size: side of a digit, and of the square that a stroke lies in.
        island_size: side of an island.
        thickness: of a stroke, in pixels of a 28 x 28 square.
    """

    size: int = 12_288
    islands: int = 10
    holding: int = 3
    strokes: int = 10
    digit_size: int = 48
    island_size: int = 320
    thickness: int = 2

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            at_least(f"env.cohort.{name}", getattr(self, name), least, whole=True)
        at_least("env.cohort.thickness", self.thickness, 1, whole=True, most=8)
        if not self.holding <= min(self.islands, DIGITS):
            raise ValueError(
                f"Expected env.cohort.holding from 1 to {min(self.islands, DIGITS)}, as there are {DIGITS} digits and "
                f"env.cohort.islands={self.islands}, got {self.holding}."
            )
        if not self.digit_size <= self.island_size:
            raise ValueError(
                f"Expected env.cohort.digit_size from 8 to island_size (env.cohort.island_size={self.island_size}), "
                f"got {self.digit_size}."
            )
        if not 4 * self.island_size <= self.size <= 1_000_000:
            raise ValueError(
                f"env.cohort.size must be from four islands (4 x {self.island_size} = {4 * self.island_size}, see "
                f"env.cohort.island_size) to 1000000, got {self.size}."
            )
        if self.islands * self.island_size**2 > self.size**2:
            raise ValueError(_no_room(self))


def make_cases(
    root: str | Path | None, split: str, count: int, plan: Plan, targets: Sequence[str], seed: int
) -> list[Case]:
    """The images of one split, rendered where they are read; deterministic from the seed."""
    images, labels = read_digits(root, split)
    rng = np.random.default_rng((seed, 1, ("train", "val", "test").index(split)))
    strokes = draw_strokes(rng, STROKES, plan.thickness)
    chosen, classes = choose_digits(rng, labels, count)
    used, index = np.unique(chosen, return_inverse=True)
    patterns = resized(np.concatenate([images[used], strokes]), plan.digit_size)
    key, cases = (str(root), split, seed, plan), []
    for number in range(count):
        corners = _corners(rng, plan)
        sprites = np.concatenate(
            [index.reshape(count, -1)[number], len(used) + rng.integers(STROKES, size=len(corners) - DIGITS)]
        )
        name, shape = f"{split}-{number:05d}", (plan.size, plan.size)
        # islands are too dark in an overview to be found by brightness, so all that has sprites is foreground
        source = SpriteSource(shape, patterns, sprites, corners, ("gigapixel", key, number), name, None)
        low = corners[:DIGITS].astype(np.float64)
        target = targets_of(classes[number], low[:, 0], targets)
        marks = np.stack([low, low + plan.digit_size], 1)
        cases.append(Case(name, name, source=source, target=target, split=split, marks=marks))
    return cases


def _corners(rng: np.random.Generator, plan: Plan) -> np.ndarray:
    """Draws the upper left corners of the digits, then of the strokes, int (sprite, 2)."""
    apart, reach = 2 * plan.island_size, plan.size - plan.island_size
    islands: list[np.ndarray] = []
    while len(islands) < plan.islands:
        for _ in range(_REDRAWS):
            corner = rng.integers(0, reach + 1, 2)
            if all(np.abs(corner - other).max() >= apart for other in islands):
                break
        else:
            raise ValueError(_no_room(plan))
        islands.append(corner)
    holds = [*range(plan.holding), *rng.integers(0, plan.holding, DIGITS - plan.holding)]
    held = [*rng.permutation(holds), *(number for number in range(plan.islands) for _ in range(plan.strokes))]
    taken: list[list[np.ndarray]] = [[] for _ in islands]
    corners = []
    for island in held:
        for _ in range(_REDRAWS):
            place = rng.integers(0, plan.island_size - plan.digit_size + 1, 2)
            if all(np.abs(place - other).max() >= plan.digit_size for other in taken[island]):
                break
        else:
            raise ValueError(
                f"an island of {plan.island_size} pixels has no room for all. Ask for fewer strokes "
                "(env.cohort.strokes)."
            )
        taken[island].append(place)
        corners.append(islands[island] + place)
    return np.array(corners, np.int32)


def _no_room(plan: Plan) -> str:
    sides = f"{plan.size} x {plan.size}"
    return f"{plan.islands} islands do not find room in {sides} pixels. Ask for fewer (env.cohort.islands)."


def load_gigapixel_mnist(
    root: str | os.PathLike[str] | None = None,
    *,
    targets: str | Sequence[str] = "majority",
    n: Mapping[str, int] = NUMBERS,
    size: int = 12_288,
    islands: int = 10,
    holding: int = 3,
    strokes: int = 10,
    digit_size: int = 48,
    island_size: int = 320,
    thickness: int = 2,
    seed: int = 0,
) -> Cohort:
    """Lays out the images of all splits; they are rendered where they are read, so any size costs the same.

    Args:
        root: folder of the MNIST files, gzipped or plain; None takes the variable GLIMPSE_MNIST.
        targets: as of `glimpse.envs.glyphs.mnist_task`.
        n: images per split; by default 4,000 train, 300 val and 1,000 test.
        size: side of an image, up to 1,000,000 pixels.
        islands: number of islands.
        holding: in how many of them the five digits lie.
        strokes: number of strokes in each island.
        digit_size: side of a digit.
        island_size: side of an island.
        thickness: of a stroke, in pixels of a 28 x 28 square.
        seed: of the images.

    Raises:
        CohortError: files are missing, or the numbers do not go together.
    """

    def laid_out(folder: str | None) -> Callable[[str, int], list[Case]]:
        plan = Plan(size, islands, holding, strokes, digit_size, island_size, thickness)
        names = target_names(targets)
        return lambda split, count: make_cases(folder, split, count, plan, names, seed)

    return cohort_of(root, n, NUMBERS, laid_out)
