"""The demo: a slide is painted, read by the policy that comes with the package, and shown."""

import json
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch
from PIL import Image

from glimpse.demo import packing
from glimpse.demo.showing import POLICY, Shown, demo
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


def test_all_that_it_names_is_there(shown: Shown) -> None:
    folder = shown.report.parent
    assert shown.video is not None and str(folder) in shown.told
    assert all(str(path) in shown.told for path in (shown.slide, shown.overlay, shown.animation, shown.video))
    assert Image.open(shown.overlay).format == "PNG"
    assert Image.open(shown.animation).n_frames == 9  # type: ignore[attr-defined]
    assert imageio_ffmpeg.count_frames_and_secs(str(shown.video)) == (8 * 8 + 24, 8.8)
    record = json.loads((shown.predictions / "cases" / "slide-021.json").read_text())
    assert record["probabilities"]["p_1"] == pytest.approx(shown.reading.answer["p_1"], abs=1e-6)
    assert "slide-021" in shown.report.read_text("utf-8") and not list(folder.rglob("*.unfinished"))


def test_what_is_there_is_not_made_again(shown: Shown) -> None:
    known = [shown.slide, shown.overlay]
    before = [path.stat().st_mtime_ns for path in known]
    again = demo(shown.report.parent)
    assert [path.stat().st_mtime_ns for path in known] == before and again.video is None
    assert again.reading.answer == shown.reading.answer


def test_a_damaged_slide_is_named_with_the_remedy(shown: Shown, tmp_path: Path) -> None:
    broken = tmp_path / "slides" / shown.slide.name
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
