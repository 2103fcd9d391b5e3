"""What came of reading cases: one record per case, and the table, the JSON row and the CSV made of them."""

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from glimpse.tasks import Task

Row = dict[str, Any]

CAPTION = (
    "Intervals are 95 %, bootstrapped over patients. 'random' and 'grid' are this run's own network sent to other "
    "places (it was not trained for them). 'overview' answers before the first glimpse: the same network, or where its "
    "answers never see the overview, one of the same kind trained to answer from overviews alone. 'full_scan' is what "
    "people do today: every foreground patch is embedded by the pretrained encoder, and gated attention pools it."
)
_HEADER = ("reader", "AUC (95 % interval)", "accuracy", "glimpses", "% of foreground read", "s/case")


@dataclass(frozen=True, eq=False)
class Reading:
    """How one case was read, and what was answered.

    Attributes:
        slide_id: of the case.
        case_id: of the patient.
        target: what the prediction is held against.
        prediction: the last answer.
        predictions: the answer after each prefix of glimpses, the first from the overview alone; a reader that answers
            only once has one row.
        scanpath: locations of the glimpses, in order.
        zooms: which field of view each glimpse had.
        glimpses: how many were read.
        share_read: pixels read over pixels of the foreground.
        pixels_read: level-0 pixels that the glimpses cover.
        seconds: wall-clock time, reading included.
    """

    slide_id: str
    case_id: str
    target: Any
    prediction: Float[np.ndarray, " output"]
    predictions: Float[np.ndarray, "step output"]
    scanpath: Float[np.ndarray, "glimpse d"]
    zooms: np.ndarray
    glimpses: int
    share_read: float
    pixels_read: int
    seconds: float


def summarise(readings: Sequence[Reading], task: Task, seed: int = 0) -> Row:
    """One reader's row of `metrics.json`: the task's metrics with intervals, and means of what it cost.

    Raises:
        ValueError: there is nothing to summarise.
    """
    if not readings:
        raise ValueError("expected at least one reading, got none: the split is empty. Choose another split.")
    metrics = task.metrics(
        np.stack([reading.prediction for reading in readings]),
        task.stack([reading.target for reading in readings]),
        np.array([reading.case_id for reading in readings]),
        seed=seed,
    )
    row: Row = {
        name: {"value": _finite(interval.value), "low": _finite(interval.low), "high": _finite(interval.high)}
        for name, interval in metrics.items()
    }
    return row | {
        "glimpses": float(np.mean([reading.glimpses for reading in readings])),
        "share_read": float(np.mean([reading.share_read for reading in readings])),
        "seconds_per_case": float(np.mean([reading.seconds for reading in readings])),
    }


def _finite(value: float) -> float | None:
    """The value, or None where it is not defined (JSON knows no NaN): an AUC of a split with one class."""
    return float(value) if math.isfinite(value) else None


def table(rows: Mapping[str, Row], caption: str = CAPTION) -> str:
    """An aligned plain-text table of rows as `summarise` makes them, one per reader, with a caption above it."""
    cells = [_HEADER, *(_cells(reader, row) for reader, row in rows.items())]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_HEADER))]
    lines = ["  ".join(_align(text, width, i) for i, (text, width) in enumerate(zip(line, widths, strict=True)))
             for line in cells]  # fmt: skip
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([*_wrap(caption, max(80, len(lines[1]))), "", *(line.rstrip() for line in lines)])


def _cells(reader: str, row: Row) -> tuple[str, ...]:
    return (
        reader,
        _interval(row.get("auc")),
        _number((row.get("accuracy") or {}).get("value"), 3),
        _number(row["glimpses"], 1),
        _number(100 * row["share_read"], 1),
        _number(row["seconds_per_case"], 3),
    )


def _interval(entry: Mapping[str, float | None] | None) -> str:
    if entry is None or entry["value"] is None:
        return "n/a"
    return f"{_number(entry['value'], 3)} ({_number(entry['low'], 3)} to {_number(entry['high'], 3)})"


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _align(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return lines


def write_predictions(
    path: str | os.PathLike[str], readings: Mapping[str, Sequence[Reading]], task: Task, split: str
) -> None:
    """Writes every reader's answers as CSV, one line per reader and case; probabilities in columns `p_<name>`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = (f"p_{name}" for name in task.names)
    writer.writerow(["reader", "split", "slide_id", "case_id", "target", *names, "glimpses", "share_read", "seconds"])
    for reader, answers in readings.items():
        for one in answers:
            probabilities = (f"{p:.6f}" for p in np.ravel(task.probabilities(one.prediction[None])[0]))
            cost = (one.glimpses, f"{one.share_read:.6f}", f"{one.seconds:.6f}")
            writer.writerow([reader, split, one.slide_id, one.case_id, one.target, *probabilities, *cost])
    write_atomically(path, text.getvalue())


def write_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file so that it is there whole or not at all."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with open(unfinished, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
