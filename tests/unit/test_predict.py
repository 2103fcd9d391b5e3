"""`glimpse predict`: what it writes, once and once more, with one model and with several."""

import csv
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from glimpse.errors import EvaluationError, SettingsError
from glimpse.predict import predict
from glimpse.predicting import work
from glimpse.predicting.agent import load
from glimpse.report.html.writing import write_report
from tests.geojson import valid
from tests.predictions import contents, nested_slides, slide_run, write_slide


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nested_slides(tmp_path_factory.mktemp("slides"))


@pytest.fixture(scope="module")
def predicted(run: Path, slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of all of these slides."""
    folder = tmp_path_factory.mktemp("predicted") / "out"
    result = predict(run, slides, folder)
    assert (result.cases, result.done.read, result.done.failed) == (6, 6, [])
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline="")))


# ---------------------------------------------------------------------------------------------- what is written
def test_every_case_has_an_answer_and_its_files(predicted: Path) -> None:
    lines = rows(predicted / "predictions.csv")
    assert [line["slide_id"] for line in lines] == ["a/s0", "a/s2", "a/s4", "b/c/s1", "b/c/s3", "b/c/s5"]
    for line in lines:
        answers = float(line["p_0"]), float(line["p_1"])
        assert sum(answers) == pytest.approx(1, abs=1e-5)
        assert line["answer"] == str(int(answers[1] > answers[0]))
        assert line["spacing"] == ("0.25 x 0.25" if line["slide_id"].startswith("b") else "0.5 x 0.5")
        looks = rows(predicted / "looks" / f"{line['file']}.csv")
        assert len(looks) == int(line["glimpses"]) == 3 and [look["order"] for look in looks] == ["1", "2", "3"]
        assert looks[-1]["p_1"] == line["p_1"]
        side = "256" if line["slide_id"].startswith("b") else "128"
        assert all((look["width"], look["height"], look["level"]) == (side, side, "0") for look in looks)
        assert all(0 < float(look["locator_probability"]) <= 1 for look in looks)
        with Image.open(predicted / "overlays" / f"{line['file']}.png") as picture:
            assert picture.size > (500, 500)
        page = json.loads((predicted / "pages" / f"{line['file']}.json").read_text())
        assert page["id"] == line["slide_id"] and len(page["readings"][0]["looks"]) == 3
        assert page["readings"][0]["probabilities"][-1] == [float(line["p_0"]), float(line["p_1"])]
    manifest = json.loads((predicted / "manifest.json").read_text())
    assert manifest["cases"] == {"predicted": 6, "failed": 0}
    assert [(one["spacing"], one["cases"]) for one in manifest["spacings"]] == [([0.25] * 2, 3), ([0.5] * 2, 3)]
    assert {tuple(one["glimpse_spacings"][0]) for one in manifest["spacings"]} == {(1.0, 1.0)}
    assert manifest["made"]["models"][0]["policy.safetensors"] and manifest["processes"][0]["ended"]
    assert not (predicted / "failures.csv").exists() and not list(predicted.glob(".*"))


def test_the_report_of_predictions_has_a_page_for_every_case(predicted: Path, tmp_path: Path) -> None:
    written = write_report(predicted, tmp_path / "report.html")
    assert (written.cases, written.pages) == (6, 6) and written.file.stat().st_size < 1e6


def test_gains_say_how_much_nearer_the_answer_has_come(predicted: Path, run: Path, slides: Path) -> None:
    reading = load(run).read(slides / "a" / "s0.svs")
    first, last = reading.probabilities[0, 1], reading.probabilities[-1, 1]
    looks = rows(predicted / "looks" / f"{rows(predicted / 'predictions.csv')[0]['file']}.csv")
    assert sum(float(look["gain"]) for look in looks) == pytest.approx(abs(last - first), abs=1e-5)


def test_a_case_is_answered_alone_as_among_others(predicted: Path, run: Path, slides: Path, tmp_path: Path) -> None:
    predict(run, [slides / "b" / "c" / "s3.svs", slides / "a" / "s2.svs"], tmp_path)
    alone = {line["path"]: line for line in rows(tmp_path / "predictions.csv")}
    among = {line["path"]: line for line in rows(predicted / "predictions.csv")}
    assert len(alone) == 2
    for path, line in alone.items():
        for name in ("answer", "p_0", "p_1", "glimpses", "share_read"):
            assert line[name] == among[path][name]
        one, other = (folder / "looks" / f"{row['file']}.csv" for folder, row in
                      ((tmp_path, line), (predicted, among[path])))  # fmt: skip
        assert one.read_bytes() == other.read_bytes()


# ---------------------------------------------------------------------------------------------- once more
def test_run_again_it_does_only_what_is_missing(run: Path, slides: Path, predicted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(predicted, folder)
    before, times = contents(folder), {file: os.stat(file).st_mtime_ns for file in folder.rglob("overlays/*")}
    result = predict(run, slides, folder)
    assert (result.done.read, result.done.known) == (0, 6) and "6 had been read before" in result.told
    assert contents(folder) == before
    assert {file: os.stat(file).st_mtime_ns for file in folder.rglob("overlays/*")} == times
    for lost in ("overlays", "looks", "geojson", "cases"):
        next((folder / lost).iterdir()).unlink()
        assert predict(run, slides, folder).done.read == 1
        assert contents(folder) == before
    (folder / "predictions.csv").unlink()
    assert predict(run, slides, folder).done.read == 0 and contents(folder) == before
    next((folder / "cases").iterdir()).write_text("{half")
    assert predict(run, slides, folder).done.read == 1 and contents(folder) == before


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_counts_cases_per_minute(
    run: Path, slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(work, "_LINE", 0.0)
    predict(run, slides, tmp_path / "out", progress=True)
    bar = r"predicting: 100%\|[^|]+\| 6/6 \[\d\d:\d\d, [\d.]+ cases/min\]"
    assert bool(re.search(bar, shown.getvalue())) == terminal
    lines = re.findall("(?m)^glimpse: .*", shown.getvalue())
    assert len(lines) == (0 if terminal else 6)
    assert terminal or re.fullmatch(r"glimpse: predicting: 6 of 6 cases, [\d.]+ cases/min", lines[-1])


def test_an_image_that_has_changed_is_read_again(run: Path, tmp_path: Path) -> None:
    slide, csv_file = write_slide(tmp_path / "in" / "a.svs", 0), tmp_path / "in.csv"
    predict(run, tmp_path / "in", tmp_path / "out")
    (before,) = rows(tmp_path / "out" / "predictions.csv")
    write_slide(slide, 1)
    assert predict(run, tmp_path / "in", tmp_path / "out").done.read == 1
    (after,) = rows(tmp_path / "out" / "predictions.csv")
    assert before["p_1"] != after["p_1"]
    csv_file.write_text("path,mpp\nin/a.svs,0.4\n")
    with pytest.warns(UserWarning, match="mpp counts"):
        assert predict(run, csv_file, tmp_path / "out").done.read == 1
    assert rows(tmp_path / "out" / "predictions.csv")[0]["spacing"] == "0.4 x 0.4"


def test_a_folder_of_other_predictions_is_refused(run: Path, slides: Path, predicted: Path, tmp_path: Path) -> None:
    before = contents(predicted)
    with pytest.raises(EvaluationError, match=r"max_glimpses=\[3\], not \[5\]\). Choose another output folder"):
        predict(run, slides, predicted, max_glimpses=5)
    with pytest.raises(EvaluationError, match="gzip=false, not true"):
        predict(run, slides, predicted, gzip=True)
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / "config.yaml").write_text((run / "config.yaml").read_text() + "# another\n")
    with pytest.raises(EvaluationError, match="other models"):
        predict(other, slides, predicted)
    assert contents(predicted) == before


@pytest.mark.parametrize(
    "name", ["labels/s0.nii.gz", "pages/s0.json", "predictions.csv", "failures.csv", "manifest.json"]
)
def test_files_of_others_are_neither_replaced_nor_removed(run: Path, tmp_path: Path, name: str) -> None:
    write_slide(tmp_path / "images" / "s0.svs", 0)
    (tmp_path / "images" / "s1.svs").write_bytes(b"no slide")
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"name": "mine"}')
    before = contents(tmp_path)
    with pytest.raises(
        EvaluationError, match=f"has a (file|folder) {name.split('/')[0]}.* written over. Choose another"
    ):
        predict(run, tmp_path / "images", tmp_path)
    assert contents(tmp_path, ()) == before | {name: file.read_bytes()}
    shutil.rmtree(file.parent) if file.parent != tmp_path else file.unlink()
    done = predict(run, tmp_path / "images", tmp_path).done  # the images alone are in nobody's way
    assert (done.read, done.failed) == (1, ["s1"])
    assert predict(run, tmp_path / "images", tmp_path).done.known == 1


def test_a_folder_says_whose_it_is_before_anything_else_is_written(
    run: Path, slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> str:
        raise RuntimeError

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(work, "predictions_table", killed)
        predict(run, slides, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("[!.]*") if path.is_file()] == ["manifest.json"]
    assert predict(run, slides / "a", tmp_path / "out").done.read == 3


def test_a_run_is_no_output_folder(run: Path, slides: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "predictions.csv").write_text("reader,slide_id\n")
    with pytest.raises(EvaluationError, match=r"has a file predictions\.csv"):
        predict(run, slides, tmp_path / "run")


def test_a_case_stands_there_once_although_another_is_called_alike(run: Path, tmp_path: Path) -> None:
    write_slide(tmp_path / "in" / "x.svs", 0)
    predict(run, tmp_path / "in", tmp_path / "out")
    write_slide(tmp_path / "in" / "X.svs", 1)
    predict(run, tmp_path / "in", tmp_path / "out")
    predict(run, tmp_path / "in", tmp_path / "both")
    assert [line["slide_id"] for line in rows(tmp_path / "out" / "predictions.csv")] == ["X", "x"]
    assert contents(tmp_path / "out") == contents(tmp_path / "both")


def test_what_is_wrong_with_a_model_is_said_before_any_image_is_read(run: Path, slides: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "calibration.json").write_text('{"ppo":')
    with pytest.raises(EvaluationError, match=r"calibration\.json"):
        predict(tmp_path / "run", slides, tmp_path / "out")
    with pytest.raises(SettingsError, match=r"max_glimpses .*from 0 to 100000, got 20000000"):
        predict(run, slides, tmp_path / "out", max_glimpses=20_000_000)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_may_not_be_read_is_a_case_that_fails(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_slide(tmp_path / "in" / "a.svs", 0)
    (tmp_path / "in" / "locked").mkdir()
    scandir = os.scandir

    def without_right(path: str | Path = ".") -> object:
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", without_right)
    done = predict(run, tmp_path / "in", tmp_path / "out").done
    assert (done.read, done.failed) == (1, ["locked"])
    (failure,) = rows(tmp_path / "out" / "failures.csv")
    assert "locked: cannot be opened (Permission denied)" in failure["reason"] and "chmod" in failure["reason"]
    assert "on_error" not in failure["reason"]


def test_shards_make_the_same_tables(run: Path, slides: Path, predicted: Path, tmp_path: Path) -> None:
    counts = [predict(run, slides, tmp_path / "out", shard=f"{i}/4").cases for i in (3, 1, 4, 2)]
    assert counts == [1, 2, 1, 2] and contents(tmp_path / "out") == contents(predicted)
    for wrong in ("0/4", "5/4", "1", "a/b", "1/0"):
        with pytest.raises(SettingsError, match=r"Expected shard as i/n"):
            predict(run, slides, tmp_path / "out", shard=wrong)


# ---------------------------------------------------------------------------------------------- several models
def test_several_models_answer_with_their_mean_and_spread(
    run: Path, slides: Path, predicted: Path, tiny_slides: Path, tmp_path: Path
) -> None:
    other = slide_run(tmp_path / "two", tiny_slides, seed=1)
    predict([run, other], slides / "a", tmp_path / "both", objects="detection")
    predict(other, slides / "a", tmp_path / "alone")
    first = {line["path"]: line for line in rows(predicted / "predictions.csv")}
    second = {line["path"]: line for line in rows(tmp_path / "alone" / "predictions.csv")}
    for line in rows(tmp_path / "both" / "predictions.csv"):
        pair = [float(one[line["path"]]["p_1"]) for one in (first, second)]
        assert float(line["p_1"]) == pytest.approx(np.mean(pair), abs=2e-6)
        assert float(line["sd_p_1"]) == pytest.approx(np.std(pair), abs=2e-6)
        assert line["glimpses"] == "6"
        looks = rows(tmp_path / "both" / "looks" / f"{line['file']}.csv")
        assert [look["model"] for look in looks] == ["one"] * 3 + ["two"] * 3
        features = valid(json.loads((tmp_path / "both" / "geojson" / f"{line['file']}.geojson").read_text()))
        assert len({feature["id"] for feature in features}) == 6
        assert {one["properties"]["classification"]["name"] for one in features} == {"Look one", "Look two"}
    config = OmegaConf.load(shutil.copytree(run, tmp_path / "three") / "config.yaml")
    config.env.task.classes = config.env.make.task.classes = ["no", "yes!"]
    (tmp_path / "three" / "config.yaml").write_text(OmegaConf.to_yaml(config))
    with pytest.raises(EvaluationError, match="cannot answer together"):
        predict([run, tmp_path / "three"], slides, tmp_path / "mixed")
