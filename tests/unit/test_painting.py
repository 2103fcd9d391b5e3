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
from glimpse.synthetic.slides import svs, tissue
from glimpse.synthetic.slides.atlas import GLANDS, Atlas, atlas
from glimpse.synthetic.slides.blobs import _block_means, _outline, paint_blob
from glimpse.synthetic.slides.enlarging import bordered, enlarged
from glimpse.synthetic.slides.layout import Blob, Layout, lay_out
from glimpse.synthetic.slides.textures import smooth_noise
from glimpse.synthetic.slides.tissue import paint
from glimpse.synthetic.volumes.fields import axes_mm, blend, blend_ellipsoid, ellipsoid, step


@pytest.fixture(scope="module")
def textures() -> Atlas:
    return atlas(slides.VERSION, 0)


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


# --- Slides ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1024, 1280])  # the second one ends within a square
def test_leaving_out_glass_and_inner_depths_changes_no_pixel(
    textures: Atlas, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    layout = lay_out(np.random.default_rng(3), size, 1, GLANDS)
    honest, kinds = tissue._kinds_of_blocks, Counter[int]()

    def watched(layout: Layout, rag: np.ndarray) -> np.ndarray:
        found = honest(layout, rag)
        kinds.update(found.ravel().tolist())
        return found

    monkeypatch.setattr(tissue, "_kinds_of_blocks", watched)
    fast = paint(np.random.default_rng(4), layout, textures)
    assert set(kinds) == {tissue._GLASS, tissue._BORDER, tissue._INNER}
    monkeypatch.setattr(
        tissue, "_kinds_of_blocks", lambda layout, rag: np.full_like(honest(layout, rag), tissue._BORDER)
    )
    np.testing.assert_array_equal(fast, paint(np.random.default_rng(4), layout, textures))


def test_the_outline_of_a_blob_is_that_of_its_waves_everywhere() -> None:
    blob, rows, columns = Blob("tumour", 250.3, 260.7, 130.0), slice(64, 448), slice(80, 448)
    rng = np.random.default_rng(5)
    y, x = np.mgrid[rows, columns].astype(np.float32) + 0.5
    dy, dx = y - np.float32(blob.y), x - np.float32(blob.x)
    radius = np.full_like(y, blob.radius)
    for wave in range(2, 6):
        radius += (
            blob.radius * 0.14 / wave * rng.normal() * np.cos(wave * np.arctan2(dy, dx) + rng.uniform(0, 2 * np.pi))
        )
    rag = 9 * smooth_noise(rng, y.shape, 6)
    expected = np.clip((np.minimum(radius, 1.3 * blob.radius) - np.hypot(dy, dx) + rag) / 7 + 0.5, 0, 1)
    found = _outline(np.random.default_rng(5), blob, rows, columns)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert {0.0, 1.0} < set(found.ravel().tolist())


def test_a_blob_changes_colours_and_not_the_unused_channel(textures: Atlas) -> None:
    slide = np.full((512, 512, 4), (215, 145, 209, 7), np.uint8)
    staining = tissue.Staining.draw(np.random.default_rng(0))
    paint_blob(
        np.random.default_rng(1), slide, Blob("tumour", 250, 260, 130), textures.blobs["tumour"], staining.colour
    )
    assert (slide[..., 3] == 7).all() and (slide[250, 260, :3] < 200).all()


def test_means_of_blocks_by_hand() -> None:
    plane = np.kron(np.array([[1, 2], [3, 4]]), np.ones((16, 16))).astype(np.float32)
    plane[0, 0] += 256
    np.testing.assert_array_equal(_block_means(plane), [[2, 2], [3, 4]])


def test_colours_of_four_bytes_are_written_as_those_of_three(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 520, 4), np.uint8)
    image[:, :256] = (240, 241, 242, 9)  # flat tiles, and ragged ones at the far edges
    svs.write_svs(tmp_path / "four.svs", [image, image[::4, ::4]])
    svs.write_svs(tmp_path / "three.svs", [image[..., :3], image[::4, ::4, :3]])
    assert (tmp_path / "four.svs").read_bytes() == (tmp_path / "three.svs").read_bytes()


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
    assert len(text.splitlines()) >= 6 * 3 + 1
    first.unlink()
    (tmp_path / "regions.csv").unlink()
    slides.embedded_cohort(tmp_path, n=6, size=1024, progress=False, workers=2)
    assert (tmp_path / "regions.csv").read_text() == text
