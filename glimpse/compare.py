"""Compare two runs, or two readers of one run, on the same cases: differences with intervals and p-values.

glimpse compare runs/wsi-ppo-0 runs/wsi-reinforce-0
glimpse compare runs/wsi-ppo-0 readers=[ppo,full_scan]
"""

import inspect
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from glimpse.atomic import write_atomically
from glimpse.cohort.folds import FOLDS_FILE
from glimpse.errors import EvaluationError
from glimpse.report.answers import PREDICTIONS_FILE, Answers, read_answers, task_in, task_of
from glimpse.report.paired import Comparison, compared
from glimpse.runs.loading import not_ended
from glimpse.settings.command import in_one_line, run_command
from glimpse.settings.nearest import suggestion
from glimpse.settings.options import at_least, refuse_unknown
from glimpse.settings.quoting import with_paths
from glimpse.tasks import Survival, Task

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def compare(
    runs: Paths,
    *,
    readers: str | Sequence[str] | None = None,
    bootstrap: int = 2000,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Compares two readers on the cases that both have answered; nothing is read or computed anew but the metrics.

    Args:
        runs: two run folders, folders of cross-validations or tables of answers (`predictions.csv`); or one of them,
            for two of its readers.
        readers: the reader of each, or one name for both; by default the first of each table, which is the agent.
        bootstrap: number of resamples.
        seed: seed of the resampling.
        output: a JSON file to write the comparison to.

    Raises:
        EvaluationError: the answers cannot be compared; the message names the file and the case.
        CheckpointError: the settings of a run cannot be read.
    """
    at_least("bootstrap", bootstrap, 1, whole=True)
    at_least("seed", seed, 0, whole=True)
    given = [Path(os.path.expanduser(one)) for one in _listed(runs, "runs", str | os.PathLike)]
    names = [] if readers is None else _listed(readers, "readers", str)
    if len(given) == 1 and len(names) != 2:
        raise EvaluationError("One run: name two of its readers, such as readers=[ppo,full_scan], or give two runs.")
    if len(given) > 2 or len(names) > 2:
        raise EvaluationError(f"Expected two runs and at most two readers, got {len(given)} and {len(names)}.")
    pair = given * 2 if len(given) == 1 else given
    tasks = [_task(path) for path in pair]
    if tasks[0].columns != tasks[1].columns:
        of_time = " and of the same intervals of time (env.task.edges)" if isinstance(tasks[0], Survival) else ""
        raise EvaluationError(
            f"{pair[0]} and {pair[1]} answer other questions ({', '.join(tasks[0].columns)}; "
            f"{', '.join(tasks[1].columns)}). Compare runs of one task{of_time}."
        )
    wanted = [None, None] if not names else names * 2 if len(names) == 1 else names
    found = [_reader(path, tasks[0], name) for path, name in zip(pair, wanted, strict=True)]
    called = _called(given, found)
    comparison = compared(found[0], found[1], tasks[0], called, bootstrap=bootstrap, seed=seed)
    if output is not None:
        record = {"runs": [os.path.abspath(path) for path in pair], **comparison.record()}
        write_atomically(Path(os.path.expanduser(output)), json.dumps(record, indent=2) + "\n")
    return comparison


def _listed(given: Any, name: str, kind: Any) -> list[Any]:
    listed = [given] if isinstance(given, kind) else given
    if not isinstance(listed, Sequence) or not listed or not all(isinstance(one, kind) for one in listed):
        raise EvaluationError(f"Expected {name} as a list such as [a,b], got {given!r}.")
    return list(listed)


def _table(path: Path) -> Path:
    if not path.is_dir():
        return path
    if reason := not_ended(path, PREDICTIONS_FILE):
        raise EvaluationError(reason)
    if (path / FOLDS_FILE).exists() and not (path / PREDICTIONS_FILE).exists():
        raise EvaluationError(
            f"{path}: this cross-validation has not ended, so it has no {PREDICTIONS_FILE} yet. The command that began "
            "it goes on with it when it is typed again."
        )
    return path / PREDICTIONS_FILE


def _task(path: Path) -> Task:
    """Returns what was predicted: the task of the run, of the first fold, or what the table shows."""
    folder = path if path.is_dir() else path.parent
    return task_of(folder) or task_of(folder / "fold-1") or task_in(_table(path))


def _reader(path: Path, task: Task, name: str | None) -> Answers:
    table = _table(path)
    found = read_answers(table, task)
    if not found:
        raise EvaluationError(
            f"{table}: no answer has a target, so nothing can be measured. Give a cohort with targets."
        )
    if name is not None and name not in found:
        raise EvaluationError(
            f"{table}: no answers of {name!r}{suggestion(name, found)}. Its readers are {', '.join(found)}."
        )
    return found[name or next(iter(found))]


def _called(given: Sequence[Path], found: Sequence[Answers]) -> tuple[str, str]:
    """Returns short names of the two that differ: of readers, or of runs with their readers."""
    first, second = (one.reader for one in found)
    if first != second:
        return first, second
    names = [path.resolve().name if path.is_dir() else path.resolve().stem for path in (given[0], given[-1])]
    if names[0] == names[1]:
        names = [os.fspath(given[0]), os.fspath(given[-1])]
    return names[0], names[1]


@hydra.main(version_base="1.3", config_path="pkg://glimpse.configs", config_name="compare")
def _main(config: DictConfig) -> None:
    options: Any = OmegaConf.to_container(config, resolve=True)
    with in_one_line():
        refuse_unknown(options, inspect.signature(compare).parameters, "glimpse.compare")
        if options["runs"] is None:
            raise EvaluationError("Which runs? Give two folders: glimpse compare <run folder> <run folder>.")
        print(f"\n{compare(**options).told}")


def main() -> None:
    """Runs the command; mistakes of the user end it with a one-line message and exit code 2.

    Folders may be typed without `runs=`.
    """
    sys.argv[1:] = with_paths(sys.argv[1:], "runs", several=True)
    run_command(_main)


if __name__ == "__main__":
    main()
