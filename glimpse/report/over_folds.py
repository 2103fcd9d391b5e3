"""The result of a cross-validation: means over folds, all test answers together, and each fold for itself."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from glimpse.report.answers import Answers
from glimpse.report.tables import SPENT, Row, aligned, interval_text, spent_cells, spent_names, value_of, wrapped
from glimpse.tasks import Task, metric_title

CAPTION = (
    "Each case was a test case once. 'mean' and standard deviation are over folds. 'together' is the metric of all "
    "test answers at once, each by the network of its fold, with its 95 % interval, bootstrapped over patients."
)
_COSTS = ("glimpses", "share_read", "seconds_per_case")


def summarised(
    folds: Sequence[Mapping[str, Row]], answers: Sequence[Mapping[str, Answers]], task: Task, seed: int = 0
) -> dict[str, Row]:
    """Returns one row for each reader that all folds have.

    A row has for each metric of its folds "mean" and "sd" (over the folds where it is defined; of one there is no
    "sd"), "together" (value and interval of all test answers), and "folds" (value and interval in each). Costs have a
    mean only.

    Args:
        folds: of each fold the rows of its `metrics.json`, by reader.
        answers: of each fold the answers of its `predictions.csv`, by reader.
        task: what was predicted.
        seed: seed of the bootstrap.
    """
    found: dict[str, Row] = {}
    for reader in folds[0]:
        if not all(reader in rows for rows in folds) or not all(reader in one for one in answers):
            continue
        rows, together = [one[reader] for one in folds], joined(one[reader] for one in answers)
        pooled = together.metrics(task, seed)
        names = [name for name, value in rows[0].items() if isinstance(value, Mapping) and "value" in value]
        found[reader] = {name: _over(rows, name) | {"together": pooled.get(name)} for name in names}
        found[reader] |= {name: float(np.mean([row[name] for row in rows])) for name in _COSTS}
        known = [name for name in SPENT if all(row.get(name) is not None for row in rows)]
        found[reader] |= {name: float(np.mean([row[name] for row in rows])) for name in known}
        found[reader] |= task.details(together.predictions, together.stacked(task))
    return found


def joined(parts: Iterable[Answers]) -> Answers:
    """Returns the answers of several folds as those of one reader."""
    listed = list(parts)
    cases, patients, targets = (
        tuple(text for part in listed for text in getattr(part, name)) for name in ("cases", "patients", "targets")
    )
    return Answers(listed[0].reader, cases, patients, targets, np.concatenate([part.predictions for part in listed]))


def _over(rows: Sequence[Row], name: str) -> dict[str, Any]:
    values = [value for row in rows if (value := value_of(row, name)) is not None]
    return {
        "mean": float(np.mean(values)) if values else None,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "folds": [row.get(name) for row in rows],
    }


def table_over_folds(rows: Mapping[str, Row], headline: Sequence[str], further: Sequence[str] = ()) -> str:
    """Returns the table of a cross-validation, and below it the first metric in each fold.

    Args:
        rows: one row per reader, as `summarised` returns it.
        headline: the metrics to show with means and together, such as `Task.headline`.
        further: metrics of which a second table shows the means.
    """
    first = metric_title(headline[0])
    means = [f"{metric_title(name)}: mean (sd)" for name in headline]
    header = ["reader", means[0], f"{first}: together (95 % interval)", *means[1:]]
    spent = spent_names(rows)
    cells = [[*header, "glimpses", "% of foreground read", "s/case", *(SPENT[name][0] for name in spent)]]
    for reader, row in rows.items():
        together = interval_text(row[headline[0]]["together"])
        costs = [f"{row['glimpses']:.1f}", f"{100 * row['share_read']:.1f}", f"{row['seconds_per_case']:.3f}"]
        others = [_mean(row.get(name)) for name in headline[1:]]
        cells.append([reader, _mean(row[headline[0]]), together, *others, *costs, *spent_cells(row, spent)])
    second = [["mean (sd)", *map(metric_title, further)]]
    second += [[reader, *(_mean(row.get(name)) for name in further)] for reader, row in rows.items()]
    count = len(next(iter(rows.values()))[headline[0]]["folds"])
    each = [[f"{first} (95 % interval)", *rows]]
    for number in range(count):
        found = (row[headline[0]]["folds"][number] for row in rows.values())
        each.append([f"fold {number + 1}", *map(interval_text, found)])
    blocks = [aligned(cells), *([aligned(second)] if further else []), aligned(each)]
    return "\n\n".join("\n".join(lines) for lines in [wrapped(CAPTION, max(80, len(blocks[0][1]))), *blocks])


def _mean(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["mean"] is None:
        return "n/a"
    return f"{entry['mean']:.3f}" + (f" ({entry['sd']:.3f})" if entry["sd"] is not None else "")


def predictions_of_folds(folds: Sequence[Sequence[Mapping[str, str]]]) -> str:
    """Returns the tables of answers of all folds as one CSV, with the fold, from 1, in the first column."""
    columns = list(dict.fromkeys(name for rows in folds for row in rows[:1] for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["fold", *columns], restval="", lineterminator="\n")
    writer.writeheader()
    for number, rows in enumerate(folds, 1):
        writer.writerows({"fold": number, **row} for row in rows)
    return text.getvalue()
