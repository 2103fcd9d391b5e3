"""What charts show of answers whose targets are known: confusion, calibration, sensitivity and specificity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from glimpse.tasks import Classification, MultiLabel, MultiTask, Regression, Task, resampled_weights
from glimpse.tasks.base import ratio, weighted_mean
from glimpse.tasks.measures import calibration_bins

_THRESHOLDS = np.linspace(0.0, 1.0, 101)
_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Outcome:
    """Something that a case has or has not, and the probability that was answered.

    Attributes:
        name: the class or label.
        scores: its probabilities.
        positive: which cases have it.
    """

    name: str
    scores: Float[np.ndarray, " case"]
    positive: Bool[np.ndarray, " case"]


@dataclass(frozen=True, eq=False)
class Confusion:
    """How many cases of each class were answered to be of each class: `counts[target, answer]`."""

    title: str
    names: tuple[str, ...]
    counts: Int[np.ndarray, "target answer"]


@dataclass(frozen=True, eq=False)
class Quantity:
    """True and answered values of a quantity."""

    title: str
    targets: Float[np.ndarray, " case"]
    answers: Float[np.ndarray, " case"]


@dataclass(frozen=True)
class Measured:
    """All that can be charted of a task's answers."""

    outcomes: tuple[Outcome, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    quantities: tuple[Quantity, ...] = ()


def measured(
    task: Task, probabilities: Float[np.ndarray, "case output"], targets: Sequence[Any], title: str = ""
) -> Measured:
    """Returns what can be charted; nothing for tasks that are no classification, set of labels, or quantity.

    Args:
        task: the task.
        probabilities: the answers, as `Task.probabilities` returns them.
        targets: the true answers, in the form that the task uses.
        title: what the task is called, where it is one of several.
    """
    named = f"{title}: " if title else ""
    if isinstance(task, MultiTask):
        parts, start = [], 0
        for name, part in task.tasks.items():
            own = [target[name] for target in targets]
            end = start + len(part.columns)
            parts.append(measured(part, probabilities[:, start:end], own, name))
            start = end
        outcomes, confusions, quantities = zip(*((p.outcomes, p.confusions, p.quantities) for p in parts), strict=True)
        return Measured(sum(outcomes, ()), sum(confusions, ()), sum(quantities, ()))
    if isinstance(task, Regression):
        return Measured(quantities=(Quantity(title or task.names[0], np.array(targets, float), probabilities[:, 0]),))
    if isinstance(task, Classification):
        true = np.array(targets, np.int64)
        counts = np.zeros((task.outputs, task.outputs), np.int64)
        np.add.at(counts, (true, probabilities.argmax(1)), 1)
        shown = [1] if task.outputs == 2 else range(task.outputs)
        found = tuple(Outcome(f"{named}{task.names[k]}", probabilities[:, k], true == k) for k in shown)
        return Measured(found, (Confusion(title, task.names, counts),))
    if isinstance(task, MultiLabel):
        marks = np.array(targets, np.int64).reshape(-1, task.outputs) == 1
        return Measured(
            tuple(Outcome(f"{named}{name}", probabilities[:, k], marks[:, k]) for k, name in enumerate(task.names))
        )
    return Measured()


def is_right(task: Task, probabilities: Float[np.ndarray, " output"], target: Any) -> bool | None:
    """Returns whether an answer is right; None where that is no matter of yes or no."""
    if isinstance(task, Classification):
        return int(probabilities.argmax()) == int(target)
    if isinstance(task, MultiLabel):
        return bool(((probabilities > 0.5) == (np.asarray(target) == 1)).all())
    return None


# ---------------------------------------------------------------------------------------------- calibration
@dataclass(frozen=True, eq=False)
class Calibration:
    """How often something was there, among cases for which about the same probability was answered.

    Attributes:
        answered: the mean probability in each group.
        observed: the share of cases that have it, with 95 % intervals (low, high) over patients.
        counts: how many cases each group has.
        error: the expected calibration error, the mean distance of both, weighted by `counts` (Guo et al. 2017).
        brier: the mean squared difference of probability and truth (Brier 1950).
    """

    answered: Float[np.ndarray, " group"]
    observed: Float[np.ndarray, "group 3"]
    counts: Int[np.ndarray, " group"]
    error: float
    brier: float


def calibration(outcome: Outcome, patients: Sequence[str], seed: int = 0) -> Calibration:
    """Groups cases by their probability, into the bins of the calibration error of tables; empty ones are left out."""
    group = calibration_bins(outcome.scores)
    weights = resampled_weights(patients, _RESAMPLES, seed)
    answered, observed, counts = [], [], []
    for number in np.unique(group):
        inside = group == number
        drawn = ratio((weights * (inside & outcome.positive)).sum(1), (weights * inside).sum(1))
        answered.append(outcome.scores[inside].mean())
        observed.append([outcome.positive[inside].mean(), *_interval(drawn)])
        counts.append(int(inside.sum()))
    means, shares, sizes = np.array(answered), np.array(observed).reshape(-1, 3), np.array(counts, np.int64)
    error = float((np.abs(means - shares[:, 0]) * sizes).sum() / sizes.sum())
    return Calibration(means, shares, sizes, error, float(((outcome.scores - outcome.positive) ** 2).mean()))


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(drawn, [2.5, 97.5]).tolist()
    return low, high


# ---------------------------------------------------------------------------------------------- thresholds
@dataclass(frozen=True, eq=False)
class Operating:
    """Sensitivity and specificity where a case counts as positive from a threshold on, with 95 % intervals.

    The columns of both are value, low and high.
    """

    thresholds: Float[np.ndarray, " threshold"]
    sensitivity: Float[np.ndarray, "threshold 3"]
    specificity: Float[np.ndarray, "threshold 3"]


def operating(outcome: Outcome, patients: Sequence[str], seed: int = 0) -> Operating | None:
    """Returns sensitivity and specificity at thresholds from 0 to 1; None where only one kind of case is there."""
    if outcome.positive.all() or not outcome.positive.any():
        return None
    weights = np.concatenate([np.ones((1, len(outcome.scores))), resampled_weights(patients, _RESAMPLES, seed)])
    called = outcome.scores[None] >= _THRESHOLDS[:, None] - 1e-12
    rates = []
    for chosen, right in ((outcome.positive, called), (~outcome.positive, ~called)):
        part = weights[:, chosen]
        drawn = ratio(part @ right[:, chosen].T.astype(float), np.repeat(part.sum(1)[:, None], len(_THRESHOLDS), 1))
        rates.append(np.column_stack([drawn[0], *np.nanpercentile(drawn[1:], [2.5, 97.5], axis=0)]))
    return Operating(_THRESHOLDS, rates[0], rates[1])


def mean_absolute_error(quantity: Quantity) -> float:
    """Returns the mean absolute difference of answers and targets, in the units of the target."""
    return float(weighted_mean(np.abs(quantity.answers - quantity.targets), np.ones((1, len(quantity.targets))))[0])
