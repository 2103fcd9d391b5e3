"""Sparse slides: fragments on glass, written without a whole canvas, and drawn without a look at the target."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from glimpse.settings.composing import composed
from glimpse.synthetic import making
from glimpse.synthetic.__main__ import main
from glimpse.synthetic.slides import recipe
from glimpse.synthetic.slides.layout import FOCUS
from glimpse.synthetic.slides.patchwork import Patch, Patchwork
from glimpse.synthetic.slides.scattering import GRID, Fragment, fragment_side, scatter
from glimpse.synthetic.slides.svs import TILE, write_svs
from glimpse.synthetic.slides.texture import texture

SIDE, FRAGMENT = 8192, 1024


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small sparse slides; the path of their CSV."""
    return recipe.embedded_cohort(tmp_path_factory.mktemp("sparse"), n=6, size=SIDE, workers=1, sparse=True)


def scattered(seed: int, target: int, size: int = SIDE) -> tuple[Fragment, ...]:
    return scatter(np.random.default_rng(seed), size, target, texture().labels, texture().islands)


def region(slide: openslide.OpenSlide, level: int, y: int, x: int, side: int) -> np.ndarray:
    """Pixels of a level, int (side, side, 3); y and x in level-0 pixels."""
    return np.asarray(slide.read_region((x, y), level, (side, side)).convert("RGB")).astype(int)


# --- Patchworks ------------------------------------------------------------------------------------------------------


def patchwork(size: int = 1024) -> tuple[Patchwork, np.ndarray]:
    """Two patches, one of which crosses the borders of tiles, and the same as a plain array."""
    rng, ground = np.random.default_rng(0), np.array([240, 236, 241], np.uint8)
    patches = [Patch(y, x, rng.integers(0, 255, (320, 256, 3), np.uint8)) for y, x in ((64, 128), (512, 768))]
    whole = np.empty((size, size, 3), np.uint8)
    whole[:] = ground
    for one in patches:
        whole[one.y : one.y + 320, one.x : one.x + 256] = one.image
    return Patchwork(size, ground, patches), whole


def test_any_part_of_a_patchwork_is_that_of_the_whole() -> None:
    work, whole = patchwork()
    assert (work.shape, work.dtype) == (whole.shape, whole.dtype)
    np.testing.assert_array_equal(work[:, :], whole)
    for part in np.s_[0:256, 0:256], np.s_[200:700, 100:900], np.s_[768:1100, 960:2000], np.s_[0:64, 512:768]:
        np.testing.assert_array_equal(work[part], whole[part])
    np.testing.assert_array_equal(work.reduced(4)[:, :], np.asarray(Image.fromarray(whole).reduce(4)))


def test_what_is_read_of_a_patchwork_is_a_copy() -> None:
    work, whole = patchwork()
    work[0:300, 0:300][:] = 0
    np.testing.assert_array_equal(work[:, :], whole)


def test_a_patchwork_makes_the_same_file_as_an_array(tmp_path: Path) -> None:
    work, whole = patchwork(1000 + 24)
    low = Image.fromarray(whole).reduce(4)
    write_svs(tmp_path / "array.svs", [whole, np.asarray(low)])
    write_svs(tmp_path / "patches.svs", [work, work.reduced(4)])
    assert (tmp_path / "patches.svs").read_bytes() == (tmp_path / "array.svs").read_bytes()


def test_glass_is_stored_once_however_large_the_slide(tmp_path: Path) -> None:
    ground, patch = np.array([244, 243, 244], np.uint8), np.zeros((TILE, TILE, 3), np.uint8)
    levels = [Patchwork(32_768, ground, [Patch(512, 512, patch)])]
    levels += [levels[0].reduced(64)]
    write_svs(tmp_path / "glass.svs", levels)
    assert (tmp_path / "glass.svs").stat().st_size < 200_000  # 131,072 of which say where tiles are
    with tifffile.TiffFile(tmp_path / "glass.svs") as file:
        assert len(file.pages[0].dataoffsets) == 128**2 and len(set(file.pages[0].dataoffsets)) == 2


# --- The plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8192, 32_768, 49_152])
@pytest.mark.parametrize("seed", range(4))
def test_fragments_lie_apart_and_two_or_three_hold_foci(seed: int, size: int) -> None:
    fragments = scattered(seed, 1, size)
    side = fragments[0].layout.size
    assert side == {8192: 1024, 32_768: 3072, 49_152: 4096}[size]
    spotted = [one for one in fragments if one.layout.spots]
    plain = fragments[len(spotted) :]
    assert 4 <= len(spotted) <= 5 and 8 <= len(plain) <= 10
    assert all(one.layout is plain[0].layout for one in plain) and plain[0].layout.labels.any()
    for number, one in enumerate(fragments):
        assert one.y % GRID == one.x % GRID == 0
        assert 0 <= one.y <= size - side and 0 <= one.x <= size - side
        assert all(max(abs(one.y - other.y), abs(one.x - other.x)) > side for other in fragments[:number])
    foci = [sum(spot.kind == FOCUS for spot in one.layout.spots) for one in fragments]
    assert 2 <= sum(count > 0 for count in foci) <= 3
    assert all(count in (0, len(one.layout.spots)) for count, one in zip(foci, fragments, strict=True))
    assert sum(len(one.layout.spots) for one in fragments) > sum(foci)  # there are look-alikes


@pytest.mark.parametrize("seed", range(4))
def test_the_target_changes_nothing_but_kinds(seed: int) -> None:
    negative, positive = scattered(seed, 0), scattered(seed, 1)
    assert [(one.y, one.x) for one in negative] == [(one.y, one.x) for one in positive]
    for one, other in zip(negative, positive, strict=True):
        np.testing.assert_array_equal(one.layout.labels, other.layout.labels)
        for spot, same in zip(one.layout.spots, other.layout.spots, strict=True):
            assert spot.kind != FOCUS and (spot.y, spot.x, spot.radius) == (same.y, same.x, same.radius)
            np.testing.assert_array_equal(spot.outline, same.outline)


# --- The slides ------------------------------------------------------------------------------------------------------


def test_sparse_slides_are_aperio_pyramids_of_four_levels(cohort: Path) -> None:
    for row in rows_of(cohort):
        path = cohort.parent / row["path"]
        assert float(row["mpp"]) == 0.5 and row["site"] in {"north", "east", "south", "west"}
        with openslide.OpenSlide(path) as slide:
            assert slide.properties["openslide.vendor"] == "aperio"
            assert slide.level_dimensions == tuple((side, side) for side in (8192, 2048, 512, 128))
            assert float(slide.properties["openslide.mpp-x"]) == float(slide.properties["openslide.mpp-y"]) == 0.5
        assert path.stat().st_size < 2_500_000
        with tifffile.TiffFile(path) as file:
            assert len(set(file.pages[0].dataoffsets)) <= 6 * (FRAGMENT // TILE) ** 2 + 1  # copies are stored once


def test_a_slide_depends_on_its_seed_only_and_shows_what_was_painted(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: list[Sequence[Patchwork]] = []

    def watched(path: Path, levels: Sequence[Any], **facts: Any) -> None:
        caught.append(levels)
        write_svs(path, levels, **facts)

    monkeypatch.setattr(recipe, "write_svs", watched)
    record = making.plan(6, 0, recipe.SPARSE)[2]
    (tmp_path / "slides").mkdir()
    recipe.make_sparse_slide(record, tmp_path, 0, SIDE)
    assert (tmp_path / record.path).read_bytes() == (cohort.parent / record.path).read_bytes()
    with openslide.OpenSlide(tmp_path / record.path) as slide:
        for number, level in enumerate(caught[0]):
            scale = 4**number
            for patch in level._patches:
                side = FRAGMENT // scale
                read = region(slide, number, patch.y * scale, patch.x * scale, side)
                error = read - patch.image.astype(int)
                assert np.abs(error).mean() < 12 and np.abs(error.mean((0, 1))).max() < 2  # JPEG halves colours' detail
                assert np.abs(error).mean() < 0.5 * np.abs(read[::-1] - patch.image.astype(int)).mean()


def test_regions_lie_on_dark_tissue_and_negative_slides_have_no_focus(cohort: Path) -> None:
    regions, darker = defaultdict(list), list[bool]()
    for row in rows_of(cohort.parent / "regions.csv"):
        regions[row["slide_id"]].append(row)
    for row in rows_of(cohort):
        found = regions[row["slide_id"]]
        holding = {one["fragment"] for one in found if one["kind"] == "tumour focus"}
        assert len(holding) in ((2, 3) if row["target"] == "1" else (0,))
        assert 4 <= len({one["fragment"] for one in found}) <= 5
        with openslide.OpenSlide(cohort.parent / row["path"]) as slide:
            low = region(slide, 2, 0, 0, 512).sum(-1)
        tissue = np.median(low[low < 660])
        values = [low[int(float(one["y"])) // 16, int(float(one["x"])) // 16] for one in found]
        assert np.mean(values) < tissue - 60
        darker += [value < tissue for value in values]
    assert np.mean(darker) > 0.85


def test_slides_for_testing_are_made_of_another_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halves: list[int] = []

    def stop(half: int, *_: int) -> None:
        halves.append(half)
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "sheets", stop)
    record = making.plan(6, 0, recipe.SPARSE)[0]
    for split in ("train", "val", "test"):
        with pytest.raises(KeyboardInterrupt):
            recipe.make_sparse_slide(replace(record, split=split), tmp_path, 0, SIDE)
    assert halves == [0, 0, 1]


# --- Asking for them -------------------------------------------------------------------------------------------------


def test_larger_slides_have_larger_fragments() -> None:
    sizes = (8192, 16_128, 16_384, 24_320, 24_576, 48_896, 49_152, 98_304)
    assert [fragment_side(size) for size in sizes] == [1024, 1024, 2048, 2048, 3072, 3072, 4096, 4096]


@pytest.mark.parametrize("size", [3072, 8200])
def test_impossible_sizes_are_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match=rf"size={size}: a sparse slide's side is a multiple of 256 of at least 8192"):
        recipe.embedded_cohort(tmp_path, n=6, size=size, sparse=True)


def test_a_folder_of_sparse_slides_holds_no_others(cohort: Path) -> None:
    with pytest.raises(ValueError, match="holds another cohort"):
        recipe.embedded_cohort(cohort.parent, n=6, size=SIDE)


def test_the_experiment_zooms_on_sparse_slides() -> None:
    config = composed("env=wsi", "experiment=sparse_slides")
    assert config.env.cohort.synthetic == {"n": 60, "seed": 0, "size": 32_768, "sparse": True}
    assert config.env.make.glimpse_extents == ["1024um", "64um"]
    assert config.env.make.max_glimpses == 24 and len(config.warm_up.branches) == 2


def test_the_command_makes_sparse_slides_and_no_other_kind(
    cohort: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["python -m glimpse.synthetic", "--sparse", "--n", "6", "--size", str(SIDE), "--folder", str(cohort.parent)]
    monkeypatch.setattr("sys.argv", given)
    main()  # they are there already
    assert capsys.readouterr().out.strip() == str(cohort)
    monkeypatch.setattr("sys.argv", [*given, "--kind", "mri"])
    with pytest.raises(SystemExit):
        main()
    assert "only slides" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["python -m glimpse.synthetic", "--sparse", "--n", "6", "--size", "1024"])
    with pytest.raises(SystemExit):
        main()
    assert "a sparse slide's side is a multiple of 256 of at least 8192; try 32768" in capsys.readouterr().err
