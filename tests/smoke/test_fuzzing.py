"""Mutated images, cohorts, run folders and options: each is read, or refused with an error that is documented.

`GLIMPSE_FUZZ_EXAMPLES=2000 python -m pytest tests/smoke/test_fuzzing.py` tries more than the few of every day.
"""

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import RLELossless, generate_uid

from glimpse.check import check
from glimpse.cohort.recorded import read_splits
from glimpse.evaluate import _is_of
from glimpse.inspecting.looking import look
from glimpse.modalities import find_modality
from glimpse.predict import predict
from glimpse.predicting.agent import load
from glimpse.report.html.writing import write_report
from glimpse.runs.folder import settings_of
from glimpse.sources import open_source
from glimpse.synthetic.slides.svs import write_svs
from glimpse.views import Views
from tests.fuzzing import EXAMPLES, PICKLE, Outcome, attempt, mutated, mutated_text, mutations, texts
from tests.predictions import slide_run, tissue_on_glass, write_scn, write_slide
from tests.radiograph_files import dataset, save, values

SIZES: dict[str, Any] = {"overview_size": 32, "glimpse_size": 16, "glimpse_extents": [16]}


@dataclass(frozen=True)
class Explored:
    """What has come of all examples.

    Attributes:
        count: how many were tried.
        read: how many of them were read to their end, without an error.
        faults: each kind of fault, with how often it was found, where, and one example.
    """

    count: int
    read: int
    faults: list[str]

    @property
    def deep(self) -> bool:
        """Whether mutations try anything behind the first check; few examples may all end there."""
        return self.read > 0 or self.count < 50


def explored(share: float, strategy: st.SearchStrategy[Any], tried: Callable[[Any], Outcome]) -> Explored:
    """Tries a share of all examples, and returns what has come of them; a fault is printed as soon as it is found."""
    faults: dict[tuple[str, str], list[Any]] = {}
    outcomes: list[Outcome] = []

    @settings(
        max_examples=max(2, round(share * EXAMPLES)),
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(example: Any) -> None:
        outcome = tried(example)
        outcomes.append(outcome)
        if outcome.fault:
            found = faults.setdefault((outcome.fault[:70], outcome.where), [])
            found.append((example, outcome.fault))
            if len(found) == 1:
                print(f"fault: {outcome.fault}\n   at {outcome.where}\n   such as {example!r}"[:1500], flush=True)

    run()
    told = [
        f"{len(found)} x {found[0][1]}\n   at {where}\n   such as {found[0][0]!r}"[:1500]
        for (_, where), found in faults.items()
    ]
    return Explored(len(outcomes), sum(not outcome.fault and not outcome.error for outcome in outcomes), told)


def test_faults_are_told_by_kind_with_an_example_each() -> None:
    def tried(example: int) -> Outcome:
        return Outcome("" if example < 5 else f"it has {example // 5} fives", where="here.py:1")

    found = explored(60 / EXAMPLES, st.integers(0, 9), tried)
    (fault,) = found.faults
    assert found.deep and 0 < found.read < found.count
    assert fault.startswith(f"{found.count - found.read} x it has 1 fives") and "at here.py:1\n   such as " in fault
    refused = explored(60 / EXAMPLES, st.integers(), lambda _: Outcome("", "CohortError"))
    assert (refused.count, refused.read, refused.faults, refused.deep) == (60, 0, [], False)


# ---------------------------------------------------------------------------------------------- images
@dataclass(frozen=True)
class Base:
    """A file that is whole: its content, where its header lies, and the environment that reads it."""

    name: str
    env: str
    content: bytes = field(repr=False)
    hot: tuple[int, ...] = field(repr=False)
    packed: bool = False  # whether it is compressed after it was mutated


def of_tiff(path: Path, env: str) -> Base:
    """The fields of the directories of a TIFF are where mutations do most."""
    with tifffile.TiffFile(path) as tiff:
        hot = [place for page in tiff.pages for tag in page.tags for place in range(tag.offset, tag.offset + 12, 2)]
        hot += [
            tag.valueoffset + i for page in tiff.pages for tag in page.tags for i in range(0, min(tag.count, 60), 4)
        ]
    return Base(path.name, env, path.read_bytes(), (*range(16), *hot))


def images_of(folder: Path) -> list[Base]:
    pixels = tissue_on_glass(0, 512)
    write_svs(folder / "a.svs", [pixels, pixels[::4, ::4]], quality=60)
    whole = [
        of_tiff(path, "wsi") for path in (folder / "a.svs", write_slide(folder / "b.tif"), write_scn(folder / "c.scn"))
    ]
    grey = (values(48, 56) // 16).astype(np.uint8)
    tifffile.imwrite(folder / "d.tif", values(48, 56), photometric="minisblack")
    whole.append(of_tiff(folder / "d.tif", "xray"))
    for name, hot in (("e.png", 64), ("f.jpg", 700)):
        Image.fromarray(grey).save(folder / name)
        whole.append(Base(name, "xray", (folder / name).read_bytes(), tuple(range(hot))))
    Image.fromarray(values(48, 56)).save(folder / "g.png")
    whole.append(Base("g.png", "xray", (folder / "g.png").read_bytes(), tuple(range(64))))
    data = dataset(values(48, 56), PixelSpacing=[0.2, 0.2], WindowCenter=2000, WindowWidth=4000)
    save(data, folder / "h.dcm")
    data.compress(RLELossless)
    save(data, folder / "i.dcm")
    whole += [Base(n, "xray", (folder / n).read_bytes(), tuple(range(128, 900, 2))) for n in ("h.dcm", "i.dcm")]
    affine = np.diag([1.5, 1.0, 2.0, 1.0])
    nibabel.Nifti1Image(np.arange(24 * 20 * 16, dtype=np.int16).reshape(24, 20, 16), affine).to_filename(
        folder / "j.nii"
    )
    content = (folder / "j.nii").read_bytes()
    whole += [
        Base("j.nii", "mri", content, tuple(range(352))),
        Base("k.nii.gz", "mri", content, tuple(range(352)), True),
    ]
    return [*whole, Base("l.nii.gz", "ct", gzip.compress(content, mtime=0), tuple(range(32)))]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Base]:
    folder = tmp_path_factory.mktemp("whole")
    found = images_of(folder)
    gzip_of = next(base for base in found if base.packed)
    (folder / gzip_of.name).write_bytes(gzip.compress(gzip_of.content))
    (folder / "l.nii.gz").write_bytes(next(base.content for base in found if base.name == "l.nii.gz"))
    for base in found:  # what is imported here need not be imported in each attempt
        seen(folder / base.name, base.env)
        checked(folder / base.name, base.env)
    return found


def seen(path: Path, env: str) -> None:
    """Opens an image and reads all that an agent may read of it."""
    options = find_modality(env).source_options({})
    with closing(open_source(path, **options)) as source:
        source.check()
        views = Views((32,) * source.ndim, (16,) * source.ndim, (16,))  # type: ignore[arg-type]
        overview, foreground = views.overview(source), views.foreground(source)
        assert overview.shape == (source.channels, *(32,) * source.ndim) and foreground.max() == 1
        for place in (-1.0, 0.0, 0.97):
            assert views.glimpse(source, np.full(source.ndim, place)).dtype == np.uint8
            assert np.isfinite(views.shown(source, np.full(source.ndim, place))).all()
        assert source.spacing is None or all(0 < size < 1e9 for size in source.spacing)


def checked(path: Path, env: str) -> None:
    """Looks at an image as `glimpse check` does; what is wrong must be a finding that says what it is."""
    record = json.loads(json.dumps(look(str(path), find_modality(env).source_options({}), SIZES)))
    for rule, what, remedy, _ in record["findings"]:
        assert rule and remedy and not re.match(r"\w+(Error|Exception|Warning)\b", what), what


@pytest.mark.parametrize("work", [seen, checked])
def test_images(images: list[Base], tmp_path: Path, work: Callable[[Path, str], None]) -> None:
    def tried(example: tuple[Base, list[Any]]) -> Outcome:
        base, changes = example
        content = mutated(base.content, base.hot, changes)
        path = tmp_path / base.name
        path.write_bytes(gzip.compress(content, 1) if base.packed else content)
        return attempt(lambda: work(path, base.env), tmp_path)

    found = explored(0.25, st.tuples(st.sampled_from(images), mutations), tried)
    assert not found.faults, "\n".join(found.faults)
    assert found.deep


def test_folders_of_slices(tmp_path: Path) -> None:
    series = {name: generate_uid(entropy_srcs=[name]) for name in ("SeriesInstanceUID", "FrameOfReferenceUID")}
    contents = []
    for i in range(4):
        place = {"ImagePositionPatient": [0, 0, 2.0 * i], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], **series}
        data = dataset(values(24, 20, seed=i), PixelSpacing=[1.0, 1.0], InstanceNumber=i + 1, **place)
        data.Modality, data.SliceThickness, data.RescaleSlope, data.RescaleIntercept = "CT", 2.0, 1, -1024
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(i)])
        contents.append(save(data, tmp_path / f"{i}.dcm").read_bytes())
    hot = tuple(range(128, 1000, 2))

    seen(tmp_path, "ct")

    def tried(example: tuple[int, list[Any]]) -> Outcome:
        which, changes = example
        for i, content in enumerate(contents):
            (tmp_path / f"{i}.dcm").write_bytes(mutated(content, hot, changes) if i == which else content)
        return attempt(lambda: seen(tmp_path, "ct"), tmp_path)

    found = explored(0.1, st.tuples(st.integers(0, 3), mutations), tried)
    assert not found.faults, "\n".join(found.faults)
    assert found.deep


# ---------------------------------------------------------------------------------------------- cohorts
COHORT = """case_id,slide_id,path,target,split,mpp,mask
p1,a,slides/a.svs,0,train,0.5,
p2,b,slides/b.svs,1,val,,
"p3",c,slides/c.svs,0,test,0.5,
"""


@pytest.fixture(scope="module")
def run(tiny_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = slide_run(tmp_path_factory.mktemp("runs") / "one", tiny_slides)
    lines = ["case_id,slide_id,split,fingerprint", "p1,a,train,abc", "p2,b,test,def"]
    (folder / "splits.csv").write_text("\n".join([*lines, ""]))
    (folder / "metrics.json").write_text(json.dumps({"readers": {"ppo": {"auc": {"value": 0.5}}}, "cohort": "c.csv"}))
    return folder


def test_cohorts(tmp_path: Path, run: Path) -> None:
    from glimpse.cohort import Cohort
    from glimpse.inspecting.inputs import find_candidates
    from glimpse.predicting.inputs import find_items
    from glimpse.settings.composing import composed
    from glimpse.tasks import Classification

    for i, name in enumerate("abc"):
        write_slide(tmp_path / "slides" / f"{name}.svs", i)
    table, modality = tmp_path / "cohort.csv", find_modality("wsi")
    composed_once: Any = composed("env=wsi")
    works: list[Callable[[], Any]] = [
        lambda: Cohort.from_csv(table, Classification((0, 1)), source_options={"reader": "slide"}),
        lambda: Cohort.from_csv(table, Classification((0, 1)), on_error="skip", option_columns=modality.options),
        lambda: find_items([table], modality),
        lambda: find_candidates([table], "wsi", lambda env: composed_once, tmp_path / "out"),
    ]

    table.write_text(COHORT)
    for work in works:
        work()

    def tried(example: tuple[int, list[Any]]) -> Outcome:
        which, changes = example
        table.write_bytes(mutated_text(COHORT, changes))
        return attempt(works[which], tmp_path, reads=[Path("/")])  # cells may lead anywhere

    found = explored(0.15, st.tuples(st.integers(0, 3), texts), tried)
    assert not found.faults, "\n".join(found.faults)
    assert found.deep


# ---------------------------------------------------------------------------------------------- run folders
FILES = ("config.yaml", "policy.safetensors", "splits.csv", "metrics.json", "calibration.json")
TEMPERATURES = {"split": "val", "readers": {"policy": {"temperature": 1.25, "cases": 40, "reason": ""}}}


def test_run_folders(run: Path, tmp_path: Path) -> None:
    slide, own = write_slide(tmp_path / "s.svs"), tmp_path / "run"
    contents = {name: (run / name).read_bytes() for name in FILES if name != "calibration.json"}
    contents["calibration.json"] = json.dumps(TEMPERATURES).encode()

    def used() -> None:
        load(own).read(slide, 2)
        settings_of(own)
        read_splits(own)
        _is_of(own / "metrics.json", "c.csv")
        predict(own, slide, tmp_path / "out", max_glimpses=1)

    shutil.copytree(run, own)
    (own / "calibration.json").write_bytes(contents["calibration.json"])
    used()

    def tried(example: tuple[str, list[Any], list[Any]]) -> Outcome:
        name, in_bytes, in_text = example
        shutil.rmtree(own, ignore_errors=True)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        own.mkdir()
        for file, content in contents.items():
            (own / file).write_bytes(content)
        if name == "policy.safetensors":
            header = 8 + int.from_bytes(contents[name][:8], "little")
            (own / name).write_bytes(mutated(contents[name], tuple(range(min(header, 4000))), in_bytes))
        else:
            (own / name).write_bytes(mutated_text(contents[name].decode(), in_text, ':\n -,{}"'))
        return attempt(used, tmp_path, reads=[run.parent])

    found = explored(0.15, st.tuples(st.sampled_from((*FILES, "config.yaml")), mutations, texts), tried)
    assert not found.faults, "\n".join(found.faults)
    assert found.deep


def test_output_folders(run: Path, tmp_path: Path) -> None:
    """Of `glimpse predict`: records that somebody has changed are read again, or reported as they are."""
    for i in range(2):
        write_slide(tmp_path / "slides" / f"s{i}.svs", i)
    (tmp_path / "slides" / "s2.svs").write_text("nothing")
    out = tmp_path / "out"
    predict(run, tmp_path / "slides", out, max_glimpses=1)
    whole = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    texts_of = [path for path in sorted(whole) if path.suffix in (".json", ".csv", ".geojson")]

    def used() -> None:
        predict(run, tmp_path / "slides", out, max_glimpses=1)
        write_report(out)

    def tried(example: tuple[Path, list[Any]]) -> Outcome:
        name, changes = example
        shutil.rmtree(out, ignore_errors=True)
        for path, content in whole.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(content)
        (out / name).write_bytes(mutated_text(whole[name].decode(), changes, ':\n -,{}[]"'))
        return attempt(used, tmp_path, reads=[run.parent])

    found = explored(0.05, st.tuples(st.sampled_from(texts_of), texts), tried)
    assert not found.faults, "\n".join(found.faults)
    assert found.deep


def test_nothing_is_unpickled(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    (own / "policy.safetensors").write_bytes(PICKLE)
    outcome = attempt(lambda: load(own), tmp_path)
    assert (outcome.fault, outcome.error) == ("", "CheckpointError")
    for name in ("a.npy", "a.svs", "a.dcm", "a.nii", "a.nii.gz", "a.png"):
        (tmp_path / name).write_bytes(PICKLE)
        for env in ("wsi", "xray", "mri"):
            outcome = attempt(lambda name=name, env=env: seen(tmp_path / name, env), tmp_path)  # type: ignore[misc]
            assert not outcome.fault and outcome.error, outcome


# ---------------------------------------------------------------------------------------------- options
ODD: Sequence[Any] = (
    None, True, 0, -1, 1, 2, 2.5, 1e308, float("nan"), float("inf"), 2**70, "", "1/2", "2/1", "0/0", "x", "\x00",
    "a" * 300, "detection", "cpu", "cuda:99", "meta", [], ["x"], {}, b"x", (1,),
)  # fmt: skip


def odd(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), st.sampled_from(ODD), min_size=1, max_size=3)


def inside(folder: Path, work: Callable[[], Any]) -> None:
    """Works in a folder: relative paths begin there."""
    os.chdir(folder)
    work()


def test_options_of_predict(run: Path, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.svs")
    predict(run, slide, tmp_path / "out", max_glimpses=1)

    def tried(example: dict[str, Any]) -> Outcome:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        given = {"model": run, "input": slide, "output": tmp_path / "out", "max_glimpses": 1} | example
        return attempt(lambda: inside(tmp_path, lambda: predict(**given)), tmp_path, reads=[run.parent])

    names = ("model", "input", "output", "max_glimpses", "shard", "objects", "subtract_bounds", "gzip", "device")
    found = explored(0.07, odd(*names, "progress"), tried)
    assert not found.faults, "\n".join(found.faults)
    assert found.deep


def test_options_of_check(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.svs")

    def tried(example: dict[str, Any]) -> Outcome:
        given = {"input": slide, "output": tmp_path / "out", "env": "wsi", "workers": 1, "estimate": False} | example
        given["timeout"] = 0.01 if given.get("timeout") is None else given["timeout"]  # options are of interest here
        return attempt(lambda: inside(tmp_path, lambda: check(**given)), tmp_path, spawns=True)

    names = ("input", "output", "env", "settings", "workers", "timeout", "gigabytes", "places", "seed", "thumbnail")
    found = explored(0.03, odd(*names, "estimate", "progress"), tried)
    assert not found.faults, "\n".join(found.faults)
    assert found.deep
