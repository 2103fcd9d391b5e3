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
    with pytest.raises(ParquetError, match=r"b\.parquet: cannot be read as Parquet"):
        parquet_rows(tmp_path / "b.parquet")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"glimpse-rl\[parquet\]"):
        Cohort.from_csv(tmp_path / "a.parquet", TASK)
