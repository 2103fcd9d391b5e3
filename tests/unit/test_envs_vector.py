"""Many lanes at once."""

import functools
import threading
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from glimpse.envs import FlattenAction, GlimpseVecEnv, array_cases, make_array
from glimpse.tasks import Classification

TASK = Classification(2)


def make_cases(count: int = 5) -> list:
    rng = np.random.default_rng(0)
    return array_cases([rng.integers(0, 256, (1, 60, 80), dtype=np.uint8) for _ in range(count)], [0, 1, 1, 0, 1])


def make_lanes(count: int, **options: Any) -> list[FlattenAction]:
    cases = make_cases()
    settings = {"task": TASK, "max_glimpses": 3, "glimpse_cost": 0.1} | options
    return [FlattenAction(make_array(cases, glimpse_size=16, **settings)) for _ in range(count)]


def random_actions(env: GlimpseVecEnv, rng: np.random.Generator, stop: float = 0.2) -> np.ndarray:
    n = env.num_envs
    return env.layout.pack(rng.uniform(-1, 1, (n, 2)), rng.random(n) < stop, rng.normal(0, 2, (n, 2)))


def keep(obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value.copy() for key, value in obs.items()}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("own_task", [False, True])
def test_it_does_what_dummy_vec_env_does(threads: int, own_task: bool) -> None:
    options = {"task": None} if own_task else {}
    ours = GlimpseVecEnv(make_lanes(4, **options), threads=threads)
    theirs = DummyVecEnv([lambda lane=lane: Monitor(lane) for lane in make_lanes(4, **options)])
    for env in (ours, theirs):
        env.seed(3)
    rng = np.random.default_rng(1)
    results = [(ours.reset(), theirs.reset())]
    for _ in range(15):
        actions = random_actions(ours, rng)
        (obs, rewards, dones, infos), (obs2, rewards2, dones2, infos2) = ours.step(actions), theirs.step(actions)
        results.append((obs, obs2))
        np.testing.assert_allclose(rewards, rewards2, atol=1e-6)
        np.testing.assert_array_equal(dones, dones2)
        for one, other in zip(infos, infos2, strict=True):
            extra = set() if "episode" in one else {"scanpath", "zooms", "score", "pixels_read", "share_read"}
            assert one.keys() == other.keys() - extra
            assert (one["case"], one["target"]) == (other["case"], other["target"])
            if "episode" in one:
                assert one["episode"]["l"] == other["episode"]["l"]
                assert one["episode"]["r"] == pytest.approx(other["episode"]["r"], abs=1e-5)
                np.testing.assert_array_equal(one["scanpath"], other["scanpath"])
                for key, value in one["terminal_observation"].items():
                    np.testing.assert_array_equal(value, other["terminal_observation"][key])
    for one, other in results:
        for key in one:
            assert one[key].dtype == other[key].dtype
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)
    ours.close()


def test_returned_arrays_are_never_written_again() -> None:
    env = GlimpseVecEnv(make_lanes(4))
    rng = np.random.default_rng(0)
    seen = [env.reset()]
    copies = [keep(seen[0])]
    for _ in range(10):
        obs, *_ = env.step(random_actions(env, rng))
        seen.append(obs)
        copies.append(keep(obs))
    for obs, copy in zip(seen, copies, strict=True):
        for key in obs:
            np.testing.assert_array_equal(obs[key], copy[key], err_msg=key)


def test_overviews_are_not_copied_while_no_lane_is_reset() -> None:
    env = GlimpseVecEnv(make_lanes(3))
    first = env.reset()
    second, *_ = env.step(random_actions(env, np.random.default_rng(0), stop=0.0))
    assert second["overview"] is first["overview"] and second["foreground"] is first["foreground"]
    assert second["glimpse"] is not first["glimpse"]


def test_a_parked_lane_stays_as_it_is_until_reset() -> None:
    env = GlimpseVecEnv(make_lanes(3), park=True)
    rng = np.random.default_rng(0)
    env.reset()
    before, *_ = env.step(random_actions(env, rng, stop=0.0))
    actions = random_actions(env, rng, stop=0.0)
    actions[1, 2] = 1.0  # lane 1 stops
    obs, _, dones, infos = env.step(actions)
    assert dones.tolist() == [False, True, False] and env.active.tolist() == [True, False, True]
    assert infos[1]["episode"]["l"] == 2
    for key in obs:
        np.testing.assert_array_equal(obs[key][1], before[key][1])
    actions = random_actions(env, rng, stop=0.0)
    actions[1] = np.nan  # nobody looks at it
    after, rewards, dones, infos = env.step(actions)
    assert not dones[1] and rewards[1] == 0 and infos[1] == {}
    np.testing.assert_array_equal(after["glimpse"][1], before["glimpse"][1])
    assert env.reset()["remaining"].min() == 1 and env.active.all()


def test_set_active_leaves_lanes_alone() -> None:
    env = GlimpseVecEnv(make_lanes(3))
    env.seed(0)
    first = env.reset()
    env.set_active([True, False, True])
    obs, rewards, dones, infos = env.step(random_actions(env, np.random.default_rng(0), stop=1.0))
    assert dones.tolist() == [True, False, True] and rewards[1] == 0 and infos[1] == {}
    env.set_options([{"case": 0}, {"case": 1}, {"case": 2}])
    case = env.lanes[1].episode.case
    obs = env.reset()
    np.testing.assert_array_equal(obs["overview"][1], first["overview"][1])
    assert env.lanes[1].episode.case is case and env.lanes[2].episode.case.id == "array-0002"
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        env.set_active([True])


def test_options_and_seeds_are_used_once() -> None:
    env = GlimpseVecEnv(make_lanes(2))
    env.set_options([{"case": 4, "max_glimpses": 1}, {"case": 3}])
    np.testing.assert_allclose(env.reset()["remaining"][:, 0], [1 / 3, 1])
    assert [info["case"] for info in env.reset_infos] == ["array-0004", "array-0003"]
    assert env.reset()["remaining"].min() == 1
    orders = []
    for _ in range(2):
        env.seed(5)
        env.reset()
        orders.append([info["case"] for info in env.reset_infos])
    assert orders[0] == orders[1]


def test_lanes_share_cases() -> None:
    env = GlimpseVecEnv(make_lanes(3))
    assert env.lanes[0].cases[0] is env.lanes[2].cases[0]


def test_reads_happen_in_threads_and_their_errors_arrive() -> None:
    env = GlimpseVecEnv(make_lanes(4), threads=2)
    env.reset()
    two, names = threading.Barrier(2, timeout=30), set()

    def read(lane: int) -> Any:
        names.add(threading.current_thread().name)
        two.wait()  # only if two threads read at once does this go on
        if lane == 2:
            raise OSError("slide.svs is cut short")
        return np.full(env.observation_space["glimpse"].shape, lane, np.uint8)

    for number, lane in enumerate(env.lanes):
        lane.read_glimpse = functools.partial(read, number)  # type: ignore[method-assign]
    with pytest.raises(OSError, match=r"slide\.svs"):
        env.step(random_actions(env, np.random.default_rng(0), stop=0.0))
    assert names - {threading.current_thread().name} and all(
        name.startswith("glimpse-read") for name in names - {threading.current_thread().name}
    )
    env.close()


def test_the_rest_of_the_interface() -> None:
    env = GlimpseVecEnv([lambda lane=lane: lane for lane in make_lanes(2, render_mode="rgb_array")])
    env.reset()
    assert env.get_attr("max_glimpses") == [3, 3]
    env.set_attr("max_glimpses", 5, indices=1)
    assert [lane.max_glimpses for lane in env.lanes] == [3, 5]
    assert env.env_method("info", indices=[0])[0]["case"] == env.lanes[0].episode.case.id
    assert env.env_is_wrapped(FlattenAction) == [True, True] and env.env_is_wrapped(Monitor) == [True, True]
    assert env.env_is_wrapped(gymnasium.wrappers.TimeLimit) == [False, False]
    assert env.render("rgb_array").ndim == 3
    env.close()
    env.close()


def test_what_cannot_be_stepped_directly_is_refused() -> None:
    with pytest.raises(TypeError, match="Monitor"):
        GlimpseVecEnv([Monitor(make_lanes(1)[0])])
    with pytest.raises(TypeError, match="CartPole"):
        GlimpseVecEnv([gymnasium.make("CartPole-v1").unwrapped])
    with pytest.raises(ValueError, match="equal spaces"):
        GlimpseVecEnv([*make_lanes(1), *make_lanes(1, overview_size=20)])
    with pytest.raises(ValueError, match="at least one"):
        GlimpseVecEnv([])
    env = GlimpseVecEnv(make_lanes(2))
    env.reset()
    with pytest.raises(ValueError, match=r"shape \(2, 5\)"):
        env.step(np.zeros((2, 4)))
