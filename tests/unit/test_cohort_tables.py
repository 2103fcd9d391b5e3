"""CSVs of cohorts as different programs write them, what is said of their mistakes, and images listed twice."""

import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse.cohort import Cohort, CohortError
from glimpse.cohort.fingerprints import fingerprint, same_image
from glimpse.cohort.splits import joined
from glimpse.sources import ArraySource, ImageReadError, register_reader
from glimpse.tasks import Classification, MultiLabel, Regression, Task

TASK = Classification(2)
LINES = ("case_id,slide_id,path,target,split,mpp", "p,s0,0.npy,1,train,0.5", "q,s1,1.npy,0,test,0.25")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(12):
        np.save(tmp_path / f"{index}.npy", np.full((1, 8, 8), index, np.uint8))
    return tmp_path


def load(folder: Path, lines: Sequence[str], task: Task = TASK, encoding: str = "utf-8", **options: object) -> Cohort:
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
    return Cohort.from_csv(folder / "cohort.csv", task, **options)  # type: ignore[arg-type]


def refused(folder: Path, lines: Sequence[str], task: Task = TASK, **options: object) -> str:
    with pytest.raises(CohortError) as caught:
        load(folder, lines, task, **options)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------- separators
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("first", [[], ["sep={}"], ["SEP={}"], ['"sep={}"'], ['"sep={}"{}{}'], ["", ""]])
def test_every_separator_is_recognised(folder: Path, separator: str, encoding: str, first: list[str]) -> None:
    lines = [line.replace(",", separator) for line in LINES]
    cohort = load(folder, [*(one.replace("{}", separator) for one in first), *lines], encoding=encoding)
    assert [(case.patient, case.id, case.target, case.split) for case in cohort] == [
        ("p", "s0", 1, "train"),
        ("q", "s1", 0, "test"),
    ]
    assert [case.source.spacing for case in cohort] == [(0.5, 0.5), (0.25, 0.25)]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_that_does_not_say_so_is_named(folder: Path, encoding: str) -> None:
    (folder / "cohort.csv").write_bytes("\n".join(LINES).encode(encoding))
    with pytest.raises(CohortError, match=r"cohort\.csv: holds characters of code 0, as texts in UTF-16.*'CSV UTF-8'"):
        Cohort.from_csv(folder / "cohort.csv", TASK)
    assert "characters of code 0" in refused(folder, [*LINES, "r,s2,2\0.npy,1,val,0.5"], on_error="skip")


def test_names_that_look_alike_are_the_same_in_every_form_of_unicode(folder: Path) -> None:
    """Accents may be letters of their own ("e" and a combining accent), as in names of files from some systems."""
    one, other = "Ren\u00e9", "Rene\u0301"
    split = ["case_id,slide_id,path,target,split", f"{one},s0,0.npy,0,train", f"{other},s1,1.npy,1,test"]
    assert f"patient (case_id) {one!r} is in 2 splits" in refused(folder, split)
    twice = ["case_id,slide_id,path,target", f"a,{one},0.npy,0", f"b,{other},1.npy,1"]
    assert f"slide_id {one!r} occurs 2 times" in refused(folder, twice)
    lines = [f"{(one, other)[i % 2]}{i // 2},s{i},{i}.npy,{(one, other)[i % 2]}" for i in range(12)]
    cohort = load(folder, ["case_id,slide_id,path,target", *lines], Classification([other, "x"]))
    assert {case.target for case in cohort} == {0}
    assert len({(case.patient, case.split) for case in cohort}) == 6
    shutil.copy(folder / "0.npy", folder / f"{other}.npy")
    path = ["case_id,slide_id,path,target,split", f"p,s0,{other}.npy,0,train"]
    assert len(load(folder, path)) == 1, "paths are spelt as the file system has them"


def test_decimal_commas_go_with_semicolons(folder: Path) -> None:
    lines = ["patient;case;path;target;split;mpp", "p;s0;0.npy;1,5;train;0,5", "q;s1;1.npy;-2;test;0.25"]
    cohort = load(folder, lines, Regression())
    assert [case.target for case in cohort] == [1.5, -2.0]
    assert [case.source.spacing for case in cohort] == [(0.5, 0.5), (0.25, 0.25)]
    (case,) = load(folder, ["patient;case;path;target;split", "p;s0;0.npy;1,0;train"])
    assert case.target == 1
    said = refused(folder, ["patient\tcase\tpath\ttarget\tsplit\tmpp", "p\ts0\t0.npy\t1\ttrain\t1,250"])
    assert "line 2: mpp '1,250' must be a positive number" in said  # with tabs it may be 1250


def test_the_header_decides_and_cells_may_hold_other_separators(folder: Path) -> None:
    cohort = load(folder, ["patient,case,path,target,split", "p;1,s 0;a,0.npy,a;b,train"], MultiLabel(["a", "b"]))
    assert (cohort[0].patient, cohort[0].id, cohort[0].target.tolist()) == ("p;1", "s 0;a", [1, 1])
    lines = ["patient;case;path;target;split", 'p;s0;0.npy;"a;b";train']
    assert load(folder, lines, MultiLabel(["a", "b"]))[0].target.tolist() == [1, 1]


def test_cells_without_a_column_are_no_silent_shift(folder: Path) -> None:
    lines = ["patient;case;path;target;split", "p;s0;0.npy;a;b;train", "q;s1;1.npy;a;train;;"]
    said = refused(folder, lines, MultiLabel(["a", "b"]))
    assert "line 2: there is no column for 'train'; put quotation marks around a cell that holds ';'" in said
    assert "line 3" not in said


def test_a_quotation_mark_that_is_not_closed_swallows_no_rows(folder: Path) -> None:
    said = refused(folder, [LINES[0], 'p,"s0,0.npy,1,train,', LINES[2]])
    assert f"{folder / 'cohort.csv'}: line 3 cannot be read" in said and '"a ""quoted"" word"' in said


def test_one_column_names_the_separators(folder: Path) -> None:
    said = refused(folder, ["case_id:slide_id:path:target", "p:s0:0.npy:1"])
    assert "line 1: the only column is 'case_id:slide_id:path:target'; put commas, semicolons or tabs" in said


# ---------------------------------------------------------------------------------------------- what is said
def test_labels_that_are_texts_name_the_option(folder: Path) -> None:
    said = refused(folder, ["patient,case,path,target", "p,s0,0.npy,malignant", "q,s1,1.npy,benign"])
    assert "; 'env.task.classes=[benign,malignant]' reads these targets, in Python task=glimpse.Classification" in said
    assert "task=glimpse.Classification(['benign', 'malignant']) (bring the names into the order you want)" in said
    assert "line 2: target 'malignant' is out of range" in said and said.count("\n  - ") == 2


def test_what_is_wrong_with_many_lines_is_said_once(folder: Path) -> None:
    rows = [f"p{i},s{i},{i % 3}.npy,{'good' if i % 5 else 'bad'}" for i in range(20)]
    said = refused(folder, ["patient,case,path,target", *rows])
    assert "lines 3, 4, 5, 6, 8, 9 and 10 more: target 'good' is out of range" in said
    assert "lines 2, 7, 12, 17: target 'bad' is out of range" in said and said.count("target 'good'") == 1


def test_images_that_will_be_skipped_are_not_among_the_problems(folder: Path) -> None:
    lines = ["patient,case,path,target", "p,s0,0.npy,7", "q,s1,absent.npy,1", "r,s2,1.npy,0"]
    assert "2 problems" in refused(folder, lines)
    said = refused(folder, lines, on_error="skip")
    assert "1 problem in this cohort" in said and "absent" not in said and "target '7'" in said


def test_targets_with_fractions_name_the_options_of_a_regression(folder: Path) -> None:
    said = refused(folder, ["patient;case;path;target", "p;s0;0.npy;30,5", "q;s1;1.npy;50"])
    options = "env.task._target_=glimpse.tasks.Regression +env.task.mean=40.25 +env.task.spread=9.75"
    python = "task=glimpse.Regression(mean=40.25, spread=9.75)"
    assert f"; {options} reads these targets, in Python {python}:" in said


def test_other_mistakes_name_no_option_of_labels(folder: Path) -> None:
    assert "env.task" not in refused(folder, ["patient,case,path,target", "p,s0,absent.npy,1", "q,,1.npy,0"])


class Choosy(ArraySource):
    """An image that only shows when it is read which of its parts is meant."""

    def check(self) -> None:
        raise ValueError(f"{self.path}: it holds 2 volumes. Choose one with frame=0 or 1.")


def test_images_that_must_be_chosen_are_listed_and_skipped_like_others(folder: Path) -> None:
    register_reader("choosy", Choosy, suffixes=(".choosy",), sniff=lambda path: path.suffix == ".choosy")
    for name in ("a", "b"):
        shutil.copy(folder / "0.npy", folder / f"{name}.choosy")
    lines = ["patient,case,path,target,split", "p,a,a.choosy,1,train", "q,b,b.choosy,0,train", "r,c,3.npy,0,train"]
    lines += ["r,d,absent.npy,0,train"]
    said = refused(folder, lines)
    assert "3 problems" in said and said.count("it holds 2 volumes") == 2 and "absent.npy: no such file" in said
    with pytest.warns(UserWarning, match="skipped"):
        cohort = load(folder, lines, on_error="skip")
    assert [case.id for case in cohort] == ["c"]
    assert [message.split(":")[0] for message in cohort.skipped] == ["line 2, a", "line 3, b", "line 5, d"]


def test_a_cohort_that_may_not_be_read_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    said = refused(folder, LINES)
    assert said == (
        f"{folder / 'cohort.csv'}: cannot be read (Permission denied). Correct the path, or allow this user to read "
        "the file."
    )
    with pytest.raises(CohortError, match="this is a folder"):
        monkeypatch.undo()
        Cohort.from_csv(folder, TASK)


# ---------------------------------------------------------------------------------------------- one image twice
def twice(folder: Path, first: str, second: str, how: str = "copy") -> list[str]:
    """A cohort in which s0 and s1 are the same image, in two splits."""
    other = {"same": "0.npy", "copy": "copy.npy", "link": "link.npy", "absolute": str(folder / "0.npy")}[how]
    shutil.copy(folder / "0.npy", folder / "copy.npy")
    if not (folder / "link.npy").exists():
        os.symlink(folder / "0.npy", folder / "link.npy")
    rows = [f"p,s0,0.npy,1,{first}", "r,s2,2.npy,0,val", f"q,s1,{other},1,{second}"]
    return ["case_id,slide_id,path,target,split", *rows]


@pytest.mark.parametrize("how", ["same", "copy", "link", "absolute"])
@pytest.mark.parametrize("second", ["val", "test"])
def test_one_image_in_two_splits_is_refused(folder: Path, how: str, second: str) -> None:
    for on_error in ("raise", "skip"):
        said = refused(folder, twice(folder, "train", second, how), on_error=on_error)
        assert f"lines 2, 4: 's0' (train) and 's1' ({second}) are the same image" in said
        assert "remove one of them, or put both into one split" in said and said.count("\n  - ") == 1


def test_one_image_twice_in_a_split_is_said(folder: Path) -> None:
    with pytest.warns(UserWarning, match=r"1 image is listed several times: 's0' \(lines 2, 4\)"):
        assert len(load(folder, twice(folder, "train", "train"))) == 3


def test_one_image_with_two_targets_is_said(folder: Path) -> None:
    lines = twice(folder, "train", "train")
    lines[-1] = lines[-1].replace(",1,train", ",0,train")
    with pytest.warns(UserWarning, match=r"listed several times: 's0' \(lines 2, 4, with different targets\)\. Remove"):
        load(folder, lines)


def test_patients_who_share_an_image_stay_together(folder: Path) -> None:
    for index in range(6):  # 6 images, each listed for two patients
        shutil.copy(folder / f"{index}.npy", folder / f"{index + 6}.npy")
    lines = ["case_id,slide_id,path,target", *(f"p{i},s{i},{i}.npy,{i % 2}" for i in range(12))]
    for seed in range(4):
        with pytest.warns(UserWarning, match="6 images are listed several times"):
            splits = [case.split for case in load(folder, lines, seed=seed)]
        assert splits[:6] == splits[6:] and set(splits) == {"train", "val", "test"}
    assert joined([["a", "b"], ["c", "d"], ["d", "b"], ["e"]]) == {**dict.fromkeys("abcd", "a"), "e": "e"}
    assert joined([["a", "b"], ["a", "a"]]) == dict.fromkeys("ab", "a")


def test_images_that_differ_anywhere_are_different(folder: Path) -> None:
    pixels = np.zeros((1, 1000, 1000), np.uint8)
    np.save(folder / "a.npy", pixels)
    pixels[0, 433, 0] = 1  # between the blocks of the fingerprint
    np.save(folder / "b.npy", pixels)
    assert fingerprint(folder / "a.npy") == fingerprint(folder / "b.npy")
    assert not same_image(ArraySource(folder / "a.npy"), ArraySource(folder / "b.npy"))
    rows = ["patient,case,path,target,split", "p,a,a.npy,1,train", "q,b,b.npy,0,test"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(folder, rows)) == 2


def test_fingerprints_go_by_content(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
        for index in range(3):
            shutil.copy(folder / f"{index}.npy", folder / name / f"{index}.npy")
    assert fingerprint(folder / "one") == fingerprint(folder / "two") != fingerprint(folder / "0.npy")
    shutil.copy(folder / "7.npy", folder / "two" / "2.npy")
    assert fingerprint(folder / "one") != fingerprint(folder / "two")
    marks = {fingerprint(folder / f"{index}.npy") for index in range(12)}
    assert len(marks) == 12


def test_hidden_files_in_a_folder_do_not_change_its_fingerprint(folder: Path) -> None:
    (folder / "scan" / "late").mkdir(parents=True)
    for name in ("scan/1.dcm", "scan/late/2.dcm"):
        shutil.copy(folder / "0.npy", folder / name)
    before = fingerprint(folder / "scan")
    shutil.copytree(folder / "scan", folder / "copy")
    for name in ("scan/.DS_Store", "scan/late/._2.dcm", "scan/.git/config"):  # the copy has none
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("left here by a file manager")
    assert fingerprint(folder / "scan") == fingerprint(folder / "copy") == before
    volumes = [FolderSource(np.zeros((1, 4, 4), np.uint8), name=name) for name in ("scan", "copy")]
    for volume in volumes:
        volume.path = folder / volume.name
    assert same_image(*volumes) and [volume.closed for volume in volumes] == [1, 1]
    (folder / "scan" / "late" / "3.dcm").touch()
    assert fingerprint(folder / "scan") != before


class FolderSource(ArraySource):
    """An image that counts how often it is closed, and whose overview can be damaged."""

    closed, damaged = 0, False

    def close(self) -> None:
        self.closed += 1

    def overview(self, size: Sequence[int]) -> np.ndarray:
        if self.damaged:
            raise ImageReadError("damaged")
        return super().overview(size)


@pytest.mark.parametrize("damaged", [(True, True), (True, False), (False, True)])
def test_copies_of_a_damaged_image_are_the_same_image(folder: Path, damaged: tuple[bool, bool]) -> None:
    shutil.copy(folder / "0.npy", folder / "copy.npy")
    sources = [FolderSource(np.zeros((1, 4, 4), np.uint8)) for _ in damaged]
    for source, name, wrong in zip(sources, ("0.npy", "copy.npy"), damaged, strict=True):
        source.path, source.damaged = folder / name, wrong
    assert same_image(*sources)
    assert [source.closed for source in sources] == [1, 1]


@pytest.mark.parametrize("wrong", ["0.npy", "mask.png"])
def test_images_and_masks_that_may_not_be_read_are_listed_and_skipped(
    folder: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(folder / "mask.png")
    is_file = Path.is_file

    def denied(path: Path) -> bool:
        if path == folder / wrong:
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", denied)  # root may read everything, so rights are no test
    lines = ["patient,case,path,target,split,mask", "p,s0,0.npy,1,train,mask.png", "q,s1,1.npy,0,train,"]
    said = refused(folder, lines)
    assert (
        f"line 2, s0: {folder / wrong}: cannot be" in said and "(Permission denied)" in said and "on_error=skip" in said
    )
    with pytest.warns(UserWarning, match="skipped line 2, s0"):
        assert [case.id for case in load(folder, lines, on_error="skip")] == ["s1"]
