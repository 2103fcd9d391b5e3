"""Pixels of slides: what is read is composited on white, and reduced as Pillow reduces it."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

import glimpse.sources.slide.pixels as slide_pixels
from glimpse.sources.slide.pixels import Kept, on_white, read_pixels
from tests.predictions import write_scn


def test_transparent_pixels_are_white():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 51]]], np.uint8)
    # 51 / 255 = 0.2: 0.2 * (0, 100, 255) + 0.8 * 255 = (204, 224, 255)
    np.testing.assert_array_equal(
        slide_pixels._on_white(rgba), [[[10, 20, 30, 255], [255, 255, 255, 255], [204, 224, 255, 255]]]
    )


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("kept", [None, (slice(10, 80), slice(60, 190))])
@pytest.mark.parametrize("corner", [(10, 20), (120, 430)])
def test_pixels_are_those_of_read_region_on_white(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corner: tuple[int, int], kept: Kept | None, private: bool
):
    if not private:  # as a version of openslide-python without these functions
        monkeypatch.setattr(slide_pixels, "_read", None)
    with openslide.OpenSlide(write_scn(tmp_path / "a.scn")) as slide:
        rgba = np.array(slide.read_region(corner, 0, (200, 90)))
        found = on_white(read_pixels(slide, corner, 0, (200, 90), kept)).copy()
    shown = np.zeros((90, 200), bool)
    shown[kept or ()] = True
    alpha = np.where(shown, rgba[..., 3], 0)[..., None] / 255
    assert {0, 1} <= set(np.unique(alpha)), "parts of it are transparent"
    expected = np.floor(rgba[..., :3] * alpha + 255 * (1 - alpha) + 0.5)
    np.testing.assert_array_equal(found[..., 2::-1], expected)


@pytest.mark.parametrize("down", [1, 2, 3, 4, 16, 32])
@pytest.mark.parametrize("across", [1, 2, 5, 8, 16])
def test_planes_are_means_rounded_as_pillow_rounds_them(down: int, across: int):
    read = np.random.default_rng(down).integers(0, 256, (down * 6, across * 5, 4), np.uint8)
    read[..., 3] = 255
    for made in (read, read | np.uint8(250)):  # the largest sums, too
        picture = Image.frombuffer("RGBX", (across * 5, down * 6), made.tobytes(), "raw", "RGBX", 0, 1)
        expected = np.asarray(picture.reduce((across, down)))[..., 2::-1].transpose(2, 0, 1)
        np.testing.assert_array_equal(slide_pixels.planes(made, down, across), expected)


@pytest.mark.parametrize("down", [1, 2, 3, 16])
@pytest.mark.parametrize("across", [1, 2, 16])
@pytest.mark.parametrize("alpha", [0, 1, 254])
@pytest.mark.parametrize("private", [True, False])
def test_one_pixel_that_is_not_opaque_is_seen_in_every_mean(
    monkeypatch: pytest.MonkeyPatch, down: int, across: int, alpha: int, private: bool
):
    if not private:
        monkeypatch.setattr(slide_pixels, "_to_rgba", None)
    composited: list[bool] = []
    read = np.full((down * 6, across * 5, 4), 255, np.uint8)
    read[..., :3] = np.random.default_rng(down).integers(0, 256, (down * 6, across * 5, 3), np.uint8)
    read[down * 2, across * 3] = (0, alpha // 2, alpha, alpha)
    expected = slide_pixels.planes(on_white(read.copy()), down, across)
    monkeypatch.setattr(slide_pixels, "on_white", lambda pixels: composited.append(True) or on_white(pixels))
    found = slide_pixels.planes(read.copy(), down, across)
    np.testing.assert_array_equal(found, expected)
    assert composited, "white lies under it"
    opaque = read | np.array([0, 0, 0, 255], np.uint8)
    composited.clear()
    untouched = slide_pixels.planes(opaque, down, across)
    assert alpha or (found != untouched).any()
    assert not composited or down * across in (1, 3, 6, 48), "sums told that nothing has to be done"


def test_a_thread_keeps_little_memory_to_read_into():
    small, pointer = slide_pixels._room_to_read(64, 64)
    other, same = slide_pixels._room_to_read(32, 128)
    assert np.shares_memory(small, other) and same is pointer
    large, elsewhere = slide_pixels._room_to_read(1024, 1024)
    assert not np.shares_memory(small, large) and large.shape == (1024, 1024, 4)
    assert ctypes.addressof(elsewhere.contents) == large.ctypes.data
    assert ctypes.addressof(pointer.contents) == small.ctypes.data
    with ThreadPoolExecutor(1) as pool:
        assert not np.shares_memory(small, pool.submit(slide_pixels._room_to_read, 64, 64).result()[0])
