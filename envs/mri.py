"""Environments on MR volumes: `gymnasium.make("glimpse/MRI-v0", cohort="cohort.csv")`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from glimpse.cohort import Case, Cohort
from glimpse.envs.base import GlimpseEnv
from glimpse.envs.building import Extents, Size
from glimpse.envs.volumes import load_volumes, make_volumes
from glimpse.tasks import Task

SYNTHETIC_WINDOW = (0.0, 160.0)
"""Black and white of synthetic heads, whose spots are brighter than the percentiles that "auto" goes by."""


def make_mri(
    cohort: str | os.PathLike[str] | Cohort | Sequence[Case] | None = None,
    split: str | None = "train",
    *,
    task: Task | None = None,
    windows: Any = None,
    spacing: float | Sequence[float] | None = None,
    neighbours: int = 0,
    overview_size: Size = (40, 48, 40),
    glimpse_size: Size = 24,
    glimpse_extents: Extents = ("24mm",),
    max_glimpses: int = 8,
    glimpse_cost: float = 0.002,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    shuffle: bool = True,
    render_mode: str | None = None,
) -> GlimpseEnv:
    """Makes an environment on MR volumes: NIfTI files, or folders of DICOM slices.

    Axes are (z, y, x), growing to superior, anterior and the patient's right, however the files are stored.

    Args:
        cohort: Path of a cohort's CSV, or what was loaded from one; None makes (once) and takes synthetic heads.
        split: "train", "val" or "test"; None takes all cases.
        task: What an answer is; None is a classification into two classes.
        windows: Which values are black and white, one channel for each: "auto" (percentiles of each volume: MR has
            no units), [low, high], or a list of these; None takes "auto" for files. Only where `cohort` is a path.
        spacing: Millimetres per voxel, one number or (z, y, x), instead of what the files state. Only where `cohort` is
            a path.
        neighbours: Slices on either side that become channels of each slice, for glimpses of one slice such as
            `glimpse_size=(1, 64, 64)` with `glimpse_extents=[["3mm", "64mm", "64mm"]]`; 0 leaves volumes as they are.
            Only where `cohort` is a path.
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
        cohort = load_mri(cohort, task, on_error, seed, windows, spacing, neighbours)
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


def load_mri(
    path: str | os.PathLike[str] | None = None,
    task: Task | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    windows: Any = None,
    spacing: float | Sequence[float] | None = None,
    neighbours: int = 0,
    synthetic: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Cohort:
    """Loads a cohort of MR volumes.

    Args:
        path: Of its CSV; None makes (once) and loads synthetic heads.
        task: What an answer is; None is a classification into two classes.
        on_error: With "skip", broken volumes are left out with a warning; with "raise" they are an error.
        seed: Of the split, where the CSV has none.
        windows: As in `make_mri`.
        spacing: As in `make_mri`.
        neighbours: As in `make_mri`.
        synthetic: Options of `glimpse.synthetic.volumes.recipe.embedded_mri`, such as `n` and `size`.
        progress: Whether to show a bar while files are checked.

    Raises:
        CohortError: The CSV has problems; all are listed.
        ValueError: The windows, the spacing or the neighbours are impossible.
    """
    usual: Any
    if path is None:
        from glimpse.synthetic.volumes.recipe import embedded_mri  # makes volumes: only where they are wanted

        path, usual = embedded_mri(**synthetic or {}), SYNTHETIC_WINDOW
    else:
        usual = "auto"
    windows = usual if windows is None else windows
    return load_volumes(path, task, on_error, seed, windows, spacing, neighbours, progress=progress)
