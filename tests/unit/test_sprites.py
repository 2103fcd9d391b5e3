"""Images that are rendered where they are read show what a fully painted canvas shows."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from glimpse.sources import ArraySource, ImageSource
from glimpse.sources.drawn.collage import CollageSource
from glimpse.sources.drawn.sprites import SpriteSource
from glimpse.synthetic.glyphs.megapixel_mnist import Plan, make_cases, place

SHAPE = (500, 620)
SIDE = 20


def sprites() -> tuple[SpriteSource, ArraySource]:
    """60 sprites of random pixels, some of them at the edges, and the same image as an array."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (30, SIDE, SIDE), dtype=np.uint8)
    corners = place(rng, 1, 60, SHAPE[0], SIDE)[0]
    corners = corners[np.abs(corners - (0, SHAPE[0] - SIDE)).max(1) >= SIDE]
    corners = np.concatenate([corners, [[0, SHAPE[1] - SIDE], [SHAPE[0] - SIDE, SHAPE[1] - SIDE]]])
    index = rng.integers(30, size=len(corners))
    canvas = np.zeros((1, *SHAPE), np.uint8)
    for number, (y, x) in zip(index, corners, strict=True):
        assert not canvas[0, y : y + SIDE, x : x + SIDE].any()
        canvas[0, y : y + SIDE, x : x + SIDE] = patterns[number]
    return SpriteSource(SHAPE, patterns, index, corners, "one"), ArraySource(canvas)


def collage() -> tuple[CollageSource, ArraySource]:
    """30 overlapping pieces on a small canvas, and the same image as an array."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (12, SIDE, SIDE), dtype=np.uint8)
    canvas, pieces = np.zeros((1, 70, 90), np.uint8), []
    for _ in range(30):
        side = int(rng.integers(1, SIDE + 1))
        top, left = rng.integers(0, SIDE - side + 1, 2)
        y, x = rng.integers(0, 70 - side + 1), rng.integers(0, 90 - side + 1)
        pattern = rng.integers(12)
        there = canvas[0, y : y + side, x : x + side]
        there[:] = np.maximum(there, patterns[pattern, top : top + side, left : left + side])
        pieces.append((pattern, top, left, side, y, x))
    return CollageSource((70, 90), patterns, np.array(pieces), "one"), ArraySource(canvas)


def differences(source: ImageSource, array: ArraySource, whole: bool, reads: int = 150) -> list[int]:
    """The largest difference of each of some random reads, inside the image and across its edges."""
    rng, shape, found = np.random.default_rng(1), np.array(source.shape), []
    for _ in range(reads):
        size = rng.integers(1, 41, 2)
        extent = size * rng.integers(1, 9, 2) if whole else size * rng.uniform(0.3, 8.0, 2)
        center = rng.uniform(-0.1, 1.1, 2) * shape
        one, other = source.read(center, extent, size), array.read(center, extent, size)
        assert one.shape == other.shape == (1, *size) and one.dtype == np.uint8
        found.append(int(np.abs(one.astype(int) - other).max()))
        assert other.any() or not one.any()
    return found


@pytest.mark.parametrize("make", [sprites, collage])
def test_reads_by_whole_factors_are_exact(make) -> None:
    assert set(differences(*make(), whole=True)) == {0}


@pytest.mark.parametrize("make", [sprites, collage])
def test_reads_by_fractional_factors_are_exact_to_rounding(make) -> None:
    found = differences(*make(), whole=False)
    assert max(found) <= 1 and np.mean(np.array(found) > 0) < 0.1  # arrays sum in single precision


@pytest.mark.parametrize("make", [sprites, collage])
@pytest.mark.parametrize("size", [(1, 1), (7, 11), (50, 62), (35, 45)])
def test_overviews_are_those_of_the_painted_canvas(make, size: tuple[int, int]) -> None:
    source, array = make()
    np.testing.assert_allclose(source.overview(size).astype(int), array.overview(size), atol=1)


def test_wide_reads_take_the_same_way_as_narrow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    source, array = sprites()
    for limit in (1, 1 << 30):  # sprites resampled one by one; the region painted
        monkeypatch.setattr("glimpse.sources.drawn.sprites.PAINTED_PIXELS", limit)
        wide = (240, 300), (300, 400), (60, 80)
        np.testing.assert_array_equal(source.read(*wide), array.read(*wide))
        np.testing.assert_array_equal(source.read((5, 615), 40, (40, 40)), array.read((5, 615), 40, (40, 40)))


@pytest.mark.parametrize("make", [sprites, collage])
def test_wrong_regions_are_refused(make) -> None:
    source, _ = make()
    with pytest.raises(ValueError, match="expected 2 values in center, extent and size, got 3"):
        source.read((1, 1, 1), 4, (4, 4))
    with pytest.raises(ValueError, match="positive extent"):
        source.read((1, 1), 0, (4, 4))


@pytest.mark.parametrize("make", [sprites, collage])
def test_what_is_empty_is_background_and_can_still_be_looked_at(make) -> None:
    source, _ = make()
    assert source.background.tolist() == [0] and source.channels == 1
    assert not source.read((-100, -100), 50, (10, 10)).any()
    blank = np.zeros((1, 9, 11), np.uint8)
    assert source.foreground(blank).all() and source.foreground(blank).shape == (9, 11)


def test_foreground_of_sprites_in_blocks() -> None:
    source, _ = sprites()
    overview = np.zeros((1, 5, 7), np.uint8)
    overview[0, 0, 1], overview[0, 4, 6] = 60, 40  # means of 15 and 10 over 2 x 2 pixels
    expected = np.zeros((5, 7), bool)
    expected[:2, :2] = True
    np.testing.assert_array_equal(source.foreground(overview), expected)


def test_foreground_of_sprites_however_faint() -> None:
    patterns = np.full((1, 8, 8), 1, np.uint8)  # dark, and far below a level of grey once it is reduced 100 times
    source = SpriteSource(
        (1000, 1000), patterns, np.zeros(3, int), np.array([[96, 500], [992, 0], [-50, 50]]), "s", "s", None
    )
    overview = source.overview((10, 10))
    assert not overview.any()
    assert np.argwhere(source.foreground(overview)).tolist() == [[0, 5], [1, 5], [9, 0]]


def test_foreground_of_a_collage_is_what_is_not_black() -> None:
    source, _ = collage()
    overview = np.zeros((1, 3, 4), np.uint8)
    overview[0, 1, 2] = 1
    assert np.argwhere(source.foreground(overview)).tolist() == [[1, 2]]


def test_a_case_takes_few_bytes(tiny_mnist: Path) -> None:
    plan = Plan()  # 1500 x 1500 pixels, 55 sprites
    tracemalloc.start()
    try:
        held = []
        for count in (100, 400):
            before = tracemalloc.get_traced_memory()[0]
            cases = make_cases(tiny_mnist, "train", count, plan, ("majority",), 0)
            held.append(tracemalloc.get_traced_memory()[0] - before)
            assert len(cases) == count
            del cases
    finally:
        tracemalloc.stop()
    per_case = (held[1] - held[0]) / 300  # what all cases share falls out
    assert 55 * 12 < per_case < 10_000  # numbers and places of 55 sprites; 5,000 cases then take 50 MB
