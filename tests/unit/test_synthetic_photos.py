"""The embedded photographs: real JPEG, the same every time, and microaneurysms that only a glimpse tells apart."""

import csv
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from glimpse.cohort import Cohort
from glimpse.sources import PhotoSource, open_source
from glimpse.synthetic.making import CaseRecord, generator, plan
from glimpse.synthetic.photos import recipe as photos
from glimpse.synthetic.photos.fundus import Anatomy, in_retina
from glimpse.synthetic.photos.recipe import embedded_cohort, make_photo, paint_photo, plan_photo, write_photo
from glimpse.synthetic.photos.spots import ANEURYSM, LOOKALIKE, SQUARE, Spot, draw_spots, forms
from glimpse.tasks import Classification
from tests.photo_files import ORIENTATION, whole

SIZE = 3072


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def record(index: int, target: int) -> CaseRecord:
    name = f"photo-{index + 1:03d}"
    mask = f"masks/{name}.png" if target else ""
    return CaseRecord(index, f"case-{index}", name, target, "train", f"photos/{name}.jpg", mask)


@cache
def painted(target: int) -> np.ndarray:
    """The pixels of an image, as the cohort has them before they are compressed."""
    one = record(0, target)
    anatomy, spots = plan_photo(one, 0, SIZE)
    return paint_photo(generator(photos.VERSION, one, 0, 1), anatomy, spots, SIZE)


def overview(pixels: np.ndarray, side: int = 256) -> np.ndarray:
    """Means of boxes."""
    step = len(pixels) // side
    return pixels.reshape(side, step, side, step, 3).mean((1, 3))


# ---------------------------------------------------------------------------------------------- files
def test_files_are_photographs_that_pillow_opens(tiny_photos: Path) -> None:
    turns: Counter[int] = Counter()
    for row in rows_of(tiny_photos):
        path = tiny_photos.parent / row["path"]
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (768, 768))
            turns[image.getexif()[ORIENTATION]] += 1
            upright = np.asarray(ImageOps.exif_transpose(image))
        source = open_source(path)
        assert isinstance(source, PhotoSource) and source.spacing is None
        np.testing.assert_array_equal(whole(source), upright)
    assert turns[1] > 4 and turns.keys() <= {1, 3, 6, 8} and len(turns) > 1


def test_the_field_of_view_is_the_disc(tiny_photos: Path) -> None:
    for row in rows_of(tiny_photos):
        source = open_source(tiny_photos.parent / row["path"])
        seen = source.foreground(source.overview((64, 64)))
        y, x = np.mgrid[:64, :64] / 32 - 1 + 1 / 64
        assert 0.68 < seen.mean() < 0.78 and seen[np.hypot(y, x) < 0.9].all() and not seen[np.hypot(y, x) > 1.03].any()


def test_a_photograph_is_the_same_every_time(tmp_path: Path) -> None:
    contents = []
    for attempt in ("one", "two"):
        folder = tmp_path / attempt
        (folder / "photos").mkdir(parents=True)
        (folder / "masks").mkdir()
        make_photo(record(3, 1), folder, seed=5, size=768)
        contents.append([path.read_bytes() for path in sorted(folder.rglob("*.*"))])
    assert len(contents[0]) == 2 and contents[0] == contents[1]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_what_lies_on_a_side_stands_upright_again(tmp_path: Path, orientation: int) -> None:
    smooth = np.kron(np.arange(36, dtype=np.uint8).reshape(3, 4, 3) * 7, np.ones((16, 16, 1), np.uint8))
    write_photo(tmp_path / "a.jpg", smooth, orientation)
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.abs(np.asarray(ImageOps.exif_transpose(image)).astype(int) - smooth).max() < 24


@pytest.mark.parametrize("size", [512, 1000])
def test_impossible_sizes_are_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match=f"size={size}: a photograph's side is a multiple of 256 of at least 768"):
        embedded_cohort(tmp_path, n=6, size=size)


def test_masks_mark_the_microaneurysms(tiny_photos: Path) -> None:
    sought = defaultdict(list)
    for row in rows_of(tiny_photos.parent / "regions.csv"):
        if row["kind"] == ANEURYSM:
            sought[row["slide_id"]].append((float(row["y"]), float(row["x"])))
    for case in Cohort.from_csv(tiny_photos, Classification(2)):
        assert (case.marks is not None) == bool(case.target) == (case.id in sought)
        if case.target:
            middles = np.array(sought[case.id])
            inside = (case.marks[None, :, 0] < middles[:, None]) & (middles[:, None] < case.marks[None, :, 1])
            assert inside.all(axis=2).any(axis=1).all()


# ---------------------------------------------------------------------------------------------- the plan
def test_spots_do_not_depend_on_the_target_but_for_their_kinds() -> None:
    for index in range(20):
        anatomy = Anatomy.draw(np.random.default_rng(index))
        negative, positive = (
            draw_spots(np.random.default_rng(index), partial(in_retina, anatomy), SIZE, target) for target in (0, 1)
        )
        assert [replace(spot, kind="") for spot in negative] == [replace(spot, kind="") for spot in positive]
        assert 7 <= len(negative) <= 10 and {spot.kind for spot in negative} == {LOOKALIKE}
        assert 3 <= sum(spot.kind == ANEURYSM for spot in positive) <= 6
        places = np.array([(spot.y, spot.x) for spot in positive]) / SIZE * 2 - 1
        assert in_retina(anatomy, places[:, 0], places[:, 1]).all()


def test_the_full_cohort_fits_into_a_gigabyte() -> None:
    records = plan(236, 0, photos.RECIPE)
    assert Counter(one.split for one in records)["test"] >= 58
    assert len(records) * photos.RECIPE.megabytes(SIZE) < 1100


# ---------------------------------------------------------------------------------------------- what a look tells
def test_an_overview_and_the_mean_colour_do_not_change_with_the_target() -> None:
    """The same eye painted with and without microaneurysms."""
    negative, positive = painted(0), painted(1)
    difference = negative.astype(int) - positive
    assert np.abs(difference).max() > 25, "in full resolution they differ"
    assert np.abs(overview(negative) - overview(positive)).max() < 0.3, "by less than a third of a grey level"
    assert np.abs(difference.mean((0, 1))).max() < 1e-3
    assert np.abs(overview(negative, 192) - overview(positive, 192)).max() < 6


def test_squares_of_an_overview_are_those_that_keep_their_means() -> None:
    assert SIZE // SQUARE == 256


def test_forms_agree_in_values_and_in_every_square() -> None:
    quantiles, powers = [], []
    for index in range(12):
        rng = np.random.default_rng(index)
        middle = 54 + rng.uniform(-4, 4, 2)
        spot = Spot(ANEURYSM, *middle.tolist(), rng.uniform(5.6, 6.8), 0.6, 0.4)
        _, *pair = forms(rng, spot, *(np.arange(108, dtype=np.float32) + 0.5 - m for m in middle))
        for one in pair:
            assert np.abs(one.reshape(9, SQUARE, 9, SQUARE).mean((1, 3))).max() < 1e-5
        quantiles.append([np.quantile(one, np.linspace(0.01, 0.99, 50)) for one in pair])
        powers.append([np.abs(np.fft.fft2(one)) ** 2 for one in pair])
    first, second = np.mean(quantiles, 0)
    assert np.abs(first - second).max() < 0.05 * np.abs(first).max()
    power = np.mean(powers, 0)
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(108)] * 2))
    for low in np.arange(0.02, 0.3, 0.04):
        ring = (frequency >= low) & (frequency < low + 0.04)
        shares = [one[ring].sum() / one.sum() for one in power]
        assert shares[0] == pytest.approx(shares[1], rel=0.15, abs=0.003)
