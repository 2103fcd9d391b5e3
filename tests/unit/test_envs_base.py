"""The environment itself: cases, options, observations, pictures, errors, real slides."""

import re
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import glimpse
from glimpse.envs import GlimpseEnv, array_cases, build_views, check, make_array, make_wsi
from glimpse.sources import ImageReadError
from glimpse.sources.slide.source import SlideSource
from glimpse.tasks import Classification


def arrays(count: int = 4, shape: tuple[int, ...] = (100, 140), channels: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (channels, *shape), dtype=np.uint8) for _ in range(count)]


def look(env: GlimpseEnv, location: list[float], stop: bool = False, zoom: int = 0) -> tuple:
    return env.step(env.layout.to_dict(env.layout.pack(location, stop, [0.0] * env.layout.outputs, zoom)))


def test_the_glimpse_is_cut_where_the_location_says() -> None:
    pixels = arrays(1)[0]
    env = make_array(([pixels], [0]), glimpse_size=20, max_glimpses=3)
    env.reset(seed=0)
    observation, *_ = look(env, [-0.5, 0.5])  # y = 0.25 * 100 = 25, x = 0.75 * 140 = 105
    np.testing.assert_array_equal(observation["glimpse"], pixels[:, 15:35, 95:115])
    np.testing.assert_array_equal(observation["location"], [-0.5, 0.5])
    np.testing.assert_allclose(observation["remaining"], 2 / 3)


def test_locations_outside_are_clipped() -> None:
    env = make_array((arrays(1), [0]), max_glimpses=1)
    env.reset(seed=0)
    observation, *_ = env.step({"location": np.array([3.0, -3.0]), "stop": 0, "prediction": np.zeros(2)})
    np.testing.assert_array_equal(observation["location"], [1, -1])


def test_volumes_and_zoom() -> None:
    pixels = arrays(1, (20, 60, 50), channels=1)[0]
    extents = [[4, 16, 16], [8, 32, 32]]
    env = make_array(
        ([pixels], [0]), glimpse_size=[4, 16, 16], glimpse_extents=extents, max_glimpses=2, render_mode="rgb_array"
    )
    env.reset(seed=0)
    assert env.render().shape[2] == 3
    near, *_ = look(env, [0.0, 0.0, 0.0], zoom=0)
    np.testing.assert_array_equal(near["glimpse"], pixels[:, 8:12, 22:38, 17:33])
    far, *_ = look(env, [0.0, 0.0, 0.0], zoom=1)
    boxes = pixels[:, 6:14, 14:46, 9:41].reshape(1, 4, 2, 16, 2, 16, 2).mean((2, 4, 6))
    np.testing.assert_allclose(far["glimpse"], boxes, atol=0.51)
    assert env.render().dtype == np.uint8
    *_, info = look(env, [0.0, 0.0, 0.0])
    assert list(info["zooms"]) == [0, 1] and np.shape(info["scanpath"]) == (2, 3)
    assert 0 < info["pixels_read"] <= 4 * 16 * 16 + 8 * 32 * 32
    assert 0 < info["share_read"] < 1


def test_cases_come_in_turn_and_in_a_new_order_each_time_round() -> None:
    env = make_array((arrays(6), [0, 1] * 3), max_glimpses=1)
    env.reset(seed=1)
    rounds = [[env.episode.case.id, *(env.reset()[1]["case"] for _ in range(5))]]
    rounds.append([env.reset()[1]["case"] for _ in range(6)])
    assert sorted(rounds[0]) == sorted(rounds[1]) == sorted(case.id for case in env.cases)
    assert rounds[0] != rounds[1]
    ordered = make_array((arrays(3), [0, 1, 0]), max_glimpses=1, shuffle=False)
    assert [ordered.reset()[1]["case"] for _ in range(4)] == [f"array-000{i}" for i in (0, 1, 2, 0)]


def test_reset_options() -> None:
    env = make_array((arrays(3), [0, 1, 0]), max_glimpses=4)
    observation, info = env.reset(options={"case": 1, "max_glimpses": 1})
    assert info["case"] == "array-0001" and info["target"] == 1
    np.testing.assert_allclose(observation["remaining"], 0.25)
    assert not look(env, [0, 0])[2] and look(env, [0, 0])[2]
    assert env.reset(options={"max_glimpses": 9})[0]["remaining"] == 1  # more than the environment's own stays at 1
    assert [look(env, [0, 0])[2] for _ in range(10)] == [False] * 9 + [True]
    with pytest.raises(ValueError, match="from 0 to 2, got 3"):
        env.reset(options={"case": 3})
    with pytest.raises(ValueError, match="budget"):
        env.reset(options={"budget": 3})
    for name, value in (("max_glimpses", -1), ("max_glimpses", "3"), ("case", "array-0001"), ("case", 1.5)):
        with pytest.raises(ValueError, match=f"reset option {name} .*got {value!r}"):
            env.reset(options={name: value})


def test_what_is_returned_belongs_to_the_caller() -> None:
    env = make_array((arrays(1), [0]), max_glimpses=2)
    first, _ = env.reset(seed=0)
    kept = {key: value.copy() for key, value in first.items()}
    for value in first.values():
        value[...] = 1
    second, _ = env.reset(seed=0)
    for key in kept:
        np.testing.assert_array_equal(second[key], kept[key])


def test_misuse_is_refused() -> None:
    env = make_array((arrays(2), [0, 1]), max_glimpses=1)
    with pytest.raises(ResetNeeded):
        look(env, [0, 0])
    env.reset()
    look(env, [0, 0], stop=True)
    with pytest.raises(ResetNeeded, match="array-000"):
        look(env, [0, 0])
    with pytest.raises(ValueError, match="at least one case"):
        make_array(([], []))
    with pytest.raises(ValueError, match="got 1 and 2"):
        array_cases(arrays(2), [0])
    with pytest.raises(ValueError, match="'human' or 'rgb_array', got 'ansi'"):
        make_array((arrays(1), [0]), render_mode="ansi")
    with pytest.raises(ValueError, match="max_glimpses"):
        make_array((arrays(1), [0]), max_glimpses=-1)
    for wrong in (2.5, True, float("nan"), "3", None):
        with pytest.raises(ValueError, match="max_glimpses to be a whole number"):
            make_array((arrays(1), [0]), max_glimpses=wrong)
    for cost in ("a", "0.1", float("nan"), None, True, ["a"], [[0.1]], [None]):
        with pytest.raises(ValueError, match="glimpse_cost to be a finite number, at least 0"):
            make_array((arrays(1), [0]), glimpse_cost=cost)
    assert (
        make_array((arrays(1), [0]), max_glimpses=np.int64(2), glimpse_cost=np.float32(0.5)).unwrapped.glimpse_cost
        == 0.5
    )
    with pytest.raises(ValueError, match="no splits"):
        make_array((arrays(1), [0]), split="train")


def test_impossible_sizes_are_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="array-0000"):
        make_array((arrays(1), [0]), glimpse_size=16, glimpse_extents=[500])
    with pytest.raises(ValueError, match="glimpse_size"):
        make_array((arrays(1), [0]), glimpse_size=[16, 16, 16])


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ([500], [100]),
        ([500, 16], [100, 16]),
        ([500, 200, 100, 16], [100, 16]),
        ([[500, 120], 16], [[100, 120], 16]),
    ],
)
def test_fields_of_view_that_fit_are_named_where_others_do_not(asked: list[Any], fits: list[Any]) -> None:
    with pytest.raises(ValueError, match="is larger than the image") as raised:
        make_array((arrays(1), [0]), glimpse_size=16, glimpse_extents=asked)
    assert f"pixels). Fields of view that fit: glimpse_extents={fits}. Or leave the case out." in str(raised.value)
    make_array((arrays(1), [0]), glimpse_size=16, glimpse_extents=fits)


def test_fields_of_view_that_fit_a_slide_are_in_micrometres(tiny_slides: Path) -> None:
    with pytest.raises(ValueError, match="larger than the image") as raised:
        make_wsi(tiny_slides, glimpse_extents=["2048um", "64um"])
    (fits,) = re.findall(r"Fields of view that fit: glimpse_extents=\['([\d.]+)um', '64um'\]\. Or", str(raised.value))
    make_wsi(tiny_slides, glimpse_extents=[f"{fits}um", "64um"])


def test_images_of_different_kinds_are_refused() -> None:
    cases = [*array_cases(arrays(1), [0]), *array_cases(arrays(1, channels=1), [1])]
    env = GlimpseEnv(cases, Classification(2), build_views(2, 32, 16, 16), max_glimpses=1)
    with pytest.raises(ValueError, match=r"array-0000 has 2 axes and 1 channel, but .* 2 axes and 3 channels\."):
        env.reset(options={"case": 1})


def test_picture_shows_boxes_where_was_looked() -> None:
    white = np.full((3, 100, 200), 255, np.uint8)
    env = make_array(([white], [0]), glimpse_size=20, max_glimpses=2, render_mode="rgb_array")
    env.reset()
    before = env.render()
    look(env, [0.0, -0.5])
    look(env, [0.5, 0.5])
    after = env.render()
    assert before.shape == after.shape == (512, 512 + 8 + 512, 3)  # 100 x 200 pixels are drawn twice as wide as high
    changed = (before != after).any(-1)[:, :512]
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert changed[128 - 25, 128] and changed[192 + 25, 384]  # a glimpse of 20 of 100 pixels spans 51 of 256
    assert rows.min() > 128 - 45 and columns.min() > 128 - 45  # nothing was looked at further up or left
    assert rows.max() < 256


def test_make_by_id() -> None:
    assert glimpse.__version__
    env = gymnasium.make("glimpse/Array-v0", cohort=(arrays(2), [0, 1]), max_glimpses=3)
    env.reset(seed=0)
    assert isinstance(env.unwrapped, GlimpseEnv) and env.unwrapped.max_glimpses == 3


def test_slides_by_id(tiny_slides: Path) -> None:
    env = gymnasium.make("glimpse/WSI-v0", cohort=tiny_slides, overview_size=64, max_glimpses=2)
    observation, info = env.reset(seed=0)
    assert observation["overview"].shape == (3, 64, 64) and info["target"] in (0, 1)
    assert set(np.unique(observation["foreground"])) <= {0, 255}
    action = {"location": np.zeros(2, np.float32), "stop": 0, "prediction": np.zeros(2, np.float32)}
    assert env.step(action)[0]["glimpse"].std() > 0


def write_cohort(folder: Path, rows: list[str]) -> Path:
    path = folder / "cohort.csv"
    path.write_text("case_id,slide_id,path,target,split\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_real_slide(shared_data: Path, tmp_path: Path) -> None:
    slide = shared_data / "real" / "cmu_small_region.svs"
    cohort = write_cohort(tmp_path, [f"p1,cmu,{slide},1,train"])
    env = make_wsi(cohort, overview_size=128, glimpse_extents=("64um",), max_glimpses=3)
    env.reset(seed=0)
    glimpses = [look(env, location)[0]["glimpse"] for location in ([0.0, 0.0], [0.3, -0.4], [-0.5, 0.2])]
    assert max(glimpse.std() for glimpse in glimpses) > 5
    *_, terminated, _, info = look(env, [0.0, 0.0])
    assert terminated and info["case"] == "cmu" and 0 < info["share_read"] < 1
    assert check(env) == ()


def test_broken_slides_end_in_a_message_or_are_skipped(shared_data: Path, tmp_path: Path) -> None:
    slide = shared_data / "real" / "cmu_small_region.svs"
    (tmp_path / "cut.svs").write_bytes(slide.read_bytes()[:300_000])
    rows = [f"p1,good,{slide},1,train", "p2,gone,gone.svs,0,train", "p3,cut,cut.svs,0,train"]
    cohort = write_cohort(tmp_path, rows)
    with pytest.raises(ValueError, match=r"(?s)gone.*cut"):
        make_wsi(cohort, overview_size=64)
    with pytest.warns(UserWarning, match=r"gone|cut"):
        env = make_wsi(cohort, overview_size=64, on_error="skip")
    assert [case.id for case in env.cases] == ["good"]


def test_a_slide_that_breaks_later_is_named(tiny_slides: Path, tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    shutil.copytree(tiny_slides.parent, folder)
    env = make_wsi(folder / tiny_slides.name, overview_size=32)
    source = env.cases[0].source
    source.close()
    source.path.write_bytes(b"")
    with pytest.raises(ImageReadError, match=source.path.name):
        env.reset(options={"case": 0})


def test_an_episode_asks_only_once_which_file_it_reads(tiny_slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_wsi(tiny_slides, glimpse_size=32, max_glimpses=4)
    env.reset(options={"case": 0})
    asked: list[Path] = []
    whole = SlideSource.identity.fget
    assert whole is not None
    monkeypatch.setattr(SlideSource, "identity", property(lambda source: asked.append(source.path) or whole(source)))
    for place in (-0.5, 0.0, 0.5):
        env.unwrapped.act(env.layout.from_dict({"location": [place, 0.0], "stop": 0, "prediction": [0.0, 0.0]}), 0.0)
        env.unwrapped.read_glimpse()
    assert len(asked) == 1
    env.reset(options={"case": 1})
    look(env, [0.1, 0.1])
    assert asked[-1] != asked[0]


def test_gymnasium_collects_frames() -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64), np.uint8)
    made: Any = gymnasium.make("glimpse/Array-v0", cohort=(arrays, [0, 1]), render_mode="rgb_array_list")
    made.reset(seed=0)
    made.step(made.action_space.sample())
    frames = made.render()
    assert len(frames) == 2 and frames[0].dtype == np.uint8 and frames[0].ndim == 3
    with pytest.raises(Exception, match="render"):
        gymnasium.make("glimpse/Array-v0", cohort=(arrays, [0, 1]), render_mode="ansi")
