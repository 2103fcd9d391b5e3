"""Radiographs as PNG, TIFF and JPEG: full depth until the window, and clear words where that cannot be."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

import glimpse.sources.pictures.plane as plane
from glimpse.sources import ImageReadError, RadiographSource, SlideSource, UnsupportedImageError, open_source
from glimpse.sources.caches import ByteCache
from glimpse.sources.pictures.orientation import upright
from tests.radiograph_files import values, whole


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch) -> ByteCache:
    cache = ByteCache(1 << 20)
    monkeypatch.setattr(plane, "images", cache)
    return cache


def ramp() -> np.ndarray:
    return (np.arange(2000, dtype=np.uint16).reshape(40, 50) * 32 + 7)[:, ::-1].copy()


@pytest.mark.parametrize("kind", ["png", "tif", "packed.tif", "deflated.tif"])
def test_sixteen_bits_are_kept_until_the_window(tmp_path: Path, kind: str):
    pixels, path = ramp(), tmp_path / f"a.{kind}"
    if kind == "png":
        Image.fromarray(pixels).save(path)
    elif kind == "packed.tif":
        Image.fromarray(pixels).save(path, compression="tiff_lzw")
    else:
        tifffile.imwrite(path, pixels, compression="zlib" if kind == "deflated.tif" else None)
    for low in (100, 20000, 60000):  # windows so narrow that single values of 16 bits are told apart
        source = open_source(path, window=(low, low + 255))
        assert isinstance(source, RadiographSource)
        np.testing.assert_array_equal(whole(source), np.clip(pixels.astype(int) - low, 0, 255))
    shown = whole(open_source(path))
    assert shown.min() == 0 and shown.max() == 255, "by default the window comes from percentiles"


def test_tiff_of_floats_and_white_zero(tmp_path: Path):
    floats = ramp().astype(np.float32) / 65536 - 0.5
    tifffile.imwrite(tmp_path / "f.tif", floats, resolution=(100, 50), resolutionunit="CENTIMETER")
    source = open_source(tmp_path / "f.tif", window=(-0.5, 0.5))
    assert source.spacing == (0.2, 0.1) and source.unit == "mm"
    np.testing.assert_allclose(whole(source), np.clip(floats + 0.5, 0, 1) * 255, atol=0.51)
    grey = (ramp() >> 8).astype(np.uint8)
    tifffile.imwrite(tmp_path / "w.tif", grey, photometric="miniswhite")
    np.testing.assert_array_equal(whole(open_source(tmp_path / "w.tif")), 255 - grey)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("window", [None, (0, 1)])
def test_a_pixel_that_is_missing_changes_no_other(tmp_path: Path, missing: float, window: tuple[int, int] | None):
    floats = np.tile(np.linspace(0.1, 0.9, 280, dtype=np.float32), (300, 1))
    views = []
    for name in ("whole", "missing"):
        tifffile.imwrite(tmp_path / f"{name}.tif", floats)
        source = open_source(tmp_path / f"{name}.tif", **({} if window is None else {"window": window}))
        views.append(np.concatenate([source.overview(size)[0].ravel().astype(int) for size in ((64, 64), (75, 70))]))
        floats[120, 100] = missing
    assert views[0].std() > 20 and np.abs(views[0] - views[1]).max() <= 1
    assert whole(source)[120, 100] == 0


def test_eight_bits_are_shown_as_they_are(tmp_path: Path):
    grey = (ramp() >> 8).astype(np.uint8)
    for index, picture in enumerate((grey, np.stack([grey] * 3, -1), np.stack([grey] * 3 + [grey * 0 + 255], -1))):
        Image.fromarray(picture).save(tmp_path / f"{index}.png", dpi=(254, 127))
        source = open_source(tmp_path / f"{index}.png")
        np.testing.assert_array_equal(whole(source), grey)
        np.testing.assert_allclose(source.spacing, (0.2, 0.1), rtol=1e-3)
    Image.fromarray(grey).save(tmp_path / "a.jpg", quality=98, dpi=(72, 72))
    source = open_source(tmp_path / "a.jpg")
    assert source.spacing is None, "72 dpi says only that nobody knew"
    assert np.abs(whole(source).astype(int) - grey).max() <= 6
    tifffile.imwrite(tmp_path / "rgb.tif", np.stack([grey] * 3, -1), photometric="rgb")
    np.testing.assert_array_equal(whole(open_source(tmp_path / "rgb.tif")), grey)


def test_coloured_pictures_are_refused(tmp_path: Path):
    colours = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(colours).save(tmp_path / name)
        with pytest.raises(UnsupportedImageError, match=rf"{name}: it is coloured.*convert it, e\.g\. with 'magick"):
            open_source(tmp_path / name, reader="radiograph").check()
    deep = colours.astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 30, 20, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    packed = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    with pytest.raises(UnsupportedImageError, match=r"deep\.png: .*16 bits in several channels"):
        open_source(tmp_path / "deep.png", reader="radiograph").check()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_truncated_pictures_are_found_out(tmp_path: Path, name: str):
    noise = values(300, 300, 256).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for kept in (len(content) // 2, len(content) - 200, 40, 6, 0):
        path = tmp_path / f"cut_{kept}_{name}"
        path.write_bytes(content[:kept])
        with pytest.raises((ImageReadError, UnsupportedImageError), match=rf"{path.name}: "):
            open_source(path).check()
        with pytest.raises((ImageReadError, UnsupportedImageError), match=rf"{path.name}: "):
            RadiographSource(path).check()
    with pytest.raises(ImageReadError, match=r"cannot be read .*Copy the file again"):
        RadiographSource(tmp_path / f"cut_{len(content) // 2}_{name}").check()


def test_tiffs_that_openslide_knows_stay_slides(tmp_path: Path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((512, 512), np.uint8), tile=(256, 256))
    assert isinstance(open_source(tmp_path / "a.tif"), SlideSource)


# ---------------------------------------------------------------------------------------------- orientation, palettes
def test_upright_by_hand():
    """Exif 2.32: the first row and column of what is stored lie at these sides of what is seen."""
    stored = np.array([[1, 2, 3], [4, 5, 6]])
    assert upright(stored, 6).tolist() == [[4, 1], [5, 2], [6, 3]]  # row at the right, column at the top
    assert upright(stored, 3).tolist() == [[6, 5, 4], [3, 2, 1]]
    assert upright(stored, 8).tolist() == [[3, 6], [2, 5], [1, 4]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "deep.png", "a.jpg", "a.tif", "packed.tif", "deep.tif"])
def test_pictures_stand_upright(tmp_path: Path, name: str, orientation: int):
    deep, path = name.startswith("deep"), tmp_path / name
    grey = np.kron(np.arange(12, dtype=np.uint16).reshape(3, 4) * 20 + 5, np.ones((16, 16), np.uint16))
    grey = grey * 257 if deep else grey.astype(np.uint8)
    if name.endswith(".tif"):
        tags = [(0x0112, 3, 1, orientation, True)]
        compression = "zlib" if name == "packed.tif" else None
        tifffile.imwrite(path, grey, extratags=tags, compression=compression, resolution=(100, 50), resolutionunit=3)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(grey).save(path, exif=exif, dpi=(254, 127), quality=100)
    stored = Image.fromarray((grey >> 8).astype(np.uint8) if deep else grey)
    stored.getexif()[0x0112] = orientation
    seen = np.asarray(ImageOps.exif_transpose(stored))
    source = open_source(path, **({"window": (0, 65535)} if deep else {}))
    assert isinstance(source, RadiographSource)
    assert source.shape == seen.shape == ((64, 48) if orientation >= 5 else (48, 64))
    assert np.abs(whole(source).astype(int) - seen).max() <= (2 if name == "a.jpg" else 1)
    np.testing.assert_allclose(source.spacing, (0.1, 0.2) if orientation >= 5 else (0.2, 0.1), rtol=1e-3)


def test_exif_behind_the_pixels_of_a_png_counts_and_damaged_exif_does_not(tmp_path: Path):
    grey = (ramp() >> 8).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey).save(tmp_path / "a.png")
    content, data = (tmp_path / "a.png").read_bytes(), exif.tobytes().removeprefix(b"Exif\0\0")
    for name, payload, expected in (("late.png", data, np.rot90(grey, -1)), ("damaged.png", data[:9], grey)):
        chunk = struct.pack(">I", len(payload)) + b"eXIf" + payload + struct.pack(">I", zlib.crc32(b"eXIf" + payload))
        (tmp_path / name).write_bytes(content[:-12] + chunk + content[-12:])
        np.testing.assert_array_equal(whole(open_source(tmp_path / name)), expected)


def test_palettes_of_greys_in_pictures(tmp_path: Path):
    indices = (ramp() >> 8).astype(np.uint8)
    greys = (255 - np.arange(256)).astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=np.stack([greys] * 3))
    np.testing.assert_array_equal(whole(open_source(tmp_path / "a.tif")), 255 - indices)
    picture = Image.fromarray(indices)
    picture.putpalette(np.repeat(255 - np.arange(256), 3).astype(np.uint8).tobytes())
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(whole(open_source(tmp_path / "a.png")), 255 - indices)
    tifffile.imwrite(tmp_path / "b.tif", indices, photometric="palette", colormap=np.stack([greys, greys, greys // 2]))
    with pytest.raises(UnsupportedImageError, match=r"b\.tif: it is coloured \(its palette has colours\)"):
        RadiographSource(tmp_path / "b.tif").check()


def test_large_pictures_are_read_silently_and_too_large_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
):
    grey = (ramp() >> 8).astype(np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(grey).save(tmp_path / name)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", grey.size - 1)  # Pillow itself warns of it
        assert whole(open_source(tmp_path / name)).shape == grey.shape
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", grey.size // 2 - 1)
        with pytest.raises(UnsupportedImageError, match=rf"{name}: .*too large \(50 x 40 pixels, .*uncompressed TIFF"):
            open_source(tmp_path / name).check()
    assert not recwarn.list
