"""The full scan: what it reads, what it keeps, and that it learns."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glimpse.agents import full_scan
from glimpse.agents.full_scan import FullScan
from glimpse.agents.tiles import blocks, foreground_tiles, read_tiles, tile_locations
from glimpse.cohort import Case
from glimpse.geometry import Extent
from glimpse.sources.array import ArraySource
from glimpse.tasks import Classification
from glimpse.views import Views

VIEWS = Views((12, 12), (4, 4), (Extent.parse(8),))


def image(rng: np.random.Generator, target: int, size: int = 48) -> np.ndarray:
    """Dim noise in one half of the picture; where the target is 1, one bright spot in it."""
    pixels = np.zeros((1, size, size), np.uint8)
    pixels[:, :, : size // 2] = rng.integers(60, 120, (1, size, size // 2))
    if target:
        top, left = rng.integers(0, 5) * 8, rng.integers(0, 2) * 8
        pixels[:, top : top + 8, left : left + 8] = 250
    return pixels


def made_cases(count: int, seed: int, split: str) -> list[Case]:
    rng = np.random.default_rng(seed)
    names = [f"{split}{i}" for i in range(count)]
    return [Case(name, name, ArraySource(image(rng, i % 2), name=name), i % 2, split) for i, name in enumerate(names)]


def brightness(images: torch.Tensor) -> torch.Tensor:
    flat = images.float().flatten(1) / 255
    return torch.stack([flat.mean(1), flat.amax(1)], 1)


def test_tiles_are_those_with_foreground() -> None:
    pixels = np.zeros((1, 32, 40), np.uint8)
    pixels[:, 8:16, 16:28] = 200  # tile (1, 2) and half of tile (1, 3)
    views = Views((32, 40), (4, 4), (Extent.parse(8),))
    assert foreground_tiles(views, ArraySource(pixels)).tolist() == [[1, 2], [1, 3]]


def test_a_speck_of_foreground_still_has_a_tile() -> None:
    pixels = np.zeros((1, 32, 40), np.uint8)
    pixels[:, 20, 33] = 200
    views = Views((32, 40), (4, 4), (Extent.parse(8),))
    assert foreground_tiles(views, ArraySource(pixels)).tolist() == [[2, 4]]


def test_tile_locations_by_hand() -> None:
    source = ArraySource(np.zeros((1, 32, 40), np.uint8))
    locations = tile_locations(VIEWS, source, np.array([[0, 0], [3, 4]]))
    np.testing.assert_allclose(locations, [[-0.75, -0.8], [0.75, 0.8]], atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 56), (37, 61), (16, 24, 40), (17, 25, 39)])
@pytest.mark.parametrize("extent", [8, 4])
def test_a_block_gives_the_pixels_of_single_glimpses(shape: tuple[int, ...], extent: int) -> None:
    source = ArraySource(np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8))
    views = Views((8,) * len(shape), (4,) * len(shape), (Extent.parse(extent),))
    tiles = foreground_tiles(views, source)
    locations = source.frame.to_location((tiles + 0.5) * extent)
    assert len(tiles) == np.prod([-(-n // extent) for n in shape])  # noise everywhere: every tile, edges included
    seen = []
    for group in blocks(tiles, 3):
        patches = read_tiles(views, source, tiles[group])
        for patch, index in zip(patches, group, strict=True):
            np.testing.assert_allclose(patch, views.glimpse(source, locations[index]).astype(int), atol=1)
        seen += group.tolist()
    assert sorted(seen) == list(range(len(tiles)))


def test_blocks_are_boxes_in_raster_order() -> None:
    tiles = np.argwhere(np.ones((4, 4), bool))
    groups = [tiles[group].tolist() for group in blocks(tiles, 2)]
    assert groups[0] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert [group[0] for group in groups] == [[0, 0], [0, 2], [2, 0], [2, 2]]


def test_it_finds_a_single_telling_patch() -> None:
    train, val, test = made_cases(24, 0, "train"), made_cases(8, 1, "val"), made_cases(10, 2, "test")
    scan = FullScan(brightness, VIEWS, Classification(2), learning_rate=1e-2, epochs=60)
    readings = scan.fit(train, val).read(test)
    assert [int(reading.prediction.argmax()) for reading in readings] == [case.target for case in test]
    one = readings[0]
    assert (one.id, one.glimpses, one.scanpath.shape) == ("test0", 18, (18, 2))
    assert one.share_read == pytest.approx(1.0) and one.pixels_read == 24 * 48
    assert one.predictions.shape == (1, 2) and one.seconds > 0


def test_the_same_seed_gives_the_same_answers_and_leaves_the_global_generator_alone() -> None:
    train, test = made_cases(8, 0, "train"), made_cases(2, 2, "test")
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    scans = [FullScan(brightness, VIEWS, Classification(2), epochs=3, seed=5) for _ in "ab"]
    answers = [scan.fit(train).read(test) for scan in scans]
    assert torch.rand(1) == expected
    np.testing.assert_array_equal(answers[0][1].prediction, answers[1][1].prediction)
    other = FullScan(brightness, VIEWS, Classification(2), epochs=3, seed=6).fit(train).read(test)
    assert not np.array_equal(other[1].prediction, answers[0][1].prediction)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many patches each read gave."""
    reads: list[int] = []
    honest: Callable[..., np.ndarray] = full_scan.read_tiles

    def counting(*arguments: Any) -> np.ndarray:
        patches = honest(*arguments)
        reads.append(len(patches))
        return patches

    monkeypatch.setattr(full_scan, "read_tiles", counting)
    return reads


def test_embeddings_are_kept_and_used_again(tmp_path: Path, counted: list[int]) -> None:
    cases = made_cases(3, 0, "train")
    first = FullScan(brightness, VIEWS, Classification(2), folder=tmp_path).bags(cases)
    assert sum(counted) == 3 * 18
    again = FullScan(brightness, VIEWS, Classification(2), folder=tmp_path).bags(cases)
    assert sum(counted) == 3 * 18
    assert [file.name for file in tmp_path.iterdir()] == ["full_scan-train.safetensors"]
    torch.testing.assert_close(first[2].embeddings, again[2].embeddings)
    assert first[1].seconds == again[1].seconds


def test_the_next_case_is_begun_while_one_is_read_and_bags_stay_in_order() -> None:
    cases = made_cases(4, 0, "train")
    both = threading.Barrier(2, timeout=60)  # opens only for the single groups of two cases at the same time

    def together(images: torch.Tensor) -> torch.Tensor:
        if len(images) > 1:  # not the probe
            both.wait()
        return brightness(images)

    bags = FullScan(together, VIEWS, Classification(2), threads=2).bags(cases)
    alone = [FullScan(brightness, VIEWS, Classification(2), threads=1).bags([case])[0] for case in cases]
    for bag, expected in zip(bags, alone, strict=True):
        torch.testing.assert_close(bag.embeddings, expected.embeddings, rtol=0, atol=0)
        torch.testing.assert_close(bag.locations, expected.locations, rtol=0, atol=0)
        assert bag.seconds > 0


@pytest.mark.parametrize("change", ["weights", "cases", "views", "broken"])
def test_embeddings_of_something_else_are_not_used(tmp_path: Path, counted: list[int], change: str) -> None:
    cases = made_cases(3, 0, "train")
    FullScan(brightness, VIEWS, Classification(2), folder=tmp_path).bags(cases)
    counted.clear()
    embed = (lambda images: brightness(images) * 1.1) if change == "weights" else brightness
    views = Views((24, 24), (4, 4), (Extent.parse(8),)) if change == "views" else VIEWS
    if change == "broken":
        (tmp_path / "full_scan-train.safetensors").write_bytes(b"cut short")
    FullScan(embed, views, Classification(2), folder=tmp_path).bags(cases[: 2 if change == "cases" else 3])
    assert sum(counted) == 18 * (2 if change == "cases" else 3)


def test_a_policy_that_learns_on_does_not_change_the_scan() -> None:
    policy = torch.nn.Module()
    policy.encoder, policy.pool = torch.nn.Flatten(), torch.nn.Linear(16, 3)
    policy.encoder.forward = lambda images: images.float().flatten(1) / 255  # type: ignore[method-assign]
    scan = FullScan(policy, VIEWS, Classification(2))
    cases = made_cases(1, 0, "train")
    before = scan.bags(cases)[0].embeddings
    torch.nn.init.zeros_(policy.pool.weight)
    torch.testing.assert_close(scan.bags(cases)[0].embeddings, before)


def test_it_says_what_is_missing() -> None:
    scan = FullScan(brightness, VIEWS, Classification(2))
    with pytest.raises(ValueError, match="training split is empty"):
        scan.fit([])
    with pytest.raises(RuntimeError, match="call fit"):
        scan.read(made_cases(1, 0, "test"))
