"""The manifest: every problem at once, with its line; splits grouped by patient; broken images raise or are skipped."""

import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from glimpse.cohort import Cohort, CohortError
from glimpse.tasks import Classification, MultiLabel, MultiTask, Regression, Survival, Task

TASK = Classification(2)
REAL_SLIDE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "real" / "cmu_small_region.svs"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(12):
        np.save(tmp_path / f"{index}.npy", np.full((1, 8, 8), index, np.uint8))
    return tmp_path


def write(folder: Path, *lines: str) -> Path:
    path = folder / "cohort.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def twelve(header: str = "case_id,slide_id,path,target", extra: str = "") -> list[str]:
    return [header, *(f"p{index},s{index},{index}.npy,{index % 2}{extra}" for index in range(12))]


def test_columns_may_be_called_patient_and_case(folder: Path) -> None:
    (case,) = Cohort.from_csv(write(folder, "patient,case,path,target,split", "p,s0,0.npy,1,train"), TASK)
    assert (case.patient, case.id) == ("p", "s0")


def test_a_plain_cohort(folder: Path):
    path = write(
        folder, "case_id,slide_id,path,target,split,mpp,note", "p,s0,0.npy,1,train,0.5,x", "q,s1,1.npy,0,test,,"
    )
    cohort = Cohort.from_csv(path, TASK)
    first, second = cohort
    assert (first.id, first.patient, first.target, first.split) == ("s0", "p", 1, "train")
    assert first.source.spacing == (0.5, 0.5)
    assert second.source.spacing is None
    assert second.source.overview((1, 1)) == 1
    assert [case.id for case in cohort.split("test")] == ["s1"]
    assert len(cohort.split("val")) == 0
    assert cohort.split("train")[0] is first
    assert len(cohort[:1]) == 1
    assert cohort.skipped == ()


def test_paths_are_relative_to_the_csv_or_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir("/")
    path = write(folder, "case_id,slide_id,path,target,split", f"p,s0,{folder / '3.npy'},1,train", "q,s1,4.npy,0,test")
    assert [case.source.overview((1, 1)).item() for case in Cohort.from_csv(path, TASK)] == [3, 4]


def test_options_of_the_sources(folder: Path):
    path = write(folder, "case_id,slide_id,path,target,split", "p,s0,0.npy,1,train")
    assert Cohort.from_csv(path, TASK, source_options={"mpp": 2.0})[0].source.spacing == (2.0, 2.0)
    with pytest.raises(CohortError, match=r"cohort\.csv, line 2, s0: .*cannot be opened with options.*colour"):
        Cohort.from_csv(path, TASK, source_options={"colour": "red"})


@pytest.mark.parametrize(
    ("options", "terminal", "shown"),
    [({"progress": True}, True, True), ({"progress": True}, False, False), ({}, True, False)],
)
def test_checking_many_files_shows_a_bar_if_asked_to_on_a_terminal(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, bool],
    terminal: bool,
    shown: bool,
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    lines = (f"p{index},s{index},{index % 12}.npy,{index % 2},train" for index in range(60))
    path = write(folder, "case_id,slide_id,path,target,split", *lines)
    assert len(Cohort.from_csv(path, TASK, **options)) == 60
    assert ("checking cohort.csv" in capsys.readouterr().err) == shown


def test_spreadsheets_add_marks_spaces_and_empty_lines(folder: Path):
    lines = "case_id, slide_id,path ,target,split", "", "p, s0 ,0.npy,1.0,train", ",,,,"
    (folder / "cohort.csv").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    (case,) = Cohort.from_csv(folder / "cohort.csv", TASK)
    assert (case.id, case.target) == ("s0", 1)


def test_all_problems_at_once(folder: Path):
    path = write(
        folder,
        "case_id,slide_id,path,target,split,mpp",
        "p0,s0,0.npy,0,train,0.5",
        "p0,s1,1.npy,1,test,0.5",
        "p1,s0,2.npy,2,train,wide",
        ",s3,nowhere.npy,yes,trian,0.5",
        "p4,s4,4.npy,1,,-1",
    )
    with pytest.raises(CohortError) as caught:
        Cohort.from_csv(path, TASK)
    message = str(caught.value)
    for expected in (
        f"{path}: 10 problems in this cohort",
        "patient (case_id) 'p0' is in 2 splits: train (line 2), test (line 3)",
        "lines 2, 4: slide_id 's0' occurs 2 times",
        "line 4: target '2' is out of range: expected a class from 0 to 1",
        "line 4: mpp 'wide' must be a positive number",
        "line 5: case_id is empty",
        "line 5: target 'yes' is out of range",
        "line 5: split 'trian' is none of train, val, test; is 'train' meant?",
        "line 5, s3: " + str(folder / "nowhere.npy") + ": no such file",
        "line 6: split is empty",
        "line 6: mpp '-1' must be a positive number",
    ):
        assert expected in message
    assert message.count("\n  - ") == 10


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("case_id,slide_id,path,lable", "column 'lable' looks like 'target'"),
        ("case_id,slide_id,path,Label", "column 'Label' looks like 'target'"),
        ("case_id,slide_id,path,traget", "column 'traget' looks like 'target'"),
        ("patient_id,slide_id,path,target", "column 'patient_id' looks like 'patient'"),
        ("case_id,slide_id,path,target,patient", "columns 'patient' and 'case_id' mean the same"),
        ("Case ID,slide_id,path,target", "column 'Case ID' looks like 'case_id'"),
        ("case_id,slide_id,paths,target", "column 'paths' looks like 'path'"),
        ("case_id,slide_id,path,target,spilt", "column 'spilt' looks like 'split'"),
        ("case_id,slide_id,path,target,MPP", "column 'MPP' looks like 'mpp'"),
        ("Patient,slide_id,path,target", "column 'Patient' looks like 'patient'; rename it"),
        (
            "case_id,slide_id,path",
            "column 'target' is missing; needed are patient (or case_id), case (or slide_id), path, target. Add what",
        ),
        (
            "slide_id,path,target",
            "column 'patient' is missing; needed are patient (or case_id), case (or slide_id), path, target. Add what "
            "is missing to the first line. Where each patient has one image, repeat its name as the patient",
        ),
        ("case_id,slide_id,path,target,age,note,age", "column 'age' occurs twice"),
        ("case_id,slideid,path,target", "column 'slideid' looks like 'slide_id'"),
    ],
)
@pytest.mark.parametrize("image", ["0.npy", "missing.npy"])
def test_misspelt_and_missing_columns(folder: Path, header: str, problem: str, image: str):
    path = write(folder, header, f"p,s0,{image},1,0")
    with pytest.raises(CohortError) as caught:
        Cohort.from_csv(path, TASK)
    assert f"line 1: {problem}" in str(caught.value)
    assert str(caught.value).count("\n  - line 1: ") == 1


def test_columns_of_ones_own_are_named_once_with_those_that_are_needed(folder: Path):
    path = write(folder, "Fall-Nr;Patient;Datei;Diagnose", "1;p;0.npy;gut")
    with pytest.raises(CohortError) as caught:
        Cohort.from_csv(path, TASK)
    said = str(caught.value)
    assert "line 1: column 'Patient' looks like 'patient'; rename it" in said
    assert "columns 'case', 'path', 'target' are missing; needed are patient (or case_id), case (or slide_id)" in said
    assert "'Fall-Nr', 'Patient', 'Datei', 'Diagnose': rename in the first line those that are meant" in said
    assert said.count("needed are") == 1


@pytest.mark.parametrize(
    "column", ["age", "site_id", "task", "stain", "scanner", "notes", "grade", "label", "patient_id"]
)
def test_other_columns_are_left_alone(folder: Path, column: str):
    lines = twelve(f"case_id,slide_id,path,target,{column}", extra=",1")
    assert len(Cohort.from_csv(write(folder, *lines), TASK)) == 12


def test_missing_files_are_listed_even_beside_misspelt_columns(folder: Path):
    path = write(folder, "case_id,slide_id,path,lable", "p,s0,nowhere.npy,1")
    with pytest.raises(CohortError, match=r"(?s)looks like 'target'.*nowhere\.npy: no such file"):
        Cohort.from_csv(path, TASK)


def test_empty_and_absent_cohorts(folder: Path):
    with pytest.raises(CohortError, match="no such file"):
        Cohort.from_csv(folder / "absent.csv", TASK)
    (folder / "cohort.csv").write_text("")
    with pytest.raises(CohortError, match="the file is empty"):
        Cohort.from_csv(folder / "cohort.csv", TASK)
    with pytest.raises(CohortError, match="no cases"):
        Cohort.from_csv(write(folder, "case_id,slide_id,path,target"), TASK)
    with pytest.raises(CohortError, match="no cases"):
        Cohort.from_csv(write(folder, "case_id,slide_id,path,time,event"), Survival())
    (folder / "cohort.csv").write_bytes(b"case_id,slide_id,path,target\n\xff\xfe,1,2,3\n")
    with pytest.raises(CohortError, match="UTF-8"):
        Cohort.from_csv(folder / "cohort.csv", TASK)


def broken_cohort(folder: Path) -> Path:
    """Twelve good arrays, a slide, a truncated slide and a missing one."""
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    description = "Aperio Image Library v12\r\n256x256 [0,0 256x256] (64x64)|AppMag = 20|MPP = 0.5"
    options = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "description": description}
    tifffile.imwrite(folder / "good.svs", image, **options)
    whole = (folder / "good.svs").read_bytes()
    (folder / "truncated.svs").write_bytes(whole[: len(whole) // 2])
    slides = [f"{name},{name},{name}.svs,{index % 2}" for index, name in enumerate(("good", "truncated", "missing"))]
    return write(folder, *twelve(), *slides)


def test_broken_images_raise_with_a_clear_message(folder: Path):
    path = broken_cohort(folder)
    with pytest.raises(CohortError) as caught:
        Cohort.from_csv(path, TASK)
    message = str(caught.value)
    assert "2 problems" in message
    assert "on_error=skip" in message
    assert f"line 15, truncated: {folder / 'truncated.svs'}: " in message
    assert "truncated or damaged" in message or "is truncated" in message
    assert f"line 16, missing: {folder / 'missing.svs'}: no such file" in message


def test_broken_images_are_skipped_and_said_so(folder: Path):
    path = broken_cohort(folder)
    with pytest.warns(UserWarning, match=r"skipped line 1[56]") as caught:
        cohort = Cohort.from_csv(path, TASK, on_error="skip")
    assert len(cohort) == 13
    assert {"truncated", "missing"}.isdisjoint(case.id for case in cohort)
    assert [str(warning.message).removeprefix(f"{path}: skipped ") for warning in caught] == list(cohort.skipped)
    assert "truncated.svs" in cohort.skipped[0]
    assert "missing.svs" in cohort.skipped[1]
    assert {case.split for case in cohort} == {"train", "val", "test"}
    assert cohort.split("train").skipped == cohort.skipped


def test_skipping_everything_is_an_error(folder: Path):
    path = write(folder, "case_id,slide_id,path,target", "p,s,missing.npy,0")
    with pytest.raises(CohortError, match="no such file"):
        Cohort.from_csv(path, TASK, on_error="skip")


def test_skipping_forgives_no_mistakes_in_the_csv(folder: Path):
    path = write(folder, "case_id,slide_id,path,target", "p,s,0.npy,7")
    with pytest.raises(CohortError, match="out of range"):
        Cohort.from_csv(path, TASK, on_error="skip")
    with pytest.raises(ValueError, match="'raise' or 'skip', got 'ignore'"):
        Cohort.from_csv(path, TASK, on_error="ignore")


def test_many_problems_are_counted(folder: Path):
    path = write(folder, "case_id,slide_id,path,target", *(f"p{i},s{i},missing{i}.npy,0" for i in range(60)))
    with pytest.raises(CohortError, match=r"(?s)60 problems.*\.\.\. and 10 more"):
        Cohort.from_csv(path, TASK)


def test_splits_are_made_when_there_are_none(folder: Path):
    path = write(folder, *twelve())
    cohort = Cohort.from_csv(path, TASK)
    again = Cohort.from_csv(path, TASK)
    other = [Cohort.from_csv(path, TASK, seed=seed) for seed in range(1, 5)]
    assert Counter(case.split for case in cohort) == {"train": 8, "val": 2, "test": 2}
    assert [case.split for case in cohort] == [case.split for case in again]
    assert any([case.split for case in cohort] != [case.split for case in seeded] for seeded in other)


def test_too_few_patients_to_split(folder: Path):
    path = write(folder, "case_id,slide_id,path,target", "p,s0,0.npy,0", "p,s1,1.npy,1", "q,s2,2.npy,1")
    cohort = Cohort.from_csv(path, TASK)
    assert [case.split for case in cohort] == [None] * 3  # all of them can be read, such as by evaluate split=all
    for part in (cohort, cohort[:2]):
        with pytest.raises(CohortError, match=r"cohort\.csv: cannot split 2 patient\(s\) into 3 splits"):
            part.split("train")


def test_splits_are_written_whole(folder: Path):
    cohort = Cohort.from_csv(write(folder, *twelve()), TASK)
    cohort.write_splits(folder / "splits.csv")
    with open(folder / "splits.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case_id", "slide_id", "split", "fingerprint"]
    assert [tuple(row.values()) for row in rows] == [
        (case.patient, case.id, case.split, case.fingerprint) for case in cohort
    ]
    assert len({row["fingerprint"] for row in rows} - {""}) == len(cohort)
    assert not list(folder.glob(".splits*")), "nothing half-written stays behind"


def test_unknown_splits_are_refused(folder: Path):
    with pytest.raises(ValueError, match="the splits are train, val, test, got 'dev'"):
        Cohort.from_csv(write(folder, *twelve()), TASK).split("dev")


# The split itself


@pytest.mark.skipif(not REAL_SLIDE.is_file(), reason="the real slide cmu_small_region.svs is not on this machine")
def test_real_slide_beside_a_truncated_and_a_missing_one(tmp_path: Path):
    (tmp_path / "truncated.svs").write_bytes(REAL_SLIDE.read_bytes()[:1_000_000])
    rows = "case_id,slide_id,path,target,split", f"a,real,{REAL_SLIDE},1,train", "b,cut,truncated.svs,0,train"
    path = write(tmp_path, *rows, "c,gone,missing.svs,1,test")
    with pytest.raises(CohortError, match=r"(?s)line 3, cut: .*truncated.*line 4, gone: .*no such file"):
        Cohort.from_csv(path, TASK)
    with pytest.warns(UserWarning, match="skipped"):
        (case,) = Cohort.from_csv(path, TASK, on_error="skip")
    assert case.source.shape == (2967, 2220)


# Masks, and targets that are no classes


def test_masks_become_marks(folder: Path):
    mask = np.zeros((4, 4), np.uint8)
    mask[1, 2:] = 1
    Image.fromarray(mask).save(folder / "m.png")
    Image.fromarray(0 * mask).save(folder / "empty.png")
    rows = "p,s0,0.npy,1,train,m.png", "q,s1,1.npy,0,test,", f"r,s2,2.npy,0,test,{folder / 'empty.png'}"
    first, second, third = Cohort.from_csv(write(folder, "case_id,slide_id,path,target,split,mask", *rows), TASK)
    assert first.marks is not None and first.marks.tolist() == [[[2, 4], [4, 8]]]  # images have 8 x 8 pixels
    assert second.marks is None
    assert third.marks is not None and third.marks.shape == (0, 2, 2)


def test_problems_of_masks_are_listed_with_the_others(folder: Path):
    Image.fromarray(np.zeros((4, 8), np.uint8)).save(folder / "wide.png")
    rows = "p,s0,0.npy,1,train,absent.png", "q,s1,1.npy,0,test,wide.png", "r,s2,2.npy,5,test,", "s,s3,3.npy,0,val,"
    path = write(folder, "case_id,slide_id,path,target,split,mask", *rows)
    with pytest.raises(CohortError) as caught:
        Cohort.from_csv(path, TASK)
    message = str(caught.value)
    assert "3 problems" in message and "line 4: target '5' is out of range" in message
    assert f"line 2, s0: {folder / 'absent.png'}: no such file" in message
    assert f"line 3, s1: {folder / 'wide.png'}: expected the proportions of its image" in message
    path = write(folder, "case_id,slide_id,path,target,split,mask", *rows[:2], rows[3])
    with pytest.warns(UserWarning, match=r"skipped line [23]"):
        assert [case.id for case in Cohort.from_csv(path, TASK, on_error="skip")] == ["s3"]


@pytest.mark.parametrize(
    ("task", "cell"),
    [
        (MultiLabel(["a", "b"]), lambda i: ("none", "a", "a;b")[i % 3]),
        (Regression(), lambda i: f"{i * i}.0"),
        (MultiTask({"c": Classification(3), "v": Regression()}), lambda i: f"c={i % 3};v={i}.0"),
    ],
)
def test_targets_of_every_task_are_read_and_stratified(folder: Path, task: Task, cell: Callable[[int], str]):
    rows = (f"p{i},s{i},{i}.npy,{cell(i)}" for i in range(12))
    cohort = Cohort.from_csv(write(folder, "case_id,slide_id,path,target", *rows), task)
    assert [task.write_target(case.target) for case in cohort] == [cell(i) for i in range(12)]
    strata = defaultdict(set)
    for case, stratum in zip(cohort, task.strata([case.target for case in cohort]), strict=True):
        strata[stratum].add(case.split)
    assert len(strata) in (3, 4) and all(len(splits) == 3 for splits in strata.values())
