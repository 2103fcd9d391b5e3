"""Environments on whole-slide images: `gymnasium.make("glimpse/WSI-v0", cohort="cohort.csv")`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from glimpse.cohort import Case, Cohort
from glimpse.envs.base import GlimpseEnv
from glimpse.envs.building import Extents, Size, build_views, cases_of
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
    if cohort is None or isinstance(cohort, (str, os.PathLike)):
        cohort = load_cohort(cohort, task, on_error, seed)
    return GlimpseEnv(
        cases_of(cohort, split),
        task,
        build_views(2, overview_size, glimpse_size, glimpse_extents),
        max_glimpses=max_glimpses,
        glimpse_cost=glimpse_cost,
        shuffle=shuffle,
        render_mode=render_mode,
    )


def load_cohort(
    path: str | os.PathLike[str] | None = None,
    task: Task | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    synthetic: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Cohort:
    """Loads a cohort of slides.

    Args:
        path: Of its CSV; None makes (once) and loads synthetic slides.
        task: What an answer is; None is a classification into two classes.
        on_error: With "skip", broken slides are left out with a warning; with "raise" they are an error.
        seed: Of the split, where the CSV has none.
        synthetic: Options of `glimpse.synthetic.slides.recipe.embedded_cohort`, such as `n` and `size`.
        progress: Whether to show a bar while files are checked.

    Raises:
        CohortError: The CSV has problems; all are listed.
    """
    if path is None:
        from glimpse.synthetic.slides.recipe import embedded_cohort  # makes pictures: only where they are wanted

        path = embedded_cohort(**synthetic or {})
    return Cohort.from_csv(path, task or Classification(2), on_error=on_error, seed=seed, progress=progress)
