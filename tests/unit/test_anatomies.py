"""Cohorts of one head and one chest: cases differ, spots lie where they are said to, and only positives have lesions.

The head and the chest are drawn here; those of `benchmarks.anatomy` are real.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.anatomies import Chest, Head, chests, heads
from benchmarks.probe import read_spots
from glimpse.errors import UserError
from glimpse.modalities import find_modality
from glimpse.sources import open_source
from glimpse.synthetic.making import embedded

N = 12
SIZES = {"mri": 96, "xray": 512}
WINDOWS: dict[str, dict[str, Any]] = {"mri": {"windows": (0.0, 160.0)}, "xray": {}}
SOUGHT = {"mri": "lesion", "xray": "nodule"}


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def recipe(env: str, brain: Path, chest: Path) -> Any:
    return heads(brain) if env == "mri" else chests(chest)


@pytest.fixture(scope="module", params=["mri", "xray"])
def made(
    request: pytest.FixtureRequest, small_brain: Path, small_chest: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Path]]:
    """The environment, and the CSVs of the same cohort made twice."""
    env: str = request.param
    folders = [tmp_path_factory.mktemp(f"{env}_{number}") for number in range(2)]
    one, two = (embedded(recipe(env, small_brain, small_chest), folder, N, 3, SIZES[env]) for folder in folders)
    yield env, one, two


def images(env: str, manifest: Path) -> dict[str, np.ndarray]:
    """Every image in full resolution, as the environment shows it."""
    found = {}
    for row in rows_of(manifest):
        source = open_source(manifest.parent / row["path"], **WINDOWS[env])
        found[row["slide_id"]] = source.read(np.asarray(source.shape) / 2, source.shape, source.shape)[0]
    return found


def test_the_same_seed_makes_the_same_bytes(made: tuple[str, Path, Path]) -> None:
    _, one, two = made
    names = sorted(path.relative_to(one.parent) for path in one.parent.rglob("*") if path.is_file())
    assert len(names) == N + N // 2 + 3, "images, masks of positives, two tables and what they were made from"
    assert not [name for name in names if (one.parent / name).read_bytes() != (two.parent / name).read_bytes()]


def test_cases_differ_in_their_anatomy(made: tuple[str, Path, Path]) -> None:
    """Two heads or chests are alike, but nowhere near the same: neither noise nor spots are left after blurring."""
    env, manifest, _ = made
    factor = 8 if env == "mri" else 32
    coarse = [ndimage.zoom(ndimage.gaussian_filter(image.astype(float), factor / 2), 1 / factor).ravel()
              for image in images(env, manifest).values()]  # fmt: skip
    alike = np.corrcoef(coarse)[np.triu_indices(N, 1)]
    assert alike.max() < 0.995 and np.median(alike) > 0.5


def test_spots_are_bright_where_regions_say(made: tuple[str, Path, Path]) -> None:
    env, manifest, _ = made
    shown, axes = images(env, manifest), "zyx" if env == "mri" else "yx"
    rows = rows_of(manifest.parent / "regions.csv")
    brighter = []
    for row in rows:
        image, middle, radius = shown[row["slide_id"]], [float(row[axis]) for axis in axes], float(row["radius"])
        apart = np.sqrt(sum((place + 0.5 - m) ** 2 for place, m in zip(np.indices(image.shape), middle, strict=True)))
        inside, around = image[apart < 0.6 * radius], image[(apart > 1.6 * radius) & (apart < 2.2 * radius)]
        brighter.append(inside.mean() - around.mean())
    assert len(rows) >= 3 * N
    assert np.mean(np.array(brighter) > 0) > 0.9 and np.median(brighter) > 20


def test_only_positives_have_lesions(made: tuple[str, Path, Path]) -> None:
    env, manifest, _ = made
    kinds = defaultdict(Counter)  # type: ignore[var-annotated]
    for row in rows_of(manifest.parent / "regions.csv"):
        kinds[row["slide_id"]][row["kind"]] += 1
    for row in rows_of(manifest):
        lesions = kinds[row["slide_id"]][SOUGHT[env]]
        assert 3 <= kinds[row["slide_id"]].total() <= 4
        assert (1 <= lesions <= 2) if row["target"] == "1" else lesions == 0
        assert bool(row["mask"]) == (row["target"] == "1")


def test_splits_are_stratified_and_patients_are_in_one(made: tuple[str, Path, Path]) -> None:
    rows = rows_of(made[1])
    counts = Counter((row["split"], row["target"]) for row in rows)
    assert counts == {(split, target): n for split, n in (("train", 3), ("val", 1), ("test", 2)) for target in "01"}
    splits = defaultdict(set)
    for row in rows:
        splits[row["case_id"]].add(row["split"])
    assert all(len(of) == 1 for of in splits.values())


def test_the_probe_reads_their_spots(made: tuple[str, Path, Path]) -> None:
    env, manifest, _ = made
    spots = read_spots(manifest, find_modality(env), (SOUGHT[env], "lookalike"), WINDOWS[env])
    assert spots.glimpses.dtype == np.uint8 and spots.first.any() and not spots.first.all()
    assert (spots.glimpses == 255).mean() < 0.02, "the window cuts nothing off"


def test_another_template_makes_another_cohort(small_brain: Path, small_chest: Path, tmp_path: Path) -> None:
    embedded(chests(small_chest), tmp_path, 6, 0, 512)
    with pytest.raises(ValueError, match="holds another cohort"):
        embedded(heads(small_brain), tmp_path, 6, 0, 96)
    copy = tmp_path / "other.dcm"
    copy.write_bytes(small_chest.read_bytes() + b"\0\0")
    assert chests(copy).kind != chests(small_chest).kind == chests(small_chest).kind


def test_what_is_no_anatomy_is_named(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no image", encoding="utf-8")
    with pytest.raises(UserError, match=r"notes\.txt: cannot be read as NIfTI .* Give --template"):
        Head(text)
    with pytest.raises(UserError, match=r"notes\.txt: cannot be read as DICOM .* Give --radiograph"):
        Chest(text)


def test_spots_lie_inside_a_real_brain_and_real_lungs(shared_data: Path) -> None:
    """Of the real files: the brain fills its volume, and spots lie deep in it; the lungs are two."""
    volume, room = Head(shared_data / "real" / "mni152_t1.nii.gz")(
        np.random.default_rng(0), (160, 192, 160), (1.0, 1.0, 1.0), 2
    )
    assert 0.2 < (volume > 0.1).mean() < 0.5 and 0.05 < room.mean() < (volume > 0.1).mean()
    assert volume[1::2, 1::2, 1::2][room].min() > 0.2
    _, map_ = Chest(shared_data / "real" / "chest_rg1.dcm").bent(np.random.default_rng(0), 512)
    assert 0.05 < map_.mean() < 0.35 and ndimage.label(map_)[1] == 2
