"""Turns readings into the rows of `metrics.json`, the printed table, and `predictions.csv`."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from glimpse.atomic import write_atomically
from glimpse.reading.calibration import HIGHEST
from glimpse.reading.readers import FULL_SCAN
from glimpse.reading.records import Reading
from glimpse.tasks import Interval, Task, interval, metric_title, resampled_weights, weighted_mean

Row = dict[str, Any]

_SENT = ("random", "grid", "wide_first")
_CAPTIONS = {
    "overview": "'overview' answers before the first glimpse: the same network, or where its answers never see the "
    "overview, one of the same kind trained to answer from overviews alone.",
    FULL_SCAN: "'full_scan' is what people do today: every foreground patch is embedded by the pretrained encoder, and "
    "gated attention or the mean of the highest scores pools them, by default whichever is better on the validation "
    "split.",
}
HIT_RATE = (
    "A mark (an annotated region) is hit where a glimpse shows it whole or lies in it; of several fields of view, only "
    "the finest counts."
)
_CUT = "The patches of a full scan may cut it."
_FEW = "Bootstrapped intervals of so few patients are too narrow."
FEW_PATIENTS = 20
"""With fewer patients than this, bootstrapped intervals are too narrow and p-values mean nothing."""
_COST = ("glimpses", "% of foreground read", "s/case")
MEASURED = ("seconds_per_case", "peak_mib", "joules_per_case")
"""What rows say of time, memory and energy: it differs each time."""
SPENT = {
    "megapixels_per_case": ("Mpixel", 1.0, 2),
    "multiply_adds_per_case": ("GMAC", 1e-9, 2),
    "peak_mib": ("MiB", 1.0, 0),
    "joules_per_case": ("J", 1.0, 1),
}
"""What else a case costs: the title of the column, the factor to its unit, and the digits."""
SPENT_CAPTION = (
    "Mpixel: megapixels of all glimpses. GMAC: billions of multiply-adds of networks, if nothing is kept from before. "
    "s/case: the process's caches are empty when a reader begins; features that are on disk are not computed again. "
    "MiB: the highest memory while reading, of the process with all that it holds, or of PyTorch on a GPU. "
    "J: energy of all GPUs."
)
_KEPT = "Neither is known of a full scan whose patches were kept from before."


def summarise(readings: Sequence[Reading], task: Task, seed: int = 0, bootstrap: int = 1000) -> Row:
    """Returns one reader's row of `metrics.json`: the task's metrics with intervals, and its mean costs per case.

    Where cases have marks, the row also has "hit_rate": the share of a case's marks that were hit, averaged over the
    cases with marks. Cases without a target are left out. It has what the task tells beside metrics (`Task.details`).

    Args:
        readings: how each case was read.
        task: what was predicted.
        seed: seed of the bootstrap.
        bootstrap: number of resamples; with 0, metrics have no intervals.

    Raises:
        ValueError: there are no readings, or no case has a target.
    """
    if not readings:
        raise ValueError("expected at least one reading, got none: the split is empty. Choose another split.")
    readings = [reading for reading in readings if reading.target is not None]
    if not readings:
        raise ValueError(
            "no case has a target, so nothing can be measured. Write the predictions only, or add targets."
        )
    predictions = np.stack([reading.prediction for reading in readings])
    targets = task.stack([reading.target for reading in readings])
    patients = np.array([reading.patient for reading in readings])
    metrics = task.metrics(predictions, targets, patients, bootstrap=bootstrap, seed=seed)
    rated = [reading for reading in readings if reading.hit_rate is not None]
    if rated:
        metrics["hit_rate"] = _mean_hit_rate(rated, seed)
    counted: list[Any] = [reading.multiply_adds for reading in readings]
    row: Row = {name: found.record() for name, found in metrics.items()}
    return (
        row
        | task.details(predictions.astype(np.float64), targets)
        | {
            "glimpses": float(np.mean([reading.glimpses for reading in readings])),
            "share_read": float(np.mean([reading.share_read for reading in readings])),
            "seconds_per_case": float(np.mean([reading.seconds for reading in readings])),
            "megapixels_per_case": float(np.mean([reading.pixels_read for reading in readings])) / 1e6,
            "multiply_adds_per_case": None if None in counted else float(np.mean(counted)),
        }
    )


def counted(cases: int, patients: int) -> str:
    """Returns how many cases and patients numbers were measured on, and a warning where these are few."""
    text = f"{cases} case{'s'[: cases != 1]} of {patients} patient{'s'[: patients != 1]}."
    return f"{text} {_FEW}" if patients < FEW_PATIENTS else text


def measured_on(readings: Sequence[Reading]) -> str:
    """Returns a sentence that says on how many cases and patients with a target numbers were measured."""
    patients = [reading.patient for reading in readings if reading.target is not None]
    return f"Measured on {counted(len(patients), len(set(patients)))}"


def _mean_hit_rate(readings: Sequence[Reading], seed: int) -> Interval:
    rates = np.array([reading.hit_rate for reading in readings])
    weights = resampled_weights([reading.patient for reading in readings], 1000, seed)
    return interval(rates.mean(), weighted_mean(rates, weights))


def caption_of(readers: Iterable[str], agent: str = "") -> str:
    """Returns the text above a table, which explains its rows; `agent` is what the run's own agent is called.

    The row of an agent that is itself called "grid" or "random" was trained for its places.
    """
    names = list(readers)
    texts = ["Intervals are 95 %, bootstrapped over patients."]
    if sent := [repr(name) for name in _SENT if name in names and name != agent]:
        listed = f"{', '.join(sent[:-1])} and {sent[-1]} are" if len(sent) > 1 else f"{sent[0]} is"
        texts.append(f"{listed} this run's own network sent to other places (it was not trained for them).")
    return " ".join([*texts, *(text for name, text in _CAPTIONS.items() if name in names)])


def table(rows: Mapping[str, Row], headline: Sequence[str] = ("auc", "accuracy"), agent: str = "") -> str:
    """Returns an aligned plain-text table with a caption above it.

    Args:
        rows: one row per reader, as `summarise` returns it.
        headline: the metrics to show, usually `Task.headline`; the first one is shown with its interval.
        agent: what the run's own agent is called, which the caption knows from baselines of the same name.
    """
    marked = any("hit_rate" in row for row in rows.values())
    titles = [metric_title(name) for name in headline]
    titles[:1] = [f"{title} (95 % interval)" for title in titles[:1]]
    spent = spent_names(rows)
    cost = (_COST[0], "% read", _COST[2], *(SPENT[name][0] for name in spent)) if spent else _COST
    header = ("reader", *titles, *(["% of marks hit"] if marked else []), *cost)
    cells = [header]
    cells += [(*_cells(reader, row, headline, marked), *spent_cells(row, spent)) for reader, row in rows.items()]
    lines = aligned(cells)
    scanned = FULL_SCAN in rows
    texts = [caption_of(rows, agent), *([HIT_RATE, *([_CUT] if scanned else [])] if marked else [])]
    texts += ["% read: of the foreground.", SPENT_CAPTION, *([_KEPT] if scanned else [])] if spent else []
    text = " ".join(texts)
    return "\n".join([*wrapped(text, max(80, len(lines[1]))), "", *(line.rstrip() for line in lines)])


def spent_names(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns which of `SPENT` any row has; rows of earlier versions have none."""
    return [name for name in SPENT if any(row.get(name) is not None for row in rows.values())]


def spent_cells(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """Returns what a case costs as texts, "n/a" where it is not known."""
    found = ((row.get(name), *SPENT[name][1:]) for name in names)
    return tuple(number(_scaled(value, factor), digits) for value, factor, digits in found)


def further_table(rows: Mapping[str, Row], names: Sequence[str]) -> str:
    """Returns a second table, of further metrics without their intervals; empty where there are none.

    Args:
        rows: one row per reader.
        names: the metrics to show, usually `Task.further`.
    """
    if not names:
        return ""
    scaled = any("uncalibrated" in row for row in rows.values())
    header = ["reader", *map(metric_title, names), *(["temperature"] if scaled else [])]
    cells = [header]
    for reader, row in rows.items():
        before = row.get("uncalibrated") or {}
        shown = [
            number(value_of(row, name), 3) + (f" ({number(value_of(before, name), 3)})" if name in before else "")
            for name in names
        ]
        cells.append([reader, *shown, *([number(row.get("temperature"), 2)] if scaled else [])])
    lines = [line.rstrip() for line in aligned(cells)]
    note = " ".join(["In brackets: without calibration by temperature.", *_blind(rows)])
    return "\n".join([*([*wrapped(note, max(80, len(lines[1]))), ""] if scaled else []), *lines])


def _blind(rows: Mapping[str, Row]) -> list[str]:
    """Returns a sentence on readers whose temperature is the highest there is; none where there are no such readers."""
    names = [name for name, row in rows.items() if (row.get("temperature") or 0) > 0.999 * HIGHEST]
    if not names:
        return []
    return [
        f"The temperature {HIGHEST:.0f} is the highest: on the validation split, the answers of {', '.join(names)} "
        "carried no information, so the calibrated probabilities are those of a blind guess, nearly the same for all."
    ]


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table: the first column flush left, the others flush right, a rule below the header."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [
        "  ".join(_align(text, width, i) for i, (text, width) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _cells(reader: str, row: Row, headline: Sequence[str], marked: bool) -> tuple[str, ...]:
    hit = value_of(row, "hit_rate")
    return (
        reader,
        *(interval_text(row.get(name)) for name in headline[:1]),
        *(number(value_of(row, name), 3) for name in headline[1:]),
        *([number(None if hit is None else 100 * hit, 1)] if marked else []),
        number(row["glimpses"], 1),
        number(100 * row["share_read"], 1),
        number(row["seconds_per_case"], 3),
    )


def value_of(row: Row, name: str) -> float | None:
    """Returns the value of a metric in a row, or None where the row lacks the metric or its value is not defined."""
    entry = row.get(name)
    return entry.get("value") if isinstance(entry, Mapping) else None


def interval_text(entry: Mapping[str, float | None] | None, sign: str = "", scale: float = 1.0) -> str:
    """Returns a metric's value with its interval as a text.

    Args:
        entry: `value`, `low` and `high`; None where there is no such metric.
        sign: "+" writes the sign of positive numbers, too.
        scale: 100 for per cent.
    """
    if entry is None or entry["value"] is None:
        return "n/a"
    digits = 3 if scale == 1 else 1
    value, low, high = (number(_scaled(entry[name], scale), digits, sign) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else scale * value


def number(value: float | None, digits: int, sign: str = "") -> str:
    """Returns a number as a text, or "n/a" where it is not defined."""
    return "n/a" if value is None else f"{value:{sign}.{digits}f}"


def _align(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)


def wrapped(text: str, width: int) -> list[str]:
    """Returns a text in lines of at most this many characters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return lines


def write_predictions(
    path: str | os.PathLike[str], readings: Mapping[str, Sequence[Reading]], task: Task, split: str
) -> None:
    """Writes every reader's answers as CSV, one line per reader and case.

    Predictions have nine digits, so that metrics can be computed from the file (see `glimpse.report.answers`). The
    target is written as in the CSV of a cohort, in the same columns, and left empty where it is not known. The
    predictions fill the columns `task.columns`, such as `p_<name>` for probabilities. There is a column `hit_rate` if
    any case has marks.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    marked = any(one.hit_rate is not None for answers in readings.values() for one in answers)
    cost = ["glimpses", "share_read", "seconds", "pixels_read", "multiply_adds", *(["hit_rate"] if marked else [])]
    writer.writerow(["reader", "split", "slide_id", "case_id", *task.target_columns, *task.columns, *cost])
    for reader, answers in readings.items():
        for one in answers:
            values = (f"{value:.9g}" for value in np.ravel(task.probabilities(one.prediction[None])[0]))
            spent = [one.glimpses, f"{one.share_read:.6f}", f"{one.seconds:.6f}", one.pixels_read]
            spent.append("" if one.multiply_adds is None else one.multiply_adds)
            spent += ["" if one.hit_rate is None else f"{one.hit_rate:.6f}"] if marked else []
            unknown = ("",) * len(task.target_columns)
            target = unknown if one.target is None else task.write_cells(one.target)
            writer.writerow([reader, split, one.id, one.patient, *target, *values, *spent])
    write_atomically(path, text.getvalue())
