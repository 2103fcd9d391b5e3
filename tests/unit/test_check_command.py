"""`glimpse check`: every kind of finding, by a small file that is made here, and what is written about it."""

import csv
import inspect
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from omegaconf import OmegaConf
from PIL import Image

from glimpse.check import Checked, check
from glimpse.cohort import CohortError
from glimpse.errors import EvaluationError, SettingsError
from glimpse.inspecting.findings import RULES, Finding, printable
from glimpse.inspecting.inputs import Candidate
from glimpse.inspecting.looking import Seen, look
from glimpse.inspecting.outputs import duration, size, table
from glimpse.inspecting.tiles import damaged_tiles
from glimpse.inspecting.workers import fair_memory, looked_at
from tests.predictions import write_slide
from tests.radiograph_files import dataset, save, values
from tests.volume_files import write

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("env.make.overview_size=64", "env.make.glimpse_size=32", "env.make.glimpse_extents=[64um]")
FAST: dict[str, Any] = {"settings": SIZES, "workers": 1, "estimate": False, "places": 4}


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline="")))


def rules(checked: Checked, notes: bool = True) -> dict[str, list[str]]:
    """The rules that each case breaks, by its id."""
    return {case.id: [one.rule for one in findings if notes or not one.note] for case, _, findings in checked.cases}


def broken_tiles(path: Path) -> Path:
    """Overwrites the content of some tiles of the finest level; the file opens, and its size is right."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        places = [(page.dataoffsets[i], page.databytecounts[i]) for i in range(20, 28)]
    with open(path, "r+b") as file:
        for start, count in places:
            file.seek(start)
            file.write(b"\xab" * count)
    return path


def without_mpp(path: Path, seed: int, power: bool = False) -> Path:
    """A tiled image whose header states no size of a pixel; with `power`, an Aperio one with its objective's."""
    pixels = np.full((512, 512, 3), 240, np.uint8)
    pixels[128:384, 128:384] = np.random.default_rng(seed).integers(60, 200, (256, 256, 3)) // np.array([1, 2, 1])
    text = "Aperio Image Library v12.0.15 \r\n512x512 (64x64) JPEG/RGB Q=75" + ("|AppMag = 20" if power else "")
    tiled: dict[str, Any] = {"tile": (64, 64), "compression": "zlib", "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, description=text, software=False, **tiled)
    return path


def listed(path: Path, *lines: str, header: str = "case_id,slide_id,path,target,split") -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


# ---------------------------------------------------------------------------------------------- sixty slides
@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV of 60 slides at two magnifications, five of which are broken in different ways."""
    folder = tmp_path_factory.mktemp("sixty")
    lines = []
    for i in range(60):
        path = write_slide(folder / "slides" / f"s{i:02}.svs", i, side=(512, 1024)[i % 2], mpp=(0.5, 0.25)[i % 2])
        lines.append(f"patient-{i},case-{i:02},slides/{path.name},{i % 2},{('train', 'val', 'test')[i % 3]}")
    slides = folder / "slides"
    content = (slides / "s03.svs").read_bytes()
    (slides / "s03.svs").write_bytes(content[: len(content) * 2 // 3])
    (slides / "s14.svs").write_bytes(b"")
    (slides / "s25.svs").write_text("this is no slide, but a text\n" * 50)
    broken_tiles(slides / "s36.svs")
    without_mpp(slides / "s47.svs", 47)
    return listed(folder / "cohort.csv", *lines)


@pytest.fixture(scope="module")
def checked_sixty(sixty: Path) -> Checked:
    return check(sixty, sixty.parent / "out", **{**FAST, "workers": 2, "estimate": True})


def test_of_sixty_slides_the_five_broken_ones_are_named_and_why(checked_sixty: Checked) -> None:
    wrong = {name: found for name, found in rules(checked_sixty).items() if found}
    assert wrong == {
        "case-03": ["unreadable"],
        "case-14": ["unreadable"],
        "case-25": ["unreadable"],
        "case-36": ["tiles"],
        "case-47": ["spacing"],
    }
    said = {case.id: findings[0].what for case, _, findings in checked_sixty.cases if findings}
    assert "truncated" in said["case-03"] and "empty (0 bytes)" in said["case-14"]
    assert "not a slide" in said["case-25"] and "tiles" in said["case-36"]
    assert "does not state the size of a pixel" in said["case-47"] and "64um" in said["case-47"]
    assert checked_sixty.wrong == 5 and "5 findings; 5 of 60 cases are affected" in checked_sixty.told


def test_each_finding_names_the_file_the_rule_and_the_remedy(checked_sixty: Checked, sixty: Path) -> None:
    lines = rows(checked_sixty.folder / "findings.csv")
    assert [line["slide_id"] for line in lines] == ["case-03", "case-14", "case-25", "case-36", "case-47"]
    for line in lines:
        assert Path(line["path"]).is_file() and line["rule"] in RULES and line["what"] and line["remedy"]
        assert line["csv"] == str(sixty) and int(line["line"]) > 1 and line["kind"] == "wrong"
    pictures = {line["slide_id"]: line["thumbnail"] for line in lines}
    assert pictures["case-14"] == "" and pictures["case-36"] == "thumbnails/case-36.png"
    for line in rows(checked_sixty.folder / "cases.csv"):
        if line["state"] == "fine":
            side, spacing = (("512 x 512", "0.5 x 0.5"), ("1024 x 1024", "0.25 x 0.25"))[int(line["slide_id"][-2:]) % 2]
            assert (line["shape"], line["spacing"], line["unit"]) == (side, spacing, "um")
            assert 0.1 < float(line["foreground"]) < 0.5 and float(line["ms_per_glimpse"]) > 0
            with Image.open(checked_sixty.folder / line["thumbnail"]) as picture:
                assert picture.size == (192, 192)
    assert not list(checked_sixty.folder.rglob("*.unfinished"))


def test_the_estimate_follows_the_recipe(checked_sixty: Checked) -> None:
    (one,) = checked_sixty.estimates
    parts = {part.name: part for part in one.parts}
    assert one.env == "wsi" and one.cases == 57
    train = sum(case.split == "train" for case, seen, _ in checked_sixty.cases if seen.opened)
    test = sum(case.split == "test" for case, seen, _ in checked_sixty.cases if seen.opened)
    # configs/recipe/wsi.yaml: at least 96 glimpses per case, read anew where the locator looks
    assert parts["warm-up"].glimpses == 2 * 96 * train
    validated = 8 * sum(case.split == "val" for case, seen, _ in checked_sixty.cases if seen.opened)
    extra = 0  # the recipe has none
    assert parts["joint stage"].glimpses == 80 * 16 * 4 * 8 + extra + validated * 8
    assert parts["report"].glimpses == 3 * 8 * test  # the agent, random places and a grid
    # tissue of 128 micrometres a side, glimpses of 64
    assert parts["full scan (report.readers)"].glimpses == pytest.approx(57 * 4, rel=0.1)
    assert one.encode_seconds is not None and one.total > sum(one.seconds(part)[0] for part in one.parts) > 0
    assert 0 < one.features < 4 * 2**30 and one.free > 0 and one.unpacked == 0
    record = json.loads((checked_sixty.folder / "estimate.json").read_text())
    assert record[0]["seconds"] == pytest.approx(one.total, abs=0.01)
    assert "Estimate: a training with env=wsi on 57 cases" in checked_sixty.told


def test_a_second_check_finds_the_same(checked_sixty: Checked, sixty: Path, tmp_path: Path) -> None:
    again = check(sixty.parent / "slides", tmp_path / "out", **FAST)
    assert sum(bool(found) for found in rules(again).values()) == 5 and again.guessed == ("wsi",)
    assert {case.id for case, _, _ in again.cases} == {f"s{i:02}" for i in range(60)}


# ---------------------------------------------------------------------------------------------- one image each
def found_in(path: Path, env: str = "wsi", folder: Path | None = None, **options: Any) -> list[Finding]:
    output = (folder or path.parent) / f"out-{path.name}"
    ((_, _, findings),) = check(path, output, env=env, **{**FAST, **options}).cases
    return list(findings)


def test_a_slide_without_tissue_has_nothing_to_look_at(tmp_path: Path) -> None:
    path = tmp_path / "glass.svs"
    text = "Aperio Image Library v12.0.15 \r\n512x512 (64x64) JPEG/RGB Q=75|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as tiff:
        options: dict[str, Any] = {"tile": (64, 64), "compression": "zlib", "photometric": "rgb", "metadata": None}
        tiff.write(np.full((512, 512, 3), 245, np.uint8), description=text, software=False, **options)
    assert [one.rule for one in found_in(path)] == ["foreground"]


@pytest.mark.parametrize(("mpp", "power", "said"), [(0.5, 80, "power is 80"), (0.25, 20, "power is 20")])
def test_a_pixel_size_that_contradicts_the_objective(tmp_path: Path, mpp: float, power: int, said: str) -> None:
    path = write_slide(tmp_path / "s.svs", mpp=mpp)
    content = path.read_bytes().replace(b"AppMag = %d|" % round(10 / mpp), b"AppMag = %d|" % power)
    path.write_bytes(content)
    (one,) = found_in(path)
    assert one.rule == "spacing" and said in one.what and "mpp" in one.remedy


def test_a_pixel_size_that_is_guessed_is_a_finding(tmp_path: Path) -> None:
    (one,) = found_in(without_mpp(tmp_path / "s.svs", 0, power=True))
    assert one.rule == "spacing" and "no pixel size" in one.what and "objective power" in one.what


def test_a_column_mpp_that_contradicts_the_file(tmp_path: Path) -> None:
    write_slide(tmp_path / "s.svs")
    table_file = listed(tmp_path / "c.csv", "s.svs,0.25", header="path,mpp")
    (one,) = check(table_file, tmp_path / "out", **FAST).cases[0][2]
    assert one.rule == "spacing" and "0.25 um according to mpp" in one.what


def test_a_slide_without_pixel_size_is_read_with_that_of_the_csv(tmp_path: Path) -> None:
    without_mpp(tmp_path / "s.svs", 0)
    table_file = listed(tmp_path / "c.csv", "s.svs,0.5", header="path,mpp")
    assert check(table_file, tmp_path / "out", **FAST).wrong == 0


def test_a_glimpse_that_is_larger_than_the_image(tmp_path: Path) -> None:
    (one,) = found_in(write_slide(tmp_path / "s.svs"), settings=(*SIZES, "env.make.glimpse_extents=[900um]"))
    assert one.rule == "size" and "larger than the image" in one.what and "glimpse_extents" in one.remedy


def test_places_that_cannot_be_reached(tmp_path: Path) -> None:
    sizes = ("env.make.overview_size=32", "env.make.glimpse_size=32", "env.make.glimpse_extents=[64um]")
    (one,) = found_in(write_slide(tmp_path / "s.svs", side=2048), settings=sizes)
    assert one.rule == "size" and "cannot be reached" in one.what and "larger overview_size" in one.remedy


def test_overwritten_tiles_are_found_without_decoding(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.svs")
    assert damaged_tiles(path) == ""
    assert "8 of 64 tiles" in damaged_tiles(broken_tiles(path)) and "x 256, y 128" in damaged_tiles(path)
    assert damaged_tiles(ROOT / "README.md") == ""


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.svs")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    (one,) = found_in(path)
    assert one.rule == "unreadable" and "chmod" in one.remedy


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    write_slide(folder / "a.svs")
    os.mkfifo(folder / "b.svs")
    os.mkfifo(folder / "c")
    began = time.monotonic()
    checked = check(folder, tmp_path / "out", **FAST)
    assert rules(checked) == {"a": [], "b": ["unreadable"]}
    assert time.monotonic() - began < 60


def test_an_image_of_another_kind(tmp_path: Path) -> None:
    path = write(tmp_path / "volume.nii", np.zeros((20, 20, 20), np.int16))
    (one,) = found_in(path)
    assert one.rule == "unreadable" and "env=mri" in one.what + one.remedy


# ---------------------------------------------------------------------------------------------- other modalities
def test_volumes_radiographs_and_slides_in_one_folder(tmp_path: Path, small_brain: Path) -> None:
    folder = tmp_path / "mixed"
    write_slide(folder / "slide.svs")
    shutil.copy(small_brain, folder / "brain.nii.gz")
    save(dataset(values(300, 280), PixelSpacing=[0.2, 0.2]), folder / "chest.dcm")
    (folder / "notes.txt").write_text("nothing")
    uid = pydicom.uid.generate_uid(entropy_srcs=["check"])
    (folder / "scan").mkdir()
    for index in range(24):
        data = dataset(values(40, 40, 900, index), SOPClassUID=pydicom.uid.CTImageStorage, SeriesInstanceUID=uid)
        data.PixelSpacing, data.ImagePositionPatient = [1, 1], [0, 0, 2 * index]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        save(data, folder / "scan" / f"{index:02}.dcm")
    checked = check(folder, tmp_path / "out", workers=1)
    envs = {case.id: case.env for case, _, _ in checked.cases}
    assert envs == {"slide": "wsi", "brain": "mri", "chest": "xray", "scan": "mri"}
    assert checked.wrong == 0, checked.told
    assert checked.guessed == ("mri", "wsi", "xray")
    assert {one.env for one in checked.estimates} == {"mri", "wsi", "xray"}
    unpacked = {one.env: one.unpacked for one in checked.estimates}
    assert unpacked["mri"] == 352 + 80 * 96 * 80 and unpacked["wsi"] == 0
    for name in envs:
        with Image.open(checked.folder / "thumbnails" / f"{name}.png") as picture:
            assert max(picture.size) >= 192


def test_a_radiograph_without_pixel_size_is_only_a_note(tmp_path: Path) -> None:
    path = tmp_path / "chest.png"
    Image.fromarray((values(300, 280) >> 4).astype(np.uint8)).save(path)
    checked = check(path, tmp_path / "out", env="xray", workers=1, estimate=False)
    (one,) = checked.cases[0][2]
    assert (one.rule, one.note, checked.wrong) == ("spacing", True, 0)
    assert "(note)" in checked.told and rows(tmp_path / "out" / "cases.csv")[0]["state"] == "note"


def test_a_volume_whose_header_contradicts_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "v.nii", np.random.default_rng(0).integers(0, 99, (40, 40, 40)).astype(np.int16))
    image = nibabel.load(path)
    image.header["pixdim"][1:4] = 3.0
    content = bytearray(path.read_bytes())
    content[:348] = image.header.binaryblock
    path.write_bytes(content)
    (one,) = found_in(path, "mri", settings=())
    assert one.rule == "spacing" and "3 x 3 x 3 according to pixdim, but 1 x 1 x 1" in one.what


def test_a_packed_volume_that_is_cut_short(tmp_path: Path, small_brain: Path) -> None:
    path = tmp_path / "brain.nii.gz"
    path.write_bytes(small_brain.read_bytes()[:-2000])
    (one,) = found_in(path, "mri", settings=())
    assert one.rule == "unreadable" and "cannot be unpacked" in one.what


def test_a_header_of_absurd_size_takes_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "v.nii", np.zeros((20, 20, 20), np.int16))
    content = bytearray(path.read_bytes())
    content[40:56] = np.array([3, 32767, 32767, 32767, 1, 1, 1, 1], "<i2").tobytes()
    path.write_bytes(content)
    (one,) = found_in(path, "mri", settings=())
    assert one.rule == "unreadable" and "truncated" in one.what


def test_a_slide_that_says_it_is_absurdly_large(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.svs")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[name].overwrite(2_000_000_000)
    began = time.monotonic()
    findings = found_in(path, gigabytes=2.0, timeout=60)
    assert findings and {one.rule for one in findings} <= {"unreadable", "tiles", "memory", "killed"}
    assert time.monotonic() - began < 60


# ---------------------------------------------------------------------------------------------- cohorts
@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    for i in range(3):
        write_slide(folder / f"s{i}.svs", i)
    return folder


def test_targets_that_are_missing_or_of_no_class(three: Path, tmp_path: Path) -> None:
    lines = ["p0,a,s0.svs,,train", "p1,b,s1.svs,benign,val", "p2,c,s2.svs,malignant,test"]
    path = listed(three / "targets.csv", *lines)
    checked = check(path, tmp_path / "out", **FAST)
    assert rules(checked) == {"a": ["target"], "b": ["target"], "c": ["target"]}
    said = {case.id: findings[0] for case, _, findings in checked.cases}
    assert "empty" in said["a"].what and "'benign'" in said["b"].what
    assert "env.task.classes=[benign,malignant]" in said["b"].remedy
    named = (*SIZES, "env.task.classes=[benign,malignant]")
    assert rules(check(path, tmp_path / "out", **{**FAST, "settings": named})) == {"a": ["target"], "b": [], "c": []}


def test_a_copy_in_another_split_is_a_leak_and_in_the_same_one_a_copy(three: Path, tmp_path: Path) -> None:
    shutil.copy(three / "s0.svs", tmp_path / "copy.svs")
    lines = [f"p0,a,{three}/s0.svs,0,train", f"p1,b,{tmp_path}/copy.svs,1,test", f"p2,c,{three}/s1.svs,1,train"]
    checked = check(listed(tmp_path / "c.csv", *lines), tmp_path / "out", **FAST)
    assert rules(checked) == {"a": ["leak"], "b": ["leak"], "c": []}
    said = checked.cases[0][2][0].what
    assert "the same file as 'b' (line 3, test)" in said and "targets differ: 0, 1" in said
    lines[1] = f"p0,b,{tmp_path}/copy.svs,0,train"
    checked = check(listed(tmp_path / "c.csv", *lines), tmp_path / "out", **FAST)
    assert rules(checked) == {"a": ["copy"], "b": ["copy"], "c": []}


def test_the_same_pixels_in_another_file_are_found(three: Path, tmp_path: Path) -> None:
    content = (three / "s0.svs").read_bytes()
    (tmp_path / "again.svs").write_bytes(content + b"\0" * 7)
    lines = [f"p0,a,{three}/s0.svs,0,train", f"p1,b,{tmp_path}/again.svs,0,test", f"p2,c,{three}/s1.svs,1,val"]
    checked = check(listed(tmp_path / "c.csv", *lines), tmp_path / "out", **FAST)
    assert rules(checked) == {"a": ["leak"], "b": ["leak"], "c": []}
    assert "it shows the same pixels as 'b'" in checked.cases[0][2][0].what


def test_files_that_cannot_be_read_are_no_copies_of_each_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.svs").write_bytes(b"")
    checked = check(tmp_path, tmp_path.parent / "out-empty", **FAST)
    assert rules(checked) == {"a": ["unreadable"], "b": ["unreadable"]}
    assert checked.told.count("empty (0 bytes)") == 1, "findings with the same words are one line"


def test_a_patient_in_two_splits_and_mistakes_of_lines(three: Path, tmp_path: Path) -> None:
    lines = ["p0,a,s0.svs,0,train", "p0,b,s1.svs,1,test", "p2,b,gone.svs,1,exam", "p3,,,0,val"]
    checked = check(listed(three / "mistakes.csv", *lines), tmp_path / "out", **FAST)
    whole = {finding.what: finding.rule for _, finding in checked.tables}
    assert any(rule == "leak" and "patient (case_id) 'p0'" in what for what, rule in whole.items())
    assert any(rule == "table" and "'b' occurs 2 times" in what for what, rule in whole.items())
    found = [[one.rule for one in findings] for _, _, findings in checked.cases]
    assert found == [[], [], ["table", "unreadable"], ["table", "table"]]
    assert "mistakes.csv" in checked.told and "split 'exam' is none of" in checked.told


def test_a_list_of_images_to_predict_needs_no_targets(three: Path, tmp_path: Path) -> None:
    path = listed(three / "list.csv", "s0.svs", "s1.svs", header="path")
    assert check(path, tmp_path / "out", **FAST).wrong == 0
    path = listed(three / "list.csv", "p,s0.svs", header="case_id,path")
    said = check(path, tmp_path / "out", **FAST).told
    assert "column 'target' is missing" in said


def test_a_mask_that_does_not_fit(three: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 90), 255, np.uint8)).save(three / "mask.png")
    header = "case_id,slide_id,path,target,mask"
    path = listed(three / "masks.csv", "p0,a,s0.svs,0,mask.png", "p1,b,s1.svs,1,gone.png", header=header)
    checked = check(path, tmp_path / "out", **FAST)
    assert rules(checked) == {"a": ["mask"], "b": ["mask"]}
    assert "mask.png" in checked.cases[0][2][0].what and "no such file" in checked.cases[1][2][0].what


def test_pixels_of_another_order_are_probably_of_another_unit(tmp_path: Path) -> None:
    for i in range(6):
        write_slide(tmp_path / "slides" / f"s{i}.svs", i, mpp=0.5)
    shutil.copy(write_slide(tmp_path / "other.svs", 9, mpp=0.5), tmp_path / "slides" / "t.svs")
    path = tmp_path / "slides" / "t.svs"
    path.write_bytes(path.read_bytes().replace(b"AppMag = 20|MPP = 0.5", b"AppMag =  0|MPP = 9.5"))
    checked = check(tmp_path / "slides", tmp_path / "out", **FAST)
    found = {name: one for name, one in rules(checked).items() if one}
    assert set(found) == {"t"} and "0.5 um in most of these images" in checked.told


# ---------------------------------------------------------------------------------------------- crafted cells
def test_crafted_ids_and_cells_stay_inside_the_output_folder(three: Path, tmp_path: Path) -> None:
    ids = ["../../escape", "=cmd|' /C calc'!A0", "/etc/passwd", "a\x1b[31mred", "x" * 300]
    lines = [f'p{i},"{name}",{three}/s{i % 3}.svs,0,train' for i, name in enumerate(ids)]
    work = tmp_path / "deep" / "er"
    work.mkdir(parents=True)
    before = {path for path in tmp_path.rglob("*")}
    checked = check(listed(work / "c.csv", *lines), work / "out", **FAST)
    made = {path for path in tmp_path.rglob("*")} - before - {work / "c.csv"}
    assert made and all(path.is_relative_to(work / "out") for path in made)
    assert len(list((work / "out" / "thumbnails").iterdir())) == len(ids)
    cells = [cell for line in rows(work / "out" / "cases.csv") for cell in line.values()]
    assert "'=cmd|' /C calc'!A0" in cells and not any(cell.startswith(("=", "@", "+")) for cell in cells)
    assert "\x1b" not in checked.told and "\\x1b[31mred" in checked.told


def test_a_name_that_is_no_text_is_written_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    os.rename(write_slide(tmp_path / "s.svs"), os.fsencode(tmp_path / "slides") + b"/s\xff.svs")
    checked = check(tmp_path / "slides", tmp_path / "out", **FAST)
    assert checked.wrong == 0 and rows(tmp_path / "out" / "cases.csv")[0]["slide_id"] == "s\\udcff"
    checked.told.encode("utf-8")


def test_what_is_printed_has_no_control_characters() -> None:
    assert printable("a\tb\x1b[2Jc\nd é") == "a\\tb\\x1b[2Jc\\nd é"


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
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    line = [sys.executable, "-m", "glimpse", "check", *map(str, arguments)]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


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
    assert [size(value) for value in (12, 3400, 5.6e9)] == ["12 bytes", "3.4 kB", "5.6 GB"]
