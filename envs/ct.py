"""Environments on CT volumes: `gymnasium.make("glimpse/CT-v0", cohort="cohort.csv")`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from glimpse.cohort import Case, Cohort
from glimpse.envs.base import GlimpseEnv
from glimpse.envs.building import Extents, Size
from glimpse.envs.volumes import load_volumes, make_volumes
from glimpse.tasks import Task


def make_ct(
    cohort: str | os.PathLike[str] | Cohort | Sequence[Case] | None = None,
    split: str | None = "train",
    *,
    task: Task | None = None,
    windows: Any = ("lung", "mediastinum"),
    spacing: float | Sequence[float] | None = None,
    neighbours: int = 0,
    foreground: str = "lungs",
    overview_size: Size = (36, 36, 48),
    glimpse_size: Size = (12, 24, 24),
    glimpse_extents: Extents = ("24mm",),
    max_glimpses: int = 8,
    glimpse_cost: float = 0.002,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    shuffle: bool = True,
    render_mode: str | None = None,
) -> GlimpseEnv:
    """Makes an environment on CT volumes: NIfTI files, or folders of DICOM slices.

    Axes are (z, y, x), growing to superior, anterior and the patient's right, however the files are stored.

    Args:
        cohort: Path of a cohort's CSV, or what was loaded from one; None makes (once) and takes synthetic chests.
        split: "train", "val" or "test"; None takes all cases.
        task: What an answer is; None is a classification into two classes.
        windows: Which Hounsfield units are black and white, one channel for each: names such as "lung" or "brain" (see
            `glimpse.sources.windows.CT_WINDOWS`), [low, high], or a list of these. Only where `cohort` is a path.
        spacing: Millimetres per voxel, one number or (z, y, x), instead of what the files state. Only where `cohort` is
            a path.
        neighbours: Slices on either side that become channels of each slice, for glimpses of one slice such as
            `glimpse_size=(1, 64, 64)` with `glimpse_extents=[["3mm", "64mm", "64mm"]]`; 0 leaves volumes as they are.
            Only where `cohort` is a path.
        foreground: Where looking can make sense: "lungs" or "body". Only where `cohort` is a path.
        overview_size: Voxels of the overview; one number, or (z, y, x).
        glimpse_size: Voxels of a glimpse, likewise.
        glimpse_extents: Fields of view: a physical size ("24mm"), level-0 voxels (24), or a list of one per axis inside
            the list; the action chooses among several.
        max_glimpses: Budget of an episode.
        glimpse_cost: What a glimpse costs, in units of the score.
        on_error: With "skip", broken volumes of a CSV are left out with a warning; with "raise" they are an error.
        seed: Of the split, where the CSV has none.
        shuffle: Whether cases come in random order.
        render_mode: None or "rgb_array".

    Raises:
        CohortError: The CSV has problems; all are listed.
        ValueError: The split is empty, or sizes do not fit the volumes.
    """
    if cohort is None or isinstance(cohort, (str, os.PathLike)):
        cohort = load_ct(cohort, task, on_error, seed, windows, spacing, neighbours, foreground=foreground)
    return make_volumes(
        cohort,
        split,
        task=task,
        overview_size=overview_size,
        glimpse_size=glimpse_size,
        glimpse_extents=glimpse_extents,
        max_glimpses=max_glimpses,
        glimpse_cost=glimpse_cost,
        shuffle=shuffle,
        render_mode=render_mode,
    )


def load_ct(
    path: str | os.PathLike[str] | None = None,
    task: Task | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    windows: Any = ("lung", "mediastinum"),
    spacing: float | Sequence[float] | None = None,
    neighbours: int = 0,
    synthetic: Mapping[str, Any] | None = None,
    foreground: str = "lungs",
    progress: bool = True,
) -> Cohort:
    """Loads a cohort of CT volumes.

    Args:
        path: Of its CSV; None makes (once) and loads synthetic chests.
        task: What an answer is; None is a classification into two classes.
        on_error: With "skip", broken volumes are left out with a warning; with "raise" they are an error.
        seed: Of the split, where the CSV has none.
        windows: As in `make_ct`.
        spacing: As in `make_ct`.
        neighbours: As in `make_ct`.
        synthetic: Options of `glimpse.synthetic.volumes.recipe.embedded_ct`, such as `n` and `size`.
        foreground: As in `make_ct`.
        progress: Whether to show a bar while files are checked.

    Raises:
        CohortError: The CSV has problems; all are listed.
        ValueError: The windows, the spacing, the foreground or the neighbours are impossible.
    """
    if path is None:
        from glimpse.synthetic.volumes.recipe import embedded_ct  # makes volumes: only where they are wanted

        path = embedded_ct(**synthetic or {})
    return load_volumes(path, task, on_error, seed, windows, spacing, neighbours, foreground, progress)
