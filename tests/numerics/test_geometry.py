"""Conversions between [-1, 1], pixels and physical units, against values worked by hand."""

import numpy as np
import pytest

from glimpse.geometry import CellGrid, Extent, Frame, MissingSpacingError


@pytest.mark.parametrize(
    ("shape", "location", "pixels"),
    [
        ((100, 200), (-1, -1), (0, 0)),  # the outer corner of the first pixel
        ((100, 200), (1, 1), (100, 200)),  # the outer corner of the last
        ((100, 200), (-1, 1), (0, 200)),
        ((100, 200), (1, -1), (100, 0)),
        ((100, 200), (0, 0), (50, 100)),
        ((100, 200), (0.5, -0.25), (75, 75)),  # 1.5 / 2 * 100; 0.75 / 2 * 200
        ((5, 7), (0, 0), (2.5, 3.5)),  # odd sizes: the middle of the middle pixel
        ((1, 3), (0, 2 / 3), (0.5, 2.5)),  # the middle of the last of three pixels
        ((4, 5, 6), (-1, 0, 1), (0, 2.5, 6)),
        ((3, 3, 9), (1 / 3, -1 / 3, -8 / 9), (2, 1, 0.5)),
        ((8,), (0.25,), (5,)),
    ],
)
def test_location_to_pixels_and_back(shape: tuple[int, ...], location: tuple[float, ...], pixels: tuple[float, ...]):
    frame = Frame(shape)
    np.testing.assert_allclose(frame.to_pixels(location), pixels, atol=1e-12)
    np.testing.assert_allclose(frame.to_location(pixels), location, atol=1e-12)


def test_conversion_of_many_locations_at_once():
    pixels = Frame((10, 20)).to_pixels(np.array([[[-1.0, -1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]], np.float32))
    np.testing.assert_array_equal(pixels, [[[0, 0], [5, 10]], [[10, 10], [5, 20]]])
    assert pixels.dtype == np.float64


def test_first_pixel_centre_lies_half_a_pixel_in():
    assert Frame((10,)).to_location([0.5]) == pytest.approx(-0.9)


def test_a_whole_slide_keeps_sub_pixel_precision():
    frame = Frame((100_000, 150_001))
    np.testing.assert_allclose(
        frame.to_pixels(frame.to_location((99_999.5, 150_000.5))), (99_999.5, 150_000.5), atol=1e-6
    )


def test_physical_positions():
    frame = Frame((10, 20, 30), spacing=(5, 0.5, 0.25), unit="mm")
    np.testing.assert_allclose(frame.to_physical((1, 2, 4)), (5, 1, 1))
    np.testing.assert_allclose(frame.from_physical((5, 1, 1)), (1, 2, 4))


@pytest.mark.parametrize(
    ("value", "spacing", "unit", "pixels"),
    [
        (128, None, None, (128, 128)),
        ("128", None, None, (128, 128)),
        (" 128 px ", None, None, (128, 128)),
        ("64um", (0.5, 0.25), "um", (128, 256)),
        ("64 µm", (0.5, 0.25), "um", (128, 256)),
        ("30mm", (0.5, 2.0), "mm", (60, 15)),
        ("1mm", (0.5, 0.25), "um", (2000, 4000)),  # 1000 um
        ("500um", (0.5, 0.25), "mm", (1, 2)),  # 0.5 mm
        ([8, 64], None, None, (8, 64)),
        (["1mm", "2mm"], (0.5, 0.5), "mm", (2, 4)),
        (np.float64(2.5), None, None, (2.5, 2.5)),
    ],
)
def test_extent_to_pixels(value, spacing, unit, pixels):
    result = Extent.parse(value).to_pixels(Frame((1000, 1000), spacing, unit))
    np.testing.assert_allclose(result, pixels)
    assert result.dtype == np.float64


def test_extent_in_three_dimensions():
    frame = Frame((40, 256, 256), (5.0, 1.0, 1.0), "mm")
    np.testing.assert_allclose(Extent.parse("30mm").to_pixels(frame), (6, 30, 30))
    np.testing.assert_allclose(Extent.parse([8, 64, 32]).to_pixels(frame), (8, 64, 32))
    with pytest.raises(ValueError, match=r"scan\.nii: the extent \[8, 64\] has 2 axes, the image 3"):
        Extent.parse([8, 64]).to_pixels(Frame((4, 4, 4), name="scan.nii"))


def test_a_parsed_extent_is_left_as_it_is():
    extent = Extent((8.0,), "um")
    assert Extent.parse(extent) is extent
    assert str(Extent.parse(["8mm", "64mm"])) == "[8mm, 64mm]"
    assert str(Extent.parse(128)) == "128"


@pytest.mark.parametrize("value", ["64 parsec", "wide", "", "-5um", 0, -3, True, [8, "8um"], [], float("nan"), None])
def test_unreadable_extents_are_refused(value):
    with pytest.raises(ValueError, match="extent"):
        Extent.parse(value)


def test_physical_extent_without_spacing_names_the_image():
    with pytest.raises(MissingSpacingError, match=r"slide_7\.svs: .*64um.*mpp"):
        Extent.parse("64um").to_pixels(Frame((10, 10), name="slide_7.svs"))


@pytest.mark.parametrize(
    ("shape", "spacing", "unit"),
    [
        ((), None, None),
        ((0, 5), None, None),
        ((5, 5), (1.0,), "um"),
        ((5, 5), (1.0, -1.0), "um"),
        ((5, 5), (1, 1), "cm"),
    ],
)
def test_impossible_frames_are_refused(shape, spacing, unit):
    with pytest.raises(ValueError, match="image"):
        Frame(shape, spacing, unit)


def test_cells_by_hand():
    np.testing.assert_allclose(CellGrid((8,), (4,)).locations(), [[-0.5], [0.5]])
    np.testing.assert_allclose(
        CellGrid((2, 12), (2, 3)).locations(), [[0, -0.75], [0, -0.25], [0, 0.25], [0, 0.75]], atol=1e-7
    )
    np.testing.assert_allclose(
        CellGrid((2, 3), (1, 1)).locations(),
        [[-0.5, -2 / 3], [-0.5, 0], [-0.5, 2 / 3], [0.5, -2 / 3], [0.5, 0], [0.5, 2 / 3]],
        atol=1e-7,
    )


def test_cells_in_three_dimensions_are_in_c_order():
    cells = CellGrid((2, 1, 2), (1, 1, 1)).locations()
    np.testing.assert_array_equal(cells, [[-0.5, 0, -0.5], [-0.5, 0, 0.5], [0.5, 0, -0.5], [0.5, 0, 0.5]])
    assert cells.dtype == np.float32


@pytest.mark.parametrize(
    ("size", "side", "cells", "margins", "centres"),
    [
        (12, 4, 3, (0, 0), [2, 6, 10]),
        (11, 4, 3, (0, 1), [2, 6, 10]),
        (10, 4, 3, (1, 1), [1, 5, 9]),
        (9, 4, 3, (1, 2), [1, 5, 9]),
        (3, 8, 1, (2, 3), [2]),
    ],
)
def test_cells_of_an_overview_that_is_no_whole_number_of_cells(size, side, cells, margins, centres):
    """Cells keep their side: the outer ones reach beyond the edges, and all centres are inside."""
    grid = CellGrid((size,), (side,))
    assert (grid.cells, grid.margins, grid.pitch) == ((cells,), (margins,), (side / size,))
    np.testing.assert_allclose((grid.locations()[:, 0] + 1) / 2 * size, centres, atol=1e-5)
    assert np.abs(grid.locations()).max() <= 1


@pytest.mark.parametrize(("size", "side"), [((3, 0), (1, 1)), ((), ()), ((4, 4), (2,)), ((4,), (0,))])
def test_an_empty_grid_is_refused(size, side):
    with pytest.raises(ValueError, match="of at least 1 per axis"):
        CellGrid(size, side)
