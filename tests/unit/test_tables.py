"""Rows, tables and files that are made of readings."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from glimpse.atomic import write_atomically
from glimpse.reading.calibration import HIGHEST, fit
from glimpse.reading.records import Reading
from glimpse.report.calibrating import measured
from glimpse.report.tables import caption_of, further_table, summarise, table, write_predictions
from glimpse.tasks import Classification


# ---------------------------------------------------------------------------------------------- records
def reading(index: int, target: int | None, logit: float, glimpses: int = 4) -> Reading:
    prediction = np.array([0.0, logit], np.float32)
    return Reading(
        id=f"s{index}",
        patient=f"c{index}",
        target=target,
        prediction=prediction,
        predictions=prediction[None],
        scanpath=np.zeros((glimpses, 2), np.float32),
        zooms=np.zeros(glimpses, int),
        glimpses=glimpses,
        share_read=0.1 * index,
        pixels_read=100,
        seconds=0.5,
    )


READINGS = [reading(0, 0, -2.0), reading(1, 0, 1.0, 2), reading(2, 1, 0.5), reading(3, 1, 3.0)]


def test_summary_by_hand() -> None:
    row = summarise(READINGS, Classification(2))
    assert row["auc"]["value"] == pytest.approx(0.75)  # of four pairs, only (1.0, 0.5) is in the wrong order
    assert row["accuracy"]["value"] == pytest.approx(0.75)
    assert row["auc"]["low"] <= 0.75 <= row["auc"]["high"]
    assert (row["glimpses"], row["seconds_per_case"]) == (3.5, 0.5)
    assert row["share_read"] == pytest.approx(0.15)
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_answers_that_told_nothing_of_the_validation_split_are_named() -> None:
    wrong = [reading(i, i % 2, 1.0 - 2 * (i % 2)) for i in range(8)]
    temperatures = {"ppo": fit(wrong, Classification(2)).temperature, "grid": 2.0}
    assert temperatures["ppo"] == pytest.approx(HIGHEST)
    _, rows = measured({"ppo": wrong, "grid": wrong}, temperatures, Classification(2))
    text = " ".join(further_table(rows, ["brier"]).split())
    assert "temperature 100 is the highest: on the validation split, the answers of ppo carried no information" in text
    assert "blind guess" not in further_table({"grid": rows["grid"]}, ["brier"])


def test_a_split_with_one_class_has_no_auc() -> None:
    row = summarise(READINGS[:2], Classification(2))
    assert row["auc"]["value"] is None and row["accuracy"]["value"] == 0.5
    assert "n/a" in table({"ppo": row})
    with pytest.raises(ValueError, match="split is empty"):
        summarise([], Classification(2))


def test_a_case_without_a_target_is_answered_but_not_measured(tmp_path: Path) -> None:
    unknown = reading(4, None, 2.0)
    assert summarise([*READINGS, unknown], Classification(2)) == summarise(READINGS, Classification(2))
    with pytest.raises(ValueError, match="no case has a target"):
        summarise([unknown], Classification(2))
    write_predictions(tmp_path / "predictions.csv", {"ppo": [unknown]}, Classification(2), "all")
    (line,) = csv.DictReader((tmp_path / "predictions.csv").open())
    assert line["target"] == "" and float(line["p_1"]) == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-5)


def test_the_table_is_aligned_and_says_what_its_rows_are() -> None:
    interval = {"value": 0.951, "low": 0.9, "high": 1.0}
    row = {"auc": interval, "accuracy": interval, "glimpses": 12.0, "share_read": 0.0432, "seconds_per_case": 0.0312}
    text = table({"ppo": row, "full_scan": {**row, "glimpses": 351.5, "share_read": 1.0}})
    caption, rows = text.split("\n\n")
    caption = " ".join(caption.split())
    assert caption == caption_of(["full_scan"])
    assert caption.startswith("Intervals are 95 %") and "every foreground patch" in caption
    alone = table({"ppo": row})  # what has no row is not explained
    assert not any(name in alone for name in ("random", "grid", "overview", "full_scan"))
    assert caption_of(["ppo", "random"]).endswith(
        "'random' is this run's own network sent to other places (it was not trained for them)."
    )
    assert "'random'" not in caption_of(["random", "overview"], agent="random"), "it was trained for them"
    sent, overview = caption_of(["ppo", "random", "grid", "wide_first", "overview"]).split("'overview'")
    assert "'random', 'grid' and 'wide_first' are" in sent and overview.startswith(" answers before")
    header, _, first, second = rows.splitlines()
    assert first.split() == ["ppo", "0.951", "(0.900", "to", "1.000)", "0.951", "12.0", "4.3", "0.031"]
    assert second.split()[-3:] == ["351.5", "100.0", "0.031"]
    assert len(header) == len(first) == len(second)
    assert first.index("0.951 (") == second.index("0.951 (")


def test_predictions_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    write_predictions(path, {"ppo": READINGS, "grid": READINGS[:1]}, Classification(["normal", "tumour"]), "val")
    lines = list(csv.DictReader(path.open()))
    assert [line["reader"] for line in lines] == ["ppo"] * 4 + ["grid"]
    assert {line["split"] for line in lines} == {"val"}
    one = lines[3]
    assert (one["slide_id"], one["case_id"], one["target"], one["glimpses"]) == ("s3", "c3", "tumour", "4")
    assert float(one["p_tumour"]) == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-5)
    assert float(one["p_normal"]) + float(one["p_tumour"]) == pytest.approx(1, abs=1e-5)


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    write_atomically(path, "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="full"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
