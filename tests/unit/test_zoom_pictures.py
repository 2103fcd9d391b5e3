"""The tree of a zoom: which wide glimpse led to which finer one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glimpse.networks.locator import PointerLocator
from glimpse.pictures.drawing import order_colours
from glimpse.pictures.episodes import scanpath_picture, to_gif
from glimpse.pictures.zooming import zoom_tree
from glimpse.reading.lanes import Access
from glimpse.reading.readers import reader_named
from glimpse.reading.records import Reading
from tests.zooming import environment, policy_for


def reading_of(levels: int, ndim: int = 2, reader: str = "policy", max_glimpses: int = 9) -> Reading:
    env = environment(levels, ndim=ndim)
    inner = env.unwrapped
    policy = policy_for(env, stop_bias=-20.0)
    assert isinstance(policy.locator, PointerLocator)
    policy.locator.worth_offset.data += torch.arange(levels)  # it looks closely where it can
    (reading,) = reader_named(reader, policy, Access(inner.views, inner.task), max_glimpses).read(
        inner.cases[:1], trace=True
    )
    return reading


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("reader", ["policy", "random", "wide_first"])
def test_the_parent_of_a_glimpse_is_the_wider_one_that_shows_its_place(levels: int, reader: str) -> None:
    reading = reading_of(levels, reader=reader)
    extents, below = reading.traced.extents, 0
    assert len(reading.traced.parents) == reading.glimpses
    for index, parent in enumerate(reading.traced.parents):
        if reading.zooms[index] == 0:
            assert parent == -1
            continue
        below += 1
        assert parent < index and reading.zooms[parent] == reading.zooms[index] - 1
        assert (np.abs(reading.scanpath[index] - reading.scanpath[parent]) <= extents[parent]).all()
    assert below


def test_the_tree_frames_every_glimpse_in_its_colour_of_the_scanpath() -> None:
    reading = reading_of(2)
    drawn = {tuple(pixel) for pixel in zoom_tree(reading).reshape(-1, 3).tolist()}
    assert set(order_colours(reading.glimpses)) <= drawn


@pytest.mark.parametrize("ndim", [2, 3])
def test_whole_pictures_show_the_tree(ndim: int, tmp_path: Path) -> None:
    reading = reading_of(2, ndim=ndim, max_glimpses=5)
    tree, whole = zoom_tree(reading), scanpath_picture(reading)
    assert whole.shape[0] > tree.shape[0] + 100 and whole.shape[1] >= tree.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(whole[:, : tree.shape[1]], (8, tree.shape[1], 3))
    assert (windows[:, 0, 0] == tree[:8]).all((1, 2, 3)).any()
    to_gif(reading, tmp_path / "reading.gif", height=64)
    with Image.open(tmp_path / "reading.gif") as gif:
        assert gif.n_frames == reading.glimpses + 1


def test_a_grid_lies_in_no_wide_glimpse() -> None:
    assert (reading_of(2, reader="grid").traced.parents == -1).all()


@pytest.mark.parametrize(("levels", "zooms"), [(2, [0] * 5 + [1] * 4), (3, [0] * 3 + [1] * 3 + [2] * 3)])
def test_wide_first_spends_equal_parts_on_each_field_of_view(levels: int, zooms: list[int]) -> None:
    assert reading_of(levels, reader="wide_first").zooms.tolist() == zooms
