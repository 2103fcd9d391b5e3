"""The files of an evaluation."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glimpse.atomic import remove_unfinished, write_atomically
from glimpse.reading.records import Reading
from glimpse.report.calibrating import draw_answers
from glimpse.report.tables import write_predictions
from glimpse.runs.file_names import file_names
from glimpse.tasks import Task


def write_evaluation(
    folder: Path, record: Mapping[str, Any], readings: Mapping[str, Sequence[Reading]], task: Task
) -> tuple[Path, ...]:
    """Writes ``evaluation-<split>-<n>.json``, ``predictions-<split>-<n>.csv`` and pictures; returns their paths.

    Of another cohort, its name stands before the split. An earlier evaluation by the same readers, or by some of them,
    is replaced; where it has others, or is of another cohort of this name or another run, the new names get a number.

    Args:
        folder: where they are written, such as the run folder.
        record: what the JSON file holds: "split", "max_glimpses", "readers", "remarks" on what these numbers are worth,
            "cohort" of another cohort than the run's own, and "run" in another folder than its own.
        readings: the readings of each reader.
        task: what was predicted.

    Raises:
        WriteError: a file cannot be written.
    """
    remove_unfinished(folder)
    of, numbers = f"{record['split']}-{record['max_glimpses']}", (f"-{number}" for number in itertools.count(2))
    first, last = of, ""
    if "cohort" in record:
        (first,) = file_names([Path(record["cohort"]).stem])  # which is not too long
        last = f"-{of}"
    names = (f"{first}{number}{last}" for number in itertools.chain([""], numbers))
    of = next(one for one in names if _may_replace(folder / f"evaluation-{one}.json", record))
    summary, answers = folder / f"evaluation-{of}.json", folder / f"predictions-{of}.csv"
    write_predictions(answers, readings, task, record["split"])
    write_atomically(summary, json.dumps(record, indent=2) + "\n")
    return summary, answers, *draw_answers(record["readers"], folder, f"-{of}")


def _may_replace(summary: Path, record: Mapping[str, Any]) -> bool:
    """Returns whether there is none yet, or one of the same run and cohort whose readers are all there again."""
    try:
        earlier = json.loads(summary.read_text("utf-8"))
        same = all(earlier.get(name) == record.get(name) for name in ("run", "cohort"))
        return same and set(earlier["readers"]) <= set(record["readers"])
    except FileNotFoundError:
        return True
    except (ValueError, AttributeError, KeyError, TypeError):  # no evaluation of ours
        return False
