"""Where looking into a volume can make sense: the head, the body, or the lungs."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from glimpse.sources import VolumeSource, open_source
from glimpse.sources.volume.body import ValueRange, body_mask
from tests.volume_files import RNG, overlap, write


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))


def ball(shape: tuple[int, int, int], radius: float, middle: tuple[float, float, float] | None = None) -> np.ndarray:
    middle = middle or tuple(n / 2 for n in shape)
    grids = np.meshgrid(*[np.arange(n) + 0.5 - at for n, at in zip(shape, middle, strict=True)], indexing="ij")
    return sum(grid**2 for grid in grids) <= radius**2


@pytest.mark.parametrize("windows", ["lung", [-1350, 150], "soft_tissue", "brain", "bone", "auto"])
def test_foreground_of_a_chest(tmp_path: Path, windows: object):
    shape = (32, 32, 32)
    body, lungs = ball(shape, 13), ball(shape, 5, (16, 16, 10)) | ball(shape, 5, (16, 16, 22))
    values = np.where(lungs, -850, np.where(body, 60, -1000)) + RNG.normal(0, 10, shape)
    source = open_source(write(tmp_path / "a.nii", values.astype(np.int16)), windows=windows)
    assert overlap(source.foreground(source.overview(shape)), body.T) > 0.97
    inner = open_source(tmp_path / "a.nii", windows=windows, foreground="lungs")
    assert overlap(inner.foreground(inner.overview(shape)), lungs.T) > 0.9
    assert pickle.loads(pickle.dumps(inner)).identity == inner.identity != source.identity


def test_the_body_is_found_where_lungs_and_air_differ_much(tmp_path: Path):
    shape = (32, 32, 32)
    body, lungs = ball(shape, 15), ball(shape, 13)
    values = np.where(lungs, -750, np.where(body, 60, -1000)) + RNG.normal(0, 60, shape)
    source = open_source(write(tmp_path / "a.nii", values.astype(np.int16)), windows="lung")
    assert overlap(source.foreground(source.overview(shape)), body.T) > 0.97


def test_another_foreground_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"foreground is one of body, lungs, got 'bones'\."):
        VolumeSource(tmp_path / "a.nii", foreground="bones")


def test_foreground_of_a_head_with_noise_around(tmp_path: Path):
    shape = (32, 32, 32)
    head, dark = ball(shape, 12), ball(shape, 4)
    signal = np.where(dark, 120.0, np.where(head, 500.0, 0.0))
    noisy = np.hypot(signal + RNG.normal(0, 20, shape), RNG.normal(0, 20, shape))
    source = open_source(write(tmp_path / "a.nii", noisy.astype(np.float32)))
    assert overlap(source.foreground(source.overview(shape)), head.T) > 0.97


@pytest.mark.parametrize(
    ("dark", "bright", "noise"), [(60, 120, 3), (-100, 50, 12), (-100, 50, 2), (100, 100, 15), (40, 40, 0)]
)
@pytest.mark.parametrize("windows", ["auto", [-160, 240]])
def test_a_volume_without_air_is_all_foreground(
    tmp_path: Path, dark: float, bright: float, noise: float, windows: object
):
    values = np.where(ball((24, 24, 24), 9), bright, dark) + RNG.normal(0, noise, (24, 24, 24))
    source = open_source(write(tmp_path / "a.nii", values.astype(np.int16)), windows=windows)
    assert source.foreground(source.overview((24, 24, 24))).all()


def test_small_parts_are_left_out_and_holes_filled():
    overview = np.zeros((20, 20, 20), np.uint8)
    overview[2:18, 2:18, 2:18] = 200
    overview[5:9, 5:9, 5:9] = 0
    expected = overview > 0
    expected[5:9, 5:9, 5:9] = True
    overview[19, 19, 19] = 255
    np.testing.assert_array_equal(body_mask(overview, ValueRange(0, 1000)), expected)
    assert body_mask(np.zeros((1, 4, 4), np.uint8), ValueRange(0, 0)).all()
