"""Survival is read again from tables: by cross-validations, comparisons and reports, alone and beside other tasks."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from glimpse.compare import compare
from glimpse.cross_validate import cross_validate
from glimpse.errors import EvaluationError
from glimpse.report.answers import read_answers
from glimpse.report.html.gathering import gathered
from glimpse.report.html.measures import measured
from glimpse.tasks import Classification, MultiTask, Survival

TASK = Survival("months", "dead", edges=[2, 6, 10], baseline=[0.25, 0.5, 0.2], blind=1.5)
BOTH = MultiTask({"os": TASK, "grade": Classification(["low", "high"])})
HEADER = ["reader", "split", "slide_id", "case_id"]
SHORT = ["env=xray", "experiment=smoke", "threads=1", "progress=false", "joint.updates=1", "report.pictures=1"]
KIND = ["env.task._target_=glimpse.tasks.Survival", "+env.task.time=months", "+env.task.event=dead", "+env.task.bins=3"]


def test_predictions_undo_probabilities_also_with_the_digits_of_a_table() -> None:
    outputs = np.random.default_rng(0).normal(0, 3, (50, 3))
    exact = TASK.probabilities(outputs)
    assert TASK.predictions(exact) == pytest.approx(outputs, abs=1e-5)
    written = np.array([[float(f"{value:.9g}") for value in row] for row in exact])
    assert TASK.probabilities(TASK.predictions(written)) == pytest.approx(exact, abs=1e-8)


def test_certain_answers_stay_what_they_are() -> None:
    given = np.array([[0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [1 / 3, 1.0, 1.0, 0.0]])
    again = TASK.predictions(given)
    assert np.isfinite(again).all() and TASK.probabilities(again) == pytest.approx(given, abs=1e-8)


def test_a_task_with_more_columns_than_outputs_stands_before_another_one() -> None:
    outputs = np.random.default_rng(1).normal(0, 1, (20, 5))
    assert BOTH.predictions(BOTH.probabilities(outputs)) == pytest.approx(
        np.concatenate([outputs[:, :3], np.log(Classification(2).probabilities(outputs[:, 3:]))], axis=1), abs=1e-6
    )
    targets = [{"os": (3.0, 1), "grade": index % 2} for index in range(20)]
    found = measured(BOTH, BOTH.probabilities(outputs), targets)
    (outcome,) = found.outcomes
    assert outcome.scores == pytest.approx(Classification(2).probabilities(outputs[:, 3:])[:, 1])
    (confusion,) = found.confusions
    assert confusion.counts.sum() == 20


def test_a_table_has_the_columns_of_the_task_and_may_lack_targets(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    lines = [
        [*HEADER, *TASK.target_columns, *TASK.columns],
        ["ppo", "test", "s1", "p1", "3.5", "1", 0.5, 0.9, 0.5, 0.1],
    ]
    lines += [["ppo", "test", "s2", "p2", "", "", 0.5, 0.9, 0.5, 0.1]]
    path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    found = read_answers(path, TASK)["ppo"]
    assert found.cases == ("s1",) and found.stacked(TASK).tolist() == [[3.5, 1.0]]
    with pytest.raises(EvaluationError, match="lacks the column 'time'"):
        read_answers(path, Survival(edges=[1], baseline=[0.5], blind=1))


def test_common_options_are_the_edges_of_all_events() -> None:
    task = Survival(bins=2)
    targets = [(3.0, 1), (8.5, 0), (6.0, 1), (1.0, 0)]
    assert task.common_options(targets) == {"edges": [3.0, 6.0]} and TASK.common_options(targets) == {}
    both = MultiTask({"os": task, "grade": Classification(2)})
    assert both.common_options([{"os": one, "grade": 0} for one in targets]) == {"tasks": {"os": {"edges": [3.0, 6.0]}}}
    with pytest.raises(ValueError, match="no event was seen: event is 0 or time is 0 in all of its 1 cases"):
        task.common_options([(8.5, 0)])


@pytest.fixture(scope="module")
def survivors(tiny_radiographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV of 12 radiographs with times and events, without splits."""
    path = tmp_path_factory.mktemp("survivors") / "cohort.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", "slide_id", "path", "months", "dead"])
        for number, row in enumerate(csv.DictReader(tiny_radiographs.open())):
            image = tiny_radiographs.parent / row["path"]
            writer.writerow([row["case_id"], row["slide_id"], image, 2.5 * number + 1, int(number % 3 > 0)])
    return path


def test_folds_have_the_same_intervals_and_are_compared_and_reported(survivors: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cv"
    settings = [*SHORT, *KIND, f"env.cohort.path={survivors}", "report.readers=[random]"]
    result = cross_validate(settings, folds=2, validation=0, folder=folder)
    kept = [OmegaConf.load(folder / f"fold-{number}" / "config.yaml").env.task for number in (1, 2)]
    assert kept[0].edges == kept[1].edges and kept[0].baseline != kept[1].baseline
    row = result.record["readers"]["ppo"]["c_index"]
    assert len(row["folds"]) == 2 and 0 <= row["together"]["low"] <= row["together"]["high"] <= 1
    with (folder / "predictions.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["reader"] == "ppo"]
    times, events = (np.array([float(line[name]) for line in lines]) for name in ("months", "dead"))
    risks = np.array([float(line["risk"]) for line in lines])
    pairs = [(a, b) for a in range(len(lines)) for b in range(len(lines)) if events[a] and times[a] < times[b]]
    concordant = np.mean([(risks[a] > risks[b]) + (risks[a] == risks[b]) / 2 for a, b in pairs])
    assert row["together"]["value"] == pytest.approx(concordant, abs=1e-6)
    found = compare([folder], readers=["ppo", "random"])
    assert found.cases == len(lines) and found.metrics["c_index"]["first"]["value"] == pytest.approx(
        concordant, abs=1e-6
    )
    report = gathered(folder / "fold-1")
    measured_on = {line["slide_id"]: line for line in lines if line["fold"] == "1"}
    assert {case.id for case in report.known[0]} == measured_on.keys()
    for case, (time, event) in zip(*report.known, strict=True):
        line = measured_on[case.id]
        assert (float(line["months"]), int(line["dead"])) == (time, event)
    html = (folder / "fold-1" / "report.html").read_text()
    assert f"{len(measured_on)} cases of" in html
    assert json.loads((folder / "metrics.json").read_text())["folds"] == 2
