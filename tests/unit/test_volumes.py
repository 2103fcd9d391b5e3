"""Volumes as sources: what is read is what lies there, whichever way the file was written."""

import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest

import glimpse.sources.volume.source as volume_module
from glimpse.geometry import Extent, MissingSpacingError
from glimpse.sources import ImageReadError, UnsupportedImageError, VolumeSource, open_source
from glimpse.sources.held import HeldOpen
from glimpse.sources.resampling import Cut
from glimpse.sources.volume.slabs import means_in_slabs, pixels_inside
from glimpse.sources.windows import CT_WINDOWS, parse_windows
from tests.volume_files import IDENTITY, RNG, greys, overlap, whole, write

REAL_VOLUME = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "real" / "mni152_t1.nii.gz"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))


# ---------------------------------------------------------------------------------------------- axes and spacing
def test_sheared_axes_are_refused_and_the_remedy_that_is_named_works(tmp_path: Path):
    sheared = np.diag([1.0, 1.0, 2.0, 1.0])
    sheared[1, 2] = 2 * np.tan(np.deg2rad(15))  # a gantry tilted by 15 degrees
    path = write(tmp_path / "in.nii", greys((6, 8, 5)), sheared)
    with pytest.raises(
        UnsupportedImageError, match=r"in\.nii: expected axes at right angles.* 75\.0 degrees"
    ) as caught:
        open_source(path).check()
    remedy = str(caught.value).partition("in Python: ")[2].removesuffix(".")
    for name in ("in.nii", "out.nii"):
        remedy = remedy.replace(f"'{name}'", f"'{tmp_path / name}'")
    exec(remedy, {"nibabel": nibabel})
    assert open_source(tmp_path / "out.nii").shape == (5, 11, 6), "8 rows and 2.1 more for the shear, in whole pixels"
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    assert open_source(write(tmp_path / "oblique.nii", greys((6, 8, 5)), turned)).shape == (5, 8, 6)


FLIPS = [(order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]


@pytest.mark.parametrize(("order", "signs"), FLIPS)
def test_every_orientation_is_read_as_the_canonical_one(tmp_path: Path, order: tuple, signs: tuple):
    affine = np.eye(4)
    sizes = np.array([0.5, 1.5, 3.0])
    affine[:3, :3] = np.eye(3)[:, list(order)] * np.array(signs) * sizes  # stored axis i runs along order[i]
    affine[:3, 3] = (-7, 11, 3)
    path = write(tmp_path / "a.nii", greys((5, 6, 7)), affine)
    expected = nibabel.as_closest_canonical(nibabel.load(path))
    values = np.asarray(expected.dataobj).T
    source = open_source(path, windows=[0, 255])
    assert source.shape == values.shape
    np.testing.assert_allclose(source.spacing, expected.header.get_zooms()[::-1])
    assert source.unit == "mm"
    for _ in range(20):
        place = RNG.integers(0, values.shape)
        assert source.read(place + 0.5, 1, (1, 1, 1)).item() == values[tuple(place)]
    np.testing.assert_array_equal(whole(source)[0], values)


def test_oblique_volumes_take_their_nearest_axes(tmp_path: Path):
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.8, 0.9, 2.5]) @ np.eye(3)[:, [1, 0, 2]]
    path = write(tmp_path / "a.nii", greys((4, 5, 6)), affine)
    canonical = nibabel.as_closest_canonical(nibabel.load(path))
    source = open_source(path, windows=[0, 255])
    np.testing.assert_array_equal(whole(source)[0], np.asarray(canonical.dataobj).T)
    np.testing.assert_allclose(source.spacing, (2.5, 0.9, 0.8), rtol=1e-6)


def test_spacing_is_that_of_the_file_unless_given(tmp_path: Path):
    path = write(tmp_path / "a.nii", greys((2, 3, 4)), np.diag([0.5, 0.75, 5.0, 1]))
    assert open_source(path).spacing == (5.0, 0.75, 0.5)
    assert open_source(path, spacing=2).spacing == (2.0, 2.0, 2.0)
    assert open_source(path, spacing=(3, 2, 1)).spacing == (3.0, 2.0, 1.0)
    image = nibabel.load(path)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "b.nii")
    np.testing.assert_allclose(open_source(tmp_path / "b.nii").spacing, (0.005, 0.00075, 0.0005))


def test_an_affine_without_three_axes_is_refused(tmp_path: Path):
    path = write(tmp_path / "a.nii", greys((2, 3, 4)))
    header = bytearray(path.read_bytes())
    header[280:328] = bytes(48)  # srow_x, srow_y and srow_z
    path.write_bytes(header)
    with pytest.raises(UnsupportedImageError, match=r"a\.nii: expected an affine with three independent axes"):
        _ = open_source(path).shape


# ---------------------------------------------------------------------------------------------- values
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_stored_types(tmp_path: Path, dtype: str, order: str):
    values = RNG.integers(0, 128, (4, 5, 6))
    image = nibabel.Nifti1Image(values.astype(order + dtype), IDENTITY, nibabel.Nifti1Header(endianness=order))
    image.header.set_data_dtype(order + dtype)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(whole(open_source(tmp_path / "a.nii", windows=[0, 255]))[0], values.T)


def scaled(path: Path, values: np.ndarray, slope: float, intercept: float) -> Path:
    """A file with a slope and an intercept, which nibabel would work out itself."""
    write(path, values)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("slope", "intercept"), [(2.0, -100.0), (-0.5, 50.0), (0.0, 7.0)])
def test_slope_and_intercept_come_before_windows(tmp_path: Path, slope: float, intercept: float):
    values = np.random.default_rng(0).integers(-100, 200, (4, 5, 6)).astype(np.int16)
    path = scaled(tmp_path / "a.nii", values, slope, intercept)
    meant = nibabel.load(path).get_fdata()
    np.testing.assert_array_equal(meant, slope * values + intercept if slope else values)
    rounded = np.clip((meant.T + 40) / 160, 0, 1) * 255 + 0.5
    got = whole(open_source(path, windows=[-40, 120]))[0].astype(int)
    assert np.abs(got - np.floor(rounded)).max() <= 1
    half = np.abs(rounded - np.rint(rounded)) < 1e-3
    assert (got == np.floor(rounded))[~half].all(), "only halves may fall either way"


def test_windows_by_hand(tmp_path: Path):
    values = np.array([-1000, -160, -100, 0, 40, 80, 240, 3000], np.int16).reshape(8, 1, 1)
    path = write(tmp_path / "a.nii", values)
    source = open_source(path, windows=["brain", "soft_tissue", [0, 255], "auto"])
    assert source.channels == 4
    got = whole(source)[:, 0, 0]
    np.testing.assert_array_equal(got[0], [0, 0, 0, 0, 128, 255, 255, 255])  # 40 of 80 is 127.5, which rounds up
    np.testing.assert_array_equal(got[1], [0, 0, 38, 102, 128, 153, 255, 255])  # (x + 160) / 400 * 255
    np.testing.assert_array_equal(got[2], [0, 0, 0, 0, 40, 80, 240, 255])
    assert got[3, 1] == 0, "percentiles of the inner values: about -160 is black"
    assert got[3, 6] == 255, "and about 240 white"


def test_ct_windows_have_their_names():
    assert set(CT_WINDOWS) == {"brain", "subdural", "bone", "soft_tissue", "lung", "mediastinum", "liver"}
    lung, pair, automatic = parse_windows(["lung", (0, 5), "auto"])
    assert (lung.low, lung.high, pair.low, pair.high, automatic) == (-1350, 150, 0, 5, None)
    assert len(parse_windows([10, 20])) == 1


@pytest.mark.parametrize("windows", ["lungs", [], [5, 1], [1, 2, 3], 7, None, [[1, 2], "x"]])
def test_other_windows_are_refused(windows: object):
    with pytest.raises(ValueError, match="window"):
        VolumeSource("a.nii", windows=windows)


def test_nan_is_black_and_infinite_is_at_an_end(tmp_path: Path):
    values = np.array([np.nan, -np.inf, np.inf, 50, np.nan, 100, 10, 10], np.float32).reshape(8, 1, 1)
    source = open_source(write(tmp_path / "a.nii", values), windows=[0, 100])
    np.testing.assert_array_equal(whole(source)[0, 0, 0], [0, 0, 255, 128, 0, 255, 26, 26])
    # (0 + 100) / 2 of 100: a NaN counts as the lowest value in means, too
    assert source.read((0.5, 0.5, 5), (1, 1, 2), (1, 1, 1)).item() == 128
    automatic = open_source(write(tmp_path / "b.nii", np.full((3, 3, 3), np.nan, np.float32)))
    with pytest.raises(ImageReadError, match="none of its values is a finite number"):
        whole(automatic)


@pytest.mark.filterwarnings("error")
def test_values_beyond_single_precision_are_at_an_end(tmp_path: Path):
    values = np.array([-1e300, 50, 1e300], np.float64).reshape(3, 1, 1)
    source = open_source(write(tmp_path / "a.nii", values), windows=[0, 100])
    np.testing.assert_array_equal(whole(source)[0, 0, 0], [0, 128, 255])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(4, 4), (5, 3), (40, 40)])
@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_missing_is_missing_in_its_own_box_alone(size: tuple[int, int], missing: float):
    image = RNG.normal(5, 1, size=(40, 40)).astype(np.float32)
    cut = Cut.of((0, 0), (40, 40), size)
    expected, _ = cut.means(image)
    image[3, 20] = missing
    values, cover = cut.means(image)
    box = (3 * size[0] // 40, 20 * size[1] // 40)
    assert np.isnan(values[box]) == (size == (40, 40)) and (cover == 1).all()
    others = np.ones(size, bool)
    others[box] = False
    np.testing.assert_allclose(values[others], expected[others], atol=1e-5)
    if size != (40, 40):
        assert abs(values[box] - expected[box]) < 0.1


def test_colours_are_refused(tmp_path: Path):
    colours = np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    path = write(tmp_path / "a.nii", colours)
    with pytest.raises(UnsupportedImageError, match=r"a\.nii: expected one real number per pixel, got colours"):
        _ = open_source(path).shape
    with pytest.raises(UnsupportedImageError, match="complex"):
        _ = open_source(write(tmp_path / "b.nii", np.zeros((2, 3, 4), np.complex64))).shape


def test_several_volumes_in_a_file(tmp_path: Path):
    values = greys((3, 4, 5, 2))
    path = write(tmp_path / "a.nii", values)
    np.testing.assert_array_equal(whole(open_source(path, frame=1, windows=[0, 255]))[0], values[..., 1].T)
    with pytest.raises(UnsupportedImageError, match=r"a\.nii: it holds 2 volumes.* 0 to 1, with env\.cohort\.frame=0"):
        open_source(path).check()
    for given in ("first", -1, 0.5, True):
        with pytest.raises(UnsupportedImageError, match=r"a\.nii: expected frame as a whole number"):
            open_source(path, frame=given)
    np.testing.assert_array_equal(whole(open_source(path, frame="1"))[0], whole(open_source(path, frame=1))[0])
    with pytest.raises(UnsupportedImageError, match="frame=2"):
        open_source(path, frame=2).check()
    single = write(tmp_path / "b.nii", values[..., :1])
    np.testing.assert_array_equal(whole(open_source(single, windows=[0, 255]))[0], values[..., 0].T)


# ---------------------------------------------------------------------------------------------- reading
def test_reads_by_area(tmp_path: Path):
    values = greys((8, 6, 4))
    zyx = values.T.astype(np.float64)
    source = open_source(write(tmp_path / "a.nii", values), windows=[0, 255])
    np.testing.assert_array_equal(source.read((2, 3, 4.4), 2, (2, 2, 2))[0], zyx[1:3, 2:4, 3:5])
    boxes = zyx.reshape(2, 2, 3, 2, 4, 2).mean(axis=(1, 3, 5))
    np.testing.assert_array_equal(source.overview((2, 3, 4))[0], np.floor(boxes + 0.5))
    # boxes of 1.5 pixels: (a + b / 2) / 1.5
    row = zyx[0, 0, :3]
    expected = np.floor(np.array([row[0] + row[1] / 2, row[1] / 2 + row[2]]) / 1.5 + 0.5)
    np.testing.assert_array_equal(source.read((0.5, 0.5, 1.5), (1, 1, 3), (1, 1, 2))[0, 0, 0], expected)


def test_outside_is_black(tmp_path: Path):
    source = open_source(write(tmp_path / "a.nii", np.full((4, 4, 4), 200, np.int16)), windows=[[0, 255], [100, 300]])
    corner = source.read((0, 4, 2), 4, (4, 4, 4))
    expected = np.zeros((2, 4, 4, 4), np.uint8)
    expected[0, 2:, :2], expected[1, 2:, :2] = 200, 128
    np.testing.assert_array_equal(corner, expected)
    assert source.read((0, 2, 2), (2, 4, 4), (1, 1, 1))[0].item() == 100, "half of the box lies outside"
    assert (source.read((-50, 2, 2), 3.3, (2, 2, 2)) == 0).all()
    far = source.read((2, 2, 2), 1e9, (1, 1, 2))
    assert (far == 0).all(), "nearly all of it lies outside, and none of that is read"
    assert source.background.tolist() == [0, 0]


@pytest.mark.parametrize("size", [(20, 15, 10), (7, 11, 3), (1, 1, 1), (40, 1, 9)])
def test_wide_reads_are_the_same_in_slabs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple):
    source = open_source(write(tmp_path / "a.nii", greys((60, 30, 40))), windows=[0, 255])
    places = [((20, 15, 30), (40, 30, 60)), ((18, 16, 29.3), (44.4, 37, 61))]
    direct = [source.read(*place, size) for place in places]
    monkeypatch.setattr(volume_module, "MAX_PIXELS", 300)
    for place, expected in zip(places, direct, strict=True):
        assert np.abs(source.read(*place, size).astype(int) - expected).max() <= 1


def test_slabs_hold_the_limit_and_change_no_mean():
    image = RNG.normal(size=(30, 20, 10))
    cut = Cut.of((-3, 1.2, 0.4), (33.3, 17, 9), (5, 3, 1))
    seen = []

    def means(part: Cut) -> tuple[np.ndarray, np.ndarray]:
        seen.append(pixels_inside(part, image.shape))
        return part.means(image)

    values, cover = means_in_slabs(cut, image.shape, means, 200, (0, 2, 1))
    assert max(seen) <= 200
    expected, inside = cut.means(image)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    np.testing.assert_allclose(cover, inside, atol=1e-6)


def test_pickles_as_its_path_and_reads_from_threads(tmp_path: Path):
    path = write(tmp_path / "a.nii", greys((20, 20, 20)))
    source = open_source(path, windows=["auto", [0, 255]])
    expected = whole(source)
    packed = pickle.dumps(source)
    assert len(packed) < 1000
    copy = pickle.loads(packed)
    assert copy.identity == source.identity
    assert copy.identity != open_source(path).identity, "other windows show other pixels"
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: whole(copy), range(16)):
            np.testing.assert_array_equal(got, expected)
    source.close()
    np.testing.assert_array_equal(whole(source), expected)


def test_few_volumes_are_held_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(volume_module, "_open_volumes", HeldOpen(2))
    sources = [open_source(write(tmp_path / f"{n}.nii", greys((3, 3, 3)))) for n in range(4)]
    first = [whole(source) for source in sources]
    assert [source._held is not None for source in sources] == [False, False, True, True]
    for source, expected in zip(sources, first, strict=True):
        np.testing.assert_array_equal(whole(source), expected)


def test_the_automatic_window_is_taken_of_few_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sizes = []
    original = volume_module.percentile_window

    def watched(values: np.ndarray) -> object:
        sizes.append(values.size)
        return original(values)

    monkeypatch.setattr(volume_module, "percentile_window", watched)
    source = open_source(write(tmp_path / "a.nii", greys((128, 120, 130))))
    source.read((64, 64, 64), 8, (8, 8, 8))
    assert 30_000 < sizes[0] <= 1 << 18
    assert len(sizes) == 1


# ---------------------------------------------------------------------------------------------- a real volume
def test_a_real_head(shared_data: Path):
    if not REAL_VOLUME.is_file():
        pytest.skip(f"{REAL_VOLUME.name} is absent")
    source = open_source(REAL_VOLUME, windows=[0, 255])
    assert (source.shape, source.spacing, source.unit) == ((189, 233, 197), (1.0, 1.0, 1.0), "mm")
    source.check()
    values = np.asarray(nibabel.as_closest_canonical(nibabel.load(REAL_VOLUME)).dataobj).T
    inside = np.argwhere(values > 0)
    for place in inside[RNG.integers(0, len(inside), 20)]:
        assert source.read(place + 0.5, 1, (1, 1, 1)).item() == values[tuple(place)]
    boxes = values[:188, :232, :196].reshape(47, 4, 58, 4, 49, 4).mean(axis=(1, 3, 5), dtype=np.float64)
    got = source.read((94, 116, 98), (188, 232, 196), (47, 58, 49))[0]
    assert np.abs(got - boxes).max() <= 0.51
    automatic = open_source(REAL_VOLUME)
    mask = automatic.foreground(automatic.overview((47, 58, 49)))
    brain = source.overview((47, 58, 49))[0] > 80  # the file holds a brain without its skull
    assert mask[brain].mean() > 0.99
    assert overlap(mask, brain) > 0.98


def unstated(path: Path, lengths: tuple[float, float, float], qform: int = 0, sform: int = 0) -> Path:
    """A NIfTI file with these lengths in `pixdim`, whatever they are."""
    image = nibabel.Nifti1Image(greys((6, 5, 4)), np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.set_sform(np.diag([2.0, 3.0, 4.0, 1.0]), sform)
    image.header.set_qform(np.diag([2.0, 3.0, 4.0, 1.0]), qform)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())
    content[80:92] = np.array(lengths, "<f4").tobytes()
    content[252:256] = np.array((qform, sform), "<i2").tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("lengths", [(0, 3, 4), (2, 0, 4), (-2, 3, 4), (2, np.nan, 4), (2, 3, np.inf), (0, 0, 0)])
@pytest.mark.parametrize("qform", [0, 1])
def test_lengths_that_cannot_be_are_unknown(
    tmp_path: Path, lengths: tuple[float, float, float], qform: int, caplog: pytest.LogCaptureFixture
):
    path = unstated(tmp_path / "a.nii", lengths, qform)
    source = open_source(path, windows=[0, 255])
    assert (source.spacing, source.unit) == (None, None)
    assert source.shape == (4, 5, 6) and whole(source).shape == (1, 4, 5, 6)
    assert not caplog.messages, "nibabel has made 1 mm of them and said so"
    with pytest.raises(MissingSpacingError, match=r"a\.nii: the extent 24mm .*column 'mpp'.*env\.cohort\.spacing"):
        Extent.parse("24mm").to_pixels(source.frame)
    assert open_source(path, spacing=(1, 2, 3)).spacing == (1, 2, 3)
    assert open_source(path, mpp=500).spacing == (0.5, 0.5, 0.5)
    pickled = pickle.loads(pickle.dumps(open_source(path, mpp=500)))
    assert pickled.spacing == (0.5, 0.5, 0.5)


def test_lengths_that_are_stated_count(tmp_path: Path):
    assert open_source(unstated(tmp_path / "a.nii", (2, 3, 4))).spacing == (4, 3, 2), "neither sform nor qform"
    assert open_source(unstated(tmp_path / "b.nii", (0, 0, 0), sform=1)).spacing == (4, 3, 2), "the sform says it"
    with pytest.warns(
        UserWarning, match=r"a pixel is 0\.5 mm according to mpp, but 4 x 3 x 2 mm according to the file"
    ):
        assert open_source(tmp_path / "b.nii", mpp=500).spacing == (0.5, 0.5, 0.5), "what the user writes counts"
