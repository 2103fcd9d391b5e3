"""What environments on volumes share: MR and CT differ in windows, sizes and synthetic cohorts only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from glimpse.cohort import Case, Cohort
from glimpse.envs.base import GlimpseEnv
from glimpse.envs.building import Extents, Size, build_views, cases_of
from glimpse.sources.volume.neighbours import NeighbourSlices
from glimpse.tasks import Classification, Task


def make_volumes(
    cohort: Cohort | Sequence[Case],
    split: str | None,
    *,
    task: Task | None,
    overview_size: Size,
    glimpse_size: Size,
    glimpse_extents: Extents,
    **options: Any,
) -> GlimpseEnv:
    """Makes an environment on volumes that were loaded.

    Args:
        cohort: What was loaded from a CSV.
        split: "train", "val" or "test"; None takes all cases.
        task: What an answer is; None is a classification into two classes.
        overview_size: Voxels of the overview; one number, or (z, y, x).
        glimpse_size: Voxels of a glimpse, likewise.
        glimpse_extents: Fields of view, see `build_views`.
        **options: Of `GlimpseEnv`.

    Raises:
        ValueError: The split is empty, or sizes do not fit the volumes.
    """
    views = build_views(3, overview_size, glimpse_size, glimpse_extents)
    return GlimpseEnv(cases_of(cohort, split), task or Classification(2), views, **options)


def load_volumes(
    path: str | os.PathLike[str],
    task: Task | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    windows: Any = "auto",
    spacing: float | Sequence[float] | None = None,
    neighbours: int = 0,
    foreground: str = "body",
    progress: bool = True,
) -> Cohort:
    """Loads a cohort of volumes: NIfTI files, or folders of DICOM slices.

    Args:
        path: Of its CSV.
        task: What an answer is; None is a classification into two classes.
        on_error: With "skip", broken volumes are left out with a warning; with "raise" they are an error.
        seed: Of the split, where the CSV has none.
        windows: Which values are black and white, one channel for each; see `glimpse.sources.VolumeSource`.
        spacing: Millimetres per voxel, one number or (z, y, x), instead of what the files state.
        neighbours: Slices on either side that become channels of each slice; 0 leaves volumes as they are.
        foreground: Where looking can make sense: "body", or "lungs" (CT only).
        progress: Whether to show a bar while files are checked.

    Raises:
        CohortError: The CSV has problems; all are listed.
        ValueError: The windows, the spacing, the foreground or the neighbours are impossible.
    """
    options = {"reader": "volume", "windows": windows, "spacing": spacing, "foreground": foreground}
    task = task or Classification(2)
    cohort = Cohort.from_csv(path, task, on_error=on_error, seed=seed, source_options=options, progress=progress)
    if neighbours == 0:
        return cohort
    return Cohort((replace(case, source=NeighbourSlices(case.source, neighbours)) for case in cohort), cohort.skipped)
