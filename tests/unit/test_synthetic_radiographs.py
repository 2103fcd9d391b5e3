"""The embedded radiographs: real DICOM, the same every time, and nodules that only a glimpse tells apart."""

import csv
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from glimpse.cohort import Cohort
from glimpse.sources import RadiographSource, open_source
from glimpse.synthetic.making import CaseRecord, generator, plan
from glimpse.synthetic.radiographs import recipe as radiographs
from glimpse.synthetic.radiographs.chest import Anatomy, in_lungs
from glimpse.synthetic.radiographs.recipe import embedded_cohort, make_radiograph, paint_radiograph, plan_radiograph
from glimpse.synthetic.radiographs.spots import LOOKALIKE, NODULE, SQUARE, Spot, draw_spots, forms
from glimpse.tasks import Classification

SIZE = 2048


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def record(index: int, target: int) -> CaseRecord:
    name = f"radiograph-{index + 1:03d}"
    mask = f"masks/{name}.png" if target else ""
    return CaseRecord(index, f"case-{index}", name, target, "train", f"radiographs/{name}.dcm", mask)


@cache
def painted(index: int, target: int) -> tuple[list[Spot], np.ndarray]:
    """The shadows of an image and its pixels, as the cohort has them."""
    one = record(index, target)
    anatomy, spots = plan_radiograph(one, 0, SIZE)
    return spots, paint_radiograph(generator(radiographs.VERSION, one, 0, 1), anatomy, spots, SIZE)


def overview(pixels: np.ndarray, side: int = 256) -> np.ndarray:
    """Means of boxes, in grey levels of 256."""
    image = Image.fromarray(pixels.astype(np.float32) / 4095 * 255)
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))


# ---------------------------------------------------------------------------------------------- files
def test_files_are_radiographs_that_pydicom_opens(tiny_radiographs: Path):
    kinds = Counter()
    for row in rows_of(tiny_radiographs):
        path = tiny_radiographs.parent / row["path"]
        data = pydicom.dcmread(path)
        assert data.file_meta.MediaStorageSOPClassUID.name == "Computed Radiography Image Storage"
        assert (data.BitsAllocated, data.BitsStored, data.Modality, data.PatientID) == (16, 12, "CR", row["case_id"])
        assert data.pixel_array.shape == (512, 512) and data.pixel_array.max() <= 4095
        kinds[data.PhotometricInterpretation] += 1
        source = open_source(path)
        assert isinstance(source, RadiographSource)
        assert (source.spacing, source.unit) == ((0.15, 0.15), "mm")
        shown = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data) / 4095
        shown = 1 - shown if data.PhotometricInterpretation == "MONOCHROME1" else shown
        np.testing.assert_allclose(source.read((256, 256), 512, (512, 512))[0], 255 * shown, atol=0.51)
    assert set(kinds) == {"MONOCHROME1", "MONOCHROME2"}


def test_bone_is_bright_and_air_dark_whatever_the_file_stores(tiny_radiographs: Path):
    for row in rows_of(tiny_radiographs):
        source = open_source(tiny_radiographs.parent / row["path"])
        grey = source.overview((64, 64))
        assert 255 > grey[0, 20:44, 30:34].mean() > np.median(grey[0, 20:40, 12:24]) + 40 > 80, "spine and lung"
        assert grey[0, 1:3, 10:16].mean() < 40, "air beside the neck"
        body = source.foreground(grey)
        assert 0.75 < body.mean() < 0.99 and not body[:3, 11:15].any() and body[20:40, 12:52].all()


def test_a_radiograph_is_the_same_every_time(tmp_path: Path):
    contents = []
    for attempt in ("one", "two"):
        folder = tmp_path / attempt
        (folder / "radiographs").mkdir(parents=True)
        (folder / "masks").mkdir()
        make_radiograph(record(3, 1), folder, seed=5, size=512)
        contents.append([path.read_bytes() for path in sorted(folder.rglob("*.*"))])
    assert len(contents[0]) == 2 and contents[0] == contents[1]


def test_an_interrupted_making_goes_on(tiny_radiographs: Path, tmp_path: Path):
    again = embedded_cohort(tmp_path, n=12, size=512, progress=False, workers=1)
    first = rows_of(again)[0]["path"]
    for path in (again, tmp_path / first):
        path.unlink()
    untouched = tmp_path / rows_of(tiny_radiographs)[1]["path"]
    before = untouched.stat().st_mtime_ns
    embedded_cohort(tmp_path, n=12, size=512, progress=False, workers=1)
    assert untouched.stat().st_mtime_ns == before
    assert (tmp_path / first).read_bytes() == (tiny_radiographs.parent / first).read_bytes()


@pytest.mark.parametrize("size", [256, 1000])
def test_impossible_sizes_are_refused(tmp_path: Path, size: int):
    with pytest.raises(ValueError, match=f"size={size}: a radiograph's side is a multiple of 256 of at least 512"):
        embedded_cohort(tmp_path, n=6, size=size)


def test_masks_mark_the_nodules(tiny_radiographs: Path):
    cohort = Cohort.from_csv(tiny_radiographs, Classification(2))
    nodules = defaultdict(list)
    for row in rows_of(tiny_radiographs.parent / "regions.csv"):
        if row["kind"] == NODULE:
            nodules[row["slide_id"]].append((float(row["y"]), float(row["x"])))
    for case in cohort:
        assert (case.marks is not None) == bool(case.target) == (case.id in nodules)
        if case.target:
            middles = np.array(nodules[case.id])
            inside = (case.marks[None, :, 0] < middles[:, None]) & (middles[:, None] < case.marks[None, :, 1])
            assert len(case.marks) == len(middles) and inside.all(axis=2).any(axis=1).all()


# ---------------------------------------------------------------------------------------------- the plan
def test_spots_do_not_depend_on_the_target_but_for_their_kinds():
    for index in range(20):
        rng = np.random.default_rng(index)
        anatomy = Anatomy.draw(rng)
        negative, positive = (
            draw_spots(np.random.default_rng(index), partial(in_lungs, anatomy), SIZE, target) for target in (0, 1)
        )
        assert [replace(spot, kind="") for spot in negative] == [replace(spot, kind="") for spot in positive]
        assert 7 <= len(negative) <= 10 and {spot.kind for spot in negative} == {LOOKALIKE}
        assert 3 <= sum(spot.kind == NODULE for spot in positive) <= 6
        places = np.array([(spot.y, spot.x) for spot in positive]) / SIZE * 2 - 1
        assert in_lungs(anatomy, places[:, 0], places[:, 1]).all()
        for i, spot in enumerate(positive):
            assert all(np.hypot(spot.y - other.y, spot.x - other.x) > 60 for other in positive[:i])


def test_the_full_cohort_fits_into_two_gigabytes():
    records = plan(236, 0, radiographs.RECIPE)
    assert Counter(one.split for one in records)["test"] >= 58
    assert len(records) * radiographs.RECIPE.megabytes(SIZE) < 2000


# ---------------------------------------------------------------------------------------------- what a look tells
def test_an_overview_does_not_change_with_the_target():
    """The same patient painted with and without nodules."""
    for index in range(2):
        (_, negative), (_, positive) = painted(index, 0), painted(index, 1)
        assert np.abs(negative.astype(int) - positive).max() > 200, "in full resolution they differ"
        assert np.abs(overview(negative) - overview(positive)).max() < 0.75, "by less than a grey level"
        assert np.abs(overview(negative, 192) - overview(positive, 192)).max() < 10


def pair_of_forms(index: int) -> tuple[Spot, np.ndarray, np.ndarray]:
    """The details of a nodule and of the look-alike that has its place."""
    rng = np.random.default_rng(index)
    middle = 96 + rng.uniform(-4, 4, 2)
    spot = Spot(NODULE, *middle.tolist(), rng.uniform(34, 46), 0.34, 0.7)
    axes = [np.arange(192) + 0.5 - m for m in middle]
    return spot, *forms(rng, spot, *axes)


def test_forms_agree_in_values_and_spectra_at_every_level() -> None:
    """Of details in full resolution, and of means of 2 and 4 pixels; squares of an overview have the mean 0."""
    pairs = [pair_of_forms(index)[1:] for index in range(16)]
    for side in (1, 2, 4):
        shape = (192 // side, side, 192 // side, side)
        coarser = [[one.reshape(shape).mean((1, 3)) for one in pair] for pair in pairs]
        deviations, quantiles = [
            np.mean([[statistic(one) for one in pair] for pair in coarser], 0)
            for statistic in (np.std, lambda one: np.quantile(one, np.linspace(0.01, 0.99, 50)))
        ]
        assert deviations[0] == pytest.approx(deviations[1], rel=0.03)
        assert np.abs(quantiles[0] - quantiles[1]).max() < 0.04 * np.abs(quantiles).max()
        power = np.mean([[np.abs(np.fft.fft2(one)) ** 2 for one in pair] for pair in coarser], 0)
        frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(192 // side)] * 2))
        for low in np.arange(0.05, 0.45, 0.05):
            ring = (frequency >= low) & (frequency < low + 0.05)
            shares = [one[ring].sum() / one.sum() for one in power]
            assert shares[0] == pytest.approx(shares[1], rel=0.1, abs=0.002)
    for one in (one for pair in pairs for one in pair):
        assert np.abs(one.reshape(24, 8, 24, 8).mean((1, 3))).max() < 1e-5


def test_strokes_of_a_nodule_radiate_and_those_of_a_lookalike_lie_around() -> None:
    """Along the way out from the middle, a nodule's detail changes less than across it; a look-alike's more."""
    for index in range(6):
        spot, *pair = pair_of_forms(index)
        y, x = np.mgrid[:192, :192] + 0.5 - np.array([spot.y, spot.x])[:, None, None]
        distance = np.hypot(y, x)
        ring = (distance > 0.4 * spot.radius) & (distance < 1.2 * spot.radius)
        ratios = []
        for detail in pair:
            dy, dx = np.gradient(detail)
            out, across = (dy * y + dx * x) / distance, (dy * x - dx * y) / distance
            ratios.append(float((out[ring] ** 2).mean() / (across[ring] ** 2).mean()))
        assert ratios[0] < 0.5 and ratios[1] > 2


def test_squares_of_an_overview_are_those_that_keep_their_means():
    assert SIZE // SQUARE == 256
