"""Measures of answers to questions with classes, each for many weightings of the cases at once.

A weighting says how often each case occurs in a resample of the bootstrap. Where a measure is not defined, such as the
sensitivity without positive cases, it is NaN.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from glimpse.tasks.base import auc_of, mean_of_defined, ranked, ratio

BINS = 10  # of probabilities, all of the same width, in which calibration is measured
_ROUNDING = 1e-9  # by which a sum of weights may miss a limit that it reaches

Weights = Float[np.ndarray, "resample case"]
Resampled = Float[np.ndarray, " resample"]


@dataclass(frozen=True, eq=False)
class Counts:
    """How many cases there are of each class, for each weighting.

    Attributes:
        targets: those that are of the class.
        answers: those that were answered with the class.
        right: those of the class that were answered with it.
    """

    targets: Float[np.ndarray, "resample classes"]
    answers: Float[np.ndarray, "resample classes"]
    right: Float[np.ndarray, "resample classes"]

    @property
    def balanced_accuracy(self) -> Resampled:
        """The mean sensitivity of the classes that occur: of each class, the share that was answered with it."""
        return mean_of_defined(ratio(self.right, self.targets).T)

    @property
    def f1(self) -> Resampled:
        """F1, ``2 TP / (2 TP + FP + FN)``: of two classes that of the second one, of more the mean of all.

        Classes that occur neither in targets nor in answers are left out.
        """
        each = ratio(2 * self.right, self.targets + self.answers)
        return each[:, 1] if each.shape[1] == 2 else mean_of_defined(each.T)


def counted(
    targets: Int[np.ndarray, " case"], answers: Int[np.ndarray, " case"], classes: int, weights: Weights
) -> Counts:
    """Counts targets, answers and right answers of each class for each weighting."""
    of_class = np.eye(classes)
    right = of_class[targets] * (targets == answers)[:, None]
    return Counts(weights @ of_class[targets], weights @ of_class[answers], weights @ right)


def confusion_matrix(
    targets: Int[np.ndarray, " case"], answers: Int[np.ndarray, " case"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Returns of the cases of each class (row) how many were answered with each class (column)."""
    return np.bincount(targets * classes + answers, minlength=classes**2).reshape(classes, classes)


def checked_specificity(given: Any) -> float:
    """Returns a specificity that a user gave.

    Raises:
        ValueError: it is none from 0 to 1.
    """
    if isinstance(given, bool) or not 0 <= given <= 1:
        raise ValueError(f"expected specificity from 0 to 1, got {given!r}.")
    return float(given)


def separation(
    outcomes: Iterable[tuple[Float[np.ndarray, " case"], Bool[np.ndarray, " case"]]],
    specificity: float,
    weights: Float[np.ndarray, "resample case"],
) -> tuple[Resampled, Resampled]:
    """Returns AUC and `sensitivity_at` a specificity, both as means over the outcomes that some cases have, not all.

    Args:
        outcomes: for each outcome the scores of the cases, and which of them have it.
        specificity: the least specificity, from 0 to 1.
        weights: how often each case counts, one row per resample.
    """
    areas, found = [], []
    for scores, positive in outcomes:
        gains, losses = ranked(scores, positive, weights)
        areas.append(auc_of(gains, losses))
        found.append(sensitivity_at(specificity, gains, losses))
    return mean_of_defined(np.stack(areas)), mean_of_defined(np.stack(found))


def sensitivity_at(
    specificity: float, gains: Float[np.ndarray, "resample rank"], losses: Float[np.ndarray, "resample rank"]
) -> Resampled:
    """Returns the highest sensitivity of any threshold whose specificity is at least the given one.

    Cases with a score of at least the threshold are called positive. The threshold is chosen on the cases that are
    measured, anew for each weighting. NaN if a class is absent.

    Args:
        specificity: the least specificity, from 0 to 1.
        gains: the weights of positive cases with each score, in ascending order (see `glimpse.tasks.base.ranked`).
        losses: those of negative cases.
    """
    positive, negative = gains.sum(axis=1), losses.sum(axis=1)
    found, wrong = (np.flip(np.flip(part, 1).cumsum(axis=1), 1) for part in (gains, losses))
    allowed = (1.0 - specificity) * negative + _ROUNDING
    best = np.where(wrong <= allowed[:, None], found, 0.0).max(axis=1)
    return np.where(negative > 0, ratio(best, positive), np.nan)


def brier(probabilities: Float[np.ndarray, "case classes"], targets: Int[np.ndarray, " case"]) -> np.ndarray:
    """Returns the Brier score of each case, float (case,): 0 is perfect.

    Of two classes it is ``(p - y)^2`` with the probability p of the second one and y of 0 or 1; of more, the sum of
    these squares over all classes (Brier 1950).
    """
    squares = (probabilities - np.eye(probabilities.shape[1])[targets]) ** 2
    return squares[:, 1] if probabilities.shape[1] == 2 else squares.sum(axis=1)


def calibration_error(
    probabilities: Float[np.ndarray, " case"], happened: Bool[np.ndarray, " case"], weights: Weights
) -> Resampled:
    """Returns the expected calibration error for each weighting (Naeini et al. 2015; Guo et al. 2017).

    Probabilities are sorted into `BINS` bins of the same width. With n_b of n cases in bin b, p_b their mean
    probability and y_b the share of them in which the event happened: ``sum_b n_b / n |p_b - y_b|``.
    """
    members = np.eye(BINS)[calibration_bins(probabilities)]
    gaps = weights @ (members * (probabilities - happened)[:, None])
    return ratio(np.abs(gaps).sum(axis=1), weights.sum(axis=1))


def calibration_curve(
    probabilities: Float[np.ndarray, " case"], happened: Bool[np.ndarray, " case"]
) -> list[dict[str, Any]]:
    """Returns the bins of `calibration_error` that hold cases: limits, cases, mean probability, and share."""
    bins, edges = calibration_bins(probabilities), np.linspace(0, 1, BINS + 1)
    return [
        {
            "low": round(float(edges[index]), 6),
            "high": round(float(edges[index + 1]), 6),
            "cases": int((bins == index).sum()),
            "probability": float(probabilities[bins == index].mean()),
            "share": float(happened[bins == index].mean()),
        }
        for index in np.unique(bins).tolist()
    ]


def calibration_bins(probabilities: Float[np.ndarray, " case"]) -> Int[np.ndarray, " case"]:
    """Returns the bin of each probability; its upper limit belongs to a bin."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probabilities)
