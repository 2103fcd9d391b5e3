"""Arrays and slides as sources: what is read is what lies there, and broken files say so."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

import glimpse.sources.slide as slide_module
from glimpse.sources import (
    ArraySource,
    ImageReadError,
    ImageSource,
    SlideSource,
    UnsupportedImageError,
    open_source,
    register_reader,
)
from glimpse.sources import base as base_module
from glimpse.sources.slide import otsu_threshold
from glimpse.sources.slide_files import known_mpp

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


# Slides


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
    original = openslide.OpenSlide.read_region

    def watched(self, location, level, size):
        levels.append(level)
        return original(self, location, level, size)

    monkeypatch.setattr(openslide.OpenSlide, "read_region", watched)
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


def test_transparent_pixels_are_white():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 51]]], np.uint8)
    # 51 / 255 = 0.2: 0.2 * (0, 100, 255) + 0.8 * 255 = (204, 224, 255)
    np.testing.assert_array_equal(
        slide_module._on_white(rgba), [[[10, 20, 30, 255], [255, 255, 255, 255], [204, 224, 255, 255]]]
    )


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
        ({"tiff.XResolution": "72", "tiff.YResolution": "72", "tiff.ResolutionUnit": "inch"}, (9.0, 9.0)),
        ({"tiff.XResolution": "50800", "tiff.YResolution": "50800", "tiff.ResolutionUnit": "none"}, (9.0, 9.0)),
        ({"openslide.mpp-x": "nonsense", "openslide.mpp-y": "0.5"}, (9.0, 9.0)),
        ({}, (9.0, 9.0)),
    ],
)
def test_where_the_pixel_size_comes_from(properties: dict[str, str], expected: tuple[float, float]):
    assert known_mpp(properties, "a.svs", 9.0) == pytest.approx(expected)


def test_objective_power_is_a_guess_with_a_warning(tmp_path: Path):
    path = write_svs(tmp_path / "a.svs", pixels(128, 128), facts="|AppMag = 40")
    with pytest.warns(
        UserWarning, match=r"a\.svs: .*0\.25 um per pixel from its objective power of 40.*0\.3 is not used"
    ):
        assert SlideSource(path, mpp=0.3).spacing == (0.25, 0.25)


def test_nothing_known_is_none():
    assert known_mpp({}, "a.svs", None) is None


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
    monkeypatch.setattr(slide_module, "_open_slides", slide_module._OpenSlides(2))
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

    def fail(self, location, level, size):
        raise openslide.OpenSlideError("cannot decode tile")

    with monkeypatch.context() as patch:
        patch.setattr(openslide.OpenSlide, "read_region", fail)
        with pytest.raises(ImageReadError, match=r"a\.svs: cannot be read \(cannot decode tile; .*'aperio'"):
            source.read((64, 64), 8, (8, 8))
    assert source._slide is None, "OpenSlide keeps a handle that failed in its error state"
    np.testing.assert_array_equal(source.read((64, 64), 8, (8, 8)), image[60:68, 60:68].transpose(2, 0, 1))


def test_a_tiff_without_tiles_is_unsupported(tmp_path: Path):
    tifffile.imwrite(tmp_path / "plain.tif", pixels(64, 64), photometric="rgb")
    with pytest.raises(UnsupportedImageError, match=r"plain\.tif: suffix '\.tif' with a TIFF image.*not tiled"):
        open_source(tmp_path / "plain.tif").check()


def test_tissue_is_what_is_saturated():
    overview = np.full((3, 10, 10), 250, np.uint8)
    overview[:, 2:5, 3:7] = np.array([200, 120, 180], np.uint8)[:, None, None]
    overview[:, 8] = 40  # a grey mark is dark but not saturated
    expected = np.zeros((10, 10), bool)
    expected[2:5, 3:7] = True
    source = SlideSource("never_opened.svs")
    np.testing.assert_array_equal(source.foreground(overview), expected)
    assert source.foreground(np.full_like(overview, 255)).all(), "a blank slide can be looked at everywhere"


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
