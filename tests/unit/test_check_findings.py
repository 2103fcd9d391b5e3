"""`glimpse check`: every kind of finding in an image, by a small file that is made here."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
import torch
from PIL import Image

from glimpse.check import Checked, check
from glimpse.errors import SettingsError
from glimpse.inspecting.findings import RULES
from glimpse.inspecting.tiles import damaged_tiles
from tests.checks import FAST, SIZES, broken_tiles, found_in, listed, rows, rules, without_mpp
from tests.predictions import write_slide
from tests.radiograph_files import dataset, save, values
from tests.volume_files import write

ROOT = Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------------------------------------- sixty slides
@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV of 60 slides at two magnifications, five of which are broken in different ways."""
    folder = tmp_path_factory.mktemp("sixty")
    lines = []
    for i in range(60):
        path = write_slide(folder / "slides" / f"s{i:02}.svs", i, side=(512, 1024)[i % 2], mpp=(0.5, 0.25)[i % 2])
        lines.append(f"patient-{i},case-{i:02},slides/{path.name},{i % 2},{('train', 'val', 'test')[i % 3]}")
    slides = folder / "slides"
    content = (slides / "s03.svs").read_bytes()
    (slides / "s03.svs").write_bytes(content[: len(content) * 2 // 3])
    (slides / "s14.svs").write_bytes(b"")
    (slides / "s25.svs").write_text("this is no slide, but a text\n" * 50)
    broken_tiles(slides / "s36.svs")
    without_mpp(slides / "s47.svs", 47)
    return listed(folder / "cohort.csv", *lines)


@pytest.fixture(scope="module")
def checked_sixty(sixty: Path) -> Checked:
    settings = (*SIZES, "joint.validate_glimpses=[3,8]")
    return check(sixty, sixty.parent / "out", **{**FAST, "workers": 2, "estimate": True, "settings": settings})


def test_of_sixty_slides_the_five_broken_ones_are_named_and_why(checked_sixty: Checked) -> None:
    wrong = {name: found for name, found in rules(checked_sixty).items() if found}
    assert wrong == {
        "case-03": ["unreadable"],
        "case-14": ["unreadable"],
        "case-25": ["unreadable"],
        "case-36": ["tiles"],
        "case-47": ["spacing"],
    }
    said = {case.id: findings[0].what for case, _, findings in checked_sixty.cases if findings}
    assert "truncated" in said["case-03"] and "empty (0 bytes)" in said["case-14"]
    assert "not a slide" in said["case-25"] and "tiles" in said["case-36"]
    assert "does not state the size of a pixel" in said["case-47"] and "64um" in said["case-47"]
    assert checked_sixty.wrong == 5 and "5 findings; 5 of 60 cases are affected" in checked_sixty.told


def test_each_finding_names_the_file_the_rule_and_the_remedy(checked_sixty: Checked, sixty: Path) -> None:
    lines = rows(checked_sixty.folder / "findings.csv")
    assert [line["slide_id"] for line in lines] == ["case-03", "case-14", "case-25", "case-36", "case-47"]
    for line in lines:
        assert Path(line["path"]).is_file() and line["rule"] in RULES and line["what"] and line["remedy"]
        assert line["csv"] == str(sixty) and int(line["line"]) > 1 and line["kind"] == "wrong"
    pictures = {line["slide_id"]: line["thumbnail"] for line in lines}
    assert pictures["case-14"] == "" and pictures["case-36"] == "thumbnails/case-36.png"
    for line in rows(checked_sixty.folder / "cases.csv"):
        if line["state"] == "fine":
            side, spacing = (("512 x 512", "0.5 x 0.5"), ("1024 x 1024", "0.25 x 0.25"))[int(line["slide_id"][-2:]) % 2]
            assert (line["shape"], line["spacing"], line["unit"]) == (side, spacing, "um")
            assert 0.1 < float(line["foreground"]) < 0.5 and float(line["ms_per_glimpse"]) > 0
            with Image.open(checked_sixty.folder / line["thumbnail"]) as picture:
                assert picture.size == (192, 192)
    assert not list(checked_sixty.folder.rglob("*.unfinished"))


def test_the_estimate_follows_the_recipe(checked_sixty: Checked) -> None:
    (one,) = checked_sixty.estimates
    parts = {part.name: part for part in one.parts}
    assert one.env == "wsi" and one.cases == 57
    train = sum(case.split == "train" for case, seen, _ in checked_sixty.cases if seen.opened)
    test = sum(case.split == "test" for case, seen, _ in checked_sixty.cases if seen.opened)
    # configs/recipe/wsi.yaml: at least 96 glimpses per case, read anew where the locator looks
    assert parts["warm-up"].glimpses == 2 * 96 * train
    validated = 8 * sum(case.split == "val" for case, seen, _ in checked_sixty.cases if seen.opened)
    extra = 0  # the recipe has none
    assert parts["joint stage"].glimpses == 80 * 16 * 4 * 8 + extra + validated * (8 + 3)
    assert parts["report"].glimpses == 3 * 8 * test  # the agent, random places and a grid
    # tissue of 128 micrometres a side, glimpses of 64
    assert parts["full scan (report.readers)"].glimpses == pytest.approx(57 * 4, rel=0.1)
    assert one.encode_seconds is not None and one.total > sum(one.seconds(part)[0] for part in one.parts) > 0
    assert 0 < one.features < 4 * 2**30 and one.free > 0 and one.unpacked == 0
    record = json.loads((checked_sixty.folder / "estimate.json").read_text())
    assert record[0]["seconds"] == pytest.approx(one.total, abs=0.01)
    assert "Estimate: a training with env=wsi on 57 cases" in checked_sixty.told


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_estimate_is_of_the_device_of_the_training(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "a.svs")
    (one,) = check(slide, tmp_path / "out", **{**FAST, "estimate": True, "settings": ["device=cuda"]}).estimates
    assert one.encode_seconds is None and "device=cuda: cannot compute there" in one.unknown and one.total > 0


def test_a_second_check_finds_the_same(checked_sixty: Checked, sixty: Path, tmp_path: Path) -> None:
    again = check(sixty.parent / "slides", tmp_path / "out", **FAST)
    assert sum(bool(found) for found in rules(again).values()) == 5 and again.guessed == ("wsi",)
    assert {case.id for case, _, _ in again.cases} == {f"s{i:02}" for i in range(60)}


# ---------------------------------------------------------------------------------------------- one image each
def test_a_slide_without_tissue_has_nothing_to_look_at(tmp_path: Path) -> None:
    path = tmp_path / "glass.svs"
    text = "Aperio Image Library v12.0.15 \r\n512x512 (64x64) JPEG/RGB Q=75|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as tiff:
        options: dict[str, Any] = {"tile": (64, 64), "compression": "zlib", "photometric": "rgb", "metadata": None}
        tiff.write(np.full((512, 512, 3), 245, np.uint8), description=text, software=False, **options)
    assert [one.rule for one in found_in(path)] == ["foreground"]
    (line,) = rows(tmp_path / "out-glass.svs" / "cases.csv")
    assert float(line["foreground"]) == 0


@pytest.mark.parametrize(("mpp", "power", "said"), [(0.5, 80, "power is 80"), (0.25, 20, "power is 20")])
def test_a_pixel_size_that_contradicts_the_objective(tmp_path: Path, mpp: float, power: int, said: str) -> None:
    path = write_slide(tmp_path / "s.svs", mpp=mpp)
    content = path.read_bytes().replace(b"AppMag = %d|" % round(10 / mpp), b"AppMag = %d|" % power)
    path.write_bytes(content)
    (one,) = found_in(path)
    assert one.rule == "spacing" and said in one.what and "mpp" in one.remedy


def test_a_pixel_size_that_is_guessed_is_a_finding(tmp_path: Path) -> None:
    (one,) = found_in(without_mpp(tmp_path / "s.svs", 0, power=True))
    assert one.rule == "spacing" and "no pixel size" in one.what and "objective power" in one.what


def test_a_column_mpp_that_contradicts_the_file(tmp_path: Path) -> None:
    write_slide(tmp_path / "s.svs")
    table_file = listed(tmp_path / "c.csv", "s.svs,0.25", header="path,mpp")
    (one,) = check(table_file, tmp_path / "out", **FAST).cases[0][2]
    assert one.rule == "spacing" and "0.25 um according to mpp" in one.what


def test_a_slide_without_pixel_size_is_read_with_that_of_the_csv(tmp_path: Path) -> None:
    without_mpp(tmp_path / "s.svs", 0)
    table_file = listed(tmp_path / "c.csv", "s.svs,0.5", header="path,mpp")
    assert check(table_file, tmp_path / "out", **FAST).wrong == 0


@pytest.mark.parametrize("setting", ["+env.cohort.pixels=0.5", "+env.make.side=2", "++joint.updtes=3"])
def test_settings_that_training_refuses_are_refused(setting: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=setting.partition("=")[0].rpartition(".")[2]):
        check(write_slide(tmp_path / "s.svs"), tmp_path / "out", **{**FAST, "settings": (setting,)})


def test_a_glimpse_that_is_larger_than_the_image(tmp_path: Path) -> None:
    (one,) = found_in(write_slide(tmp_path / "s.svs"), settings=(*SIZES, "env.make.glimpse_extents=[900um]"))
    assert one.rule == "size" and "larger than the image" in one.what and "glimpse_extents" in one.remedy


def test_fields_of_view_from_fine_to_wide(tmp_path: Path) -> None:
    (one,) = found_in(write_slide(tmp_path / "s.svs"), settings=(*SIZES, "env.make.glimpse_extents=[32um,64um]"))
    assert one.rule == "size" and "have to go from wide to fine" in one.what
    assert one.remedy == "From wide to fine, env.make.glimpse_extents=[64um,32um] would do."


def test_places_that_cannot_be_reached(tmp_path: Path) -> None:
    sizes = ("env.make.overview_size=32", "env.make.glimpse_size=32", "env.make.glimpse_extents=[64um]")
    (one,) = found_in(write_slide(tmp_path / "s.svs", side=2048), settings=sizes)
    assert one.rule == "size" and "cannot be reached" in one.what and "larger overview_size" in one.remedy
    how: dict[str, Any] = {**FAST, "estimate": True, "settings": sizes}
    checked = check(tmp_path / "s.svs", tmp_path / "out", env="wsi", **how)
    assert not checked.estimates and "No estimate of a training with env=wsi: it would be refused" in checked.told
    assert "Estimate:" not in checked.told


def test_overwritten_tiles_are_found_without_decoding(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.svs")
    assert damaged_tiles(path) == ""
    assert "8 of 64 tiles" in damaged_tiles(broken_tiles(path)) and "x 256, y 128" in damaged_tiles(path)
    assert damaged_tiles(ROOT / "README.md") == ""


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.svs")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    (one,) = found_in(path)
    assert one.rule == "unreadable" and "chmod" in one.remedy


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    write_slide(folder / "a.svs")
    os.mkfifo(folder / "b.svs")
    os.mkfifo(folder / "c")
    began = time.monotonic()
    checked = check(folder, tmp_path / "out", **FAST)
    assert rules(checked) == {"a": [], "b": ["unreadable"]}
    assert time.monotonic() - began < 60


def test_an_image_of_another_kind(tmp_path: Path) -> None:
    path = write(tmp_path / "volume.nii", np.zeros((20, 20, 20), np.int16))
    (one,) = found_in(path)
    assert one.rule == "unreadable" and "env=mri" in one.what + one.remedy


# ---------------------------------------------------------------------------------------------- other modalities
def test_volumes_radiographs_and_slides_in_one_folder(tmp_path: Path, small_brain: Path) -> None:
    folder = tmp_path / "mixed"
    write_slide(folder / "slide.svs")
    shutil.copy(small_brain, folder / "brain.nii.gz")
    save(dataset(values(300, 280), PixelSpacing=[0.2, 0.2]), folder / "chest.dcm")
    (folder / "notes.txt").write_text("nothing")
    uid = pydicom.uid.generate_uid(entropy_srcs=["check"])
    (folder / "scan").mkdir()
    for index in range(24):
        data = dataset(values(40, 40, 900, index), SOPClassUID=pydicom.uid.CTImageStorage, SeriesInstanceUID=uid)
        data.PixelSpacing, data.ImagePositionPatient = [1, 1], [0, 0, 2 * index]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        save(data, folder / "scan" / f"{index:02}.dcm")
    checked = check(folder, tmp_path / "out", workers=1)
    envs = {case.id: case.env for case, _, _ in checked.cases}
    assert envs == {"slide": "wsi", "brain": "mri", "chest": "xray", "scan": "mri"}
    assert checked.wrong == 0, checked.told
    assert checked.guessed == ("mri", "wsi", "xray")
    assert {one.env for one in checked.estimates} == {"mri", "wsi", "xray"}
    unpacked = {one.env: one.unpacked for one in checked.estimates}
    assert unpacked["mri"] == 352 + 80 * 96 * 80 and unpacked["wsi"] == 0
    for name in envs:
        with Image.open(checked.folder / "thumbnails" / f"{name}.png") as picture:
            assert max(picture.size) >= 192


def test_a_second_check_takes_away_the_thumbnails_of_the_first_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray((values(300, 280) >> 4).astype(np.uint8)).save(tmp_path / "in" / f"{name}.png")
    how: dict[str, Any] = {"env": "xray", "workers": 1, "estimate": False}
    thumbnails = check(tmp_path / "in", tmp_path / "out", **how).folder / "thumbnails"
    (thumbnails / "own.png").write_bytes(b"a file of the user's")
    table = tmp_path / "out" / "cases.csv"
    table.write_text(table.read_text().replace("thumbnails/b.png", "thumbnails/../../in/b.png"))  # by someone else
    (tmp_path / "in" / "a.png").unlink()
    check(tmp_path / "in", tmp_path / "out", **how)
    assert {file.name for file in thumbnails.iterdir()} == {"b.png", "own.png"}
    assert (tmp_path / "in" / "b.png").exists()


def test_a_radiograph_without_pixel_size_is_only_a_note(tmp_path: Path) -> None:
    path = tmp_path / "chest.png"
    Image.fromarray((values(300, 280) >> 4).astype(np.uint8)).save(path)
    checked = check(path, tmp_path / "out", env="xray", workers=1, estimate=False)
    (one,) = checked.cases[0][2]
    assert (one.rule, one.note, checked.wrong) == ("spacing", True, 0)
    assert "(note)" in checked.told and rows(tmp_path / "out" / "cases.csv")[0]["state"] == "note"


def test_a_volume_whose_header_contradicts_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "v.nii", np.random.default_rng(0).integers(0, 99, (40, 40, 40)).astype(np.int16))
    image = nibabel.load(path)
    image.header["pixdim"][1:4] = 3.0
    content = bytearray(path.read_bytes())
    content[:348] = image.header.binaryblock
    path.write_bytes(content)
    (one,) = found_in(path, "mri", settings=())
    assert one.rule == "spacing" and "3 x 3 x 3 according to pixdim, but 1 x 1 x 1" in one.what


def test_a_packed_volume_that_is_cut_short(tmp_path: Path, small_brain: Path) -> None:
    path = tmp_path / "brain.nii.gz"
    path.write_bytes(small_brain.read_bytes()[:-2000])
    (one,) = found_in(path, "mri", settings=())
    assert one.rule == "unreadable" and "cannot be unpacked" in one.what


def test_a_header_of_absurd_size_takes_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "v.nii", np.zeros((20, 20, 20), np.int16))
    content = bytearray(path.read_bytes())
    content[40:56] = np.array([3, 32767, 32767, 32767, 1, 1, 1, 1], "<i2").tobytes()
    path.write_bytes(content)
    (one,) = found_in(path, "mri", settings=())
    assert one.rule == "unreadable" and "truncated" in one.what


def test_a_slide_that_says_it_is_absurdly_large(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.svs")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[name].overwrite(2_000_000_000)
    began = time.monotonic()
    findings = found_in(path, gigabytes=2.0, timeout=60)
    assert findings and {one.rule for one in findings} <= {"unreadable", "tiles", "memory", "killed"}
    assert time.monotonic() - began < 60
