"""Training from the command line: a whole run, the same numbers twice, and going on after SIGKILL."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import glimpse
from glimpse.report.tables import MEASURED
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from tests.commands import ran

ROOT = Path(__file__).resolve().parents[2]


def command(cohort: Path, *options: str) -> list[str]:
    fixed = ["experiment=smoke", f"env.cohort.path={cohort}", "progress=false", "threads=1"]
    return [sys.executable, "-m", "glimpse.train", *fixed, *options]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def train(folder: Path, cohort: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return ran(*command(cohort, *options)[2:], folder=folder)


def resume(folder: Path, run: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Goes on with a run, under its own settings."""
    return ran("glimpse.train", f"resume={run}", "progress=false", *options, folder=folder)


def timeless(metrics: dict) -> dict:
    """Metrics without the times."""
    readers = {
        name: {key: value for key, value in row.items() if key not in MEASURED}
        for name, row in metrics["readers"].items()
    }
    looks = [{key: value for key, value in look.items() if key != "seconds"} for look in metrics["validation"]]
    kept = {key: value for key, value in metrics.items() if key != "seconds"}
    return {**kept, "readers": readers, "validation": looks}


@pytest.fixture(scope="module")
def finished(tiny_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    done = train(folder, tiny_slides, "run=first", "progress=true")
    assert done.returncode == 0, done.stderr
    assert "full_scan" in done.stdout
    for updates in (0, 1, 2):  # without a terminal, lines stand in for bars
        assert f"glimpse: joint: {updates} of 2 updates, " in done.stderr
    assert "; validation: score " in done.stderr
    return folder / "first"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_training_computes_on_a_gpu_and_goes_on_there(tiny_slides: Path, tmp_path: Path) -> None:
    options = ("run=run", "device=cuda", "report.readers=[random,full_scan]")
    done = train(tmp_path, tiny_slides, *options)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["readers"]) == {"ppo", "random", "full_scan"}
    assert "cuda/generator" in Checkpoint.load(tmp_path / "run" / "checkpoints" / "last.safetensors").tensors
    going_on = resume(tmp_path, "run", "joint.updates=3")
    assert going_on.returncode == 0, going_on.stderr


def test_a_run_leaves_everything_it_promises(finished: Path) -> None:
    for name in ("config.yaml", "policy.safetensors", "metrics.json", "predictions.csv", "splits.csv"):
        assert (finished / name).stat().st_size > 0, name
    assert list(finished.glob("events.out.tfevents.*"))
    assert list((finished / "scanpaths").glob("*.png"))
    for name in ("best_and_worst.png", "telling_glimpses.png"):
        with Image.open(finished / name) as picture:
            told = picture.info["Description"]
        assert f'alt="{told}"' in (finished / "report.html").read_text("utf-8"), name
    metrics = json.loads((finished / "metrics.json").read_text())
    assert set(metrics["readers"]) == {"ppo", "random", "grid", "overview", "full_scan"}
    assert metrics["max_glimpses"] == 3
    assert metrics["readers"]["overview"]["glimpses"] == 0
    assert metrics["readers"]["random"]["glimpses"] == 3
    assert [look["updates"] for look in metrics["validation"]] == [0, 1, 2]
    assert set(metrics["seconds"]) >= {"pretrain", "warm_up", "joint", "report"}


def test_tensorboard_shows_the_same_cases_at_every_validation(finished: Path) -> None:
    events = EventAccumulator(str(finished)).Reload()
    pictures = [tag for tag in events.Tags()["images"] if tag.startswith("scanpaths/")]
    validated = len([line for line in (finished / "splits.csv").read_text().splitlines() if ",val," in line])
    assert len(pictures) == min(4, validated) > 0
    for tag in pictures:
        assert [one.step for one in events.Images(tag)] == logged(finished, "validation/score") == [0, 32, 64]
    assert set(events.Tags()["histograms"]) == {
        "looks/glimpses_of_a_case",
        "looks/share_of_foreground_read",
        "looks/gain_of_a_glimpse",
    }
    looks = events.Histograms("looks/glimpses_of_a_case")[-1].histogram_value
    assert (looks.num, looks.min, looks.max) == (validated, 3, 3)
    settings = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"joint.updates" in settings and b"_target_" not in settings


def test_the_same_seed_gives_the_same_metrics(finished: Path, tiny_slides: Path) -> None:
    line = command(tiny_slides, "run=second")  # a process that shares nothing with the other, such as seeds of hashes
    again = subprocess.run(line, cwd=finished.parent, env=environment(), capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    first, second = (json.loads((finished.parent / name / "metrics.json").read_text()) for name in ("first", "second"))
    assert timeless(first) == timeless(second)


def logged(run: Path, tag: str) -> list[int]:
    """The steps at which a run has logged something, in all of TensorBoard's files."""
    events = EventAccumulator(str(run), purge_orphaned_data=False).Reload()
    return [one.step for one in events.Scalars(tag)]


LONG = ["joint.updates=40", "joint.validate_every=0", "report.readers=[random]", "pretrain.foresight=1"]
LONG += ["agent.algorithm.look_coef=1"]


@pytest.fixture(scope="module")
def uninterrupted(tiny_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The metrics of a run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = train(folder, tiny_slides, "run=whole", *LONG)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "whole" / "metrics.json").read_text())


def stop(process: subprocess.Popen, with_signal: int, reached: Callable[[], bool]) -> int:
    """Sends a signal once a run has got far enough; returns its exit code."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not reached() and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, "the run has ended before it could be stopped"
    os.kill(process.pid, with_signal)
    return process.wait()


def test_a_run_killed_in_the_joint_stage_goes_on(tiny_slides: Path, tmp_path: Path, uninterrupted: dict) -> None:
    process = subprocess.Popen(
        command(tiny_slides, "run=killed", "save_seconds=0", *LONG), cwd=tmp_path, env=environment()
    )
    last = tmp_path / "killed" / "checkpoints" / "last.safetensors"
    stop(process, signal.SIGKILL, lambda: joint_updates(last) >= 3)
    saved = joint_updates(last)
    assert 3 <= saved < 40
    resumed = resume(tmp_path, "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert joint_updates(last) == 40 > saved
    policy = glimpse.load(tmp_path / "killed").policy
    assert all(np.isfinite(p.detach().numpy()).all() for p in policy.parameters())
    assert not list((tmp_path / "killed").rglob("*.unfinished"))
    assert timeless(json.loads((tmp_path / "killed" / "metrics.json").read_text())) == timeless(uninterrupted)


def test_a_zoom_that_is_killed_in_the_joint_stage_goes_on_to_the_same_parameters(
    tiny_slides: Path, tmp_path: Path
) -> None:
    given = ["env.make.glimpse_extents=[256,64]", "warm_up.branches=[3,2]", "warm_up.look_contexts=1"]
    given += ["joint.updates=12", "report.readers=[wide_first]", "save_seconds=0", "agent.algorithm.look_coef=1"]
    whole = train(tmp_path, tiny_slides, "run=whole", *given)
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(command(tiny_slides, "run=killed", *given), cwd=tmp_path, env=environment())
    last = tmp_path / "killed" / "checkpoints" / "last.safetensors"
    stop(process, signal.SIGKILL, lambda: joint_updates(last) >= 3)
    assert 3 <= joint_updates(last) < 12
    resumed = resume(tmp_path, "killed")
    assert resumed.returncode == 0, resumed.stderr
    first, second = (glimpse.load(tmp_path / run).policy.state_dict() for run in ("whole", "killed"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    metrics = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("whole", "killed")]
    assert timeless(metrics[0]) == timeless(metrics[1]) and "wide_first" in metrics[0]["readers"]


def in_second_look(last: Path) -> bool:
    try:
        return "second_look" in Checkpoint.load(last).tensors
    except CheckpointError:
        return False


def test_a_run_killed_in_its_second_look_goes_on(tiny_slides: Path, tmp_path: Path) -> None:
    given = ["warm_up.second_steps=300", "joint.updates=1", "report.readers=[random]", "save_seconds=0"]
    whole = train(tmp_path, tiny_slides, "run=whole", *given)
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(command(tiny_slides, "run=killed", *given), cwd=tmp_path, env=environment())
    last = tmp_path / "killed" / "checkpoints" / "last.safetensors"
    stop(process, signal.SIGKILL, lambda: last.exists() and in_second_look(last))
    assert Checkpoint.load(last).meta["done"] < 300
    resumed = resume(tmp_path, "killed")
    assert resumed.returncode == 0, resumed.stderr
    first, second = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("whole", "killed"))
    assert timeless(first) == timeless(second)


@pytest.mark.parametrize(("with_signal", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_run_stopped_between_two_checkpoints_goes_on(
    with_signal: int, code: int, tiny_slides: Path, tmp_path: Path, uninterrupted: dict
) -> None:
    given = command(tiny_slides, "run='a=b'", "save_seconds=3600", *LONG)
    process = subprocess.Popen(given, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    run = tmp_path / "a=b"
    last = run / "checkpoints" / "last.safetensors"

    def in_the_joint_stage() -> bool:
        return any(b"rollout/return" in file.read_bytes() for file in run.glob("events.*"))

    assert stop(process, with_signal, in_the_joint_stage) == code
    assert (joint_updates(last) > 0) == (with_signal != signal.SIGKILL)
    assert joint_updates(last) < 40
    if with_signal != signal.SIGKILL:
        assert process.stderr is not None
        assert "glimpse train \"resume='a=b'\" goes on from here" in process.stderr.read()
    resumed = resume(tmp_path, "'a=b'")
    assert resumed.returncode == 0, resumed.stderr
    assert timeless(json.loads((run / "metrics.json").read_text())) == timeless(uninterrupted)
    counts = {"train/loss": 40, "rollout/return": 40, "pretrain/loss": 2, "warm_up/loss": 1, "warm_up/second_look": 1}
    for tag, steps in counts.items():
        found = logged(run, tag)
        assert len(found) == len(set(found)) == steps, tag  # each once, also those after the last checkpoint


def test_a_finished_run_learns_for_longer_and_a_refused_change_leaves_it_as_it_was(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "more")
    before = {file: file.read_bytes() for file in (tmp_path / "more").rglob("*") if file.is_file()}
    for typed in ("joint.updates=1", "env.make.overview_size=64", "agent=reinforce", "joint.keep=true"):
        refused = resume(tmp_path, "more", typed)
        assert refused.returncode == 2 and "joint.updates" in refused.stderr, refused.stderr
        assert {file: file.read_bytes() for file in (tmp_path / "more").rglob("*") if file.is_file()} == before
    longer = resume(tmp_path, "more", "joint.updates=4", "report.readers=[random]", "report.pictures=0")
    assert longer.returncode == 0, longer.stderr
    assert joint_updates(tmp_path / "more" / "checkpoints" / "last.safetensors") == 4
    assert "updates: 4" in (tmp_path / "more" / "config.yaml").read_text()


def joint_updates(last: Path) -> int:
    """Updates of the joint stage that the last checkpoint holds; it can always be read."""
    if not last.exists():
        return 0
    meta = Checkpoint.load(last).meta
    return meta["updates"] if meta["stage"] == "joint" else 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["env.make.glimpse_extents=[4096]"], "larger than"),
        (["env.make.glimpse_extents=[16]"], "coarser"),
        (["env.cohort.path=nowhere.csv"], "nowhere.csv"),
        (["resume=nowhere"], "nowhere"),
        (["env=nothing"], "env has: "),
        (["no_such_option=1"], "no_such_option"),
    ],
)
def test_what_cannot_work_ends_in_a_clear_line_before_any_work(
    options: list[str], words: str, tiny_slides: Path, tmp_path: Path
) -> None:
    failed = train(tmp_path, tiny_slides, "run=refused", *options)
    assert failed.returncode != 0
    assert words in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "refused").exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(finished: Path, tiny_slides: Path) -> None:
    before = (finished / "metrics.json").read_bytes()
    failed = train(finished.parent, tiny_slides, "run=first")
    assert failed.returncode != 0
    assert "resume=first" in failed.stderr
    assert (finished / "metrics.json").read_bytes() == before
