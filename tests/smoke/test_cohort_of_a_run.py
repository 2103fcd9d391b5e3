"""A run and its cohort: cases of any name, other working directories, cohorts that grow or move, and empty splits."""

import csv
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from glimpse.atomic import WriteError
from glimpse.cohort import Cohort, CohortError
from glimpse.errors import EvaluationError, SettingsError
from glimpse.evaluate import evaluate
from glimpse.report import keeping
from glimpse.settings.composing import composed
from glimpse.train import train

SHORT = ("experiment=smoke", "env=wsi", "threads=1", "progress=false", "joint.updates=1", "report.readers=[]")


def write(path: Path, slides: Iterable[Path], splits: str = "") -> Path:
    """Writes a cohort whose cases have names that no file can have; the letters say in which split each case is."""
    names = {"t": "train", "v": "val", "e": "test"}
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["case_id", "slide_id", "path", "target", *(["split"] if splits else [])])
        for index, slide in enumerate(slides):
            split = [names[splits[index]]] if splits else []
            rows.writerow(
                [f"p{index}", f"site {index % 2}/s{index}", slide, ("benign", "malignant")[index % 2], *split]
            )
    return path


@pytest.fixture(scope="module")
def slides(tiny_slides: Path) -> list[Path]:
    return [tiny_slides.parent / row["path"] for row in csv.DictReader(tiny_slides.open())]


@pytest.fixture(scope="module")
def trained(slides: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cohort of 10 slides, without splits, and a run that was trained on it with relative paths."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "data").mkdir()
    for slide in slides:
        shutil.copy(slide, folder / "data" / slide.name)
    write(folder / "data" / "all.csv", [Path(slide.name) for slide in slides[:10]])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(composed(*SHORT, "env.cohort.path=data/all.csv", "env.task.classes=[benign,malignant]", "run=r"))
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, as if the training had taken place in it, seen from another working directory."""
    shutil.copytree(trained, tmp_path / "here")
    config = tmp_path / "here" / "r" / "config.yaml"
    config.write_text(config.read_text().replace(str(trained), str(tmp_path / "here")))
    (tmp_path / "elsewhere" / "data").mkdir(parents=True)
    (tmp_path / "elsewhere" / "data" / "all.csv").write_text("another,cohort\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "here"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_cases_with_a_slash_are_drawn_and_tables_can_be_joined(trained: Path) -> None:
    run = trained / "r"
    metrics = json.loads((run / "metrics.json").read_text())
    predictions, splits, cohort = (
        table(file) for file in (run / "predictions.csv", run / "splits.csv", trained / "data" / "all.csv")
    )
    assert metrics["split"] == "test" and list(metrics["readers"]) == ["ppo"]
    assert len(list((run / "scanpaths").glob("site [01]_s*-*.png"))) == len(predictions)
    targets = {(row["case_id"], row["slide_id"]): row["target"] for row in cohort}
    assert {(row["case_id"], row["slide_id"]) for row in splits} == targets.keys()
    tested = {row["slide_id"] for row in splits if row["split"] == "test"}
    assert {row["slide_id"] for row in predictions} == tested and tested
    for row in predictions:  # joined by their common columns, answers and cohort agree
        assert targets[row["case_id"], row["slide_id"]] == row["target"]
        assert {"p_benign", "p_malignant"} <= row.keys()


def test_a_run_finds_its_cohort_from_everywhere_and_when_it_was_moved(copied: Path) -> None:
    assert OmegaConf.load(copied / "r" / "config.yaml").env.cohort.path == str(copied / "data" / "all.csv")
    result = evaluate(copied / "r", readers=["random"], progress=False)
    tested = [row["slide_id"] for row in table(copied / "r" / "splits.csv") if row["split"] == "test"]
    assert [one.id for one in result.readings["random"]] == tested
    (copied / "r").rename(copied.parent / "moved")
    again = evaluate(copied.parent / "moved", readers=["random"], progress=False)
    assert [one.id for one in again.readings["random"]] == tested


def test_a_grown_cohort_is_split_as_it_was_in_training(copied: Path, slides: list[Path]) -> None:
    before = (copied / "r" / "splits.csv").read_text()
    tested = [row["slide_id"] for row in table(copied / "r" / "splits.csv") if row["split"] == "test"]
    write(copied / "data" / "all.csv", [Path(slide.name) for slide in slides[:12]])
    with pytest.warns(UserWarning, match="New in the cohort since the run began: cases site 0/s10, site 1/s11"):
        result = evaluate(copied / "r", readers=["random"], progress=False)
    assert [one.id for one in result.readings["random"]] == tested
    with pytest.warns(UserWarning, match="New in the cohort"):
        assert len(evaluate(copied / "r", split="all", readers=["random"], progress=False).readings["random"]) == 12
    with pytest.warns(UserWarning, match="New in the cohort"):
        resume(copied / "r", "joint.updates=2")
    assert (copied / "r" / "splits.csv").read_text() == before
    assert {row["slide_id"] for row in table(copied / "r" / "predictions.csv")} == set(tested)


def resume(run: Path, *typed: str) -> dict[str, Any]:
    given = (f"resume={run}", *typed)
    return train(composed(*given), given)


def test_a_moved_cohort_is_found_by_the_option_that_the_message_names(copied: Path) -> None:
    tested = [row["slide_id"] for row in table(copied / "r" / "splits.csv") if row["split"] == "test"]
    (copied / "data").rename(copied / "new place")
    with pytest.raises(
        EvaluationError, match=r"all\.csv: the cohort of this run is not there.*: cohort=<path of its CSV>"
    ):
        evaluate(copied / "r", progress=False)
    with pytest.raises(SettingsError, match=r"all\.csv: .*beside resume=: env\.cohort\.path=<path of its CSV>"):
        resume(copied / "r")
    result = evaluate(copied / "r", cohort=copied / "new place" / "all.csv", readers=["random"], progress=False)
    assert [one.id for one in result.readings["random"]] == tested
    resume(copied / "r", f"env.cohort.path='{copied / 'new place' / 'all.csv'}'", "joint.updates=2")
    assert OmegaConf.load(copied / "r" / "config.yaml").env.cohort.path == str(copied / "new place" / "all.csv")
    assert {row["slide_id"] for row in table(copied / "r" / "predictions.csv")} == set(tested)


def test_other_images_in_the_place_of_the_cohort_are_refused(copied: Path, slides: list[Path]) -> None:
    write(copied / "data" / "all.csv", [Path(slide.name) for slide in slides[2:12]])
    files = {file: file.read_bytes() for file in (copied / "r").rglob("*") if file.is_file()}
    for use in (lambda: evaluate(copied / "r", progress=False), lambda: resume(copied / "r", "joint.updates=2")):
        with pytest.raises(CohortError, match="This is not the cohort of the run, or it was changed: the images of"):
            use()
    assert {file: file.read_bytes() for file in (copied / "r").rglob("*") if file.is_file()} == files


def test_two_patients_without_splits_can_be_evaluated(copied: Path, slides: list[Path]) -> None:
    few = write(copied / "data" / "few.csv", [Path(slide.name) for slide in slides[10:12]])
    result = evaluate(copied / "r", cohort=few, split="all", readers=["random"], progress=False)
    assert len(result.readings["random"]) == 2
    with pytest.raises(EvaluationError, match=r"cannot split 2 patient\(s\).*split=all reads all cases"):
        evaluate(copied / "r", cohort=few, readers=["random"], progress=False)


# ---------------------------------------------------------------------------------------------- empty splits
@pytest.mark.parametrize(
    ("splits", "option"), [("tttttttvvv", "report.split=val"), ("tttttttttt", "report.split=train")]
)
def test_an_empty_test_split_is_refused_before_training(
    slides: list[Path], tmp_path: Path, splits: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = write(tmp_path / "cohort.csv", slides[:10], splits)
    given = (*SHORT, f"env.cohort.path={cohort}", "env.task.classes=[benign,malignant]", f"run={tmp_path / 'r'}")
    with pytest.raises(EvaluationError, match=f"no case is in the split 'test'.*{option}"):
        train(composed(*given))
    assert not (tmp_path / "r").exists()
    if option == "report.split=val":
        metrics = train(composed(*given, option))
        assert metrics["split"] == "val"
        assert "Not calibrated: these answers are to the validation split" in capsys.readouterr().out
        assert [row["slide_id"] for row in table(tmp_path / "r" / "predictions.csv")] == [
            f"site {i % 2}/s{i}" for i in (7, 8, 9)
        ]
        with pytest.raises(EvaluationError, match="There are: split=train, split=val, split=all"):
            evaluate(tmp_path / "r", progress=False)


def test_an_empty_training_split_is_refused(slides: list[Path], tmp_path: Path) -> None:
    cohort = write(tmp_path / "cohort.csv", slides[:4], "vvee")
    given = (*SHORT, f"env.cohort.path={cohort}", "env.task.classes=[benign,malignant]", f"run={tmp_path / 'r'}")
    with pytest.raises(EvaluationError, match="no case is in the split 'train'"):
        train(composed(*given))
    assert not (tmp_path / "r").exists()


def test_numbers_outlive_pictures_that_fail(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("metrics.json", "predictions.csv"):
        (copied / "r" / name).unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeping, "scanpath_picture", full)
    with pytest.raises(WriteError, match=r"scanpaths/site .*png: cannot be written \(No space left on device\)"):
        resume(copied / "r")
    assert json.loads((copied / "r" / "metrics.json").read_text())["readers"]["ppo"]
    assert table(copied / "r" / "predictions.csv")


def test_a_run_that_may_not_be_written_is_refused_before_reading(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    monkeypatch.setattr(Cohort, "from_csv", lambda *_, **__: pytest.fail("reading has begun"))
    with pytest.raises(EvaluationError, match=r"could not be written into this folder.*output=<folder>"):
        evaluate(copied / "r", progress=False)


def test_an_image_that_was_lost_since_is_left_out_as_the_message_says(copied: Path) -> None:
    lost = copied / "data" / Path(table(copied / "data" / "all.csv")[0]["path"]).name
    lost.unlink()
    with pytest.raises(CohortError, match=rf"on_error=skip, also beside resume=.*removing their lines:\n.*{lost.name}"):
        evaluate(copied / "r", split="all", readers=["grid"])
    with pytest.warns(UserWarning, match="No more in the cohort since the run began: case site 0/s0"):
        resume(copied / "r", "env.cohort.on_error=skip")
    with pytest.warns(UserWarning, match="No more in the cohort"):
        assert len(evaluate(copied / "r", split="all", readers=["grid"]).readings["grid"]) == 9
    with pytest.raises(SettingsError, match=r"env\.cohort\.seed=1: cannot be changed"):
        resume(copied / "r", "env.cohort.seed=1")
