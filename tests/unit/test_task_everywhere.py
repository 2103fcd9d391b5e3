"""Every task from the environment to the table: nothing else knows what an answer is."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image

from glimpse.agents import PPO
from glimpse.agents.full_scan import FullScan
from glimpse.cohort import Case
from glimpse.envs import FlattenAction, GlimpseVecEnv, array_cases, check, make_array
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.networks.policy import GlimpsePolicy
from glimpse.pictures.episodes import scanpath_picture, to_gif
from glimpse.pictures.geojson import to_geojson
from glimpse.reading.calibration import fit
from glimpse.reading.lanes import Access
from glimpse.reading.readers import reader_named
from glimpse.reading.records import Reading
from glimpse.report.calibrating import draw_answers, measured
from glimpse.report.tables import summarise, table, write_predictions
from glimpse.sources import ArraySource
from glimpse.tasks import Classification, MultiLabel, MultiTask, Regression, Survival, Task

PARTS: dict[str, Any] = {
    "grade": Classification(3),
    "signs": MultiLabel(["a", "b"]),
    "age": Regression(50, 10),
    "outcome": Survival(bins=3, unit="months"),
}
TARGETS: dict[str, list[Any]] = {
    "grade": [0, 1, 2, 1, 0, 2],
    "signs": [np.array(row) for row in ([0, 0], [1, 0], [0, 1], [1, 1], [1, 0], [0, 1])],
    "age": [41.5, 60.0, 55.25, 38.0, 49.0, 52.0],
    "outcome": [(3.5, 1), (12.0, 0), (7.25, 1), (30.0, 1), (1.0, 0), (30.0, 0)],
}
TARGETS["all"] = [dict(zip(TARGETS, row, strict=True)) for row in zip(*TARGETS.values(), strict=True)]
TASKS: dict[str, Task] = {
    name: task.settled(TARGETS[name]) for name, task in {**PARTS, "all": MultiTask(PARTS)}.items()
}


@pytest.fixture(params=list(TASKS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def cases(name: str) -> list[Case]:
    arrays = np.random.default_rng(0).integers(1, 255, (6, 1, 48, 48), np.uint8)
    return array_cases(arrays, TARGETS[name])


def environment(name: str) -> FlattenAction:
    sizes: dict[str, Any] = {"overview_size": 24, "glimpse_size": 8, "glimpse_extents": [16], "max_glimpses": 2}
    return FlattenAction(make_array(cases(name), task=TASKS[name], **sizes))


def read_by(reader: str, policy: GlimpsePolicy, env: FlattenAction, budget: int, trace: bool = False) -> list[Reading]:
    """All cases of an environment, read with the policy."""
    inner = env.unwrapped
    return reader_named(reader, policy, Access(inner.views, inner.task), budget).read(inner.cases, trace=trace)


def test_environments_keep_their_contract(name: str) -> None:
    assert check(environment(name)) == ()


def test_gymnasiums_vectors_take_the_infos(name: str) -> None:
    env = gymnasium.vector.SyncVectorEnv([lambda: environment(name)] * 2)
    env.reset(seed=0)
    for _ in range(4):
        *_, infos = env.step(env.action_space.sample())
    assert "target" in infos


def test_learning_reading_and_reporting(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    torch.manual_seed(0)
    lanes = GlimpseVecEnv([environment(name) for _ in range(4)], park=True)
    model = PPO("GlimpsePolicy", lanes, cases_per_rollout=2, rollouts_per_case=2, seed=0, device="cpu")
    warm_up = TokenWarmUp(
        model.policy, cases(name), lanes.lanes[0].views, task, glimpses_per_case=4, batch=3, threads=1
    )
    warm_up.encode()
    assert np.isfinite(warm_up.step())
    before = model.policy.answer_head.weight.detach().clone()
    model.learn(model.steps_per_update)
    assert not torch.equal(model.policy.answer_head.weight, before)
    views = lanes.lanes[0].views
    scan = FullScan(model.policy, views, task, epochs=2, threads=1).fit(cases(name)[:4], cases(name)[4:])
    readings = {"ppo": read_by("policy", model.policy, environment(name), 2), "full_scan": scan.read(cases(name))}
    rows = {reader: summarise(answers, task) for reader, answers in readings.items()}
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert {*task.metric_names, "glimpses", "share_read", "seconds_per_case"} <= set(rows["ppo"])
    assert "n/a" not in table({"ppo": rows["ppo"]}, headline=task.headline).split("\n\n")[1]
    if task.calibrates:
        temperatures = {reader: fit(answers, task).temperature for reader, answers in readings.items()}
        broken = replace(readings["ppo"][0], prediction=readings["ppo"][0].prediction * np.nan)
        assert fit([broken, *readings["ppo"][1:]], task).reason == "some predictions are not finite"
        again, calibrated = measured(readings, temperatures, task)
        assert all(value is not None and value > 0 for value in temperatures.values())
        for reader, row in calibrated.items():
            assert row["accuracy"] == rows[reader]["accuracy"]  # the answers stay
            assert row["uncalibrated"]["brier"] == rows[reader]["brier"]
            divided = readings[reader][0].prediction / temperatures[reader]
            np.testing.assert_allclose(again[reader][0].prediction, divided)
        drawn = [path.name for path in draw_answers(calibrated, tmp_path)]
        assert drawn == ["calibration.png", "confusion.png"] and all((tmp_path / one).is_file() for one in drawn)
    write_predictions(tmp_path / "predictions.csv", readings, task, "test")
    with open(tmp_path / "predictions.csv", newline="") as file:
        line = next(csv.DictReader(file))
    cells = tuple(line[column] for column in task.target_columns)
    assert task.write_cells(task.parse_cells(cells)) == cells
    assert np.isfinite([float(line[column]) for column in task.columns]).all()


def test_pictures(name: str, tmp_path: Path) -> None:
    env = environment(name)
    policy = PPO("GlimpsePolicy", env, cases_per_rollout=2, rollouts_per_case=2, seed=0, device="cpu").policy
    reading = read_by("policy", policy, env, 2, trace=True)[1]
    assert scanpath_picture(reading).shape[-1] == 3
    to_gif(reading, tmp_path / "reading.gif", height=64)
    with Image.open(tmp_path / "reading.gif") as gif:
        assert gif.n_frames == 3
    measured = to_geojson(reading)["features"][0]["properties"]["measurements"]
    seen = {"spacing_x_px", "spacing_y_px"}
    assert set(measured) == {"order", "level", "gain", "locator_probability", *seen, *TASKS[name].columns}


def test_targets_that_are_no_classes_need_a_task() -> None:
    for name in ("signs", "age", "outcome", "all"):
        with pytest.raises(ValueError, match=r"array-0000: the target .* is no class; say what it means with task="):
            make_array(cases(name))


# ---------------------------------------------------------------------------------------------- marks
def marked(marks: list[Any] | None, name: str) -> Case:
    source = ArraySource(np.full((1, 48, 48), 200, np.uint8), name=name)
    return Case(name, name, source, 1, marks=None if marks is None else np.array(marks, float).reshape(-1, 2, 2))


MARKED = [
    marked([[[20, 20], [28, 28]], [[0, 0], [5, 5]]], "both"),  # the first lies whole in a glimpse at (0, 0)
    marked([[[0, 0], [5, 5]]], "corner"),
    marked([], "healthy"),
    marked(None, "unknown"),
]


def small(chosen: list[Case]) -> FlattenAction:
    sizes: dict[str, Any] = {"overview_size": 24, "glimpse_size": 8, "glimpse_extents": [16], "max_glimpses": 1}
    return FlattenAction(make_array(chosen, **sizes))


def test_the_last_info_says_which_marks_were_hit() -> None:
    env = small(MARKED)
    for index, expected in ((0, [True, False]), (1, [False]), (2, []), (3, None)):
        env.reset(options={"case": index})
        env.step(env.layout.pack([0.0, 0.0], False, [0.0, 0.0]))
        *_, info = env.step(env.layout.pack([0.0, 0.0], False, [0.0, 0.0]))
        assert ("hits" in info) == (expected is not None)
        assert expected is None or np.asarray(info["hits"]).tolist() == expected


def test_the_hit_rate_is_reported(tmp_path: Path) -> None:
    lanes = GlimpseVecEnv([small(MARKED) for _ in range(2)], park=True)
    policy = PPO("GlimpsePolicy", lanes, cases_per_rollout=2, rollouts_per_case=2, seed=0, device="cpu").policy
    readings = read_by("grid", policy, small(MARKED), 1)  # one glimpse, in the middle
    assert [reading.hit_rate for reading in readings] == [0.5, 0.0, None, None]
    row = summarise(readings, Classification(2))
    assert row["hit_rate"]["value"] == 0.25  # the mean over the cases that have marks
    assert (row["hit_rate"]["low"], row["hit_rate"]["high"]) == (0, 0.5)
    header, _, line = table({"grid": row, "ppo": row}).split("\n\n")[1].splitlines()[:3]
    assert "% of marks hit" in header and "25.0" in line.split()
    write_predictions(tmp_path / "predictions.csv", {"grid": readings}, Classification(2), "test")
    with open(tmp_path / "predictions.csv", newline="") as file:
        assert [line["hit_rate"] for line in csv.DictReader(file)] == ["0.500000", "0.000000", "", ""]


def test_without_marks_nothing_is_said_of_them(tmp_path: Path) -> None:
    lanes = GlimpseVecEnv([small(MARKED[2:]) for _ in range(2)], park=True)
    policy = PPO("GlimpsePolicy", lanes, cases_per_rollout=2, rollouts_per_case=2, seed=0, device="cpu").policy
    readings = read_by("grid", policy, small(MARKED[2:]), 1)
    row = summarise(readings, Classification(2))
    assert "hit_rate" not in row and "marks" not in table({"grid": row})
    write_predictions(tmp_path / "predictions.csv", {"grid": readings}, Classification(2), "test")
    assert "hit_rate" not in (tmp_path / "predictions.csv").read_text()


def test_a_full_scan_has_a_hit_rate_too() -> None:
    views = small(MARKED).unwrapped.views
    scan = FullScan(lambda images: images.float().flatten(1), views, Classification(2), epochs=1, threads=1)
    readings = scan.fit(MARKED).read(MARKED)  # patches of 16 pixels from the corner on: they cut [20, 28) nowhere
    assert [reading.hit_rate for reading in readings] == [1.0, 1.0, None, None]
