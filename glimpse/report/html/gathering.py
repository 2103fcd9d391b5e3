"""Reads what a run folder or a folder of predictions holds, for its report."""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from glimpse.cohort.skipped import FAILURES_FILE
from glimpse.errors import EvaluationError
from glimpse.pictures.pages import FORM, PAGES
from glimpse.report.answers import target_text, task_section
from glimpse.report.html.measures import is_right
from glimpse.runs.file_names import file_names
from glimpse.runs.loading import CONFIG_FILE, no_run, read_settings
from glimpse.settings.building import build
from glimpse.tasks import Task

_PREDICTIONS, _METRICS, _MANIFEST = "predictions.csv", "metrics.json", "manifest.json"
_DEMO = "predictions"  # what a demo calls the folder of its predictions
_OF_RUN = ("reader", "slide_id", "case_id", "glimpses")  # columns without which nothing can be listed
_OF_PREDICTIONS = ("slide_id", "answer", "glimpses", "file")


@dataclass(frozen=True, eq=False)
class Listed:
    """One case of the list.

    Attributes:
        id: its name.
        patient: the patient's name; empty where it is not known.
        target: the true answer as a text; None where it is not known.
        answer: the answer as a text.
        probabilities: the answer as `Task.probabilities` returns it.
        right: whether the answer is right; None where it is not known, or no matter of yes or no.
        glimpses: how many glimpses were read.
        share_read: which share of the foreground they show; None where it is not known.
        record: the file from which its page is made (see `glimpse.pictures.pages`), whether it is there or not.
    """

    id: str
    patient: str
    target: str | None
    answer: str
    probabilities: tuple[float, ...]
    right: bool | None
    glimpses: int
    share_read: float | None
    record: Path


@dataclass(frozen=True, eq=False)
class Gathered:
    """What a folder holds.

    Attributes:
        folder: the folder.
        kind: "run" or "predictions".
        facts: names and texts of what there is to know about it.
        columns: names of the outputs.
        cases: the cases that the agent has read.
        task: what was predicted; None where the folder does not say it.
        metrics: the content of `metrics.json`; None where a run has not ended, and of predictions.
        agent: what tables call the agent.
        failures: cases that could not be read, or were left out of a training, by the columns of `failures.csv`.
    """

    folder: Path
    kind: str
    facts: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    cases: tuple[Listed, ...]
    task: Task | None = None
    metrics: Mapping[str, Any] | None = None
    agent: str = ""
    failures: tuple[Mapping[str, str], ...] = ()

    @cached_property
    def known(self) -> tuple[list[Listed], list[Any]]:
        """The cases whose target is known and can be read, and the targets in the form that the task uses."""
        cases, targets = [], []
        for case in self.cases if self.task is not None else ():
            assert self.task is not None
            if case.target:
                cases.append(case)
                targets.append(self.task.parse_target(case.target))
        return cases, targets

    @property
    def probabilities(self) -> Float[np.ndarray, "case output"]:
        """The answers to cases whose target is known."""
        return np.array([case.probabilities for case in self.known[0]]).reshape(-1, len(self.columns))


def gathered(folder: str | os.PathLike[str]) -> Gathered:
    """Reads a folder.

    Raises:
        EvaluationError: it holds neither a run nor predictions, or a file of it is damaged.
        CheckpointError: its `config.yaml` cannot be read.
    """
    path = Path(folder)
    if (path / CONFIG_FILE).is_file():
        return _run(path)
    if (path / _MANIFEST).is_file() and (path / _PREDICTIONS).is_file():
        return _predicted(path)
    inside = path / _DEMO
    if (inside / _MANIFEST).is_file():
        raise EvaluationError(f"{path}: there is no run here, but there are predictions in {inside}. Give that folder.")
    what = (
        f"there is no run here (no {{file}}) and there are no predictions (no {_MANIFEST} beside {_PREDICTIONS}). Give "
        "the folder of a training (run=) or of glimpse predict (output=)."
    )
    raise EvaluationError(no_run(path, what))


# ---------------------------------------------------------------------------------------------- runs
def _run(folder: Path) -> Gathered:
    settings = read_settings(folder) or {}
    task, agent = _task(settings), str((settings.get("agent") or {}).get("name", "policy"))
    metrics = _json(folder / _METRICS) if (folder / _METRICS).is_file() else None
    if metrics is not None and not isinstance(metrics.get("readers"), dict):
        raise _unreadable(folder / _METRICS, ValueError("it lacks 'readers'"))
    rows = list(_table(folder / _PREDICTIONS, *_OF_RUN)) if metrics and (folder / _PREDICTIONS).is_file() else []
    rows = [row for row in rows if row.get("reader") == agent]
    columns = task.columns if task is not None else _columns(rows)
    names = file_names([row["slide_id"] for row in rows])
    cases = tuple(
        _listed(row, row["slide_id"], row["case_id"], columns, task, folder / PAGES / f"{name}.json", folder)
        for row, name in zip(rows, names, strict=True)
    )
    left_out = tuple(_table(folder / FAILURES_FILE)) if (folder / FAILURES_FILE).is_file() else ()
    facts = _facts(settings, metrics) + ((("cases left out", str(len(left_out))),) if left_out else ())
    return Gathered(folder, "run", facts, columns, cases, task, metrics, agent, left_out)


def _task(settings: Mapping[str, Any]) -> Task | None:
    """Returns the task of a run; None where it is of a package that is not installed."""
    try:
        made = build(task_section(settings))
    except Exception:  # whatever a package of somebody else does: all that needs no task can still be shown
        return None
    return made if isinstance(made, Task) else None


def _facts(settings: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    section = settings.get("env") or {}
    facts = [
        ("environment", section.get("name")),
        ("agent", (settings.get("agent") or {}).get("name")),
        ("cohort", (section.get("cohort") or {}).get("path") or "embedded"),
        ("seed", settings.get("seed")),
        ("glimpses at most", settings.get("max_glimpses")),
    ]
    if metrics is not None:
        seconds = sum(metrics.get("seconds", {}).values())
        facts += [("split", metrics.get("split")), ("time", f"{seconds / 60:.1f} minutes")]
    return tuple((name, str(value)) for name, value in facts if value is not None)


# ---------------------------------------------------------------------------------------------- predictions
def _predicted(folder: Path) -> Gathered:
    manifest, rows = _json(folder / _MANIFEST), list(_table(folder / _PREDICTIONS, *_OF_PREDICTIONS))
    columns = _columns(rows)
    cases = tuple(
        _listed(row, _plain(row["slide_id"]), "", columns, None, folder / PAGES / f"{row['file']}.json", folder)
        for row in rows
    )
    given = manifest.get("arguments") or {}
    facts = [(name, given.get(name)) for name in ("model", "input", "max_glimpses")]
    failures = tuple(_table(folder / FAILURES_FILE)) if (folder / FAILURES_FILE).is_file() else ()
    shown = [(name.replace("_", " "), _joined(value)) for name, value in facts if value is not None]
    shown += [("cases read", str(len(cases))), ("cases that failed", str(len(failures)))]
    failures = tuple({name: _plain(text) for name, text in row.items()} for row in failures)
    return Gathered(folder, "predictions", tuple(shown), columns, cases, failures=failures)


def _joined(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(text: str) -> str:
    """Takes the apostrophe away that keeps spreadsheets from taking a text for a formula."""
    return text[1:] if text[:1] == "'" and text[1:].lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else text


# ---------------------------------------------------------------------------------------------- files
def _columns(rows: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Returns the columns of probabilities: those between the answer, or the target, and the number of glimpses."""
    names = list(rows[0]) if rows else []
    before = "answer" if "answer" in names else "target"
    start = names.index(before) + 1 if before in names else len(names)  # unknown columns of targets come first
    end = names.index("glimpses") if "glimpses" in names else start
    return tuple(_plain(name) for name in names[start:end] if not name.startswith("sd_"))


def _listed(
    row: Mapping[str, str], case: str, patient: str, columns: Sequence[str], task: Task | None, record: Path, of: Path
) -> Listed:
    try:
        values = tuple(float(row[name] if name in row else row[f"'{name}"]) for name in columns)
        target: str | None = row.get("target") or None
        if task is not None:
            given = all(row.get(name) for name in task.target_columns)
            target = target_text(row, task) if given else None
        known = None if task is None or target is None else task.parse_target(target)
        answer = row["answer"] if "answer" in row else task.answer(np.array(values)) if task is not None else ""
        right = None if task is None or known is None else is_right(task, np.array(values), known)
        share = float(row["share_read"]) if row.get("share_read") else None
        return Listed(case, patient, target, _plain(answer), values, right, int(row["glimpses"]), share, record)
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(
            f"{of / _PREDICTIONS}: the line of {case!r} cannot be read ({type(error).__name__}: {error}). The file "
            "must be as glimpse has written it; make it again with the command that made it."
        ) from error


def _table(path: Path, *needed: str) -> Iterator[dict[str, str]]:
    """Yields the lines of a CSV, which must have the columns that are needed."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in needed if name not in (reader.fieldnames or ())]
            if lacking:
                raise ValueError(f"it has no column {lacking[0]!r}")
            for row in reader:
                if None in row.values():
                    raise ValueError(f"line {reader.line_num} is too short")
                yield row
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, error) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return content


def _unreadable(path: Path, error: Exception) -> EvaluationError:
    return EvaluationError(
        f"{path}: cannot be read ({error}). The file must be as glimpse has written it; make it again with the command "
        "that made it."
    )


def page_of(case: Listed) -> dict[str, Any] | None:
    """Returns the record of a case; None where there is none, or it is damaged, of another case or another form."""
    try:
        record = json.loads(case.record.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    right = isinstance(record, dict) and record.get("form") == FORM and record.get("id") == case.id
    return record if right and record.get("readings") else None
