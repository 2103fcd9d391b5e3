"""Every task: loss, score and metrics against values worked by hand."""

import math
import re

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from glimpse.tasks import (
    Classification,
    MultiLabel,
    MultiTask,
    Regression,
    Task,
)


def test_labels_loss_and_score_by_hand():
    task = MultiLabel(2)
    prediction, target = np.log([[1.0, 3.0]]), np.array([[0, 1]])  # p = 1/2 and 3/4
    entropy = -(math.log(0.5) + math.log(0.75)) / 2
    assert task.loss(torch.from_numpy(prediction), torch.from_numpy(target)).item() == pytest.approx(entropy)
    assert task.score(prediction, target).item() == pytest.approx(1 - entropy / math.log(2))
    np.testing.assert_allclose(task.probabilities(prediction), [[0.5, 0.75]])


@pytest.mark.parametrize("target", [[0, 0, 0], [1, 0, 1], [1, 1, 1]])
def test_labels_score_bounds(target: list[int]):
    task, sure = MultiLabel(3), 20.0 * (2 * np.array(target) - 1)
    assert task.score(np.zeros(3), np.array(target)) == pytest.approx(0)  # a blind guess
    assert task.score(sure, np.array(target)) == pytest.approx(1)
    assert task.score(-sure, np.array(target)) == -1


def test_labels_metrics_by_hand():
    task = MultiLabel(["a", "b", "c"])
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
    predictions = np.array([[2.0, -1, -1], [-1, 3, -1], [1, 2, -1], [-2, -2, -1]])
    metrics = task.metrics(predictions, targets, list("pqrs"))
    assert set(metrics) == set(task.metric_names)
    assert metrics["accuracy"].value == 0.5  # the first and the last case have all labels right
    assert metrics["auc"].value == pytest.approx((3 / 4 + 1) / 2)  # nobody has c; of a's 4 pairs, (-1, 1) is wrong
    assert metrics["f1"].value == pytest.approx((1 / 2 + 1) / 2)  # a: one found, one missed, one too many
    assert metrics["score"].value == pytest.approx(task.score(predictions, targets).mean())
    assert all(interval.low <= interval.value <= interval.high for interval in metrics.values())


@pytest.mark.parametrize(
    ("text", "target"),
    [("a", [1, 0, 0]), ("c; a", [1, 0, 1]), ("0;2.0", [1, 0, 1]), ("none", [0, 0, 0]), (" - ", [0, 0, 0])],
)
def test_labels_by_number_or_name(text: str, target: list[int]):
    task = MultiLabel(["a", "b", "c"])
    found = task.parse_target(text)
    assert found.dtype == np.int64 and found.tolist() == target
    assert task.parse_target(task.write_target(found)).tolist() == target


@pytest.mark.parametrize("text", ["d", "a;", "3", "-1", "a,b", "none;a", ""])
def test_wrong_labels_name_the_rule(text: str):
    with pytest.raises(ValueError, match=r"is no label: expected labels from 0 to 2 or one of a, b, c.*or 'none'"):
        MultiLabel(["a", "b", "c"]).parse_target(text)


@pytest.mark.parametrize("labels", [0, [], ["a", "a"], ["a;b"], ["none"], ["-", "b"], [""]])
def test_impossible_labels_are_refused(labels: object):
    with pytest.raises(ValueError, match="label"):
        MultiLabel(labels)


def test_rare_sets_of_labels_are_stratified_by_their_rarest_label():
    task = MultiLabel(["a", "b", "c"])
    targets = [task.parse_target(text) for text in ("a;b", "a;b", "a;b", "a;c", "none", "b;c", "a")]
    assert task.strata(targets) == ["a;b", "a;b", "a;b", "c", "none", "c", "a"]


# A quantity


@pytest.mark.parametrize(
    ("answer", "loss", "score"),
    [(60, 0, 1), (70, 0.5, 0), (55, 0.125, 0.75), (74, 0.9, 1 - 1.4**2), (90, 2.5, -1), (-100, 15.5, -1)],
)
def test_quantity_by_hand(answer: float, loss: float, score: float):
    task = Regression(mean=50, spread=10)  # the target is 60, the error in units of 10
    prediction = np.array([(answer - 50) / 10], np.float32)
    assert task.probabilities(prediction) == pytest.approx([answer])
    assert task.loss(torch.from_numpy(prediction), torch.tensor(60.0)).item() == pytest.approx(loss)
    assert task.score(prediction, np.float32(60)) == pytest.approx(score, abs=1e-6)


def test_guessing_the_mean_scores_nothing():
    task, targets = Regression(mean=50, spread=10), np.array([40.0, 60.0])
    assert task.score(np.zeros((2, 1)), targets).mean() == pytest.approx(0)


def test_quantity_metrics_by_hand():
    task = Regression(mean=2, spread=2)
    targets, answers = np.array([1.0, 2, 3, 6]), np.array([2.0, 2, 2, 8])
    metrics = task.metrics((answers[:, None] - 2) / 2, targets, list("pqrs"))
    assert set(metrics) == set(task.metric_names)
    assert metrics["mae"].value == pytest.approx(1.0)  # (1 + 0 + 1 + 2) / 4
    assert metrics["r2"].value == pytest.approx(1 - 6 / 14)
    assert metrics["correlation"].value == pytest.approx(np.corrcoef(targets, answers)[0, 1])
    assert metrics["score"].value == pytest.approx((0.75 + 1 + 0.75 + 0) / 4)
    assert metrics["mae"].low < 1 < metrics["mae"].high


def test_equal_targets_have_no_correlation():
    metrics = Regression().metrics(np.array([[0.5], [1.0]]), np.array([1.0, 1.0]), ["p", "q"])
    assert math.isnan(metrics["correlation"].value) and math.isnan(metrics["r2"].value)
    assert metrics["mae"].value == pytest.approx(0.25)


def test_quantities_are_finite_numbers():
    assert Regression().parse_target(" -2.5e1 ") == -25
    for text in ("", "nan", "inf", "3,5", "old"):
        with pytest.raises(ValueError, match="is not a number: expected a finite one"):
            Regression().parse_target(text)
    for mean, spread in ((math.nan, 1), (0, 0), (0, -1), (0, math.inf)):
        with pytest.raises(ValueError, match="finite mean and a positive"):
            Regression(mean, spread)


def test_quantities_are_stratified_by_quarter():
    assert Regression().strata([1, 2, 3, 4, 5, 6, 7, 8]) == ["0", "0", "1", "1", "2", "2", "3", "3"]


# MultiTask at once

SEVERAL = MultiTask({"grade": Classification(["low", "high"]), "signs": MultiLabel(3), "age": Regression(50, 10)})


def test_several_are_the_parts_one_after_another():
    assert SEVERAL.outputs == 6 and SEVERAL.target_shape == (5,)
    assert SEVERAL.names == ("grade_low", "grade_high", "signs_0", "signs_1", "signs_2", "age_value")
    assert SEVERAL.columns == ("grade_p_low", "grade_p_high", "signs_p_0", "signs_p_1", "signs_p_2", "age_value")
    assert SEVERAL.headline == ("grade_accuracy", "signs_accuracy", "age_mae")
    targets = SEVERAL.stack([{"grade": 1, "signs": [0, 1, 1], "age": 61.5}, (0, [1, 0, 0], 40)])
    assert targets.tolist() == [[1, 0, 1, 1, 61.5], [0, 1, 0, 0, 40]] and targets.dtype == np.float32
    whole = MultiTask({"a": Classification(3), "b": MultiLabel(2)}).stack([(2, [0, 1])])
    assert whole.tolist() == [[2, 0, 1]] and whole.dtype == np.int64


def test_several_share_loss_and_score():
    rng = np.random.default_rng(0)
    prediction = rng.normal(size=(2, 4, 6)).astype(np.float32)
    stacked = SEVERAL.stack([(1, [0, 1, 1], 61.5), (0, [1, 0, 0], 40)])
    target = torch.from_numpy(stacked)[:, None].expand(-1, 4, -1)
    loss, score = SEVERAL.loss(torch.from_numpy(prediction), target), SEVERAL.score(prediction, target.numpy())
    assert loss.shape == score.shape == (2, 4)
    grade, signs, age = SEVERAL.tasks.values()
    one = prediction[1, 2]
    scores = [
        grade.score(one[:2], np.array(0)),
        signs.score(one[2:5], np.array([1, 0, 0])),
        age.score(one[5:], np.array(40)),
    ]
    assert score[1, 2] == pytest.approx(np.mean(scores), abs=1e-6)
    losses = [
        grade.loss(torch.from_numpy(one[:2]), torch.tensor(0)),
        signs.loss(torch.from_numpy(one[2:5]), torch.tensor([1, 0, 0])),
        age.loss(torch.from_numpy(one[5:]), torch.tensor(40)),
    ]
    assert loss[1, 2].item() == pytest.approx(np.mean(losses), abs=1e-6)


def test_several_report_what_the_parts_report():
    rng = np.random.default_rng(0)
    predictions, patients = rng.normal(size=(12, 6)), [str(i // 2) for i in range(12)]
    targets = SEVERAL.stack([(i % 2, rng.integers(0, 2, 3), 45 + i) for i in range(12)])
    metrics = SEVERAL.metrics(predictions, targets, patients, seed=3)
    assert tuple(metrics) == SEVERAL.metric_names
    alone = SEVERAL.tasks["grade"].metrics(predictions[:, :2], targets[:, 0], patients, seed=3)
    assert {f"grade_{name}": found for name, found in alone.items()}.items() <= metrics.items()
    parts = [metrics[f"{name}_score"].value for name in SEVERAL.tasks]
    assert metrics["score"].value == pytest.approx(np.mean(parts))


@pytest.mark.parametrize("text", ["grade=high;signs=0;2;age=61.5", " age = 61.5 ; grade=1.0; signs = 2;0"])
def test_several_targets_in_a_cell(text: str):
    target = SEVERAL.parse_target(text)
    assert (target["grade"], target["signs"].tolist(), target["age"]) == (1, [1, 0, 1], 61.5)
    assert SEVERAL.write_target(target) == "grade=high;signs=0;2;age=61.5"
    assert SEVERAL.describe_target(target) == "grade high; signs 0, 2; age 61.5"
    assert SEVERAL.strata([target]) == ["1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grade=1;signs=none", "lacks age: expected 'grade=...;signs=...;age=...'"),
        ("1;2;3", "expected 'grade=...;signs=...;age=...'"),
        ("grade=1;grade=0;signs=none;age=1", "states 'grade' twice"),
        ("grade=2;signs=none;age=1", "grade: target '2' is out of range"),
        ("grade=1;signs=none;size=4;age=1", "signs: target 'none;size=4': 'none' is no label"),
    ],
)
def test_wrong_cells_name_the_part(text: str, said: str):
    with pytest.raises(ValueError, match=re.escape(said)):
        SEVERAL.parse_target(text)


def test_several_refuses_what_it_cannot_write():
    with pytest.raises(ValueError, match="at least one task"):
        MultiTask({})
    with pytest.raises(ValueError, match="neither '=' nor ';'"):
        MultiTask({"a=b": Classification(2)})
    with pytest.raises(ValueError, match="expected a target with the parts"):
        SEVERAL.stack([{"grade": 1}])


def test_tasks_with_equal_options_are_equal():
    made = [MultiTask({"a": Classification(3), "b": Regression(1, spread)}) for spread in (2, 2.0, 3)]
    assert made[0] == made[1] != made[2] and len({*made[:2]}) == 1
    assert MultiLabel(2) != Classification(2) == Classification(["0", "1"])


def test_tasks_in_a_configuration():
    part = {"_target_": "glimpse.tasks.MultiLabel", "labels": ["a", "b"]}
    other = {"_target_": "glimpse.tasks.Regression", "mean": 60, "spread": 12}
    made = instantiate(OmegaConf.create({"_target_": "glimpse.tasks.MultiTask", "tasks": {"x": part, "y": other}}))
    assert made.names == ("x_a", "x_b", "y_value") and made.tasks["y"].spread == 12


@pytest.mark.parametrize("task", [Classification(["low", "high"]), MultiLabel(3), Regression(50, 10), SEVERAL])
def test_what_pictures_say(task: Task):
    text, share = task.caption(np.zeros(task.outputs))
    assert text and 0 <= share <= 1
    assert task.describe(np.zeros(task.outputs))
    assert len(task.columns) == task.outputs
    assert set(task.headline) <= set(task.metric_names)


def test_what_pictures_say_by_hand():
    assert Classification(["low", "high"]).caption(np.log([0.25, 0.75])) == ("p(high) 0.75", pytest.approx(0.75))
    assert Classification(["low", "high"]).describe(np.log([0.75, 0.25])) == "low (0.75)"
    signs = MultiLabel(["a", "b", "c"])
    assert signs.caption(np.log([3.0, 1 / 4, 9])) == ("a, c", pytest.approx(0.75 * 0.8 * 0.9))
    assert signs.describe(np.array([-1.0, -1, -1])) == "none"
    assert Regression(50, 10).caption(np.array([1.0])) == ("60", pytest.approx(0.75))


# ---------------------------------------------------------------------------------------------- class weights
def test_class_weights_multiply_the_loss_and_nothing_else() -> None:
    plain, weighted = Classification(["a", "b"]), Classification(["a", "b"], class_weights=[0.5, 3])
    predictions, targets = np.array([[0.2, 1.0], [1.5, -0.3], [0.1, 0.4]]), np.array([0, 1, 1])
    both = [task.loss(torch.from_numpy(predictions), torch.from_numpy(targets)) for task in (plain, weighted)]
    torch.testing.assert_close(both[1], both[0] * torch.tensor([0.5, 3, 3], dtype=torch.float64))
    np.testing.assert_array_equal(plain.score(predictions, targets), weighted.score(predictions, targets))
    first, second = (task.metrics(predictions, targets, list("xyz"), bootstrap=10) for task in (plain, weighted))
    assert str(first) == str(second) and plain != weighted


def test_balanced_class_weights_follow_from_the_targets() -> None:
    task = Classification(3, class_weights="balanced")
    assert task.weighing([0, 0, 0, 1]) == {"class_weights": [pytest.approx(2 / 3, abs=1e-6), 2.0, 1.0]}
    assert Classification(3).weighing([0, 0, 1]) == {} == Classification(2, class_weights=[1, 2]).weighing([0, 1])
    several = MultiTask({"x": Classification(2, class_weights="balanced"), "y": Regression(0, 1)})
    found = several.weighing([{"x": 0, "y": 1.0}, {"x": 1, "y": 1.0}, {"x": 1, "y": 1.0}])
    assert found == {"tasks": {"x": {"class_weights": [1.5, 0.75]}}}
    with pytest.raises(ValueError, match=r"class_weights=balanced has no numbers"):
        task.loss(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("weights", ["even", [1.0], [1, 0], [1, math.inf], [True, 1], 3])
def test_impossible_class_weights_are_refused(weights: object) -> None:
    with pytest.raises(Exception, match="class_weights"):  # beartype may be the first to say so
        Classification(2, class_weights=weights)
