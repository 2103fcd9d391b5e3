"""Environments are rendered and recorded, alone and as lanes, whatever their images look like."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecVideoRecorder

import glimpse  # noqa: F401 - registers the environments
from glimpse.envs import FlattenAction, GlimpseVecEnv, array_cases

SHAPES = {
    "images": [(1, 60, 60), (1, 60, 240), (1, 240, 60)],
    "volumes": [(1, 20, 20, 20), (1, 12, 40, 20), (1, 40, 12, 12)],
    "signals": [(1, 100), (1, 400)],
}
SIZES: dict[str, Any] = {"overview_size": 24, "glimpse_size": 8, "max_glimpses": 3, "render_mode": "rgb_array"}
HUMAN = {**SIZES, "render_mode": "human"}


def made(kind: str = "images", **options: Any) -> FlattenAction:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, shape, np.uint8) for shape in SHAPES[kind]]
    cases = array_cases(arrays, [index % 2 for index in range(len(arrays))])
    return FlattenAction(gymnasium.make("glimpse/Array-v0", cohort=cases, **SIZES, **options))


def on_different_cases(vector: VecEnv, kind: str) -> VecEnv:
    vector.set_options([{"case": index} for index in range(len(SHAPES[kind]))])
    vector.reset()
    return vector


@pytest.fixture
def films(monkeypatch: pytest.MonkeyPatch) -> list[list[np.ndarray]]:
    """The frames of each film that would have been written: MoviePy, which writes them, need not be installed."""
    found: list[list[np.ndarray]] = []

    class ImageSequenceClip:
        def __init__(self, frames: list[np.ndarray], fps: float) -> None:
            found.append(list(frames))
            assert fps == 2

        def write_videofile(self, path: str, logger: Any = None) -> None: ...

    names = ("moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip")
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[names[-1]].ImageSequenceClip = ImageSequenceClip  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("vector", [DummyVecEnv, GlimpseVecEnv])
def test_pictures_of_all_lanes_have_one_size(vector: type[VecEnv], kind: str) -> None:
    lanes = on_different_cases(vector([lambda: made(kind)] * len(SHAPES[kind])), kind)
    pictures = lanes.get_images()
    assert len({picture.shape for picture in pictures if picture is not None}) == 1
    assert all(picture is not None and (picture != 255).mean() > 0.01 for picture in pictures)
    tiled = lanes.render("rgb_array")
    assert (
        tiled is not None and tiled.dtype == np.uint8 and tiled.size >= sum(p.size for p in pictures if p is not None)
    )


def test_lanes_that_draw_pictures_of_other_sizes_get_margins() -> None:
    lanes = GlimpseVecEnv([made(), made()])
    lanes.reset()
    lanes.lanes[1].render = lambda: np.zeros((40, 30, 3), np.uint8)  # type: ignore[method-assign]
    first, second = lanes.get_images()
    assert first is not None and second is not None and first.shape == second.shape
    assert (second[:40, :30] == 0).all() and (second[40:] == 255).all() and (second[:, 30:] == 255).all()


def test_films_are_recorded(films: list[list[np.ndarray]], tmp_path: Path) -> None:
    env = gymnasium.wrappers.RecordVideo(made(), str(tmp_path / "one"), episode_trigger=lambda _: True)
    for case in range(3):
        env.reset(options={"case": case})
        ended = False
        while not ended:
            ended = env.step(env.action_space.sample())[2]
    env.close()
    assert len(films) == 3
    for lanes in (DummyVecEnv([made] * 3), GlimpseVecEnv([made] * 3)):
        films.clear()
        recorder = VecVideoRecorder(lanes, str(tmp_path / "many"), lambda step: step == 0, video_length=6)
        recorder.reset()
        for _ in range(8):
            recorder.step(np.stack([recorder.action_space.sample() for _ in range(3)]))
        recorder.close()
        (film,) = films
        assert len(film) == 7 and len({frame.shape for frame in film}) == 1


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[np.ndarray]]:
    """What a window has shown, one picture after another: matplotlib draws, but waits for no screen."""
    from matplotlib import pyplot

    shown: list[np.ndarray] = []

    def pause(seconds: float) -> None:
        assert seconds == 0.5  # two pictures in a second
        shown.append(np.asarray(pyplot.gcf().axes[0].images[0].get_array()))

    pyplot.switch_backend("agg")
    monkeypatch.setattr(pyplot, "get_backend", lambda: "TkAgg")
    monkeypatch.setattr(pyplot, "pause", pause)
    yield shown
    pyplot.close("all")


def test_a_window_shows_every_step(screen: list[np.ndarray]) -> None:
    from matplotlib import pyplot

    drawn, watched = made(), FlattenAction(gymnasium.make("glimpse/Array-v0", cohort=made().unwrapped.cases, **HUMAN))
    for env in (drawn, watched):
        env.reset(seed=0, options={"case": 1})
    expected = [drawn.render()]
    layout = drawn.get_wrapper_attr("layout")
    for place in ([0.5, 0.0], [-0.5, 0.5]):
        action = layout.pack(np.array([place]), np.array([False]), np.zeros((1, 2)))[0]
        drawn.step(action)
        watched.step(action)
        expected.append(drawn.render())
    assert watched.render() is None  # shown once more, as others do who call it in a loop
    np.testing.assert_array_equal(screen, [*expected, expected[-1]])
    assert len(pyplot.get_fignums()) == 1
    watched.close()
    assert not pyplot.get_fignums()


def test_windows_of_lanes_are_shown_when_they_are_asked_for(screen: list[np.ndarray]) -> None:
    cases = made().unwrapped.cases
    lanes = GlimpseVecEnv([lambda: FlattenAction(gymnasium.make("glimpse/Array-v0", cohort=cases, **HUMAN))] * 2)
    lanes.reset()
    lanes.step(np.stack([lanes.action_space.sample()] * 2))
    assert not screen
    lanes.render("human")
    assert len(screen) == 2
    lanes.close()


def test_without_a_screen_the_remedy_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    env = gymnasium.make("glimpse/Array-v0", cohort=made().unwrapped.cases, **HUMAN)
    env.reset()
    env.reset()
    (said,) = [record.getMessage() for record in caplog.records if "screen" in record.getMessage()]
    assert "backend agg" in said and "rgb_array" in said and "glimpse-rl[video]" in said


@pytest.mark.parametrize("limit", ["max_episode_steps", "TimeLimit"])
def test_the_last_info_is_complete_where_a_time_limit_ends_the_episode(limit: str) -> None:
    env = made(max_episode_steps=2) if limit == "max_episode_steps" else gymnasium.wrappers.TimeLimit(made(), 2)
    monitored = Monitor(env, info_keywords=("score", "pixels_read"))
    monitored.reset(seed=0, options={"case": 0})
    layout = env.get_wrapper_attr("layout")
    for location in ([0.0, 0.0], [1.0, 0.0]):
        action = layout.pack(np.array([location]), np.array([False]), np.array([[-2.0, 2.0]]))[0]
        _, _, terminated, truncated, info = monitored.step(action)
    assert (terminated, truncated) == (False, True)
    np.testing.assert_allclose(np.asarray(info["scanpath"]), [[0, 0], [1, 0]])
    assert info["pixels_read"] == 8 * 8 + 4 * 8 == info["episode"]["pixels_read"]  # the second one is half outside
    assert info["score"] == info["episode"]["score"] < 0  # case 0 has class 0, class 1 was predicted
    assert info["share_read"] > 0 and len(info["zooms"]) == 2
