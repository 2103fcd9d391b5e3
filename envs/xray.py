"""Environments on radiographs: `gymnasium.make("glimpse/XRay-v0", cohort="cohort.csv")`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from glimpse.cohort import Case, Cohort
from glimpse.envs.base import GlimpseEnv
from glimpse.envs.building import Extents, Size, build_views, cases_of
from glimpse.tasks import Classification, Task


def make_xray(
    cohort: str | os.PathLike[str] | Cohort | Sequence[Case] | None = None,
    split: str | None = "train",
    *,
    task: Task | None = None,
    window: int | Sequence[float] | None = None,
    spacing: float | Sequence[float] | None = None,
    overview_size: Size = 256,
    glimpse_size: Size = 96,
    glimpse_extents: Extents = (192,),
    max_glimpses: int = 8,
    glimpse_cost: float = 0.01,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    shuffle: bool = True,
    render_mode: str | None = None,
) -> GlimpseEnv:
    """Makes an environment on radiographs: DICOM, PNG, TIFF or JPEG.

    Args:
        cohort: Path of a cohort's CSV, or what was loaded from one; None makes (once) and takes synthetic radiographs.
        split: "train", "val" or "test"; None takes all cases.
        task: What an answer is; None is a classification into two classes.
        window: Values that become black and white, (low, high), for all cases; or an index into the windows that each
            file states; None takes each file's first. Only where `cohort` is a path.
        spacing: Millimetres per pixel, instead of what the files state. Only where `cohort` is a path.
        overview_size: Pixels of the overview; one number, or one per axis.
        glimpse_size: Pixels of a glimpse, likewise.
        glimpse_extents: Fields of view: level-0 pixels (192) or a physical size ("20mm"); the action chooses among
            several.
        max_glimpses: Budget of an episode.
        glimpse_cost: What a glimpse costs, in units of the score.
        on_error: With "skip", broken files of a CSV are left out with a warning; with "raise" they are an error.
        seed: Of the split, where the CSV has none.
        shuffle: Whether cases come in random order.
        render_mode: None or "rgb_array".

    Raises:
        CohortError: The CSV has problems; all are listed.
        MissingExtraError: A file is DICOM, or synthetic ones are to be made, and pydicom is not installed.
        ValueError: The split is empty, or sizes do not fit the radiographs.
    """
    task = task or Classification(2)
    if cohort is None or isinstance(cohort, (str, os.PathLike)):
        cohort = load_xray(cohort, task, on_error, seed, window, spacing)
    return GlimpseEnv(
        cases_of(cohort, split),
        task,
        build_views(2, overview_size, glimpse_size, glimpse_extents),
        max_glimpses=max_glimpses,
        glimpse_cost=glimpse_cost,
        shuffle=shuffle,
        render_mode=render_mode,
    )


def load_xray(
    path: str | os.PathLike[str] | None = None,
    task: Task | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    window: int | Sequence[float] | None = None,
    spacing: float | Sequence[float] | None = None,
    synthetic: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Cohort:
    """Loads a cohort of radiographs.

    Args:
        path: Of its CSV; None makes (once) and loads synthetic radiographs.
        task: What an answer is; None is a classification into two classes.
        on_error: With "skip", broken files are left out with a warning; with "raise" they are an error.
        seed: Of the split, where the CSV has none.
        window: As in `make_xray`.
        spacing: As in `make_xray`.
        synthetic: Options of `glimpse.synthetic.radiographs.recipe.embedded_cohort`, such as `n` and `size`.
        progress: Whether to show a bar while files are checked.

    Raises:
        CohortError: The CSV has problems; all are listed.
        MissingExtraError: A file is DICOM, or synthetic ones are to be made, and pydicom is not installed.
    """
    if path is None:
        from glimpse.synthetic.radiographs.recipe import embedded_cohort  # makes pictures: only where they are wanted

        path = embedded_cohort(**synthetic or {})
    chosen = {"window": window, "spacing": spacing}
    options = {"reader": "radiograph", **{key: value for key, value in chosen.items() if value is not None}}
    task = task or Classification(2)
    return Cohort.from_csv(path, task, on_error=on_error, seed=seed, source_options=options, progress=progress)
