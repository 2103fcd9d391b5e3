"""Photographs as PNG, JPEG, WebP and TIFF: as Pillow and tifffile see them, upright, and decoded once."""

import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

import glimpse.sources.photo.pictures as pictures
import glimpse.sources.pictures.plane as plane
from glimpse.sources import (
    ImageReadError,
    PhotoSource,
    RadiographSource,
    SlideSource,
    UnsupportedImageError,
    open_source,
)
from glimpse.sources.caches import ByteCache
from glimpse.sources.photo.field import field_of_view
from tests.photo_files import ORIENTATION, colours, on_black, whole


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch) -> ByteCache:
    cache = ByteCache(1 << 24)
    monkeypatch.setattr(plane, "images", cache)
    return cache


# ---------------------------------------------------------------------------------------------- kinds of pixels
def in_mode(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.random.default_rng(0).integers(0, 1 << 16, (40, 56)).astype(np.uint16))
    alpha = Image.fromarray(colours(seed=1)[..., 0])
    image = Image.fromarray(colours())
    if mode in ("LA", "RGBA"):
        image = image.convert(mode[:-1])
        image.putalpha(alpha)
        return image
    return image.quantize(200) if mode == "P" else image.convert(mode)


PILLOW = [
    (mode, suffix)
    for mode, suffixes in {
        "1": ("png", "tif"),
        "L": ("png", "jpg", "tif"),
        "LA": ("png", "tif"),
        "P": ("png", "tif"),
        "RGB": ("png", "jpg", "webp", "tif"),
        "RGBA": ("png", "webp", "tif"),
        "CMYK": ("jpg", "tif"),
        "YCbCr": ("jpg", "tif"),
        "LAB": ("tif",),
        "I;16": ("png", "tif"),
    }.items()
    for suffix in suffixes
]


@pytest.mark.parametrize(("mode", "suffix"), PILLOW)
@pytest.mark.parametrize("packed", [False, True])
def test_every_kind_that_pillow_writes_is_read_as_pillow_reads_it(
    tmp_path: Path, mode: str, suffix: str, packed: bool
) -> None:
    path = tmp_path / f"a.{suffix}"
    options = {"compression": "tiff_lzw"} if packed and suffix == "tif" else {}
    in_mode(mode).save(path, **options, **({"lossless": True} if suffix == "webp" and packed else {}))
    with Image.open(path) as image:
        expected = np.repeat((np.asarray(image) >> 8)[..., None], 3, 2) if mode == "I;16" else on_black(image)
    source = PhotoSource(path)
    assert source.shape == (40, 56) and source.channels == 3 and source.spacing is None
    assert np.abs(whole(source).astype(int) - expected).max() <= ("A" in mode and mode != "LAB")


def test_colours_that_png_makes_transparent(tmp_path: Path) -> None:
    pixels = colours()
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=tuple(pixels[3, 4].tolist()))
    expected = pixels.copy()
    expected[3, 4] = 0
    np.testing.assert_array_equal(whole(PhotoSource(tmp_path / "a.png")), expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["plain", "packed", "apart", "alpha", "multiplied", "white is zero", "palette"])
def test_tiffs(tmp_path: Path, kind: str, bits: int) -> None:
    pixels, path = colours(), tmp_path / "a.tif"
    deep = pixels.astype(np.uint16) * 256 + 17 if bits == 16 else pixels
    alpha = colours(seed=1)[..., :1]
    with_alpha = np.concatenate([deep, alpha.astype(np.uint16) * 256 if bits == 16 else alpha], 2)
    expected = pixels
    if kind in ("alpha", "multiplied"):
        tifffile.imwrite(path, with_alpha, photometric="rgb", extrasamples=[2 if kind == "alpha" else 1])
        expected = on_black(Image.fromarray(np.concatenate([pixels, alpha], 2))) if kind == "alpha" else pixels
    elif kind == "apart":
        tifffile.imwrite(path, deep.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    elif kind == "white is zero":
        tifffile.imwrite(path, deep[..., 0], photometric="miniswhite")
        expected = np.repeat(255 - pixels[..., :1], 3, 2)
    elif kind == "palette":
        table = np.random.default_rng(2).integers(0, 1 << 16, (3, 1 << bits)).astype(np.uint16)
        tifffile.imwrite(path, deep[..., 0], photometric="palette", colormap=table)
        expected = (table[:, deep[..., 0]] >> 8).transpose(1, 2, 0)
    else:
        tifffile.imwrite(path, deep, photometric="rgb", compression="zlib" if kind == "packed" else None)
    source = PhotoSource(path)
    assert np.abs(whole(source).astype(int) - expected).max() <= (kind == "alpha")
    assert bool(len(plane.images._arrays)) == (kind != "plain" or bits == 16), "what is plain is mapped, not decoded"


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_tiffs_of_the_bits_of_a_camera(tmp_path: Path, bits: int) -> None:
    pytest.importorskip("imagecodecs")
    pixels = colours()
    deep = (pixels.astype(np.uint16) << (bits - 8)) + 1
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", bitspersample=bits)
    np.testing.assert_array_equal(whole(PhotoSource(tmp_path / "a.tif")), pixels)


@pytest.mark.parametrize("kind", ["grey.png", "colour.png", "grey.tif", "colour.tif"])
def test_few_bits_in_sixteen_are_told_since_they_are_shown_nearly_black(tmp_path: Path, kind: str) -> None:
    deep = colours().astype(np.uint16) * 16  # 12 bits
    for values, dark in ((deep, True), (deep * 16, False)):
        path = tmp_path / f"{dark}-{kind}"
        if kind == "colour.png":
            write_png(path, 56, 40, b"".join(b"\0" + row.tobytes() for row in values.astype(">u2")))
        elif kind == "grey.png":
            Image.fromarray(values[..., 0]).save(path)
        else:
            pixels = values if "colour" in kind else values[..., 0]
            tifffile.imwrite(path, pixels, photometric="rgb" if "colour" in kind else "minisblack")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert (whole(PhotoSource(path)).max() < 32) == dark
        assert ["nearly black" in str(one.message) for one in said] == [True] * dark


def test_sixteen_bits_of_several_channels_of_a_png_are_cut_to_their_highest_eight(tmp_path: Path) -> None:
    pixels = colours()
    rows = b"".join(b"\0" + row.tobytes() for row in (pixels.astype(np.uint16) * 256 + 200).astype(">u2"))
    write_png(tmp_path / "deep.png", 56, 40, rows)
    np.testing.assert_array_equal(whole(PhotoSource(tmp_path / "deep.png")), pixels)


def write_png(path: Path, width: int, height: int, rows: bytes) -> None:
    """A PNG of 16 bits in red, green and blue; its header may say anything."""
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    packed = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


# ---------------------------------------------------------------------------------------------- orientation, frames
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "packed.tif", "jpeg.tif"])
def test_pictures_stand_upright(tmp_path: Path, name: str, orientation: int) -> None:
    path = tmp_path / name
    pixels = np.kron(np.arange(36, dtype=np.uint8).reshape(3, 4, 3) * 7, np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    if name.endswith(".tif"):
        compression = {"a.tif": None, "packed.tif": "tiff_lzw", "jpeg.tif": "jpeg"}[name]
        Image.fromarray(pixels).save(path, compression=compression, tiffinfo={ORIENTATION: orientation})
    else:
        Image.fromarray(pixels).save(path, exif=exif, quality=100)
    with Image.open(path) as image:
        seen = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    source = open_source(path)
    assert isinstance(source, PhotoSource)
    assert source.shape == seen.shape[:2] == ((64, 48) if orientation >= 5 else (48, 64))
    np.testing.assert_array_equal(whole(source), seen)


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.tif"])
def test_one_of_several_frames_is_chosen(tmp_path: Path, name: str) -> None:
    first, second = (Image.fromarray(colours(seed=seed)) for seed in (0, 1))
    first.save(tmp_path / name, save_all=True, append_images=[second], **({"lossless": True} if "webp" in name else {}))
    with pytest.raises(UnsupportedImageError, match=r"it holds 2 frames, a case is one\. Choose one of them"):
        PhotoSource(tmp_path / name).check()
    for frame in (0, 1):
        np.testing.assert_array_equal(whole(PhotoSource(tmp_path / name, frame=frame)), colours(seed=frame))


# ---------------------------------------------------------------------------------------------- reading
def test_a_jpeg_is_decoded_once_for_all_glimpses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, calls, decode = colours(300, 400), [], pictures.decode
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    monkeypatch.setattr(pictures, "decode", lambda *given: calls.append(1) or decode(*given))
    source = PhotoSource(tmp_path / "a.jpg")
    other = pickle.loads(pickle.dumps(source))
    full = np.asarray(Image.open(tmp_path / "a.jpg"))
    for y, x in ((50, 60), (150, 200), (299, 399)):
        for one in (source, other):
            np.testing.assert_array_equal(
                one.read((y, x), 40, (40, 40)),
                np.pad(full, ((20, 20), (20, 20), (0, 0)))[y : y + 40, x : x + 40].transpose(2, 0, 1),
            )
    means = full.reshape(30, 10, 40, 10, 3).mean((1, 3)).transpose(2, 0, 1)
    np.testing.assert_allclose(source.overview((30, 40)), means, atol=0.51)
    assert len(calls) == 1


def test_the_spacing_is_what_the_user_says(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.jpg", dpi=(300, 300))
    assert PhotoSource(tmp_path / "a.jpg").spacing is None, "a resolution in print says nothing of an eye"
    assert PhotoSource(tmp_path / "a.jpg", mpp=5).spacing == (0.005, 0.005)
    source = PhotoSource(tmp_path / "a.jpg", spacing=[0.1, 0.2])
    assert (source.spacing, source.unit) == ((0.1, 0.2), "mm")


# ---------------------------------------------------------------------------------------------- what is what
def test_colours_are_photographs_and_greys_are_radiographs_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    pixels = colours()
    grey = np.repeat(pixels[..., :1], 3, 2)
    for name in ("a.png", "a.jpg", "a.tif", "a.webp"):
        Image.fromarray(pixels).save(tmp_path / name)
        assert isinstance(open_source(tmp_path / name), PhotoSource)
        if name != "a.webp":
            with pytest.raises(UnsupportedImageError, match=r"it is coloured|env=photo reads photographs"):
                open_source(tmp_path / name, reader="radiograph").check()
            for one in (grey, grey[..., 0]):
                Image.fromarray(one).save(tmp_path / name)
                assert isinstance(open_source(tmp_path / name), RadiographSource)
                photo = open_source(tmp_path / name, reader="photo")
                assert isinstance(photo, PhotoSource) and np.ptp(whole(photo), axis=2).max() == 0


def test_what_is_said_to_be_a_photograph_may_be_in_tiles_or_have_any_name(tmp_path: Path) -> None:
    pixels, tiled = colours(512, 512), tmp_path / "tiles.tif"
    tifffile.imwrite(tiled, pixels, tile=(256, 256), photometric="rgb")
    assert isinstance(open_source(tiled), SlideSource)
    np.testing.assert_array_equal(whole(open_source(tiled, reader="photo")), pixels)
    with tifffile.TiffWriter(tmp_path / "levels.tif") as tiff:
        for step, kind in ((1, 0), (2, 1)):
            tiff.write(pixels[::step, ::step], tile=(128, 128), photometric="rgb", subfiletype=kind)
    hint = r"env=wsi reads whole slides.*but env=photo reads photographs.*vips copy in\.tif out\.png"
    with pytest.raises(UnsupportedImageError, match=hint):
        open_source(tmp_path / "levels.tif", reader="photo")
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    expected = whole(PhotoSource(tmp_path / "a.jpg"))
    for name in ("a.jfif", "without"):
        (tmp_path / name).write_bytes((tmp_path / "a.jpg").read_bytes())
        np.testing.assert_array_equal(whole(open_source(tmp_path / name, reader="photo")), expected)
    assert isinstance(open_source(tmp_path / "a.jfif"), PhotoSource)


def test_what_is_no_photograph_is_said_to_be_none(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "f.tif", np.zeros((40, 40, 3), np.float32), photometric="rgb")
    with pytest.raises(UnsupportedImageError, match=r"f\.tif: .*of a kind that no photograph has.*PNG or TIFF"):
        PhotoSource(tmp_path / "f.tif").check()


def test_absurd_sizes_end_in_an_error_before_memory_is_taken(tmp_path: Path) -> None:
    write_png(tmp_path / "bomb.png", 200_000, 200_000, b"")
    tifffile.imwrite(tmp_path / "bomb.tif", colours(64, 64), photometric="rgb", compression="zlib", rowsperstrip=64)
    with tifffile.TiffFile(tmp_path / "bomb.tif", mode="r+b") as tiff:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages.first.tags[tag].overwrite(60_000)
    for name in ("bomb.png", "bomb.tif"):
        with pytest.raises(UnsupportedImageError, match=rf"{name}: .*too large \([0-9]+ x [0-9]+ pixels, at most"):
            PhotoSource(tmp_path / name).check()


def test_a_picture_that_is_cut_short_says_so(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.webp", "a.tif"):
        Image.fromarray(colours(200, 200)).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ImageReadError, match=rf"{name}: cannot be read .*Copy the file again"):
            PhotoSource(tmp_path / name).check()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"GIF89a" + bytes(50), "a GIF image"), (b"\0\0\0\x18ftypheic" + bytes(50), "a HEIC image"),
     (b"<html><body>404</body></html>", "text")],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_what_another_kind_of_file_is_stands_in_the_message(
    tmp_path: Path, content: bytes, said: str, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UnsupportedImageError, match=rf"with {said} as content, which is not read\. Export it as PNG"):
        _ = PhotoSource(path).shape


# ---------------------------------------------------------------------------------------------- the field of view
def scene(light: float, radius: float | None, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A picture with a gradient of light, and where it shows something: in a disc before black, or everywhere."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:128, :128] / 64 - 1 + 1 / 128
    inside = np.hypot(y, x) < radius if radius else np.ones((128, 128), bool)
    shades = light * (0.75 + 0.25 * x) * np.array([1.0, 0.5, 0.25])[:, None, None]
    film = np.where(inside, shades, 2.0) + noise * rng.standard_normal((128, 128))
    return film.round().clip(0, 255).astype(np.uint8), inside


@pytest.mark.parametrize("radius", [0.6, 0.95, 1.05, None])
@pytest.mark.parametrize("light", [220, 60, 24])
def test_the_field_of_view_is_the_disc_or_everything(radius: float | None, light: float) -> None:
    picture, inside = scene(light, radius)
    assert (field_of_view(picture) == inside).mean() > 0.98
    assert field_of_view(picture)[40:90, 40:90].all(), "dark things inside are part of it"


def test_pictures_without_a_surround_are_seen_everywhere() -> None:
    black = np.zeros((3, 64, 64), np.uint8)
    mole = np.full((3, 64, 64), 190, np.uint8)
    mole[:, 20:50, :40] = 30  # which reaches the edge, but no corner
    for picture in (black, mole, scene(9, None, noise=3)[0]):
        assert field_of_view(picture).all()


def test_letters_beside_the_disc_are_no_part_of_it() -> None:
    picture, inside = scene(200, 0.7)
    picture[:, 4:10, 4:20] = 255
    assert not field_of_view(picture)[:12, :22].any() and field_of_view(picture)[inside].mean() > 0.98
