"""Predictions of volumes and radiographs: looks in voxels and millimetres, and label maps that lie on the image."""

import csv
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine

from glimpse.predict import predict
from glimpse.predicting.agent import load
from glimpse.sources.volume.grid import VoxelGrid
from tests.predictions import contents, untrained_run


@pytest.fixture(scope="module")
def run(tiny_mri: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = ("env=mri", "network/encoder=small", f"env.cohort.path={tiny_mri}", "env.cohort.windows=[0,160]")
    return untrained_run(tmp_path_factory.mktemp("runs") / "mri", *own, "max_glimpses=4")


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline="")))


def first(cohort: Path) -> Path:
    """The file of the first volume."""
    return cohort.parent / rows(cohort)[0]["path"]


def numbers(row: dict[str, str], names: str) -> np.ndarray:
    return np.array([float(row[name]) for name in names.split()])


def test_looks_lie_where_the_file_says(run: Path, tiny_mri: Path, tmp_path: Path) -> None:
    predict(run, tiny_mri.parent, tmp_path)
    lines = rows(tmp_path / "predictions.csv")
    images = [line for line in lines if "mask" not in line["slide_id"]]
    assert len(images) == 12
    turned = set()
    for line in images:
        image = nibabel.load(line["path"])
        labels = nibabel.load(tmp_path / "labels" / f"{line['file']}.nii.gz")
        assert labels.shape == image.shape
        np.testing.assert_allclose(labels.affine, image.affine)
        assert nibabel.aff2axcodes(labels.affine) == nibabel.aff2axcodes(image.affine)
        turned.add(nibabel.aff2axcodes(image.affine))
        marked = np.asanyarray(labels.dataobj)
        looks = rows(tmp_path / "looks" / f"{line['file']}.csv")
        assert set(np.unique(marked)) == {0, *range(1, 1 + len(looks))}
        for look in reversed(looks):
            low, size = numbers(look, "mini minj mink"), numbers(look, "sizei sizej sizek")
            centre = apply_affine(image.affine, low + size / 2 - 0.5)
            np.testing.assert_allclose(numbers(look, "right_mm anterior_mm superior_mm"), centre, atol=1e-5)
            np.testing.assert_allclose(numbers(look, "sidei_mm sidej_mm sidek_mm"), 24, atol=0.51)
            part = tuple(slice(max(round(a), 0), round(b)) for a, b in zip(low, low + size, strict=True))
            assert (marked[part] > 0).all() and (marked[part] <= int(look["order"])).any()
        covered = np.zeros(marked.shape, bool)
        for look in looks:
            low, size = numbers(look, "mini minj mink"), numbers(look, "sizei sizej sizek")
            covered[tuple(slice(max(round(a), 0), round(b)) for a, b in zip(low, low + size, strict=True))] = True
        assert (covered == (marked > 0)).all()
    assert len(turned) > 1, "files face in several directions"
    assert not (tmp_path / "geojson").exists()


def test_the_voxels_of_a_look_are_what_the_agent_saw(run: Path, tiny_mri: Path) -> None:
    agent, path = load(run), first(tiny_mri)
    reading = agent.read(path)
    assert reading.grid is not None
    image = nibabel.load(path)
    for look, seen in zip(reading.boxes, reading.traced.glimpses, strict=True):
        ((low, high),) = reading.grid.stored(look[None]).round().astype(int)
        inside = [np.maximum(low, 0), np.minimum(high, image.shape)]
        part = np.asanyarray(image.dataobj)[tuple(map(slice, *inside))].astype(np.float64)
        turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(part, image.affine))
        greys = np.clip(np.asanyarray(turned.dataobj).T, 0, 160) / 160 * 255
        if greys.shape == seen.shape[1:]:  # the look lies inside
            assert np.abs(greys - seen[0]).max() <= 1


def test_grids_by_hand() -> None:
    # Stored (i, j, k): i runs to the left, j to superior, k to anterior; 2, 3 and 4 mm.
    affine = ((-2.0, 0.0, 0.0, 10.0), (0.0, 0.0, 4.0, 20.0), (0.0, 3.0, 0.0, 30.0), (0.0, 0.0, 0.0, 1.0))
    grid = VoxelGrid((10, 20, 30), (1, 2, 0), (False, False, True), affine)
    box = np.array([[[1.0, 2.0, 3.0], [4.0, 7.0, 5.0]]])  # z 1 to 4, y 2 to 7, x 3 to 5
    np.testing.assert_array_equal(grid.stored(box), [[[5, 1, 2], [7, 4, 7]]])
    points = np.array([[0.5, 0.5, 0.5], [5.5, 1.5, 2.5]])
    np.testing.assert_array_equal(grid.positions(points), [[10, 20, 30], [0, 28, 33]])
    np.testing.assert_array_equal(grid.sides(grid.stored(box)), [[4, 9, 20]])
    microns = VoxelGrid(grid.shape, grid.axes, grid.flipped, affine, 1e-3)
    np.testing.assert_allclose(microns.positions(np.array([[0.5, 0.5, 0.5]])), [[0.01, 0.02, 0.03]])
    assert microns.unit == "micron"


def test_volumes_are_the_same_every_time(run: Path, tiny_mri: Path, tmp_path: Path) -> None:
    path = first(tiny_mri)
    for name in "ab":
        predict(run, path, tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    broken = tmp_path / "in" / path.name
    broken.parent.mkdir()
    broken.write_bytes(path.read_bytes()[:5000])
    assert len(predict(run, broken.parent, tmp_path / "c").done.failed) == 1


def test_a_run_on_the_synthetic_cohort_reads_with_its_windows(tmp_path: Path, tiny_mri: Path, monkeypatch) -> None:
    from omegaconf import OmegaConf

    own = ("env=mri", "network/encoder=small", f"env.cohort.path={tiny_mri}")
    folder = untrained_run(tmp_path / "run", *own)
    config = OmegaConf.load(folder / "config.yaml")
    config.env.cohort.path = None
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    source = load(folder).open(first(tiny_mri))
    assert [(one.low, one.high) for one in source._windows] == [(0, 160)]


def test_folders_of_slices_are_one_image_each(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from tests.unit.test_dicom_series import stored_values, write_axial

    for name in ("one", "two"):
        (tmp_path / "in" / "patient" / name).mkdir(parents=True)
        write_axial(tmp_path / "in" / "patient" / name, stored_values(80, 96, 80))
    predict(run, tmp_path / "in", tmp_path / "out")
    lines = rows(tmp_path / "out" / "predictions.csv")
    assert [line["slide_id"] for line in lines] == ["patient/one", "patient/two"]
    assert lines[0]["path"] == str(tmp_path / "in" / "patient" / "one")
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 2


def test_radiographs_have_pixels_of_the_file(tiny_radiographs: Path, tmp_path: Path) -> None:
    own = ("env=xray", "network/encoder=small", f"env.cohort.path={tiny_radiographs}")
    run = untrained_run(tmp_path / "run", *own)
    predict(run, tiny_radiographs, tmp_path / "out")
    lines = rows(tmp_path / "out" / "predictions.csv")
    assert len(lines) == 12
    reading = load(run).read(lines[0]["path"])
    for look, seen in zip(rows(tmp_path / "out" / "looks" / f"{lines[0]['file']}.csv"), reading.looks, strict=True):
        assert (float(look["minx"]), float(look["miny"])) == pytest.approx(seen.low[::-1], abs=1e-6)
    assert (tmp_path / "out" / "geojson" / f"{lines[0]['file']}.geojson").exists()
    shutil.rmtree(tmp_path / "out")
