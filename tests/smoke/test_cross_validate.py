"""Cross-validation from the command line: killed, gone on with, and measured; and the calibration of its runs."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

import glimpse
from glimpse.compare import compare
from glimpse.cross_validate import cross_validate
from glimpse.errors import EvaluationError, SettingsError, UserError
from glimpse.evaluate import evaluate
from glimpse.predicting.claims import Claims
from glimpse.reading.calibration import CALIBRATION_FILE, calibrated
from glimpse.report.tables import MEASURED
from glimpse.runs.loading import read_settings
from glimpse.settings.composing import composed
from glimpse.tasks import Classification
from glimpse.train import train

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["experiment=smoke", "env=wsi", "threads=1", "progress=false", "joint.updates=1", "report.readers=[grid]"]
SHORT += ["report.pictures=1", "env.task.class_weights=balanced"]


def settings(cohort: Path, *more: str) -> list[str]:
    return [*SHORT, f"env.cohort.path={cohort}", *more]


@pytest.fixture(scope="module")
def killed(tiny_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, bytes]]:
    """A cross-validation that was killed in its second fold, and the files of the first one."""
    folder = tmp_path_factory.mktemp("killed") / "cv"
    line = [sys.executable, "-m", "glimpse", "cross-validate", "folds=2", f"folder={folder}", *settings(tiny_slides)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (folder / "fold-2" / "config.yaml").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "it has ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    files = {path: path.read_bytes() for path in (folder / "fold-1").rglob("*") if path.is_file()}
    assert folder / "fold-1" / "metrics.json" in files and not (folder / "fold-2" / "metrics.json").exists()
    return folder, files


@pytest.fixture(scope="module")
def finished(killed: tuple[Path, dict[Path, bytes]], tiny_slides: Path) -> Path:
    """The same, after the same command was called again."""
    folder, files = killed
    stamps = {path: path.stat().st_mtime_ns for path in files}
    result = cross_validate(settings(tiny_slides), folds=2, folder=folder)
    assert "mean (sd)" in result.told and "fold 2" in result.told
    assert {path: path.stat().st_mtime_ns for path in files} == stamps  # what had ended was left alone
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_killed_cross_validation_goes_on_and_tests_each_case_once(finished: Path, tiny_slides: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert list(metrics["readers"]) == ["ppo", "grid"] and metrics["folds"] == 2
    each = [json.loads((finished / f"fold-{i}" / "metrics.json").read_text())["readers"] for i in (1, 2)]
    accuracy = metrics["readers"]["ppo"]["accuracy"]
    assert accuracy["folds"] == [one["ppo"]["accuracy"] for one in each]
    assert accuracy["mean"] == pytest.approx(np.mean([one["ppo"]["accuracy"]["value"] for one in each]))
    predictions, folds = rows(finished / "predictions.csv"), rows(finished / "folds.csv")
    for reader in ("ppo", "grid"):
        tested = {row["slide_id"]: row["fold"] for row in predictions if row["reader"] == reader}
        assert tested == {row["slide_id"]: row["fold"] for row in folds}
        assert len(tested) == len(rows(tiny_slides))
    for row in rows(finished / "fold-2" / "splits.csv"):
        assert row["split"] == next(one["fold_2"] for one in folds if one["slide_id"] == row["slide_id"])
    assert "Run folder" in (finished / "fold-2" / "report.txt").read_text()


def test_class_weights_are_those_of_the_training_cases_of_each_fold(finished: Path, tiny_slides: Path) -> None:
    targets = {row["slide_id"]: int(row["target"]) for row in rows(tiny_slides)}
    for number in (1, 2):
        run = finished / f"fold-{number}"
        learned = [targets[row["slide_id"]] for row in rows(run / "splits.csv") if row["split"] == "train"]
        counts = np.bincount(learned, minlength=2)
        given = read_settings(run)
        assert given is not None
        for section in (given["env"]["task"], given["env"]["make"]["task"], given["env"]["cohort"]["task"]):
            assert section["class_weights"] == pytest.approx(len(learned) / (2 * counts), abs=1e-5)


def test_what_cannot_be_gone_on_with_is_refused(finished: Path, tiny_slides: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.parent != finished}
    again = cross_validate(settings(tiny_slides, "read_threads=1"), folds=finished / "folds.csv", folder=finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.parent != finished} == before
    assert again.record == json.loads((finished / "metrics.json").read_text())
    for more, options, said in (
        (["joint.updates=2"], {}, "trained with joint.updates=1, not 2"),
        ([], {"folds": 3}, "other folds than those"),
        (["seed=1"], {}, "other folds than those"),
        (["run=x"], {}, "run: cannot be set in a cross-validation; .*folder="),
        (["report.split=val"], {}, "report.split: cannot be set"),
        ([], {"folds": 1}, "folds as a whole number of at least 2"),
        ([], {"folds": True}, "folds as a number or as the path"),
        ([], {"validation": 1.0}, "validation from 0 to 0.9"),
    ):
        with pytest.raises(SettingsError, match=said):
            cross_validate(settings(tiny_slides, *more), **{"folds": 2, "folder": finished, **options})


@pytest.mark.parametrize(
    ("folds", "said"), [(1, "folds as a whole number of at least 2"), ("no such.csv", "no such.csv: cannot be read")]
)
def test_impossible_folds_are_refused_before_cases_are_made(
    folds: int | str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[cross_validate.__module__], "build_setting", lambda *_: pytest.fail("made"))
    with pytest.raises(UserError, match=said):
        cross_validate(["env=wsi"], folds=folds, folder=tmp_path / "cv")
    assert not (tmp_path / "cv").exists()


def test_a_fold_that_another_process_trains_is_left_to_it(finished: Path, tiny_slides: Path) -> None:
    with Claims(finished / "claims").taken("fold-2") as mine:
        assert mine
        result = cross_validate(settings(tiny_slides), folds=2, folder=finished)
    assert list(result.elsewhere) == [2] and not result.record
    assert f"Not finished: fold 2: process {os.getpid()}" in result.told


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_who_is_stopped_says_where_and_how_to_go_on(
    kind: type[BaseException],
    tiny_slides: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*given: object) -> None:
        raise kind

    monkeypatch.setattr(sys.modules[cross_validate.__module__], "_train", stopped)
    with pytest.raises(kind):
        cross_validate(settings(tiny_slides), folds=2, folder=tmp_path)
    assert capsys.readouterr().err.endswith("glimpse: in fold 1 of 2; the same command goes on where it was\n")
    assert not list((tmp_path / "claims").glob("fold-*"))


def test_the_last_of_several_processes_prints_the_table(
    finished: Path, tiny_slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, module = contextlib.ExitStack(), sys.modules[cross_validate.__module__]
    assert other.enter_context(Claims(finished / "claims").taken("fold-1"))
    began = module._train  # type: ignore[attr-defined]

    def train(*given: Any) -> None:
        other.close()  # whoever had the first fold ends while the second one is trained
        began(*given)

    monkeypatch.setattr(module, "_train", train)
    result = cross_validate(settings(tiny_slides), folds=2, folder=finished)
    assert not result.elsewhere and "mean (sd)" in result.told


def claim_of_another_machine(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A claim that was just made on another machine, where claims are given up after a second."""
    for setting, seconds in (("STALE", 1.0), ("BEAT", 0.2), ("_POLL", 0.05)):
        monkeypatch.setattr(f"glimpse.predicting.claims.{setting}", seconds)
    path = folder / "claims" / name
    path.parent.mkdir()
    path.write_text(json.dumps({"host": "elsewhere", "process": 1, "started": "0"}))
    return path


def test_a_fold_whose_process_was_lost_with_its_machine_is_trained_before_this_one_ends(
    finished: Path, tiny_slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, trained, began = finished / "fold-2" / "metrics.json", list[Path](), time.monotonic()
    aside = metrics.rename(finished / "aside.json")

    def train(run: Path, *_: Any) -> None:
        trained.append(run)
        if run.name == "fold-2":
            aside.rename(metrics)

    claim = claim_of_another_machine(finished, "fold-2", monkeypatch)
    monkeypatch.setattr(sys.modules[cross_validate.__module__], "_train", train)
    result = cross_validate(settings(tiny_slides), folds=2, folder=finished)
    assert [run.name for run in trained] == ["fold-1", "fold-2"] and not claim.exists()
    assert time.monotonic() - began > 1 and not result.elsewhere and "mean (sd)" in result.told


def test_folds_that_nobody_gives_a_sign_of_training_end_the_command_with_1(
    finished: Path, tiny_slides: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = claim_of_another_machine(finished, "fold-2", monkeypatch)
    os.utime(claim, (time.time() + 3600,) * 2)  # by the clock of a file system that is an hour ahead
    options = {"folds": 2, "validation": 0.2, "folder": str(finished), "fold": None}
    try:
        with pytest.raises(SystemExit) as caught:
            sys.modules[cross_validate.__module__]._one(OmegaConf.create(options), settings(tiny_slides))
    finally:
        claim.unlink()
        claim.parent.rmdir()
    assert caught.value.code == 1
    said = capsys.readouterr().out
    assert "Not finished: fold 2: process 1 on elsewhere. Nobody gives a sign of training 2 any more" in said


def test_one_fold_alone_says_which_others_are_missing(finished: Path, tiny_slides: Path) -> None:
    metrics = finished / "fold-1" / "metrics.json"
    aside = metrics.rename(finished / "aside.json")
    try:
        result = cross_validate(settings(tiny_slides), folds=2, folder=finished, fold=2)
    finally:
        aside.rename(metrics)
    assert result.elsewhere == {1: "nobody yet"} and not result.abandoned
    assert not cross_validate(settings(tiny_slides), folds=2, folder=finished, fold=1).elsewhere
    for number in (0, 3, True, "1"):
        with pytest.raises(SettingsError, match="Expected fold as a whole number from 1 to 2"):
            cross_validate(settings(tiny_slides), folds=2, folder=finished, fold=number)  # type: ignore[arg-type]


def test_settings_of_launchers_are_the_command_s_own() -> None:
    module: Any = sys.modules[cross_validate.__module__]
    own = ["hydra/launcher=joblib", "+hydra.launcher.n_jobs=2", "fold=1,2", "folds=2"]
    typed = [*own[:2], "-m", "env=wsi", *own[2:], "++seed=1"]
    assert module._parted(typed) == ([*own, "-m"], ["env=wsi", "++seed=1"])


# ---------------------------------------------------------------------------------------------- calibration
def test_temperatures_change_how_sure_answers_are_and_nothing_else(finished: Path) -> None:
    run = finished / "fold-1"
    record = json.loads((run / CALIBRATION_FILE).read_text())
    assert set(record["readers"]) == {"ppo", "grid"}
    temperature = record["readers"]["ppo"]["temperature"]
    row = json.loads((run / "metrics.json").read_text())["readers"]["ppo"]
    assert row["temperature"] == temperature and row["uncalibrated"]["brier"] != row["brier"]
    again = evaluate(run, readers=["policy"])
    assert {key: again.rows["ppo"][key] for key in row if key not in MEASURED} == {
        key: value for key, value in row.items() if key not in MEASURED
    }
    task = Classification(2)
    (run / CALIBRATION_FILE).rename(run / "aside.json")
    try:
        raw = evaluate(run, readers=["policy"])
    finally:
        (run / "aside.json").rename(run / CALIBRATION_FILE)
    assert raw.rows["ppo"]["auc"] == row["auc"] and raw.rows["ppo"]["accuracy"] == row["accuracy"]
    assert raw.rows["ppo"]["brier"] == row["uncalibrated"]["brier"] and raw.rows["ppo"]["temperature"] is None
    written = {one["slide_id"]: float(one["p_1"]) for one in rows(run / "predictions.csv") if one["reader"] == "ppo"}
    for one in raw.readings["ppo"]:
        assert task.probabilities(one.prediction / temperature)[1] == pytest.approx(written[one.id], abs=1e-6)
        assert calibrated(one, None) is one


def test_what_an_agent_reads_is_calibrated(finished: Path, tiny_slides: Path) -> None:
    agent = glimpse.load(finished / "fold-1")
    image = tiny_slides.parent / rows(tiny_slides)[0]["path"]
    reading = agent.read(image)
    expected = Classification(2).probabilities(reading.prediction)
    assert reading.answer["p_1"] == pytest.approx(expected[1])
    del agent.temperature
    agent.temperature = None
    plain = agent.read(image)
    temperature = json.loads((finished / "fold-1" / CALIBRATION_FILE).read_text())["readers"]["ppo"]["temperature"]
    np.testing.assert_allclose(reading.predictions, plain.predictions / temperature)


def test_a_broken_file_of_temperatures_is_named(finished: Path) -> None:
    file = finished / "fold-1" / CALIBRATION_FILE
    text = file.read_text()
    try:
        for broken in ("{", '{"readers": {"ppo": {"temperature": -1}}}', "[]"):
            file.write_text(broken)
            with pytest.raises(EvaluationError, match=r"calibration.json: cannot be read as temperatures"):
                evaluate(finished / "fold-1", readers=["grid"])
    finally:
        file.write_text(text)


def test_pictures_are_drawn_and_readers_of_a_cross_validation_compared(finished: Path) -> None:
    for name in ("calibration.png", "confusion.png"):
        assert all((folder / name).read_bytes().startswith(b"\x89PNG") for folder in (finished, finished / "fold-1"))
    found = compare(finished, readers=["ppo", "grid"], bootstrap=100)
    assert found.names == ("ppo", "grid") and found.cases == len(rows(finished / "folds.csv"))
    value = json.loads((finished / "metrics.json").read_text())["readers"]["ppo"]["accuracy"]["together"]["value"]
    assert found.metrics["accuracy"]["first"]["value"] == pytest.approx(value)


def test_calibration_can_be_turned_off(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(finished / "fold-1", tmp_path / "run")
    given = [f"resume={run}", "report.calibrate=false", "report.readers=[]"]
    row = train(composed(*given), given)["readers"]["ppo"]
    before = json.loads((finished / "fold-1" / "metrics.json").read_text())["readers"]["ppo"]
    assert not (run / CALIBRATION_FILE).exists() and "alibrated" not in capsys.readouterr().out
    assert row["temperature"] is None and row["auc"] == before["auc"] and row["accuracy"] == before["accuracy"]
    assert row["brier"] == before["uncalibrated"]["brier"] and row["ece"] == before["uncalibrated"]["ece"]
