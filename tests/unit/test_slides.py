"""Slides as sources: what is read is what lies there, and broken files say so."""

import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

import glimpse.sources.slide.source as slide_module
from glimpse.sources import (
    ArraySource,
    ImageReadError,
    SlideSource,
    UnsupportedImageError,
    open_source,
)
from glimpse.sources.held import HeldOpen
from glimpse.sources.slide.files import known_mpp
from glimpse.sources.slide.pixels import read_pixels
from glimpse.sources.thresholds import otsu_threshold

APERIO = "Aperio Image Library v12\r\n{w}x{h} [0,0 {w}x{h}] (64x64) RAW"
REAL_SLIDE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "real" / "cmu_small_region.svs"


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Rounded means of boxes, worked out another way than the sources do."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    boxes = image[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    return np.floor(boxes.mean(axis=(1, 3)) + 0.5).astype(np.uint8)


def write_svs(
    path: Path, image: np.ndarray, factors: tuple[int, ...] = (4,), facts: str = "|AppMag = 20|MPP = 0.5"
) -> Path:
    height, width = image.shape[:2]
    with tifffile.TiffWriter(path) as tiff:
        options = {"photometric": "rgb", "metadata": None, "software": False}
        tiled = {"tile": (64, 64), "compression": "zlib", **options}
        tiff.write(image, description=APERIO.format(w=width, h=height) + facts, **tiled)
        tiff.write(shrink(image, 8), description="Aperio thumbnail", rowsperstrip=16, **options)
        for factor in factors:
            tiff.write(shrink(image, factor), description="Aperio level", **tiled)
    return path


def write_tiff(path: Path, image: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb", compression="zlib", metadata=None, **options)
    return path


def test_svs_reads_what_was_written(tmp_path: Path):
    image = pixels(300, 401)
    source = open_source(write_svs(tmp_path / "a.svs", image))
    assert isinstance(source, SlideSource)
    assert (source.shape, source.channels, source.spacing, source.unit) == ((300, 401), 3, (0.5, 0.5), "um")
    np.testing.assert_array_equal(source.read((100, 200), 64, (64, 64)), image[68:132, 168:232].transpose(2, 0, 1))
    np.testing.assert_array_equal(
        source.read((100, 201), (32, 64), (32, 64)), image[84:116, 169:233].transpose(2, 0, 1)
    )


def test_svs_reduces_by_boxes(tmp_path: Path):
    image = pixels(256, 256)
    source = SlideSource(write_svs(tmp_path / "a.svs", image))
    read = source.read((128, 128), 128, (64, 64)).astype(int)
    np.testing.assert_allclose(read, shrink(image[64:192, 64:192], 2).transpose(2, 0, 1).astype(int), atol=1)


@pytest.mark.parametrize(("extent", "level"), [(64, 0), (128, 0), (252, 0), (255, 1), (256, 1), (512, 1), (1024, 2)])
def test_svs_reads_the_best_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extent: int, level: int):
    image = np.zeros((1024, 1024, 3), np.uint8)
    source = SlideSource(write_svs(tmp_path / "a.svs", image, factors=(4, 16)))
    levels = []

    def watched(slide, corner, level, size, kept):
        levels.append(level)
        return read_pixels(slide, corner, level, size, kept)

    monkeypatch.setattr(slide_module, "read_pixels", watched)
    source.read((512, 512), extent, (64, 64))
    assert levels == [level], "255 is within 1 % of level 1, 252 is not"


def test_svs_level_pixels_lie_where_they_should(tmp_path: Path):
    image = pixels(512, 512)
    source = SlideSource(write_svs(tmp_path / "a.svs", image))
    np.testing.assert_array_equal(
        source.read((256, 128), 64, (16, 16)), shrink(image, 4)[56:72, 24:40].transpose(2, 0, 1)
    )


def test_svs_centres_snap_to_the_nearest_pixel(tmp_path: Path):
    image = pixels(128, 128)
    source = SlideSource(write_svs(tmp_path / "a.svs", image))
    np.testing.assert_array_equal(source.read((10.4, 10.6), 4, (4, 4)), image[8:12, 9:13].transpose(2, 0, 1))
    np.testing.assert_array_equal(source.read((10.6, 10.4), 4, (4, 4)), image[9:13, 8:12].transpose(2, 0, 1))


def test_svs_outside_is_white(tmp_path: Path):
    image = np.minimum(pixels(100, 100), 200)
    source = SlideSource(write_svs(tmp_path / "a.svs", image))
    corner = source.read((100, 0), 20, (20, 20))
    assert (corner[:, 10:] == 255).all()
    assert (corner[:, :, :10] == 255).all()
    np.testing.assert_array_equal(corner[:, :10, 10:], image[90:, :10].transpose(2, 0, 1))
    assert (source.read((-1000, 5000), 20, (7, 9)) == 255).all()
    assert source.read((-1000, 5000), 20, (7, 9)).shape == (3, 7, 9)
    np.testing.assert_array_equal(source.background, (255, 255, 255))


@pytest.mark.parametrize(("height", "width"), [(300, 400), (301, 403), (257, 199)])
def test_svs_overview_covers_the_whole_slide(tmp_path: Path, height: int, width: int):
    ramp = np.linspace(0, 255, height)[:, None, None] * 0.5 + np.linspace(0, 255, width)[None, :, None] * 0.5
    image = np.repeat(ramp, 3, axis=2).round().astype(np.uint8)
    overview = SlideSource(write_svs(tmp_path / "a.svs", image)).overview((32, 32))
    expected = ArraySource(image.transpose(2, 0, 1)).overview((32, 32))
    assert overview.shape == (3, 32, 32)
    assert np.abs(overview.astype(int) - expected.astype(int)).max() <= 4, "no white seam at the far edges"


def test_svs_wide_reads_in_parts_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = SlideSource(write_svs(tmp_path / "a.svs", pixels(512, 256), factors=()))
    whole = source.overview((64, 32))
    monkeypatch.setattr(slide_module, "MAX_PIXELS", 5000)
    np.testing.assert_array_equal(source.overview((64, 32)), whole)


class Bounded(openslide.OpenSlide):
    """A slide that states the bounds of its non-empty part, as MRXS files do."""

    @property
    def properties(self):
        edges = {"x": "64", "y": "32", "width": "128", "height": "96"}
        return {**super().properties, **{f"openslide.bounds-{key}": value for key, value in edges.items()}}


def test_bounds_are_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image = np.minimum(pixels(256, 256), 250)
    path = write_svs(tmp_path / "a.svs", image)
    monkeypatch.setattr(openslide, "OpenSlide", Bounded)
    source = SlideSource(path)
    assert source.shape == (96, 128)
    np.testing.assert_array_equal(source.read((8, 8), 16, (16, 16)), image[32:48, 64:80].transpose(2, 0, 1))
    corner = source.read((96, 128), 16, (16, 16))
    np.testing.assert_array_equal(corner[:, :8, :8], image[120:128, 184:192].transpose(2, 0, 1))
    assert (corner[:, 8:] == 255).all(), "outside the bounds is background although the slide goes on"
    assert (corner[:, :, 8:] == 255).all()
    np.testing.assert_array_equal(source.overview((96, 128)), image[32:128, 64:192].transpose(2, 0, 1))


def test_generic_tiled_tiff_takes_its_resolution(tmp_path: Path):
    path = write_tiff(tmp_path / "a.tif", pixels(128, 192), resolution=(20_000, 40_000), resolutionunit="CENTIMETER")
    source = open_source(path)
    assert isinstance(source, SlideSource)
    np.testing.assert_allclose(source.spacing, (0.25, 0.5))  # x: 1 cm / 20,000


def test_a_slide_without_pixel_size_has_none(tmp_path: Path):
    path = write_tiff(tmp_path / "a.tif", pixels(128, 192))
    assert open_source(path).spacing is None
    assert open_source(path, mpp=0.3).spacing == (0.3, 0.3)


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5", "openslide.objective-power": "40"}, (0.5, 0.25)),
        ({"tiff.XResolution": "40000", "tiff.YResolution": "20000", "tiff.ResolutionUnit": "centimeter"}, (0.5, 0.25)),
        ({"tiff.XResolution": "50800", "tiff.YResolution": "50800", "tiff.ResolutionUnit": "inch"}, (0.5, 0.5)),
        ({"tiff.XResolution": "72", "tiff.YResolution": "72", "tiff.ResolutionUnit": "inch"}, None),
        ({"tiff.XResolution": "50800", "tiff.YResolution": "50800", "tiff.ResolutionUnit": "none"}, None),
        ({"openslide.mpp-x": "nonsense", "openslide.mpp-y": "0.5"}, None),
        ({}, None),
    ],
)
def test_where_the_pixel_size_comes_from(properties: dict[str, str], expected: tuple[float, float] | None):
    assert known_mpp(properties, "a.svs", None) == (None if expected is None else pytest.approx(expected))
    with warnings.catch_warnings():
        warnings.simplefilter("error" if expected is None else "ignore")
        assert known_mpp(properties, "a.svs", 9.0) == (9.0, 9.0)


@pytest.mark.parametrize(("given", "said"), [(0.25, False), (0.262, False), (0.238, False), (0.27, True), (0.5, True)])
def test_a_given_pixel_size_counts_and_contradictions_are_said(tmp_path: Path, given: float, said: bool):
    path = write_svs(tmp_path / "a.svs", pixels(128, 128), facts="|AppMag = 40|MPP = 0.25")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert SlideSource(path, mpp=given).spacing == (given, given)
    message = (
        f"{path}: a pixel is {given:g} um according to mpp, but 0.25 um according to the file. mpp counts; remove it"
    )
    assert [str(one.message).startswith(message) for one in caught] == [True] * said


def test_objective_power_is_a_guess_with_a_warning(tmp_path: Path):
    path = write_svs(tmp_path / "a.svs", pixels(128, 128), facts="|AppMag = 40")
    with pytest.warns(UserWarning, match=r"a\.svs: .*0\.25 um per pixel from its objective power of 40.*column mpp"):
        assert SlideSource(path).spacing == (0.25, 0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SlideSource(path, mpp=0.3).spacing == (0.3, 0.3)


def test_slides_pickle_as_their_path(tmp_path: Path):
    source = SlideSource(write_svs(tmp_path / "a.svs", pixels(128, 128), facts=""), mpp=0.7)
    source.overview((8, 8))
    packed = pickle.dumps(source)
    copy = pickle.loads(packed)
    assert len(packed) < 1000
    assert copy.spacing == (0.7, 0.7)
    assert copy.identity == source.identity
    np.testing.assert_array_equal(copy.overview((8, 8)), source.overview((8, 8)))


def test_slides_open_lazily_and_again_after_closing(tmp_path: Path):
    source = SlideSource(write_svs(tmp_path / "a.svs", pixels(128, 128)))
    assert source._slide is None
    first = source.overview((8, 8))
    source.close()
    assert source._slide is None
    np.testing.assert_array_equal(source.overview((8, 8)), first)


def test_open_slides_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slide_module, "_open_slides", HeldOpen(2))
    path = write_svs(tmp_path / "a.svs", pixels(128, 128))
    sources = [SlideSource(path) for _ in range(4)]
    views = [source.overview((8, 8)) for source in sources]
    assert [source._slide is not None for source in sources] == [False, False, True, True]
    np.testing.assert_array_equal(sources[0].overview((8, 8)), views[0])


def test_many_threads_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image = pixels(256, 256)
    source = SlideSource(write_svs(tmp_path / "a.svs", image))
    opened = []
    original = slide_module._open
    monkeypatch.setattr(slide_module, "_open", lambda path: opened.append(path) or original(path))
    barrier = threading.Barrier(8)

    def read(index: int) -> bool:
        if index < 8:
            barrier.wait()
        top, left = index % 190, (7 * index) % 190
        found = source.read((top + 16, left + 16), 32, (32, 32))
        return np.array_equal(found, image[top : top + 32, left : left + 32].transpose(2, 0, 1))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))
    assert len(opened) == 1, "opened once, under a lock"


def test_truncated_slides_are_found_out(tmp_path: Path):
    whole = write_svs(tmp_path / "whole.svs", pixels(512, 512), factors=()).read_bytes()
    open_source(tmp_path / "whole.svs").check()
    for kept in (len(whole) // 2, len(whole) - 2000, 6, 0):
        path = tmp_path / f"cut_{kept}.svs"
        path.write_bytes(whole[:kept])
        with pytest.raises(ImageReadError, match=rf"{path.name}: .*truncated.*[Cc]opy the file again"):
            open_source(path).check()


def test_truncated_slides_that_openslide_opens_are_found_out_too(tmp_path: Path):
    path = tmp_path / "a.tif"  # over 5 MB in its only level: OpenSlide does not look at the pixels when it opens
    tifffile.imwrite(path, np.zeros((1600, 1600, 3), np.uint8), tile=(256, 256), photometric="rgb", metadata=None)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert openslide.OpenSlide(path).dimensions == (1600, 1600)
    with pytest.raises(ImageReadError, match=r"a\.tif: the file is truncated: its pixels reach to byte"):
        open_source(path).check()


def test_a_read_that_fails_names_the_file_and_the_next_one_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image = pixels(128, 128)
    source = SlideSource(write_svs(tmp_path / "a.svs", image))
    source.overview((8, 8))

    def fail(slide, corner, level, size, kept):
        raise openslide.OpenSlideError("cannot decode tile")

    with monkeypatch.context() as patch:
        patch.setattr(slide_module, "read_pixels", fail)
        with pytest.raises(
            ImageReadError, match=r"a\.svs: cannot be read at level 0, 8 x 8 pixels .*cannot decode tile"
        ):
            source.read((64, 64), 8, (8, 8))
    assert source._slide is None, "OpenSlide keeps a handle that failed in its error state"
    np.testing.assert_array_equal(source.read((64, 64), 8, (8, 8)), image[60:68, 60:68].transpose(2, 0, 1))


def test_openslide_does_not_read_a_tiff_without_tiles(tmp_path: Path):
    tifffile.imwrite(tmp_path / "plain.tif", pixels(64, 64), photometric="rgb")
    with pytest.raises(UnsupportedImageError, match=r"plain\.tif: suffix '\.tif' with a TIFF image.*not tiled"):
        SlideSource(tmp_path / "plain.tif").check()


def test_otsu_by_hand():
    # 0, 1 | 9, 10: at t = 1, w = 1/2, 1/2 and means 0.5, 9.5: 81 / 4 = 20.25; at t = 0, 3/16 (20 / 3)^2 = 8.3
    assert otsu_threshold(np.array([0, 1, 9, 10], np.uint8)) == 1
    assert otsu_threshold(np.array([3, 3, 3, 200], np.uint8)) == 3


@pytest.mark.skipif(not REAL_SLIDE.is_file(), reason="the real slide cmu_small_region.svs is not on this machine")
def test_real_slide():
    source = open_source(REAL_SLIDE)
    source.check()
    assert (source.shape, source.spacing, source.unit) == ((2967, 2220), (0.499, 0.499), "um")
    overview = source.overview((256, 256))
    assert 0.1 < source.foreground(overview).mean() < 0.6
    direct = np.asarray(openslide.OpenSlide(REAL_SLIDE).read_region((1000, 1500), 0, (64, 64)))[..., :3]
    np.testing.assert_array_equal(source.read((1532, 1032), 64, (64, 64)), direct.transpose(2, 0, 1))
    assert source.read((2967, 2220), 128, (64, 64)).shape == (3, 64, 64)
