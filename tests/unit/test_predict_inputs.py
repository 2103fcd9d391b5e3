"""`glimpse predict`: what it is given, images that cannot be read, and several models."""

import csv
import gzip
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from glimpse.atomic import WriteError
from glimpse.cohort import CohortError
from glimpse.errors import EvaluationError, SettingsError
from glimpse.modalities import find_modality
from glimpse.predict import predict
from glimpse.predicting.cells import table_text
from glimpse.predicting.inputs import find_items
from glimpse.runs.checkpoints import CheckpointError
from tests.geojson import valid
from tests.predictions import command, contents, nested_slides, write_slide

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nested_slides(tmp_path_factory.mktemp("slides"))


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline="")))


# ---------------------------------------------------------------------------------------------- broken images
def test_a_broken_image_is_recorded_and_stops_nobody(run: Path, slides: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(slides, folder)
    whole = (folder / "a" / "s0.svs").read_bytes()
    (folder / "a" / "cut.svs").write_bytes(whole[: len(whole) // 3])
    (folder / "a" / "text.svs").write_text("not a slide")
    (folder / "a" / "empty.svs").touch()
    (folder / "a" / "small.svs").write_bytes(write_slide(tmp_path / "small.svs", side=64).read_bytes())
    (folder / "a" / "end.svs").write_bytes(whole[:-100])
    done = command(f"model={run}", f"input={folder}", f"output={out}")
    shown, said = done.communicate()
    assert done.returncode == 1, said
    assert "Predicted: 6 of 11 cases." in shown and f"Failed: 5; {out}/failures.csv says why." in shown
    failures = {line["slide_id"]: line for line in rows(out / "failures.csv")}
    assert sorted(failures) == ["a/cut", "a/empty", "a/end", "a/small", "a/text"]
    assert all(f"glimpse: failed: {name}: " in said for name in failures) and "Traceback" not in said
    assert "truncated" in failures["a/end"]["reason"] and "larger than the image" in failures["a/small"]["reason"]
    assert failures["a/text"]["error"] == "UnsupportedImageError"
    assert not any("on_error" in line["reason"] for line in failures.values()), "a remedy that predict does not have"
    for name in failures:
        assert str(folder / name) in failures[name]["reason"] or name == "a/small"
    for name, there in (("a/small", True), ("a/text", False)):
        assert (out / (failures[name]["thumbnail"] or "none")).is_file() == there
    assert len(rows(out / "predictions.csv")) == 6
    shutil.copy(folder / "a" / "s0.svs", folder / "a" / "text.svs")
    again = predict(run, folder, out)
    assert again.done.read == 1 and sorted(again.done.failed) == ["a/cut", "a/empty", "a/end", "a/small"]
    assert len(rows(out / "failures.csv")) == 4 and len(rows(out / "predictions.csv")) == 7
    for name in failures:
        (folder / f"{name}.svs").write_bytes(whole)
    assert predict(run, folder, out).done.failed == [] and not (out / "failures.csv").exists()
    assert list((out / "failures").iterdir()) == []


def test_an_image_that_breaks_loses_its_old_answer(run: Path, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "in" / "a.svs")
    predict(run, tmp_path / "in", tmp_path / "out")
    slide.write_text("broken")
    assert predict(run, tmp_path / "in", tmp_path / "out").done.failed == ["a"]
    assert rows(tmp_path / "out" / "predictions.csv") == []
    assert not list((tmp_path / "out" / "overlays").iterdir())


def test_an_error_of_any_kind_is_recorded(run: Path, slides: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from glimpse.predicting.agent import Agent

    read = Agent.read

    def failing(self: Agent, image: Any, *rest: Any, **more: Any) -> Any:
        if Path(image).name == "s2.svs":
            raise RuntimeError("out of\nmemory")
        return read(self, image, *rest, **more)

    monkeypatch.setattr(Agent, "read", failing)
    result = predict(run, slides / "a", tmp_path)
    assert result.done.failed == ["s2"] and result.done.read == 2
    assert rows(tmp_path / "failures.csv")[0]["reason"] == "RuntimeError: out of memory"


def test_a_full_disk_ends_the_command(run: Path, slides: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from glimpse.predicting import outputs

    def full(path: Path, content: bytes) -> None:
        raise WriteError(f"{path}: cannot be written")

    monkeypatch.setattr(outputs, "write_bytes_atomically", full)
    with pytest.raises(WriteError):
        predict(run, slides / "a", tmp_path)
    assert rows(tmp_path / "predictions.csv") == [] and not (tmp_path / "failures.csv").exists()
    assert not (tmp_path / ".claims").exists()


# ---------------------------------------------------------------------------------------------- what is given
def test_a_csv_names_cases_and_pixel_sizes(run: Path, slides: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    lines = ["path;slide_id;mpp;target", f"{slides}/a/s0.svs;=cmd|' /C calc'!A0;;x", f"{slides}/a/s2.svs;@b;0,5;y"]
    table.write_text("\n".join(lines))
    predict(run, table, tmp_path / "out")
    found = rows(tmp_path / "out" / "predictions.csv")
    assert [line["slide_id"] for line in found] == ["'=cmd|' /C calc'!A0", "'@b"]
    assert all((tmp_path / "out" / "looks" / f"{line['file']}.csv").is_file() for line in found)


def test_ids_never_lead_out_of_the_output_folder(run: Path, slides: Path, tmp_path: Path) -> None:
    ids = ["../../up", "/etc/passwd", "..", ".", "a/b", "a\\b", "C:\\x", "~", "x" * 300, "con", "A/B", "ä\u0308", "-rf"]
    table, out = tmp_path / "in" / "list.csv", tmp_path / "in" / "deep" / "out"
    table.parent.mkdir()
    table.write_text("path,slide_id\n" + "".join(f'{slides}/a/s0.svs,"{name}"\n' for name in ids))
    before = {file for file in tmp_path.rglob("*") if not file.is_relative_to(out)}
    result = predict(run, table, out)
    assert result.done.read == len(ids) == len(rows(out / "predictions.csv"))
    assert {file for file in tmp_path.rglob("*") if not file.is_relative_to(out)} - before <= {out.parent}
    for room in ("looks", "overlays", "geojson", "cases"):
        assert len(list((out / room).iterdir())) == len(ids)


def test_mistakes_in_a_csv_are_listed_at_once(run: Path, slides: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text(f"path,slide_id,mpp\n{slides}/a/s0.svs,a,0\n,b,\n{slides}/a/s2.svs,a,\n")
    with pytest.raises(CohortError, match=r"3 problems") as caught:
        predict(run, table, tmp_path / "out")
    for part in ("line 2: mpp '0' must be", "line 3: path is empty", "slide_id 'a' occurs 2 times"):
        assert part in str(caught.value)
    table.write_text("file,slide_id\nx,a\n")
    with pytest.raises(CohortError, match="column 'path' is missing; is 'file' meant"):
        predict(run, table, tmp_path / "out")
    table.write_text("path\nmissing.svs\n")
    assert predict(run, table, tmp_path / "out").done.failed == ["missing"]
    assert f"{tmp_path}/missing.svs: no such file" in rows(tmp_path / "out" / "failures.csv")[0]["reason"]
    for text, message in (("", "the file is empty"), ("path\n", "no lines below the header")):
        table.write_text(text)
        with pytest.raises(CohortError, match=message):
            predict(run, table, tmp_path / "out")


def test_images_of_one_name_keep_apart(run: Path, tmp_path: Path) -> None:
    one, two = write_slide(tmp_path / "1" / "s.svs", 0), write_slide(tmp_path / "2" / "s.svs", 1)
    shutil.copy(one, tmp_path / "1" / "s.tiff")
    predict(run, [one, one, two], tmp_path / "out")
    assert [line["slide_id"] for line in rows(tmp_path / "out" / "predictions.csv")] == [str(one), str(two)]
    predict(run, tmp_path / "1", tmp_path / "out2")
    assert [line["slide_id"] for line in rows(tmp_path / "out2" / "predictions.csv")] == ["s.svs", "s.tiff"]


def test_a_stray_slice_hides_no_volumes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii", "notes.txt"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    for name in ("in/stray.dcm", "in/series/1", "in/series/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    items = find_items([tmp_path / "in"], find_modality("mri"))
    assert [(item.id, item.path) for item in items] == [
        ("a", tmp_path / "in" / "a.nii.gz"),
        ("b", tmp_path / "in" / "b.nii"),
        ("in", tmp_path / "in"),
        ("series", tmp_path / "in" / "series"),
    ]


def test_pictures_of_earlier_predictions_and_runs_are_no_images(tmp_path: Path) -> None:
    for name in (
        *("a.png", "manifest.json", "out/manifest.json", "out/predictions.csv", "out/overlays/a.png"),
        *("run/config.yaml", "run/policy.safetensors", "run/pictures/a.png", "more/config.yaml", "more/b.png"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [item.id for item in find_items([tmp_path], find_modality("photo"))] == ["a", "more/b"]
    assert [item.id for item in find_items([tmp_path / "out"], find_modality("photo"))] == ["overlays/a"]


def test_two_images_with_one_name_are_refused(run: Path, slides: Path, tmp_path: Path) -> None:
    for name, slide in (("one.csv", "a/s0.svs"), ("two.csv", "a/s2.svs"), ("same.csv", "a/s0.svs")):
        (tmp_path / name).write_text(f"path,slide_id\n{slides / slide},case-1\n")
    said = rf"Two images are called 'case-1': {slides}/a/s0\.svs and {slides}/a/s2\.svs\. Correct the column slide_id"
    with pytest.raises(EvaluationError, match=said):
        predict(run, [tmp_path / "one.csv", tmp_path / "two.csv"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert predict(run, [tmp_path / "one.csv", tmp_path / "same.csv"], tmp_path / "out", max_glimpses=0).cases == 1


def test_images_of_another_input_take_nobody_s_place(run: Path, slides: Path, tmp_path: Path) -> None:
    first, second, out = tmp_path / "first" / "s.svs", tmp_path / "second" / "s.svs", tmp_path / "out"
    for path, slide in ((first, "s0.svs"), (second, "s2.svs")):
        path.parent.mkdir()
        shutil.copy(slides / "a" / slide, path)
    predict(run, first, out, max_glimpses=1)
    before = contents(out)
    with pytest.raises(
        EvaluationError, match=rf"other images under the same names \('s' is {first} there, and {second}"
    ):
        predict(run, second, out, max_glimpses=1)
    assert contents(out) == before
    other = predict(run, slides / "a" / "s4.svs", out, max_glimpses=1)
    assert other.done.others == 1 and "also hold 1 case of other inputs" in other.told
    first.rename(tmp_path / "first" / "t.svs")  # it is not there any more, so the name may be another's
    assert predict(run, second, out, max_glimpses=1).done.read == 1


def test_names_reach_the_terminal_without_control_characters(run: Path, tmp_path: Path, capfd: Any) -> None:
    name = "a\x1b[2J\rb"
    (tmp_path / f"{name}.svs").write_text("nothing")
    done = predict(run, tmp_path / f"{name}.svs", tmp_path / "out")
    assert done.done.failed == [name] and "glimpse: failed: a\\x1b[2J\\rb: " in capfd.readouterr().err
    process = command(f"model={run}", f"input='{tmp_path}/x{name}'", f"output={tmp_path}/out")
    said = process.communicate()[1]
    assert process.returncode == 2 and "xa\\x1b[2J" in said and "\x1b" not in said and "\r" not in said


def test_links_and_the_output_folder_are_no_trap(run: Path, slides: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "linked").symlink_to(slides / "a")
    (folder / "round").symlink_to(folder)
    assert predict(run, folder, folder / "out").cases == 3
    assert predict(run, folder, folder / "out").cases == 3


def test_what_cannot_be_read_is_told_before_any_work(run: Path, slides: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.docx").write_text("x")
    with pytest.raises(EvaluationError, match=r"no images in this folder .* Other files: 1 of \.docx"):
        predict(run, tmp_path / "none", tmp_path / "out")
    with pytest.raises(EvaluationError, match=r"nowhere: cannot be read \(No such file"):
        predict(run, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(CheckpointError, match="not a run folder"):
        predict(tmp_path, slides, tmp_path / "out")
    with pytest.raises(SettingsError, match="Expected objects as one of annotation, detection"):
        predict(run, slides, tmp_path / "out", objects="box")
    with pytest.raises(SettingsError, match="max_glimpses"):
        predict(run, slides, tmp_path / "out", max_glimpses=-1)
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file: cannot be written"):
        predict(run, slides, tmp_path / "file")
    assert not (tmp_path / "out").exists()


def test_runs_on_drawn_images_read_no_files(run: Path, slides: Path, tmp_path: Path) -> None:
    config = OmegaConf.load(shutil.copytree(run, tmp_path / "drawn") / "config.yaml")
    config.env.cohort.modality = "megapixel_mnist"
    (tmp_path / "drawn" / "config.yaml").write_text(OmegaConf.to_yaml(config))
    with pytest.raises(EvaluationError, match=r"reads no files: .*\(env=megapixel_mnist\)"):
        predict(tmp_path / "drawn", slides, tmp_path / "out")


def test_the_command_asks_for_what_is_missing(run: Path, slides: Path, tmp_path: Path) -> None:
    done = command(f"model={run}", f"output={tmp_path}")
    assert done.returncode == 2 and "glimpse: Which input?" in done.communicate()[1]
    done = command(f"model={run}", f"input=[{slides}/a/s0.svs,{slides}/a/s2.svs]", f"output={tmp_path}", "gzip=true")
    assert done.returncode == 0, done.communicate()[1]
    packed = (tmp_path / "geojson" / "s0.geojson.gz").read_bytes()
    assert valid(json.loads(gzip.decompress(packed)))


def test_the_file_of_settings_lists_all_arguments_with_their_defaults() -> None:
    listed = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "predict.yaml"))
    assert isinstance(listed, dict)
    listed = {name: value for name, value in listed.items() if name not in ("defaults", "hydra")}
    arguments = inspect.signature(predict).parameters
    assert list(listed) == list(arguments)
    given = {name: None if one.default is one.empty else one.default for name, one in arguments.items()}
    assert listed == given | {"progress": True}


# ---------------------------------------------------------------------------------------------- cells
def test_cells_that_spreadsheets_would_compute_are_made_texts() -> None:
    text = table_text(
        ["=a", "b"], [["=1+1", -0.5], ["+x", 1], ["-x", None], ["@x", True], [" =x", "\tx"], ["a=b", "n"]]
    )
    first = ["'=a", "'=1+1", "'+x", "'-x", "'@x", "' =x", "a=b"]
    assert [line[0] for line in csv.reader(text.splitlines())] == first
    assert [line[1] for line in csv.reader(text.splitlines())][1:3] == ["-0.500000", "1"]


@pytest.mark.parametrize("name", ["cases.xlsx", "cases.XLS", "cases.ods"])
def test_workbooks_are_to_be_saved_as_csv(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(EvaluationError, match=r"this is a workbook, .* Save it as CSV"):
        find_items([tmp_path / name], find_modality("wsi"))
