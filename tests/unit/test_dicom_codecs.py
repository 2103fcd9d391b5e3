"""Compressed DICOM files as pydicom ships them: what is read is what pydicom reads."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from glimpse.sources import ImageReadError, open_source
from glimpse.sources.radiograph import dicom_files
from tests.volume_files import whole

pydicom = pytest.importorskip("pydicom")

PACKAGED = {
    "RLE": "MR_small_RLE.dcm",
    "RLE, 32 bits": "rtdose_rle_1frame.dcm",
    "JPEG, 12 bits": "JPGExtended.dcm",
    "JPEG-LS": "MR_small_jpeg_ls_lossless.dcm",
    "JPEG-LS, lossy, 8 bits": "JPEGLSNearLossless_08.dcm",
    "JPEG-LS, lossy, 16 bits": "JPEGLSNearLossless_16.dcm",
    "JPEG 2000": "MR_small_jp2klossless.dcm",
    "JPEG 2000, lossy": "693_J2KI.dcm",
    "JPEG 2000, signs that contradict each other": "J2K_pixelrep_mismatch.dcm",
}
IN_PYDICOM_DATA = {
    "JPEG lossless": "JPEG-LL.dcm",
    "JPEG lossless, 8 bits": "JPGLosslessP14SV1_1s_1f_8b.dcm",
    "JPEG 2000, 16 bits": "693_J2KR.dcm",
    "JPEG 2000, lossy, 10 bits": "RG3_J2KI.dcm",
}
FRAMES = {
    "RLE": "emri_small_RLE.dcm",
    "JPEG-LS": "emri_small_jpeg_ls_lossless.dcm",
    "JPEG 2000": "emri_small_jpeg_2k_lossless.dcm",
}


def file(name: str) -> Path:
    """A file of pydicom, or of pydicom-data, which the extra `test` brings."""
    try:
        found = pydicom.data.get_testdata_file(name, download=False)
    except ValueError:
        found = None
    if found is None:
        pytest.skip(f"{name} is in pydicom-data, which is not installed")
    return Path(found)


@pytest.mark.parametrize("how", [*PACKAGED, *IN_PYDICOM_DATA])
def test_pixels_are_those_of_pydicom(how: str) -> None:
    path = file((PACKAGED | IN_PYDICOM_DATA)[how])
    decoded = dicom_files.decode(path, dicom_files.describe(path, None), None)
    expected = pydicom.dcmread(path).pixel_array
    assert decoded.dtype == expected.dtype
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("how", FRAMES)
def test_frames_are_those_of_pydicom(how: str) -> None:
    path = file(FRAMES[how])
    expected = pydicom.dcmread(path).pixel_array
    for frame in (0, 7):
        decoded = dicom_files.decode(path, dicom_files.describe(path, frame), frame)
        np.testing.assert_array_equal(decoded, expected[frame])


@pytest.mark.parametrize("name", ["MR_small_RLE", "MR_small_jpeg_ls_lossless", "MR_small_jp2klossless"])
def test_slices_of_volumes_likewise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mr").mkdir()
    shutil.copy(file(f"{name}.dcm"), tmp_path / "mr")
    stored = pydicom.dcmread(file("MR_small.dcm")).pixel_array
    shown = whole(open_source(tmp_path / "mr", windows=[0, 2550]))[0, 0, ::-1, ::-1]
    np.testing.assert_array_equal(shown, np.floor(np.clip(stored / 10, 0, 255) + 0.5))


def test_what_no_decoder_reads_says_what_to_do() -> None:
    path = file("JPEG-lossy.dcm")  # 12 bits, in scans that libjpeg does not follow
    header = dicom_files.describe(path, None)
    with pytest.raises(ImageReadError, match=r"JPEG-lossy\.dcm: cannot be read.*JPEG Extended.*gdcmconv --raw"):
        dicom_files.decode(path, header, None)
