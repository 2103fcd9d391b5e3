"""The run folder: when checkpoints are saved, how a run is stopped, and what messages about it say."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from glimpse.inspecting.outputs import write_all
from glimpse.report.evaluations import write_evaluation
from glimpse.report.html.writing import write_report
from glimpse.runs.checkpoints import Checkpoint
from glimpse.runs.folder import Run, RunError
from glimpse.tasks import Classification


def offered(run: Run, steps: int, now: int = -1) -> list[int]:
    """Offers one checkpoint per step; returns the steps that were saved."""
    made = []
    with run.timed("joint"):
        for step in range(steps):
            run.offer(
                "joint", lambda step=step: made.append(step) or Checkpoint(meta={"updates": step}), now=step == now
            )
    return made


def test_checkpoints_are_saved_at_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))  # each look at the clock takes ten seconds
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert offered(Run(tmp_path / "a", {}, save_seconds=0), 3) == [0, 1, 2]
    rare = Run(tmp_path / "b", {}, save_seconds=25)
    made = offered(rare, 12)
    assert 1 < len(made) < 6 and made[0] > 0
    assert Checkpoint.load(rare.checkpoint("last")).meta["updates"] == made[-1]
    assert offered(Run(tmp_path / "c", {}, save_seconds=1e9), 5, now=3) == [3]
    assert not Run(tmp_path / "d", {}, save_seconds=1e9).checkpoint("last").exists()


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_waits_for_the_end_of_a_step(
    number: int, raised: type[BaseException], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    run, ended = Run(tmp_path / "a b", {}, save_seconds=1e9), []
    with pytest.raises(raised), run.timed("pretrain"), run.stoppable():
        os.kill(os.getpid(), number)
        ended.append("the step")
        run.offer("pretrain", lambda: Checkpoint({"x": torch.ones(1)}, {"done": 7}))
        ended.append("another step")
    assert ended == ["the step"] and signal.getsignal(number) is before
    kept = Checkpoint.load(run.checkpoint("last")).meta
    assert (kept["done"], kept["stage"]) == (7, "pretrain") and "pretrain" in kept["seconds"]
    assert f"""glimpse train "resume='{tmp_path}/a b'" goes on from here""" in capfd.readouterr().err


def test_the_second_signal_does_not_wait(tmp_path: Path) -> None:
    run = Run(tmp_path, {})
    with pytest.raises(KeyboardInterrupt), run.timed("joint"), run.stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("this step goes on")
    assert not run.checkpoint("last").exists()


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        run = Run(tmp_path, {}, save_seconds=1e9)
        with run.timed("joint"), run.stoppable():
            os.kill(os.getpid(), signal.SIGTERM)
            run.offer("joint", Checkpoint)
        assert not run.checkpoint("last").exists()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_remedy_for_a_folder_in_use_can_be_pasted(tmp_path: Path) -> None:
    Run(tmp_path / "lr=0.1", {})
    with pytest.raises(RunError) as refused:
        Run(tmp_path / "lr=0.1", {})
    assert f"Continue it with \"resume='{tmp_path}/lr=0.1'\", or" in str(refused.value)


def test_a_run_that_goes_on_removes_what_a_killed_process_left_unfinished(tmp_path: Path) -> None:
    Run(tmp_path, {}).save(Checkpoint({"x": torch.ones(1)}, {"updates": 1}), "joint")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "scanpaths").mkdir()
    kept, name = [], ".last.safetensors.{}-139965143448448.unfinished"
    for room in (tmp_path, tmp_path / "checkpoints", tmp_path / "scanpaths"):
        (room / name.format(gone.pid)).touch()
        (room / name.format(os.getpid())).touch()  # this process writes nothing yet, so an earlier one had its number
        kept += [room / name.format(os.getppid()), room / ".mine.unfinished"]
        for path in kept:
            path.touch()
    recent = tmp_path / f".report.html.{gone.pid}-1.unfinished"  # perhaps of another machine
    recent.touch()
    for path in (tmp_path / name.format(gone.pid), tmp_path / name.format(os.getpid()), *kept):
        os.utime(path, times=(0, time.time() - 7200))
    run = Run(tmp_path, {}, resume=True)
    assert sorted(tmp_path.rglob("*.unfinished")) == sorted([*kept, recent])
    assert run.last.meta["updates"] == 1


def test_other_commands_remove_what_a_killed_process_left_an_hour_ago(run: Path, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    output, report, checked = tmp_path / "evaluated", tmp_path / "report", tmp_path / "checked"
    left = []
    for folder in (output, report, checked, checked / "thumbnails"):
        folder.mkdir()
        left += [folder / f".a.{gone.pid}-1.unfinished", folder / f".b.{os.getppid()}-1.unfinished"]
        left += [folder / f".c.{gone.pid}-1.unfinished"]
        for path in left[-3:]:
            path.touch()
        for path in left[-3:-1]:
            os.utime(path, times=(0, time.time() - 7200))
    write_evaluation(output, {"split": "test", "max_glimpses": 1, "readers": {}}, {}, Classification(2))
    write_report(run, report / "report.html")
    write_all(checked, [], [], [])
    assert [path for path in left if path.exists()] == [path for path in left if path.name[1] != "a"]
