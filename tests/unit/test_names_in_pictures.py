"""Names that users choose are drawn as they are: dollar signs, line breaks, and more letters than there is room for."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse.errors import EvaluationError, UserError
from glimpse.pictures.calibration import calibration_picture, confusion_picture
from glimpse.pictures.charts import confusion_chart, contribution_chart, line_chart, svg_of, turned
from glimpse.pictures.curves import budget_curve
from glimpse.pictures.episodes import scanpath_picture, to_gif
from glimpse.pictures.labels import fitting, letters, literal, shortened
from glimpse.predicting.readings import CaseReading
from tests.reports import readings_of

NAMES = ["for $5 to $10", r"x $\frac$", "a\nb", "plain"]


def test_dollar_signs_are_no_formulas(tmp_path: Path) -> None:
    chart = svg_of(confusion_chart(np.eye(4, dtype=np.int64), NAMES, "costs $5 or $10"), "costs")
    assert "costs $5 or $10" in chart and "for $5 to $10" in chart and r"x $\frac$" in chart
    assert "$5 or $10" in svg_of(line_chart({"$5 or $10": ([0, 1], [0, 1]), "b": ([0], [0])}, "$x", "y", "t"), "lines")
    matrix = {"classes": NAMES, "matrix": np.eye(4).tolist()}
    confusion_picture({r"a $\frac$": matrix}, tmp_path / "confusion.png")
    bins = [{"probability": 0.5, "share": 0.5, "cases": 3}]
    calibration_picture({r"a $\frac$": bins}, path=tmp_path / "calibration.png")
    reading = replace(readings_of(["one"])[0], id=r"x $\frac$ y")
    contribution_chart(reading).savefig(tmp_path / "contributions.png")
    assert literal("a$b") == r"a\$b"


@pytest.mark.parametrize(
    ("suffix", "begins"), [(".svg", b"<?xml"), (".pdf", b"%PDF"), (".png", b"\x89PNG"), ("", b"\x89PNG")]
)
def test_the_suffix_says_the_format(suffix: str, begins: bytes, tmp_path: Path) -> None:
    calibration_picture({"a": [{"probability": 0.5, "share": 0.5, "cases": 3}]}, path=tmp_path / f"one{suffix}")
    confusion_picture({"a": {"classes": ["0", "1"], "matrix": [[1, 0], [0, 1]]}}, tmp_path / f"two{suffix}")
    for name in ("one", "two"):
        assert (tmp_path / f"{name}{suffix}").read_bytes().startswith(begins)


def test_labels_are_turned_where_they_have_no_room() -> None:
    assert turned(["0", "1"]) == {} and turned(["tumour", "normal"]) == {}
    assert turned(["adenocarcinoma", "squamous cell", "small cell"])["ha"] == "right"
    assert shortened("abcdef", 4) == "abc…" and shortened("abcd", 4) == "abcd"


@pytest.mark.parametrize("width", [5, 40, 100, 400])
def test_texts_are_cut_to_a_width(width: int) -> None:
    text = "adenocarcinoma of the lung, " * 4
    cut = fitting(text, 12, width)
    assert cut.endswith("…") and (letters(12).getlength(cut) <= width or len(cut) == 2)
    assert letters(12).getlength(cut[:-1] + text[len(cut) - 1] + "…") > width  # no more would fit
    assert fitting("short", 12, 400) == "short"


def test_long_names_do_not_widen_pictures() -> None:
    (reading,) = readings_of(["one"])
    usual, named = scanpath_picture(reading), scanpath_picture(replace(reading, id="a very long name " * 20))
    assert named.shape[1] <= max(640, usual.shape[1])
    assert abs(named.shape[0] - usual.shape[0]) <= 2


def test_pictures_that_cannot_be_written_say_why(tmp_path: Path) -> None:
    (reading,) = readings_of(["one"])
    case = CaseReading(**{one.name: getattr(reading, one.name) for one in fields(reading)})
    with pytest.raises(UserError, match=r"nowhere/a.gif: cannot be written"):
        to_gif(reading, tmp_path / "nowhere" / "a.gif")
    to_gif(reading, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.format == "GIF"
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]
    with pytest.raises(EvaluationError, match="pictures of this suffix"):
        case.plot(tmp_path / "o")
    for write in (
        lambda path: budget_curve({"ppo": {1: {"auc": {"value": 0.5, "low": 0.4, "high": 0.6}}}}, path=path),
        lambda path: calibration_picture({}, path=path),
        lambda path: confusion_picture({}, path=path),
    ):
        write(tmp_path / "c.png")
        with Image.open(tmp_path / "c.png") as picture:
            assert picture.format == "PNG"
        with pytest.raises(UserError, match=r"nowhere/c.png: cannot be written"):
            write(tmp_path / "nowhere" / "c.png")
    with pytest.raises(UserError, match=r"nowhere/o.png: cannot be written"):
        case.plot(tmp_path / "nowhere" / "o.png")
    assert case.plot(tmp_path / "o.PNG").size == Image.open(tmp_path / "o.PNG").size
