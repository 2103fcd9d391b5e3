"""Environments on registered modalities: `gymnasium.make("glimpse/Ultrasound-v0", cohort="cohort.csv")`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from glimpse.cohort import Case, Cohort, CohortError
from glimpse.envs.base import GlimpseEnv
from glimpse.envs.building import Extents, Size, build_views, cases_of
from glimpse.modalities import Modality, find_modality
from glimpse.settings.building import build
from glimpse.tasks import Task


def make_modality(
    cohort: str | os.PathLike[str] | Cohort | Sequence[Case] | None = None,
    split: str | None = "train",
    *,
    modality: str,
    task: Task | None = None,
    overview_size: Size | None = None,
    glimpse_size: Size | None = None,
    glimpse_extents: Extents | None = None,
    max_glimpses: int | None = None,
    glimpse_cost: float | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    shuffle: bool = True,
    render_mode: str | None = None,
) -> GlimpseEnv:
    """Makes an environment on a registered modality; None stands for what was said when it was registered.

    Args:
        cohort: path of a cohort's CSV, or what was loaded from one, or a list of cases; None makes (once) and takes
            the modality's synthetic cohort.
        split: "train", "val" or "test"; None takes all cases.
        modality: its name.
        task: what an answer is.
        overview_size: pixels of the overview; one number, or one per axis.
        glimpse_size: pixels of a glimpse, likewise.
        glimpse_extents: fields of view: level-0 pixels (128) or a physical size ("8mm"); the action chooses among
            several.
        max_glimpses: budget of an episode.
        glimpse_cost: what a glimpse costs, in units of the score.
        on_error: with "skip", broken images of a CSV are left out with a warning; with "raise" they are an error.
        seed: of the split, where the CSV has none.
        shuffle: whether cases come in random order.
        render_mode: None or "rgb_array".

    Raises:
        ModalityError: there is no such modality.
        CohortError: the CSV has problems (all are listed), or there is neither a CSV nor a synthetic cohort.
        ValueError: the split is empty, or sizes do not fit the images.
    """
    known = find_modality(modality)
    task = task or build(dict(known.task))
    if cohort is None or isinstance(cohort, (str, os.PathLike)):
        cohort = load_modality(modality, cohort, task, on_error, seed)
    cases = cases_of(cohort, split)
    if not len(cases):
        raise ValueError(f"Expected at least one case of {modality}, got none; is the split {split!r} empty?")
    sizes = (overview_size, known.overview_size), (glimpse_size, known.glimpse_size)
    overview, glimpse = (default if size is None else size for size, default in sizes)
    extents = known.glimpse_extents if glimpse_extents is None else glimpse_extents
    return GlimpseEnv(
        cases,
        task,
        build_views(cases[0].source.ndim, overview, glimpse, extents),
        max_glimpses=known.max_glimpses if max_glimpses is None else max_glimpses,
        glimpse_cost=known.glimpse_cost if glimpse_cost is None else glimpse_cost,
        shuffle=shuffle,
        render_mode=render_mode,
    )


def load_modality(
    modality: str,
    path: str | os.PathLike[str] | None = None,
    task: Task | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    synthetic: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Cohort:
    """Loads a cohort of a registered modality.

    Args:
        modality: its name; its source is asked first, so that files of a suffix that others read, too, are its own.
        path: of the cohort's CSV; None makes and loads the modality's synthetic cohort.
        task: what an answer is; the modality's own when not given.
        on_error: with "skip", broken images are left out with a warning; with "raise" they are an error.
        seed: of the split, where the CSV has none.
        options: of the source; the modality's own when not given.
        synthetic: options of the maker of synthetic cohorts, such as `n` and `size`.
        progress: whether to show a bar while files are checked.

    Raises:
        ModalityError: there is no such modality.
        CohortError: the CSV has problems (all are listed), or there is neither a CSV nor a synthetic cohort.
    """
    known = find_modality(modality)
    if path is None:
        path = _made(known, synthetic or {})
    settings = {"reader": modality, **(known.options if options is None else options)}
    task = task or build(dict(known.task))
    return Cohort.from_csv(path, task, on_error=on_error, seed=seed, source_options=settings, progress=progress)


def _made(modality: Modality, options: Mapping[str, Any]) -> Any:
    if modality.synthetic is None:
        raise CohortError(
            f"{modality.name}: which images? Give the CSV of a cohort: env.cohort.path=cohort.csv on the command line, "
            "or cohort='cohort.csv' in gymnasium.make. This modality has no synthetic ones."
        )
    return modality.synthetic(**options)
