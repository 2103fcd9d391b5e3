"""Makes environments of registered modalities, such as `gymnasium.make("glimpse/WSI-v0", cohort="cohort.csv")`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from glimpse.cohort import Case, Cohort, CohortError
from glimpse.cohort.settling import settled_task
from glimpse.envs.base import GlimpseEnv
from glimpse.envs.building import Extents, Size, build_views, cases_of
from glimpse.envs.cohorts import loaded_once
from glimpse.envs.episode import GlimpseCost
from glimpse.errors import SettingsError
from glimpse.modalities import OPTION_COLUMNS, Modality, find_modality
from glimpse.settings.building import build
from glimpse.settings.kinds import check_kind, hints_of
from glimpse.settings.options import at_least, refuse_unknown
from glimpse.tasks import Task

_OF_AN_ENVIRONMENT = (
    "cohort",
    "split",
    "task",
    "overview_size",
    "glimpse_size",
    "glimpse_extents",
    "max_glimpses",
    "glimpse_cost",
)
_OF_ALL = ("path", "task", "on_error", "seed", "synthetic", "progress")  # options of every cohort


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
    glimpse_cost: GlimpseCost | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    shuffle: bool = True,
    render_mode: str | None = None,
    **options: Any,
) -> GlimpseEnv:
    """Makes the environment of a modality; an argument of None means the modality's own default.

    Args:
        cohort: path of a cohort's CSV, a `Cohort`, or a list of cases; None uses the modality's synthetic cohort (which
            is made once) or its drawn images.
        split: "train", "val" or "test"; None takes all cases.
        modality: name of the modality.
        task: what is to be predicted; options that it leaves open follow from the training split.
        overview_size: pixels of the overview; one number, or one per axis.
        glimpse_size: pixels of a glimpse; one number, or one per axis.
        glimpse_extents: one or several fields of view, such as 128 (level-0 pixels) or "8mm"; of several, each action
            chooses one.
        max_glimpses: budget of an episode.
        glimpse_cost: what a glimpse costs, in units of the score; or a list, with the cost for each field of view.
        on_error: "skip" leaves broken images of a CSV out with a warning; "raise" makes them an error.
        seed: seed of the split, if the CSV has none, and of drawn images.
        shuffle: whether cases come in a random order.
        render_mode: None, "rgb_array", or "human", which shows each step in a window.
        **options: options of the cohort, such as `windows` or `spacing` (see `Modality.options`), and `stage` and
            `stage_gigabytes` of `glimpse.open_source`.

    Raises:
        CohortError: the CSV has problems (all are listed), or there is neither a CSV nor a synthetic cohort.
        ValueError: the split is empty, sizes do not fit the images, or an option is unknown.
    """
    known = find_modality(modality)
    refuse_unknown(
        options,
        [*known.cohort_options(), *known.shared, *known.staging],
        f"the environment of {modality}",
        _OF_AN_ENVIRONMENT,
    )
    task = task or _task(known, options)
    if cohort is None or isinstance(cohort, (str, os.PathLike)):
        cohort = load_modality(modality, cohort, task, on_error, seed, **options)
    cases = cases_of(cohort, split)
    if not len(cases):
        raise ValueError(f"Expected at least one case of {modality}, got none; is the split {split!r} empty?")
    given: dict[str, Any] = {
        "overview_size": overview_size,
        "glimpse_size": glimpse_size,
        "glimpse_extents": glimpse_extents,
    }
    sizes: dict[str, Any] = {name: getattr(known, name) if value is None else value for name, value in given.items()}
    if sizes["overview_size"] is None:
        sizes["overview_size"] = [side // 2 for side in cases[0].source.shape]
    return GlimpseEnv(
        cases,
        settled_task(task, cohort, cases),
        build_views(cases[0].source.ndim, **sizes),
        max_glimpses=known.max_glimpses if max_glimpses is None else max_glimpses,
        glimpse_cost=known.glimpse_cost if glimpse_cost is None else glimpse_cost,
        shuffle=shuffle,
        render_mode=render_mode,
    )


make_modality.metadata = GlimpseEnv.metadata  # type: ignore[attr-defined]  # by which Gymnasium knows "rgb_array_list"


def load_modality(
    modality: str,
    path: str | os.PathLike[str] | None = None,
    task: Task | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    synthetic: Mapping[str, Any] | None = None,
    progress: bool = False,
    **options: Any,
) -> Cohort:
    """Loads a cohort of a modality; a CSV whose files have not changed is checked only once per process.

    Args:
        modality: name of the modality. All images are read with its source, also if other sources read such files.
        path: path of the cohort's CSV; None makes and loads the modality's synthetic cohort.
        task: what is to be predicted; the modality's own task when not given.
        on_error: "skip" leaves broken images out with a warning; "raise" makes them an error.
        seed: seed of the split, if the CSV has none, and of drawn images.
        synthetic: options of the function that makes the synthetic cohort, such as `n` and `size`.
        progress: whether to show bars, on a terminal.
        **options: `Modality.options`, and `stage` and `stage_gigabytes` of `glimpse.open_source`; for drawn images, the
            keyword arguments of `Modality.draws`.

    Raises:
        ModalityError: there is no such modality.
        CohortError: the CSV has problems (all are listed), or there is neither a CSV nor a synthetic cohort.
        SettingsError: an option is unknown.
    """
    known = find_modality(modality)
    if on_error not in ("raise", "skip"):
        raise SettingsError(f"Expected on_error 'raise' or 'skip', got {on_error!r}.")
    names = [*known.cohort_options(), *known.shared, *known.staging, *_OF_ALL]
    refuse_unknown(options, names, f"env.cohort of {modality}")
    options = {**known.cohort_options(), **known.shared, **options}
    if known.draws is not None:
        return _drawn(known, path, {**options, "seed": seed})
    source_options = known.source_options(options, synthetic=path is None)
    if path is None:
        _check_synthetic(known, synthetic or {})
        path = _made(known, synthetic or {}, progress)
    task = task or _task(known, options)

    def load() -> Cohort:
        return Cohort.from_csv(
            path,
            task,
            on_error=on_error,
            seed=seed,
            source_options=source_options,
            option_columns=[name for name in OPTION_COLUMNS if name in known.options],
            progress=progress,
        )

    return loaded_once(Path(path), task, (known, on_error, seed, repr(sorted(source_options.items()))), load)


def _task(modality: Modality, options: Mapping[str, Any]) -> Task:
    """Builds the modality's own task, which may depend on options that it shares with the cohort."""
    shared = {name: options.get(name, default) for name, default in modality.shared.items()}
    config = OmegaConf.create({"env": shared, "task": dict(modality.task)})
    return build(OmegaConf.to_container(config.task, resolve=True))


def _drawn(modality: Modality, path: Any, options: Mapping[str, Any]) -> Cohort:
    if path is not None:
        raise CohortError(f"{path}: the images of {modality.name} are drawn; they are read from no CSV.")
    maker = modality.maker()
    assert maker is not None
    hints = hints_of(maker)
    for name, value in options.items():
        if name != "n":  # of which the maker says more
            check_kind(f"env.cohort.{name}", value, hints.get(name, Any))
    at_least("env.cohort.seed", options["seed"], 0, whole=True)
    return maker(**options)


def _made(modality: Modality, options: Mapping[str, Any], progress: bool) -> Any:
    """Makes the synthetic cohort, or finds it where it was made before; returns the path of its CSV."""
    maker = modality.maker()
    assert maker is not None  # `_check_synthetic` has refused that
    if "progress" in inspect.signature(maker).parameters:
        options = {**options, "progress": progress}
    try:
        return maker(**options)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"env.cohort.synthetic of {modality.name}, {dict(options)}: {error}") from error


def _check_synthetic(modality: Modality, options: Mapping[str, Any]) -> None:
    """Refuses options that the function which makes the synthetic cohort does not take, before it makes anything."""
    maker = modality.maker()
    if maker is None:
        raise CohortError(
            f"{modality.name}: which images? Give the CSV of a cohort: env.cohort.path=cohort.csv on the command line, "
            "or cohort='cohort.csv' in gymnasium.make. This modality has no synthetic ones."
        )
    parameters, hints = inspect.signature(maker).parameters, hints_of(maker)
    if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        refuse_unknown(options, parameters, f"env.cohort.synthetic of {modality.name}")
    for name, value in options.items():
        check_kind(f"env.cohort.synthetic.{name}", value, hints.get(name, Any))
