"""Cohorts in Parquet are those of the CSV with the same cells."""

import csv
import sys
from pathlib import Path

import pytest

from glimpse.cohort import Cohort, CohortError
from glimpse.cohort.parquet import ParquetError, parquet_rows
from glimpse.errors import MissingExtraError
from glimpse.tasks import Classification

TASK = Classification((0, 1))


def test_a_cohort_in_parquet_is_that_of_the_csv(tiny_slides: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with open(tiny_slides, newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {name: [row[name] or None for row in rows] for name in rows[0]}
    columns["target"] = [float(row["target"]) for row in rows]  # as a table with gaps holds whole numbers
    path = tiny_slides.with_name("cohort.parquet")
    parquet.write_table(arrow.table(columns), path)
    one, other = (Cohort.from_csv(each, TASK, source_options={"reader": "slide"}) for each in (tiny_slides, path))
    assert [(c.id, c.patient, c.target, c.split, c.fingerprint) for c in one] == [
        (c.id, c.patient, c.target, c.split, c.fingerprint) for c in other
    ]
    columns["target"][2] = float("nan")
    parquet.write_table(arrow.table(columns), path)
    with pytest.raises(CohortError, match="line 4: target is empty"):
        Cohort.from_csv(path, TASK, source_options={"reader": "slide"})


FOUR = ("case_id", "slide_id", "path", "target")
MISTAKES = {  # names of columns, rows, and what is said
    "no rows": (FOUR, [], ["the cohort has no cases"]),
    "no rows and columns missing": (FOUR[:2], [], ["columns 'path', 'target' are missing; needed are"]),
    "a column missing": (
        FOUR[:3],
        [["p", "s", "a.svs"]],
        ["'target' is missing; needed are patient (or case_id)"],
    ),
    "no rows and one column": (FOUR[:1], [], ["columns 'case', 'path', 'target' are missing"]),
    "twice": ((*FOUR, "target"), [["p", "s", "a.svs", "0", "1"]], ["line 1: column 'target' occurs twice"]),
    "twice, without rows": ((*FOUR[:3], "path"), [], ["'path' occurs twice", "'target' is missing"]),
    "two names": (("patient", *FOUR), [["p", "p", "s", "a.svs", "0"]], ["'patient' and 'case_id' mean the same"]),
    "empty cell": (FOUR, [["p", "", "a.svs", "0"]], ["line 2: slide_id is empty"]),
    "NUL": (FOUR, [["p", "s", "a.svs", "0"], ["q", "t", "b\0.svs", "1"]], ["holds characters of code 0"]),
    "NUL in a name": ((*FOUR, "x\0"), [["p", "s", "a.svs", "0", ""]], ["holds characters of code 0"]),
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_a_table_are_said_of_both_kinds_of_file(tmp_path: Path, kind: str, mistake: str) -> None:
    names, rows, said = MISTAKES[mistake]
    path = tmp_path / f"cohort.{kind}"
    if kind == "csv":
        path.write_text("\n".join(map(",".join, [names, *rows])) + "\n")
    else:
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = [arrow.array([row[i] for row in rows], arrow.string()) for i in range(len(names))]
        parquet.write_table(arrow.Table.from_arrays(columns, names=list(names)), path)
    with pytest.raises(CohortError, match=rf"cohort\.{kind}: ") as caught:
        Cohort.from_csv(path, TASK)
    assert [one for one in said if one not in str(caught.value)] == []
    assert "between columns" not in str(caught.value)


def test_a_parquet_file_without_columns_names_those_that_are_needed(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({}), tmp_path / "a.parquet")
    with pytest.raises(CohortError, match="'patient', 'case', 'path', 'target' are missing; needed are patient"):
        Cohort.from_csv(tmp_path / "a.parquet", TASK)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "categories"])
def test_numbers_have_the_digits_of_their_precision(tmp_path: Path, kind: str) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    values = [0.2432, 1.0, None, float("nan"), 1e-05]
    single = arrow.array(values, arrow.float32())
    column = single.dictionary_encode() if kind == "categories" else arrow.array(values, getattr(arrow, kind)())
    parquet.write_table(arrow.table({"mpp": column}), tmp_path / "a.parquet")
    texts = [row[0] for row in parquet_rows(tmp_path / "a.parquet")[1]]
    assert texts == ["0.2432", "1", "", "", "1e-05"]


def test_what_is_no_parquet_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_text("case_id,slide_id\n")
    with pytest.raises(CohortError, match=r"a\.parquet: cannot be read as Parquet"):
        Cohort.from_csv(tmp_path / "a.parquet", TASK)
    with pytest.raises(CohortError, match=r"b\.parquet: no such file"):
        Cohort.from_csv(tmp_path / "b.parquet", TASK)


def test_cells_of_bytes_are_texts_and_a_date_beyond_the_calendar_is_named(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"case_id": ["a"], "path": [b"x.svs"]}), tmp_path / "a.parquet")
    assert parquet_rows(tmp_path / "a.parquet") == (["case_id", "path"], [["a", "x.svs"]])
    days = arrow.array([2**31 - 1], arrow.int32()).cast(arrow.date32())
    parquet.write_table(arrow.table({"case_id": days}), tmp_path / "b.parquet")
    with pytest.raises(ParquetError, match=r"b\.parquet: column 'case_id' cannot be read as text"):
        parquet_rows(tmp_path / "b.parquet")
    parquet.write_table(arrow.table({"path": ["a.png"], "thumb": [b"\xff\xd8"]}), tmp_path / "c.parquet")
    with pytest.raises(ParquetError, match=r"c\.parquet: column 'thumb' cannot be read as text .* or leave it out"):
        parquet_rows(tmp_path / "c.parquet")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"glimpse-rl\[parquet\]"):
        Cohort.from_csv(tmp_path / "a.parquet", TASK)
