"""Folds of a cohort: patients and copies stay together, classes are balanced, and the file brings the same folds."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from glimpse.cohort import Case, Cohort, CohortError
from glimpse.cohort.folds import make_folds, read_folds
from glimpse.cohort.recorded import read_given_splits
from glimpse.errors import SettingsError
from glimpse.sources import ArraySource
from glimpse.tasks import Classification

TASK = Classification(2)
SOURCE = ArraySource(np.zeros((1, 8, 8), np.uint8), name="a")


def cohort(patients: int = 30, each: int = 2) -> Cohort:
    """Patients with several cases, a third of them positive; two patients share an image."""
    return Cohort(
        Case(
            f"s{patient}-{one}", f"p{patient}", SOURCE, int(patient % 3 == 0),
            fingerprint="same" if one == 0 and patient in (4, 7) else f"{patient}-{one}",
        )
        for patient in range(patients) for one in range(each)
    )  # fmt: skip


@pytest.mark.parametrize("count", [2, 5])
def test_every_case_is_tested_once_and_patients_are_never_parted(count: int) -> None:
    cases = cohort()
    found = make_folds(cases, TASK, count, validation=0.2, seed=0)
    assert set(found.of) == set(range(1, count + 1))
    for number in range(1, count + 1):
        part = found.cohort(cases, number)
        tested = part.split("test")
        assert [case.id for case in tested] == [
            case.id for case, of in zip(cases, found.of, strict=True) if of == number
        ]
        patients = [{case.patient for case in part.split(name)} for name in ("train", "val", "test")]
        assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
        assert {"p4", "p7"} <= patients[0] or {"p4", "p7"} <= patients[1] or {"p4", "p7"} <= patients[2]
        assert abs(len(patients[1]) - 0.2 * (30 - len(patients[2]))) <= 1
        assert abs(np.mean([case.target for case in tested]) - 1 / 3) < 0.12
    sizes = Counter(found.of).values()
    assert max(sizes) - min(sizes) <= 4  # two patients at most
    assert make_folds(cases, TASK, count, 0.2, 0) == found != make_folds(cases, TASK, count, 0.2, 1)
    assert all("val" not in splits for splits in make_folds(cases, TASK, count, 0.0, 0).splits)


def test_the_file_brings_the_same_folds_and_each_fold_is_a_file_of_splits(tmp_path: Path) -> None:
    cases = cohort()
    found = make_folds(cases, TASK, 3, 0.2, 0)
    found.write(tmp_path / "folds.csv", cases)
    assert (
        read_folds(tmp_path / "folds.csv", cases, TASK, 0.5, seed=9) == found
    )  # validation cases are in the file, too
    some = Cohort(list(cases)[:40])
    assert read_folds(tmp_path / "folds.csv", some, TASK, 0.2, 0).of == found.of[:40]
    found.cohort(cases, 2).write_splits(tmp_path / "splits.csv")
    again = read_given_splits(tmp_path / "splits.csv").of_run(cases)
    assert tuple(case.split for case in again) == found.splits[1]
    rows = list(csv.DictReader((tmp_path / "folds.csv").open()))
    with (tmp_path / "bare.csv").open("w") as file:
        file.write("slide_id,fold\n" + "".join(f"{row['slide_id']},{'abc'[int(row['fold']) - 1]}\n" for row in rows))
    assert read_folds(tmp_path / "bare.csv", cases, TASK, 0.2, 0) == found  # they are chosen by the same seed


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("s0-0,", "other,", "no fold for 1 of 60 cases, such as s0-0"),
        (",2-1\n", ",other\n", "s2-1 is another image"),
        (",test,", ",tset,", "'tset' is no split"),
        ("slide_id", "slide", "expected the columns slide_id,fold"),
        ("s1-0,", "s0-0,", "s0-0 has several lines"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, before: str, after: str, said: str) -> None:
    cases = cohort()
    make_folds(cases, TASK, 3, 0.2, 0).write(tmp_path / "folds.csv", cases)
    text = (tmp_path / "folds.csv").read_text()
    assert before in text
    (tmp_path / "folds.csv").write_text(text.replace(before, after, 1))
    with pytest.raises(CohortError, match=said):
        read_folds(tmp_path / "folds.csv", cases, TASK, 0.2, 0)


def test_patients_in_two_folds_and_too_many_folds_are_refused(tmp_path: Path) -> None:
    cases = cohort()
    lines = [f"{case.id},{1 + index % 2}\n" for index, case in enumerate(cases)]
    (tmp_path / "folds.csv").write_text("slide_id,fold\n" + "".join(lines))
    with pytest.raises(CohortError, match="patient p0 is in several folds"):
        read_folds(tmp_path / "folds.csv", cases, TASK, 0.2, 0)
    with pytest.raises(SettingsError, match=r"folds=30: this cohort has 29 patients only"):  # two share an image
        make_folds(cases, TASK, 30, 0.2, 0)


def test_given_splits_with_a_patient_in_two_are_refused(tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("case_id,slide_id,split\np0,s0-0,train\np0,s0-1,test\n")
    with pytest.raises(CohortError, match=r"patient p0 is in several splits \(test, train\)"):
        read_given_splits(tmp_path / "splits.csv")
    with pytest.raises(CohortError, match=r"absent.csv: cannot be read .*splits=<CSV>"):
        read_given_splits(tmp_path / "absent.csv")
