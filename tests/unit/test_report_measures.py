"""What the charts of a report show: confusion, calibration, sensitivity and specificity."""

import numpy as np
import pytest

from glimpse.report.html.measures import Outcome, calibration, is_right, measured, operating
from glimpse.tasks import Classification, MultiLabel, MultiTask, Regression
from glimpse.tasks.measures import calibration_error


def test_calibration_by_hand() -> None:
    scores, positive = np.array([0.11, 0.19, 0.19, 0.95, 1.0]), np.array([False, True, False, True, True])
    found = calibration(Outcome("x", scores, positive), list("abcde"))
    np.testing.assert_allclose(found.answered, [0.49 / 3, 0.975])
    np.testing.assert_allclose(found.observed[:, 0], [1 / 3, 1])
    assert found.counts.tolist() == [3, 2]
    assert found.error == pytest.approx((3 * (1 / 3 - 0.49 / 3) + 2 * 0.025) / 5)
    assert found.brier == pytest.approx((0.11**2 + 0.81**2 + 0.19**2 + 0.05**2) / 5)
    assert found.observed[1].tolist() == [1, 1, 1] and found.observed[0, 1] < 1 / 3 < found.observed[0, 2]


def test_the_calibration_error_of_charts_is_that_of_tables() -> None:
    scores, positive = np.array([0.5, 0.55]), np.array([True, False])
    charted = calibration(Outcome("x", scores, positive), list("ab"))
    assert charted.error == pytest.approx(0.525) and charted.counts.tolist() == [1, 1]
    (tabled,) = calibration_error(scores, positive, np.ones((1, 2)))
    assert charted.error == pytest.approx(tabled)


def test_sensitivity_and_specificity_by_hand() -> None:
    outcome = Outcome("x", np.array([0.2, 0.5, 0.5, 0.9]), np.array([False, True, False, True]))
    found = operating(outcome, list("abcd"))
    assert found is not None
    at = {round(float(value), 2): place for place, value in enumerate(found.thresholds)}
    for threshold, sensitivity, specificity in (
        (0.0, 1, 0),
        (0.2, 1, 0),
        (0.21, 1, 0.5),
        (0.5, 1, 0.5),
        (0.51, 0.5, 1),
        (1, 0, 1),
    ):
        assert found.sensitivity[at[threshold], 0] == sensitivity
        assert found.specificity[at[threshold], 0] == specificity
    assert operating(Outcome("x", outcome.scores, np.ones(4, bool)), list("abcd")) is None


def test_what_is_charted_of_each_task() -> None:
    three = Classification(["a", "b", "c"])
    answers = np.array([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    found = measured(three, answers, [0, 1, 2])
    assert found.confusions[0].counts.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert [outcome.name for outcome in found.outcomes] == ["a", "b", "c"]
    assert [is_right(three, row, target) for row, target in zip(answers, [0, 1, 2], strict=True)] == [True, True, False]
    both = MultiTask({"kind": Classification(2), "age": Regression(50, 10)})
    parts = measured(
        both, np.array([[0.3, 0.7, 61.0], [0.9, 0.1, 40.0]]), [{"kind": 1, "age": 60.0}, {"kind": 0, "age": 45.0}]
    )
    assert [outcome.name for outcome in parts.outcomes] == ["kind: 1"] and parts.confusions[0].title == "kind"
    assert parts.quantities[0].answers.tolist() == [61, 40] and parts.quantities[0].targets.tolist() == [60, 45]
    labels = MultiLabel(["x", "y"])
    assert measured(labels, np.array([[0.9, 0.2]]), [np.array([1, 0])]).outcomes[1].positive.tolist() == [False]
    assert is_right(labels, np.array([0.9, 0.2]), np.array([1, 0])) is True
    assert is_right(Regression(0, 1), np.array([0.5]), 0.5) is None
