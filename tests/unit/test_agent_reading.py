"""`glimpse.load(run).read(image)` in Python and in notebooks."""

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import glimpse
from glimpse.cohort import Case
from glimpse.cohort.fingerprints import fingerprint
from glimpse.cohort.preflight import PreflightError
from glimpse.errors import DivergedError, EvaluationError, MissingExtraError, SettingsError
from glimpse.networks.policy import GlimpsePolicy
from glimpse.predicting.agent import Agent
from glimpse.predicting.readings import CaseReading
from glimpse.sources import ImageReadError, SlideSource
from tests.predictions import untrained_run, write_slide


@pytest.fixture(scope="module")
def run(tiny_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = ("experiment=smoke", f"env.cohort.path={tiny_slides}")
    return untrained_run(tmp_path_factory.mktemp("runs") / "one", *own)


@pytest.fixture(scope="module")
def agent(run: Path) -> Agent:
    return glimpse.load(run)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "a.svs", side=1024)


@pytest.fixture(scope="module")
def reading(agent: Agent, slide: Path) -> CaseReading:
    return agent.read(slide, max_glimpses=5)


def test_rollouts_of_an_image(agent: Agent, slide: Path) -> None:
    readings = agent.rollouts(slide, 3, max_glimpses=2, seed=1)
    assert [one.id for one in readings] == ["a"] * 3 and readings[0].spacing == (0.5, 0.5)
    assert all(one.scanpath.shape == (2, 2) for one in readings)
    assert len(np.unique([one.scanpath for one in readings], axis=0)) > 1
    with pytest.raises(SettingsError, match="count"):
        agent.rollouts(slide, 0)


def test_an_agent_is_its_policy_too(agent: Agent, run: Path) -> None:
    assert isinstance(agent.policy, GlimpsePolicy) and agent.settings is agent.policy.settings
    assert agent.layout == agent.policy.layout and agent.budget == 3 and str(run) in repr(agent)
    with pytest.raises(AttributeError):
        agent.nothing  # noqa: B018


def test_a_reading_tells_everything(reading: CaseReading, slide: Path) -> None:
    assert reading.id == "a" and reading.target is None and reading.glimpses == 5
    assert reading.probabilities.shape == (6, 2) and reading.scanpath.shape == (5, 2)
    assert reading.attention.shape == (6, 16, 16)
    assert list(reading.answer) == ["p_0", "p_1"] and sum(reading.answer.values()) == pytest.approx(1)
    assert reading.spacing == (0.5, 0.5) and reading.glimpse_spacings == ((1.0, 1.0),)
    chosen = [look.chance for look in reading.looks]
    assert chosen == pytest.approx(reading.attention[:-1].reshape(5, -1).max(1).tolist(), abs=1e-5), "the most probable"


def test_pictures_tables_and_geojson(reading: CaseReading, tmp_path: Path) -> None:
    picture = reading.plot(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as written:
        np.testing.assert_array_equal(np.array(picture), np.array(written))
    columns, rows = reading.table()
    assert columns == ["order", "level", "minx", "miny", "width", "height", "p_0", "p_1", "gain",
                       "locator_probability", "spacing", "unit"]  # fmt: skip
    assert len(rows) == 5
    collection = reading.to_geojson(tmp_path / "a.geojson")
    assert json.loads((tmp_path / "a.geojson").read_text()) == collection and len(collection["features"]) == 5
    with pytest.raises(SettingsError, match="annotation, detection, got 'box'"):
        reading.to_geojson(objects="box")
    shown = reading._repr_html_()
    assert "data:image/png;base64," in shown and "<td>p_1</td>" in shown


def test_names_are_escaped_in_notebooks(agent: Agent, slide: Path) -> None:
    shown = agent.read(slide, name="<script>alert(1)</script>", max_glimpses=0)._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown


def test_without_glimpses_it_answers_from_the_overview(agent: Agent, slide: Path) -> None:
    reading = agent.read(slide, max_glimpses=0)
    assert reading.probabilities.shape == (1, 2) and reading.looks == [] and reading.to_geojson()["features"] == []
    assert reading.plot().size[0] > 100


def test_data_frames_need_pandas(reading: CaseReading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'glimpse-rl\[pandas\]'"):
        reading.to_dataframe()
    monkeypatch.undo()
    pandas = pytest.importorskip("pandas")
    frame = reading.to_dataframe()
    assert isinstance(frame, pandas.DataFrame) and frame.shape == (5, 12) and frame["order"].tolist() == [1, 2, 3, 4, 5]


def test_a_network_that_answers_with_no_number(agent: Agent, slide: Path) -> None:
    broken = Agent(copy.deepcopy(agent.policy), agent.folder)
    for weights in broken.policy.parameters():
        torch.nn.init.constant_(weights, math.nan)
    with pytest.raises(DivergedError, match=r"Expected finite numbers.*that has diverged"):
        broken.read(slide, max_glimpses=0)


def test_a_pipe_is_refused_at_once(agent: Agent, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.svs")
    with pytest.raises(ImageReadError, match=r"a\.svs: neither a file nor a folder\. Correct the path"):
        agent.read(tmp_path / "a.svs")
    with pytest.raises(OSError, match="neither a file nor a folder"):
        fingerprint(tmp_path / "a.svs")


def test_sources_and_cases_can_be_read(agent: Agent, slide: Path, reading: CaseReading) -> None:
    source = SlideSource(slide)
    for image in (source, Case("a.svs", "p", source, 1)):
        again = agent.read(image, max_glimpses=5)
        np.testing.assert_array_equal(again.probabilities, reading.probabilities)


def test_options_are_of_files(agent: Agent, slide: Path) -> None:
    assert agent.read(slide, 1, mpp=0.25).spacing == (0.25, 0.25)
    with pytest.raises(SettingsError, match="mpp: options are of files, and this image is open already"):
        agent.read(agent.open(slide), 1, mpp=0.25)


@pytest.mark.parametrize("suffix", [".h5", ".xbm", ".msp"])
def test_a_picture_that_cannot_be_written_in_a_format(reading: CaseReading, tmp_path: Path, suffix: str) -> None:
    with pytest.raises(EvaluationError, match=r"cannot be written. Call it .png or .jpg"):
        reading.plot(tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


def test_the_order_of_images_changes_nothing(agent: Agent, slide: Path, reading: CaseReading, tmp_path: Path) -> None:
    other = write_slide(tmp_path / "b.svs", 1, side=1024)
    first = agent.read(other)
    np.testing.assert_array_equal(agent.read(slide, max_glimpses=5).probabilities, reading.probabilities)
    np.testing.assert_array_equal(agent.read(other).probabilities, first.probabilities)


def test_what_is_wrong_is_said(agent: Agent, slide: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match="no such file"):
        agent.read(tmp_path / "b.svs")
    with pytest.raises(SettingsError, match="max_glimpses"):
        agent.read(slide, max_glimpses=-1)
    with pytest.raises(PreflightError, match=r"larger than the image .* leave this image out") as raised:
        agent.read(write_slide(tmp_path / "s.svs", side=48))
    assert "glimpse_extents" not in str(raised.value)  # which a trained policy keeps
    array = tmp_path / "a.npy"
    np.save(array, np.zeros((1, 512, 512), np.uint8))
    with pytest.raises(EvaluationError, match=r"a\.npy has 2 axes and 1 channel, but"):
        agent.read(glimpse.open_source(array))


def test_importing_the_agent_needs_no_pandas_and_few_packages() -> None:
    named = "('pandas', 'sklearn', 'nibabel', 'pydicom', 'IPython', 'scipy.ndimage')"
    ready = "import sys, glimpse.predict; from glimpse.plugins import load_plugins; load_plugins()"
    code = f"{ready}; print([name for name in {named} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
