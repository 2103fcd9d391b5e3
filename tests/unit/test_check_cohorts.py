"""`glimpse check` of cohorts: targets, copies, splits, masks, and cells that somebody has crafted."""

import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from glimpse.check import check
from glimpse.cohort import CohortError, remembered
from glimpse.cohort.preflight import check_sizes, with_known_sizes, with_unknown_sizes
from glimpse.inspecting.fitting import network_for
from glimpse.settings.building import build
from glimpse.settings.composing import composed
from glimpse.settings.terminal import printable
from glimpse.sources.slide import source as slide_source
from glimpse.train import train
from tests.checks import FAST, SIZES, broken_tiles, listed, rows, rules, three_slides, without_mpp
from tests.predictions import write_slide


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_slides(tmp_path_factory.mktemp("three"))


# ---------------------------------------------------------------------------------------------- cohorts
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
    assert "columns 'case', 'target' are missing" in " ".join(said.split())


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
    assert set(found) == {"t"} and "0.5 um in most of these images" in " ".join(checked.told.split())


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


@pytest.mark.parametrize(("tolerant", "changed"), [(False, False), (True, False), (False, True)])
def test_a_training_does_not_open_again_what_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tolerant: bool, changed: bool
) -> None:
    """Unless it could not be read as a whole, or was written after the check began."""
    monkeypatch.setattr(remembered, "LEAST", 3)
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "lists").mkdir()
    for i in range(4):
        write_slide(tmp_path / f"s{i}.svs", i)
    broken_tiles(tmp_path / "s3.svs")
    lines = [f"p{i},s{i},../s{i}.svs,{i % 2},train" for i in range(4 if tolerant else 3)]
    path = listed(tmp_path / "lists" / "cohort.csv", *lines)
    if changed:
        os.utime(tmp_path / "s1.svs", (time.time() + 100,) * 2)
    check(path, tmp_path / "out", env="wsi", **FAST)
    settings: Any = OmegaConf.to_container(composed("env=wsi", *SIZES, f"env.cohort.path={path}"), resolve=True)
    network = network_for(settings, 3, 2)
    opened: list[str] = []
    inner = slide_source._open
    monkeypatch.setattr(slide_source, "_open", lambda file: (opened.append(file.name), inner(file))[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cohort = build(settings["env"]["cohort"], **({"on_error": "skip"} if tolerant else {}))
        with_known_sizes(cohort, settings["env"]["make"])
        check_sizes(cohort, network.views, network.policy.grid, view_grid=network.policy.view_grid)
    assert set(opened) == ({"s3.svs"} if tolerant else {"s1.svs"} if changed else set())


def test_a_training_lists_missing_pixel_sizes_beside_missing_files(tmp_path: Path) -> None:
    write_slide(tmp_path / "s0.svs")
    without_mpp(tmp_path / "s1.svs", 1)
    lines = ["p0,a,s0.svs,0,train", "p1,b,s1.svs,1,val", "p2,c,gone.svs,1,test"]
    path = listed(tmp_path / "cohort.csv", *lines)
    with pytest.raises(CohortError) as caught:
        train(composed("env=wsi", f"env.cohort.path={path}", f"run={tmp_path / 'run'}"))
    said = str(caught.value)
    assert "2 problems in this cohort; on_error=skip" in said and "gone.svs: no such file" in said
    assert "s1.svs: the file does not state the size of a pixel" in said and "line 3, b: " in said
    assert with_unknown_sizes(caught.value, {"glimpse_extents": [64]}) is caught.value, "sizes in pixels need none"
