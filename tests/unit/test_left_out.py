"""A run names the cases that its training left out, and why: in a table and in its report."""

import csv
import html
import os
import pickle
from pathlib import Path

import pytest
from PIL import Image

from glimpse.cohort.skipped import Skipped
from glimpse.report.html.writing import write_report
from glimpse.settings.composing import composed
from glimpse.train import train
from tests.photo_files import colours
from tests.reports import readings_of, write_run

SETTINGS = """
    env=photo agent=random experiment=smoke threads=1 progress=false report.readers=[] report.pictures=0
    pretrain=none warm_up=none
    env.make.overview_size=32 env.make.glimpse_size=16 env.make.glimpse_extents=[16] env.cohort.on_error=skip
"""


@pytest.mark.filterwarnings("ignore")
def test_a_training_lists_the_cases_that_it_left_out(tmp_path: Path) -> None:
    rows = ["case_id,slide_id,path,target,split"]
    for index, split in enumerate(["train"] * 5 + ["val"] * 2 + ["test"] * 2):
        Image.fromarray(colours(64, 64, index)).save(tmp_path / f"s{index}.png")
        rows.append(f"p{index},s{index},s{index}.png,{index % 2},{split}")
    os.truncate(tmp_path / "s4.png", 3000)
    (tmp_path / "cohort.csv").write_text("\n".join(rows), encoding="utf-8")
    run = tmp_path / "run"
    train(composed(*SETTINGS.split(), f"env.cohort.path={tmp_path / 'cohort.csv'}", f"run={run}"))
    with open(run / "failures.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["slide_id"], row["path"], row["error"]) == ("s4", "s4.png", "ImageReadError")
    assert row["reason"].startswith(f"line 6, s4: {tmp_path / 's4.png'}: ")
    assert "\ns4," not in (run / "splits.csv").read_text() and ",s4," not in (run / "splits.csv").read_text()
    page = (run / "report.html").read_text("utf-8")
    assert "<h2>Cases that were left out</h2>" in page and "<dt>cases left out</dt><dd>1</dd>" in page
    assert html.escape(row["reason"], quote=False) in page.replace("&#39;", "'").replace("&#34;", '"')


def test_a_run_that_left_nothing_out_says_nothing_of_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", readings_of())
    page = write_report(run).file.read_text("utf-8")
    assert "left out" not in page


def test_messages_keep_their_case_where_they_are_copied() -> None:
    message = Skipped("line 2, a: a.png: no such file.", "a", "a.png", "ImageReadError")
    copied = pickle.loads(pickle.dumps(message))
    assert copied == "line 2, a: a.png: no such file."
    assert (copied.case, copied.path, copied.error) == ("a", "a.png", "ImageReadError")
