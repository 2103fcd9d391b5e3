"""What an agent sees: the right part of the image, cached, and sizes that are checked."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import glimpse.views as views_module
from glimpse.geometry import CellGrid, Extent, MissingSpacingError
from glimpse.sources import ArraySource
from glimpse.sources.caches import ByteCache, room
from glimpse.views import Views


@pytest.fixture
def source() -> ArraySource:
    array = np.random.default_rng(0).integers(1, 256, (1, 40, 60), dtype=np.uint8)
    return ArraySource(array, spacing=(0.5, 0.25), unit="um", name="case.npy")


def cells(*grid: int) -> CellGrid:
    return CellGrid(grid, (1,) * len(grid))


def test_sizes_become_tuples_and_extents_are_parsed():
    views = Views([10, 10], (4, 4), (8, "16um", [4, 8]))
    assert views.overview_size == (10, 10)
    assert views.glimpse_extents == (Extent((8.0,)), Extent((16.0,), "um"), Extent((4.0, 8.0)))
    assert views == Views((10, 10), (4, 4), (8, "16um", [4, 8]))
    assert hash(views) == hash(Views((10, 10), (4, 4), (8, "16um", [4, 8])))


def test_extent_in_pixels_of_the_source(source: ArraySource):
    np.testing.assert_array_equal(Views((10, 10), (4, 4), (8, "2um")).extent(source, 1), (4, 8))


def test_glimpse_shows_what_lies_at_the_location(source: ArraySource):
    views = Views((10, 10), (4, 4), (4, 8))
    array = source._array
    np.testing.assert_array_equal(views.glimpse(source, (0, 0)), array[:, 18:22, 28:32])
    np.testing.assert_array_equal(views.glimpse(source, np.array([-0.5, 0.5], np.float32)), array[:, 8:12, 43:47])
    wide = views.glimpse(source, (0, 0), zoom=1)
    assert wide.shape == (1, 4, 4)
    assert wide[0, 0, 0] == np.floor(array[0, 16:18, 26:28].mean() + 0.5)
    corner = views.glimpse(source, (1, 1))
    np.testing.assert_array_equal(corner[:, :2, :2], array[:, 38:, 58:])
    assert (corner[:, 2:] == 0).all()


def test_margin_shows_more_at_the_same_resolution(source: ArraySource):
    views = Views((10, 10), (4, 4), (8,))
    usual, wider = views.glimpse(source, (0, 0)), views.glimpse(source, (0, 0), margin=1.4)
    assert wider.shape == (1, 6, 6)  # 5.6 rounded
    np.testing.assert_array_equal(wider[:, 1:5, 1:5], usual)


def test_three_dimensions():
    volume = np.random.default_rng(0).integers(1, 256, (1, 10, 20, 30), dtype=np.uint8)
    source = ArraySource(volume, spacing=(4, 2, 1), unit="mm")
    views = Views((5, 10, 10), (2, 4, 8), ("8mm", [2, 4, 8]))
    np.testing.assert_array_equal(views.extent(source, 0), (2, 4, 8))
    np.testing.assert_array_equal(views.glimpse(source, (0, 0, 0)), volume[:, 4:6, 8:12, 11:19])
    assert views.overview(source).shape == (1, 5, 10, 10)
    assert views.foreground(source).shape == (1, 5, 10, 10)
    assert Views((5, 10, 10), (2, 4, 8), ("8mm",)).problems(source, cells(5, 5, 5)) == []
    assert views.pixels_read(source, np.zeros((2, 3)), [0, 1]) == 128


def test_overview_and_foreground_are_cached_shared_and_read_only(source: ArraySource, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(views_module, "overviews", ByteCache(1 << 20))
    overview = Views((10, 10), (4, 4), (4,)).overview(source)
    other = Views((10, 10), (2, 2), (8,))
    assert other.overview(source) is overview
    assert other.foreground(source) is Views((10, 10), (4, 4), (4,)).foreground(source)
    assert other.foreground(source).dtype == np.uint8
    assert other.foreground(source).shape == (1, 10, 10)
    assert set(np.unique(other.foreground(source))) <= {0, 1}
    with pytest.raises(ValueError, match="read-only"):
        overview[:] = 0
    assert Views((5, 5), (4, 4), (4,)).overview(source).shape == (1, 5, 5)
    assert Views((10, 10), (4, 4), (4,)).overview(ArraySource(np.zeros((1, 20, 20), np.uint8))).max() == 0


def test_the_cache_is_bounded_in_bytes_and_forgets_the_least_used():
    cache = ByteCache(250)
    made: list[str] = []

    def get(key: str) -> np.ndarray:
        return cache.get(key, lambda: made.append(key) or np.zeros(100, np.uint8))

    for key in ("a", "b", "a", "c", "a", "b"):
        get(key)
    assert made == ["a", "b", "c", "b"], "c pushes out b, since a was used after it"
    assert cache._held <= 250


def test_the_cache_is_safe_from_threads():
    cache = ByteCache(1000)
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda i: cache.get(i % 20, lambda: np.full(100, i % 20, np.uint8))[0] == i % 20, range(2000))
        )
    assert all(found)
    assert cache._held == sum(array.nbytes for array in cache._arrays.values()) <= 1000


def test_pixels_read_are_clipped_to_the_image(source: ArraySource):
    views = Views((10, 10), (4, 4), (8, 4))  # a wide glimpse shows 8 x 8 pixels reduced to a quarter
    assert views.pixels_read(source, np.zeros((0, 2)), []) == 0
    assert views.pixels_read(source, np.array([[0, 0]]), [1]) == 16
    assert views.pixels_read(source, np.array([[0, 0], [0, 0]]), [0, 1]) == 64 / 4 + 16
    assert views.pixels_read(source, np.array([[-1, -1]]), [0]) == 4  # a quarter of 16
    assert views.pixels_read(source, np.array([[1, 0]], np.float32), np.array([0])) == 8


def test_share_of_the_foreground():
    array = np.zeros((1, 40, 40), np.uint8)
    array[:, :, :20] = 255
    source = ArraySource(array)
    views = Views((8, 8), (4, 4), (4,))
    assert views.foreground_pixels(source) == 800
    assert views.share(source, np.array([[0, -0.5], [0.5, -0.5]]), [0, 0]) == pytest.approx(32 / 800)


def test_no_problems_where_all_is_well(source: ArraySource):
    assert Views((10, 10), (4, 4), (16, "2um")).problems(source, cells(10, 15)) == []
    assert Views((10, 10), (4, 4), (40,)).problems(source) == []


def test_a_glimpse_larger_than_the_image_is_a_problem(source: ArraySource):
    (problem,) = Views((10, 10), (4, 4), (41,)).problems(source)
    assert "case.npy: a glimpse of 41 (41 x 41 pixels) is larger than the image (40 x 60 pixels)" in problem


def test_cells_coarser_than_glimpses_are_a_problem(source: ArraySource):
    assert Views((10, 10), (4, 4), (4,)).problems(source, cells(10, 15)) == []  # 4 and 4 pixels apart
    (problem,) = Views((10, 10), (4, 4), (4,)).problems(source, cells(10, 14))
    assert "case.npy: cells coarser than glimpses: 10 x 14 cells lie 4 x 4.28571 pixels apart" in problem
    assert Views((10, 10), (4, 4), (5,)).problems(source, cells(10, 14)) == []
    assert Views((10, 10), (4, 4), (5, 4)).problems(source, cells(10, 14)) == [], (
        "the widest glimpse reaches everywhere"
    )


def test_fields_of_view_that_do_not_reach_each_other_are_a_problem(source: ArraySource):
    views, grid = Views((10, 10), (8, 8), (5, 4)), CellGrid((8, 8), (2, 2))  # 4 x 4 cells of a glimpse
    assert views.problems(source, cells(10, 14), grid) == []  # 1.25 pixels apart
    (problem,) = Views((10, 10), (8, 8), (20, 4)).problems(source, cells(10, 14), grid)
    assert "a glimpse of 20 x 20 pixels has cells that lie 5 x 5 pixels apart" in problem
    assert "next field of view spans 4 x 4" in problem
    (problem,) = Views((10, 10), (8, 8), (4, 8)).problems(source, cells(10, 15), grid)
    assert "have to go from wide to fine" in problem and "4 x 4, 8 x 8 pixels" in problem
    for height, width in ((5, 5), (20, 4)):  # wider on one axis, and no finer on any
        (problem,) = Views((10, 10), (8, 8), ((20, 4), (height, width))).problems(source, cells(10, 15), grid)
        assert "have to go from wide to fine" in problem and f"20 x 4, {height} x {width} pixels" in problem
    equal = Views((10, 10), (8, 8), ((20, 4), (10, 4)))  # as of a stack of few slices, which all glimpses show whole
    assert equal.problems(source, cells(10, 15), grid) == []
    frame = source.frame  # which is all that is asked
    assert Views((10, 10), (8, 8), (20, 4)).problems(frame, cells(10, 14), grid)[0].startswith("case.npy: a glimpse of")


def test_other_problems(source: ArraySource):
    assert "2 axes, overview_size (4, 4, 4) has 3" in Views((4, 4, 4), (2, 2, 2), (2,)).problems(source)[0]
    bare = ArraySource(np.zeros((1, 40, 40), np.uint8), name="bare.npy")
    assert "bare.npy: the extent 2um" in Views((4, 4), (2, 2), ("2um",)).problems(bare)[0]
    assert "1 axes" in Views((10, 10), (4, 4), (4,)).problems(source, cells(4))[0]
    with pytest.raises(MissingSpacingError, match=r"bare\.npy"):
        Views((4, 4), (2, 2), ("2um",)).glimpse(bare, (0, 0))


@pytest.mark.parametrize(
    ("overview", "glimpse", "extents"), [((0, 4), (4, 4), (4,)), ((4, 4), (4,), (4,)), ((4, 4), (4, 4), ())]
)
def test_impossible_sizes_are_refused(overview: tuple[int, ...], glimpse: tuple[int, ...], extents: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"size|extents"):
        Views(overview, glimpse, extents)


# A glimpse of 8 x 8 pixels at (0, 0) covers rows 16 to 24 and columns 26 to 34.
@pytest.mark.parametrize(
    ("low", "high", "hit"),
    [
        ((18, 28), (20, 30), True),  # lies whole in the glimpse
        ((16, 26), (24, 34), True),  # is the glimpse
        ((0, 0), (40, 60), True),  # holds the glimpse whole
        ((0, 30), (40, 32), True),  # longer than the glimpse on one axis, narrower on the other
        ((22, 28), (26, 30), False),  # half of it lies below
        ((15.5, 28), (20, 30), True),  # half a pixel lies outside, which may be rounding
        ((15.4, 28), (20, 30), False),
        ((20.5, 0), (40, 60), False),  # half of the glimpse lies in it
        ((30, 40), (32, 42), False),  # elsewhere
        ((18, 40), (20, 42), False),  # in the same rows
    ],
)
def test_hits_by_hand(source: ArraySource, low: tuple[float, ...], high: tuple[float, ...], hit: bool):
    views, marks = Views((10, 10), (4, 4), (8,)), np.array([[low, high]])
    assert views.hits(source, np.zeros((1, 2)), [0], marks).tolist() == [hit]


def test_only_the_finest_glimpses_hit(source: ArraySource, monkeypatch: pytest.MonkeyPatch):
    views = Views((10, 10), (4, 4), (16, 4))
    marks = np.array([[[4, 4], [10, 10]], [[14, 24], [22, 32]], [[35, 0], [39, 3]]], np.float64)
    locations = np.array([[-0.5, -0.5], [0, 0]], np.float32)  # (10, 15) and (20, 30)
    assert views.hits(source, locations, [1, 1], marks).tolist() == [False, True, False]  # lies within the second mark
    assert views.hits(source, locations, np.array([1, 0]), marks).tolist() == [False, False, False]
    assert views.hits(source, locations, np.array([0, 1]), marks).tolist() == [False, True, False]
    monkeypatch.setattr(views_module, "_PAIRS", 2)  # compared one mark at a time
    assert views.hits(source, locations, [1, 1], marks).tolist() == [False, True, False]


def test_nothing_is_hit_without_glimpses_or_marks(source: ArraySource):
    views = Views((10, 10), (4, 4), (8,))
    assert views.hits(source, np.zeros((0, 2)), [], np.zeros((2, 2, 2))).tolist() == [False, False]
    assert views.hits(source, np.zeros((1, 2)), [0], np.zeros((0, 2, 2))).shape == (0,)


def test_hits_in_three_dimensions():
    source = ArraySource(np.zeros((1, 10, 20, 30), np.uint8), spacing=(4, 2, 1), unit="mm")
    views = Views((5, 10, 10), (2, 4, 8), ("8mm",))  # 2 x 4 x 8 pixels: slices 4 to 6, rows 8 to 12, columns 11 to 19
    marks = np.array([[[4, 9, 12], [5, 11, 18]], [[3, 9, 12], [5, 11, 18]], [[0, 0, 0], [10, 20, 15]]], np.float64)
    assert views.hits(source, np.zeros((1, 3)), [0], marks).tolist() == [True, False, False]


@pytest.mark.parametrize(("text", "number"), [("1.5", 1.5), ("0", 0), ("inf", math.inf), ("", 7)])
def test_the_room_of_a_cache_is_a_number(text: str, number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_FEATURE_CACHE_MB", text)
    assert room("GLIMPSE_FEATURE_CACHE_MB", 7) == number
    cache = ByteCache(number * 2**20)
    cache.keep("a", np.zeros(3))
    assert cache.find("a") is not None


@pytest.mark.parametrize("text", ["abc", "nan", "-1", "256MB"])
def test_a_variable_that_is_no_room_is_named_and_the_default_counts(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_VOLUME_CACHE_GB", text)
    with pytest.warns(UserWarning, match=f"^GLIMPSE_VOLUME_CACHE_GB={text}: expected a number.*; 20 counts"):
        assert room("GLIMPSE_VOLUME_CACHE_GB", 20.0) == 20
