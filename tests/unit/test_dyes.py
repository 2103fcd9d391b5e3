"""Slides that are dyed anew by `benchmarks.stains`: other colours where the dyes are, and the same glass."""

import csv
from pathlib import Path

import numpy as np
import openslide
import pytest

from benchmarks.stains import dyed, dyed_anew
from glimpse.learning.colours import EOSIN, HAEMATOXYLIN


def test_glass_stays_white() -> None:
    assert dyed(np.full((4, 4, 3), 255, np.uint8)).min() >= 254


@pytest.mark.parametrize(
    ("dye", "other", "amount"),
    [(HAEMATOXYLIN, (0.5626, 0.7201, 0.4062), 0.7), (EOSIN, (0.2159, 0.8012, 0.5581), 1.3)],
)
def test_a_dye_takes_the_colour_of_the_other(dye: tuple[float, ...], other: tuple[float, ...], amount: float) -> None:
    density = np.array(dye) / np.linalg.norm(dye)
    pixel = np.round(256 * np.exp(-density) - 1).astype(np.uint8)
    expected = 256 * np.exp(-amount * np.array(other) / np.linalg.norm(other)) - 1
    assert np.abs(dyed(np.full((2, 2, 3), pixel))[0, 0] - expected).max() < 2.5


def test_the_test_slides_of_a_cohort_are_dyed_and_only_they(tiny_slides: Path, tmp_path: Path) -> None:
    other = dyed_anew(tiny_slides, tmp_path / "other")
    with open(tiny_slides, newline="") as file:
        own = {row["slide_id"]: row for row in csv.DictReader(file) if row["split"] == "test"}
    with open(other, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["slide_id"] for row in rows} == set(own)
    row = rows[0]
    with (
        openslide.OpenSlide(tiny_slides.parent / own[row["slide_id"]]["path"]) as before,
        openslide.OpenSlide(other.parent / row["path"]) as after,
    ):
        assert before.dimensions == after.dimensions and after.level_count == 3
        assert after.properties["openslide.mpp-x"] == before.properties["openslide.mpp-x"]
        pictures = [
            np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")) for slide in (before, after)
        ]
    assert np.abs(pictures[1].astype(int) - dyed(pictures[0])).mean() < 3
    assert np.abs(pictures[1].astype(int) - pictures[0]).mean() > 3
    written = (other.parent / row["path"]).stat().st_mtime_ns
    dyed_anew(tiny_slides, tmp_path / "other")
    assert (other.parent / row["path"]).stat().st_mtime_ns == written
