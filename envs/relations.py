"""Environments whose answers lie in how two glyphs relate: `gymnasium.make("glimpse/Relations-v0")`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from glimpse.cohort import Case, Cohort, CohortError
from glimpse.envs.base import GlimpseEnv
from glimpse.envs.building import Extents, Size, build_views, cases_of
from glimpse.synthetic.glyphs.relations import Plan, make_cases
from glimpse.tasks import Classification, Task

NUMBERS = {"train": 16000, "val": 500, "test": 1000}


def load_relations(
    target: Literal["match", "left"] = "match",
    *,
    n: Mapping[str, int] | None = None,
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
    numbers = NUMBERS | dict(n or {})
    try:
        plan = Plan(size, shapes, strokes, target)
        parts = [make_cases(split, int(numbers[split]), plan, seed) for split in NUMBERS]
    except ValueError as error:
        raise CohortError(str(error)) from error
    return Cohort([case for part in parts for case in part])


def make_relations(
    cohort: Cohort | Sequence[Case] | None = None,
    split: str | None = "train",
    *,
    target: Literal["match", "left"] = "match",
    task: Task | None = None,
    overview_size: Size = 64,
    glimpse_size: Size = 32,
    glimpse_extents: Extents = (64,),
    max_glimpses: int = 8,
    glimpse_cost: float = 0.0,
    shuffle: bool = True,
    render_mode: str | None = None,
    **images: Any,
) -> GlimpseEnv:
    """Makes an environment on two glyphs among noise strokes.

    Args:
        cohort: what `load_relations` gave; None makes it.
        split: "train", "val" or "test"; None takes all cases.
        target: what is asked, where `cohort` is None; see `load_relations`.
        task: what an answer is; None is a classification into two classes.
        overview_size: pixels of the overview.
        glimpse_size: pixels of a glimpse.
        glimpse_extents: fields of view in level-0 pixels; up to 64, no glimpse shows both glyphs.
        max_glimpses: budget of an episode.
        glimpse_cost: what a glimpse costs, in units of the score.
        shuffle: whether cases come in random order.
        render_mode: None or "rgb_array".
        **images: what the images are like, where `cohort` is None: options of `load_relations`.

    Raises:
        CohortError: the cohort is None and its numbers do not go together.
        ValueError: there are no cases, or sizes do not fit the images.
    """
    return GlimpseEnv(
        cases_of(load_relations(target, **images) if cohort is None else cohort, split),
        task or Classification(2),
        build_views(2, overview_size, glimpse_size, glimpse_extents),
        max_glimpses=max_glimpses,
        glimpse_cost=glimpse_cost,
        shuffle=shuffle,
        render_mode=render_mode,
    )
