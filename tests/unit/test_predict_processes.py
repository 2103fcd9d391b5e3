"""Predictions by several processes, by processes that are killed, and by those that are asked to stop."""

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from glimpse.atomic import replacing
from glimpse.predict import predict
from glimpse.predicting.claims import STALE, Claims
from glimpse.predicting.outputs import Form, Outputs
from tests.predictions import command, contents, write_slide

COUNT = 60
BROKEN = 4
KILLS = 5  # benchmarks.sixty_slides kills ten times


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 slides at two magnifications, with broken ones among them."""
    folder = tmp_path_factory.mktemp("slides")
    for i in range(COUNT):
        path = folder / f"site-{i % 3}" / f"slide-{i:02}.svs"
        write_slide(path, i, side=(512, 1024)[i % 2], mpp=(0.5, 0.25)[i % 2])
        if i % (COUNT // BROKEN) == 7:
            path.write_bytes(path.read_bytes()[: 40_000 if i % 2 else 10])
    return folder


@pytest.fixture(scope="module")
def whole(run: Path, slides: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    done = predict(run, slides, folder).done
    assert (done.read, len(done.failed)) == (COUNT - BROKEN, BROKEN)
    return contents(folder)


@pytest.mark.slow
def test_two_processes_at_once_write_what_one_does(
    run: Path, slides: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    words = (f"model={run}", f"input={slides}", f"output={tmp_path / 'out'}")
    both = [command(*words, background=True) for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [1, 1], said
    assert contents(tmp_path / "out") == whole
    processes = json.loads((tmp_path / "out" / "manifest.json").read_text())["processes"]
    assert sum(one["read"] for one in processes) == COUNT - BROKEN and all(one["ended"] for one in processes)
    assert all(one["read"] > 0 for one in processes), "one process has done all the work"


@pytest.mark.slow
def test_killed_again_and_again_it_does_only_the_rest_and_the_result_is_the_same(
    run: Path, slides: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, dice, killed = tmp_path / "out", random.Random(0), 0
    words = (f"model={run}", f"input={slides}", f"output={out}")
    for _ in range(KILLS):
        before = {path: os.stat(path).st_mtime_ns for path in out.glob("cases/*.json")}
        process = command(*words, background=True)
        seconds = time.monotonic() + 60
        while len(list(out.glob("cases/*.json"))) == len(before) and process.poll() is None:
            assert time.monotonic() < seconds
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert all(os.stat(path).st_mtime_ns == then for path, then in before.items()), "a case was read again"
    assert killed == KILLS
    last = command(*words)
    shown, said = last.communicate()
    assert last.returncode == 1, said
    assert "had been read before" in shown
    assert contents(out) == whole


@pytest.mark.slow
def test_a_process_that_is_asked_to_stop_finishes_its_case(
    run: Path, slides: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    for asked, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        out = tmp_path / asked.name
        process = command(f"model={run}", f"input={slides}", f"output={out}", background=True)
        seconds = time.monotonic() + 60
        while not list(out.glob("cases/*.json")):
            assert time.monotonic() < seconds
            time.sleep(0.01)
        process.send_signal(asked)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == code, said
        assert "stopping after this case" in said and "Traceback" not in said
        read = list(out.glob("cases/*.json"))
        assert 0 < len(read) < COUNT - BROKEN
        assert len((out / "predictions.csv").read_text().splitlines()) == 1 + len(read)
        assert not list(out.rglob(".*"))
    predict(run, slides, out)
    assert contents(out) == whole


# ---------------------------------------------------------------------------------------------- claims
def written(folder: Path, name: str, **told: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(json.dumps({"host": socket.gethostname(), "process": os.getpid(), "started": "0", **told}))
    return path


def test_a_claim_is_one_process_s_only(tmp_path: Path) -> None:
    one, other = Claims(tmp_path / "claims"), Claims(tmp_path / "claims")
    with one.taken("a") as mine:
        assert mine and one.holder("a") == f"process {os.getpid()} on {socket.gethostname()}"
        told = json.loads((tmp_path / "claims" / "a").read_text())
        assert set(told) == {"host", "namespace", "process", "started", "time"}
        with other.taken("a") as too, other.taken("b") as another:
            assert not too and another
    with other.taken("a") as mine:
        assert mine
    assert not (tmp_path / "claims").exists()


def test_a_claim_ends_with_an_error_too(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims")
    with pytest.raises(RuntimeError), claims.taken("a"):
        raise RuntimeError
    assert claims.holder("a") is None


def test_claims_of_processes_that_have_ended_are_taken_over(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims")
    ended = subprocess.Popen(["true"])
    ended.wait()
    for told in ({"process": ended.pid}, {"started": "another process with the same number"}):
        written(tmp_path / "claims", "a", **told)
        with claims.taken("a") as mine:
            assert mine
    zombie = subprocess.Popen(["true"])
    time.sleep(0.2)  # it has ended, but nobody has waited for it
    written(tmp_path / "claims", "a", process=zombie.pid)
    with claims.taken("a") as mine:
        assert mine
    zombie.wait()


def test_claims_of_other_machines_are_taken_over_when_they_are_silent(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims")
    path = written(tmp_path / "claims", "a", namespace="pid:[1]")  # of a container with the same name
    with claims.taken("a") as mine:
        assert not mine and path.exists()
    path = written(tmp_path / "claims", "a", host="elsewhere")
    with claims.taken("a") as mine:
        assert not mine and claims.holder("a") == f"process {os.getpid()} on elsewhere"
    claims.sweep()
    assert path.exists()
    os.utime(path, (time.time() - STALE - 5,) * 2)
    with claims.taken("a") as mine:
        assert mine
    half = tmp_path / "claims"
    half.mkdir()
    (half / "b").write_text('{"ho')  # of a file system that was full
    with claims.taken("b") as mine:
        assert not mine
    os.utime(half / "b", (time.time() - STALE - 5,) * 2)
    claims.sweep()
    assert not half.exists()


def test_it_is_known_of_each_claim_whether_somebody_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("STALE", 5.0), ("BEAT", 0.2), ("_POLL", 0.05)):
        monkeypatch.setattr(f"glimpse.predicting.claims.{name}", seconds)
    claims, ended = Claims(tmp_path / "claims"), threading.Event()
    left, kept = (written(tmp_path / "claims", name, host="elsewhere") for name in ("left", "kept"))

    def keeping() -> None:
        while not ended.wait(0.1):
            kept.touch()

    thread = threading.Thread(target=keeping)
    thread.start()
    try:
        with claims.taken("here"):
            assert claims.held(["kept", "here", "absent"]) == {"kept", "here"} and left.exists()
            assert claims.held(["left", "kept", "here"]) == {"kept", "here"}
    finally:
        ended.set()
        thread.join()
    with claims.taken("left") as mine:  # it has been silent for long enough meanwhile
        assert mine


def test_what_killed_processes_have_left_unfinished_is_removed(tmp_path: Path) -> None:
    outputs, claims = Outputs(tmp_path, Form(), "key", ()), Claims(tmp_path / "claims")
    (tmp_path / "looks").mkdir()
    with replacing(tmp_path / "looks" / "a.csv") as named:
        named.touch()  # which then becomes a.csv
    left = [tmp_path / "looks" / name for name in (named.name, ".a.csv.123.unfinished", ".b.csv.7-8.unfinished")]
    other = tmp_path / "looks" / ".notes.unfinished"
    for path in (*left, other):
        path.touch()
    with claims.taken("b"):
        outputs.sweep(claims)
        assert [path.exists() for path in (*left, other)] == [False, False, True, True], "b is being read"
