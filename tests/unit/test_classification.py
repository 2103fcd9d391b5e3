"""Classification against values worked by hand: score, loss, metrics, intervals, targets."""

import math
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from glimpse.tasks import (
    Classification,
    Interval,
    resampled_weights,
    weighted_auc,
)
from glimpse.tasks.base import mean_of_defined


def logits(*probabilities: float) -> np.ndarray:
    return np.log(np.asarray(probabilities))


@pytest.mark.parametrize(
    ("probabilities", "target", "score"),
    [
        ((0.5, 0.5), 0, 0.0),  # a blind guess
        ((0.5, 0.5), 1, 0.0),
        ((0.25, 0.75), 1, 1 + math.log(0.75) / math.log(2)),  # 0.585
        ((0.25, 0.75), 0, -1.0),  # 1 + log2(1/4) = -1
        ((0.01, 0.99), 0, -1.0),  # bounded below
        ((1 / 3, 1 / 3, 1 / 3), 2, 0.0),
        ((1 / 9, 4 / 9, 4 / 9), 0, -1.0),  # 1 + log_3(1/9)
    ],
)
def test_score_by_hand(probabilities: tuple[float, ...], target: int, score: float):
    task = Classification(len(probabilities))
    assert task.score(logits(*probabilities), np.array(target)) == pytest.approx(score)


def test_score_does_not_depend_on_an_offset_and_stays_finite():
    task = Classification(2)
    assert task.score(np.array([1000.0, 0.0]), np.array(0)) == pytest.approx(1.0)
    assert task.score(np.array([1000.0, 0.0]), np.array(1)) == -1.0
    assert task.score(np.array([7.0, 7.0]), np.array(1)) == pytest.approx(0.0)


def test_score_keeps_leading_axes():
    predictions = np.zeros((4, 5, 3), np.float32)
    assert Classification(3).score(predictions, np.zeros((4, 5), np.int64)).shape == (4, 5)


def test_loss_is_cross_entropy_and_agrees_with_the_score():
    task = Classification(3)
    prediction = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0]])
    loss = task.loss(prediction, target)
    assert loss.shape == (2, 5)
    expected = -torch.log_softmax(prediction, -1).gather(-1, target[..., None])[..., 0]
    torch.testing.assert_close(loss, expected)
    scores = task.score(prediction.detach().numpy(), target.numpy())
    np.testing.assert_allclose(scores, np.maximum(1 - loss.detach().numpy() / math.log(3), -1), rtol=1e-5, atol=1e-6)
    loss.sum().backward()
    assert prediction.grad is not None


def test_probabilities_add_up_to_one():
    probabilities = Classification(2).probabilities(logits([0.2, 0.8], [0.5, 0.5]))
    np.testing.assert_allclose(probabilities, [[0.2, 0.8], [0.5, 0.5]])


def test_metrics_by_hand():
    task = Classification(2)
    positive = np.array([0.1, 0.4, 0.35, 0.8])
    predictions = np.log(np.stack([1 - positive, positive], axis=1))
    metrics = task.metrics(predictions, np.array([0, 0, 1, 1]), ["a", "b", "c", "d"])
    assert set(metrics) == set(task.metric_names) >= {"auc", "accuracy", "score", "brier", "ece", "f1"}
    assert metrics["auc"].value == 0.75  # of 4 pairs only (0.35, 0.4) is in the wrong order
    assert metrics["accuracy"].value == 0.75
    assert metrics["score"].value == pytest.approx(np.mean(task.score(predictions, np.array([0, 0, 1, 1]))))
    for interval in metrics.values():
        assert interval.low <= interval.value <= interval.high


def test_resampled_areas_equal_scikit_learns():
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 3, 80)
    probabilities = generator.integers(1, 6, (80, 3)).astype(float)  # many ties
    weights = generator.integers(0, 4, (20, 80)).astype(float)
    expected = [
        np.mean([roc_auc_score(targets == k, probabilities[:, k], sample_weight=row) for k in range(3)])
        for row in weights
    ]
    areas = np.stack([weighted_auc(probabilities[:, k], targets == k, weights) for k in range(3)])
    np.testing.assert_allclose(mean_of_defined(areas), expected)
    binary = [roc_auc_score(targets == 1, probabilities[:, 1], sample_weight=row) for row in weights]
    np.testing.assert_allclose(areas[1], binary)


def test_multi_class_auc_is_the_mean_of_one_versus_rest():
    generator = np.random.default_rng(1)
    targets, predictions = generator.integers(0, 3, 50), generator.normal(size=(50, 3))
    task = Classification(3)
    found = task.metrics(predictions, targets, [str(i) for i in range(50)], bootstrap=10)["auc"].value
    expected = roc_auc_score(targets, task.probabilities(predictions), multi_class="ovr", average="macro")
    assert found == pytest.approx(expected)


def test_auc_of_one_class_is_not_a_number():
    metrics = Classification(2).metrics(np.zeros((3, 2)), np.array([1, 1, 1]), ["a", "b", "c"])
    assert all(math.isnan(value) for value in (metrics["auc"].value, metrics["auc"].low, metrics["auc"].high))
    assert metrics["accuracy"] == Interval(0.0, 0.0, 0.0)  # ties go to class 0


def test_a_class_that_is_absent_does_not_spoil_the_auc():
    targets = np.array([0, 0, 1, 1])
    predictions = np.array([[3.0, 0, 0], [2, 0, 0], [0, 3, 0], [0, 2, 0]])
    assert Classification(3).metrics(predictions, targets, list("abcd"))["auc"].value == 1.0


def test_patients_are_resampled_with_all_their_cases():
    weights = resampled_weights(["a", "b", "a", "c"], 500, 0)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)
    assert 0.85 < weights[:, 1].mean() < 1.15


def test_intervals_are_wider_when_cases_belong_together():
    generator = np.random.default_rng(0)
    right = np.repeat(generator.random(20) < 0.7, 10)  # ten cases of a patient are all right or all wrong
    targets = np.tile([0, 1], 100)
    predictions = np.where((np.arange(2) == targets[:, None]) == right[:, None], 1.0, -1.0)
    task = Classification(2)
    grouped = task.metrics(predictions, targets, [str(i // 10) for i in range(200)])["accuracy"]
    single = task.metrics(predictions, targets, [str(i) for i in range(200)])["accuracy"]
    assert grouped.value == single.value == right.mean()
    assert grouped.high - grouped.low > 2 * (single.high - single.low)


def test_interval_of_a_proportion():
    # 100 patients, half right: the standard error is 0.05, so the interval is about 0.5 +- 0.098.
    predictions = np.tile([[1.0, 0.0], [0.0, 1.0]], (50, 1))
    interval = Classification(2).metrics(predictions, np.zeros(100, int), [str(i) for i in range(100)])["accuracy"]
    assert interval.value == 0.5
    assert interval.low == pytest.approx(0.402, abs=0.015)
    assert interval.high == pytest.approx(0.598, abs=0.015)


def test_metrics_are_seeded_and_quick():
    generator = np.random.default_rng(0)
    predictions, targets = generator.normal(size=(300, 2)), generator.integers(0, 2, 300)
    patients = [str(i) for i in range(300)]
    task = Classification(2)
    start = time.perf_counter()
    first = task.metrics(predictions, targets, patients, seed=3)
    assert time.perf_counter() - start < 2
    assert first == task.metrics(predictions, targets, patients, seed=3)
    assert first != task.metrics(predictions, targets, patients, seed=4)


def test_metrics_of_nothing_and_of_unequal_lengths():
    assert math.isnan(Classification(2).metrics(np.zeros((0, 2)), np.zeros(0, int), [])["score"].value)
    with pytest.raises(ValueError, match="as many predictions as targets"):
        Classification(2).metrics(np.zeros((2, 2)), np.zeros(2, int), ["a", "b", "c"])


@pytest.mark.parametrize(("text", "target"), [("0", 0), ("1", 1), (" 1 ", 1), ("1.0", 1), ("tumour", 1), ("normal", 0)])
def test_targets_by_number_or_name(text: str, target: int):
    assert Classification(["normal", "tumour"]).parse_target(text) == target


@pytest.mark.parametrize("text", ["2", "-1", "0.5", "yes", "", "nan", "inf"])
def test_targets_out_of_range_name_the_rule(text: str):
    with pytest.raises(ValueError, match=r"out of range: expected a class from 0 to 1 or one of normal, tumour"):
        Classification(["normal", "tumour"]).parse_target(text)


def test_names_and_stacking():
    task = Classification(["a", "b", "c"])
    assert (task.outputs, task.names) == (3, ("a", "b", "c"))
    assert Classification(3).names == ("0", "1", "2")
    stacked = task.stack([0, 2, 1])
    assert stacked.dtype == np.int64
    assert torch.from_numpy(stacked).tolist() == [0, 2, 1]


@pytest.mark.parametrize("classes", [1, 0, ["a"], ["a", "a"]])
def test_too_few_classes_are_refused(classes: object):
    with pytest.raises(ValueError, match=r"at least two classes|different names"):
        Classification(classes)


def test_classes_are_strata():
    assert Classification(["low", "high"]).strata([1, 0]) == ["1", "0"]


# Any subset of several labels
