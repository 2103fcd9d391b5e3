"""Numbers and scale bars on pictures can be read."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from glimpse.envs import array_cases, make_array
from glimpse.pictures.drawing import draw_scanpath, glimpse_strip
from glimpse.pictures.labels import draw_scale_bar, length_text, letters, nice_length, place_tags
from glimpse.pictures.zooming import zoom_tree
from tests.unit.test_zoom_pictures import reading_of


@pytest.mark.parametrize("centre", [(50.0, 50.0), (0.0, 0.0), (200.0, 150.0)])
def test_numbers_of_looks_at_one_place_do_not_cover_each_other(centre: tuple[float, float]) -> None:
    box = np.array([*(np.array(centre) - 5), *(np.array(centre) + 5)])
    sizes = np.array([[15.0 + 8 * (i > 8), 19.0] for i in range(20)])
    low = place_tags(np.tile(box, (20, 1)), sizes, (200, 150))
    high = low + sizes
    assert (low >= 0).all() and (high <= [200, 150]).all()
    for i in range(20):
        for j in range(i):
            assert (low[i] >= high[j]).any() or (low[j] >= high[i]).any(), (i, j)


def test_a_number_lies_beside_its_box_where_there_is_room() -> None:
    (place,) = place_tags(np.array([[40.0, 40.0, 60.0, 60.0]]), np.array([[15.0, 19.0]]), (200, 200))
    assert place.tolist() == [63, 36]
    assert place_tags(np.zeros((0, 4)), np.zeros((0, 2)), (9, 9)).shape == (0, 2)


def test_a_number_covers_neither_its_small_box_at_the_edge_nor_a_scale_bar() -> None:
    box, size = np.array([[194.0, 40.0, 200.0, 46.0]]), np.array([[15.0, 19.0]])
    (place,) = place_tags(box, size, (200, 200))
    assert place.tolist() == [176, 36]  # on its left, as there is no room on its right
    (other,) = place_tags(box, size, (200, 200), np.array([[150.0, 30.0, 180.0, 60.0]]))
    low, high = other, other + size[0]
    assert (low >= [180, 60]).any() or (high <= [150, 30]).any()


def test_letters_beyond_ascii_are_written() -> None:
    missing = bytes(letters(12).getmask("\U0010ffff"))
    for letter in "µäéØłΩЖ×−":
        assert bytes(letters(12).getmask(letter)) != missing, letter


@pytest.mark.parametrize(
    ("most", "length"), [(1, 1), (0.99, 0.5), (2, 2), (4.9, 2), (0.05, 0.05), (730, 500), (1000, 1000)]
)
def test_lengths_of_scale_bars(most: float, length: float) -> None:
    assert nice_length(most) == pytest.approx(length)


def test_lengths_are_written_with_their_unit() -> None:
    assert [length_text(*one) for one in ((500, "um"), (2000, "um"), (0.5, "mm"))] == ["500 µm", "2 mm", "0.5 mm"]


def test_a_scale_bar_lies_where_the_fewest_outlines_are() -> None:
    around, left, right = [0, 100, 400, 300], [5, 275, 15, 285], [380, 280, 390, 290]
    for boxes, corner in (
        ([around], (4, 272)), ([around, left], (400, 272)), ([left, right], (400, 4)), ([], (4, 272)),
    ):  # fmt: skip
        panel = Image.new("RGB", (400, 300))
        given = np.array(boxes, np.float64).reshape(-1, 4)
        covered = draw_scale_bar(panel, 2000.0, "um", given)
        at = covered[0] if corner[0] == 4 else covered[2] + 4
        assert (at, covered[1]) == corner


def test_the_scale_bar_of_a_scanpath_goes_aside_where_it_may() -> None:
    overview, corner, extents = np.full((3, 256, 256), 200, np.uint8), np.array([[0.9, -0.9]]), np.full((1, 2), 0.06)
    still, aside = (
        draw_scanpath(overview, corner, extents, 256, [512.0, 512.0], unit="um", bar_aside=aside)
        for aside in (False, True)
    )
    different = np.argwhere((still != aside).any(-1))[:, 1]
    assert different.min() < 64 and different.max() > 192


def test_a_scale_bar_is_as_long_as_it_says() -> None:
    panel = Image.new("RGB", (400, 300), (120, 60, 90))
    covered = draw_scale_bar(panel, 2000.0, "um")  # of which 500 um are a quarter
    changed = np.argwhere((np.asarray(panel) != [120, 60, 90]).any(-1))[:, ::-1]
    assert covered == (*changed.min(0), *(changed.max(0) + 1))
    rows = (np.asarray(panel)[-10] == [20, 20, 20]).all(-1)
    assert rows.sum() == 100 and np.flatnonzero(rows)[0] == 9
    plain, scaled = (
        draw_scanpath(np.zeros((3, 32, 32), np.uint8), np.zeros((0, 2)), np.zeros((0, 2)), 200, (2.0, 2.0), unit=unit)
        for unit in (None, "mm")
    )
    assert not plain.any() and (scaled[-10] == 255).any()


def bars(picture: np.ndarray) -> list[int]:
    """Lengths of the scale bars of a picture: runs of their ink that are three pixels high, and longer than letters."""
    ink = (picture == 20).all(-1)
    thick = ink[:-2] & ink[1:-1] & ink[2:]
    edges = np.diff(np.pad(thick, ((0, 0), (1, 1))).astype(int), axis=1)
    runs = np.argwhere(edges == -1)[:, 1] - np.argwhere(edges == 1)[:, 1]
    return sorted(runs[runs > 12].tolist())


def test_trees_of_looks_have_scale_bars_of_their_own_scale() -> None:
    reading = reading_of(2, reader="wide_first", max_glimpses=4)  # of an image of 96 pixels, wide looks of 24
    assert reading.trace is not None and reading.zooms.tolist() == [0, 0, 1, 1] and not bars(zoom_tree(reading))
    frame = replace(reading.trace.frame, spacing=(10.0, 10.0), unit="um")
    scaled = replace(reading, trace=replace(reading.trace, frame=frame))
    parents = len(set(reading.traced.parents.tolist()) - {-1})
    wide, fine = round(50 / 240 * 128), round(200 / 960 * 256)  # 50 of 240 um on 128 pixels; 200 of 960 um on 256
    assert bars(zoom_tree(scaled)) == sorted([*[wide] * parents, fine])
    assert bars(zoom_tree(scaled, height=64)) == [round(200 / 960 * 128)], "smaller looks have no room"


def test_strips_have_a_scale_bar_for_each_field_of_view() -> None:
    glimpses, sides, answers = np.zeros((2, 3, 16, 16), np.uint8), np.array([[100.0, 100.0], [60.0, 60.0]]), np.eye(2)
    drawn = {
        (height, unit): bars(glimpse_strip(glimpses, answers, ("a", "b"), None, height, glimpse_sides=sides, unit=unit))
        for height in (96, 160)
        for unit in (None, "um")
    }
    assert drawn.pop((160, "um")) == [round(10 / 60 * 160), round(20 / 100 * 160)]
    assert not any(drawn.values())


def test_rendered_pictures_have_scale_bars_of_the_overview_and_of_the_last_glimpse() -> None:
    cases = array_cases([np.zeros((3, 96, 96), np.uint8)], [0], spacing=(10.0, 10.0), unit="um")
    sizes = {"overview_size": 24, "glimpse_size": 8, "glimpse_extents": [24, 8]}
    env = make_array(cases, max_glimpses=3, render_mode="rgb_array", **sizes)
    env.reset(seed=0)
    overview = round(200 / 960 * 512)
    assert bars(env.render()) == [overview], "no glimpse was read yet"
    for zoom, length in ((0, round(50 / 240 * 512)), (1, round(20 / 80 * 512))):
        env.step(env.action_space.sample() | {"stop": 0, "zoom": zoom, "location": np.zeros(2, np.float32)})
        assert bars(env.render()) == sorted([overview, length])
