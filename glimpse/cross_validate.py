"""Train and test on each part of a cohort in turn, so that every case is a test case once; interrupted, go on.

glimpse cross-validate env=wsi agent=ppo folds=5
"""

import contextlib
import inspect
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from glimpse.atomic import remove_unfinished, write_atomically, write_error
from glimpse.cohort import Cohort
from glimpse.cohort.folds import FOLDS_FILE, Folds, lines_of, make_folds, read_folds
from glimpse.cohort.recorded import SPLITS_FILE, read_learned
from glimpse.cohort.table import CohortError
from glimpse.errors import EvaluationError, SettingsError
from glimpse.predicting.claims import Claims
from glimpse.report.answers import PREDICTIONS_FILE, read_answers, read_rows, task_of
from glimpse.report.calibrating import draw_answers
from glimpse.report.over_folds import predictions_of_folds, summarised, table_over_folds
from glimpse.runs.initial import run_of, weights_checksum
from glimpse.runs.loading import CONFIG_FILE
from glimpse.settings.allocator import keep_freed_memory
from glimpse.settings.building import build, build_setting
from glimpse.settings.checking import typed_keys
from glimpse.settings.command import in_one_line, run_command
from glimpse.settings.composing import composed
from glimpse.settings.nearest import suggestion
from glimpse.settings.options import at_least, refuse_unknown
from glimpse.settings.quoting import typed
from glimpse.sources.tolerant import unread
from glimpse.tasks import Task
from glimpse.train import planned, train

SETTINGS_FILE, METRICS_FILE, PRINTED_FILE = "cross_validation.json", "metrics.json", "report.txt"
CHANGEABLE = (
    "threads", "read_threads", "device", "progress", "save_seconds", "features_cache", "env.cohort.path",
    "env.cohort.stage", "env.cohort.stage_gigabytes",
)  # fmt: skip
"""Settings that may be others when a cross-validation goes on; a section stands for everything in it."""

_FOLLOWING = ("vector.threads", "env.cohort.progress")  # settings that follow from some of these

_OWN = {
    "run": "each fold has a run folder of its own: folder=<folder for all of them>",
    "resume": "the same command, typed again, goes on where it stopped",
    "splits": "folds=<CSV> says which case is in which fold",
    "report.split": "each fold reports on its own test cases",
}
"""Settings of a training that a cross-validation sets itself, and what to do in their place."""


@dataclass(frozen=True)
class CrossValidated:
    """What a call of `cross_validate` has done.

    Attributes:
        folder: the folder with all runs.
        record: the content of its `metrics.json`; empty while folds are missing.
        table: the table of all folds; empty while folds are missing.
        elsewhere: who trains the folds that are missing, by the number of the fold.
        abandoned: the numbers of missing folds that were to be trained here, and that nobody gives a sign of training.
    """

    folder: Path
    record: dict[str, Any]
    table: str
    elsewhere: dict[int, str]
    abandoned: frozenset[int] = frozenset()

    @property
    def told(self) -> str:
        """The table and where everything is, or who trains what is missing."""
        if self.elsewhere:
            others = "; ".join(f"fold {number}: {who}" for number, who in self.elsewhere.items())
            if self.abandoned:
                silent = ", ".join(map(str, sorted(self.abandoned)))
                return (
                    f"Not finished: {others}. Nobody gives a sign of training {silent} any more: type the same command "
                    "again."
                )
            return f"Not finished: {others}. When they have ended, the same command prints the table."
        return f"\n{self.table}\n\nWritten: {self.folder / METRICS_FILE}, {self.folder / PREDICTIONS_FILE}."


def cross_validate(
    settings: Sequence[str],
    *,
    folds: int | str | os.PathLike[str] = 5,
    validation: float = 0.2,
    folder: str | os.PathLike[str] | None = None,
    fold: int | None = None,
) -> CrossValidated:
    """Trains once for each fold, on all other folds, and measures all test answers.

    Called again, it leaves folds that have ended as they are, and goes on with others from their last checkpoint.
    Several processes may share the folder: each trains folds that no other one is training.

    Args:
        settings: settings of a training, as typed after `glimpse train`, such as "env=wsi".
        folds: the number of folds, which are stratified by target and keep patients together; or the path of a file
            of folds (see `glimpse.cohort.folds.read_folds`).
        validation: the share of the patients outside a fold who are validated on; 0 for none.
        folder: where the run folders lie, one for each fold; one below `runs` that is named after the environment, the
            agent, the folds and the seed, if not given.
        fold: the number of the only fold to train here, from 1, as a launcher of Hydra gives it to each of its jobs;
            all of them, if not given.

    Raises:
        SettingsError, UserError: something is wrong with the settings, the cohort or the folder.
    """
    _check_settings(settings)
    at_least("validation", validation, 0, most=0.9)
    _check_folds(folds)
    config = composed(*settings)
    plan = planned(config, settings).settings
    path = Path(os.path.abspath(os.path.expanduser(folder or _named(plan, folds))))
    cohort = build_setting("env.cohort", plan["env"]["cohort"])
    if not isinstance(cohort, Cohort):
        raise EvaluationError(
            f"env={plan['env'].get('name')}: its cases come from an environment of its own, whose splits cannot be set "
            "from outside. Take an environment with a cohort."
        )
    initial = plan.get("initial_weights")
    if initial and (learned := read_learned(run_of(initial))) is not None:
        learned.check_not_learned(cohort, folds=True)
    task: Task = build(plan["env"]["make"].get("task") or plan["env"]["task"])
    with Claims(path / "claims").awaited("folds"):
        found = _folds(path, cohort, task, folds, validation, int(plan["seed"]))
        _check_same(path, plan)
    if fold is not None:
        at_least("fold", fold, 1, whole=True, most=len(found))
    settings = [*settings, *_common(plan, task, cohort)]
    every = range(1, len(found) + 1)
    left, abandoned = _train_missing(path, found, cohort, settings, [fold] if fold else every)
    for number in every if fold else ():
        if number != fold and not (path / f"fold-{number}" / METRICS_FILE).exists():
            left[number] = Claims(path / "claims").holder(f"fold-{number}") or "nobody yet"
    if left:
        return CrossValidated(path, {}, "", dict(sorted(left.items())), abandoned)
    return _together(path, len(found), plan)


def _train_missing(
    path: Path, folds: Folds, cohort: Cohort, settings: Sequence[str], numbers: Iterable[int]
) -> tuple[dict[int, str], frozenset[int]]:
    """Trains folds that no other process is training.

    A process on another machine, which cannot be asked, is one as long as its claim is touched now and then.

    Returns:
        Who trains those of the folds that have not ended, by their numbers; and those of them that nobody gives a sign
        of training.
    """
    claims, left = Claims(path / "claims"), dict.fromkeys(numbers, "")
    fruitless, silent = 0, frozenset[int]()
    while left and fruitless < 2:
        before = len(left)
        for number in list(left):
            with claims.taken(f"fold-{number}") as mine:
                if mine:
                    try:
                        _train(path / f"fold-{number}", number, folds, cohort, settings)
                    except (KeyboardInterrupt, SystemExit):
                        _say(f"in fold {number} of {len(folds)}; the same command goes on where it was")
                        raise
                    del left[number]
                else:
                    left[number] = claims.holder(f"fold-{number}") or "another process"
        held = claims.held(f"fold-{number}" for number in left)
        silent = frozenset(number for number in left if f"fold-{number}" not in held)
        if not silent:
            break
        fruitless = fruitless + 1 if len(left) == before else 0  # others have ended, or were killed without a word
    return left, silent


def _common(plan: Mapping[str, Any], task: Task, cohort: Cohort) -> list[str]:
    """Returns what is typed for each fold so that the answers of all can be measured together.

    Raises:
        CohortError: the targets of the cohort do not say it.
    """
    env = plan["env"]
    section = "env.task" if env["make"].get("task") in (None, env.get("task")) else "env.make.task"
    try:
        options = task.common_options([case.target for case in cohort if case.target is not None])
    except ValueError as error:
        raise CohortError(f"env.cohort: {error}") from error
    return [f"++{section}.{key}={json.dumps(value)}" for key, value in _flat(options).items()] if options else []


def _check_settings(settings: Sequence[str]) -> None:
    for key in typed_keys(settings):
        if key in _OWN:
            raise SettingsError(f"{key}: cannot be set in a cross-validation; {_OWN[key]}.")


def _named(plan: Mapping[str, Any], folds: int | str | os.PathLike[str]) -> str:
    what = f"{folds}folds" if isinstance(folds, int) else Path(folds).stem
    return f"runs/{plan['env'].get('name')}-{plan['agent']['name']}-{what}-seed{plan['seed']}"


# ---------------------------------------------------------------------------------------------- the folder
def _check_folds(given: Any) -> None:
    """Refuses what can be no folds of any cohort, before cases are opened or made."""
    if isinstance(given, bool) or not isinstance(given, int | str | os.PathLike):
        raise SettingsError(f"Expected folds as a number or as the path of a CSV, got {given!r}.")
    if isinstance(given, int):
        at_least("folds", given, 2, whole=True)
    else:
        lines_of(os.path.expanduser(given))


def _folds(path: Path, cohort: Cohort, task: Task, given: Any, validation: float, seed: int) -> Folds:
    """Returns the folds of the folder, which are made or copied first where it has none."""
    file, kept = path / FOLDS_FILE, (path / FOLDS_FILE).exists()
    if isinstance(given, int):
        wanted = make_folds(cohort, task, given, validation, seed)
    else:
        wanted = read_folds(os.path.expanduser(given), cohort, task, validation, seed)
    if not kept:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(path, error) from error
        wanted.write(file, cohort)
    elif read_folds(file, cohort, task, validation, seed) != wanted:
        raise SettingsError(
            f"{file}: this folder has other folds than those that folds=, validation=, seed= and the cohort make now. "
            f"Go on with {typed('folds', file)}, or choose another folder with folder=."
        )
    return wanted


def _check_same(path: Path, plan: Mapping[str, Any]) -> None:
    """Writes the settings of all folds into the folder, or refuses those that differ from what is there."""
    remove_unfinished(path)
    file, now = path / SETTINGS_FILE, _flat({key: value for key, value in plan.items() if key not in _OWN})
    if now.get("initial_weights"):  # wherever they lie by now
        now["initial_weights"] = f"weights with the checksum {weights_checksum(now['initial_weights'])}"
    free = tuple(f"{one}." for one in (*CHANGEABLE, *_FOLLOWING))
    now = {key: value for key, value in now.items() if not f"{key}.".startswith(free)}
    now = json.loads(json.dumps(now, default=str))
    if not file.exists():
        write_atomically(file, json.dumps(now, indent=1) + "\n")
        return
    try:
        before: dict[str, Any] = dict(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise EvaluationError(f"{file}: cannot be read ({error}). Choose another folder with folder=.") from error
    unlike = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if unlike:
        key = unlike[0]
        more = f" (and {len(unlike) - 1} more settings)" if len(unlike) > 1 else ""
        raise SettingsError(
            f"{path}: its folds are trained with {key}={before.get(key)}, not {now.get(key)}{more}. Go on with the "
            "settings that they began with, or choose another folder with folder=."
        )


def _flat(node: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping) or not node:
        return {path: node}
    return {k: v for key, part in node.items() for k, v in _flat(part, f"{path}.{key}" if path else str(key)).items()}


# ---------------------------------------------------------------------------------------------- one fold
def _train(run: Path, number: int, folds: Folds, cohort: Cohort, settings: Sequence[str]) -> None:
    """Trains and tests one fold, or goes on with it; a fold that has ended is left as it is."""
    if (run / METRICS_FILE).exists():
        _say(f"fold {number} of {len(folds)}: has ended before")
        return
    going_on = (run / CONFIG_FILE).exists()
    _say(f"fold {number} of {len(folds)}: {'goes on' if going_on else 'begins'} ({run})")
    if going_on:
        given = [_setting("resume", run), *_changeable(settings)]
    else:
        try:
            run.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(run, error) from error
        folds.cohort(cohort, number).write_splits(run / SPLITS_FILE)
        given = [*settings, _setting("run", run), _setting("splits", run / SPLITS_FILE)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):  # one table at the end, not one for each fold
        train(composed(*given), given)
    write_atomically(run / PRINTED_FILE, printed.getvalue().strip() + "\n")


def _say(line: str) -> None:
    print(f"glimpse: {line}", file=sys.stderr, flush=True)


def _setting(key: str, path: Path) -> str:
    """Returns `key=path` as Hydra reads it, whatever the path holds."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
    return f"{key}='{escaped}'"


def _changeable(settings: Sequence[str]) -> list[str]:
    keys = typed_keys(settings)
    return [
        one
        for one, key in zip(settings, keys, strict=True)
        if any(key == name or key.startswith(f"{name}.") for name in CHANGEABLE)
    ]


# ---------------------------------------------------------------------------------------------- all folds
def _together(path: Path, count: int, plan: Mapping[str, Any]) -> CrossValidated:
    """Measures all folds together, and writes answers, metrics and pictures."""
    runs = [path / f"fold-{number}" for number in range(1, count + 1)]
    task = task_of(runs[0])
    assert task is not None, "every environment with a cohort has a task"
    metrics = [json.loads((run / METRICS_FILE).read_text("utf-8")) for run in runs]
    answers = [read_answers(run / PREDICTIONS_FILE, task) for run in runs]
    rows = summarised([one["readers"] for one in metrics], answers, task, int(plan["seed"]))
    record = {
        "folds": count,
        "seed": plan["seed"],
        "max_glimpses": plan["max_glimpses"],
        "seconds": sum(sum(one["seconds"].values()) for one in metrics),
        "readers": rows,
    }
    tables = [read_rows(run / PREDICTIONS_FILE, task.target_columns) for run in runs]
    write_atomically(path / PREDICTIONS_FILE, predictions_of_folds(tables))
    write_atomically(path / METRICS_FILE, json.dumps(record, indent=2) + "\n")
    draw_answers(rows, path)
    table = table_over_folds(rows, task.headline, task.further)
    return CrossValidated(path, record, table, {})


# ---------------------------------------------------------------------------------------------- the command
_NAMES = tuple(inspect.signature(cross_validate).parameters)[1:]


def _parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parts what was typed into the settings of the command, those of Hydra included, and those of a training."""
    keys = [one.lstrip("+~").partition("=")[0] for one in arguments]
    flags = [one for one in arguments if one.startswith("-")]  # Hydra wants its settings side by side
    own = [
        one
        for one, key in zip(arguments, keys, strict=True)
        if one not in flags and (key in _NAMES or key.startswith(("hydra/", "hydra.")))
    ]
    training = [one for one in arguments if one not in (*own, *flags)]
    for one in training:
        if "=" not in one and not one.startswith("~"):
            raise SettingsError(f"{one}: expected key=value{suggestion(one, _NAMES)}.")
    return [*own, *flags], training


def _one(config: DictConfig, training: Sequence[str]) -> None:
    """Runs the command once; launchers of Hydra find this function by its name, in whichever process they call it."""
    keep_freed_memory()
    options: Any = OmegaConf.to_container(config, resolve=True)
    with in_one_line(), unread.named_at_the_end():
        refuse_unknown(options, _NAMES, "glimpse cross-validate")
        found = cross_validate(training, **options)
        print(found.told)
    if found.abandoned:
        sys.exit(1)


def main() -> None:
    """Runs the command; mistakes of the user end it with a one-line message and exit code 2."""
    with in_one_line():
        sys.argv[1:], training = _parted(sys.argv[1:])

    @hydra.main(version_base="1.3", config_path="pkg://glimpse.configs", config_name="cross_validate")
    def command(config: DictConfig) -> None:
        _one(config, training)

    run_command(command)


if __name__ == "__main__":
    main()
