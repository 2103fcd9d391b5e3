"""`glimpse check`: processes of its own, the command, and the words of its tables."""

import inspect
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from glimpse.check import check
from glimpse.cohort import CohortError
from glimpse.errors import EvaluationError, SettingsError
from glimpse.inspecting.findings import Finding
from glimpse.inspecting.inputs import Candidate
from glimpse.inspecting.looking import Seen, look
from glimpse.inspecting.outputs import duration, milliseconds, size, table
from glimpse.inspecting.workers import fair_memory, looked_at
from tests.checks import FAST, SIZES, listed, three_slides
from tests.commands import ran
from tests.predictions import write_slide

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_slides(tmp_path_factory.mktemp("three"))


# ---------------------------------------------------------------------------------------------- processes
def dies(path: str) -> dict[str, Any]:
    if path == "die":
        os.kill(os.getpid(), 11)
    if path == "leave":
        print("goodbye", file=sys.stderr, flush=True)
        os._exit(3)
    if path == "hang":
        time.sleep(600)
    if path == "talk":
        print("this must not come between the results")
    if path == "eat":
        try:
            np.ones(3 << 30, np.uint8)
        except MemoryError:
            return {"memory": "bounded"}
    return {"path": path}


def test_a_reader_that_dies_or_hangs_takes_no_other_along() -> None:
    orders = [{"path": one} for one in ("a", "die", "b", "leave", "hang", "talk", "eat", "c")]
    began = time.monotonic()
    results = dict(looked_at(orders, 2, 8.0, 1.5, "tests.unit.test_check_command:dies"))
    assert time.monotonic() - began < 100
    good = {0: {"path": "a"}, 2: {"path": "b"}, 5: {"path": "talk"}, 6: {"memory": "bounded"}, 7: {"path": "c"}}
    assert {i: one for i, one in results.items() if not isinstance(one, Finding)} == good
    assert "signal 11, SIGSEGV" in results[1].what and results[1].rule == "killed"
    assert "exit code 3" in results[3].what and "goodbye" in results[3].what
    assert results[4].rule == "slow" and "8 seconds" in results[4].what


def test_the_start_of_a_process_is_no_time_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_start.py").write_text(
        "import time\ntime.sleep(3)\n\ndef seen(path):\n    return {'path': path}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert list(looked_at([{"path": "a"}], 1, 2.0, 1.5, "slow_start:seen")) == [(0, {"path": "a"})]
    monkeypatch.setattr("glimpse.inspecting.workers._START", 1.0)
    ((_, found),) = looked_at([{"path": "a"}], 1, 60.0, 1.5, "slow_start:seen")
    assert isinstance(found, Finding) and found.rule == "slow" and "starting to read took longer than 1 " in found.what


def test_looking_imports_no_pytorch() -> None:
    code = "import sys, glimpse.inspecting.looking; print([n for n in ('torch', 'matplotlib') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_any_error_of_a_reader_is_a_finding() -> None:
    seen = look("/nowhere.svs", {"reader": "no such reader"}, {})
    assert not seen["opened"] and seen["findings"][0][0] == "unreadable"
    assert 1 <= fair_memory(64) <= fair_memory(1) <= 16


# ---------------------------------------------------------------------------------------------- the command
def command(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return ran("glimpse", "check", *arguments, folder=folder, environment=os.environ | {"COLUMNS": "120"})


def test_the_exit_code_says_whether_something_is_wrong(three: Path, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    shutil.copytree(three, slides, ignore=shutil.ignore_patterns("*.csv", "*.png"))
    done = command("input=slides", "env=wsi", "workers=1", "estimate=false", *SIZES, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 cases, all is fine" in done.stdout and (tmp_path / "checks" / "slides" / "cases.csv").is_file()
    (slides / "bad.svs").write_text("no slide")
    done = command("input=slides", "output=o", "workers=1", "estimate=false", *SIZES, folder=tmp_path)
    assert done.returncode == 1 and "bad " in done.stdout and "unreadable" in done.stdout, done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checks", "o", "slides"]


def test_files_of_others_are_not_written_over(three: Path, tmp_path: Path) -> None:
    path, own = listed(tmp_path / "cases.csv", f"p0,c0,{three / 's0.svs'},0,train"), tmp_path / "own"
    with pytest.raises(EvaluationError, match=r"cases.csv: this is another file, and no table .* with output="):
        check(path, tmp_path, **FAST)
    assert "c0" in path.read_text()
    (own / "thumbnails").mkdir(parents=True)
    (own / "thumbnails" / "s0.png").write_bytes(b"mine")
    with pytest.raises(EvaluationError, match=r"thumbnails: this is not of glimpse check"):
        check(path, own, **FAST)
    shutil.rmtree(own)
    for _ in range(2):  # into what an earlier check has written
        assert len(check(path, own, **FAST).cases) == 1


def test_the_command_of_a_training_can_be_checked_as_it_is(three: Path, tmp_path: Path) -> None:
    path = listed(three / "whole.csv", *(f"p{i},c{i},s{i}.svs,{i % 2},train" for i in range(3)))
    named = ("env=wsi", "agent=ppo", "network/encoder=small", f"env.cohort.path={path}", "joint.updates=2", *SIZES)
    done = command(*named, "output=o", "workers=1", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "joint stage: 1,024 glimpses" in done.stdout and "On disk: no caches" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Which images?"),
        (["input=nowhere"], "No such file"),
        (["input=.", "wrokers=3"], "wrokers"),
        (["input=.", "env=wsj"], "did you mean 'wsi'"),
        (["input=.", "env=megapixel_mnist"], "drawn"),
        (["input=.", "env.task.clases=[a,b]"], "clases"),
        (["input=.", "network/encoder=nosuch"], "There is no option network/encoder=nosuch"),
    ],
)
def test_a_mistake_in_the_command_is_one_line_and_code_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    write_slide(tmp_path / "s.svs")
    done = command(*arguments, folder=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_arguments_that_cannot_be(tmp_path: Path) -> None:
    write_slide(tmp_path / "s.svs")
    for wrong in ({"workers": -1}, {"timeout": 0}, {"gigabytes": -2}, {"places": 1.5}, {"estimate": "yes"}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            check(tmp_path, tmp_path / "out", **wrong)
    with pytest.raises(SettingsError, match="results would lie among the images"):
        check(tmp_path, tmp_path, **FAST)
    with pytest.raises(CohortError, match="no column path"):
        check(listed(tmp_path / "c.csv", "a,b", header="case_id,target"), tmp_path / "out", **FAST)
    with pytest.raises(CohortError) as caught:
        check(listed(tmp_path / "c.csv", "1;a.svs;gut", header="Fall-Nr;Datei;Diagnose"), tmp_path / "out", **FAST)
    assert str(caught.value).count("needed are") == 1 and "'Fall-Nr', 'Datei', 'Diagnose': rename" in str(caught.value)
    (tmp_path / "none").mkdir()
    with pytest.raises(EvaluationError, match="no images"):
        check(tmp_path / "none", tmp_path / "out", **FAST)


def test_the_configuration_lists_what_the_function_takes() -> None:
    config = OmegaConf.load(ROOT / "configs" / "check.yaml")
    listed_there = {str(key) for key in config} - {"defaults", "hydra"}
    parameters = inspect.signature(check).parameters
    assert listed_there == set(parameters) - {"env", "settings"}
    for name in listed_there - {"input", "progress"}:
        assert config[name] == parameters[name].default, name


# ---------------------------------------------------------------------------------------------- words
def test_the_table_joins_what_is_alike_and_counts_the_rest() -> None:
    def cases(*what: str) -> list[Any]:
        findings = [Finding("spacing", one) for one in what]
        return [(Candidate(f"case-{i}", None, "wsi"), Seen(), (one,)) for i, one in enumerate(findings)]

    text = " ".join(table(cases(*["it is alike"] * 9), [], width=100).split())
    assert "case-0, case-1, case-2 and 6" in text and text.count("it is alike") == 1
    text = table(cases(*(f"it is {i}" for i in range(60))), [], width=100)
    assert "... and 20 more; findings.csv lists all." in text
    assert table([], []) == ""


def test_durations_and_sizes_in_words() -> None:
    assert [duration(value) for value in (0.2, 5, 300, 9000, 4e5)] == ["under 1 s", "5 s", "5.0 min", "2.5 h", "4.6 d"]
    assert [milliseconds(value) for value in (0.00049, 0.049, 0.676)] == ["0.49 ms", "49 ms", "680 ms"]
    assert [size(value) for value in (12, 3400, 5.6e9)] == ["12 bytes", "3.4 kB", "5.6 GB"]
