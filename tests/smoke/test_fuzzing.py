"""Mutated images and cohorts: each is read, or refused with an error that is documented.

`GLIMPSE_FUZZ_EXAMPLES=2000 python -m pytest tests/smoke -k fuzzing` tries more than the few of every day.
"""

import gzip
import json
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import RLELossless, generate_uid

from glimpse.inspecting.looking import look
from glimpse.modalities import OPTION_COLUMNS, find_modality
from glimpse.sources import open_source
from glimpse.synthetic.slides.svs import write_svs
from glimpse.views import Views
from tests.fuzzing import EXAMPLES, Outcome, attempt, explored, mutated, mutated_text, mutations, texts
from tests.predictions import tissue_on_glass, write_scn, write_slide
from tests.radiograph_files import dataset, save, values

SIZES: dict[str, Any] = {"overview_size": 32, "glimpse_size": 16, "glimpse_extents": [16]}


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


def test_cohorts(tmp_path: Path) -> None:
    from glimpse.cohort import Cohort
    from glimpse.inspecting.inputs import find_candidates
    from glimpse.predicting.inputs import find_items
    from glimpse.settings.composing import composed
    from glimpse.tasks import Classification

    for i, name in enumerate("abc"):
        write_slide(tmp_path / "slides" / f"{name}.svs", i)
    table, modality = tmp_path / "cohort.csv", find_modality("wsi")
    composed_once: Any = composed("env=wsi")
    columns = [name for name in OPTION_COLUMNS if name in modality.options]  # as environments do
    works: list[Callable[[], Any]] = [
        lambda: Cohort.from_csv(table, Classification((0, 1)), source_options={"reader": "slide"}),
        lambda: Cohort.from_csv(table, Classification((0, 1)), on_error="skip", option_columns=columns),
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
