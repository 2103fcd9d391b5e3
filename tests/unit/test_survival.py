"""Survival: its likelihood by hand, its metrics against lifelines and scikit-survival, and its columns in cohorts."""

import csv
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import glimpse
from glimpse.agents.heads import Examples, HeadTrainer, HeadTraining
from glimpse.cohort import Cohort, CohortError
from glimpse.cohort.settling import with_settled_task
from glimpse.evaluate import evaluate
from glimpse.inspecting.inputs import find_candidates
from glimpse.predict import predict
from glimpse.settings.composing import composed
from glimpse.tasks import Classification, MultiTask, Survival, Task
from glimpse.tasks.concordance import kaplan_meier, weighted_brier, weighted_concordance
from glimpse.train import train

EDGES, HAZARDS = (2.0, 6.0, 10.0), (0.25, 0.5, 0.2)
TASK = Survival(edges=EDGES, baseline=HAZARDS, blind=1.5, unit="months")
_SECTION = {"_target_": "glimpse.tasks.Survival"}
ZERO = np.zeros(3)  # the blind guess: the hazards of the baseline

# Of 16 cases with ties of every kind. The values beside them are from lifelines 0.30.3 and scikit-survival 0.28.0.
TIMES = np.array([1, 2, 2, 3, 3, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9, 9], float)
EVENTS = np.array([1, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1, 0]) == 1
RISKS = np.array([3, 2, 3, 1, 2, 2, 0, 1, 1, 3, -1, 0, -2, 0, -1, -2], float)
MOMENTS = np.array([2.0, 5.0, 8.0])


# ---------------------------------------------------------------------------------------------- likelihood
@pytest.mark.parametrize(
    ("time", "event", "likelihood"),
    [
        (0.0, 1, 0.25),
        (2.0, 1, 0.25),  # an edge belongs to the interval before it
        (2.001, 1, 0.75 * 0.5),
        (10.0, 1, 0.75 * 0.5 * 0.2),
        (11.0, 1, 0.75 * 0.5 * 0.8),  # after the last edge: all that is known is that it had not come
        (11.0, 0, 0.75 * 0.5 * 0.8),
        (0.0, 0, 1.0),  # nothing was seen
        (2.0, 0, 0.75),
        (3.0, 0, 0.75 * 0.5**0.25),  # a quarter of the second interval
        (6.0, 0, 0.75 * 0.5),
    ],
)
def test_the_likelihood_of_what_was_seen(time: float, event: int, likelihood: float) -> None:
    target = TASK.stack([(time, event)])
    loss = TASK.loss(torch.zeros(1, 3, dtype=torch.float64), torch.from_numpy(target))
    assert loss.item() == pytest.approx(-math.log(likelihood), abs=1e-6)
    assert TASK.score(ZERO[None], target).item() == pytest.approx(1 + math.log(likelihood) / 1.5, abs=1e-6)


def test_all_that_can_happen_has_a_probability_of_one() -> None:
    prediction = torch.tensor([[0.3, -1.2, 2.0]], dtype=torch.float64)
    outcomes = torch.tensor([[1.0, 1], [4.0, 1], [9.0, 1], [99.0, 0]])
    losses = TASK.loss(prediction.expand(4, 3), outcomes)
    assert torch.exp(-losses).sum().item() == pytest.approx(1)


def test_scores_are_bounded_and_a_certain_and_right_answer_is_perfect() -> None:
    right, target = np.array([-40.0, 40.0, 0.0]), TASK.stack([(5.0, 1)])[0]
    assert TASK.score(right, target) == pytest.approx(1)
    assert TASK.score(-right, target) == -1
    many = np.stack([right, -right, ZERO]).reshape(3, 1, 3).repeat(2, 1)  # scores of any batch
    np.testing.assert_allclose(
        TASK.score(many, np.stack([[target] * 2] * 3)).mean(1), [1, -1, 1 + math.log(0.375) / 1.5]
    )


def test_what_is_said_of_an_answer() -> None:
    survival = [0.75, 0.375, 0.3]
    risk = 1 - np.mean(survival)
    np.testing.assert_allclose(TASK.probabilities(ZERO), [risk, *survival])
    assert TASK.columns == ("risk", "s_2", "s_6", "s_10")
    median = 2 + 4 * math.log(0.75 / 0.5) / math.log(2)
    assert TASK.describe(ZERO) == f"risk {risk:.2f}, median {median:.4g} months"
    assert TASK.answer(np.array([0.1, 0.9, 0.8, 0.7])) == "risk 0.10, median > 10 months"
    assert TASK.caption(ZERO) == (f"risk {risk:.2f}", pytest.approx(risk))
    assert [TASK.describe_target(one) for one in ((3.5, 1), (12.0, 0))] == ["3.5 months", "> 12 months"]


# ---------------------------------------------------------------------------------------------- metrics
@pytest.mark.parametrize(
    ("events", "value"),
    [(EVENTS, 0.8209876543209876), (EVENTS | True, 0.8378378378378378), (np.arange(16) == 3, 0.6666666666666666)],
    ids=["censored", "all events", "one event"],
)
def test_concordance_is_that_of_lifelines(events: np.ndarray, value: float) -> None:
    assert weighted_concordance(RISKS, TIMES, events, np.ones((1, 16))) == pytest.approx(value, abs=1e-14)


def test_curves_and_brier_scores_are_those_of_scikit_survival() -> None:
    survival = np.array([[0.95 - 0.02 * i, 0.8 - 0.03 * i, 0.6 - 0.03 * i] for i in range(16)])
    curve = kaplan_meier(TIMES, EVENTS, MOMENTS)[0]
    np.testing.assert_allclose(curve, [0.8749999999999999, 0.5758547008547007, 0.3084935897435897])
    for scale, kind in ((1.0, np.float64), (0.1, np.float32), (0.7, np.float32)):  # as `stack` rounds times
        times = (TIMES * scale).astype(kind).astype(np.float64)
        score = weighted_brier(survival, MOMENTS * scale, times, EVENTS, np.ones((1, 16)))
        assert score == pytest.approx(0.26012267127403843)


def test_concordance_of_resamples_is_that_of_the_cases_that_they_hold() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = rng.integers(0, 16, 16)
        weights = np.bincount(rows, minlength=16)[None].astype(float)
        pairs = [(i, j) for i in rows for j in rows if EVENTS[i] and
                 (TIMES[i] < TIMES[j] or (TIMES[i] == TIMES[j] and not EVENTS[j]))]  # fmt: skip
        right = sum(float(RISKS[i] > RISKS[j]) + 0.5 * (RISKS[i] == RISKS[j]) for i, j in pairs)
        assert weighted_concordance(RISKS, TIMES, EVENTS, weights) == pytest.approx(right / len(pairs))


@pytest.mark.parametrize("targets", [[(3.0, 0), (5.0, 0)], [(4.0, 1), (4.0, 1)], [(5.0, 1), (3.0, 0)], [(1.0, 1)]])
def test_where_no_two_cases_can_be_compared_concordance_is_not_defined(targets: list[Any]) -> None:
    found = TASK.metrics(np.zeros((len(targets), 3)), TASK.stack(targets), [str(i) for i in range(len(targets))])
    assert math.isnan(found["c_index"].value) and math.isnan(found["c_index"].low)
    assert math.isfinite(found["score"].value)


def test_intervals_resample_patients() -> None:
    predictions, targets = np.outer(RISKS, np.ones(3)) / 2, TASK.stack(list(zip(TIMES, EVENTS, strict=True)))
    of_cases = TASK.metrics(predictions, targets, [str(i) for i in range(16)])["c_index"]
    of_patients = TASK.metrics(predictions, targets, [str(i // 8) for i in range(16)])["c_index"]
    assert of_cases.low < of_cases.value < of_cases.high < 1
    assert of_cases.value == of_patients.value == pytest.approx(0.8209876543209876)
    assert of_patients.low != of_cases.low


# ---------------------------------------------------------------------------------------------- open options
def test_open_options_follow_from_the_training_split() -> None:
    rng = np.random.default_rng(1)
    times, events = rng.exponential(20, 200).round(2), rng.random(200) < 0.6
    targets = [(float(time), int(event)) for time, event in zip(times, events, strict=True)]
    found = Survival(bins=4).settled(targets)
    assert isinstance(found, Survival) and found.edges is not None and found.outputs == 4
    within = np.searchsorted(found.edges, times[events])
    assert np.bincount(within, minlength=4).tolist() == pytest.approx([events.sum() / 4] * 4, abs=1)
    assert found.edges[-1] >= times[events].max()
    np.testing.assert_allclose(
        found.probabilities(np.zeros(4))[1:], kaplan_meier(times, events, np.array(found.edges))[0], atol=3e-3
    )
    blind = found.score(np.zeros((200, 4)), found.stack(targets))
    assert blind.mean() == pytest.approx(0, abs=2e-3)
    assert found.settled(targets) is found and found == Survival(bins=4, **Survival(bins=4).open_options(targets))


def test_edges_may_be_given_and_are_fewer_where_events_are() -> None:
    targets = [(12.3, 1), (12.3, 1), (40.0, 0), (7.0, 1), (0.0, 1)]
    given = Survival(edges=[12, 24]).settled(targets)
    assert given.columns == ("risk", "s_12", "s_24")
    made = Survival(bins=8).settled(targets)
    assert made.columns == ("risk", "s_7", "s_12.3")
    as_stored = torch.from_numpy(made.stack(targets))  # float32, in which 12.3 is a little more
    assert made._seen(as_stored)[1].tolist() == [[0, 1], [0, 1], [0, 0], [1, 0], [1, 0]]


@pytest.mark.parametrize("several", [False, True])
def test_settings_of_a_run_hold_what_was_left_open(several: bool) -> None:
    task: dict[str, Any] = _SECTION | {"bins": 2}
    targets: list[Any] = [(3.0, 1), (8.0, 1), (9.0, 0), (5.0, 0)]
    if several:
        grade = {"_target_": "glimpse.tasks.Classification", "classes": 2}
        task = {"_target_": "glimpse.tasks.MultiTask", "tasks": {"grade": grade, "os": task}}
        targets = [{"os": one, "grade": 0} for one in targets]
    env = {"task": task, "cohort": {"path": "c.csv", "task": task}, "make": {"task": task, "size": 1}, "name": "x"}
    settled = with_settled_task(env, _OfTargets(targets))  # type: ignore[arg-type]
    inner = settled["task"]["tasks"]["os"] if several else settled["task"]
    blind = -(2 * math.log(0.75) + math.log(0.25) + 2 * math.log(0.5) + 0.4 * math.log(0.5)) / 4
    assert inner == _SECTION | {
        "bins": 2,
        "edges": [3.0, 8.0],
        "baseline": [0.25, 0.5],
        "blind": pytest.approx(blind - math.log(0.75) / 4),
    }
    assert settled["make"] == {"task": settled["task"], "size": 1} and settled["cohort"]["task"] == settled["task"]
    assert with_settled_task(settled, _OfTargets(targets)) == settled  # type: ignore[arg-type]
    with pytest.raises(CohortError, match=r"c\.csv: no event was seen in the training split: event is 0 .* 4 cases"):
        censored = [{"os": (3.0, 0), "grade": 0} if several else (3.0, 0)] * 4
        with_settled_task(env, _OfTargets(censored))  # type: ignore[arg-type]


class _OfTargets:
    """A cohort of which only targets matter."""

    def __init__(self, targets: Sequence[Any]) -> None:
        self.cases = [SimpleNamespace(target=one) for one in targets]

    def split(self, name: str) -> list[Any]:
        assert name == "train"
        return self.cases


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edges": [24, 12]}, "ascending times above 0"),
        ({"edges": [0, 12]}, "ascending times above 0"),
        ({"edges": []}, "ascending times above 0"),
        ({"bins": 0}, "whole number from 1 to 100"),
        ({"time": "event"}, "two different columns"),
        ({"time": "path"}, "two different columns"),
        ({"baseline": [0.5]}, "one hazard of the baseline for each edge"),
        ({"edges": [3], "baseline": [1.0]}, "between 0 and 1"),
        ({"edges": [3], "baseline": [0.5], "blind": 0}, "above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Survival(**options)


def test_nothing_is_predicted_before_the_intervals_are_known() -> None:
    with pytest.raises(ValueError, match=r"not known yet: call settled\(targets\)"):
        Survival().score(np.zeros(8), np.array([1.0, 1.0]))


# ---------------------------------------------------------------------------------------------- cohorts
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(24):
        np.save(tmp_path / f"{index}.npy", np.full((1, 8, 8), index, np.uint8))
    return tmp_path


def load(
    folder: Path, rows: Sequence[str], header: str = "time,event", task: Task = TASK, split: bool = False
) -> Cohort:
    separator = ";" if ";" in header else ","
    head = separator.join(["case_id", "slide_id", "path", header, *(["split"] if split else [])])
    lines = [separator.join([f"p{i}", f"s{i}", f"{i}.npy", row]) for i, row in enumerate(rows)]
    (folder / "cohort.csv").write_text("\n".join([head, *lines]) + "\n")
    return Cohort.from_csv(folder / "cohort.csv", task)


def test_times_and_events_have_columns_of_any_name(folder: Path) -> None:
    rows = [f"{1.5 * i};{i % 2}" for i in range(24)]
    for header, task in (("time;event", TASK), ("os_months;dead", Survival("os_months", "dead"))):
        cohort = load(folder, [row.replace(".", ",") for row in rows], header, task)
        assert [case.target for case in cohort] == [(1.5 * i, i % 2) for i in range(24)]
    for split in ("train", "val", "test"):
        targets = [case.target for case in cohort.split(split)]
        assert {event for _, event in targets} == {0, 1}
    early = [sum(time < 18 for time, _ in (case.target for case in cohort.split(name))) for name in ("train", "test")]
    assert early == pytest.approx([7, 3], abs=1)  # half of each split


def test_everything_wrong_with_times_and_events_is_listed(folder: Path) -> None:
    rows = ["-3,1", "abc,1", "4,", "4,dead", "nan,0", ",1", "inf,1", "5,TRUE", "6.5,0.0"]
    with pytest.raises(CohortError) as caught:
        load(folder, rows)
    listed = str(caught.value).split("\n  - ")
    wanted = "expected months until the event or until last seen, from 0 on"
    write = "write 1 where the event was seen at time, and 0 where it was not seen until then"
    assert listed[0].endswith("cohort.csv: 7 problems in this cohort:")
    assert listed[1:] == [
        f"line 2: time '-3' is negative; {wanted}",
        f"line 3: time 'abc' is not a number; {wanted}, with a point before decimals",
        f"line 4: event is empty; {write}",
        f"line 5: event 'dead' is neither 0 nor 1; {write}",
        f"line 6: time 'nan' is not a number; {wanted}, with a point before decimals",
        f"line 7: time is empty; {wanted}",
        f"line 8: time 'inf' is not a number; {wanted}, with a point before decimals",
    ]


def test_missing_columns_are_named_with_the_remedy(folder: Path) -> None:
    with pytest.raises(
        CohortError, match=r"column 'event' is missing; needed are .*time, event; \+env\.task\.event=<col"
    ):
        load(folder, ["3,1"], "time,status")
    with pytest.raises(
        CohortError, match=r"'target' is missing; .* env\.task\._target_=glimpse\.tasks\.Survival for time"
    ):
        load(folder, ["3,1"], "time,event", Classification(2))


def test_a_split_without_events_is_told(folder: Path) -> None:
    with pytest.warns(UserWarning, match="the split 'test' has no event: event is 0 in all of its 2 cases"):
        load(folder, ["3,1,train", "4,0,train", "3,1,val", "1,0,test", "2,0,test"], split=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder, ["3,1,train", "4,0,train", "3,1,val", "1,1,test", "2,0,test"], split=True)
    found = find_candidates([folder / "cohort.csv"], "xray", lambda env: {"env": {"task": _SECTION}}, folder / "out")
    assert found.tables == [] and [case.target for case in found.cases[:2]] == ["3;1", "4;0"]


# ---------------------------------------------------------------------------------------------- heads and runs
def test_a_validation_split_without_events_chooses_no_head() -> None:
    rng = np.random.default_rng(0)
    bags = [torch.from_numpy(rng.normal(size=(4, 5)).astype(np.float32)) for _ in range(12)]
    targets = torch.tensor([[float(i + 1), float(i % 2 and i < 8)] for i in range(12)])
    names = [str(i) for i in range(12)]
    cases = Examples(bags, targets, names, ["0"] * 12)
    trainer = HeadTrainer(TASK, HeadTraining(epochs=2, folds=2))
    trainer.fit(cases.some(range(8)), cases.some(range(8, 12)))
    assert "2-fold cross-validation" in trainer.choice
    trainer.fit(cases.some(range(8)), cases.some([8, 9, 1]))
    assert "validation: score" in trainer.choice and "fold" not in trainer.choice


@pytest.fixture(scope="module")
def survivors(tiny_radiographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV of 12 radiographs with times and events."""
    path = tmp_path_factory.mktemp("survivors") / "cohort.csv"
    rows = list(csv.DictReader(tiny_radiographs.open()))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", "slide_id", "path", "months", "dead", "split"])
        for number, row in enumerate(rows):
            image = tiny_radiographs.parent / row["path"]
            writer.writerow(
                [row["case_id"], row["slide_id"], image, 2.5 * number + 1, int(number % 3 > 0), row["split"]]
            )
    return path


def test_every_environment_of_a_cohort_has_the_intervals_of_its_training_split(survivors: Path) -> None:
    task = Survival("months", "dead", bins=2)
    made = {
        split: gymnasium.make("glimpse/XRay-v0", cohort=survivors, split=split, task=task, overview_size=64).unwrapped
        for split in ("train", "test")
    }
    cohort = Cohort.from_csv(survivors, task)
    assert made["test"].task == made["train"].task == task.settled([case.target for case in cohort.split("train")])
    assert made["test"].action_space["prediction"].shape == (made["train"].task.outputs,)


def test_a_run_keeps_its_intervals_for_evaluate_and_predict(survivors: Path, tmp_path: Path) -> None:
    task = [
        f"env.task._target_={_SECTION['_target_']}",
        "+env.task.time=months",
        "+env.task.event=dead",
        "+env.task.bins=3",
    ]
    short = ["env=xray", "experiment=smoke", "threads=1", "progress=false", "joint.updates=1", "report.pictures=1"]
    run = tmp_path / "run"
    metrics = train(composed(*short, *task, f"env.cohort.path={survivors}", "report.readers=[random]", f"run={run}"))
    assert {"c_index", "brier", "score"} < set(metrics["readers"]["ppo"])
    kept = OmegaConf.load(run / "config.yaml").env
    assert kept.task == kept.make.task == kept.cohort.task and len(kept.task.edges) == 3
    columns = ["risk", *(f"s_{edge:g}" for edge in kept.task.edges)]
    with open(run / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[4:10] == ["months", "dead", *columns]
    known = {row["slide_id"]: (row["months"], row["dead"]) for row in csv.DictReader(survivors.open())}
    assert all(float(known[row["slide_id"]][0]) == float(row["months"]) for row in rows)
    again = evaluate(run, readers=["policy"], device="cpu")
    assert again.rows["ppo"]["score"] == metrics["readers"]["ppo"]["score"]
    image = next(csv.DictReader(survivors.open()))["path"]
    predict([run], [image], tmp_path / "out", progress=False)
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    values = [float(row[column]) for column in columns]
    assert values[0] == pytest.approx(1 - np.mean(values[1:]), abs=1e-5) and values[1:] == sorted(
        values[1:], reverse=True
    )
    assert row["answer"].startswith(f"risk {values[0]:.2f}, median ")
    assert glimpse.load(run).task == Survival(**{key: kept.task[key] for key in kept.task if key != "_target_"})
    assert json.loads((run / "metrics.json").read_text())["readers"]["ppo"]["c_index"].keys() == {
        "value",
        "low",
        "high",
    }
    longer = train(composed(f"resume={run}", "joint.updates=2"), [f"resume={run}", "joint.updates=2"])
    assert longer["readers"].keys() == metrics["readers"].keys()
    assert OmegaConf.load(run / "config.yaml").env.task == kept.task


def test_survival_beside_another_task(folder: Path) -> None:
    task = MultiTask({"os": Survival(bins=2), "grade": Classification(2)})
    targets = [task.parse_target(f"os={time};{event};grade=1") for time, event in ((3, 1), (8.5, 0), (6, 1))]
    settled = task.settled(targets)
    assert settled.columns == ("os_risk", "os_s_3", "os_s_6", "grade_p_0", "grade_p_1")
    assert settled.settled(targets) is settled and task.lacking(targets) == ""
    answers = settled.probabilities(np.array([[0.0, 0.0, -2.0, 2.0]]))
    assert answers.shape == (1, 5) and settled.answer(answers[0]).endswith(";grade=1")
    assert settled.write_target(targets[1]) == "os=8.5;0;grade=1"
    metrics = settled.metrics(np.zeros((3, 4)), settled.stack(targets), list("abc"))
    assert metrics["os_c_index"].value == 0.5 and settled.headline == ("os_c_index", "grade_accuracy")
