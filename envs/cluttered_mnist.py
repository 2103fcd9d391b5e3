"""Environments on cluttered MNIST: `gymnasium.make("glimpse/ClutteredMNIST-v0", root="mnist")`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from glimpse.cohort import Case, Cohort, CohortError
from glimpse.envs.base import GlimpseEnv
from glimpse.envs.building import Extents, Size, build_views, cases_of
from glimpse.synthetic.glyphs.cluttered_mnist import Plan, make_cases
from glimpse.tasks import Classification, Task

NUMBERS = {"train": 100_000, "val": 5000, "test": 10_000}


def load_cluttered_mnist(
    root: str | os.PathLike[str] | None = None,
    *,
    n: Mapping[str, int] | None = None,
    size: int = 60,
    clutter: int = 4,
    seed: int = 0,
) -> Cohort:
    """Draws the images of all splits; they are painted where they are read.

    Args:
        root: folder of the MNIST files, gzipped or plain; None takes the variable GLIMPSE_MNIST.
        n: images per split; by default 100,000 train, 5,000 val and 10,000 test. The 55,000 digits for training are
            drawn several times where more images are asked for, each time in another place.
        size: side of an image in pixels, 60 or 100 in the paper.
        clutter: number of pieces of other digits.
        seed: of the images.

    Raises:
        CohortError: files are missing, or the numbers do not go together.
    """
    folder = os.fspath(root) if root is not None else os.environ.get("GLIMPSE_MNIST")
    numbers = NUMBERS | dict(n or {})
    try:
        plan = Plan(size, clutter)
        parts = [make_cases(folder, split, int(numbers[split]), plan, seed) for split in NUMBERS]
    except ValueError as error:
        raise CohortError(str(error)) from error
    return Cohort([case for part in parts for case in part])


def make_cluttered_mnist(
    cohort: Cohort | Sequence[Case] | None = None,
    split: str | None = "train",
    *,
    root: str | os.PathLike[str] | None = None,
    task: Task | None = None,
    overview_size: Size | None = None,
    glimpse_size: Size = 12,
    glimpse_extents: Extents = (12,),
    max_glimpses: int = 8,
    glimpse_cost: float = 0.0,
    shuffle: bool = True,
    render_mode: str | None = None,
    **images: Any,
) -> GlimpseEnv:
    """Makes an environment on cluttered MNIST.

    Args:
        cohort: what `load_cluttered_mnist` gave; None loads it from `root`.
        split: "train", "val" or "test"; None takes all cases.
        root: folder of the MNIST files; None takes the variable GLIMPSE_MNIST.
        task: what an answer is; None is a classification into ten classes.
        overview_size: pixels of the overview; None is half the image's.
        glimpse_size: pixels of a glimpse.
        glimpse_extents: fields of view in level-0 pixels.
        max_glimpses: budget of an episode.
        glimpse_cost: what a glimpse costs, in units of the score.
        shuffle: whether cases come in random order.
        render_mode: None or "rgb_array".
        **images: what the images are like, where `cohort` is None: options of `load_cluttered_mnist`.

    Raises:
        CohortError: the cohort is None and cannot be loaded.
        ValueError: there are no cases, or sizes do not fit the images.
    """
    cases = cases_of(load_cluttered_mnist(root, **images) if cohort is None else cohort, split)
    if not len(cases):
        raise ValueError(f"Expected at least one case, got none in split {split!r}.")
    if overview_size is None:
        overview_size = [side // 2 for side in cases[0].source.shape]
    return GlimpseEnv(
        cases,
        task or Classification(10),
        build_views(2, overview_size, glimpse_size, glimpse_extents),
        max_glimpses=max_glimpses,
        glimpse_cost=glimpse_cost,
        shuffle=shuffle,
        render_mode=render_mode,
    )
