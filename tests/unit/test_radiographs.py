"""Radiographs as sources: the values of DICOM's own pipeline, pictures at full depth, and errors that help."""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

import glimpse.sources.dicom as dicom_module
import glimpse.sources.pictures.plane as plane
import glimpse.sources.radiograph.source as radiograph_module
from glimpse.sources import ImageReadError, RadiographSource, UnsupportedImageError, open_source
from glimpse.sources.caches import ByteCache
from glimpse.sources.dicom import MissingExtraError
from tests.radiograph_files import dataset, lut, pipeline, save, values, whole


# ---------------------------------------------------------------------------------------------- a real radiograph
def test_real_radiograph_agrees_with_the_pipeline_of_pydicom(shared_data: Path):
    path = shared_data / "real" / "chest_rg1.dcm"
    if not path.is_file():
        pytest.skip(f"the real radiograph {path.name} is not on this machine")
    source = open_source(path)
    assert isinstance(source, RadiographSource)
    source.check()
    assert (source.shape, source.channels, source.spacing) == ((1955, 1841), 1, None), "its spacing is stated as 0"
    assert open_source(path, mpp=200).spacing == (0.2, 0.2)
    expected, rng = pipeline(path), np.random.default_rng(0)
    for row, column in zip(rng.integers(0, 1955, 20), rng.integers(0, 1841, 20), strict=True):
        found = source.read((row + 0.5, column + 0.5), 1, (1, 1))
        assert abs(float(found[0, 0, 0]) - expected[row, column]) <= 0.51
    np.testing.assert_allclose(source.read((1000, 900), 64, (64, 64))[0], expected[968:1032, 868:932], atol=0.51)
    overview = source.overview((256, 256))
    assert overview[0, 150:, 118:138].mean() > 180 > 150 > overview[0, 55:75, 60:80].mean(), "bone white, lung dark"
    body = source.foreground(overview)
    assert 0.9 < body.mean() < 0.99
    assert not body[20, :3].any() and body[40:200, 30:220].all(), "air beside the neck, but the lungs belong to it"


# ---------------------------------------------------------------------------------------------- DICOM, rule by rule
WINDOWED = {"WindowCenter": 2000, "WindowWidth": 1500}
RESCALED = {"RescaleSlope": "2.5", "RescaleIntercept": "-1000", "WindowCenter": 3000, "WindowWidth": 4000}
RULES: dict[str, Callable[[], Dataset]] = {
    "monochrome2": lambda: dataset(values(), **WINDOWED),
    "monochrome1": lambda: dataset(values(), PhotometricInterpretation="MONOCHROME1", **WINDOWED),
    "implicit": lambda: dataset(values(), ImplicitVRLittleEndian, **WINDOWED),
    "linear_exact": lambda: dataset(values(), VOILUTFunction="LINEAR_EXACT", **WINDOWED),
    "sigmoid": lambda: dataset(values(), VOILUTFunction="SIGMOID", **WINDOWED),
    "rescaled": lambda: dataset(values(), **RESCALED),
    "two_windows": lambda: dataset(values(), WindowCenter=[1000, 3000], WindowWidth=[500, 900]),
    "signed": lambda: dataset((values().astype(np.int16) - 2048), WindowCenter=-100, WindowWidth=900),
    "eight_bits": lambda: dataset((values() >> 4).astype(np.uint8), WindowCenter=120, WindowWidth=100),
    "narrowest": lambda: dataset(values(), WindowCenter=2000, WindowWidth=1),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # pydicom divides by the width of the narrowest window less one
@pytest.mark.parametrize("rule", RULES)
def test_values_are_those_of_pydicom(tmp_path: Path, rule: str):
    path = save(RULES[rule](), tmp_path / "a.dcm")
    source = open_source(path)
    assert isinstance(source, RadiographSource)
    source.check()
    np.testing.assert_allclose(whole(source), pipeline(path), atol=0.51)
    assert not plane.images._arrays, "what is not compressed is mapped, not decoded"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch) -> ByteCache:
    cache = ByteCache(1 << 20)
    monkeypatch.setattr(plane, "images", cache)
    return cache


def test_big_endian_is_mapped(tmp_path: Path):
    pixels = values()
    data = dataset(pixels, ExplicitVRBigEndian, **WINDOWED)
    path = tmp_path / "big.dcm"
    data.save_as(path, implicit_vr=False, little_endian=False, enforce_file_format=True)
    little = save(dataset(pixels, **WINDOWED), tmp_path / "little.dcm")
    np.testing.assert_array_equal(whole(RadiographSource(path)), whole(RadiographSource(little)))


def test_files_without_the_header_of_a_file_are_read(tmp_path: Path):
    data = dataset(values(), ImplicitVRLittleEndian, **WINDOWED)
    expected = whole(open_source(save(data, tmp_path / "new.dcm")))
    del data.file_meta
    data.save_as(tmp_path / "old.dcm", implicit_vr=True, little_endian=True)
    assert b"DICM" not in (tmp_path / "old.dcm").read_bytes()[:132]
    np.testing.assert_array_equal(whole(open_source(tmp_path / "old.dcm")), expected)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_files_without_a_transfer_syntax_are_read_as_they_were_written(tmp_path: Path, syntax: pydicom.uid.UID):
    data = dataset(values(), syntax, **WINDOWED)
    expected = whole(RadiographSource(save(dataset(values(), **WINDOWED), tmp_path / "new.dcm")))
    del data.file_meta
    data.save_as(tmp_path / "old.dcm", implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    np.testing.assert_array_equal(whole(RadiographSource(tmp_path / "old.dcm")), expected)


def test_windows_are_chosen_by_index_or_by_their_ends(tmp_path: Path):
    path = save(RULES["two_windows"](), tmp_path / "a.dcm")
    np.testing.assert_allclose(whole(RadiographSource(path, window=1)), pipeline(path, 1), atol=0.51)
    pixels = pydicom.dcmread(path).pixel_array
    expected = np.clip((pixels - 500.0) / 1000, 0, 1) * 255
    np.testing.assert_allclose(whole(RadiographSource(path, window=(500, 1500))), expected, atol=0.51)
    with pytest.raises(ValueError, match=r"a\.dcm: window=2, but the file states 2, numbered from 0"):
        RadiographSource(path, window=2).check()
    with pytest.raises(ValueError, match=r"expected an index, or two values"):
        RadiographSource(path, window=(1, 2, 3)).check()
    assert len({RadiographSource(path, window=w).identity for w in (None, 0, 1, (500, 1500))}) == 4


def test_tables(tmp_path: Path):
    """A modality table and a VOI table, one after the other, as pydicom applies them; the VOI table comes first."""
    curve = [int(65535 * (i / 4095) ** 0.5) for i in range(4096)]
    steps = [min(i // 4, 4095) for i in range(30000)]
    tables = {"ModalityLUTSequence": [lut(0, curve)], "VOILUTSequence": [lut(0, steps, 12)]}
    data = dataset(values(), **tables, **WINDOWED)
    path = save(data, tmp_path / "a.dcm")
    shown = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data).astype(float)
    np.testing.assert_allclose(whole(open_source(path)), 255 * shown / 4095, atol=0.51)
    windowed = RadiographSource(path, window=1)
    mapped = apply_modality_lut(data.pixel_array, data)
    np.testing.assert_allclose(whole(windowed), np.clip((mapped - 1250.5) / 1499 + 0.0, 0, 1) * 255, atol=0.6)


def test_tables_of_signed_pixels_and_of_bytes(tmp_path: Path):
    pixels = values().astype(np.int16) - 2048
    entries = list(range(0, 4000, 4))
    path = save(dataset(pixels, VOILUTSequence=[lut(-500, entries, 12)]), tmp_path / "signed.dcm")
    expected = np.clip(pixels + 500, 0, 999) / 999 * 255
    np.testing.assert_allclose(whole(open_source(path)), expected, atol=0.51)
    packed = Dataset()
    packed.add_new("LUTDescriptor", "US", [256, 0, 8])
    packed.add_new("LUTData", "OW", bytes(range(255, -1, -1)))
    path = save(dataset((values() >> 4).astype(np.uint8), VOILUTSequence=[packed]), tmp_path / "bytes.dcm")
    np.testing.assert_array_equal(whole(open_source(path)), 255 - (values() >> 4))


def test_presentation_inverse_is_one_inversion_also_of_monochrome1(tmp_path: Path):
    plain = whole(open_source(save(dataset(values(), **WINDOWED), tmp_path / "plain.dcm"))).astype(int)
    for index, elements in enumerate(
        (
            {"PresentationLUTShape": "INVERSE"},
            {"PresentationLUTShape": "INVERSE", "PhotometricInterpretation": "MONOCHROME1"},
            {"PhotometricInterpretation": "MONOCHROME1"},
        )
    ):
        found = whole(open_source(save(dataset(values(), **WINDOWED, **elements), tmp_path / f"{index}.dcm")))
        assert np.abs(255 - plain - found).max() <= 1


def test_bits_that_do_not_count_are_ignored(tmp_path: Path):
    pixels = values()
    clean = whole(open_source(save(dataset(pixels, **WINDOWED), tmp_path / "clean.dcm")))
    overlay = pixels | (values(seed=1) << 12)
    np.testing.assert_array_equal(whole(open_source(save(dataset(overlay, **WINDOWED), tmp_path / "a.dcm"))), clean)
    shifted = dataset(pixels << 4, HighBit=15, **WINDOWED)
    np.testing.assert_array_equal(whole(open_source(save(shifted, tmp_path / "b.dcm"))), clean)
    signed = dataset((pixels & 0x0FFF).view(np.int16), BitsStored=12, WindowCenter=0, WindowWidth=4000)
    meant = np.where(pixels > 2047, pixels.astype(int) - 4096, pixels)
    expected = np.clip((meant + 2000) / 3999, 0, 1) * 255
    np.testing.assert_allclose(whole(open_source(save(signed, tmp_path / "c.dcm"))), expected, atol=0.51)


def test_an_automatic_window_leaves_padding_out(tmp_path: Path):
    pixels = values(top=500) + 1000
    pixels[:, :40] = 4000
    pixels[:, 0] = 4095
    plain = RadiographSource(save(dataset(pixels), tmp_path / "plain.dcm"))
    assert whole(plain)[:, 45:].max() < 60, "without knowing of the padding everything else is dark"
    padded = dataset(pixels, PixelPaddingValue=4000, PixelPaddingRangeLimit=4095)
    found = whole(RadiographSource(save(padded, tmp_path / "padded.dcm")))
    assert found[:, 45:].min() == 0 and found[:, 45:].max() == 255


def test_spacing_is_the_first_that_makes_sense(tmp_path: Path):
    def spacing(**elements: object) -> tuple[float, ...] | None:
        return open_source(save(dataset(values(), **elements), tmp_path / "a.dcm")).spacing

    everything = {
        "PixelSpacing": [0.15, 0.14],
        "ImagerPixelSpacing": [0.2, 0.2],
        "NominalScannedPixelSpacing": [0.3, 0.3],
    }
    assert spacing(**everything) == (0.15, 0.14)
    assert spacing(**everything | {"PixelSpacing": [0, 0]}) == (0.2, 0.2)
    assert spacing(NominalScannedPixelSpacing=[0.3, 0.3]) == (0.3, 0.3)
    assert spacing() is None
    source = RadiographSource(save(dataset(values(), **everything), tmp_path / "a.dcm"), spacing=0.5)
    assert (source.spacing, source.unit) == ((0.5, 0.5), "mm")


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=["rle", "jpeg2000"])
def test_compressed_pixels_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str):
    data = dataset(values(), **WINDOWED)
    plain = whole(open_source(save(data, tmp_path / "plain.dcm")))
    data.compress(syntax, encoding_plugin="pydicom" if syntax == RLELossless else "", generate_instance_uid=False)
    path = save(data, tmp_path / "packed.dcm")
    source, calls = open_source(path), []
    decode = radiograph_module.dicom_files.decode
    monkeypatch.setattr(radiograph_module.dicom_files, "decode", lambda *given: calls.append(1) or decode(*given))
    source.check()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: whole(source), range(16)))
    assert all(np.array_equal(one, plain) for one in found)
    assert len(calls) == 1
    content = path.read_bytes()
    for kept in (len(content) // 2, len(content) - 700, 700, 150):
        (tmp_path / "cut.dcm").write_bytes(content[:kept])
        with pytest.raises((ImageReadError, UnsupportedImageError), match=r"cut\.dcm: "):
            open_source(tmp_path / "cut.dcm").check()


def test_frames_have_to_be_chosen(tmp_path: Path):
    pixels = np.stack([values(seed=0), values(seed=1)])
    path = save(dataset(pixels, **WINDOWED), tmp_path / "two.dcm")
    with pytest.raises(UnsupportedImageError, match=r"two\.dcm: it holds 2 frames.* 0 to 1, with env\.cohort\.frame=0"):
        open_source(path).check()
    second = save(dataset(pixels[1], **WINDOWED), tmp_path / "second.dcm")
    np.testing.assert_array_equal(whole(RadiographSource(path, frame=1)), whole(RadiographSource(second)))
    with pytest.raises(UnsupportedImageError, match="frame=2, but it holds 2 frames"):
        RadiographSource(path, frame=2).check()


def with_palette(indices: np.ndarray, first: int, *tables: np.ndarray) -> Dataset:
    """A DICOM file of indices into a palette of red, green and blue."""
    data = dataset(indices, PhotometricInterpretation="PALETTE COLOR")
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        descriptor = [len(table), first, 8 * table.dtype.itemsize]
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", descriptor)
        setattr(data, f"{name}PaletteColorLookupTableData", table.tobytes())
    return data


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_of_greys_is_applied(tmp_path: Path, bits: int):
    indices = values(top=256).astype(np.uint8)
    greys = (255 - np.arange(256)).astype(np.uint8)  # the palette turns white into black
    table = greys if bits == 8 else greys.astype("<u2") * 257
    source = open_source(save(with_palette(indices, 0, table, table, table), tmp_path / "a.dcm"))
    np.testing.assert_array_equal(whole(source), 255 - indices)
    table = greys[:100]
    source = open_source(save(with_palette(indices, 50, table, table, table), tmp_path / "b.dcm"))
    np.testing.assert_array_equal(whole(source), greys[np.clip(indices.astype(int) - 50, 0, 99)])


def test_a_palette_of_colours_is_refused(tmp_path: Path):
    indices, table = values(top=256).astype(np.uint8), np.arange(256).astype(np.uint8)
    blue = table.copy()
    blue[200] += 1
    path = save(with_palette(indices, 0, table, table, blue), tmp_path / "a.dcm")
    with pytest.raises(UnsupportedImageError, match=r"a\.dcm: it is coloured \(its palette has colours\).*convert it"):
        open_source(path, reader="radiograph").check()
    path = save(dataset(indices, PhotometricInterpretation="PALETTE COLOR"), tmp_path / "b.dcm")
    with pytest.raises(ImageReadError, match=r"b\.dcm: cannot be read \(its palette is missing"):
        open_source(path).check()


def test_what_is_no_grey_image_says_what_it_is(tmp_path: Path):
    report = dataset(values(), SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(report, keyword)
    with pytest.raises(UnsupportedImageError, match=r"a\.dcm: .*holds no image \(SOP class: Basic Text SR Storage\)"):
        open_source(save(report, tmp_path / "a.dcm")).check()
    slide = dataset(values(), SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6")
    assert not radiograph_module.is_radiograph(save(slide, tmp_path / "c.dcm"))


def test_truncated_dicom_is_found_out_before_it_is_read(tmp_path: Path):
    content = save(dataset(values(400, 500), **WINDOWED), tmp_path / "whole.dcm").read_bytes()
    for kept in (len(content) // 2, len(content) - 1, 600, 400, 140, 0):
        path = tmp_path / f"cut_{kept}.dcm"
        path.write_bytes(content[:kept])
        with pytest.raises((ImageReadError, UnsupportedImageError), match=rf"{path.name}: "):
            open_source(path).check()
    with pytest.raises(ImageReadError, match=r"cut_200.*: cannot be read .*reach to byte.*Copy the file again"):
        open_source(tmp_path / f"cut_{len(content) // 2}.dcm").check()
    with pytest.raises(ImageReadError, match="no such file"):
        RadiographSource(tmp_path / "absent.dcm").check()


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = dataset(values(), **WINDOWED)
    data.compress(JPEG2000Lossless, generate_instance_uid=False)
    path = save(data, tmp_path / "a.dcm")
    decoder = pydicom.pixels.get_decoder(JPEG2000Lossless)
    with monkeypatch.context() as patch:
        patch.setattr(type(decoder), "is_available", False)
        with pytest.raises(MissingExtraError, match=r'a\.dcm: JPEG 2000.*pip install "glimpse-rl\[dicom\]"'):
            open_source(path).check()

    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(dicom_module, "import_module", absent)
    with pytest.raises(MissingExtraError, match=r"No module named 'pydicom'.*glimpse-rl\[dicom\]"):
        open_source(path).check()


def test_a_source_pickles_as_its_path_and_options(tmp_path: Path):
    source = open_source(save(RULES["two_windows"](), tmp_path / "a.dcm"), window=1, spacing=0.1, name="mine")
    again = pickle.loads(pickle.dumps(source))
    assert (again.identity, again.spacing, again.name) == (source.identity, (0.1, 0.1), "mine")
    np.testing.assert_array_equal(whole(again), whole(source))


def test_reads_are_means_of_values_before_the_window(tmp_path: Path):
    """A pixel that the window cuts off still counts with what it is: (0 + 4000) / 2 is grey, not half of white."""
    pixels = np.tile(np.array([[0, 4000], [4000, 0]], np.uint16), (20, 20))
    source = open_source(save(dataset(pixels, WindowCenter=1500.5, WindowWidth=2001), tmp_path / "a.dcm"))
    assert (source.read((20, 20), 40, (20, 20)) == round(255 * (2000 - 500) / 2000)).all()
    outside = source.read((0, 0), 4, (4, 4))[0]
    assert not outside[:2].any() and not outside[:, :2].any() and outside[2:, 2:].any()


# ---------------------------------------------------------------------------------------------- the body
def test_body_is_neither_air_nor_collimator():
    grey = np.full((64, 64), 5, np.uint8)
    grey[8:60, 6:58] = 160
    grey[20:40, 12:28] = grey[20:40, 36:52] = 8  # lungs
    expected = np.zeros((64, 64), bool)
    expected[8:60, 6:58] = True
    source = RadiographSource("never_opened.dcm")
    np.testing.assert_array_equal(source.foreground(grey[None]), expected)
    np.testing.assert_array_equal(source.foreground(255 - grey[None]), expected)
    for blank in (0, 100, 255):
        assert source.foreground(np.full((1, 16, 16), blank, np.uint8)).all()
