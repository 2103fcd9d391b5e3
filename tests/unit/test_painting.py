"""Painting fast gives the pixels of painting plainly; processes get one order at a time, and failures are told."""

import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glimpse.synthetic.processes import in_processes
from glimpse.synthetic.slides import recipe as slides
from glimpse.synthetic.slides.enlarging import bordered, enlarged
from glimpse.synthetic.volumes.fields import axes_mm, blend, blend_ellipsoid, ellipsoid, step

# --- Enlarging -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 3), (8, 32), (32, 8), (17, 26)])
@pytest.mark.parametrize("factor", [2, 4, 16])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_maps_are_enlarged_to_the_values_of_pillow(shape: tuple[int, int], factor: int, dtype: Any) -> None:
    coarse = (np.random.default_rng(0).standard_normal(shape) * 60 + 127).clip(0, 255).astype(dtype)
    size = (shape[1] * factor, shape[0] * factor)
    expected = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR))
    found = enlarged(bordered(coarse), factor)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def test_a_part_of_a_map_is_enlarged_as_in_the_whole() -> None:
    coarse = bordered(np.random.default_rng(0).standard_normal((12, 20)).astype(np.float32))
    part = enlarged(coarse, 16, (slice(4, 8), slice(0, 9)))
    np.testing.assert_array_equal(part, enlarged(coarse, 16)[64:128, :144])


# --- Volumes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("middle", [(1.0, -2.0, 3.0), (14.0, 0.0, 0.0), (90.0, 0.0, 0.0)])  # inside, cut off, beyond
def test_an_ellipsoid_is_blended_in_its_box_as_in_the_whole(middle: tuple[float, float, float]) -> None:
    axes, radii = axes_mm((30, 40, 36), (1.0, 0.8, 0.8)), (6.0, 9.0, 4.0)
    volume = np.random.default_rng(0).random((30, 40, 36), np.float32)
    expected = volume.copy()
    blend(expected, 0.5, step(ellipsoid(axes, middle, radii), 3))
    before = volume.copy()
    blend_ellipsoid(volume, axes, middle, radii, 0.5, 3)
    np.testing.assert_array_equal(volume, expected)
    assert (volume != before).any() == (middle[0] < 90)


# --- Processes -------------------------------------------------------------------------------------------------------


def work(number: int, seconds: float = 0.0) -> dict[str, int]:
    """What the other processes are asked to do below."""
    print("this must not be taken for a result")
    if number < 0:
        print("x" * 200_000, file=sys.stderr)  # more than a pipe holds
        raise ValueError(f"no work for {number}")
    time.sleep(seconds)
    return {"number": number, "process": os.getpid()}


def test_a_busy_process_is_given_fewer_orders() -> None:
    orders = [{"number": 0, "seconds": 2.0}, *({"number": number} for number in range(1, 12))]
    made = dict(in_processes("tests.unit.test_painting:work", orders, 2))
    assert [made[position]["number"] for position in range(12)] == list(range(12))
    shares = Counter(result["process"] for result in made.values())
    assert len(shares) == 2 and shares[made[0]["process"]] < 6


def test_the_failure_of_a_process_is_told_at_once() -> None:
    orders = [{"number": -1}, *({"number": 1, "seconds": 20.0} for _ in range(4))]
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"(?s)failed in process \d+.*no work for -1"):
        list(in_processes("tests.unit.test_painting:work", orders, 2))
    assert time.monotonic() - began < 18


def test_processes_end_with_their_generator() -> None:
    made = in_processes("tests.unit.test_painting:work", [{"number": 1}, *({"number": 2, "seconds": 60.0},) * 3], 2)
    began = time.monotonic()
    next(made)
    made.close()
    assert time.monotonic() - began < 30


def test_a_case_that_is_there_already_has_its_rows_in_the_tables(tmp_path: Path) -> None:
    first = slides.embedded_cohort(tmp_path, n=6, size=1024, progress=False)
    text = (tmp_path / "regions.csv").read_text()
    assert len(text.splitlines()) >= 6 * 2 + 1
    first.unlink()
    (tmp_path / "regions.csv").unlink()
    slides.embedded_cohort(tmp_path, n=6, size=1024, progress=False, workers=2)
    assert (tmp_path / "regions.csv").read_text() == text
