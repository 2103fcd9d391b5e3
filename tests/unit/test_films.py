"""Films of environments, as Gymnasium and Stable-Baselines3 write them with MoviePy, can be played."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecVideoRecorder

import glimpse  # noqa: F401 - registers the environments
from glimpse.envs import FlattenAction, GlimpseVecEnv

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg, of the extra video, is not installed")
pytest.importorskip("moviepy", reason="MoviePy, of the extra video, is not installed")

GLIMPSES = 2
OPTIONS: dict[str, dict[str, Any]] = {
    "glimpse/Array-v0": {"overview_size": 32, "glimpse_size": 16},
    "glimpse/Relations-v0": {"n": {"train": 4, "val": 2, "test": 2}, "glimpse_size": 36, "strokes": 4},
    "glimpse/WSI-v0": {"cohort": "tiny_slides", "overview_size": 64},
    "glimpse/XRay-v0": {"cohort": "tiny_radiographs", "overview_size": 64},
    "glimpse/MRI-v0": {"cohort": "tiny_mri", "overview_size": 36},
}
"""Environments whose images are quickly made; cohorts are fixtures."""


def made(name: str, request: pytest.FixtureRequest) -> FlattenAction:
    options = dict(OPTIONS[name])
    if name == "glimpse/Array-v0":
        pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 60, 90), np.uint8)
        options["cohort"] = (list(pixels), [0, 1])
    elif "cohort" in options:
        options["cohort"] = request.getfixturevalue(options["cohort"])
    return FlattenAction(gymnasium.make(name, max_glimpses=GLIMPSES, render_mode="rgb_array", **options))


def frames(film: Path) -> int:
    """The number of pictures of a film, of which its player shows two in a second."""
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(film))
    assert seconds == pytest.approx(count / 2, abs=0.1)
    return count


@pytest.mark.filterwarnings("ignore:.*Overwriting existing videos")
@pytest.mark.parametrize("name", OPTIONS)
def test_an_episode_is_filmed(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    env = gymnasium.wrappers.RecordVideo(made(name, request), str(tmp_path), episode_trigger=lambda _: True)
    env.reset(seed=0)
    env.action_space.seed(0)
    steps, ended = 0, False
    while not ended:
        ended, steps = env.step(env.action_space.sample())[2], steps + 1
    env.close()
    (film,) = tmp_path.glob("*.mp4")
    assert frames(film) == 1 + steps


@pytest.mark.parametrize("vector", [DummyVecEnv, GlimpseVecEnv])
def test_lanes_are_filmed(vector: type[VecEnv], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    lanes = vector([lambda: made("glimpse/Array-v0", request)] * 3)
    recorder = VecVideoRecorder(lanes, str(tmp_path), lambda step: step == 0, video_length=3)
    recorder.reset()
    for _ in range(4):
        recorder.step(np.stack([recorder.action_space.sample() for _ in range(3)]))
    recorder.close()
    (film,) = tmp_path.glob("*.mp4")
    assert frames(film) == 4
