"""Damaged files of every kind: `on_error=raise` lists them by name, `skip` leaves them out; none is read as whole."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image

from glimpse.cohort import CohortError
from glimpse.envs.modality import load_modality
from tests.radiograph_files import dataset, save
from tests.volume_files import write

NOISE = np.random.default_rng(0).integers(0, 4096, (96, 96)).astype(np.uint16)
SCAN = np.random.default_rng(0).integers(0, 999, (24, 24, 24)).astype(np.int16)


def overwritten(path: Path, start: float, end: float) -> Path:
    """Replaces a part of a file, in shares of its length, by zeros."""
    content = bytearray(path.read_bytes())
    first, last = int(len(content) * start), int(len(content) * end)
    content[first:last] = bytes(last - first)
    path.write_bytes(content)
    return path


def cut(path: Path, share: float = 0.6) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def picture(path: Path, coloured: bool = False) -> Path:
    grey = (NOISE >> 4).astype(np.uint8)
    Image.fromarray(np.stack([grey, grey[::-1], grey.T], -1) if coloured else grey).save(path)
    return path


def tiff(path: Path, compression: str) -> Path:
    if compression == "tiff_lzw":
        Image.fromarray(NOISE).save(path, compression=compression)
    else:
        tifffile.imwrite(path, NOISE, compression=compression, rowsperstrip=16)
    return path


def compressed(path: Path) -> Path:
    data = dataset(NOISE)
    data.compress(pydicom.uid.RLELossless)
    return save(data, path)


def broken_rle(path: Path) -> Path:
    data = pydicom.dcmread(compressed(path))
    data.PixelData = pydicom.encaps.encapsulate([b"\xff" * 200])
    data["PixelData"].VR = "OB"
    return save(data, path)


def series(folder: Path, spoil: Callable[[Path], Path]) -> Path:
    folder.mkdir()
    uid = pydicom.uid.generate_uid(entropy_srcs=[str(folder)])
    for index in range(4):
        data = dataset(NOISE, SOPClassUID=pydicom.uid.CTImageStorage, SeriesInstanceUID=uid, PixelSpacing=[1, 1])
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2 * index], [1, 0, 0, 0, 1, 0]
        data.compress(pydicom.uid.RLELossless)
        save(data, folder / f"{index}.dcm")
    spoil(folder / "2.dcm")
    return folder


def spoilt_slice(path: Path) -> Path:
    data = pydicom.dcmread(path)
    data.PixelData = pydicom.encaps.encapsulate([b"\xff" * 200])
    data["PixelData"].VR = "OB"
    data.save_as(path)
    return path


DAMAGED: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "nii, cut": ("mri", lambda folder: cut(write(folder / "bad.nii", SCAN))),
    "nii.gz, cut": ("mri", lambda folder: cut(write(folder / "bad.nii.gz", SCAN))),
    "nii.gz, overwritten": ("mri", lambda folder: overwritten(write(folder / "bad.nii.gz", SCAN), 0.5, 0.6)),
    "slices, one cut": ("ct", lambda folder: series(folder / "bad", cut)),
    "slices, one lost": ("ct", lambda folder: series(folder / "bad", lambda path: overwritten(path, 0, 1))),
    "slices, one not decoded": ("ct", lambda folder: series(folder / "bad", spoilt_slice)),
    "png, cut": ("xray", lambda folder: cut(picture(folder / "bad.png"))),
    "png, overwritten": ("xray", lambda folder: overwritten(picture(folder / "bad.png"), 0.5, 0.6)),
    "jpeg, cut": ("xray", lambda folder: cut(picture(folder / "bad.jpg"))),
    "tiff, cut": ("xray", lambda folder: cut(tiff(folder / "bad.tif", "zlib"))),
    "tiff, overwritten": ("xray", lambda folder: overwritten(tiff(folder / "bad.tif", "zlib"), 0.6, 0.7)),
    "tiff (lzw), overwritten": ("xray", lambda folder: overwritten(tiff(folder / "bad.tif", "tiff_lzw"), 0.5, 0.6)),
    "dicom, cut": ("xray", lambda folder: cut(save(dataset(NOISE), folder / "bad.dcm"))),
    "dicom (rle), cut": ("xray", lambda folder: cut(compressed(folder / "bad.dcm"))),
    "dicom (rle), not decoded": ("xray", lambda folder: broken_rle(folder / "bad.dcm")),
    "colour png, cut": ("photo", lambda folder: cut(picture(folder / "bad.png", True))),
    "colour jpeg, cut": ("photo", lambda folder: cut(picture(folder / "bad.jpg", True))),
    "webp, cut": ("photo", lambda folder: cut(picture(folder / "bad.webp", True))),
    "slide, cut": ("wsi", lambda folder: cut(slide(folder / "bad.tiff"))),
}


def slide(path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    tifffile.imwrite(path, image, tile=(128, 128), photometric="rgb", compression="zlib", metadata=None)
    return path


GOOD: dict[str, Callable[[Path], Path]] = {
    "mri": lambda folder: write(folder / "good.nii", SCAN),
    "ct": lambda folder: series(folder / "good", lambda path: path),
    "xray": lambda folder: picture(folder / "good.png"),
    "photo": lambda folder: picture(folder / "good.png", True),
    "wsi": lambda folder: slide(folder / "good.tiff"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_files_are_named_and_left_out(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    env, make = DAMAGED[what]
    names = GOOD[env](tmp_path).name, make(tmp_path).name
    path = tmp_path / "c.csv"
    rows = [f"p{index},s{index},{name},{index},train" for index, name in enumerate(names)]
    path.write_text("\n".join(["patient,case,path,target,split", *rows]), encoding="utf-8")
    words = rf"line 3, s1: {tmp_path / names[1]}.*(truncated|damaged|cannot be).*on_error=skip"
    with pytest.raises(CohortError, match=words):
        load_modality(env, path)
    with pytest.warns(UserWarning, match=words):
        assert [case.id for case in load_modality(env, path, on_error="skip")] == ["s0"]
