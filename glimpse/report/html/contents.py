"""Tables and charts of a report."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from glimpse.pictures.charts import (
    agreement_chart,
    calibration_chart,
    confusion_chart,
    distribution_chart,
    line_chart,
    svg_of,
    threshold_chart,
)
from glimpse.report.html.gathering import Gathered
from glimpse.report.html.learning import learning_curves
from glimpse.report.html.measures import Outcome, calibration, mean_absolute_error, measured, operating
from glimpse.report.tables import counted, interval_text, number, spent_cells, spent_names
from glimpse.tasks import metric_title

_COSTS = {
    "megapixels_per_case": "megapixels",
    "multiply_adds_per_case": "10⁹ multiply-adds",
    "peak_mib": "highest MiB",
    "joules_per_case": "J/case",
}
_OUTCOMES = 12  # classes or labels that have charts of their own
_CLASSES = 20  # of a confusion matrix that can be read


@dataclass(frozen=True)
class Table:
    """A table: a caption, names of columns, and rows of texts."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A picture as SVG, and what is written below it."""

    svg: str
    caption: str


def _chart(figure: Figure, caption: str) -> Chart:
    return Chart(svg_of(figure, f"{figure.axes[0].get_title()}. {caption}"), caption)


# ---------------------------------------------------------------------------------------------- tables
def result_tables(found: Gathered) -> list[Table]:
    """Returns the table of a run against its baselines, and those of later evaluations."""
    if found.metrics is None:
        return []
    tables = [_results(found.metrics, _counted(found))]
    for path in sorted(found.folder.glob("evaluation-*.json")):
        try:
            record = json.loads(path.read_text("utf-8"))
            of = f", cohort {record['cohort']}" if "cohort" in record else ""
            tables.append(_results(record, " ".join([f"a later evaluation{of}.", *record.get("remarks", ())])))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no evaluation of ours
            continue
    return tables


def _counted(found: Gathered) -> str:
    cases, _ = found.known
    return counted(len(cases), len({case.patient for case in cases}))


def _results(record: Mapping[str, Any], what: str) -> Table:
    readers: Mapping[str, Mapping[str, Any]] = record["readers"]
    found = (
        name
        for row in readers.values()
        for name, one in row.items()
        if isinstance(one, Mapping) and "value" in one  # not the confusion matrix, nor what was before calibration
    )
    names = list(dict.fromkeys(found))
    titles = ["% of marks hit" if name == "hit_rate" else metric_title(name) for name in names]
    spent = spent_names(readers)
    costs = ("glimpses", "% of foreground", "s/case", *map(_COSTS.__getitem__, spent))
    header = ("reader", *(f"{title} (95 % interval)" for title in titles), *costs)
    rows = []
    for reader, row in readers.items():
        metrics = (interval_text(row.get(name), scale=100 if name == "hit_rate" else 1) for name in names)
        share, seconds = number(100 * row["share_read"], 1), number(row["seconds_per_case"], 3)
        rows.append((reader, *metrics, number(row["glimpses"], 1), share, seconds, *spent_cells(row, spent)))
    caption = f"Split {record['split']}, at most {record['max_glimpses']} glimpses: {what}"
    return Table(caption, header, tuple(rows))


# ---------------------------------------------------------------------------------------------- charts
def answer_charts(found: Gathered) -> list[Chart]:
    """Returns charts of the answers: against the targets where these are known, or how they are distributed."""
    return list(_compared(found) if found.known[0] else _distributed(found))


def _compared(found: Gathered) -> Iterator[Chart]:
    cases, targets = found.known
    assert found.task is not None
    seed = int((found.metrics or {}).get("seed", 0))
    patients, many = [case.patient for case in cases], f"n = {len(cases)} cases"
    all_of_it = measured(found.task, found.probabilities, targets)
    for confusion in all_of_it.confusions:
        if len(confusion.names) <= _CLASSES:
            title = f"{confusion.title}: number of cases" if confusion.title else "Confusion matrix (number of cases)"
            right = int(confusion.counts.trace())
            caption = f"{many}, {right} of them right. The colour is the share of all cases of a target."
            yield _chart(confusion_chart(confusion.counts, confusion.names, title), caption)
    for outcome in all_of_it.outcomes[:_OUTCOMES]:
        yield from _of_outcome(outcome, patients, seed)
    for quantity in all_of_it.quantities:
        figure = agreement_chart(quantity.targets, quantity.answers, quantity.title, f"Answers: {quantity.title}")
        yield _chart(figure, f"{many}; mean absolute error {mean_absolute_error(quantity):.3g}.")


def _of_outcome(outcome: Outcome, patients: Sequence[str], seed: int) -> Iterator[Chart]:
    count, positive = len(outcome.scores), int(outcome.positive.sum())
    many = f"n = {count} cases, {positive} of them {outcome.name!r}"
    found = calibration(outcome, patients, seed)
    figure = calibration_chart(found.answered, found.observed, found.counts, f"Calibration: {outcome.name}")
    told = f"Numbers are cases; expected calibration error {found.error:.3f}, Brier score {found.brier:.3f}."
    yield _chart(figure, f"{many}. {told}")
    rates = operating(outcome, patients, seed)
    if rates is not None:
        at = {"sensitivity": rates.sensitivity, "specificity": rates.specificity}
        half = len(rates.thresholds) // 2
        told = ", ".join(f"{name} {values[half, 0]:.3f}" for name, values in at.items())
        figure = threshold_chart(rates.thresholds, at, f"Thresholds: {outcome.name}")
        yield _chart(figure, f"{many}. At {rates.thresholds[half]:.2f}: {told}. Bands are 95 %, over patients.")


def _distributed(found: Gathered) -> Iterator[Chart]:
    """Yields a histogram of the answers, if they are probabilities."""
    names, rows = found.columns, [case.probabilities for case in found.cases]
    if not rows or not all(name.rpartition(".")[2].startswith("p_") or "p_" in name for name in names):
        return
    shown = names[1:] if len(names) == 2 else names[:6]
    values = {name: [row[names.index(name)] for row in rows] for name in shown}
    across = shown[0] if len(shown) == 1 else "probability"
    yield _chart(distribution_chart(values, across, "Answers"), f"n = {len(rows)} cases.")


def learning_charts(found: Gathered) -> list[Chart]:
    """Returns the learning curves of a run."""
    charts = []
    further = set() if found.task is None else set(found.task.further)
    for title, across, up, curves in learning_curves(found.folder, further):
        last = ", ".join(f"{name} {values[-1]:.3g}" for name, (_, values) in curves.items())
        charts.append(_chart(line_chart(curves, across, up, title), f"In the end: {last}."))
    return charts
