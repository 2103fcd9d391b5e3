"""Megapixel MNIST: a few digits and many noise strokes on a large empty canvas.

Katharopoulos and Fleuret (ICML 2019); the four targets are those of IPS (Bergner, Lippert, Mahendran, ICLR 2023).
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from glimpse.cohort import Case, Cohort, CohortError
from glimpse.settings.options import at_least
from glimpse.sources.array import ArraySource
from glimpse.sources.drawn.sprites import SpriteSource
from glimpse.synthetic.glyphs.idx import read_idx
from glimpse.synthetic.glyphs.numbers import numbers_of

SIDE = 28  # of a digit in the files
DIGITS, MAJORITY = 5, 3
STROKES = 4096  # different noise strokes per split
_HELD_OUT = 5000  # training digits that only validation images show
_REDRAWS = 1000
_FILES = {
    "train": ("train-images", "train-labels"),
    "val": ("train-images", "train-labels"),
    "test": ("t10k-images", "t10k-labels"),
}
TARGETS = ("majority", "max", "top", "multi")


@dataclass(frozen=True)
class Plan:
    """How images look.

    Attributes:
        size: side of an image in pixels.
        digit_size: side of a digit, and of the square that a stroke lies in.
        noise: number of strokes.
        thickness: of a stroke, in pixels of a 28 x 28 square.
    """

    size: int = 1500
    digit_size: int = 28
    noise: int = 50
    thickness: int = 2

    def __post_init__(self) -> None:
        at_least("env.cohort.digit_size", self.digit_size, 7, whole=True, most=SIDE)
        at_least("env.cohort.size", self.size, self.digit_size, whole=True, most=10_000)
        at_least("env.cohort.noise", self.noise, 0, whole=True)
        at_least("env.cohort.thickness", self.thickness, 1, whole=True, most=8)


def read_digits(root: str | Path | None, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Digits (n, 28, 28) and classes (n,) that the images of a split may show; no digit serves two splits.

    Raises:
        CohortError: the folder is not given or lacks a file.
    """
    if root is None:
        raise CohortError(
            "Where is MNIST? Give its folder with env.root=<folder>, or in the variable GLIMPSE_MNIST. " + _HINT
        )
    images, labels = (
        read_idx(_find(Path(root), name, kind)) for name, kind in zip(_FILES[split], ("idx3", "idx1"), strict=True)
    )
    if images.shape[1:] != (SIDE, SIDE) or len(images) != len(labels):
        raise CohortError(f"{root}: expected as many 28 x 28 images as labels, got {images.shape} and {labels.shape}.")
    if split == "test":
        return images, labels
    held_out = min(_HELD_OUT, len(images) // 6)
    part = slice(len(images) - held_out, None) if split == "val" else slice(len(images) - held_out)
    return images[part], labels[part]


_HINT = (
    "It holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, "
    "plain or as .gz (for example from https://ossci-datasets.s3.amazonaws.com/mnist/)."
)


def _find(root: Path, name: str, kind: str) -> Path:
    for spelling in (f"{name}-{kind}-ubyte", f"{name}.{kind}-ubyte"):
        for suffix in ("", ".gz"):
            if (root / (spelling + suffix)).is_file():
                return root / (spelling + suffix)
    raise CohortError(f"{root}: no file {name}-{kind}-ubyte or {name}-{kind}-ubyte.gz in this folder. {_HINT}")


def cohort_of(
    root: str | os.PathLike[str] | None,
    given: Any,
    usual: Mapping[str, int],
    laid_out: Callable[[str | None], Callable[[str, int], list[Case]]],
) -> Cohort:
    """Returns a cohort of drawn images of all splits.

    Args:
        root: folder of the MNIST files; None takes the variable GLIMPSE_MNIST.
        given: images per split, as `env.cohort.n` gives them.
        usual: images per split where nothing is given.
        laid_out: takes the folder, and returns a function of a split and a number of images that makes its cases.

    Raises:
        CohortError: files are missing, or the numbers do not go together.
    """
    folder = os.fspath(root) if root is not None else os.environ.get("GLIMPSE_MNIST")
    try:
        numbers, make = numbers_of(given, usual), laid_out(folder)
        return Cohort([case for split in _FILES for case in make(split, numbers[split])])
    except ValueError as error:
        raise CohortError(str(error)) from error


def draw_strokes(rng: np.random.Generator, count: int, thickness: int) -> np.ndarray:
    """Straight strokes across a 28 x 28 square, uint8 (count, 28, 28): bright, with a softer flank."""
    strokes = np.zeros((count, SIDE, SIDE), np.uint8)
    angle, start = rng.uniform(0, math.pi, (count, 1)), rng.integers(2, SIDE - 2, (count, 2))
    along, which = np.linspace(-SIDE / 2, SIDE / 2, 60), np.arange(count)[:, None]
    y = np.clip(start[:, :1] + along * np.sin(angle), 0, SIDE - 1).astype(int)
    x = np.clip(start[:, 1:] + along * np.cos(angle), 0, SIDE - 1).astype(int)
    strokes[which, y, x] = 255
    for offset in range(1, thickness):
        strokes[which, np.clip(y + offset, 0, SIDE - 1), x] = 200
    return strokes


def place(rng: np.random.Generator, images: int, sprites: int, size: int, side: int) -> np.ndarray:
    """Corners (images, sprites, 2) of squares that do not overlap, anywhere in the image.

    Raises:
        ValueError: they do not fit, or so tightly that drawing places at random does not find them.
    """
    corners = np.zeros((2, sprites, images), np.int32)
    for sprite in range(sprites):
        todo = np.arange(images)
        for _ in range(_REDRAWS):
            corners[:, sprite, todo] = rng.integers(0, size - side + 1, (len(todo), 2)).T
            rows, columns = (np.abs(axis[:sprite, todo] - axis[sprite, todo]) < side for axis in corners)
            todo = todo[(rows & columns).any(0)]
            if not len(todo):
                break
        else:
            raise ValueError(
                f"{sprites} squares of {side} pixels do not find room in {size} x {size} pixels. Ask for less noise, "
                "smaller digits or a larger image."
            )
    return np.ascontiguousarray(corners.transpose(2, 1, 0))


def make_cases(
    root: str | Path | None, split: str, count: int, plan: Plan, targets: Sequence[str], seed: int
) -> list[Case]:
    """The images of one split, rendered where they are read; deterministic from the seed."""
    images, labels = read_digits(root, split)
    rng = np.random.default_rng((seed, ("train", "val", "test").index(split)))
    patterns = resized(np.concatenate([images, draw_strokes(rng, STROKES, plan.thickness)]), plan.digit_size)
    chosen, classes = choose_digits(rng, labels, count)
    corners = place(rng, count, DIGITS + plan.noise, plan.size, plan.digit_size)
    strokes = len(images) + rng.integers(STROKES, size=(count, plan.noise))
    index = np.concatenate([chosen, strokes], 1).astype(np.int32)
    key = (str(root), split, seed, plan)
    cases = []
    for number in range(count):
        name = f"{split}-{number:05d}"
        shape = (plan.size, plan.size)
        source = SpriteSource(shape, patterns, index[number], corners[number], ("megapixel", key, number), name)
        low = corners[number, :DIGITS].astype(np.float64)
        marks = np.stack([low, low + plan.digit_size], 1)
        target = targets_of(classes[number], low[:, 0], targets)
        cases.append(Case(name, name, source=source, target=target, split=split, marks=marks))
    return cases


def choose_digits(rng: np.random.Generator, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which digits each image shows, and their classes, (count, 5): three of one class, two of two others.

    Args:
        rng: Random numbers.
        labels: The classes of the digits to choose from.
        count: Number of images.
    """
    others = np.argsort(rng.random((count, 10)), 1)[:, :3]
    classes = np.concatenate([others[:, :1].repeat(MAJORITY, 1), others[:, 1:]], 1)
    members = [np.flatnonzero(labels == digit) for digit in range(10)]
    draws = rng.random(classes.shape)
    chosen = np.zeros(classes.shape, np.int64)
    for digit, those in enumerate(members):
        here = classes == digit
        chosen[here] = those[(draws[here] * len(those)).astype(int)]
    return chosen, classes


def targets_of(classes: np.ndarray, rows: np.ndarray, targets: Sequence[str]) -> Any:
    """The targets of an image, by the classes (digit,) of its digits and the rows in which they lie."""
    known: Mapping[str, Any] = {
        "majority": int(classes[0]),
        "max": int(classes.max()),
        "top": int(classes[rows.argmin()]),
        "multi": np.isin(np.arange(10), classes).astype(np.int64),
    }
    return known[targets[0]] if len(targets) == 1 else {target: known[target] for target in targets}


def resized(patterns: np.ndarray, side: int) -> np.ndarray:
    """Patterns, uint8 (pattern, 28, 28), at another size: reduced by area, or enlarged by linear interpolation."""
    if side == SIDE:
        return patterns
    if side < SIDE:
        stacked = ArraySource(np.ascontiguousarray(patterns))  # channels are patterns
        return stacked.overview((side, side))
    parts = torch.from_numpy(np.ascontiguousarray(patterns)).split(4096)
    made = [F.interpolate(part[:, None].float(), size=(side, side), mode="bilinear") for part in parts]
    return torch.cat([part[:, 0].round().byte() for part in made]).numpy()


NUMBERS = MappingProxyType({"train": 5000, "val": 500, "test": 1000})
"""Images per split where nothing else is said."""


def target_names(targets: str | Sequence[str]) -> tuple[str, ...]:
    """The targets asked for, by name."""
    names = TARGETS if targets == "all" else (targets,) if isinstance(targets, str) else tuple(targets)
    if not names or any(name not in TARGETS for name in names):
        raise CohortError(f"Expected targets of {', '.join(TARGETS)}, or all; got {targets!r}.")
    return names


def load_megapixel_mnist(
    root: str | os.PathLike[str] | None = None,
    *,
    targets: str | Sequence[str] = "majority",
    n: Mapping[str, int] = NUMBERS,
    size: int = 1500,
    digit_size: int = 28,
    noise: int = 50,
    thickness: int = 2,
    seed: int = 0,
) -> Cohort:
    """Lays out the images of all splits; they are rendered where they are read.

    Args:
        root: folder of the MNIST files, gzipped or plain; None takes the variable GLIMPSE_MNIST.
        targets: see `mnist_task`.
        n: images per split; by default 5,000 train, 500 val and 1,000 test.
        size: side of an image, up to 10,000 pixels.
        digit_size: side of a digit: 28 as in the files, or smaller (21, 14).
        noise: number of strokes.
        thickness: of a stroke.
        seed: of the images.

    Raises:
        CohortError: files are missing, or the numbers do not go together.
    """

    def laid_out(folder: str | None) -> Callable[[str, int], list[Case]]:
        plan, names = Plan(size, digit_size, noise, thickness), target_names(targets)
        return lambda split, count: make_cases(folder, split, count, plan, names, seed)

    return cohort_of(root, n, NUMBERS, laid_out)
