"""What is measured of survival: Kaplan-Meier curves, Harrell's concordance index, and the integrated Brier score.

All of them take weights of cases, one row for each resample of a bootstrap.
"""

import numpy as np
from jaxtyping import Bool, Float

from glimpse.tasks.base import ratio

_ROWS = 1024  # of the matrix of pairs that are held at once
SLACK = 1 + 1e-6  # times are float32, edges are not: an event at an edge lies before it


def weighted_concordance(
    risks: Float[np.ndarray, " case"],
    times: Float[np.ndarray, " case"],
    events: Bool[np.ndarray, " case"],
    weights: Float[np.ndarray, "resample case"],
) -> Float[np.ndarray, " resample"]:
    """Returns Harrell's concordance index for each weighting; NaN where no two cases can be compared.

    Case i is known to have ended before case j if i had its event, and j was seen later than t_i, or was seen last at
    t_i without an event. With r the risks, the index is
    ``sum_ij w_i w_j ([r_i > r_j] + [r_i = r_j] / 2) / sum_ij w_i w_j`` over these pairs. Two events at one time are no
    pair (Harrell, Lee, Mark 1996; ties as in lifelines and scikit-survival).

    Time and memory grow with the number of events times the number of cases.

    Args:
        risks: the higher, the sooner an event is expected.
        times: when the event was, or when the case was seen last.
        events: whether the event was seen.
        weights: how often each case counts, one row per resample.
    """
    ended = np.flatnonzero(events)
    right, all_pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for start in range(0, len(ended), _ROWS):
        some = ended[start : start + _ROWS, None]
        later = (times > times[some]) | ((times == times[some]) & ~events)
        worth = later * ((risks < risks[some]) + 0.5 * (risks == risks[some]))
        own = weights[:, some[:, 0]]
        right += ((own @ worth) * weights).sum(axis=1)
        all_pairs += ((own @ later.astype(np.float64)) * weights).sum(axis=1)
    return ratio(right, all_pairs)


def kaplan_meier(
    times: Float[np.ndarray, " case"],
    events: Bool[np.ndarray, " case"],
    at: Float[np.ndarray, " moment"],
    weights: Float[np.ndarray, "resample case"] | None = None,
) -> Float[np.ndarray, "resample moment"]:
    """Returns the share of cases without an event until each moment, for each weighting.

    It is the product of ``1 - d / n`` over all times t of events up to the moment, with d the weight of the events at t
    and n the weight of the cases that were still seen at t (Kaplan and Meier 1958). Without weights, all cases count
    once and there is one row.

    Args:
        times: when the event was, or when the case was seen last.
        events: whether the event was seen.
        at: the moments.
        weights: how often each case counts, one row per resample.
    """
    weights = np.ones((1, len(times))) if weights is None else weights
    order = np.argsort(times, kind="stable")
    sorted_times, sorted_weights = times[order], weights[:, order]
    moments, starts = np.unique(sorted_times, return_index=True)
    ended = np.add.reduceat(sorted_weights * events[order], starts, axis=1)
    left = np.add.reduceat(sorted_weights, starts, axis=1)[:, ::-1].cumsum(axis=1)[:, ::-1]
    share = 1.0 - np.divide(ended, left, out=np.zeros_like(ended), where=left > 0)
    curve = np.concatenate([np.ones((len(weights), 1)), share.cumprod(axis=1)], axis=1)
    return curve[:, np.searchsorted(moments, at, side="right")]


def weighted_brier(
    survival: Float[np.ndarray, "case moment"],
    moments: Float[np.ndarray, " moment"],
    times: Float[np.ndarray, " case"],
    events: Bool[np.ndarray, " case"],
    weights: Float[np.ndarray, "resample case"],
) -> Float[np.ndarray, " resample"]:
    """Returns the Brier score of survival probabilities, averaged over time up to the last moment; 0 is perfect.

    At a moment t it is the mean of ``(1 - S(t))^2 / G(t)`` of cases that were seen later than t, and of
    ``S(t)^2 / G(t_i)`` of those whose event at t_i <= t was seen; cases that were censored before weigh nothing
    (Graf, Schmoor, Sauerbrei, Schumacher 1999). G is the Kaplan-Meier curve of censoring in the cases themselves, and
    at ties as scikit-survival has it. Between moments, and from 0 at time 0, the score is taken as linear. Moments
    after the last time of any case are left out; NaN if all are.

    A time that misses a moment by no more than rounding to float32 (`SLACK`) lies at it.

    Args:
        survival: predicted probability of no event until each moment.
        moments: ascending times above 0.
        times: when the event was, or when the case was seen last.
        events: whether the event was seen.
        weights: how often each case counts, one row per resample.
    """
    moments = moments[moments * SLACK < times.max()]
    if not len(moments):
        return np.full(len(weights), np.nan)
    ends = moments * SLACK
    seen = np.where(events, times, np.nextafter(times, np.inf))  # at one time, events come before censoring
    own = _inverse(kaplan_meier(seen, ~events, np.nextafter(times, np.inf), weights))
    then = _inverse(kaplan_meier(seen, ~events, np.nextafter(ends, np.inf), weights))
    ended = (times[:, None] <= ends) & events[:, None]
    lost = survival[:, : len(moments)] ** 2 * ended
    kept = (1.0 - survival[:, : len(moments)]) ** 2 * (times[:, None] > ends)
    each = ((weights * own) @ lost + (weights @ kept) * then) / weights.sum(axis=1, keepdims=True)
    scores = np.concatenate([np.zeros((len(weights), 1)), each], axis=1)
    return (scores[:, 1:] + scores[:, :-1]) / 2 @ np.diff(moments, prepend=0.0) / moments[-1]


def _inverse(share: np.ndarray) -> np.ndarray:
    """Returns ``1 / share``, and 0 where nobody is left whom it could stand for."""
    return np.divide(1.0, share, out=np.zeros_like(share), where=share > 0)
