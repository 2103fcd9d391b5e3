"""Numbers and scale bars on pictures can be read."""

import numpy as np
import pytest
from PIL import Image

from glimpse.pictures.drawing import draw_scanpath
from glimpse.pictures.labels import draw_scale_bar, length_text, letters, nice_length, place_tags


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
