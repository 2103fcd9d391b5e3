"""Cluttered translated MNIST: a digit somewhere among pieces of other digits.

Mnih, Heess, Graves, Kavukcuoglu: Recurrent Models of Visual Attention (NeurIPS 2014): a digit on 60 x 60 or 100 x 100
pixels, with four pieces of 8 x 8 pixels.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Int

from glimpse.cohort import Case, Cohort
from glimpse.settings.options import at_least
from glimpse.sources.drawn.collage import CollageSource
from glimpse.synthetic.glyphs.megapixel_mnist import SIDE, cohort_of, read_digits

SPLITS = ("train", "val", "test")
PIECE = 8  # side of a piece of clutter
_LARGEST = 512  # an image is painted whole for every read


@dataclass(frozen=True)
class Plan:
    """How images look.

    Attributes:
        size: side of an image in pixels.
        clutter: number of pieces of other digits.
    """

    size: int = 60
    clutter: int = 4

    def __post_init__(self) -> None:
        at_least("env.cohort.size", self.size, SIDE, whole=True, most=_LARGEST)
        at_least("env.cohort.clutter", self.clutter, 0, whole=True)


def make_cases(root: str | Path | None, split: str, count: int, plan: Plan, seed: int) -> list[Case]:
    """The images of one split, painted where they are read; deterministic from the seed.

    Every digit of the split is drawn as often as any other, give or take one; each time in another place and among
    other clutter, so that there may be more images than digits.

    Raises:
        CohortError: the folder is not given or lacks a file.
    """
    images, labels = read_digits(root, split)
    digits = images.copy()  # not a view, which would keep the digits of the other split
    rng = np.random.default_rng((seed, SPLITS.index(split)))
    pieces = _draw_pieces(rng, len(digits), count, plan)
    low = pieces[:, :1, 4:].astype(np.float32)
    marks = np.stack([low, low + SIDE], 2)
    targets = labels[pieces[:, 0, 0]].tolist()
    key = ("cluttered", str(root), split, count, seed, plan)
    cases = []
    for number in range(count):
        name = f"{split}-{number:06d}"
        source = CollageSource((plan.size, plan.size), digits, pieces[number], (key, number), name)
        cases.append(Case(name, name, source=source, target=targets[number], split=split, marks=marks[number]))
    return cases


def _draw_pieces(rng: np.random.Generator, digits: int, count: int, plan: Plan) -> Int[np.ndarray, "image piece 6"]:
    """Which pixels of which digits lie where (see `CollageSource`): first the digit itself, then the clutter."""
    pieces = np.zeros((count, 1 + plan.clutter, 6), np.int32)
    rounds = [rng.permutation(digits) for _ in range(-(-count // digits))]
    own = np.concatenate([np.zeros(0, np.int64), *rounds])[:count]
    shape = (count, plan.clutter)
    pieces[:, 0, 0], pieces[:, 0, 3] = own, SIDE
    pieces[:, 0, 4:] = rng.integers(0, plan.size - SIDE + 1, (count, 2))
    pieces[:, 1:, 0] = (own[:, None] + rng.integers(1, max(digits, 2), shape)) % digits  # never the digit itself
    pieces[:, 1:, 1:3] = rng.integers(0, SIDE - PIECE + 1, (*shape, 2))
    pieces[:, 1:, 3] = PIECE
    pieces[:, 1:, 4:] = rng.integers(0, plan.size - PIECE + 1, (*shape, 2))
    return pieces


NUMBERS = MappingProxyType({"train": 50_000, "val": 2000, "test": 10_000})
"""Images per split where nothing else is said."""


def load_cluttered_mnist(
    root: str | os.PathLike[str] | None = None,
    *,
    n: Mapping[str, int] = NUMBERS,
    size: int = 60,
    clutter: int = 4,
    seed: int = 0,
) -> Cohort:
    """Draws the images of all splits; they are painted where they are read.

    Args:
        root: folder of the MNIST files, gzipped or plain; None takes the variable GLIMPSE_MNIST.
        n: images per split; by default 50,000 train, 2,000 val and 10,000 test. The 55,000 digits for training are
            drawn several times where more images are asked for, each time in another place.
        size: side of an image in pixels, 60 or 100 in the paper.
        clutter: number of pieces of other digits.
        seed: of the images.

    Raises:
        CohortError: files are missing, or the numbers do not go together.
    """

    def laid_out(folder: str | None) -> Callable[[str, int], list[Case]]:
        plan = Plan(size, clutter)
        return lambda split, count: make_cases(folder, split, count, plan, seed)

    return cohort_of(root, n, NUMBERS, laid_out)
