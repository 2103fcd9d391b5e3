"""Files of another kind than an environment reads, and files that may not be read: one line that says what to do."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image

import glimpse
from glimpse.cohort import Cohort, CohortError
from glimpse.envs.modality import load_modality
from glimpse.sources import ImageReadError, UnsupportedImageError, open_source
from glimpse.tasks import Classification
from tests.radiograph_files import dataset, save, values
from tests.volume_files import write

READERS = {"wsi": "slide", "xray": "radiograph", "photo": "photo", "mri": "volume", "ct": "volume"}
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))


# ---------------------------------------------------------------------------------------------- one file of each kind
def slide(folder: Path, name: str = "slide.tiff") -> Path:
    image = RNG.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    tifffile.imwrite(folder / name, image, tile=(128, 128), photometric="rgb", compression="zlib", metadata=None)
    return folder / name


def grey_png(folder: Path) -> Path:
    Image.fromarray(RNG.integers(0, 256, (40, 50), dtype=np.uint8)).save(folder / "grey.png")
    return folder / "grey.png"


def coloured_png(folder: Path) -> Path:
    Image.fromarray(RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / "coloured.png")
    return folder / "coloured.png"


def grey_tiff(folder: Path) -> Path:
    tifffile.imwrite(folder / "grey.tif", values())
    return folder / "grey.tif"


def nifti(folder: Path) -> Path:
    return write(folder / "volume.nii.gz", RNG.integers(0, 99, (12, 11, 10)).astype(np.int16))


def dicom(folder: Path) -> Path:
    return save(dataset(values()), folder / "one.dcm")


def slices(folder: Path, count: int = 4, spacing: float = 2.0, name: str = "AXIAL") -> Path:
    uid = pydicom.uid.generate_uid(entropy_srcs=[name])
    (folder / "series").mkdir(exist_ok=True)
    for index in range(count):
        data = dataset(values(12, 10, seed=index), SOPClassUID=pydicom.uid.CTImageStorage, SeriesInstanceUID=uid)
        data.SeriesDescription, data.ImagePositionPatient = name, [0, 0, spacing * index]
        data.ImageOrientationPatient, data.PixelSpacing = [1, 0, 0, 0, 1, 0], [1, 1]
        save(data, folder / "series" / f"{name}{index}.dcm")
    return folder / "series"


def array(folder: Path) -> Path:
    np.save(folder / "array.npy", RNG.integers(0, 256, (3, 40, 50), dtype=np.uint8))
    return folder / "array.npy"


MAKERS: dict[str, Callable[[Path], Path]] = {
    "a slide": slide,
    "a grey PNG": grey_png,
    "a coloured PNG": coloured_png,
    "a grey TIFF": grey_tiff,
    "NIfTI": nifti,
    "one DICOM file": dicom,
    "a folder of slices": slices,
    "an array": array,
}
READ_BY = {
    "a slide": ["wsi", "photo"],  # it is one tiled picture, without levels
    "a grey PNG": ["xray", "photo"],
    "a coloured PNG": ["photo"],
    "a grey TIFF": ["xray", "photo"],
    "NIfTI": ["mri", "ct"],
    "one DICOM file": ["xray", "photo"],
    "a folder of slices": ["mri", "ct"],
    "an array": [],
}
IS = {
    "a slide": "a TIFF image",
    "a grey PNG": "a PNG image",
    "a coloured PNG": "a PNG image",
    "a grey TIFF": "a TIFF image",
    "NIfTI": "a NIfTI volume",
    "one DICOM file": "a DICOM file",
    "a folder of slices": "a folder",
    "an array": "a NumPy array",
}


@pytest.mark.parametrize("env", READERS)
@pytest.mark.parametrize("what", MAKERS)
def test_a_file_of_another_kind_is_one_clear_line(tmp_path: Path, env: str, what: str) -> None:
    path = MAKERS[what](tmp_path)
    (tmp_path / "c.csv").write_text(f"case_id,slide_id,path,target,split\np,s,{path.name},0,train\n", encoding="utf-8")
    if env in READ_BY[what]:
        assert len(load_modality(env, tmp_path / "c.csv")) == 1
        return
    with pytest.raises(CohortError) as caught:
        load_modality(env, tmp_path / "c.csv")
    first, problem, *more = str(caught.value).splitlines()
    assert "1 problem in this cohort" in first and not more
    assert problem.startswith(f"  - line 2, s: {path}: ")
    if what == "a coloured PNG" and env == "xray":
        assert "it is coloured" in problem and "env=photo" in problem
        return
    assert f"it is {IS[what]}; " in problem
    assert f"env={env}" in problem.partition("but ")[2], "what the environment reads"
    assert "keyword" not in problem and "Correct the path" in problem
    assert ("vips tiffsave" in problem) == (env == "wsi" and IS[what] in ("a PNG image", "a TIFF image"))
    for other in READ_BY[what][:1] if "photo" in READ_BY[what] else READ_BY[what]:  # the one that is likely
        assert f"env={other}" in problem.partition("but ")[0], "which one reads it"


def test_a_single_slice_names_the_folder_to_give(tmp_path: Path) -> None:
    folder = slices(tmp_path)
    with pytest.raises(UnsupportedImageError, match=rf"or give the folder that holds all slices, {folder}, or"):
        open_source(folder / "AXIAL1.dcm", reader="volume")
    assert open_source(folder, reader="volume").shape == (4, 12, 10)


def test_the_reader_of_an_environment_keeps_its_damaged_files(tmp_path: Path) -> None:
    path = slide(tmp_path, "cut.svs")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ImageReadError, match=r"cut\.svs: .*truncated or damaged"):
        open_source(path, reader="slide").check()
    (tmp_path / "empty.nii").write_bytes(b"")
    with pytest.raises(ImageReadError, match=r"empty\.nii: .*damaged"):
        open_source(tmp_path / "empty.nii", reader="volume").check()
    (tmp_path / "notes.txt").write_text("text", encoding="utf-8")
    with pytest.raises(UnsupportedImageError, match=r"no reader for suffix '\.txt' with text.*env=xray reads radiogr"):
        open_source(tmp_path / "notes.txt", reader="radiograph")


# ---------------------------------------------------------------------------------------------- choosing one of several
def test_columns_choose_series_and_frames(tmp_path: Path) -> None:
    slices(tmp_path)
    slices(tmp_path, 3, name="SCOUT")
    four = np.stack([np.full((12, 11, 10), value, np.int16) for value in (10, 200)], -1)
    nibabel.save(nibabel.Nifti1Image(four, np.eye(4)), tmp_path / "four.nii")
    rows = [
        "a,a,series,0,train,AXIAL,",
        "b,b,series,1,train,SCOUT,",
        "c,c,four.nii,0,train,,0",
        "d,d,four.nii,0,train,,1",
    ]
    path = tmp_path / "c.csv"
    path.write_text("\n".join(["patient,case,path,target,split,series,frame", *rows]), encoding="utf-8")
    cohort = load_modality("mri", path, windows=[0, 255])
    assert [case.source.shape for case in cohort] == [(4, 12, 10), (3, 12, 10), (10, 11, 12), (10, 11, 12)]
    assert [int(case.source.overview((1, 1, 1)).item()) for case in cohort][2:] == [10, 200]


def test_an_option_chooses_for_all_and_a_column_for_one(tmp_path: Path) -> None:
    slices(tmp_path)
    slices(tmp_path, 3, name="SCOUT")
    path = tmp_path / "c.csv"
    path.write_text("patient,case,path,target,split,series\na,a,series,0,train,\nb,b,series,0,train,SCOUT\n")
    assert [case.source.shape[0] for case in load_modality("ct", path, series="AXIAL")] == [4, 3]
    made: Any = gymnasium.make("glimpse/CT-v0", cohort=path, series="AXIAL", **SIZES)
    assert [case.source.shape[0] for case in made.unwrapped.cases] == [4, 3]


SIZES = {"overview_size": 4, "glimpse_size": 2, "glimpse_extents": 2}


def test_columns_of_these_names_mean_nothing_to_other_images(tmp_path: Path) -> None:
    slide(tmp_path)
    (tmp_path / "c.csv").write_text("patient,case,path,target,split,series\na,a,slide.tiff,0,train,H&E\n")
    assert len(load_modality("wsi", tmp_path / "c.csv")) == 1


def test_all_that_is_unclear_is_listed_at_once_and_skipped_with_skip(tmp_path: Path) -> None:
    slices(tmp_path)
    slices(tmp_path, 3, name="SCOUT")
    nifti(tmp_path)
    dicom(tmp_path)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.int16), np.eye(4)), tmp_path / "four.nii")
    names = ["series", "four.nii", "four.nii", "one.dcm", "nowhere.nii", "volume.nii.gz"]
    frames = ["", "", "3", "", "", ""]
    rows = [f"p{i},s{i},{name},0,train,{frame}" for i, (name, frame) in enumerate(zip(names, frames, strict=True))]
    path = tmp_path / "c.csv"
    path.write_text("\n".join(["patient,case,path,target,split,frame", *rows]), encoding="utf-8")
    with pytest.raises(CohortError) as caught:
        load_modality("ct", path)
    for words in (
        "5 problems",
        "line 2, s0: ",
        "it holds 2 series, a volume is one",
        "line 3, s1: ",
        "it holds 3 volumes, a case is one",
        "frame=3, but it holds 3 volumes, numbered from 0",
        "line 5, s3: ",
        "it is a DICOM file",
        "nowhere.nii: no such file",
    ):
        assert words in str(caught.value)
    with pytest.warns(UserWarning, match="skipped"):
        assert [case.id for case in load_modality("ct", path, on_error="skip")] == ["s5"]


# ---------------------------------------------------------------------------------------------- what may not be read
@contextmanager
def nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def readable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that `nobody` can enter, which is not so of pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        monkeypatch.setenv("GLIMPSE_CACHE", str(folder / "cache"))
        yield folder
        for path in folder.rglob("*"):
            path.chmod(0o700)


FORBIDDEN = {
    "a slide": ("wsi", slide),
    "a grey PNG": ("xray", grey_png),
    "a grey TIFF": ("xray", grey_tiff),
    "NIfTI": ("mri", nifti),
    "a DICOM file": ("xray", dicom),
    "a folder": ("ct", slices),
    "a slice": ("ct", lambda folder: slices(folder) / "AXIAL2.dcm"),
    "an array": (None, array),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_may_not_be_read_is_listed_and_skipped(readable: Path, what: str) -> None:
    env, make = FORBIDDEN[what]
    good, bad = readable / "good", readable / "bad"
    good.mkdir()
    bad.mkdir()
    image, forbidden = make(good), make(bad)
    case = Path("good") / image.relative_to(good).parts[0], Path("bad") / forbidden.relative_to(bad).parts[0]
    forbidden.chmod(0)
    path = readable / "c.csv"
    path.write_text(f"patient,case,path,target,split\na,a,{case[0]},0,train\nb,b,{case[1]},1,train\n", encoding="utf-8")
    words = rf"line 3, b: {forbidden}: cannot be opened \(Permission denied\).*chmod u\+rX {forbidden}.*on_error=skip"

    def load(on_error: str) -> Cohort:
        if env is None:
            return Cohort.from_csv(path, Classification(2), on_error=on_error, progress=False)
        return load_modality(env, path, on_error=on_error)

    with nobody():
        with pytest.raises(CohortError, match=words):
            load("raise")
        with pytest.warns(UserWarning, match=words):
            assert [one.id for one in load("skip")] == ["a"]
        with pytest.raises(ImageReadError, match="Permission denied"):
            glimpse.open_source(bad / case[1].name).check()
