"""The embedded cohorts of volumes: real NIfTI files, safe making, and spots that only a glimpse tells apart."""

import csv
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from glimpse.sources import VolumeSource
from glimpse.synthetic import making
from glimpse.synthetic.making import CaseRecord, plan
from glimpse.synthetic.volumes import recipe as volumes
from glimpse.synthetic.volumes.fields import axes_mm, smooth_field
from glimpse.synthetic.volumes.recipe import CT, HEAD, MRI, THORAX, Kind, draw, embedded_ct, embedded_mri
from glimpse.synthetic.volumes.spots import Rule, Spot, draw_spots, forms, paint_spot

KINDS = [pytest.param(HEAD, MRI, 96, id="mri"), pytest.param(THORAX, CT, 120, id="ct")]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def twins(kind: Kind, index: int) -> tuple[Spot, Spot]:
    """The same spot as a lesion and as a look-alike."""
    rng = np.random.default_rng(index)
    middle = tuple((np.asarray((20, 48, 48)) + rng.uniform(0, 4, 3)).tolist())
    spot = Spot("lesion", middle, rng.uniform(*kind.rule.radius), rng.uniform(*kind.rule.weight), index)
    return spot, replace(spot, kind="lookalike")


# --- Files -----------------------------------------------------------------------------------------------------------


def test_files_are_nifti_in_mixed_orientations(tiny_mri: Path, tiny_ct: Path) -> None:
    for manifest, spacing, dtype in ((tiny_mri, (1, 1, 1), np.uint8), (tiny_ct, (0.8, 0.8, 2), np.int16)):
        codes = set()
        for row in rows_of(manifest):
            image = nibabel.load(manifest.parent / row["path"])
            codes.add(nibabel.aff2axcodes(image.affine))
            canonical = nibabel.as_closest_canonical(image)
            assert canonical.header.get_zooms() == pytest.approx(spacing)
            assert image.get_data_dtype() == dtype
            assert image.header.get_xyzt_units()[0] == "mm"
        assert len(codes) > 1


def test_what_is_stored_in_any_orientation_is_read_as_it_was_drawn(tiny_mri: Path, tiny_ct: Path) -> None:
    for manifest, kind, recipe, size in ((tiny_mri, HEAD, MRI, 96), (tiny_ct, THORAX, CT, 120)):
        for record in plan(12, 0, recipe)[:2]:
            drawn = draw(kind, record, 0, size)
            source = VolumeSource(manifest.parent / record.path, windows=[-1024.0, 1023.0])
            assert source.shape == drawn.values.shape and source.spacing == pytest.approx(kind.spacing)
            middle = np.asarray(source.shape) / 2
            read = source.read(middle, source.shape, source.shape)[0]
            grey = np.clip((drawn.values.astype(float) + 1024) / 2047, 0, 1) * 255
            assert np.abs(read - grey).max() <= 1


def test_masks_show_the_lesions_of_positive_cases(tiny_mri: Path, tiny_ct: Path) -> None:
    for manifest in (tiny_mri, tiny_ct):
        for row in rows_of(manifest):
            assert bool(row["mask"]) == (row["target"] == "1")
            if row["mask"]:
                mask, image = (nibabel.load(manifest.parent / row[name]) for name in ("mask", "path"))
                assert mask.shape == image.shape
                np.testing.assert_allclose(mask.affine, image.affine)
                assert 1 <= ndimage.label(np.asanyarray(mask.dataobj))[1] <= 2


# --- What a look tells -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pytest.param(HEAD, id="mri"), pytest.param(THORAX, id="ct")])
def test_twins_weigh_the_same_and_spread_alike(kind: Kind) -> None:
    for index in range(8):
        totals, spreads = [], []
        for spot in twins(kind, index):
            volume = np.zeros((40, 96, 96), np.float32)
            paint_spot(volume, spot, kind.rule, kind.spacing)
            axes = axes_mm(volume.shape, kind.spacing)
            offset = (np.asarray(spot.middle) - np.asarray(volume.shape) / 2) * kind.spacing
            square = sum((axis - m) ** 2 for axis, m in zip(axes, offset, strict=True))
            totals.append(volume.sum())
            spreads.append(np.sqrt((volume * square).sum() / volume.sum()))
        assert totals[0] == pytest.approx(totals[1], rel=1e-4)
        assert spreads[0] == pytest.approx(spreads[1], rel=0.12)


@pytest.mark.parametrize("kind", [pytest.param(HEAD, id="mri"), pytest.param(THORAX, id="ct")])
def test_twins_agree_in_values_spectra_and_an_overview(kind: Kind) -> None:
    blocks = [round(4 / side) for side in kind.spacing]
    shape = [8 * block for block in blocks]
    power = np.zeros((2, *shape))
    for index in range(12):
        pair = []
        for spot in twins(kind, index):
            spot = replace(spot, middle=tuple((np.asarray(spot.middle) % blocks + 3.5 * np.asarray(blocks)).tolist()))
            pair.append(np.zeros(shape, np.float32))
            paint_spot(pair[-1], spot, kind.rule, kind.spacing)
        bright = max(one.std() for one in pair)
        means = [one.reshape(8, blocks[0], 8, blocks[1], 8, blocks[2]).mean((1, 3, 5)) for one in pair]
        assert np.abs(means[0] - means[1]).max() < 1e-3 * bright
        assert np.abs(pair[0] - pair[1]).max() > bright, "in full resolution they differ"
        assert pair[0].std() == pytest.approx(pair[1].std(), rel=0.05)
        quantiles = [np.quantile(one, np.linspace(0.01, 0.99, 50)) for one in pair]
        assert np.abs(quantiles[0] - quantiles[1]).max() < 0.2 * bright
        power += [np.abs(np.fft.fftn(one)) ** 2 for one in pair]
    for axis in range(3):
        along = power.sum(tuple(1 + other for other in range(3) if other != axis))
        assert along[0] / along[0].sum() == pytest.approx(along[1] / along[1].sum(), rel=0.2, abs=0.002)


@pytest.mark.parametrize("kind", [pytest.param(HEAD, id="mri"), pytest.param(THORAX, id="ct")])
def test_plates_lie_around_the_middle_or_stand_upright(kind: Kind) -> None:
    """Values change most on the way out where plates lie around, and across it where they stand (in slices, for CT)."""
    for index in range(8):
        axes = [(np.arange(n) + 0.5 - n / 2) * s for n, s in zip((40, 40, 40), kind.spacing, strict=True)]
        offsets = [axis.reshape([-1 if a == i else 1 for a in range(3)]) for i, axis in enumerate(axes)]
        place = np.stack(np.broadcast_arrays(*offsets)) * (kind is HEAD or np.array([0, 1, 1]).reshape(3, 1, 1, 1))
        distance = np.sqrt((place**2).sum(0))
        inside = (distance > 2.5) & (distance < 8) & (np.abs(offsets[0]) < 6)
        ratios = []
        for form in forms(np.random.default_rng(index), kind.rule, 8.5, offsets, kind.spacing):
            slope = np.stack(np.gradient(form, *kind.spacing))[:, inside]
            out = (slope * place[:, inside]).sum(0) / distance[inside]
            ratios.append(float((out**2).sum() / ((slope**2).sum() - (out**2).sum())))
        assert ratios[0] > 2.5 * ratios[1]


@pytest.mark.parametrize(("kind", "recipe", "size"), KINDS)
def test_regions_tell_where_the_spots_are(kind: Kind, recipe: making.Recipe, size: int, request) -> None:
    manifest = request.getfixturevalue("tiny_mri" if kind is HEAD else "tiny_ct")
    rows = rows_of(manifest.parent / "regions.csv")
    for record in plan(12, 0, recipe)[:3]:
        spots = draw(kind, record, 0, size).spots
        own = [row for row in rows if row["slide_id"] == record.id]
        assert [row["kind"] for row in own] == [spot.kind for spot in spots]
        for row, spot in zip(own, spots, strict=True):
            assert [float(row[axis]) for axis in "zyx"] == pytest.approx(spot.middle, abs=0.01)
            assert float(row["radius"]) == pytest.approx(spot.radius, abs=0.01)


@pytest.mark.parametrize(("kind", "recipe", "size"), KINDS)
def test_the_target_decides_over_nothing_but_the_kinds_of_spots(kind: Kind, recipe: making.Recipe, size: int) -> None:
    record = plan(12, 0, recipe)[0]
    pair = [draw(kind, replace(record, target=target), 0, size) for target in (0, 1)]
    assert [replace(s, kind="") for s in pair[0].spots] == [replace(s, kind="") for s in pair[1].spots]
    assert {spot.kind for spot in pair[0].spots} == {"lookalike"} and not pair[0].mask.any()
    assert 1 <= sum(spot.kind == "lesion" for spot in pair[1].spots) <= 2
    differs = ndimage.binary_dilation(pair[0].values != pair[1].values)
    assert 0 < differs.mean() < 0.05  # only at spots
    low, high = (image.values.astype(float).mean() for image in pair)
    assert low == pytest.approx(high, rel=2e-3)


def test_volumes_have_as_many_spots_as_the_rule_says() -> None:
    rule = Rule((6, 9), (2, 5), 16.0, (2.0, 2.3), (1.0, 1.2))
    room = np.ones((20, 20, 20), bool)
    for seed in range(20):
        spots = draw_spots(np.random.default_rng(seed), 1, rule, room, (2.0, 1.0, 1.0), 4)
        places = np.array([spot.middle for spot in spots]) * (2.0, 1.0, 1.0)
        assert 6 <= len(spots) <= 9 and 2 <= sum(spot.kind == "lesion" for spot in spots) <= 5
        apart = np.linalg.norm(places[:, None] - places, axis=-1) + 99 * np.eye(len(spots))
        assert apart.min() >= 16


def test_smooth_fields_have_the_scale_that_was_asked_for() -> None:
    field = smooth_field(np.random.default_rng(0), (40, 60, 60), (2.0, 1.0, 1.0), 6.0)
    assert field.dtype == np.float32 and abs(field.mean()) < 0.15 and 0.8 < field.std() < 1.2
    steps = [np.diff(field, axis=axis).std() for axis in range(3)]
    assert steps[0] == pytest.approx(2 * steps[1], rel=0.25)  # voxels along z are twice as long


# --- Making ----------------------------------------------------------------------------------------------------------


def test_a_volume_depends_on_its_seed_only(tiny_mri: Path, tmp_path: Path) -> None:
    record = next(record for record in plan(12, 0, MRI) if record.target)
    for name in ("volumes", "masks"):
        (tmp_path / name).mkdir()
    list(making.make_cases(MRI.make, tmp_path, [record], seed=0, size=96))
    for name in (record.path, record.mask):
        assert (tmp_path / name).read_bytes() == (tiny_mri.parent / name).read_bytes()
    list(making.make_cases(MRI.make, tmp_path, [replace(record, path="volumes/other.nii.gz")], seed=1, size=96))
    assert (tmp_path / record.path).read_bytes() != (tmp_path / "volumes/other.nii.gz").read_bytes()


def test_an_interrupted_making_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    make = volumes.make_ct_volume

    def failing(record: CaseRecord, folder: Path, seed: int, size: int) -> None:
        calls.append(record.id)
        if len(calls) == 3:
            raise KeyboardInterrupt
        make(record, folder, seed, size)

    monkeypatch.setattr(volumes, "make_ct_volume", failing)
    with pytest.raises(KeyboardInterrupt):
        embedded_ct(tmp_path, n=6, size=120, progress=False, workers=1)
    assert len(list((tmp_path / "volumes").iterdir())) == 2 and not (tmp_path / "cohort.csv").exists()
    manifest = embedded_ct(tmp_path, n=6, size=120, progress=False, workers=1)
    assert calls[2:] == [f"volume-{number:03d}" for number in (3, 3, 4, 5, 6)]
    assert all((tmp_path / row["path"]).exists() for row in rows_of(manifest))


@pytest.mark.parametrize(("make", "size"), [(embedded_mri, 100), (embedded_mri, 66), (embedded_ct, 100)])
def test_impossible_sizes_are_refused(tmp_path: Path, make, size: int) -> None:
    with pytest.raises(ValueError, match=rf"size={size}: .* multiple of"):
        make(tmp_path, n=6, size=size)
