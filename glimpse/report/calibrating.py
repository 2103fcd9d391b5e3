"""Calibrates the answers of a report, measures them with and without it, and draws how sure they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from glimpse.pictures.calibration import calibration_picture, confusion_picture
from glimpse.reading.calibration import CALIBRATION_FILE, Temperature, calibrated
from glimpse.reading.costs import Meter
from glimpse.reading.records import Reading
from glimpse.report.tables import Row, summarise
from glimpse.tasks import Task

_PANELS = 12  # labels that are drawn
_FEW = 20  # validation cases, of which Platt's targets (see `temperature_of`) leave room for doubt
_COMPARED = ("brier", "ece", "score", "calibration", "labels")  # what calibration changes


def measured(
    readings: Mapping[str, Sequence[Reading]],
    temperatures: Mapping[str, float | None],
    task: Task,
    seed: int = 0,
    spent: Mapping[str, Meter] | None = None,
) -> tuple[dict[str, list[Reading]], dict[str, Row]]:
    """Returns calibrated readings and their rows of `metrics.json`, by the name of the reader.

    Where a reader has a temperature, its row has it, and "uncalibrated": what it would be without.

    Args:
        readings: the readings of each reader, as they were read.
        temperatures: the temperature of each reader; readers without one are not calibrated.
        task: what was predicted.
        seed: seed of the bootstrap.
        spent: what was measured while each of them read; None where nothing was.
    """
    found, rows = {}, {}
    for name, raw in readings.items():
        temperature = temperatures.get(name)
        found[name] = [calibrated(reading, temperature) for reading in raw]
        rows[name] = summarise(found[name], task, seed)
        if spent is not None:
            rows[name] |= spent[name].record(len(raw))
        if task.calibrates:
            rows[name] |= {"temperature": temperature}
        if temperature is not None:
            before = summarise(raw, task, seed)
            rows[name] |= {"uncalibrated": {key: before[key] for key in _COMPARED if key in before}}
    return found, rows


def told(found: Mapping[str, Temperature]) -> str:
    """Returns a sentence that says whether answers are calibrated, and why not; empty where nothing was to be."""
    if not found:
        return ""
    without = {name: one.reason for name, one in found.items() if one.temperature is None}
    if len(without) < len(found):
        count = max(one.cases for one in found.values())
        text = f"Calibrated: probabilities, by a temperature for each reader, fitted on {count} validation cases"
        few = " With so few cases, even right answers are made less sure." if count < _FEW else ""
        return f"{text} ({CALIBRATION_FILE}).{few}"
    return f"Not calibrated: {next(iter(without.values()))}."


def draw_answers(rows: Mapping[str, Row], folder: Path, suffix: str = "") -> list[Path]:
    """Draws calibration and confusion of all readers into a folder; nothing for tasks without classes or labels.

    Of labels, those of the first reader are drawn, one panel for each.

    Args:
        rows: rows of `metrics.json`.
        folder: where to write `calibration<suffix>.png` and `confusion<suffix>.png`.
        suffix: what names of files have before the dot.

    Returns:
        The files that were written.

    Raises:
        WriteError: a picture cannot be written.
    """
    written: list[Path] = []
    drawn = _drawn(rows)
    if drawn:
        curves = {name: one["calibration"] for name, (one, _) in drawn.items()}
        before = {name: one["calibration"] for name, (_, one) in drawn.items() if one}
        written = [folder / f"calibration{suffix}.png", folder / f"confusion{suffix}.png"]
        calibration_picture(curves, before, written[0])
        confusion_picture({name: one["confusion"] for name, (one, _) in drawn.items()}, written[1])
    return written


def _drawn(rows: Mapping[str, Row]) -> dict[str, tuple[Row, Row]]:
    """Returns what is drawn in each panel, by its title: a curve and a matrix; and the same without calibration.

    Of more labels than a picture has room for, the first are drawn.
    """
    found = {name: (row, row.get("uncalibrated", {})) for name, row in rows.items() if "calibration" in row}
    first: Row = next((row for row in rows.values() if "labels" in row), {"labels": []})
    before = first.get("uncalibrated", {}).get("labels") or [{}] * len(first["labels"])
    pairs = list(zip(first["labels"], before, strict=True))[:_PANELS]
    return found | {one["name"]: (one, other) for one, other in pairs}
