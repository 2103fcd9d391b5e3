"""Temperature scaling: makes answers as sure as they are right, by one number for each reader of a run.

Predictions are divided by the temperature (Guo et al. 2017), which is fitted on the validation split. The answers stay
what they are, and so does their order between two classes, and for each label.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int, Num

from glimpse.atomic import write_atomically
from glimpse.errors import EvaluationError
from glimpse.reading.records import Reading
from glimpse.tasks import Task

CALIBRATION_FILE = "calibration.json"
HIGHEST = 100.0
"""The highest temperature, which answers get that tell nothing of the validation split; the lowest one is 1 / 100."""
_WIDEST = math.log(HIGHEST)
_HALVINGS = 60
SAME_SPLIT = "these answers are to the validation split, on which temperatures are fitted"
"""Why a report on this split has no calibrated answers: they would look better than those to other cases."""

AnyReading = TypeVar("AnyReading", bound=Reading)


@dataclass(frozen=True)
class Temperature:
    """A temperature, and how it was found.

    Attributes:
        temperature: what predictions are divided by; None where it cannot be found.
        cases: how many validation cases it was fitted on.
        reason: why there is none; empty where there is one.
    """

    temperature: float | None
    cases: int = 0
    reason: str = ""


def calibrated(reading: AnyReading, temperature: float | None) -> AnyReading:
    """Returns a reading whose predictions are divided by a temperature; the reading itself where there is none.

    Those without one of the glimpses, which a trace may hold, are among them.
    """
    if temperature is None:
        return reading
    last, every = (np.asarray(part, np.float64) / temperature for part in (reading.prediction, reading.predictions))
    trace = reading.trace
    if trace is not None and trace.without is not None:
        trace = replace(trace, without=np.asarray(trace.without, np.float64) / temperature)
    return replace(reading, prediction=last, predictions=every, trace=trace)


def fit(readings: Sequence[Reading], task: Task) -> Temperature:
    """Finds the temperature of a reader from its readings of validation cases, whose targets are classes or labels."""
    known = [reading for reading in readings if reading.target is not None]
    if not known:
        return Temperature(None, 0, "the validation split has no cases with a target")
    logits = np.stack([reading.prediction for reading in known]).astype(np.float64)
    if not np.isfinite(logits).all():
        return Temperature(None, len(known), "some predictions are not finite")
    targets = task.stack([reading.target for reading in known])
    if targets.ndim == 1 and len(np.unique(targets)) < 2:
        return Temperature(None, len(known), "the validation split has cases of one class only")
    if targets.ndim == 2 and (targets == targets[0]).all():
        return Temperature(None, len(known), "all cases of the validation split have the same labels")
    return Temperature((temperature_of if targets.ndim == 1 else temperature_of_labels)(logits, targets), len(known))


def temperature_of(logits: Float[np.ndarray, "case classes"], targets: Int[np.ndarray, " case"]) -> float:
    """Returns the temperature T for which ``softmax(logits / T)`` has the lowest cross-entropy.

    Where answers are all right, any lower temperature would be better still. Hence the targets are those of Platt
    (1999), for two classes and likewise for more: with n_k cases of class k and K classes, a case of class k counts
    ``2 / (K (n_k + 2))`` as one of the other classes. This sums to about two cases of the split, however many
    classes there are.

    The derivative of the cross-entropy by b = 1 / T is the mean of ``sum_k (p_k - t_k) z_k`` with logits z, targets t
    and ``p = softmax(b z)``. It grows with b, so that bisection finds where it is 0.
    """
    classes = logits.shape[1]
    other = 2.0 / (classes * (np.bincount(targets, minlength=classes)[targets][:, None] + 2))
    wanted = np.where(np.eye(classes, dtype=bool)[targets], 1.0 - other, other / (classes - 1))

    def slope(scale: float) -> float:
        scaled = logits * scale
        shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return float(((shares - wanted) * logits).sum(axis=1).mean())

    if not np.ptp(logits, axis=1).any():  # the same probability for all classes, whatever the temperature
        return 1.0
    return _inverse_root(slope)


def temperature_of_labels(logits: Float[np.ndarray, "case label"], targets: Num[np.ndarray, "case label"]) -> float:
    """Returns the temperature T, one for all labels, for which ``sigmoid(logits / T)`` has the lowest cross-entropy.

    Targets are those of Platt (1999), for each label: ``(n + 1) / (n + 2)`` of the n cases that have it, and
    ``1 / (m + 2)`` of the m that do not. The derivative by b = 1 / T is the mean of ``(p - t) z``, as in
    `temperature_of`.
    """
    with_it = (targets == 1).sum(axis=0)
    without = len(targets) - with_it
    wanted = np.where(targets == 1, (with_it + 1) / (with_it + 2), 1 / (without + 2))

    def slope(scale: float) -> float:
        return float(((np.exp(-np.logaddexp(0.0, -logits * scale)) - wanted) * logits).mean())

    if not logits.any():  # one half, whatever the temperature
        return 1.0
    return _inverse_root(slope)


def _inverse_root(slope: Callable[[float], float]) -> float:
    """Returns 1 / b where a function that grows with b is 0, between 1 / 100 and 100."""
    low, high = -_WIDEST, _WIDEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


# ---------------------------------------------------------------------------------------------- in the run folder
def write_temperatures(run: Path, found: Mapping[str, Temperature], split: str = "val") -> None:
    """Writes the temperatures of a run's readers, by their names, atomically.

    Raises:
        WriteError: the file cannot be written.
    """
    record = {"split": split, "readers": {name: asdict(one) for name, one in found.items()}}
    write_atomically(run / CALIBRATION_FILE, json.dumps(record, indent=2) + "\n")


def read_temperatures(run: Path) -> dict[str, float]:
    """Reads the temperatures of a run's readers, by their names; empty where the run has none.

    Raises:
        EvaluationError: the file cannot be read, or holds no temperatures.
    """
    path = run / CALIBRATION_FILE
    try:
        record: Any = json.loads(path.read_text("utf-8"))
        listed = {str(name): one["temperature"] for name, one in record["readers"].items()}
        found = {name: float(value) for name, value in listed.items() if value is not None}
        if not all(0 < value < math.inf for value in found.values()):
            raise ValueError("expected temperatures above 0")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f"{path}: cannot be read as temperatures ({error}). Restore the file, or remove it: answers are not "
            "calibrated then."
        ) from error
    return found
