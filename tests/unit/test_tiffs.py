"""TIFFs that OpenSlide does not read, or shows in part: what is read is what was written, in any arrangement."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from glimpse.sources import (
    RadiographSource,
    SlideSource,
    TiffSource,
    UnsupportedImageError,
    open_source,
)
from tests.tiff_files import GREY, HEIGHT, NAMES, TILED, WIDTH, imagej, pixels, write_ome, write_pages

SIXTEEN: dict[str, Callable[[Path], Any]] = {
    "SubIFDs, BigTIFF": lambda path: write_ome(path, pixels()),
    "SubIFDs, strips": lambda path: write_ome(path, pixels(), tile=None, rowsperstrip=32),
    "big-endian": lambda path: tifffile.imwrite(path, pixels(), byteorder=">", ome=True, **TILED),
    "predictor": lambda path: tifffile.imwrite(path, pixels(), ome=True, compression="zlib", predictor=True, **TILED),
    "ImageJ": lambda path: imagej(path, pixels()),
    "samples apart": lambda path: tifffile.imwrite(path, pixels(), planarconfig="separate", tile=(64, 64), **GREY),
    "samples beside each other": lambda path: tifffile.imwrite(
        path, pixels().transpose(1, 2, 0), planarconfig="contig", rowsperstrip=7, **GREY
    ),
    "equal pages": lambda path: tifffile.imwrite(path, pixels(), **GREY),
    "floats": lambda path: tifffile.imwrite(path, pixels().astype("f4"), ome=True, **TILED),
    "lzw": lambda path: tifffile.imwrite(path, pixels(), ome=True, compression="lzw", **TILED),
    "jpeg 2000": lambda path: tifffile.imwrite(path, pixels(), ome=True, compression="jpeg2000", **TILED),
    "zstd": lambda path: tifffile.imwrite(path, pixels(), ome=True, compression="zstd", **TILED),
}
WINDOWS = [[0, 255 * (channel + 1)] for channel in range(4)]


@pytest.mark.parametrize("how", SIXTEEN)
def test_many_channels_are_read_exactly_however_they_lie(tmp_path: Path, how: str) -> None:
    if how in ("lzw", "jpeg 2000", "zstd"):
        pytest.importorskip("imagecodecs")
    SIXTEEN[how](tmp_path / "a.tif")
    source = open_source(tmp_path / "a.tif", reader="slide", windows=WINDOWS, channels=[0, 1, 2, 3])
    greys = pixels() // (np.arange(4)[:, None, None] + 1)
    assert isinstance(source, TiffSource) and (source.shape, source.channels) == ((HEIGHT, WIDTH), 4)
    source.check()
    np.testing.assert_array_equal(source.read((HEIGHT / 2, WIDTH / 2), source.shape, source.shape), greys)
    # across four tiles, and beyond the lower right corner, where all is black
    np.testing.assert_array_equal(source.read((64, 64), (20, 40), (20, 40)), greys[:, 54:74, 44:84])
    corner = source.read((HEIGHT, WIDTH), 8, (8, 8))
    np.testing.assert_array_equal(corner[:, :4, :4], greys[:, -4:, -4:])
    assert not corner[:, 4:].any() and not corner[:, :, 4:].any() and not source.background.any()


COLOURS: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "OME": lambda path, image: write_ome(path, image, axes="CYX", photometric="rgb", planarconfig="separate"),
    "OME, samples beside each other": lambda path, image: tifffile.imwrite(
        path, image.transpose(1, 2, 0), ome=True, tile=(64, 64), photometric="rgb", metadata={"axes": "YXS"}
    ),
    "levels as pages": write_pages,
    "one level in strips": lambda path, image: tifffile.imwrite(path, image.transpose(1, 2, 0), photometric="rgb"),
    "16 bits": lambda path, image: tifffile.imwrite(
        path, image.transpose(1, 2, 0).astype("u2") * 257, tile=(64, 64), photometric="rgb", metadata=None
    ),
}


@pytest.mark.parametrize("how", COLOURS)
def test_bright_fields_are_shown_as_they_are_on_white(tmp_path: Path, how: str) -> None:
    image = pixels(3, "u1")
    COLOURS[how](tmp_path / "a.tiff", image)
    source = open_source(tmp_path / "a.tiff", reader="slide")
    assert isinstance(source, TiffSource)
    np.testing.assert_array_equal(source.read((76, 100.5), source.shape, source.shape), image)
    corner = source.read((0, 0), 8, (8, 8))
    assert (corner[:, :4] == 255).all() and (source.background == 255).all()
    np.testing.assert_array_equal(corner[:, 4:, 4:], image[:, :4, :4])


@pytest.mark.parametrize(("extent", "level"), [(32, 0), (64, 1), (127, 2), (128, 2), (96, 1)])
def test_the_coarsest_level_that_is_fine_enough_is_read(tmp_path: Path, extent: int, level: int) -> None:
    """Levels are plane, each of a grey of its own; 201 columns halved without rest are still exactly halved."""
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        tiff.write(np.full((1, HEIGHT, WIDTH), 10, "u2"), subifds=2, metadata={"axes": "CYX"}, **TILED)
        tiff.write(np.full((1, HEIGHT // 2, WIDTH // 2), 20, "u2"), subfiletype=1, **TILED)
        tiff.write(np.full((1, HEIGHT // 4, WIDTH // 4), 30, "u2"), subfiletype=1, **TILED)
    source = open_source(tmp_path / "a.ome.tif", windows=[0, 255])
    assert (source.read((76, 100), extent, (32, 32)) == 10 * (level + 1)).all()
    low, high = source.shown((76.3, 100.2), extent, (32, 32))
    assert (np.abs(high - low - extent) <= 1).all() and np.abs(
        low - np.subtract((76.3, 100.2), extent / 2)
    ).max() <= 2**level


def test_the_size_of_a_pixel_comes_from_where_it_is_stated(tmp_path: Path) -> None:
    assert open_source(write_ome(tmp_path / "a.ome.tif", pixels())).spacing == (0.25, 0.5)
    imagej(tmp_path / "ij.tif", pixels())
    assert open_source(tmp_path / "ij.tif").spacing == (0.25, 0.5), "2 and 4 pixels per micrometre along x and y"
    plain: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
    deep = pixels(3).transpose(1, 2, 0)
    tifffile.imwrite(tmp_path / "cm.tif", deep, resolution=(20_000, 40_000), resolutionunit="CENTIMETER", **plain)
    assert open_source(tmp_path / "cm.tif").spacing == (0.25, 0.5)
    tifffile.imwrite(tmp_path / "none.tif", deep, resolution=(72, 72), resolutionunit="INCH", **plain)
    assert open_source(tmp_path / "none.tif").spacing is None
    with pytest.warns(UserWarning, match=r"a pixel is 1 um according to mpp, but 0\.25 x 0\.5 um according to"):
        assert open_source(tmp_path / "a.ome.tif", mpp=1).spacing == (1.0, 1.0)


# ---------------------------------------------------------------------------------------------- channels and windows
def test_channels_are_chosen_and_windowed_by_name(tmp_path: Path) -> None:
    path, image = write_ome(tmp_path / "a.ome.tif", pixels()), pixels()
    source = open_source(path, channels=["CK", "cd3", 0], windows={"CD3": [100, 355], "CK": [0, 510], "DAPI": [0, 51]})
    assert source.channel_names == ("CK", "CD3", "DAPI")
    expected = [image[3] / 2, image[1] - 100.0, image[0] * 5.0]
    shown = source.read((76, 100.5), source.shape, source.shape)
    np.testing.assert_array_equal(shown, np.floor(np.clip(expected, 0, 255) + 0.5))
    assert source.identity != open_source(path, channels=["CK"]).identity
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.overview((9, 9)), source.overview((9, 9)))
    assert again.identity == source.identity


def test_windows_are_percentiles_of_the_coarsest_level(tmp_path: Path) -> None:
    """The least and the greatest value are left out: of 1, 1 to 200 and 9000, percentiles 0.5 and 99.5 of 1 to 200."""
    coarse = np.concatenate([np.arange(1, 201), [0, 9000]]).astype("u2")
    coarse = np.resize(coarse, (1, 202, 202))
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        tiff.write(np.zeros((1, 404, 404), "u2"), subifds=1, metadata={"axes": "CYX"}, **TILED)
        tiff.write(coarse, subfiletype=1, **TILED)
    source = open_source(tmp_path / "a.ome.tif")
    source.overview((8, 8))
    (window,) = source._windows
    inner = np.repeat(np.arange(1, 201), 202)
    assert (window.low, window.high) == pytest.approx(tuple(np.percentile(inner, (0.5, 99.5))))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no such channel": (
        {"channels": ["DAPI", "CD33"]},
        r"no channel 'CD33' \(did you mean 'CD3'\?\).*there are DAPI \(0\), CD3 \(1\), CD8 \(2\), CK \(3\)\.",
    ),
    "twice": ({"channels": ["DAPI", "dapi"]}, r"a channel is chosen twice"),
    "a window for none": (
        {"channels": ["DAPI"], "windows": {"CK": [0, 9]}},
        r"a window for 'CK', which is none of the channels that are read; these are DAPI",
    ),
    "too few windows": ({"windows": [[0, 1], "auto"]}, r"2 windows, but 4 channels \(DAPI, CD3, CD8, CK\)"),
    "no such plane": ({"frame": 1}, r"frame=1, but it holds 1 plane"),
    "no such image": ({"image": "label"}, r"no image 'label'.*there are 0 \(.*152 x 201 pixels\)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_choices_are_refused_with_what_there_is(tmp_path: Path, what: str) -> None:
    options, words = WRONG[what]
    with pytest.raises(UnsupportedImageError, match=rf"a\.ome\.tif: .*{words}"):
        open_source(write_ome(tmp_path / "a.ome.tif", pixels()), **options).check()


@pytest.mark.parametrize("windows", ["lung", [[3, 1]], {"DAPI": 5}, [1, 2, 3]])
def test_what_is_no_window_is_refused(windows: Any) -> None:
    with pytest.raises(ValueError, match="window"):
        TiffSource("never_opened.tif", windows=windows)


def test_slides_of_openslide_have_no_channels_to_choose(tmp_path: Path) -> None:
    image = pixels(3, "u1").transpose(1, 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), photometric="rgb", metadata=None)
    assert isinstance(open_source(tmp_path / "a.tif"), SlideSource)
    with pytest.raises(UnsupportedImageError, match=r"env\.cohort\.channels=\['DAPI'\] does not fit"):
        open_source(tmp_path / "a.tif", channels=["DAPI"])


# ---------------------------------------------------------------------------------------------- several in one file
def test_planes_and_images_are_chosen_as_the_message_says(tmp_path: Path) -> None:
    stack = np.stack([pixels(2), pixels(2) + 1, pixels(2) + 2])
    tifffile.imwrite(tmp_path / "z.ome.tif", stack, metadata={"axes": "ZCYX"}, **TILED)
    with pytest.raises(UnsupportedImageError, match=r"it holds 3 planes, a case is one.*env\.cohort\.frame=0"):
        open_source(tmp_path / "z.ome.tif").check()
    chosen = open_source(tmp_path / "z.ome.tif", frame="2", windows=[0, 255])
    np.testing.assert_array_equal(chosen.read((8, 8), 16, (16, 16)), np.minimum(stack[2, :, :16, :16], 255))

    with tifffile.TiffWriter(tmp_path / "two.ome.tif") as tiff:
        for index, side in enumerate((HEIGHT, HEIGHT, 20)):
            tiff.write(pixels(1, height=side) + index, metadata={"axes": "CYX", "Name": f"region {index}"}, **TILED)
    with pytest.raises(UnsupportedImageError, match=r"several images.*0 \(region 0, 152 x 201.*env\.cohort\.image=0"):
        open_source(tmp_path / "two.ome.tif").check()
    for image in (1, "region 1"):
        shown = open_source(tmp_path / "two.ome.tif", image=image, windows=[0, 255]).read((4, 4), 8, (8, 8))
        np.testing.assert_array_equal(shown, np.minimum(pixels(1)[:, :8, :8] + 1, 255))

    tifffile.imwrite(tmp_path / "pages.tif", pixels(), tile=(64, 64), **GREY)
    with pytest.raises(UnsupportedImageError, match=r"4 equal pages.*env\.cohort\.channels=\[0,1,2\].*frame=0"):
        open_source(tmp_path / "pages.tif").check()
    assert open_source(tmp_path / "pages.tif", channels=[0, 1, 2]).channels == 3
    one = open_source(tmp_path / "pages.tif", frame=3, windows=[0, 1020]).read((4, 4), 8, (8, 8))
    np.testing.assert_array_equal(one, pixels()[3:, :8, :8] // 4)


def test_a_label_beside_the_slide_is_not_asked_about(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        tiff.write(pixels(3, "u1", 40, 30).transpose(1, 2, 0), metadata={"axes": "YXS"}, photometric="rgb")
        facts = {"axes": "CYX", "Channel": {"Name": NAMES}, "PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0}
        tiff.write(pixels(), metadata=facts, **TILED)
    source = open_source(tmp_path / "a.ome.tif")
    assert (source.shape, source.channel_names, source.spacing) == ((HEIGHT, WIDTH), tuple(NAMES), (2.0, 2.0))


def test_grey_pictures_of_which_nothing_is_said_stay_radiographs(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "grey.tif", pixels(1)[0])
    tifffile.imwrite(tmp_path / "equal.tif", np.repeat(pixels(1, "u1")[0][..., None], 3, 2), photometric="rgb")
    for name in ("grey.tif", "equal.tif"):
        assert isinstance(open_source(tmp_path / name), RadiographSource)


# ---------------------------------------------------------------------------------------------- where to look
def test_foreground_of_fluorescence_is_what_shines(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shines = np.hypot(*(np.mgrid[:256, :256] - 128.0)) < 70
    image = np.stack([rng.poisson(np.where(shines, 900, 100)), rng.poisson(np.full((256, 256), 100))]).astype("u2")
    source = open_source(write_ome(tmp_path / "a.ome.tif", image, levels=1))
    mask = source.foreground(source.overview((64, 64)))
    truth = shines[::4, ::4]
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.95
    dark = open_source(write_ome(tmp_path / "dark.ome.tif", np.zeros((1, 64, 64), "u2"), levels=1))
    assert dark.foreground(dark.overview((8, 8))).all(), "never empty"


def test_one_channel_on_a_bright_ground_is_a_bright_field(tmp_path: Path) -> None:
    inside = np.hypot(*(np.mgrid[:256, :256] - 128.0)) < 70
    image = np.where(inside, 1500, 3000) + np.random.default_rng(0).normal(0, 200, (256, 256))
    source = open_source(write_ome(tmp_path / "a.ome.tif", image.astype("u2")[None]))
    assert source.background.tolist() == [255]
    mask = source.foreground(source.overview((64, 64)))
    assert mask[32, 32] and not mask[0].any()


@pytest.mark.parametrize(("names", "ground", "colours"), [
    (None, 240, True), (["R", "G", "B"], 240, True), (None, 10, False), (["DAPI", "CD3", "CK"], 240, False),
])  # fmt: skip
def test_three_unnamed_channels_on_a_bright_ground_are_colours(
    tmp_path: Path, names: list[str] | None, ground: int, colours: bool
) -> None:
    image = pixels(3, "u1", 128, 128)
    image[:, :32] = image[:, -32:] = image[..., :32] = image[..., -32:] = ground
    facts = {"axes": "CYX"} | ({"Channel": {"Name": names}} if names else {})
    tifffile.imwrite(tmp_path / "a.ome.tif", image, metadata=facts, **TILED)
    source = open_source(tmp_path / "a.ome.tif")
    assert (source.background == 255).all() == colours
    assert (source.read((64, 64), 128, (128, 128)) == image).all() == colours


def test_colours_compressed_as_jpeg_are_those_of_openslide(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    smooth = np.stack([*np.meshgrid(np.arange(128), np.arange(128)), np.full((128, 128), 90)], -1).astype("u1")
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "compression": "jpeg"}
    tifffile.imwrite(tmp_path / "a.ome.tif", smooth, metadata={"axes": "YXS"}, **options)
    source = open_source(tmp_path / "a.ome.tif")
    assert isinstance(source, TiffSource)
    shown = [one.read((64, 64), 128, (128, 128)).astype(int) for one in (source, SlideSource(tmp_path / "a.ome.tif"))]
    assert np.abs(shown[0] - shown[1]).max() <= 2 and np.abs(shown[0] - smooth.transpose(2, 0, 1)).max() <= 6
