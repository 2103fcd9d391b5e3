"""Reads the answers of a run, of a cross-validation or of an evaluation from `predictions.csv` again."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from glimpse.errors import EvaluationError
from glimpse.runs.loading import CONFIG_FILE, read_settings
from glimpse.settings.building import build
from glimpse.tasks import Classification, Task

PREDICTIONS_FILE = "predictions.csv"
_COLUMNS = ("reader", "slide_id", "case_id")
_COSTS = {
    "glimpses": ("glimpses", 1.0),
    "share_read": ("share_read", 1.0),
    "seconds": ("seconds_per_case", 1.0),
    "pixels_read": ("megapixels_per_case", 1e-6),
    "multiply_adds": ("multiply_adds_per_case", 1.0),
}  # of each column, what rows of `metrics.json` call its mean, and the factor to their unit
_SUM = 1e-4  # by which probabilities of classes may miss 1 in a table


@dataclass(frozen=True, eq=False)
class Answers:
    """What one reader has answered.

    Attributes:
        reader: its name.
        cases: the names of the cases, without those that have no target.
        patients: the patient of each case.
        targets: the target of each case as a text, which `Task.parse_target` reads.
        predictions: the prediction of each case, in the form that the task uses.
        costs: what each case has cost, NaN where the table does not say; by the names that rows of `metrics.json` have.
    """

    reader: str
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    targets: tuple[str, ...]
    predictions: Float[np.ndarray, "case output"]
    costs: Mapping[str, Float[np.ndarray, " case"]] = field(default_factory=dict)

    def some(self, cases: Sequence[str]) -> "Answers":
        """Returns the answers for some of the cases, in the order that is given."""
        place = {name: index for index, name in enumerate(self.cases)}
        rows = [place[name] for name in cases]
        patients, targets = (tuple(values[row] for row in rows) for values in (self.patients, self.targets))
        costs = {name: values[rows] for name, values in self.costs.items()}
        return Answers(self.reader, tuple(cases), patients, targets, self.predictions[rows], costs)

    def metrics(self, task: Task, seed: int = 0) -> dict[str, dict[str, float | None]]:
        """Returns the metrics of these answers with intervals, as rows of `metrics.json` have them."""
        found = task.metrics(self.predictions, self.stacked(task), self.patients, seed=seed)
        return {name: one.record() for name, one in found.items()}

    def stacked(self, task: Task) -> np.ndarray:
        """Returns the targets as one array."""
        return task.stack([task.parse_target(text) for text in self.targets])


def read_rows(path: Path, targets: Sequence[str] = ("target",)) -> list[dict[str, str]]:
    """Reads a table of answers.

    Args:
        path: the table.
        targets: the columns that hold a target (`Task.target_columns`).

    Raises:
        EvaluationError: it cannot be read, or is no such table.
    """
    try:
        table = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
        rows = list(table)
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be read ({error.strerror}). Give a run that has ended, or its {PREDICTIONS_FILE}."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{path}: cannot be read ({error}). Give the {PREDICTIONS_FILE} of a run.") from error
    if missing := [name for name in (*_COLUMNS, *targets) if name not in (table.fieldnames or ())]:
        raise EvaluationError(
            f"{path}: it lacks the column {missing[0]!r}. Give the {PREDICTIONS_FILE} of a run, with targets: that of "
            "`glimpse predict` has none."
        )
    return rows


def read_answers(path: Path, task: Task) -> dict[str, Answers]:
    """Reads a table of answers, by the name of the reader. Cases without a target are left out.

    Raises:
        EvaluationError: the table cannot be read, or is not of this task; the message names the case.
    """
    of_reader: dict[str, list[dict[str, str]]] = {}
    for row in read_rows(path, task.target_columns):
        if any(row[name] for name in task.target_columns):
            of_reader.setdefault(row["reader"], []).append(row)
    return {reader: _answers(path, reader, rows, task) for reader, rows in of_reader.items()}


def _answers(path: Path, reader: str, rows: Sequence[Mapping[str, str]], task: Task) -> Answers:
    cases = tuple(row["slide_id"] for row in rows)
    if len(set(cases)) < len(cases):
        twice = next(name for name in cases if cases.count(name) > 1)
        raise EvaluationError(f"{path}: {reader} has answered {twice} several times. Leave one line for each case.")
    probabilities, targets, spent = [], [], []
    for row in rows:
        try:
            probabilities.append([float(row[name]) for name in task.columns])
            targets.append(target_text(row, task))
            spent.append([float(row.get(column) or "nan") * factor for column, (_, factor) in _COSTS.items()])
        except KeyError as error:
            raise EvaluationError(
                f"{path}: it has no column {error}, so its answers are those of another task."
            ) from error
        except (TypeError, ValueError) as error:
            raise EvaluationError(f"{path}: {row['slide_id']}: {error}.") from error
    try:
        predictions = task.predictions(np.array(probabilities, np.float64))
    except NotImplementedError as error:
        raise EvaluationError(f"{path}: cannot be measured anew: {error}") from error
    patients = tuple(row["case_id"] for row in rows)
    costs = dict(zip((name for name, _ in _COSTS.values()), np.array(spent).T, strict=True))
    return Answers(reader, cases, patients, tuple(targets), predictions, costs)


def target_text(row: Mapping[str, str], task: Task) -> str:
    """Returns the target in a line of a table of answers, as a text that `Task.parse_target` reads.

    Raises:
        KeyError: a column is missing.
        ValueError: the cells hold no target of this task.
    """
    cells = [row[name] for name in task.target_columns]
    target = task.parse_cells(cells)
    return cells[0] if len(cells) == 1 else task.write_target(target)


def task_of(run: Path) -> Task | None:
    """Returns the task of the run in a folder; None if there is no run, or its settings do not say it.

    Raises:
        CheckpointError: its settings cannot be read.
    """
    settings: Any = read_settings(run) if (run / CONFIG_FILE).exists() else None
    section = task_section(settings or {})
    if not section:
        return None
    task: Task = build(section)
    return task


def task_section(settings: Mapping[str, Any]) -> Any:
    """Returns the section of a run's settings that makes its task; None where there is none."""
    env = settings.get("env") or {}
    return (env.get("make") or {}).get("task") or env.get("task")


def task_in(path: Path) -> Task:
    """Returns the task of a table of answers that belongs to no run: a classification, by its columns ``p_<class>``.

    Raises:
        EvaluationError: the table shows no probabilities of classes.
    """
    rows = read_rows(path)
    names = [name.removeprefix("p_") for name in (rows[0] if rows else ()) if name and name.startswith("p_")]
    try:
        sums = [sum(float(row[f"p_{name}"]) for name in names) for row in rows]
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{path}: a probability is no number ({error}). Mend the table.") from error
    if len(names) < 2 or any(abs(one - 1) > _SUM for one in sums):
        raise EvaluationError(
            f"{path}: without its run, only answers with classes can be compared, whose columns p_<class> add up to 1. "
            "Give the run folder."
        )
    return Classification(names)
