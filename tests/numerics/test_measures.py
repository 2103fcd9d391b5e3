"""Metrics of classes against scikit-learn: random answers, ties, one class only; and what a bootstrap makes of them."""

import math
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve as sk_calibration_curve
from sklearn.linear_model import LogisticRegression

from glimpse.reading.calibration import temperature_of, temperature_of_labels
from glimpse.tasks import Classification, MultiLabel
from glimpse.tasks.base import ranked
from glimpse.tasks.measures import BINS, calibration_curve, sensitivity_at

SENSITIVITY = "sensitivity_at_specificity_0.9"


def answers(classes: int, ties: bool, count: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that know a little of the targets; with ties, they have few values."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + 1.2 * np.eye(classes)[targets]
    return (np.round(logits) if ties else logits), targets


def sensitivity(targets: np.ndarray, scores: np.ndarray, weights: np.ndarray, specificity: float = 0.9) -> float:
    wrong, right, _ = sk.roc_curve(targets, scores, sample_weight=weights, drop_intermediate=False)
    return float(right[1 - wrong >= specificity - 1e-9].max())


def of_sklearn(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    classes = logits.shape[1]
    shares = Classification(classes).probabilities(logits)
    margins = logits[:, 1] - logits[:, 0]  # which rank two classes as shares do, but do not round
    answered, every = logits.argmax(1), np.arange(classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        two = classes == 2
        found = {
            "accuracy": sk.accuracy_score(targets, answered, sample_weight=weights),
            "balanced_accuracy": sk.balanced_accuracy_score(targets, answered, sample_weight=weights),
            "f1": sk.f1_score(targets, answered, average="binary" if two else "macro", sample_weight=weights),
            "brier": sk.brier_score_loss(targets, shares[:, 1] if two else shares, labels=every, sample_weight=weights),
        }
        if two:
            found["auc"] = sk.roc_auc_score(targets, margins, sample_weight=weights)
            found[SENSITIVITY] = sensitivity(targets, margins, weights)
        else:
            found["auc"] = np.mean([sk.roc_auc_score(targets == k, shares[:, k], sample_weight=weights) for k in every])
            found[SENSITIVITY] = np.mean([sensitivity(targets == k, shares[:, k], weights) for k in every])
    return found


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_every_metric_is_that_of_scikit_learn_in_every_resample(classes: int, ties: bool) -> None:
    logits, targets = answers(classes, ties)
    weights = np.random.default_rng(1).multinomial(len(targets), np.full(len(targets), 1 / len(targets)), 6)
    weights = np.concatenate([np.ones((1, len(targets))), weights]).astype(float)
    task = Classification(classes)
    measured = task.weighted_metrics(logits, targets, weights)
    assert tuple(measured) == task.metric_names
    for index, row in enumerate(weights):
        kept = row > 0  # a resample, as scikit-learn takes it
        expected = of_sklearn(logits[kept], targets[kept], row[kept])
        found = {name: measured[name][index] for name in expected}
        assert found == pytest.approx(expected, abs=1e-9), index


@pytest.mark.parametrize("classes", [2, 4])
def test_calibration_is_that_of_scikit_learn(classes: int) -> None:
    logits, targets = answers(classes, ties=False, count=400)
    task = Classification(classes)
    shares = task.probabilities(logits)
    sure, happened = (shares[:, 1], targets == 1) if classes == 2 else (shares.max(1), shares.argmax(1) == targets)
    expected = sk_calibration_curve(happened, sure, n_bins=BINS, strategy="uniform")
    bins = calibration_curve(sure, happened)
    np.testing.assert_allclose([one["share"] for one in bins], expected[0])
    np.testing.assert_allclose([one["probability"] for one in bins], expected[1])
    error = sum(one["cases"] * abs(one["share"] - one["probability"]) for one in bins) / len(targets)
    found = task.metrics(logits, targets, np.arange(len(targets)), bootstrap=50)
    assert found["ece"].value == pytest.approx(error) and found["ece"].low < found["ece"].high
    details = task.details(logits, targets)
    assert details["calibration"] == bins
    assert details["confusion"]["matrix"] == sk.confusion_matrix(targets, logits.argmax(1)).tolist()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("only", [0, 1])
def test_of_one_class_there_is_no_auc_and_no_sensitivity_but_everything_else(classes: int, only: int) -> None:
    logits, _ = answers(classes, ties=False, count=20)
    targets = np.full(20, only)
    found = Classification(classes).metrics(logits, targets, np.arange(20), bootstrap=20)
    undefined = {name for name, one in found.items() if math.isnan(one.value)}
    assert undefined == {"auc", SENSITIVITY}
    assert found["balanced_accuracy"].value == pytest.approx((logits.argmax(1) == only).mean())
    none = Classification(2).metrics(np.tile([1.0, 0.0], (20, 1)), np.zeros(20, int), np.arange(20), bootstrap=5)
    assert math.isnan(none["f1"].value) and none["accuracy"].value == 1  # nobody is positive, nobody was called so


@pytest.mark.parametrize("ties", [False, True])
def test_labels_are_measured_one_by_one(ties: bool) -> None:
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 2, (150, 3))
    logits = rng.normal(size=(150, 3)) + targets
    logits = np.round(logits) if ties else logits
    task = MultiLabel(3)
    found = task.metrics(logits, targets, np.arange(150), bootstrap=20)
    shares = task.probabilities(logits)
    each = range(3)
    assert found["brier"].value == pytest.approx(
        np.mean([sk.brier_score_loss(targets[:, k], shares[:, k]) for k in each])
    )
    assert found["f1"].value == pytest.approx(sk.f1_score(targets, logits > 0, average="macro"))
    assert found["auc"].value == pytest.approx(sk.roc_auc_score(targets, logits))
    balanced = [sk.balanced_accuracy_score(targets[:, k], logits[:, k] > 0) for k in each]
    assert found["balanced_accuracy"].value == pytest.approx(np.mean(balanced))
    reached = [sensitivity(targets[:, k], logits[:, k], np.ones(150)) for k in each]
    assert found[SENSITIVITY].value == pytest.approx(np.mean(reached))
    assert tuple(found) == task.metric_names
    told, errors = task.details(logits, targets)["labels"], []
    for k in each:
        assert told[k]["confusion"]["matrix"] == sk.confusion_matrix(targets[:, k], logits[:, k] > 0).tolist()
        assert told[k]["calibration"] == calibration_curve(shares[:, k], targets[:, k] == 1)
        bins = calibration_curve(shares[:, k], targets[:, k] == 1)
        share, sure = sk_calibration_curve(targets[:, k], shares[:, k], n_bins=BINS)
        np.testing.assert_allclose([[one["share"], one["probability"]] for one in bins], np.stack([share, sure], 1))
        errors.append(sum(one["cases"] * abs(one["share"] - one["probability"]) for one in bins) / 150)
    assert found["ece"].value == pytest.approx(np.mean(errors))


def test_labels_that_all_cases_have_or_none_has_count_where_they_are_defined() -> None:
    rng = np.random.default_rng(5)
    targets = np.stack([rng.integers(0, 2, 40), np.ones(40, int), np.zeros(40, int)], 1)
    logits = rng.normal(size=(40, 3))
    task = MultiLabel(["some", "all", "never"], specificity=0.5)
    found = task.metrics(logits, targets, np.arange(40), bootstrap=10)
    assert found["auc"].value == pytest.approx(sk.roc_auc_score(targets[:, 0], logits[:, 0]))
    name = "sensitivity_at_specificity_0.5"
    assert found[name].value == pytest.approx(sensitivity(targets[:, 0], logits[:, 0], np.ones(40), 0.5))
    some = sk.balanced_accuracy_score(targets[:, 0], logits[:, 0] > 0)
    right = [(logits[:, 1] > 0).mean(), (logits[:, 2] <= 0).mean()]
    assert found["balanced_accuracy"].value == pytest.approx(np.mean([some, *right]))
    told = task.details(logits, targets)["labels"]
    assert [one["name"] for one in told] == ["some", "all", "never"]
    assert told[1]["confusion"]["matrix"][0] == [0, 0] and told[2]["confusion"]["matrix"][1] == [0, 0]
    with pytest.raises(ValueError, match="expected specificity from 0 to 1, got 2"):
        MultiLabel(3, specificity=2)


def test_sensitivity_by_hand() -> None:
    scores = np.array([5.0, 4, 3, 3, 2, 1])
    positive = np.array([True, False, True, False, True, False])
    curve = ranked(scores, positive, np.ones((1, 6)))
    assert sensitivity_at(1.0, *curve) == pytest.approx([1 / 3])  # only the highest score
    assert sensitivity_at(0.5, *curve) == pytest.approx([1 / 3])  # the tie at 3 is taken whole
    assert sensitivity_at(1 / 3, *curve) == pytest.approx([1.0])
    assert sensitivity_at(0.0, *curve) == [1.0]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_temperature_is_that_of_a_logistic_regression_without_intercept(classes: int) -> None:
    logits, targets = answers(classes, ties=False, count=300)
    found = temperature_of(4 * logits, targets)  # far too sure
    other = 2 / (classes * (np.bincount(targets, minlength=classes)[targets][:, None] + 2))
    wanted = np.where(np.eye(classes, dtype=bool)[targets], 1 - other, other / (classes - 1))
    if classes == 2:  # each case counts as both of its classes, with the weights of its smoothed target
        margins = np.repeat(4 * (logits[:, 1] - logits[:, 0]), 2)[:, None]
        fitted = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10)
        fitted.fit(margins, np.tile([0, 1], 300), sample_weight=wanted.ravel())
        assert 1 / found == pytest.approx(fitted.coef_.item(), rel=1e-4)

    def loss(temperature: float) -> float:
        shares = Classification(classes).probabilities(4 * logits / temperature)
        return float(-(wanted * np.log(shares)).sum(1).mean())

    assert loss(found) < min(loss(found * 1.01), loss(found / 1.01)) and 2 < found < 8


def test_the_temperature_of_labels_is_that_of_a_logistic_regression_without_intercept() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(300, 3)) * [1, 2, 0.5] + [0, -1, 1]
    targets = (rng.random((300, 3)) < 1 / (1 + np.exp(-logits))).astype(int)
    found = temperature_of_labels(4 * logits, targets)  # far too sure
    there = targets.sum(0)
    wanted = np.where(targets == 1, (there + 1) / (there + 2), 1 / (300 - there + 2))
    fitted = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10)
    weights = np.stack([1 - wanted.ravel(), wanted.ravel()], 1).ravel()
    fitted.fit(np.repeat(4 * logits.ravel(), 2)[:, None], np.tile([0, 1], 900), sample_weight=weights)
    assert 1 / found == pytest.approx(fitted.coef_.item(), rel=1e-4) and 3 < found < 5


def test_a_temperature_of_labels_is_finite_where_all_answers_are_right_or_wrong() -> None:
    targets = np.repeat([[0, 1], [1, 0]], 10, axis=0)
    right = 20.0 * (2 * targets - 1)
    assert 1 / (1 + np.exp(-20 / temperature_of_labels(right, targets))) == pytest.approx(11 / 12)
    assert temperature_of_labels(-right, targets) == pytest.approx(100)
    assert temperature_of_labels(np.zeros((20, 2)), targets) == 1


def test_ten_classes_with_thirty_cases_of_each_are_not_made_unsure() -> None:
    targets = np.arange(300) % 10
    said = np.where(np.arange(300) // 10 % 10 > 0, targets, (targets + 1) % 10)
    logits = math.log(81) * np.eye(10)[said]  # the class that is said has a probability of 0.9, and is right so often
    assert temperature_of(logits, targets) == pytest.approx(1, abs=0.03)


def test_a_temperature_is_finite_where_all_answers_are_right_or_wrong() -> None:
    targets = np.repeat([0, 1], 10)
    right = 20.0 * np.eye(2)[targets]
    assert Classification(2).probabilities(right / temperature_of(right, targets))[0, 0] == pytest.approx(11 / 12)
    assert temperature_of(-right, targets) == pytest.approx(100)  # as unsure as it can be
    assert temperature_of(np.ones((20, 2)), targets) == 1
