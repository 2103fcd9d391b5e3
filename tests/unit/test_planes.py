"""Volumes are laid out as radiologists look at them, in the object's proportions, and boxes lie where glimpses were."""

import numpy as np
import pytest
from PIL import Image

from glimpse.envs import array_cases, make_array
from glimpse.pictures.drawing import draw_scanpath, glimpse_strip, heat_map, order_colours, through_the_middle
from glimpse.pictures.episodes import scanpath_picture, to_gif
from glimpse.pictures.planes import coloured, planes
from glimpse.reading.records import Reading, Trace
from glimpse.sources.array import ArraySource
from glimpse.tasks import Classification

NAMES = ["axial", "coronal", "sagittal"]


def dot(z: int, y: int, x: int) -> np.ndarray:
    image = np.zeros((1, 6, 8, 10), np.uint8)
    image[0, z, y, x] = 255
    return image


def test_the_patients_right_is_left_and_head_and_front_are_above() -> None:
    """The axes run to superior, anterior and right."""
    image = dot(5, 7, 9)
    at = np.array([1.0, 1.0, 1.0])
    axial, coronal, sagittal = (plane.cut(image, at)[0] for plane in planes(image.shape[1:]))
    assert axial.shape == (8, 10) and coronal.shape == (6, 10) and sagittal.shape == (6, 8)
    for picture in (axial, coronal, sagittal):
        assert picture[0, 0] == 255 and picture.sum() == 255


@pytest.mark.parametrize("place", [(0, 0, 0), (2, 5, 7), (5, 1, 4)])
def test_places_and_pixels_agree(place: tuple[int, int, int]) -> None:
    image = dot(*place)
    location = (2 * np.array(place) + 1) / image.shape[1:] - 1
    for plane in planes(image.shape[1:]):
        picture = plane.cut(image, location)[0]
        (row,), (column,) = np.nonzero(picture)
        across, down = plane.places(location[None])[0] * picture.shape[::-1]
        assert (down, across) == pytest.approx((row + 0.5, column + 0.5))
        assert plane.most(image[0])[row, column] == 255


def test_planes_and_signals_are_shown_as_they_are() -> None:
    (plane,) = planes((4, 5))
    image = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)
    np.testing.assert_array_equal(plane.cut(image, np.zeros(2)), image)
    np.testing.assert_allclose(plane.places(np.array([[-1.0, 0.5]])), [[0.75, 0.0]])
    (band,) = planes((32,))
    assert band.cut(np.zeros((1, 32), np.uint8), np.zeros(1)).shape == (1, 4, 32)
    np.testing.assert_allclose(band.places(np.array([[0.5]])), [[0.75, 0.5]])


@pytest.mark.parametrize(("size", "shown"), [((4, 4, 4), NAMES), ((1, 4, 4), NAMES[:1]), ((4, 4, 1), NAMES[2:])])
def test_a_single_slice_is_shown_once(size: tuple[int, ...], shown: list[str]) -> None:
    assert [plane.name for plane in planes(size)] == shown


def test_windows_of_a_volume_are_grey_and_channels_of_a_plane_are_colours() -> None:
    image = np.stack([np.full((4, 4), value, np.uint8) for value in (10, 20, 30)])
    assert coloured(image)[0, 0].tolist() == [10, 20, 30]
    assert coloured(image, colour=False)[0, 0].tolist() == [10, 10, 10]
    volume = np.repeat(image[:, None], 4, axis=1)
    assert np.array(through_the_middle(volume, 4))[0, 0].tolist() == [10, 10, 10]


def test_voxels_are_as_deep_as_they_are() -> None:
    """10 slices of 3 mm, 30 x 60 pixels of 1 mm: 30 x 30 x 60 mm."""
    overview = np.zeros((1, 10, 30, 60), np.uint8)
    drawn = draw_scanpath(overview, np.zeros((0, 3)), np.zeros((0, 3)), height=100, sides=(30.0, 30.0, 60.0))
    assert drawn.shape == (100, 200 + 10 + 200 + 10 + 100, 3)
    glimpse = through_the_middle(np.zeros((1, 8, 32, 32), np.uint8), 64, (24.0, 32.0, 32.0))
    assert glimpse.size == (3 * 64 + 2 * 2, 64)
    assert np.array(glimpse)[48:, 66:].min() == 255  # 24 mm of 32 are high


def test_a_box_is_drawn_in_every_plane_and_thick_where_the_cut_goes_through_it() -> None:
    scanpath = np.array([[0.5, 0.0, -0.5], [-0.6, 0.0, -0.5]])
    extents = np.full((2, 3), 0.2)
    drawn = draw_scanpath(np.zeros((1, 8, 8, 8), np.uint8), scanpath, extents, height=200, at=scanpath[0])
    axial, coronal = drawn[:, :200].astype(int), drawn[:, 210:410].astype(int)
    first, second = (
        (picture == colour).all(-1) for picture, colour in zip([axial, axial], order_colours(2), strict=True)
    )
    # x = -0.5 lies on the right, three quarters across; y = 0 half way down; a box is 40 wide: its edge at 130.
    assert first[100, 129:131].any() and first[100, 128:133].sum() == 3
    assert second.any() and second[100, 128:133].sum() <= 1  # behind the cut: thin, and here under the first
    # z = 0.5 lies a quarter down, z = -0.6 four fifths down.
    high, low = ((coronal == colour).all(-1) for colour in order_colours(2))
    assert high[30, 150] and high[70, 150] and low[140, 150] and low[180, 150]


def test_the_heat_map_of_a_volume_is_hot_in_every_plane() -> None:
    cells = np.zeros((4, 4, 4), np.float32)
    cells[3, 0, 0] = 1.0  # superior, posterior, left
    drawn = heat_map(np.full((1, 8, 8, 8), 200, np.uint8), cells, height=128).astype(int)
    hot = np.abs(drawn - drawn.mean(-1, keepdims=True)).sum(-1) > 50
    for left, rows, columns in ((0, slice(96, 128), slice(96, 128)), (138, slice(0, 32), slice(96, 128))):
        panel = hot[:, left : left + 128]
        assert panel[rows, columns].all()
        assert panel.sum() == 1024
    assert hot[:, 276:404][:32, 96:].all()


def volume(shape: tuple[int, int, int] = (12, 24, 24)) -> np.ndarray:
    return np.random.default_rng(0).integers(30, 200, (2, *shape), np.uint8)


def test_a_picture_and_an_animation_of_a_volume(tmp_path) -> None:
    source = ArraySource(volume(), spacing=(3.0, 1.0, 1.0), unit="mm")
    predictions = np.array([[0, 0], [0, 0.1], [0, 3], [0, 3.1]], np.float32)
    trace = Trace(
        task=Classification(["healthy", "ill"]),
        frame=source.frame,
        overview=source.overview((12, 12, 12)),
        foreground=np.ones((1, 12, 12, 12), np.uint8),
        glimpses=volume((4, 8, 8))[None].repeat(3, 0),
        extents=np.full((3, 3), 1 / 3),
        cells=np.full((4, 3, 3, 3), 1 / 27, np.float32),
        parents=np.full(3, -1),
    )
    reading = Reading(
        id="v",
        patient="p",
        target=1,
        prediction=predictions[-1],
        predictions=predictions,
        scanpath=np.array([[0.0, 0.5, 0.5], [0.5, -0.5, 0.0], [-0.5, 0.0, 0.0]], np.float32),
        zooms=np.zeros(3, np.int64),
        glimpses=3,
        share_read=0.1,
        pixels_read=100,
        seconds=0.1,
        trace=trace,
    )
    assert reading.decisive == 1
    assert trace.sides == (36.0, 24.0, 24.0)
    assert trace.look_sides == pytest.approx(np.tile([12.0, 8.0, 8.0], (3, 1)))
    picture = scanpath_picture(reading)
    assert picture.shape[1] < 1500 and (picture != 255).mean() > 0.2
    to_gif(reading, tmp_path / "volume.gif", height=96)
    with Image.open(tmp_path / "volume.gif") as gif:
        assert gif.n_frames == 4
    strip = glimpse_strip(trace.glimpses, reading.probabilities, trace.task.names, height=96, width=2000,
                          glimpse_sides=trace.look_sides)  # fmt: skip
    wide = 2 * 64 + 64 + 2 * 2  # three planes, 8 x 8, 12 x 8 and 12 x 8 mm, 96 pixels for 12 mm
    assert strip.shape[1] == 3 * (wide + 6) + 2 * 10


def test_an_environment_draws_frames_of_one_size() -> None:
    cases = array_cases([volume()], [0], spacing=(3.0, 1.0, 1.0), unit="mm")
    sizes = {"overview_size": 12, "glimpse_size": [4, 8, 8], "glimpse_extents": [["12mm", "8mm", "8mm"]]}
    env = make_array(cases, max_glimpses=2, render_mode="rgb_array", **sizes)
    env.reset(seed=0)
    frames = [env.render()]
    for _ in range(2):
        env.step(env.action_space.sample() | {"stop": 0})
        frames.append(env.render())
    assert frames[0].shape == frames[1].shape == frames[2].shape
    assert not np.array_equal(frames[1], frames[2])
