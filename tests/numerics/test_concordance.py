"""Measures of survival against lifelines, on random cohorts with ties, and on extreme ones."""

import math
from typing import Any

import numpy as np
import pytest

from glimpse.tasks.concordance import kaplan_meier, weighted_brier, weighted_concordance

lifelines: Any = pytest.importorskip("lifelines")

KINDS = ("ties", "no ties", "one event", "all events", "all censored")
MOMENTS = np.array([1.0, 2.5, 4.0, 6.0])


def cohort(kind: str, seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Risks, times and events of a cohort, in which a higher risk means a somewhat earlier event."""
    rng = np.random.default_rng(seed)
    risks = np.round(rng.normal(size=count), 1)
    times = rng.exponential(4.0, count) * np.exp(-0.5 * risks) + 0.1
    times = np.ceil(times) if kind == "ties" else times
    times[:3] = 1.0, 8.0, 9.0  # some are seen for longer than the last moment
    events = rng.random(count) < 0.6
    if kind == "one event":
        events = np.arange(count) == np.argsort(times)[count // 4]
    elif kind in ("all events", "all censored"):
        events = np.full(count, kind == "all events")
    return risks, times, events


def resampled(count: int) -> np.ndarray:
    """The cases of each weighting: all of them once, and four resamples."""
    return np.concatenate([np.arange(count)[None], np.random.default_rng(1).integers(0, count, (4, count))])


def weights_of(rows: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(row, minlength=rows.shape[1]) for row in rows]).astype(float)


def of_lifelines(risks: np.ndarray, times: np.ndarray, events: np.ndarray) -> float:
    try:
        return float(lifelines.utils.concordance_index(times, -risks, events))
    except ZeroDivisionError:  # no two cases can be compared
        return math.nan


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_concordance_is_that_of_lifelines_in_every_resample(kind: str, seed: int) -> None:
    risks, times, events = cohort(kind, seed)
    rows = resampled(len(times))
    found = weighted_concordance(risks, times, events, weights_of(rows))
    expected = [of_lifelines(risks[row], times[row], events[row]) for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.isnan(found).all() == (kind == "all censored")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_curves_are_those_of_lifelines_in_every_resample(kind: str, seed: int) -> None:
    _, times, events = cohort(kind, seed)
    rows = resampled(len(times))
    at = np.concatenate([MOMENTS, np.unique(times)[::5]])
    found = kaplan_meier(times, events, at, weights_of(rows))
    for curve, row in zip(found, rows, strict=True):
        fitted = lifelines.KaplanMeierFitter().fit(times[row], events[row])
        np.testing.assert_allclose(curve, fitted.predict(at), atol=1e-12)


def of_definition(survival: np.ndarray, times: np.ndarray, events: np.ndarray) -> float:
    """The Brier score case by case, with the curve of censoring that lifelines fits; at one time, events come first."""
    later = 1e-7
    fitted = lifelines.KaplanMeierFitter().fit(times + later * ~events, ~events)
    own = np.asarray(fitted.predict(times + later))
    worth = np.where(own > 0, 1 / np.maximum(own, 1e-12), 0.0)
    scores = [0.0]
    for moment, answers in zip(MOMENTS, survival.T, strict=True):
        left = float(fitted.predict(moment + later))
        lost, kept = answers**2 * worth, (1 - answers) ** 2 * (1 / left if left > 0 else 0.0)
        each = np.where(times > moment, kept, np.where(events, lost, 0.0))
        scores.append(float(each.mean()))
    steps = np.array(scores)  # from 0 at time 0, linear in between
    return float((steps[1:] + steps[:-1]) / 2 @ np.diff(MOMENTS, prepend=0.0) / MOMENTS[-1])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_brier_scores_are_those_of_the_definition_in_every_resample(kind: str, seed: int) -> None:
    risks, times, events = cohort(kind, seed)
    survival = np.exp(-np.outer(np.exp(0.5 * risks), MOMENTS / 8))
    rows = resampled(len(times))
    found = weighted_brier(survival, MOMENTS, times, events, weights_of(rows))
    expected = [of_definition(survival[row], times[row], events[row]) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
