"""Predictions of images whose decoders take the process along."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glimpse.atomic import started as started_at
from glimpse.predict import predict
from glimpse.predicting.claims import Claims
from glimpse.predicting.hand import DEATHS
from tests.predictions import contents, write_slide

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children of other systems outlive their parent")

# Like a decoder: reading some images ends the process, by a signal, or by C's exit() without a word to Python.
DEADLY = """
import os, signal, sys
from pathlib import Path
from glimpse import predict
from glimpse.predicting.agent import Agent

read, deadly, once = Agent.read, {deadly!r}, Path({once!r})

def deadly_read(self, path, *arguments, **options):
    if Path(path).stem == deadly:
        os.kill(os.getpid(), signal.SIGSEGV)
    if Path(path).stem == "s4" and not once.exists():
        once.touch()
        os._exit(0)
    return read(self, path, *arguments, **options)

Agent.read = deadly_read
sys.argv = ["glimpse predict", *sys.argv[1:]]
predict.main()
"""


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six slides and one that is no slide."""
    folder = tmp_path_factory.mktemp("slides")
    for i in range(6):
        write_slide(folder / f"s{i}.svs", i)
    (folder / "broken.svs").write_text("nothing")
    return folder


def started(script: str, run: Path, slides: Path, out: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", script, f"model={run}", f"input={slides}", f"output={out}"]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)


@pytest.mark.slow
def test_an_image_that_crashes_every_process_fails_and_all_others_are_read(
    run: Path, slides: Path, tmp_path: Path
) -> None:
    whole = predict(run, slides, tmp_path / "whole").done
    assert (whole.read, whole.failed) == (6, ["broken"])
    done = started(DEADLY.format(deadly="s0", once=str(tmp_path / "once")), run, slides, tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("the process that read s0 has died (SIGSEGV)") == DEATHS
    assert done.stderr.count("the process that read s4 has died (exit code 0)") == 1
    assert done.stderr.count("glimpse: failed: broken") == 1, "what has failed is tried again in every process"
    with open(tmp_path / "out" / "failures.csv", newline="", encoding="utf-8-sig") as file:
        failed = {row["slide_id"]: row["reason"] for row in csv.DictReader(file)}
    assert set(failed) == {"broken", "s0"}
    assert f"s0.svs: {DEATHS} processes have ended while they read it" in failed["s0"]
    expected, there = contents(tmp_path / "whole"), contents(tmp_path / "out")
    tables = {"predictions.csv", "failures.csv"}
    for each in (expected, there):
        for name in [name for name in each if name in tables or "/s0." in name]:
            del each[name]
    assert there == expected, "the others have other files, or something was left behind"
    processes = json.loads((tmp_path / "out" / "manifest.json").read_text())["processes"]
    assert [one["ended"] is not None for one in processes].count(True) == 1
    again = predict(run, slides, tmp_path / "out").done  # by a process in which it does not crash
    assert (again.read, again.known, again.failed) == (1, 5, ["broken"])
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_where_every_image_is_deadly_it_gives_in(run: Path, slides: Path, tmp_path: Path) -> None:
    script = """
import os, signal, sys
from glimpse import predict
from glimpse.predicting import surviving
from glimpse.predicting.agent import Agent
surviving._IN_VAIN = 2
Agent.read = lambda self, *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = ["glimpse predict", *sys.argv[1:]]
predict.main()
"""
    done = started(script, run, slides, tmp_path / "out")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stderr.count("has died (SIGKILL)") == 1
    assert "2 processes in a row have died (SIGKILL) without finishing a case" in done.stderr
    again = predict(run, slides, tmp_path / "out").done
    assert (again.read, again.failed) == (6, ["broken"]), "what has died in vain is not blamed for ever"


def test_a_process_that_dies_of_no_case_is_not_started_again(run: Path, slides: Path, tmp_path: Path) -> None:
    script = """
import os, signal, sys
from glimpse import predict
predict.hands_of = lambda *arguments: os.kill(os.getpid(), signal.SIGSEGV)
sys.argv = ["glimpse predict", *sys.argv[1:]]
predict.main()
"""
    done = started(script, run, slides, tmp_path / "out")
    assert done.returncode == -signal.SIGSEGV, done.stderr
    assert "has died" not in done.stderr


SLOW = """
import os, signal, sys, time
from pathlib import Path
from glimpse import predict
from glimpse.predicting.agent import Agent

read, begun, deadly = Agent.read, Path({begun!r}), {deadly!r}
for one in (signal.SIGHUP, signal.SIGTERM):  # whoever started the tests may ignore them
    signal.signal(one, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

def slow_read(self, path, *arguments, **options):
    begun.touch()
    time.sleep(1.5)
    if deadly:
        os.kill(os.getpid(), signal.SIGSEGV)
    return read(self, path, *arguments, **options)

Agent.read = slow_read
sys.argv = ["glimpse predict", *sys.argv[1:]]
predict.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "group", "deadly", "code", "read"),
    [
        ("SIGHUP", False, False, -signal.SIGHUP, 0),
        ("SIGTERM", False, False, 143, 1),
        ("SIGTERM", True, False, 143, 1),  # as `timeout` and Slurm send it
        ("SIGINT", True, False, 130, 1),
        ("SIGTERM", False, True, -signal.SIGSEGV, 0),  # which is no reason to begin again
    ],
)
def test_who_is_asked_to_stop_does_not_begin_again(
    run: Path, slides: Path, tmp_path: Path, asked: str, group: bool, deadly: bool, code: int, read: int
) -> None:
    begun, out = tmp_path / "begun", tmp_path / "out"
    script = SLOW.format(begun=str(begun), deadly=deadly)
    words = [sys.executable, "-c", script, f"model={run}", f"input={slides}", f"output={out}"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = time.monotonic() + 120
    while not begun.exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    number = signal.Signals[asked]
    (os.killpg if group else os.kill)(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert len([*out.glob("cases/*.json"), *out.glob("failures/*.json")]) == read, said
    assert "has died" not in said and "Traceback" not in said
    claims = Claims(out / ".claims", counts_deaths=True)
    claims.sweep()
    assert claims.all_deaths() == {}, "a case is blamed for what somebody asked"


def test_deaths_are_counted_until_they_are_forgotten(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims", counts_deaths=True)
    with claims.taken("alive"):  # keeps the folder
        for count in range(1, 4):
            script = "import os, sys; from pathlib import Path; from glimpse.predicting.claims import Claims\n"
            script += "sys.stdin.readline()\n"
            script += f"with Claims(Path({str(tmp_path / 'claims')!r})).taken('deadly'): os._exit(9)"
            child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
            born = started_at(child.pid)
            child.communicate(b"\n")
            assert child.wait() == 9
            assert claims.of_process(child.pid, born) == ["deadly"]
            if count % 2:
                claims.sweep()
            else:
                with claims.taken("deadly") as mine:
                    assert mine
            assert claims.deaths("deadly") == count and claims.deaths("alive") == 0
        assert claims.of_process(os.getpid(), started_at(os.getpid())) == ["alive"]
        claims.sweep()
        assert claims.deaths("deadly") == 3
        claims.forget("deadly")
        assert claims.deaths("deadly") == 0
    assert not (tmp_path / "claims").exists()
