"""Folders of DICOM slices as volumes: order and axes come from where the slices lie."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glimpse.sources import ImageReadError, SlideSource, UnsupportedImageError, VolumeSource, dicom, open_source
from glimpse.sources.base import begins_as_dicom
from glimpse.sources.slide.files import dicom_files
from glimpse.sources.volume.unpacked import unpacked_folder

pydicom = pytest.importorskip("pydicom")

RNG = np.random.default_rng(0)
AXIAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)
CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
FEET_FIRST = "1.2.3.4.5"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))


def write_slice(
    path: Path, stored: np.ndarray, position: tuple, direction: tuple = AXIAL, series: str = FEET_FIRST, **tags: object
) -> Path:
    """A CT slice of stored values (row, column) in explicit little endian."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CT_STORAGE, pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data = pydicom.dataset.FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = CT_STORAGE, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.SeriesDescription, data.SeriesNumber = series, f"series {series[-1]}", int(series[-1])
    data.Modality, data.PhotometricInterpretation, data.SamplesPerPixel = "CT", "MONOCHROME2", 1
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.ImagePositionPatient, data.ImageOrientationPatient = list(position), list(direction)
    data.PixelSpacing, data.SliceThickness = [0.75, 0.5], 9
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelData = stored.astype("<i2" if stored.dtype.kind == "i" else "<u2").tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def stored_values(*shape: int) -> np.ndarray:
    return RNG.integers(1024, 1280, shape).astype(np.uint16)


def write_axial(folder: Path, values: np.ndarray, **options: object) -> Path:
    """Slices (z, row, column), 2.5 mm apart upwards from z = -40, under names that say nothing of their order."""
    names = RNG.permutation(len(values))
    for index, one in enumerate(values):
        write_slice(folder / f"{names[index]:03}.dcm", one, (-10, -20, -40 + 2.5 * index), **options)
    return folder


def whole(source: VolumeSource) -> np.ndarray:
    return source.overview(source.shape)


def canonical(values: np.ndarray) -> np.ndarray:
    """Greys of axial slices from below: rows run to posterior and columns to the left, so both turn round."""
    return values[:, ::-1, ::-1].astype(int) - 1024


def test_slices_are_ordered_by_position(tmp_path: Path):
    values = stored_values(7, 5, 4)
    folder = write_axial(tmp_path / "ct", values)
    (folder / "notes.txt").write_text("not an image")
    source = open_source(folder, windows=[0, 255])
    assert isinstance(source, VolumeSource)
    assert (source.shape, source.spacing, source.unit) == ((7, 5, 4), (2.5, 0.75, 0.5), "mm"), "not SliceThickness"
    np.testing.assert_array_equal(whole(source)[0], canonical(values))
    # By hand: the lowest slice, its last row (the most posterior) and last column (the leftmost in the patient)
    assert source.read((0.5, 0.5, 0.5), 1, (1, 1, 1)).item() == values[0, 4, 3] - 1024


def test_instance_numbers_do_not_count(tmp_path: Path):
    values = stored_values(3, 4, 4)
    for index, number in enumerate((2, 3, 1)):
        write_slice(tmp_path / "ct" / f"{number}.dcm", values[index], (0, 0, 5 * index), InstanceNumber=number)
    np.testing.assert_array_equal(whole(open_source(tmp_path / "ct", windows=[0, 255]))[0], canonical(values))


def test_reversed_rows_and_columns(tmp_path: Path):
    """A patient who lies prone: columns run to the right and rows to anterior; the normal is still upwards."""
    values = stored_values(3, 4, 5)
    for index, one in enumerate(values):
        write_slice(tmp_path / "ct" / f"{index}.dcm", one, (10, 20, 3 * index), (-1, 0, 0, 0, -1, 0))
    np.testing.assert_array_equal(whole(open_source(tmp_path / "ct", windows=[0, 255]))[0], values.astype(int) - 1024)


def test_a_normal_that_points_down(tmp_path: Path):
    """Columns to the right, rows to posterior: the normal points to the feet, the volume still begins there."""
    values = stored_values(3, 4, 5)
    for index, one in enumerate(values):
        write_slice(tmp_path / "ct" / f"{index}.dcm", one, (10, -20, 3 * index), (-1, 0, 0, 0, 1, 0))
    got = whole(open_source(tmp_path / "ct", windows=[0, 255]))[0]
    np.testing.assert_array_equal(got, values[:, ::-1].astype(int) - 1024)


def test_sagittal_slices(tmp_path: Path):
    """Columns to posterior, rows to the feet, slices 4 mm apart from right (x = -8) to left in DICOM's axes."""
    values = stored_values(3, 6, 5)  # (slice, row, column)
    for index, one in enumerate(values):
        write_slice(tmp_path / "mr" / f"{index}.dcm", one, (-8 + 4 * index, 0, 0), SAGITTAL)
    source = open_source(tmp_path / "mr", windows=[0, 255])
    assert (source.shape, source.spacing) == ((6, 5, 3), (0.75, 0.5, 4.0))
    expected = values.transpose(1, 2, 0)[::-1, ::-1, ::-1].astype(int) - 1024
    np.testing.assert_array_equal(whole(source)[0], expected)


def test_rescaling_of_each_slice(tmp_path: Path):
    values = stored_values(3, 4, 4)
    slopes = (0.5, 1.0, 0.25)
    for index, slope in enumerate(slopes):
        place = tmp_path / "pet" / f"{index}.dcm"
        write_slice(place, values[index], (0, 0, index), RescaleSlope=slope, RescaleIntercept=-200)
    meant = values * np.reshape(slopes, (3, 1, 1)) - 200
    got = whole(open_source(tmp_path / "pet", windows=[0, 1020]))[0]  # four steps make one grey
    np.testing.assert_array_equal(got, np.floor(np.clip(meant, 0, 1020)[:, ::-1, ::-1] / 4 + 0.5))


def test_signed_values_and_missing_rescaling(tmp_path: Path):
    values = RNG.integers(-100, 100, (2, 4, 4)).astype(np.int16)
    for index, one in enumerate(values):
        write_slice(tmp_path / f"m/{index}", one, (0, 0, index), RescaleSlope=None, RescaleIntercept=None)
    got = whole(open_source(tmp_path / "m", windows=[-100, 155]))[0]
    np.testing.assert_array_equal(got, values[:, ::-1, ::-1].astype(int) + 100)


def test_compressed_slices(tmp_path: Path):
    values = stored_values(3, 16, 16)
    folder = write_axial(tmp_path / "ct", values)
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.compress(pydicom.uid.RLELossless)
        data.save_as(path)
    np.testing.assert_array_equal(whole(open_source(folder, windows=[0, 255]))[0], canonical(values))


def test_converted_once_and_again_when_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = stored_values(3, 4, 4)
    folder = write_axial(tmp_path / "ct", values)
    source = open_source(folder, windows=[0, 255])
    before, identity = whole(source), source.identity
    assert len(list(unpacked_folder().glob("*.nii"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr("glimpse.sources.volume.dicom_series._pixels", lambda one: pytest.fail("converted a second time"))
        copy = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(whole(copy), before)
        assert copy.identity == identity
    write_slice(folder / "more.dcm", values[0], (-10, -20, -42.5))
    changed = open_source(folder, windows=[0, 255])
    assert changed.identity != identity
    assert changed.shape == (4, 4, 4)


def test_several_series_are_listed(tmp_path: Path):
    values = stored_values(3, 4, 4)
    write_axial(tmp_path / "ct", values)
    for index in range(2):
        write_slice(tmp_path / "ct" / f"b{index}", values[index] // 2, (0, 0, index), series="1.2.3.4.6")
    listed = r"series 5 \(number 5, 3 files, 1\.2\.3\.4\.5\), series 6 \(number 6, 2 files, 1\.2\.3\.4\.6\)"
    with pytest.raises(UnsupportedImageError, match=rf"it holds 2 series.*{listed}.* env\.cohort\.series=5, or"):
        open_source(tmp_path / "ct").check()
    for chosen in ("1.2.3.4.5", "series 5", 5):
        source = open_source(tmp_path / "ct", series=chosen, windows=[0, 255])
        np.testing.assert_array_equal(whole(source)[0], canonical(values))
    with pytest.raises(UnsupportedImageError, match="0 of its series are called 'other'"):
        open_source(tmp_path / "ct", series="other").check()


def at(*places: float) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for index, place in enumerate(places):
            write_slice(folder / f"{index}.dcm", stored_values(4, 4), (0, 0, place))

    return make


def odd_one(shape: tuple[int, int] = (4, 4), **tags: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_axial(folder, stored_values(3, 4, 4))
        write_slice(folder / "odd.dcm", stored_values(*shape), (-10, -20, -42.5), **tags)

    return make


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (at(0, 2, 4, 8, 10), ImageReadError, r"missing \(1\): 2\.dcm and 3\.dcm lie 4 mm apart, most others 2"),
        (at(0, 2, 4, 6.7, 9), UnsupportedImageError, r"even distances, but 2\.dcm and 3\.dcm lie 2\.7 mm apart"),
        (at(0, 2, 2, 4), UnsupportedImageError, r"1\.dcm and 2\.dcm lie at the same place.*echoes, phases"),
        (odd_one((4, 5)), UnsupportedImageError, "differ: 4 x 4 pixels.* and .*4 x 5 pixels|4 x 5 .* and 4 x 4"),
        (odd_one(PixelSpacing=[0.8, 0.5]), UnsupportedImageError, "one size, pixel spacing and direction"),
        (odd_one(ImageOrientationPatient=list(SAGITTAL)), UnsupportedImageError, "often a scout view"),
        (odd_one(ImagePositionPatient=None), UnsupportedImageError, r"odd\.dcm: .*ImagePositionPatient missing"),
        (odd_one(NumberOfFrames=2), UnsupportedImageError, r"odd\.dcm: expected one grey slice.*dcm2niix"),
    ],
)
def test_what_is_no_volume_says_why(tmp_path: Path, make: Callable, error: type, message: str):
    make(tmp_path / "ct")
    with pytest.raises(error, match=message):
        open_source(tmp_path / "ct").check()
    assert not list(unpacked_folder().glob("*.nii"))


def test_positions_may_be_rounded(tmp_path: Path):
    at(0, 0.33, 0.67, 1.0, 1.33)(tmp_path / "ct")
    np.testing.assert_allclose(open_source(tmp_path / "ct").spacing[0], 1.33 / 4)


def test_a_truncated_slice_names_its_file(tmp_path: Path):
    folder = write_axial(tmp_path / "ct", stored_values(3, 64, 64))
    path = folder / "001.dcm"
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(ImageReadError, match=r"001\.dcm: cannot be read .*truncated or damaged.*on_error=skip"):
        open_source(folder).check()


def test_one_slice_is_as_thick_as_it_says(tmp_path: Path):
    write_slice(tmp_path / "ct" / "a.dcm", stored_values(4, 5), (0, 0, 0))
    assert open_source(tmp_path / "ct").spacing == (9.0, 0.75, 0.5)
    write_slice(tmp_path / "b" / "a.dcm", stored_values(4, 5), (0, 0, 0), SliceThickness=None)
    with pytest.raises(UnsupportedImageError, match="one slice without SliceThickness"):
        open_source(tmp_path / "b").check()


def test_a_folder_without_dicom_is_unsupported(tmp_path: Path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UnsupportedImageError, match="a folder"):
        open_source(tmp_path)
    with pytest.raises(UnsupportedImageError, match="a folder without DICOM files"):
        VolumeSource(tmp_path).check()
    with pytest.raises(ImageReadError, match="no such file"):
        _ = VolumeSource(tmp_path / "nowhere").identity


def test_slices_without_preamble_are_slices(tmp_path: Path):
    """All of them, or some among others: none is dropped."""
    values = stored_values(6, 5, 4)
    for bare in (range(6), (4, 5)):
        folder = write_axial(tmp_path / f"ct{len(bare)}", values)
        for index, path in enumerate(sorted(folder.iterdir())):
            if index in bare:
                data = pydicom.dcmread(path)
                plain = pydicom.dataset.Dataset({element.tag: element for element in data})
                pydicom.dcmwrite(path, plain, implicit_vr=index % 2 == 0, little_endian=True)
                assert path.read_bytes()[128:132] != b"DICM"
        source = open_source(folder, windows=[0, 255])
        assert source.shape == (6, 5, 4)
        np.testing.assert_array_equal(whole(source)[0], canonical(values))


def test_what_begins_as_dicom_does():
    assert begins_as_dicom(bytes(128) + b"DICM")
    assert begins_as_dicom(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + bytes(120))
    assert begins_as_dicom(b"\x08\x00\x00\x00\x04\x00\x00\x00\x10\x01\x00\x00" + bytes(120))
    for other in (b"", b"\x08\x00", bytes(132), b"\x89PNG\r\n\x1a\n" + bytes(124), b"\x08\x00" + b"text" * 40):
        assert not begins_as_dicom(other)


def test_slices_in_subfolders(tmp_path: Path):
    values = stored_values(5, 4, 4)
    for index, one in enumerate(values):
        part = tmp_path / "case" / "study" / ("a" if index < 3 else "b")
        write_slice(part / f"{index}.dcm", one, (0, 0, 3 * index))
    source = open_source(tmp_path / "case", windows=[0, 255])
    np.testing.assert_array_equal(whole(source)[0], canonical(values))
    identity = source.identity
    write_slice(tmp_path / "case" / "study" / "b" / "5.dcm", values[0], (0, 0, 15))
    assert open_source(tmp_path / "case").identity != identity, "a change in a subfolder is a change"
    assert open_source(tmp_path / "case").shape == (6, 4, 4)


def test_the_series_that_a_message_names_can_be_typed(tmp_path: Path):
    values = stored_values(3, 4, 4)
    write_axial(tmp_path / "ct", values, SeriesDescription="AXIAL", SeriesNumber=None)
    write_slice(tmp_path / "ct" / "s", values[0], (0, 0, 0), series="1.2.3.4.6", SeriesDescription="SCOUT")
    with pytest.raises(UnsupportedImageError, match=r"such as env\.cohort\.series=AXIAL, or in a column 'series'"):
        open_source(tmp_path / "ct").check()
    # Hydra reads none of these as the same text, and both series have this number; the UID can be typed.
    for description in ("two words", "1e3", "1.10", "1_0", "true", "Sch\u00e4del", "a~b"):
        for path in (tmp_path / "ct").iterdir():
            data = pydicom.dcmread(path)
            data.SpecificCharacterSet = "ISO_IR 100"
            data.SeriesDescription = "SCOUT" if path.name == "s" else description
            data.SeriesNumber = 7
            data.save_as(path)
        with pytest.raises(UnsupportedImageError, match=r"such as env\.cohort\.series=1\.2\.3\.4\.5, or"):
            open_source(tmp_path / "ct").check()


def test_reports_and_tables_of_contents_are_no_slices(tmp_path: Path):
    values = stored_values(3, 4, 4)
    folder = write_axial(tmp_path / "ct", values)
    report = pydicom.dcmread(next(folder.iterdir()))
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"  # basic text SR
    report.SeriesInstanceUID = "1.2.3.4.9"
    for name in ("Rows", "Columns", "PixelData", "BitsAllocated"):
        delattr(report, name)
    report.save_as(folder / "report.dcm")
    np.testing.assert_array_equal(whole(open_source(folder, windows=[0, 255]))[0], canonical(values))


@pytest.mark.parametrize("content", [b"", bytes(5000)])
def test_a_slice_whose_content_is_lost_is_not_dropped(tmp_path: Path, content: bytes):
    folder = write_axial(tmp_path / "ct", stored_values(4, 4, 4))
    (folder / "003.dcm").write_bytes(content)
    with pytest.raises(ImageReadError, match=r"003\.dcm: cannot be read .*its content is not"):
        open_source(folder).check()


def test_a_slice_that_cannot_be_decoded_names_its_file(tmp_path: Path):
    folder = write_axial(tmp_path / "ct", stored_values(3, 16, 16))
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.compress(pydicom.uid.RLELossless)
        data.save_as(path)
    data = pydicom.dcmread(folder / "001.dcm")
    data.PixelData = pydicom.encaps.encapsulate([b"\xff" * 80])
    data["PixelData"].VR = "OB"
    data.save_as(folder / "001.dcm")
    with pytest.raises(ImageReadError, match=r"001\.dcm: cannot be read .*damaged.*on_error=skip"):
        open_source(folder).check()


@pytest.mark.parametrize("spacing", [[0, 0], [-1, 1]])
def test_a_spacing_that_cannot_be_is_refused(tmp_path: Path, spacing: list[float]):
    write_axial(tmp_path / "ct", stored_values(3, 4, 4), PixelSpacing=spacing)
    with pytest.raises(UnsupportedImageError, match=r"\.dcm: expected PixelSpacing as two lengths above 0"):
        open_source(tmp_path / "ct").check()


def test_without_pydicom_the_message_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_axial(tmp_path / "ct", stored_values(2, 4, 4))

    def missing(name: str) -> object:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(dicom, "import_module", missing)
    with pytest.raises(dicom.MissingExtraError, match=r"glimpse-rl\[dicom\]"):
        open_source(folder).check()


def test_a_series_is_staged_with_all_of_its_files(tmp_path: Path):
    folder, stage = write_axial(tmp_path / "ct", stored_values(4, 6, 5)), tmp_path / "stage"
    write_slice(folder / "other" / "x.dcm", stored_values(6, 5), (0, 0, 0), series="1.2.3.4.6")
    original, staged = (open_source(folder, series=FEET_FIRST, **extra) for extra in ({}, {"stage": stage}))
    assert np.array_equal(whole(original), whole(staged)) and staged.grid == original.grid
    assert len(list(stage.glob("[!.]*/ct/*.dcm"))) == 4 and len(list(stage.glob("[!.]*/ct/other/x.dcm"))) == 1


def test_the_files_of_a_slide_are_those_of_its_series(tmp_path: Path):
    for i, series in enumerate("556"):
        write_slice(tmp_path / f"{i}.dcm", stored_values(6, 5), (0, 0, i), series=f"1.2.3.4.{series}")
    (tmp_path / "notes.txt").write_text("none")
    assert dicom_files(tmp_path / "1.dcm") == [tmp_path / "0.dcm", tmp_path / "1.dcm"]
    assert SlideSource(tmp_path / "2.dcm").files == [tmp_path / "2.dcm"] and dicom_files(tmp_path / "notes.txt") is None
