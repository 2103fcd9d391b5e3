"""Environments on megapixel MNIST: `gymnasium.make("glimpse/MegapixelMNIST-v0", root="mnist")`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from glimpse.cohort import Case, Cohort, CohortError
from glimpse.envs.base import GlimpseEnv
from glimpse.envs.building import Extents, Size, build_views, cases_of
from glimpse.synthetic.glyphs.megapixel_mnist import TARGETS, Plan, make_cases
from glimpse.tasks import Classification, MultiLabel, MultiTask, Task

NUMBERS = {"train": 5000, "val": 500, "test": 1000}


def mnist_task(targets: str | Sequence[str] = "majority") -> Task:
    """What is asked: "majority", "max", "top" (ten classes each), "multi" (which digits are there), or several.

    Args:
        targets: one of them, a list of them, or "all".

    Raises:
        CohortError: a target is none of these.
    """
    names = target_names(targets)
    return _single(names[0]) if len(names) == 1 else MultiTask({name: _single(name) for name in names})


def _single(name: str) -> Task:
    return MultiLabel(10) if name == "multi" else Classification(10)


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
    n: Mapping[str, int] | None = None,
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
    folder = os.fspath(root) if root is not None else os.environ.get("GLIMPSE_MNIST")
    numbers = NUMBERS | dict(n or {})
    try:
        plan = Plan(size, digit_size, noise, thickness)
        parts = [make_cases(folder, split, int(numbers[split]), plan, target_names(targets), seed) for split in NUMBERS]
    except ValueError as error:
        raise CohortError(str(error)) from error
    return Cohort([case for part in parts for case in part])


def make_megapixel_mnist(
    cohort: Cohort | Sequence[Case] | None = None,
    split: str | None = "train",
    *,
    root: str | os.PathLike[str] | None = None,
    targets: str | Sequence[str] = "majority",
    task: Task | None = None,
    overview_size: Size = 188,
    glimpse_size: Size = 32,
    glimpse_extents: Extents = (64,),
    max_glimpses: int = 12,
    glimpse_cost: float = 0.0,
    shuffle: bool = True,
    render_mode: str | None = None,
    **images: Any,
) -> GlimpseEnv:
    """Makes an environment on megapixel MNIST.

    Args:
        cohort: what `load_megapixel_mnist` gave; None loads it from `root`.
        split: "train", "val" or "test"; None takes all cases.
        root: folder of the MNIST files; None takes the variable GLIMPSE_MNIST.
        targets: see `mnist_task`.
        task: what an answer is; None is the task of the targets.
        overview_size: pixels of the overview.
        glimpse_size: pixels of a glimpse.
        glimpse_extents: fields of view in level-0 pixels.
        max_glimpses: budget of an episode.
        glimpse_cost: what a glimpse costs, in units of the score.
        shuffle: whether cases come in random order.
        render_mode: None or "rgb_array".
        **images: what the images are like, where `cohort` is None: options of `load_megapixel_mnist`.
    """
    return GlimpseEnv(
        cases_of(load_megapixel_mnist(root, targets=targets, **images) if cohort is None else cohort, split),
        task or mnist_task(targets),
        build_views(2, overview_size, glimpse_size, glimpse_extents),
        max_glimpses=max_glimpses,
        glimpse_cost=glimpse_cost,
        shuffle=shuffle,
        render_mode=render_mode,
    )
