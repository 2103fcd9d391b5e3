"""Needle MNIST: is there a 3 among the other digits that lie on a large empty canvas?

After Pawlowski, Bhooshan, Ballas, Ciompi, Glocker, Drozdzal: Needles in Haystacks: On Classifying Tiny Objects in Large
Images (2019). As there, digits keep their 28 pixels while the canvas grows, positive images have exactly one 3 and
negative ones none, and all other digits are clutter. There, the clutter is about as dense on every canvas (100 digits
on 512 x 512 pixels): `clutter=100 grows=true`. Here, its number is the same on every canvas where nothing else is said:
what grows is where a 3 may lie, not what has to be told from it.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Int

from glimpse.cohort import Case, Cohort
from glimpse.settings.kinds import check_kind
from glimpse.settings.options import at_least
from glimpse.sources.drawn.sprites import SpriteSource
from glimpse.synthetic.glyphs.megapixel_mnist import SIDE, cohort_of, read_digits
from glimpse.synthetic.glyphs.numbers import numbers_of

NEEDLE = 3
UNIT = 512  # side of the canvas that has `clutter` digits, where their number grows
_BYTES, _MOST_GIB = 16, 6.0  # of each digit, and of all together
NUMBERS = MappingProxyType({"train": 11_276, "val": 1972, "test": 4040})
"""Images per split where nothing else is said."""


@dataclass(frozen=True)
class Plan:
    """How images look.

    Attributes:
        size: side of an image in pixels.
        clutter: number of digits beside the one that is a 3 in positive images; none of them is a 3.
        grows: whether it is their number on 512 x 512 pixels only, and grows with the area.
    """

    size: int = 1024
    clutter: int = 25
    grows: bool = False

    def __post_init__(self) -> None:
        at_least("env.cohort.size", self.size, 2 * SIDE, whole=True, most=1_000_000)
        at_least("env.cohort.clutter", self.clutter, 0, whole=True)
        check_kind("env.cohort.grows", self.grows, bool)
        if self.block < SIDE:
            raise ValueError(
                f"{self.digits} digits of {SIDE} pixels do not find room in {self.size} x {self.size} pixels. Ask for "
                "less clutter or a larger image."
            )

    @property
    def digits(self) -> int:
        """Number of digits in an image: the clutter, and a 3 or one digit more of the others."""
        return 1 + round(self.clutter * ((self.size / UNIT) ** 2 if self.grows else 1))

    @property
    def blocks(self) -> int:
        """Number of blocks per side; there are twice as many blocks as digits, and one digit in a block at most."""
        return math.ceil(math.sqrt(2 * self.digits))

    @property
    def block(self) -> int:
        """Side of a block in pixels."""
        return self.size // self.blocks


def make_cases(root: str | Path | None, split: str, count: int, plan: Plan, seed: int) -> list[Case]:
    """The images of one split, rendered where they are read; deterministic from the seed.

    Every second image, in a random order, is positive. A negative one has another digit where the 3 would be, so that
    the number of digits tells nothing.

    Raises:
        CohortError: the folder is not given or lacks a file.
    """
    images, labels = read_digits(root, split)
    rng = np.random.default_rng((seed, 2, ("train", "val", "test").index(split)))
    needles, others = (np.flatnonzero(mask) for mask in (labels == NEEDLE, labels != NEEDLE))
    targets = rng.permutation(np.arange(count) % 2)
    key, cases = ("needle", str(root), split, seed, plan), []
    for number, target in enumerate(targets.tolist()):
        corners = _corners(rng, plan)
        shown = others[rng.integers(len(others), size=plan.digits)]
        if target:
            shown[0] = needles[rng.integers(len(needles))]
        name, low = f"{split}-{number:05d}", corners[: int(target)].astype(np.float64)
        source = SpriteSource(
            (plan.size, plan.size), images, shown.astype(np.int32), corners, (key, count, number), name, None
        )
        marks = np.stack([low, low + SIDE], 1)
        cases.append(Case(name, name, source=source, target=target, split=split, marks=marks))
    return cases


def _corners(rng: np.random.Generator, plan: Plan) -> Int[np.ndarray, "digit 2"]:
    """Draws the upper left corners of all digits: different blocks of a grid, and anywhere in each of them."""
    chosen = rng.choice(plan.blocks**2, plan.digits, replace=False)
    rest = plan.size - plan.blocks * plan.block
    origin = rng.integers(0, rest + 1, 2)
    within = rng.integers(0, plan.block - SIDE + 1, (plan.digits, 2))
    return (origin + np.stack(np.divmod(chosen, plan.blocks), 1) * plan.block + within).astype(np.int32)


def load_needle_mnist(
    root: str | os.PathLike[str] | None = None,
    *,
    n: Mapping[str, int] = NUMBERS,
    size: int = 1024,
    clutter: int = 25,
    grows: bool = False,
    seed: int = 0,
) -> Cohort:
    """Lays out the images of all splits; they are rendered where they are read. The target is 1 where there is a 3.

    Args:
        root: folder of the MNIST files, gzipped or plain; None takes the variable GLIMPSE_MNIST.
        n: images per split; by default 11,276 train, 1,972 val and 4,040 test.
        size: side of an image in pixels, up to 1,000,000.
        clutter: number of digits beside the one that is a 3 in positive images; none of them is a 3.
        grows: whether it is their number on 512 x 512 pixels only, and grows with the area. Each of them takes
            16 bytes.
        seed: of the images.

    Raises:
        CohortError: files are missing, or the numbers do not go together.
    """

    def laid_out(folder: str | None) -> Callable[[str, int], list[Case]]:
        plan = Plan(size, clutter, grows)
        held = sum(numbers_of(n, NUMBERS).values()) * plan.digits * _BYTES / 2**30
        if held > _MOST_GIB:
            raise ValueError(
                f"the places of all digits would take {held:.0f} GiB. Ask for fewer images or less clutter."
            )
        return lambda split, count: make_cases(folder, split, count, plan, seed)

    return cohort_of(root, n, NUMBERS, laid_out)
