"""The embedded cohort: real SVS files, a fair plan, and safe making; what is painted: `test_slide_texture`."""

import csv
import errno
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from glimpse.synthetic import making
from glimpse.synthetic.slides import recipe as slides
from glimpse.synthetic.slides.recipe import embedded_cohort, make_slides, plan_cohort
from glimpse.synthetic.slides.staining import SITES
from glimpse.synthetic.slides.svs import write_svs

ROOT = Path(__file__).resolve().parents[2]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- SVS files -------------------------------------------------------------------------------------------------------


def test_openslide_reads_the_written_colours(tmp_path: Path) -> None:
    image = np.full((300, 520, 3), 243, np.uint8)  # neither side a multiple of a tile
    image[40:200, 64:400] = (200, 80, 140)
    path = tmp_path / "one.svs"
    write_svs(path, [image, np.asarray(Image.fromarray(image).reduce(4))], mpp=0.25, magnification=40)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert slide.level_dimensions == ((520, 300), (130, 75))
        assert (slide.properties["openslide.mpp-x"], slide.properties["openslide.objective-power"]) == ("0.25", "40")
        read = np.asarray(slide.read_region((0, 0), 0, (520, 300)).convert("RGB")).astype(int)
    assert np.abs(read[60:180, 90:380] - (200, 80, 140)).max() <= 2
    assert np.abs(read[220:] - 243).max() <= 1


def test_equal_tiles_are_stored_once(tmp_path: Path) -> None:
    blank = np.full((2048, 2048, 3), 240, np.uint8)
    write_svs(tmp_path / "blank.svs", [blank, blank[::16, ::16]])
    assert (tmp_path / "blank.svs").stat().st_size < 30_000


def test_a_level_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"grey\.svs: expected levels of dtype uint8"):
        write_svs(tmp_path / "grey.svs", [np.zeros((64, 64), np.uint8)])


def test_slides_of_the_cohort_are_aperio_pyramids(tiny_slides: Path) -> None:
    row = rows_of(tiny_slides)[0]
    assert float(row["mpp"]) == 0.5
    with openslide.OpenSlide(tiny_slides.parent / row["path"]) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert slide.level_dimensions == ((1024, 1024), (256, 256), (64, 64))
        assert float(slide.properties["openslide.mpp-x"]) == float(slide.properties["openslide.mpp-y"]) == 0.5
        assert slide.properties["openslide.objective-power"] == "20"
        assert "thumbnail" in slide.associated_images
        full = slide.read_region((0, 0), 0, (1024, 1024)).convert("RGB").reduce(16)
        low = slide.read_region((0, 0), 2, (64, 64)).convert("RGB")
    error = np.asarray(full).astype(float) - np.asarray(low)
    assert np.abs(error.mean((0, 1))).max() < 1  # area averages, ...
    assert error.std() < 13  # ... but for JPEG; single pixels would give about twice as much


def test_tissue_covers_about_two_fifths(tiny_slides: Path) -> None:
    shares = []
    for row in rows_of(tiny_slides):
        with openslide.OpenSlide(tiny_slides.parent / row["path"]) as slide:
            low = np.asarray(slide.read_region((0, 0), 1, (256, 256)).convert("RGB")).astype(int)
        shares.append(((low.max(-1) - low.min(-1)) > 25).mean())
    assert min(shares) > 0.25 and max(shares) < 0.5


# --- The plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 12, 13, 240])
def test_splits_are_balanced_and_patients_stay_in_one(n: int) -> None:
    records = plan_cohort(n, seed=3)
    assert len(records) == n == len({record.id for record in records})
    targets, splits = Counter(r.target for r in records), Counter((r.split, r.target) for r in records)
    assert abs(targets[0] - targets[1]) <= 1
    assert len(splits) == 6
    assert all(abs(splits[split, 0] - splits[split, 1]) <= 1 for split in ("train", "val", "test"))
    slides_of, places = Counter(r.patient for r in records), defaultdict(set)
    for record in records:
        places[record.patient].add((record.split, record.target))
    assert set(slides_of.values()) <= {1, 2}
    assert all(len(place) == 1 for place in places.values())


def test_the_full_cohort_has_the_documented_splits() -> None:
    records = plan_cohort(240, seed=0)
    assert Counter(record.split for record in records) == {"train": 140, "val": 40, "test": 60}
    first, second = records[:120], records[120:]
    assert abs(sum(r.target for r in first) - sum(r.target for r in second)) < 40  # the order does not tell the target


def test_regions_tell_where_the_foci_are(tiny_slides: Path) -> None:
    kinds = defaultdict(Counter)
    for region in rows_of(tiny_slides.parent / "regions.csv"):
        kinds[region["slide_id"]][region["kind"]] += 1
    for row in rows_of(tiny_slides):
        found = kinds[row["slide_id"]]
        assert set(found) <= {"tumour focus", "look-alike"} and 2 <= found.total() <= 3
        assert (found["tumour focus"] > 0) == (row["target"] == "1")
        assert found["look-alike"] > 0  # on every slide


def test_all_slides_of_a_patient_are_of_one_site(tiny_slides: Path) -> None:
    sites = defaultdict(set)
    for row in rows_of(tiny_slides):
        sites[row["case_id"]].add(row["site"])
    assert all(len(of_one) == 1 for of_one in sites.values())
    assert set().union(*sites.values()) <= {site.name for site in SITES}
    counts = Counter((slides.site_of(record, 0).name, record.target) for record in plan_cohort(800, seed=0))
    assert len(counts) == 2 * len(SITES) and min(counts.values()) > 60  # 100 each are expected


# --- Making ----------------------------------------------------------------------------------------------------------


def test_a_slide_depends_on_its_seed_only(tiny_slides: Path, tmp_path: Path) -> None:
    record = plan_cohort(12, seed=0)[4]
    (tmp_path / "slides").mkdir()
    list(make_slides(tmp_path, [record], seed=0, size=1024))
    made = (tmp_path / record.path).read_bytes()
    assert made == (tiny_slides.parent / record.path).read_bytes()
    assert made != (tiny_slides.parent / plan_cohort(12, seed=0)[5].path).read_bytes()


def test_an_interrupted_making_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def failing(path: Path, levels: list[np.ndarray], **facts: float) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            path.write_bytes(b"II*\0half")
            raise KeyboardInterrupt
        write_svs(path, levels, **facts)

    monkeypatch.setattr(slides, "write_svs", failing)
    with pytest.raises(KeyboardInterrupt):
        embedded_cohort(tmp_path, n=6, size=1024, progress=False)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "slides").iterdir()}
    assert len(finished) == 2  # nothing half made is left
    assert not (tmp_path / "cohort.csv").exists()
    manifest = embedded_cohort(tmp_path, n=6, size=1024, progress=False)
    assert calls == 3 + 4
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert all((tmp_path / row["path"]).exists() for row in rows_of(manifest))


def test_a_finished_cohort_is_not_made_again(tiny_slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "plan", lambda *_: pytest.fail("made again"))
    assert embedded_cohort(tiny_slides.parent, n=12, size=1024) == tiny_slides


def test_a_folder_holds_one_cohort(tiny_slides: Path) -> None:
    with pytest.raises(ValueError, match="holds another cohort"):
        embedded_cohort(tiny_slides.parent, n=12, seed=1, size=1024)


def test_processes_started_by_a_script_without_main_guard_make_the_same_slides(tmp_path: Path) -> None:
    """The script comes from standard input, which a spawned pool could not import again."""
    script = (
        "from glimpse.synthetic.slides.recipe import embedded_cohort\n"
        "print(embedded_cohort('cohort', n=6, size=1024, progress=False, workers=2))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-"], input=script, text=True, capture_output=True, env=environment, cwd=tmp_path, check=False
    )
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()) == Path("cohort/cohort.csv")
    assert not list(tmp_path.rglob("*.part"))
    (tmp_path / "slides").mkdir()
    for record in make_slides(tmp_path, plan_cohort(6, seed=0), seed=0, size=1024):
        assert (tmp_path / record.path).read_bytes() == (tmp_path / "cohort" / record.path).read_bytes()


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(slides, "write_svs", full)
    with pytest.raises(OSError, match=r"no room on the disk of .*GLIMPSE_CACHE"):
        embedded_cohort(tmp_path, n=6, size=1024, progress=False)


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    folders = {slides.cache_folder(*facts) for facts in [(240, 0, 4096), (240, 1, 4096), (12, 0, 4096), (240, 0, 1024)]}
    assert len(folders) == 4
    assert all(folder.parent == tmp_path for folder in folders)


@pytest.mark.parametrize(("options", "rule"), [
    ({"n": 5}, "n=5: .* at least 6"),
    ({"size": 1000}, "size=1000: .* multiple of 256"),
    ({"workers": 0}, "workers=0: .* at least one"),
])  # fmt: skip
def test_impossible_wishes_are_refused(tmp_path: Path, options: dict[str, int], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        embedded_cohort(tmp_path, **options)
