"""The reader that embeds every patch of a case, trained for the report of a training or for a saved run."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from glimpse.cohort import Case, Cohort
from glimpse.contract.stepped_sources import ViewableCases
from glimpse.errors import EvaluationError
from glimpse.networks.policy import GlimpsePolicy
from glimpse.ranks.group import first
from glimpse.reading.readers import FULL_SCAN, Reader
from glimpse.runs.loading import PRETRAINED_FILE, load
from glimpse.settings.building import build
from glimpse.views import Views

NO_TILING = "full_scan is left out: this environment is read through its steps, which show no whole tiling."


def check_patches(make: Callable[..., Any], views: Views, cases: Iterable[Case]) -> None:
    """Refuses patches of a full scan that cannot be read of all cases, before anything is learned.

    Args:
        make: what makes the reader, a `functools.partial` of it with its options.
        views: sizes of glimpses.
        cases: the cases.

    Raises:
        SettingsError: the message names the case and the setting.
    """
    check = getattr(getattr(make, "func", None), "check_patches", None)
    if check is not None:
        check(make.keywords, views, cases)  # type: ignore[attr-defined]


def fitted_scan(
    make: Callable[..., Any], policy: GlimpsePolicy, looked: ViewableCases, cohort: Cohort, **options: Any
) -> Any:
    """Returns a full scan whose heads have learned from the training cases of a cohort, and says what was chosen.

    Args:
        make: makes the reader, such as the class `glimpse.agents.full_scan.FullScan`.
        policy: the policy whose encoder embeds.
        looked: how cases are looked at, and their task.
        cohort: the cases to learn from; its validation cases choose.
        **options: further arguments of `make`.
    """
    scan = make(policy, looked.views, looked.task, **options)
    scan.fit(cohort.split("train"), cohort.split("val"))
    if first():
        print(scan.choice)
    return scan


def scan_of_run(
    run: Path, policy: GlimpsePolicy, looked: ViewableCases, cohort: Cohort, *, keep: bool, progress: bool = False
) -> Callable[[], Reader]:
    """Returns what trains the full scan of a saved run, once it has been checked that this is possible.

    It has the settings, the encoder and the seed of the run's own report. The encoder is that of the end of
    pretraining, or the final one if there was none. Patches of the training and validation cases are embedded once, and
    kept in the run folder; a warning says where that is impossible.

    Args:
        run: the run folder.
        policy: its policy.
        looked: the cases that are to be read, how they are looked at, and their task.
        cohort: the run's own cases, of all splits.
        keep: whether the patches of the cases that are read are kept, too.
        progress: whether to show progress bars.

    Raises:
        EvaluationError: the cohort has no training cases, or the run has no settings of a full scan.
        SettingsError: patches cannot be read of all cases; the message names the case and the setting.
    """
    settings = policy.settings
    section = (settings.get("report") or {}).get(FULL_SCAN)
    if section is None:
        raise EvaluationError(f"{run}: its settings have no section report.full_scan. Leave full_scan out of readers.")
    train, val = cohort.split("train"), cohort.split("val")
    if not len(train):
        raise EvaluationError(
            f"{run}: full_scan learns from the run's own training cases, which are not there any more. Put its cohort "
            "back where it was in training, or leave full_scan out of readers."
        )
    pretrained, pretrain = run / PRETRAINED_FILE, settings.get("pretrain") or {}
    if pretrain.get("steps") and not pretrained.exists():
        raise EvaluationError(
            f"{pretrained}: the encoder of a full scan is missing. Restore the file from a copy of the run, or leave "
            "full_scan out of readers."
        )
    make = build(section)
    check_patches(make, looked.views, [*train, *val, *looked.cases])

    def fit() -> Reader:
        scan = fitted_scan(
            make,
            load(run, PRETRAINED_FILE, str(policy.device)) if pretrained.exists() else policy,
            looked,
            cohort,
            folder=run / "checkpoints",
            seed=int(settings["seed"]),
            threads=int(settings["read_threads"]),
            progress=progress,
        )
        if not keep:
            scan.folder = None
        return scan

    return fit
