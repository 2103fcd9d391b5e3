"""Comparing two readers on the same cases, by hand; answers that are read from tables again."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glimpse.compare import compare, main
from glimpse.errors import EvaluationError
from glimpse.report.answers import Answers, read_answers, task_in
from glimpse.report.over_folds import summarised, table_over_folds
from glimpse.report.paired import compared
from glimpse.report.tables import summarise, write_predictions
from glimpse.tasks import Classification, MultiLabel, MultiTask, Regression, Task
from tests.unit.test_tables import reading

TASK = Classification(2)
SEVERAL = MultiTask({"grade": Classification(3), "signs": MultiLabel(2), "age": Regression(50, 10)})


def answers(margins: list[float], targets: list[int], cases: str = "abcdef", patients: str = "") -> Answers:
    logits = np.array([[0.0, margin] for margin in margins])
    count = len(margins)
    owners = tuple((patients or cases)[:count])
    return Answers("ppo", tuple(cases[:count]), owners, tuple(map(str, targets)), logits)


TARGETS = [0, 1, 0, 1, 0, 1]
GOOD = answers([-2, 2, -1, 1, -3, 3], TARGETS)
BAD = answers([2, -2, 1, 1, -3, 3], TARGETS)


def test_a_difference_by_hand() -> None:
    found = compared(GOOD, BAD, TASK, ("good", "bad"), bootstrap=2000)
    accuracy = found.metrics["accuracy"]
    assert (accuracy["first"]["value"], accuracy["second"]["value"]) == (1, 0.5)
    assert accuracy["difference"]["value"] == 0.5 and found.cases == found.patients == 6
    # In a resample, the difference is the share of the three cases that differ: binomial, of 6 with p = 1 / 2.
    assert accuracy["difference"] == pytest.approx({"value": 1 / 2, "low": 1 / 6, "high": 5 / 6})
    mirrored = compared(BAD, GOOD, TASK, ("bad", "good"), bootstrap=2000)
    for name, one in found.metrics.items():
        assert mirrored.metrics[name]["difference"]["value"] == pytest.approx(-one["difference"]["value"])
    assert "+0.500 (+0.167 to +0.833)" in found.told and "good" in found.told


def of_many(patients: int) -> tuple[Answers, Answers]:
    """Returns answers that are all right, and answers of which the first three are wrong."""
    targets, cases = [i % 2 for i in range(patients)], tuple(f"c{i}" for i in range(patients))
    good = np.array([[0.0, 2.0 * target - 1] for target in targets])
    bad = np.concatenate([-good[:3], good[3:]])
    first, second = (Answers("ppo", cases, cases, tuple(map(str, targets)), one) for one in (good, bad))
    return first, second


def test_a_p_value_by_hand() -> None:
    good, bad = of_many(20)
    found = compared(good, bad, TASK, ("good", "bad"), bootstrap=2000)
    # In a resample, the difference is 0 where none of the three cases that differ is drawn: (17 / 20)^20.
    assert found.metrics["accuracy"]["p"] == pytest.approx(2 * 0.85**20, abs=0.012)
    mirrored = compared(bad, good, TASK, ("bad", "good"), bootstrap=2000)
    assert all(mirrored.metrics[name]["p"] == one["p"] for name, one in found.metrics.items())
    assert f"{found.metrics['accuracy']['p']:.4f}" in found.told and "There are no p-values" not in found.told


@pytest.mark.parametrize("patients", [3, 19])
def test_few_patients_have_no_p_values(patients: int) -> None:
    found = compared(*of_many(patients), TASK, ("good", "bad"), bootstrap=50)
    assert {one["p"] for one in found.record()["metrics"].values()} == {None}
    assert "no p-values (-): they mean nothing for fewer than 20 patients" in found.told.replace("\n", " ")
    rows = [line for line in found.told.splitlines() if line.startswith(("AUC", "accuracy"))]
    assert rows and all(line.split()[-1] == "-" for line in rows)


def test_the_same_answers_do_not_differ_and_patients_are_resampled() -> None:
    many = of_many(20)[0]
    same = compared(many, many, TASK, ("a", "b"), bootstrap=50)
    assert {one["p"] for one in same.metrics.values()} == {1.0}
    one = answers([-2, 2, -1, 1, -3, 3], TARGETS, patients="xxxxxx")
    other = answers([2, -2, 1, 1, -3, 3], TARGETS, patients="xxxxxx")
    found = compared(one, other, TASK, ("a", "b"), bootstrap=50)
    assert found.patients == 1 and found.metrics["accuracy"]["difference"] == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_cases_of_one_only_are_named_and_what_contradicts_is_refused() -> None:
    fewer = answers([2, -2, 1, 1], TARGETS[:4], cases="bafz")
    with pytest.raises(EvaluationError, match="a has the target '0' in x and '1' in y"):
        compared(GOOD, fewer, TASK, ("x", "y"))
    fewer = answers([2, -2, 1, 1], [1, 0, 1, 0], cases="bafz")
    found = compared(GOOD, fewer, TASK, ("x", "y"), bootstrap=20)
    assert found.cases == 3 and found.only == (("c", "d", "e"), ("z",))
    assert found.metrics["accuracy"]["second"]["value"] == pytest.approx(1)
    assert "only x has answered them: c, d, e." in found.told and "only y has answered them: z." in found.told
    with pytest.raises(EvaluationError, match="a has the patient 'a' in x and 'q' in y"):
        compared(GOOD, replace(GOOD, patients=tuple("qbcdef")), TASK, ("x", "y"))
    with pytest.raises(EvaluationError, match="no case in common"):
        compared(GOOD, answers([1.0], [1], cases="z"), TASK, ("x", "y"))


def test_one_class_has_no_auc_but_a_comparison() -> None:
    one, other = answers([1, 2], [1, 1]), answers([-1, 2], [1, 1])
    found = compared(one, other, TASK, ("a", "b"), bootstrap=20)
    assert found.metrics["auc"]["difference"]["value"] is None and found.metrics["auc"]["p"] is None
    assert found.metrics["accuracy"]["difference"]["value"] == 0.5
    json.dumps(found.record(), allow_nan=False)


EVERY = [Classification(["no", "yes"]), Classification(4), MultiLabel(3), Regression(50, 10), SEVERAL]


@pytest.mark.parametrize("task", EVERY, ids=repr)
def test_metrics_from_a_table_are_those_of_the_readings(task: Task, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = []
    for index in range(24):
        target = {
            "Classification": index % task.outputs,
            "MultiLabel": np.array([index % 2, index % 3 == 0, 1]),
            "Regression": 40.0 + index,
            "MultiTask": {"grade": index % 3, "signs": np.array([1, index % 2]), "age": 40.0 + index},
        }[type(task).__name__]
        prediction = 3 * rng.normal(size=task.outputs)
        given = {"target": target, "prediction": prediction, "predictions": prediction[None]}
        made.append(replace(reading(index, None, 0.0), **given))
    write_predictions(tmp_path / "predictions.csv", {"ppo": made}, task, "test")
    found = read_answers(tmp_path / "predictions.csv", task)["ppo"].metrics(task)
    expected = summarise(made, task)
    for name in task.metric_names:
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name


def write(path: Path, margins: list[float], reader: str = "ppo", patient: str = "p") -> Path:
    made = [replace(reading(i, i % 2, margin), patient=f"{patient}{i}") for i, margin in enumerate(margins)]
    write_predictions(path, {reader: made, "grid": made[::-1]}, TASK, "test")
    return path


def test_tables_are_compared_without_their_runs(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", [-1, 1, -2, 2, 1, 1])
    other = write(tmp_path / "other.csv", [-1, 1, -2, 2, -1, 1], "reinforce")
    found = compare([one, other], bootstrap=100, output=tmp_path / "found.json")
    assert found.names == ("ppo", "reinforce") and found.metrics["accuracy"]["difference"]["value"] == pytest.approx(
        -1 / 6
    )
    assert json.loads((tmp_path / "found.json").read_text())["metrics"] == found.metrics
    assert compare([one, other], readers="grid", bootstrap=100).names == ("one", "other")
    many = write(tmp_path / "many.csv", [-1, 1, -2, 2] * 5)
    assert compare(many, readers=["ppo", "grid"], bootstrap=10).metrics["auc"]["p"] == 1
    (tmp_path / "folds").mkdir()
    (tmp_path / "folds" / "folds.csv").touch()
    for given, said in (
        ({"runs": one}, "name two of its readers"),
        ({"runs": [one, other], "readers": "gird"}, r"no answers of 'gird' \(did you mean 'grid'\?\)"),
        ({"runs": [one, tmp_path / "absent"]}, "absent: cannot be read"),
        ({"runs": [one, other, one]}, "Expected two runs"),
        ({"runs": 3}, "Expected runs as a list"),
        ({"runs": [one, tmp_path / "folds"]}, "folds: this cross-validation has not ended"),
    ):
        with pytest.raises(EvaluationError, match=said):
            compare(**given)


def test_folders_may_be_typed_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / name for name in ("first run", "it's, [b] = 1")]
    for folder, margins in zip(folders, ([-1, 1, -2, 2, 1, 1], [-1, 1, -2, 2, -1, 1]), strict=True):
        folder.mkdir()
        write(folder / "predictions.csv", margins)
    line = [*map(str, folders), f"output={tmp_path / 'found.json'}", "bootstrap=20"]
    monkeypatch.setattr(sys, "argv", ["glimpse compare", *line])
    main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["runs"] == list(map(str, folders)) and "first run" in capsys.readouterr().out
    assert found["metrics"]["accuracy"]["difference"]["value"] == pytest.approx(-1 / 6)


def test_what_a_case_costs_stands_beside_the_metrics(tmp_path: Path) -> None:
    made = [replace(reading(i, i % 2, 1.0, 4 + i), pixels_read=10**6, multiply_adds=2 * 10**9) for i in range(4)]
    dear = [replace(one, glimpses=20, seconds=2.0, multiply_adds=None) for one in made[:3]]
    write_predictions(tmp_path / "predictions.csv", {"ppo": made, "full_scan": dear}, TASK, "test")
    found = compare(tmp_path / "predictions.csv", readers=["ppo", "full_scan"], bootstrap=10)
    assert found.costs["glimpses"] == {"first": 5, "second": 20, "difference": -15}  # of the three cases of both
    assert found.costs["share_read"]["first"] == pytest.approx(0.1)
    assert found.costs["seconds_per_case"] == {"first": 0.5, "second": 2, "difference": -1.5}
    assert found.costs["megapixels_per_case"] == {"first": 1, "second": 1, "difference": 0}
    assert found.costs["multiply_adds_per_case"] == {"first": 2e9, "second": None, "difference": None}
    assert found.record()["costs"] == found.costs
    lines = {line.split("  ")[0]: line.split()[-3:] for line in found.told.splitlines()}
    assert lines["glimpses"] == ["5.0", "20.0", "-15.0"] and lines["% of foreground read"] == ["10.0", "10.0", "+0.0"]
    assert lines["s/case"] == ["0.500", "2.000", "-1.500"] and lines["GMAC"] == ["2.00", "n/a", "n/a"]
    text = (tmp_path / "predictions.csv").read_text().splitlines()
    short = [",".join(line.split(",")[:7]) for line in text]  # of another program, which says nothing of costs
    (tmp_path / "predictions.csv").write_text("\n".join(short) + "\n")
    found = compare(tmp_path / "predictions.csv", readers=["ppo", "full_scan"], bootstrap=10)
    assert "s/case" not in found.told and found.costs["glimpses"] == dict.fromkeys(("first", "second", "difference"))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("target", "truth", "lacks the column 'target'"),
        ("p_1", "q_1", "add up to 1"),
        ("ppo,test,s1", "ppo,test,s0", "ppo has answered s0 several times"),
        (",p1,1,", ",p1,7,", "s1: target '7'"),
    ],
)
def test_tables_with_mistakes_are_refused(tmp_path: Path, before: str, after: str, said: str) -> None:
    path = write(tmp_path / "one.csv", [-1, 1, -2])
    path.write_text(path.read_text().replace(before, after, 1))
    with pytest.raises(EvaluationError, match=said):
        read_answers(path, task_in(path))


# ---------------------------------------------------------------------------------------------- over folds
def test_folds_are_summarised_by_hand(tmp_path: Path) -> None:
    folds, tables = [], []
    for number, margins in enumerate(([-1, 1, -2, 2], [1, 1, -2, 2], [1, -1, 2, -2])):
        made = [replace(reading(10 * number + i, i % 2, margin)) for i, margin in enumerate(margins)]
        write_predictions(tmp_path / "predictions.csv", {"ppo": made}, TASK, "test")
        tables.append(read_answers(tmp_path / "predictions.csv", TASK))
        folds.append({"ppo": summarise(made, TASK), **({"grid": summarise(made, TASK)} if number else {})})
    rows = summarised(folds, tables, TASK)
    assert list(rows) == ["ppo"]  # not all folds have the other
    accuracy = rows["ppo"]["accuracy"]
    assert accuracy["mean"] == pytest.approx((1 + 0.75 + 0) / 3)
    assert accuracy["sd"] == pytest.approx(math.sqrt(((1 - 7 / 12) ** 2 + (0.75 - 7 / 12) ** 2 + (7 / 12) ** 2) / 2))
    assert [one["value"] for one in accuracy["folds"]] == [1, 0.75, 0]
    assert accuracy["together"]["value"] == pytest.approx(7 / 12)
    assert rows["ppo"]["confusion"]["matrix"] == [[3, 3], [2, 4]]
    text = table_over_folds(rows, TASK.headline, TASK.further)
    assert "0.583 (0.520)" in text and "fold 3" in text
    json.dumps(rows, allow_nan=False)


def test_a_fold_of_one_class_counts_where_it_is_defined(tmp_path: Path) -> None:
    folds, tables = [], []
    for number, targets in enumerate(([0, 1], [1, 1])):
        made = [reading(10 * number + i, target, target - 0.5) for i, target in enumerate(targets)]
        write_predictions(tmp_path / "predictions.csv", {"ppo": made}, TASK, "test")
        tables.append(read_answers(tmp_path / "predictions.csv", TASK))
        folds.append({"ppo": summarise(made, TASK)})
    auc = summarised(folds, tables, TASK)["ppo"]["auc"]
    assert (auc["mean"], auc["sd"], auc["together"]["value"], auc["folds"][1]["value"]) == (1, None, 1, None)


def test_answers_keep_nine_digits(tmp_path: Path) -> None:
    sure = [replace(reading(i, i % 2, 0.0), prediction=np.array([0, 15.0 + i])) for i in range(4)]
    write_predictions(tmp_path / "predictions.csv", {"ppo": sure}, TASK, "test")
    found = read_answers(tmp_path / "predictions.csv", TASK)["ppo"]
    np.testing.assert_allclose(found.predictions[:, 1] - found.predictions[:, 0], [15, 16, 17, 18], atol=1e-6)
