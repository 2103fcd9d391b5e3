"""Environments on whole-slide images: `gymnasium.make("glimpse/WSI-v0", cohort="cohort.csv")`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from glimpse.cohort import Case, Cohort
from glimpse.envs.base import GlimpseEnv
from glimpse.envs.building import Extents, Size, build_views
from glimpse.tasks import Classification, Task


def make_wsi(
    cohort: str | os.PathLike[str] | Cohort | Sequence[Case] | None = None,
    split: str | None = "train",
    *,
    task: Task | None = None,
    overview_size: Size = 256,
    glimpse_size: Size = 64,
    glimpse_extents: Extents = (128,),
    max_glimpses: int = 12,
    glimpse_cost: float = 0.01,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    shuffle: bool = True,
    render_mode: str | None = None,
) -> GlimpseEnv:
    """Makes an environment on slides.

    Args:
        cohort: Path of a cohort's CSV, or what was loaded from one; None makes (once) and takes synthetic slides.
        split: "train", "val" or "test"; None takes all cases.
        task: What an answer is; None is a classification into two classes.
        overview_size: Pixels of the overview; one number, or one per axis.
        glimpse_size: Pixels of a glimpse, likewise.
        glimpse_extents: Fields of view: level-0 pixels (128) or a physical size ("64um"); the action chooses among
            several.
        max_glimpses: Budget of an episode.
        glimpse_cost: What a glimpse costs, in units of the score.
        on_error: With "skip", broken slides of a CSV are left out with a warning; with "raise" they are an error.
        seed: Of the split, where the CSV has none.
        shuffle: Whether cases come in random order.
        render_mode: None or "rgb_array".

    Raises:
        CohortError: The CSV has problems; all are listed.
        ValueError: The split is empty, or sizes do not fit the slides.
    """
    task = task or Classification(2)
    cases = _cases(cohort, split, task, on_error, seed)
    return GlimpseEnv(
        cases,
        task,
        build_views(2, overview_size, glimpse_size, glimpse_extents),
        max_glimpses=max_glimpses,
        glimpse_cost=glimpse_cost,
        shuffle=shuffle,
        render_mode=render_mode,
    )


def _cases(
    cohort: str | os.PathLike[str] | Cohort | Sequence[Case] | None,
    split: str | None,
    task: Task,
    on_error: Literal["raise", "skip"],
    seed: int,
) -> Sequence[Case]:
    if cohort is None:
        from glimpse.synthetic.slides import embedded_cohort  # makes pictures: only where they are wanted

        cohort = embedded_cohort()
    if isinstance(cohort, (str, os.PathLike)):
        cohort = Cohort.from_csv(cohort, task, on_error=on_error, seed=seed)
    if isinstance(cohort, Cohort):
        return cohort if split is None else cohort.split(split)  # type: ignore[arg-type]
    return cohort if split is None else [case for case in cohort if case.split == split]
