"""Reading cases with a policy and its baselines, and the records, rows, tables and files made of that."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from glimpse.atomic import write_atomically
from glimpse.cohort import Case, CohortError
from glimpse.envs import FlattenAction, GlimpseVecEnv, array_cases, make_array
from glimpse.evaluate import EvaluationError, evaluate, read_cases
from glimpse.networks.policy import GlimpsePolicy
from glimpse.report.tables import CAPTION, Reading, summarise, table, write_predictions
from glimpse.runs.checkpoints import CheckpointError
from glimpse.runs.loading import build_policy, save_policy
from glimpse.tasks import Classification

Make = Callable[[int], VecEnv]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    rng = np.random.default_rng(0)
    arrays = rng.integers(1, 256, (5, 1, 64, 64), np.uint8)
    arrays[3, :, :, 20:] = 0  # the fourth has foreground on its left only
    return array_cases(arrays, [0, 1, 0, 1, 1])


def flat(cases: list[Case]) -> FlattenAction:
    return FlattenAction(
        make_array(cases, overview_size=32, glimpse_size=8, glimpse_extents=(16,), max_glimpses=3, glimpse_cost=0.01)
    )


@pytest.fixture(params=["parked", "threads", "dummy"])
def make(request: pytest.FixtureRequest, cases: list[Case]) -> Make:
    """A maker of vector environments with a number of lanes."""
    if request.param == "dummy":
        return lambda lanes: DummyVecEnv([lambda: flat(cases)] * lanes)
    return lambda lanes: GlimpseVecEnv([flat(cases) for _ in range(lanes)], park=request.param == "parked")


@pytest.fixture(scope="module")
def policy(cases: list[Case]) -> GlimpsePolicy:
    torch.manual_seed(0)
    env = flat(cases)
    return GlimpsePolicy(env.observation_space, env.action_space, layout=env.layout)  # type: ignore[arg-type]


def test_every_case_is_read_once_in_order(policy: GlimpsePolicy, make: Make, cases: list[Case]) -> None:
    readings = read_cases(policy, make(2))  # five cases do not divide by two lanes
    assert [reading.id for reading in readings] == [case.id for case in cases]
    assert [reading.target for reading in readings] == [0, 1, 0, 1, 1]
    for reading in readings:
        assert reading.glimpses == 3 and reading.scanpath.shape == (3, 2) and reading.zooms.tolist() == [0, 0, 0]
        assert reading.predictions.shape == (4, 2)
        np.testing.assert_array_equal(reading.prediction, reading.predictions[-1])
        assert len(np.unique(reading.scanpath, axis=0)) == 3
    assert readings[0].share_read == pytest.approx(readings[0].pixels_read / 64**2)


@pytest.mark.parametrize("reader", ["policy", "random", "grid", "overview"])
@pytest.mark.parametrize("budget", [0, 2, 9])
def test_nothing_depends_on_lanes(
    policy: GlimpsePolicy, make: Make, cases: list[Case], reader: str, budget: int
) -> None:
    together = read_cases(policy, make(3), reader, budget, seed=4)
    alone = read_cases(policy, GlimpseVecEnv([flat(cases)]), reader, budget, seed=4)
    for one, other in zip(together, alone, strict=True):
        assert one.glimpses == (0 if reader == "overview" else budget)  # 9 is more than the environment's own budget
        np.testing.assert_array_equal(one.scanpath, other.scanpath)
        np.testing.assert_allclose(one.predictions, other.predictions, atol=1e-4)


def test_predictions_are_those_of_each_prefix(policy: GlimpsePolicy, make: Make) -> None:
    long, short = read_cases(policy, make(2), max_glimpses=4), read_cases(policy, make(2), max_glimpses=2)
    for more, less in zip(long, short, strict=True):
        np.testing.assert_allclose(more.predictions[:3], less.predictions, atol=1e-4)
        assert np.abs(np.diff(more.predictions, axis=0)).max(1).min() > 0  # each glimpse changed the answer


def test_random_looks_into_the_foreground_and_depends_on_the_seed(policy: GlimpsePolicy, make: Make) -> None:
    first, again, other = (read_cases(policy, make(5), "random", 9, seed=seed) for seed in (0, 0, 1))
    assert [one.scanpath.tolist() for one in first] == [one.scanpath.tolist() for one in again]
    assert first[0].scanpath.tolist() != other[0].scanpath.tolist()
    assert first[0].scanpath.tolist() != first[1].scanpath.tolist()
    columns = (first[3].scanpath[:, 1] + 1) / 2 * 64
    assert columns.max() < 24  # foreground ends at 20, and a cell is 8 pixels wide
    assert len(np.unique(first[3].scanpath, axis=0)) == 9


def test_the_policy_may_stop_and_the_baselines_may_not(policy: GlimpsePolicy, make: Make) -> None:
    bias = policy.stop_head.bias
    before = bias.detach().clone()
    try:
        torch.nn.init.constant_(bias, 5.0)
        assert [reading.glimpses for reading in read_cases(policy, make(2))] == [0] * 5
        assert [reading.glimpses for reading in read_cases(policy, make(2), "random")] == [3] * 5
        assert [reading.glimpses for reading in read_cases(policy, make(2), "grid")] == [3] * 5
    finally:
        bias.data.copy_(before)


def test_the_policy_is_left_as_it_was(policy: GlimpsePolicy, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    policy.set_training_mode(True)
    read_cases(policy, make(2), "grid")
    assert policy.training

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(policy, "predict", broken)
    with pytest.raises(OSError, match="fire"):
        read_cases(policy, make(2), "grid")
    assert policy.training


def test_it_refuses_what_it_does_not_know(policy: GlimpsePolicy, cases: list[Case]) -> None:
    env = GlimpseVecEnv([flat(cases)])
    with pytest.raises(EvaluationError, match="policy, random, grid, overview, got 'full'"):
        read_cases(policy, env, "full")
    with pytest.raises(EvaluationError, match="at least 0, got -1"):
        read_cases(policy, env, max_glimpses=-1)


# ---------------------------------------------------------------------------------------------- a saved run
@pytest.fixture(scope="module")
def run(tiny_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has learned nothing."""
    folder = tmp_path_factory.mktemp("run")
    with initialize_config_module("glimpse.configs", version_base="1.3"):
        own = [f"env.cohort.path={tiny_slides}", f"run={folder}", "env.make.glimpse_extents=[128]"]
        config = compose("train", overrides=["experiment=smoke", *own])
    torch.manual_seed(0)
    env = instantiate(config.env.make, cohort=instantiate(config.env.cohort), split="train").unwrapped
    save_policy(build_policy(config.network, env.observation_space, env.layout), folder / "policy.safetensors")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    return folder


def test_a_saved_run_reads_with_any_number_of_glimpses(run: Path) -> None:
    result = evaluate(run, max_glimpses=7, lanes=2, progress=False)
    assert list(result.rows) == ["ppo", "random", "grid", "overview"]
    assert result.rows["random"]["glimpses"] == 7 and result.rows["overview"]["glimpses"] == 0
    summary, answers = run / "evaluation-test-7.json", run / "predictions-test-7.csv"
    assert result.files == (summary, answers)
    record = json.loads(summary.read_text())
    assert (record["split"], record["seed"], record["max_glimpses"]) == ("test", 0, 7)
    assert record["readers"] == result.rows
    lines = list(csv.DictReader(answers.open()))
    assert len(lines) == 4 * len(result.readings["ppo"]) and {line["split"] for line in lines} == {"test"}


def test_another_cohort_keeps_its_own_files(run: Path, tiny_slides: Path) -> None:
    rows = list(csv.DictReader(tiny_slides.open()))
    other = tiny_slides.with_name("other.csv")
    with other.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[:4])
    result = evaluate(run, split="all", cohort=other, readers=["overview"], progress=False)
    assert [reading.id for reading in result.readings["overview"]] == [row["slide_id"] for row in rows[:4]]
    assert result.files[0].name == "evaluation-other-all-3.json" and result.record["cohort"] == str(other)


def test_what_cannot_be_evaluated_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run folder"):
        evaluate(tmp_path)
    with pytest.raises(EvaluationError, match="got 'tests'"):
        evaluate(run, split="tests")
    with pytest.raises(EvaluationError, match=r"got \['ppo'\]"):
        evaluate(run, readers=["ppo"])
    with pytest.raises(EvaluationError, match="lanes is 0"):
        evaluate(run, lanes=0)
    with pytest.raises(CohortError, match=r"absent\.csv"):
        evaluate(run, cohort=tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("options", "said"), [([], "run=<run folder>"), (["run=nowhere"], "nowhere: not a run folder")]
)
def test_a_mistake_is_one_line_and_exit_code_two(tmp_path: Path, options: list[str], said: str) -> None:
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "glimpse.evaluate", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and said in done.stderr
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------- records
def reading(index: int, target: int, logit: float, glimpses: int = 4) -> Reading:
    prediction = np.array([0.0, logit], np.float32)
    return Reading(
        id=f"s{index}",
        patient=f"c{index}",
        target=target,
        prediction=prediction,
        predictions=prediction[None],
        scanpath=np.zeros((glimpses, 2), np.float32),
        zooms=np.zeros(glimpses, int),
        glimpses=glimpses,
        share_read=0.1 * index,
        pixels_read=100,
        seconds=0.5,
    )


READINGS = [reading(0, 0, -2.0), reading(1, 0, 1.0, 2), reading(2, 1, 0.5), reading(3, 1, 3.0)]


def test_summary_by_hand() -> None:
    row = summarise(READINGS, Classification(2))
    assert row["auc"]["value"] == pytest.approx(0.75)  # of four pairs, only (1.0, 0.5) is in the wrong order
    assert row["accuracy"]["value"] == pytest.approx(0.75)
    assert row["auc"]["low"] <= 0.75 <= row["auc"]["high"]
    assert (row["glimpses"], row["seconds_per_case"]) == (3.5, 0.5)
    assert row["share_read"] == pytest.approx(0.15)
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_a_split_with_one_class_has_no_auc() -> None:
    row = summarise(READINGS[:2], Classification(2))
    assert row["auc"]["value"] is None and row["accuracy"]["value"] == 0.5
    assert "n/a" in table({"ppo": row})
    with pytest.raises(ValueError, match="split is empty"):
        summarise([], Classification(2))


def test_the_table_is_aligned_and_says_what_its_rows_are() -> None:
    interval = {"value": 0.951, "low": 0.9, "high": 1.0}
    row = {"auc": interval, "accuracy": interval, "glimpses": 12.0, "share_read": 0.0432, "seconds_per_case": 0.0312}
    text = table({"ppo": row, "full_scan": {**row, "glimpses": 351.5, "share_read": 1.0}})
    caption, rows = text.split("\n\n")
    assert " ".join(caption.split()) == CAPTION
    header, _, first, second = rows.splitlines()
    assert first.split() == ["ppo", "0.951", "(0.900", "to", "1.000)", "0.951", "12.0", "4.3", "0.031"]
    assert second.split()[-3:] == ["351.5", "100.0", "0.031"]
    assert len(header) == len(first) == len(second)
    assert first.index("0.951 (") == second.index("0.951 (")


def test_predictions_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    write_predictions(path, {"ppo": READINGS, "grid": READINGS[:1]}, Classification(["normal", "tumour"]), "val")
    lines = list(csv.DictReader(path.open()))
    assert [line["reader"] for line in lines] == ["ppo"] * 4 + ["grid"]
    assert {line["split"] for line in lines} == {"val"}
    one = lines[3]
    assert (one["slide_id"], one["case_id"], one["target"], one["glimpses"]) == ("s3", "c3", "1", "4")
    assert float(one["p_tumour"]) == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-5)
    assert float(one["p_normal"]) + float(one["p_tumour"]) == pytest.approx(1, abs=1e-5)


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    write_atomically(path, "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="full"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
