"""Environments on arrays in memory: `gymnasium.make("glimpse/Array-v0", cohort=(arrays, targets))`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from glimpse.cohort import Case, Cohort
from glimpse.cohort.settling import settled_task
from glimpse.envs.base import GlimpseEnv
from glimpse.envs.building import Extents, Size, build_views, cases_of
from glimpse.envs.episode import GlimpseCost
from glimpse.sources.array import ArraySource
from glimpse.tasks import Classification, Task

Pair = tuple[Sequence[np.ndarray | str | os.PathLike[str]], Sequence[Any]]

OVERVIEW_SIZE, GLIMPSE_SIZE = 64, 36  # default sizes per axis; SB3's own CNN needs at least 36


def make_array(
    cohort: Cohort | Sequence[Case] | Pair,
    *,
    split: str | None = None,
    task: Task | None = None,
    overview_size: Size | None = None,
    glimpse_size: Size | None = None,
    glimpse_extents: Extents | None = None,
    max_glimpses: int = 8,
    glimpse_cost: GlimpseCost = 0.0,
    shuffle: bool = True,
    render_mode: str | None = None,
) -> GlimpseEnv:
    """Makes an environment on arrays in any number of dimensions.

    Args:
        cohort: A cohort, a list of cases, or `(arrays, targets)`: uint8 arrays `(channel, *size)`, or paths of .npy
            files with such arrays, and one target for each of them.
        split: "train", "val" or "test" of a cohort; None takes all cases.
        task: What is to be predicted; None is a classification with as many classes as the targets need, at least 2.
            Options that it leaves open follow from the training split, or from all cases where there is none.
        overview_size: Pixels of the overview; None is 64 per axis, or the first image's size where that is smaller.
        glimpse_size: Pixels of a glimpse; None is 36 per axis, or the first image's size where that is smaller.
        glimpse_extents: Fields of view; None is the size of a glimpse, so that glimpses have full resolution.
        max_glimpses: Budget of an episode.
        glimpse_cost: What a glimpse costs, in units of the score; or a list, with the cost for each field of view.
        shuffle: Whether cases come in random order.
        render_mode: None, "rgb_array", or "human", which shows each step in a window.

    Raises:
        ValueError: The cohort is empty, the sizes do not fit it, or a task is needed because its targets are not
            classes.
    """
    cases = _cases(cohort, split)
    if not len(cases):
        raise ValueError("Expected at least one case, got an empty cohort.")
    shape = cases[0].source.shape
    overview_size = [min(OVERVIEW_SIZE, n) for n in shape] if overview_size is None else overview_size
    glimpse_size = [min(GLIMPSE_SIZE, n) for n in shape] if glimpse_size is None else glimpse_size
    if glimpse_extents is None:
        glimpse_extents = [glimpse_size]
    return GlimpseEnv(
        cases,
        settled_task(task or _classification(cases), cohort if isinstance(cohort, Cohort) else cases, cases),
        build_views(len(shape), overview_size, glimpse_size, glimpse_extents),
        max_glimpses=max_glimpses,
        glimpse_cost=glimpse_cost,
        shuffle=shuffle,
        render_mode=render_mode,
    )


make_array.metadata = GlimpseEnv.metadata  # type: ignore[attr-defined]  # by which Gymnasium knows "rgb_array_list"


def array_cases(arrays: Sequence[Any], targets: Sequence[Any], **options: Any) -> list[Case]:
    """Makes one case of each array `(channel, *size)`; every case belongs to another patient.

    Args:
        arrays: uint8 arrays, or paths of .npy files.
        targets: One target per array: a class index, or what the task takes.
        **options: Options of `ArraySource`: spacing, unit, background.

    Raises:
        ValueError: The numbers of targets and arrays differ.
    """
    if len(arrays) != len(targets):
        raise ValueError(f"Expected as many targets as arrays, got {len(targets)} and {len(arrays)}.")
    names = [f"array-{index:04d}" for index in range(len(arrays))]
    return [
        Case(name, name, source=ArraySource(array, name=name, **options), target=_plain(target), split=None)
        for name, array, target in zip(names, arrays, targets, strict=True)
    ]


def _plain(target: Any) -> Any:
    return int(target) if isinstance(target, Integral) else target


def _classification(cases: Sequence[Case]) -> Task:
    for case in cases:
        if not isinstance(case.target, Integral):
            raise ValueError(f"{case.id}: the target {case.target!r} is no class; say what it means with task=.")
    return Classification(max(2, 1 + max(int(case.target) for case in cases)))


def _cases(cohort: Any, split: str | None) -> Sequence[Case]:
    if isinstance(cohort, tuple) and len(cohort) == 2:
        if split is not None:
            raise ValueError(f"(arrays, targets) has no splits, got split={split!r}; give that split's arrays only.")
        return array_cases(*cohort)
    return cases_of(cohort, split)
