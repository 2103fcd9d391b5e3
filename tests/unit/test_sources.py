"""Arrays as sources, and how the reader of a file is found."""

import math
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from glimpse.sources import (
    ArraySource,
    ImageReadError,
    ImageSource,
    UnsupportedImageError,
    open_source,
    register_reader,
)
from glimpse.sources import registry as base_module
from glimpse.views import Views
from tests.volume_files import write

# Arrays


def test_array_reads_at_its_own_resolution():
    array = np.arange(5 * 6, dtype=np.uint8).reshape(1, 5, 6)
    source = ArraySource(array, background=200)
    np.testing.assert_array_equal(source.read((2, 3), (2, 2), (2, 2)), array[:, 1:3, 2:4])
    assert source.shape == (5, 6)
    assert source.channels == 1
    assert source.spacing is None


def test_array_outside_is_background():
    source = ArraySource(np.full((2, 4, 4), 7, np.uint8), background=(1, 2))
    corner = source.read((0, 4), (4, 4), (4, 4))
    expected = np.full((2, 4, 4), 7, np.uint8)
    expected[0, :2], expected[0, :, 2:], expected[1, :2], expected[1, :, 2:] = 1, 1, 2, 2
    np.testing.assert_array_equal(corner, expected)
    np.testing.assert_array_equal(source.read((-50, 90), 4, (3, 5))[:, 0, 0], (1, 2))
    assert source.read((-50, 90), 4, (3, 5)).shape == (2, 3, 5)


def test_array_means_over_whole_boxes():
    array = np.array([[[0, 1, 10, 20], [2, 3, 30, 41]]], np.uint8)
    # (0 + 1 + 2 + 3) / 4 = 1.5 rounds up; (10 + 20 + 30 + 41) / 4 = 25.25
    np.testing.assert_array_equal(ArraySource(array).read((1, 2), (2, 4), (1, 2)), [[[2, 25]]])


def test_array_fractional_boxes_count_by_area():
    source = ArraySource(np.array([[[0, 60, 120]]], np.uint8))
    # boxes of 1.5 pixels: (0 + 60 / 2) / 1.5 = 20 and (60 / 2 + 120) / 1.5 = 100
    np.testing.assert_array_equal(source.read((0.5, 1.5), (1, 3), (1, 2)), [[[20, 100]]])


def test_array_whole_extents_start_at_the_nearest_pixel():
    source = ArraySource(np.arange(10, dtype=np.uint8).reshape(1, 1, 10))
    np.testing.assert_array_equal(source.read((0.5, 4.4), (1, 2), (1, 2)), [[[3, 4]]])  # from 3.4
    np.testing.assert_array_equal(source.read((0.5, 4.6), (1, 2), (1, 2)), [[[4, 5]]])  # from 3.6


def test_array_enlarges_where_asked():
    source = ArraySource(np.array([[[10, 20]]], np.uint8))
    np.testing.assert_array_equal(source.read((0.5, 1), (1, 2), (2, 4)), [[[10, 10, 20, 20]] * 2])


def test_array_in_three_dimensions():
    volume = np.random.default_rng(0).integers(0, 255, (2, 4, 6, 8), dtype=np.uint8)
    source = ArraySource(volume, spacing=(5, 1, 1), unit="mm", background=3)
    np.testing.assert_array_equal(source.read((2, 3, 4), (2, 2, 4), (2, 2, 4)), volume[:, 1:3, 2:4, 2:6])
    overview = source.overview((2, 3, 4))
    np.testing.assert_array_equal(overview[1, 0, 0, 0], np.floor(volume[1, :2, :2, :2].mean() + 0.5))
    edge = source.read((0, 0, 0), 2, (2, 2, 2))
    assert (edge[:, 0] == 3).all()
    np.testing.assert_array_equal(edge[:, 1, 1, 1], volume[:, 0, 0, 0])
    assert source.spacing == (5.0, 1.0, 1.0)
    assert source.unit == "mm"


def test_array_wide_reads_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch):
    source = ArraySource(np.random.default_rng(0).integers(0, 255, (1, 60, 90), dtype=np.uint8))
    whole, odd = source.overview((30, 45)), source.overview((7, 11))
    monkeypatch.setattr("glimpse.sources.array.MAX_PIXELS", 500)
    np.testing.assert_array_equal(source.overview((30, 45)), whole)
    np.testing.assert_allclose(source.overview((7, 11)).astype(int), odd.astype(int), atol=1)


def test_array_file_is_mapped_and_pickles_as_its_path(tmp_path: Path):
    array = np.random.default_rng(0).integers(0, 255, (3, 300, 400), dtype=np.uint8)
    np.save(tmp_path / "image.npy", array)
    source = open_source(tmp_path / "image.npy", mpp=0.5, background=255)
    np.testing.assert_array_equal(source.read((10, 10), 4, (4, 4)), array[:, 8:12, 8:12])
    packed = pickle.dumps(source)
    copy = pickle.loads(packed)
    assert len(packed) < 1000
    assert copy.spacing == (0.5, 0.5)
    assert copy.unit == "um"
    assert copy.identity == source.identity
    assert copy.background.tolist() == [255, 255, 255]
    np.testing.assert_array_equal(copy.overview((30, 40)), source.overview((30, 40)))


def test_arrays_in_memory_have_their_own_identity():
    array = np.zeros((1, 4, 4), np.uint8)
    assert ArraySource(array).identity != ArraySource(array).identity


@pytest.mark.parametrize("array", [np.zeros((1, 4, 4), np.float32), np.zeros(4, np.uint8)])
def test_arrays_of_another_kind_are_refused(array: np.ndarray):
    with pytest.raises(UnsupportedImageError, match="uint8 array of shape"):
        ArraySource(array)


def test_truncated_array_file(tmp_path: Path):
    np.save(tmp_path / "image.npy", np.zeros((3, 100, 100), np.uint8))
    whole = (tmp_path / "image.npy").read_bytes()
    (tmp_path / "image.npy").write_bytes(whole[:5000])
    with pytest.raises(ImageReadError, match=r"image\.npy.*truncated"):
        open_source(tmp_path / "image.npy").check()


def test_wrong_numbers_of_axes_are_refused():
    source = ArraySource(np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="expected 2 values"):
        source.read((1, 1, 1), 2, (2, 2))
    with pytest.raises(ValueError, match="positive extent"):
        source.read((1, 1), 0, (2, 2))


def test_foreground_of_an_array():
    array = np.full((2, 1, 4), 100, np.uint8)
    array[1, 0, 1], array[0, 0, 2] = 109, 92  # 9 from the background is foreground, 8 is not
    source = ArraySource(array, background=100)
    np.testing.assert_array_equal(source.foreground(array), [[False, True, False, False]])
    assert source.foreground(np.full_like(array, 100)).all(), "a blank image can be looked at everywhere"


# Finding a reader


def test_a_missing_file_says_so(tmp_path: Path):
    with pytest.raises(ImageReadError, match=r"nowhere\.svs: no such file"):
        open_source(tmp_path / "nowhere.svs")


@pytest.mark.parametrize(
    ("name", "content", "described"),
    [
        ("notes.txt", b"some text", "'.txt' with text"),
        ("photo.jpg", b"\xff\xd8\xff\xe0" + bytes(100), "'.jpg' with a JPEG image"),
        ("scan.dcm", b"II*\0" + bytes(124) + b"DICM" + bytes(10), "'.dcm' with a DICOM file"),
        ("none.xyz", b"", "'.xyz' with no content"),
        ("odd.bin", bytes(range(200, 220)), "'.bin' with unknown content .first bytes c8 c9"),
        ("words.svs", b"not a slide at all", "'.svs' with text"),
    ],
)
def test_unsupported_files_name_suffix_and_content(tmp_path: Path, name: str, content: bytes, described: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnsupportedImageError, match=f"{name}: .*{described}"):
        open_source(tmp_path / name).check()


def test_a_folder_is_unsupported(tmp_path: Path):
    with pytest.raises(UnsupportedImageError, match="a folder"):
        open_source(tmp_path)


def test_content_outweighs_the_suffix(tmp_path: Path):
    np.save(tmp_path / "image.npy", np.zeros((1, 4, 4), np.uint8))
    (tmp_path / "image.npy").rename(tmp_path / "image.tif")
    assert isinstance(open_source(tmp_path / "image.tif"), ArraySource)


def test_a_reader_can_be_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base_module, "_READERS", dict(base_module._READERS))

    def constant(path: Path, value: int = 1) -> ImageSource:
        return ArraySource(np.full((1, 2, 2), value, np.uint8))

    register_reader("constant", constant, suffixes=(".const",))
    (tmp_path / "a.CONST").write_bytes(b"x")
    assert open_source(tmp_path / "a.CONST", value=9).overview((1, 1)) == 9


@pytest.mark.parametrize("suffix", ["npy", "png", "nii"])
def test_mpp_of_one_image_counts_more_than_the_spacing_of_all(suffix: str, tmp_path: Path) -> None:
    """A column of the CSV names a single image; the setting `spacing` is meant for all of them."""
    path = tmp_path / f"image.{suffix}"
    _write_plain(path, 60)
    unit = {"unit": "mm"} if suffix == "npy" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the file of the volume states another size
        frame = open_source(path, spacing=3.0, mpp=500, **unit).frame
    assert frame.to_physical([1.0] * frame.ndim).tolist() == [500.0 if frame.unit == "um" else 0.5] * frame.ndim


@pytest.mark.parametrize("suffix", ["png", "nii"])
@pytest.mark.parametrize("spacing", [0, -1, [1, 2, 3, 4], [], "0.1", [1, 0], math.nan, True])
def test_a_spacing_that_cannot_be_is_said_to_be_one(suffix: str, spacing: object, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    _write_plain(path, 60)
    words = rf"^{path}: expected spacing as one number above 0, or {2 if suffix == 'png' else 3} of them"
    with pytest.raises(ValueError, match=words):
        open_source(path, spacing=spacing)


@pytest.mark.parametrize("suffix", ["npy", "png", "nii", "tif", "svs", "dcm"])
@pytest.mark.parametrize("mpp", [0, -1, "0.5", math.nan, math.inf, True])
def test_an_mpp_that_cannot_be_is_not_taken_for_damage_of_the_file(
    suffix: str, mpp: object, tmp_path: Path, tiny_slides: Path, small_chest: Path
) -> None:
    path = {"svs": min(tiny_slides.parent.rglob("*.svs")), "dcm": small_chest}.get(suffix, tmp_path / f"image.{suffix}")
    if not path.exists():
        _write_plain(path, 60)
    unit = {"unit": "mm"} if suffix == "npy" else {}
    with pytest.raises(ValueError, match=rf"^{path}: expected mpp as one number above 0") as raised:
        open_source(path, mpp=mpp, **unit)
    assert not isinstance(raised.value, ImageReadError)
    for possible in (np.float32(0.5), np.int64(1), 1):
        open_source(path, mpp=possible, **unit).close()


@pytest.mark.parametrize("suffix", ["npy", "png", "nii", "tif"])
def test_relative_paths_mean_the_same_images_wherever_the_working_directory_moves(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two folders hold files of one name, size and time; neither the caches nor late opening may mix them up."""
    for folder, value in (("a", 60), ("b", 160)):
        (tmp_path / folder).mkdir()
        _write_plain(tmp_path / folder / f"image.{suffix}", value)
        os.utime(tmp_path / folder / f"image.{suffix}", (1, 1))
    views, seen = {}, {}
    for folder in ("a", "b"):
        monkeypatch.chdir(tmp_path / folder)
        seen[folder] = open_source(f"image.{suffix}")
        assert seen[folder].name == f"image.{suffix}"
        views[folder] = Views((4,) * seen[folder].ndim, (4,) * seen[folder].ndim, (4,)).overview(seen[folder])
    late = pickle.loads(pickle.dumps(open_source(f"image.{suffix}")))
    monkeypatch.chdir(tmp_path)
    assert not np.array_equal(views["a"], views["b"])
    assert seen["a"].identity != seen["b"].identity
    shown = late.overview((4,) * late.ndim)
    np.testing.assert_array_equal(shown, views["b"])


def _write_plain(path: Path, value: int) -> None:
    """Writes a small image in the format of its suffix, whose size in bytes does not depend on the value."""
    ramp = (np.arange(64 * 64).reshape(64, 64) % 32 + value).astype(np.uint8)
    if path.suffix == ".npy":
        np.save(path, ramp[None])
    elif path.suffix == ".nii":
        turned = ramp if value < 100 else ramp.T  # grey values are scaled to the same range
        write(path, np.repeat(turned[:, :, None], 4, 2).astype(np.int16))
    elif path.suffix == ".png":
        Image.fromarray(ramp).save(path, compress_level=0)
    else:
        tifffile.imwrite(path, np.repeat(ramp[..., None], 3, 2), tile=(64, 64), photometric="rgb")
