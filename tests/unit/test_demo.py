"""The demo: a slide is painted, read by the policy that comes with the package, and shown."""

import json
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch
from PIL import Image

from glimpse.demo import packing, showing
from glimpse.demo.__main__ import main
from glimpse.demo.folder import MARKER
from glimpse.demo.showing import POLICY, Asked, Shown, ask, demo, show
from glimpse.errors import EvaluationError, MissingExtraError, SettingsError
from glimpse.pictures.episodes import to_video
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from glimpse.runs.loading import POLICY_FILE


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return demo(tmp_path_factory.mktemp("demo") / "new" / "folder", video=True)


def test_it_looks_at_every_focus_and_answers_right(shown: Shown) -> None:
    assert (shown.spots, shown.foci, shown.found) == (7, 2, 2)
    assert shown.reading.glimpses == 8 and shown.reading.answer["p_1"] > 0.9
    assert "7 dark spots, 2 of them foci of tumour" in shown.told and "2 of 2 foci" in shown.told
    assert re.search(r"1 \(\d\.\d\d\), which means tumour and is right, after 8 glimpses", shown.told)
    for answer, foci, means in (
        (0, 2, "no tumour and is wrong"),
        (1, 0, "tumour and is wrong"),
        (0, 0, "no tumour and is"),
    ):
        assert f"means {means}" in replace(shown, answer=answer, foci=foci).told


def test_all_that_it_names_is_there(shown: Shown) -> None:
    folder = shown.report.parent
    assert shown.video is not None and str(folder) in shown.told
    assert all(str(path) in shown.told for path in (shown.slide, shown.overlay, shown.animation, shown.video))
    assert Image.open(shown.overlay).format == "PNG"
    assert Image.open(shown.animation).n_frames == 9  # type: ignore[attr-defined]
    assert imageio_ffmpeg.count_frames_and_secs(str(shown.video)) == (8 * 8 + 24, 8.8)
    record = json.loads((shown.predictions / "cases" / "slide-021.json").read_text())
    assert record["probabilities"]["p_1"] == pytest.approx(shown.reading.answer["p_1"], abs=1e-6)
    page = shown.report.read_text("utf-8")
    assert "slide-021" in page and "<title>Predictions</title>" in page and not list(folder.rglob("*.unfinished"))


def test_what_is_there_is_not_made_again(shown: Shown) -> None:
    assert ask(shown.report.parent).beginning == "Reading a slide ..."
    assert ask(shown.report.parent, slide=7).beginning == "Painting a slide, and reading it ..."
    known = [shown.slide, shown.overlay]
    before = [path.stat().st_mtime_ns for path in known]
    again = demo(shown.report.parent)
    assert [path.stat().st_mtime_ns for path in known] == before and again.video is None
    assert again.reading.answer == shown.reading.answer


def test_of_two_demos_at_once_one_waits_for_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def shown(asked: Asked) -> None:
        told.append("begins")
        time.sleep(0.3)
        told.append("ends")

    monkeypatch.setattr(showing, "_shown", shown)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(show, [ask(tmp_path / "demo")] * 2))
    assert told == ["begins", "ends"] * 2
    assert os.listdir(tmp_path / "demo") == [MARKER]


OTHERS = {
    "report.html": "mine",
    "slides/slide-021.svs": "mine",
    "predictions/predictions.csv": "mine",
    ".hidden": "mine",
    "demo.json": "not of a demo",
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_of_others_is_left_alone(name: str, tmp_path: Path) -> None:
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text(OTHERS[name])
    with pytest.raises(EvaluationError, match=rf"/mine: this folder is not empty .*{MARKER}.*output=<folder>"):
        demo(tmp_path / "mine")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file] and file.read_text() == OTHERS[name]


def test_a_demo_of_another_version_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text('{"of": "glimpse demo", "version": 0}')
    with pytest.raises(EvaluationError, match="another version of glimpse has painted"):
        demo(tmp_path)
    with pytest.raises(SettingsError, match="this is a file"):
        demo(tmp_path / MARKER)


def test_nothing_is_announced_before_all_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.html").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["glimpse demo", f"output={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "") and "this folder is not empty (report.html)" in said.err


def test_a_damaged_slide_is_named_with_the_remedy(shown: Shown, tmp_path: Path) -> None:
    broken = tmp_path / "slides" / shown.slide.name
    (tmp_path / MARKER).write_bytes((shown.report.parent / MARKER).read_bytes())
    broken.parent.mkdir()
    broken.write_bytes(shown.slide.read_bytes()[:100_000])
    with pytest.raises(EvaluationError, match=r"slide-021.svs: this slide is damaged. Remove it"):
        demo(tmp_path)


@pytest.mark.parametrize("slide", [0, 69, "six", True])
def test_other_slides_are_refused(slide: object, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="slide"):
        demo(tmp_path, slide=slide)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_video_without_its_extra(shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtraError, match=r"glimpse-rl\[video\]"):
        demo(tmp_path / "demo", video=True)
    with pytest.raises(MissingExtraError, match=r"glimpse-rl\[video\]"):
        to_video(shown.reading, tmp_path / "episode.mp4")
    assert not list(tmp_path.iterdir())


def test_what_comes_with_the_package_is_small_and_of_no_machine() -> None:
    assert sum(path.stat().st_size for path in POLICY.iterdir()) < 3e6
    assert {path.name for path in POLICY.iterdir()} == {"SOURCE.md", "calibration.json", "config.yaml", POLICY_FILE}
    text = (POLICY / "config.yaml").read_text("utf-8")
    assert not [line for line in text.splitlines() if ": /" in line or "~" in line]


def test_packing_halves_the_parameters(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text((POLICY / "config.yaml").read_text("utf-8").replace("runs/demo", "/home/me/run"))
    checkpoint = Checkpoint.load(POLICY / POLICY_FILE)
    name = next(name for name, tensor in checkpoint.tensors.items() if tensor.is_floating_point())
    checkpoint.tensors[name] = checkpoint.tensors[name].float() + 1e-5
    checkpoint.save(run / POLICY_FILE)
    packing.pack(run, tmp_path / "packed")
    packed = Checkpoint.load(tmp_path / "packed" / POLICY_FILE)
    assert packed.meta == checkpoint.meta and packed.tensors[name].dtype == torch.float16
    torch.testing.assert_close(packed.tensors[name], checkpoint.tensors[name].half(), rtol=0, atol=0)
    assert "/home" not in (tmp_path / "packed" / "config.yaml").read_text("utf-8")
    checkpoint.tensors[name][..., 0] = 1e6
    checkpoint.save(run / POLICY_FILE)
    with pytest.raises(CheckpointError, match="too large for half precision"):
        packing.pack(run, tmp_path / "another")
