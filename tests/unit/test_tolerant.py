"""Damaged parts of images: `on_error=skip` shows them as background and names the case, `raise` says where they are."""

import builtins
import os
import pickle
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

import glimpse.sources.pictures.plane as plane
import glimpse.sources.slide.source as slide_module
import glimpse.views
from glimpse import evaluate, train
from glimpse.cohort import Cohort, CohortError
from glimpse.cohort.preflight import with_known_sizes
from glimpse.envs.modality import load_modality
from glimpse.geometry import Frame
from glimpse.sources import ArraySource, ImageReadError, ImageSource, SlideSource
from glimpse.sources.base import RegionReadError
from glimpse.sources.caches import ByteCache
from glimpse.sources.slide.pixels import read_pixels
from glimpse.sources.tolerant import TolerantSource, unread
from glimpse.tasks import Classification
from glimpse.views import Views
from tests.checks import without_mpp
from tests.commands import ran
from tests.predictions import write_slide
from tests.volume_files import write

TILE = 64


def broken_slide(path: Path, tiles: tuple[int, ...] = (5, 6), side: int = 256, seed: int = 0) -> np.ndarray:
    """Writes a slide of one level whose tiles of these numbers cannot be decoded; returns its pixels."""
    image = np.random.default_rng(seed).integers(0, 200, (side, side, 3), dtype=np.uint8)
    tifffile.imwrite(path, image, tile=(TILE, TILE), photometric="rgb", compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with open(path, "r+b") as file:
        for tile in tiles:
            file.seek(places[tile][0])
            file.write(bytes(places[tile][1]))
    return image


@pytest.fixture(autouse=True)
def _counted_anew() -> None:
    with unread.named_at_the_end():
        pass


def test_raise_names_slide_level_and_place(tmp_path: Path) -> None:
    image = broken_slide(tmp_path / "a.tiff")
    source = SlideSource(tmp_path / "a.tiff")
    source.check()
    where = r"a\.tiff: cannot be read at level 0, 32 x 32 pixels from \(x 80, y 84\) at level 0 .*on_error=skip"
    with pytest.raises(RegionReadError, match=where):
        source.read((100, 96), 32, (32, 32))
    np.testing.assert_array_equal(source.read((32, 32), 32, (32, 32)), image[16:48, 16:48].transpose(2, 0, 1))
    with pytest.raises(RegionReadError, match="256 x 256 pixels"):
        source.overview((64, 64))


def test_a_damaged_glimpse_is_background_and_the_next_one_is_read(tmp_path: Path) -> None:
    image = broken_slide(tmp_path / "a.tiff")
    source = TolerantSource(SlideSource(tmp_path / "a.tiff"), "slide-1")
    with pytest.warns(UserWarning, match=r"^slide-1: shown as background .*a\.tiff: cannot be read at level 0"):
        glimpse = source.read((100, 96), 32, (32, 32))
    assert glimpse.shape == (3, 32, 32) and glimpse.dtype == np.uint8 and (glimpse == 255).all()
    np.testing.assert_array_equal(source.read((32, 32), 32, (32, 32)), image[16:48, 16:48].transpose(2, 0, 1))
    source.read((100, 96), 32, (32, 32))  # no second warning: pytest makes warnings errors
    assert re.match(r"1 case has parts .*slide-1 \(2 reads failed; first: .*a\.tiff: ", unread.summary() or "")


@pytest.mark.filterwarnings("ignore:slide-1")
def test_of_an_overview_only_the_damaged_parts_are_background(tmp_path: Path) -> None:
    image = broken_slide(tmp_path / "a.tiff", tiles=(5,))
    overview = TolerantSource(SlideSource(tmp_path / "a.tiff"), "slide-1").overview((64, 64))
    expected = ArraySource(image.transpose(2, 0, 1)).overview((64, 64))
    damaged = np.zeros((64, 64), bool)
    damaged[16:32, 16:32] = True
    assert (overview[:, damaged] == 255).all()
    assert np.abs(overview[:, ~damaged].astype(int) - expected[:, ~damaged]).max() <= 1


@pytest.mark.filterwarnings("ignore:slide-1")
def test_a_tolerant_source_is_an_image_like_its_own(tmp_path: Path) -> None:
    broken_slide(tmp_path / "a.tiff", tiles=())
    inner = SlideSource(tmp_path / "a.tiff", mpp=0.5)
    source = TolerantSource(inner, "slide-1")
    copy = pickle.loads(pickle.dumps(source))
    assert copy.case == "slide-1" and copy.identity == source.identity and copy.path == inner.path
    assert (source.shape, source.channels, source.spacing, source.unit) == ((256, 256), 3, (0.5, 0.5), "um")
    np.testing.assert_array_equal(copy.read((100, 96), 32, (32, 32)), inner.read((100, 96), 32, (32, 32)))
    np.testing.assert_array_equal(copy.overview((16, 16)), inner.overview((16, 16)))
    np.testing.assert_array_equal(copy.foreground(copy.overview((16, 16))), inner.foreground(inner.overview((16, 16))))


class Lost(ImageSource):
    """An image that was lost after it was checked: another error than one of a damaged part."""

    path, name = None, "gone"
    frame = Frame((4, 64, 64))
    channels = 2
    background = np.array((3, 7), np.uint8)
    identity = "gone"

    def read(self, center: object, extent: object, size: object) -> np.ndarray:
        raise ImageReadError("gone.nii: no such file.")


class Spoilt(Lost):
    """An image of which nothing can be read except its second half; it keeps the sizes that were asked for."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def read(self, center: Sequence[float], extent: Sequence[float], size: Sequence[int]) -> np.ndarray:
        self.asked.append(float(np.max(extent)))
        if center[2] < 32 or extent[2] > 32:
            raise RegionReadError("gone.nii: damaged.")
        return np.full((2, *size), 100, np.uint8)


def test_an_image_that_is_lost_ends_the_run() -> None:
    source = TolerantSource(Lost(), "volume-1")
    for read in (lambda: source.overview((2, 16, 16)), lambda: source.read((2, 32, 32), (2, 8, 8), (2, 8, 8))):
        with pytest.raises(ImageReadError, match="no such file"):
            read()
    assert unread.summary() is None


@pytest.mark.parametrize("kind", ["wsi", "xray", "mri"])
@pytest.mark.parametrize("how", ["gone", "forbidden"])
def test_files_that_vanish_after_they_were_checked_end_the_run(
    tmp_path: Path, kind: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / {"wsi": "a.tiff", "xray": "a.png", "mri": "a.nii"}[kind]
    if kind == "wsi":
        broken_slide(path, tiles=())
    elif kind == "xray":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(path)
    else:
        write(path, np.random.default_rng(0).integers(0, 99, (16, 16, 16)).astype(np.int16))
    (tmp_path / "c.csv").write_text(f"patient,case,path,target,split\na,a,{path.name},0,train")
    (case,) = load_modality(kind, tmp_path / "c.csv", Classification(2), on_error="skip")
    side = (16,) * case.source.ndim
    views = Views(side, side, (16,))
    case.source.close()
    monkeypatch.setattr(plane, "images", ByteCache(1 << 20))  # which holds the decoded picture
    if how == "gone":
        path.rename(tmp_path / "moved")
    else:
        forbidden(path, monkeypatch)  # root may read everything, so rights are no test
    for read in (lambda: views.glimpse(case.source, (0,) * len(side)), lambda: case.source.overview(side)):
        with pytest.raises(ImageReadError, match="no such file" if how == "gone" else r"cannot be opened \(Permission"):
            read()
    assert unread.summary() is None


def forbidden(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets Python's `open` refuse one file."""
    original = builtins.open

    def refusing(file: Any, *args: Any, **options: Any) -> Any:
        if isinstance(file, str | os.PathLike) and os.fspath(file) == os.fspath(path):
            raise PermissionError(13, "Permission denied", str(file))
        return original(file, *args, **options)

    monkeypatch.setattr(builtins, "open", refusing)


@pytest.mark.filterwarnings("ignore:volume-1")
def test_after_an_overview_has_failed_its_halves_are_read_and_not_the_whole_again() -> None:
    spoilt = Spoilt()
    overview = TolerantSource(spoilt, "volume-1").overview((1, 16, 16))
    assert (overview[:, :, :, 8:] == 100).all() and (overview[0, :, :, :8] == 3).all()
    # The whole, its upper and lower half, which are still 64 wide, and only then parts that are half as wide.
    assert [side for side in spoilt.asked if side == 64] == [64] * 3 and spoilt.asked[1] == 64


def test_a_failure_in_one_thread_is_none_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSlide's handle stays in its error state for whoever shares it."""
    image = broken_slide(tmp_path / "a.tiff")
    source = SlideSource(tmp_path / "a.tiff")
    source.overview  # noqa: B018
    inside, failed = threading.Event(), threading.Event()

    def watched(slide: openslide.OpenSlide, *asked: Any) -> np.ndarray:
        if threading.current_thread() is not threading.main_thread() and not inside.is_set():
            inside.set()
            failed.wait(10)  # holds the handle while the main thread spoils it
        return read_pixels(slide, *asked)

    monkeypatch.setattr(slide_module, "read_pixels", watched)
    with ThreadPoolExecutor(1) as pool:
        good = pool.submit(source.read, (32, 32), 32, (32, 32))
        inside.wait(10)
        with pytest.raises(RegionReadError):
            source.read((100, 96), 32, (32, 32))
        failed.set()
        np.testing.assert_array_equal(good.result(), image[16:48, 16:48].transpose(2, 0, 1))


@pytest.mark.filterwarnings("ignore:slide-1")
def test_many_threads_read_around_damage(tmp_path: Path) -> None:
    image = broken_slide(tmp_path / "a.tiff")
    source = TolerantSource(SlideSource(tmp_path / "a.tiff"), "slide-1")

    def read(index: int) -> bool:
        if index % 3 == 0:
            return bool((source.read((96, 96), 16, (16, 16)) == 255).all())
        top, left = 8 * (index % 5), 128 + 3 * index % 100
        found = source.read((top + 8, left + 8), 16, (16, 16))
        return np.array_equal(found, image[top : top + 16, left : left + 16].transpose(2, 0, 1))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(120)))
    assert "(40 reads failed" in (unread.summary() or "")


def cohort_of(folder: Path) -> Path:
    """A cohort of eight slides, one of which has damaged tiles."""
    rows = ["case_id,slide_id,path,target,split"]
    for index, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        broken_slide(folder / f"s{index}.tiff", tiles=(5, 6, 9) if index == 6 else (), side=512, seed=index)
        rows.append(f"p{index},s{index},s{index}.tiff,{index % 2},{split}")
    (folder / "cohort.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder / "cohort.csv"


@pytest.mark.filterwarnings("ignore:s6")
def test_a_cohort_is_tolerant_only_where_it_was_asked_to_be(tmp_path: Path) -> None:
    path, views = cohort_of(tmp_path), Views((32, 32), (16, 16), (32,))
    strict, lenient = (Cohort.from_csv(path, Classification(2), on_error=how) for how in ("raise", "skip"))
    assert len(lenient) == 8, "a slide with some damaged tiles is not left out"
    with pytest.raises(RegionReadError):
        views.overview(strict[6].source)
    assert views.overview(lenient[6].source).min() < 200, "most of it is there"
    assert not np.array_equal(views.overview(lenient[6].source), views.overview(lenient[7].source))


@pytest.mark.parametrize("tile", [15, 10])
def test_damage_where_a_slide_is_checked_is_no_reason_to_leave_it_out(tmp_path: Path, tile: int) -> None:
    """The far corner and the middle are read when a cohort is loaded."""
    broken_slide(tmp_path / "a.tiff", tiles=(tile,))
    path = tmp_path / "c.csv"
    path.write_text("patient,case,path,target,split\na,slide-1,a.tiff,0,train\n", encoding="utf-8")
    with pytest.raises(CohortError, match=r"line 2, slide-1: .*a\.tiff: cannot be read at level 0, 1 x 1 pixels"):
        Cohort.from_csv(path, Classification(2), progress=False)
    with pytest.warns(UserWarning, match="slide-1: shown as background"):
        assert len(Cohort.from_csv(path, Classification(2), on_error="skip", progress=False)) == 1
    assert "slide-1 (1 read failed" in (unread.summary() or "")


def test_a_slide_of_which_nothing_can_be_read_is_left_out(tmp_path: Path) -> None:
    broken_slide(tmp_path / "a.tiff", tiles=tuple(range(16)))
    broken_slide(tmp_path / "b.tiff", tiles=())
    path = tmp_path / "c.csv"
    path.write_text("patient,case,path,target,split\na,a,a.tiff,0,train\nb,b,b.tiff,1,train\n", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"skipped line 2, a: .*a\.tiff: cannot be read at level 0"):
        assert [case.id for case in Cohort.from_csv(path, Classification(2), on_error="skip", progress=False)] == ["b"]


def test_two_copies_of_a_damaged_slide_are_one_image(tmp_path: Path) -> None:
    for name in ("a", "b"):
        broken_slide(tmp_path / f"{name}.tiff", tiles=(5, 6))
    path = tmp_path / "c.csv"
    path.write_text("patient,case,path,target,split\na,a,a.tiff,0,train\na,b,b.tiff,1,train\n", encoding="utf-8")
    with pytest.warns(
        UserWarning, match=r"1 image is listed several times: 'a' \(lines 2, 3, with different targets\)"
    ):
        assert len(Cohort.from_csv(path, Classification(2), on_error="skip")) == 2
    path.write_text(path.read_text().replace("a,b,b.tiff,1,train", "b,b,b.tiff,1,test"))
    with pytest.raises(CohortError, match=r"lines 2, 3: 'a' \(train\) and 'b' \(test\) are the same image"):
        Cohort.from_csv(path, Classification(2), on_error="skip")


def test_a_damaged_slide_that_is_left_out_for_its_mask_is_not_said_to_be_shown(tmp_path: Path) -> None:
    broken_slide(tmp_path / "a.tiff", tiles=(15,))
    broken_slide(tmp_path / "b.tiff", tiles=(), seed=1)
    path = tmp_path / "c.csv"
    rows = ["patient,case,path,target,split,mask", "a,a,a.tiff,0,train,none.png", "b,b,b.tiff,1,train,"]
    path.write_text("\n".join(rows), encoding="utf-8")
    with pytest.warns(UserWarning) as caught:
        assert len(Cohort.from_csv(path, Classification(2), on_error="skip")) == 1
    assert [str(one.message).startswith(f"{path}: skipped line 2, a: ") for one in caught] == [True]
    assert unread.summary() == "1 case was left out, since images or masks cannot be read: a"


def test_a_command_names_the_cases_that_it_left_out_at_its_end(tmp_path: Path) -> None:
    for name in "abcd":
        broken_slide(tmp_path / f"{name}.tiff", tiles=(), seed=ord(name))
    (tmp_path / "c.tiff").unlink()
    (tmp_path / "d.tiff").write_bytes(b"II*")
    rows = [f"{name},{name},{name}.tiff,{name in 'bc':d},{'train' if name in 'ac' else 'test'}" for name in "abcd"]
    (tmp_path / "c.csv").write_text("\n".join(["patient,case,path,target,split", *rows]), encoding="utf-8")
    options = ["env=wsi", "agent=random", "threads=1", "env.cohort.on_error=skip", "env.cohort.path=c.csv"]
    said = ran("glimpse", "train", *options, "env.make.glimpse_extents=[9999]", folder=tmp_path).stderr.splitlines()
    left_out = "glimpse: 2 cases were left out, since images or masks cannot be read: c, d"
    assert said[-2] == left_out, said  # the last line is the error that ends this command
    assert [line.partition("c.csv: skipped ")[0] for line in said[:2]] == [f"glimpse: warning: {tmp_path}{os.sep}"] * 2
    assert all(line.startswith("glimpse: ") for line in said), said


def test_commands_go_on_and_name_the_case_once_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = cohort_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = ["experiment=smoke", "env=wsi", "agent=random", "threads=1", "progress=false", "report.readers=[random]"]
    options += ["env.make.overview_size=64", "env.make.glimpse_extents=[64]", f"env.cohort.path={path}", "run=r"]
    monkeypatch.setattr("sys.argv", ["train", *options, "env.cohort.on_error=skip"])
    train.main()
    for command in (None, ["evaluate", "run=r", "readers=[random]", "progress=false"]):
        if command is not None:
            monkeypatch.setattr(glimpse.views, "overviews", ByteCache(1 << 20))  # as in a process of its own
            monkeypatch.setattr("sys.argv", command)
            evaluate.main()
        told = capfd.readouterr()
        lines = [line for line in (told.out + told.err).splitlines() if "s6" in line]
        assert len(lines) == 1, lines
        assert re.match(r"glimpse: 1 case has parts that cannot be read; .*: s6 \(\d+ reads? failed; first: ", lines[0])
        assert told.err.splitlines()[-1] == lines[0]
    monkeypatch.setattr(glimpse.views, "overviews", ByteCache(1 << 20))
    monkeypatch.setattr("sys.argv", ["train", *options, "run=strict"])
    with pytest.raises(SystemExit):
        train.main()
    assert re.search(r"^glimpse: .*s6\.tiff: cannot be read at level 0, ", capfd.readouterr().err, flags=re.MULTILINE)


def test_a_handle_that_failed_is_opened_again_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_slide(tmp_path / "a.tiff")
    opened: list[Path] = []
    original = slide_module._open
    monkeypatch.setattr(slide_module, "_open", lambda path: opened.append(path) or original(path))
    source = SlideSource(tmp_path / "a.tiff")
    with pytest.raises(RegionReadError):
        source.read((100, 96), 32, (32, 32))
    assert len(opened) == 2, "the shared handle, and one to be sure that it is the region's fault"
    source.read((32, 32), 32, (32, 32))
    source.read((33, 32), 32, (32, 32))
    assert len(opened) == 3


def test_slides_without_a_pixel_size_are_left_out_where_glimpses_are_physical(tmp_path: Path) -> None:
    write_slide(tmp_path / "a.svs", 0)
    without_mpp(tmp_path / "b.svs", 1)
    table = tmp_path / "c.csv"
    table.write_text("case_id,slide_id,path,target,split\np,a,a.svs,0,train\nq,b,b.svs,1,test\n")
    cohort = Cohort.from_csv(table, Classification((0, 1)), on_error="skip")
    assert with_known_sizes(cohort, {"glimpse_extents": [64]}) is cohort
    with unread.named_at_the_end(), pytest.warns(UserWarning, match=r"skipped b: .*b\.svs.* column mpp"):
        left = with_known_sizes(cohort, {"glimpse_extents": ["64um"]})
        assert unread.summary() == "1 case was left out, since the size of a pixel is not known: b"
    (skipped,) = left.skipped
    assert [case.id for case in left] == ["a"] and (skipped.case, skipped.error) == ("b", "MissingSpacingError")
