"""Photographs in DICOM files: pydicom's own test files, and what pydicom itself makes of them."""

import warnings
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from glimpse.errors import UserError
from glimpse.sources import ImageReadError, PhotoSource, RadiographSource, UnsupportedImageError, open_source
from tests.photo_files import colours, whole
from tests.radiograph_files import dataset, save, values

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's own, about its damaged test files


@cache
def coloured() -> dict[str, Path]:
    """The coloured test files of pydicom and of pydicom-data; asking pydicom for them would fetch others."""
    found, folders = {}, [Path(pydicom.__file__).parent / "data" / "test_files"]
    more = find_spec("data_store")  # the module of pydicom-data
    if more is not None:
        folders += [Path(place) / "data" for place in more.submodule_search_locations or ()]
    for path in (path for folder in folders for path in sorted(folder.glob("*.dcm"))):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        except Exception:
            continue
        if data.get("SamplesPerPixel", 1) == 3 or data.get("PhotometricInterpretation") == "PALETTE COLOR":
            found[path.name if path.name not in found else f"{path.parent.name}/{path.name}"] = path
    return found


def as_pydicom_reads(path: Path, frame: int) -> np.ndarray:
    data = pydicom.dcmread(path, force=True)
    data.file_meta.setdefault("TransferSyntaxUID", ImplicitVRLittleEndian)  # of old files, which do not begin as DICOM
    pixels = pixel_array(data, index=frame)
    if data.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, data)
        words = not data.original_encoding[1] and "RedPaletteColorLookupTableData" in data
        pixels = pixels.byteswap() if words and pixels.itemsize == 2 else pixels  # in the order of this machine
    return (pixels >> (8 * pixels.itemsize - 8)).astype(np.uint8)


def test_there_are_test_files_of_every_kind() -> None:
    kinds = {str(pydicom.dcmread(path, force=True).PhotometricInterpretation) for path in coloured().values()}
    assert kinds >= {"RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR"} and len(coloured()) > 30
    pytest.importorskip("data_store", reason="pydicom-data is not installed")
    assert {"US1_J2KI.dcm", "color3d_jpeg_baseline.dcm", "gdcm-US-ALOKA-16_big.dcm", "OT-PAL-8-face.dcm"} <= set(
        coloured()
    )


@pytest.mark.parametrize("name", coloured())
def test_every_coloured_test_file_is_read_as_pydicom_reads_it(name: str) -> None:
    path = coloured()[name]
    frames = int(pydicom.dcmread(path, force=True).get("NumberOfFrames") or 1)
    if frames > 1:
        with pytest.raises(UnsupportedImageError, match=rf"it holds {frames} frames, a case is one"):
            PhotoSource(path).check()
    for frame in {0, frames - 1}:
        source = open_source(path, frame=frame)
        assert isinstance(source, PhotoSource)
        np.testing.assert_array_equal(whole(source), as_pydicom_reads(path, frame))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gdcm-US-ALOKA-16", "gdcm-US-ALOKA-16_big"),  # a palette, in either order of bytes
        ("US1_UNCR", "US1_J2KR"),
        ("US1_UNCI", "US1_J2KI"),
        ("color-pl", "color-px"),  # colour by colour, and pixel by pixel
        ("SC_rgb", "SC_rgb_16bit"),
        ("SC_rgb", "SC_rgb_32bit"),
        ("SC_rgb", "SC_rgb_expb_32bit"),
        ("OBXXXX1A", "OBXXXX1A_expb"),
    ],
)
def test_one_image_in_two_forms_is_read_alike(one: str, other: str) -> None:
    pytest.importorskip("data_store", reason="pydicom-data is not installed")
    first, second = (whole(open_source(coloured()[f"{name}.dcm"], reader="photo")) for name in (one, other))
    np.testing.assert_array_equal(first, second)
    assert np.ptp(first, axis=2).max() > 100 and np.ptp(first) > 200


def photo(pixels: np.ndarray, planar: int = 0, **elements: object) -> pydicom.Dataset:
    """An RGB image (height, width, 3), stored pixel by pixel or colour by colour."""
    data = dataset(pixels[..., 0])
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", planar
    data.PixelData = (pixels.transpose(2, 0, 1) if planar else pixels).tobytes()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    return data


@pytest.mark.parametrize("planar", [0, 1])
def test_both_planar_configurations(tmp_path: Path, planar: int) -> None:
    path = save(photo(colours(), planar, PixelSpacing=[0.2, 0.1]), tmp_path / "a.dcm")
    source = PhotoSource(path)
    np.testing.assert_array_equal(whole(source), colours())
    assert (source.spacing, source.unit) == ((0.2, 0.1), "mm")


def test_ultrasound_states_its_spacing_by_regions(tmp_path: Path) -> None:
    region = pydicom.Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, 0.03
    other = deepcopy(region)
    data = photo(colours(), SequenceOfUltrasoundRegions=[region, other])
    assert PhotoSource(save(data, tmp_path / "a.dcm")).spacing == pytest.approx((0.3, 0.2))
    other.PhysicalDeltaX = 0.01
    assert PhotoSource(save(data, tmp_path / "b.dcm")).spacing is None, "regions that differ"


def test_greys_are_shown_through_their_window_in_three_equal_channels(tmp_path: Path) -> None:
    path = save(dataset(values(), WindowCenter=1000, WindowWidth=1500, PixelSpacing=[1, 2]), tmp_path / "a.dcm")
    source = open_source(path, reader="photo")
    assert source.spacing == (1, 2) and source.channels == 3
    grey = RadiographSource(path).read((20, 28), (40, 56), (40, 56))
    np.testing.assert_array_equal(whole(source), np.repeat(grey.transpose(1, 2, 0), 3, 2))
    assert isinstance(open_source(path), RadiographSource), "unless somebody says that it is a photograph"


def test_files_with_something_wrong_say_what(tmp_path: Path) -> None:
    path = save(photo(colours()), tmp_path / "cut.dcm")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ImageReadError, match=r"cut\.dcm: cannot be read \(its pixels reach to byte"):
        PhotoSource(path).check()
    huge = photo(colours())
    huge.compress(RLELossless)
    huge.Rows = huge.Columns = 65_000
    with pytest.raises(UnsupportedImageError, match=r"huge\.dcm: .*too large \(65000 x 65000 pixels"):
        PhotoSource(save(huge, tmp_path / "huge.dcm")).check()
    odd = photo(colours(), PhotometricInterpretation="HSV")
    with pytest.raises(UnsupportedImageError, match=r"odd\.dcm: .*stored as HSV.*Export it again"):
        PhotoSource(save(odd, tmp_path / "odd.dcm")).check()
    lacking = photo(colours(), PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(UserError, match=r"lacking\.dcm: .*palette is missing or damaged"):
        PhotoSource(save(lacking, tmp_path / "lacking.dcm")).check()
    with pytest.raises(UnsupportedImageError, match=r"coloured.*env=photo"):
        open_source(save(photo(colours()), tmp_path / "a.dcm"), reader="radiograph").check()
