"""Every registered environment keeps the contract, and runs with what Gymnasium and Stable-Baselines3 bring."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import glimpse  # noqa: F401 - registers the environments
from glimpse.envs import FlattenAction, GlimpseVecEnv, check, make_array

pytestmark = pytest.mark.filterwarnings("error")

IDS = sorted(env_id for env_id in gymnasium.registry if env_id.startswith("glimpse/"))


def pair(count: int = 4, shape: tuple[int, ...] = (90, 120), channels: int = 3) -> tuple:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (channels, *shape), dtype=np.uint8) for _ in range(count)], [0, 1, 0, 1][:count]


@pytest.fixture(params=IDS)
def env(
    request: pytest.FixtureRequest,
    tiny_slides: Path,
    tiny_radiographs: Path,
    tiny_photos: Path,
    tiny_mri: Path,
    tiny_ct: Path,
    tiny_mnist: Path,
) -> Iterator[gymnasium.Env]:
    few = {"train": 6, "val": 2, "test": 2}
    options: dict[str, dict] = {
        "glimpse/WSI-v0": {"cohort": tiny_slides, "overview_size": 64},
        "glimpse/XRay-v0": {"cohort": tiny_radiographs, "overview_size": 64},
        "glimpse/Photo-v0": {"cohort": tiny_photos, "overview_size": 64},
        "glimpse/MRI-v0": {"cohort": tiny_mri, "overview_size": 36},
        "glimpse/CT-v0": {
            "cohort": tiny_ct,
            "glimpse_size": (6, 36, 36),
            "glimpse_extents": [["12mm", "24mm", "24mm"]],
        },
        "glimpse/Array-v0": {"cohort": pair()},
        "glimpse/MegapixelMNIST-v0": {"root": tiny_mnist, "n": few, "size": 600, "glimpse_size": 36},
        "glimpse/GigapixelMNIST-v0": {
            "root": tiny_mnist,
            "n": few,
            "size": 2000,
            "island_size": 300,
            "islands": 4,
            "strokes": 4,
        },
        "glimpse/NeedleMNIST-v0": {"root": tiny_mnist, "n": few, "size": 300, "clutter": 5, "glimpse_size": 36},
        "glimpse/ClutteredMNIST-v0": {
            "root": tiny_mnist,
            "n": few,
            "overview_size": 36,
            "glimpse_size": 36,
            "glimpse_extents": [36],
        },
        "glimpse/Relations-v0": {"n": few, "glimpse_size": 36, "strokes": 60},
    }
    if request.param not in options:
        pytest.fail(f"{request.param} is registered, but this test does not know how to make it small: add it.")
    made = gymnasium.make(request.param, max_glimpses=4, **options[request.param])
    yield made
    made.close()


def small() -> gymnasium.Env:
    return FlattenAction(make_array(pair(shape=(50, 60), channels=1), overview_size=36, max_glimpses=3))


def test_contract(env: gymnasium.Env) -> None:
    assert check(env) == ()
    assert check(FlattenAction(env)) == ()


def test_gymnasium_checker(env: gymnasium.Env) -> None:
    gymnasium_check(env.unwrapped)


def test_stable_baselines_checker(env: gymnasium.Env) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your observation .* unconventional shape")  # it says so of every volume
        sb3_check(FlattenAction(env))


def test_stable_baselines_checker_with_pictures() -> None:
    sb3_check(FlattenAction(make_array(pair(), render_mode="rgb_array")), skip_render_check=False)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((300,), {"glimpse_size": 16, "glimpse_extents": [64, 16]}),
        ((20, 60, 50), {"glimpse_size": [4, 16, 16], "glimpse_extents": [[8, 32, 32], [4, 16, 16]]}),
    ],
    ids=["signal", "volume"],
)
def test_contract_in_other_dimensions(shape: tuple[int, ...], options: dict) -> None:
    made = make_array(pair(shape=shape), max_glimpses=4, glimpse_cost=0.01, **options)
    assert check(made) == () and check(FlattenAction(made)) == ()


def test_ppo_of_stable_baselines_trains_unchanged() -> None:
    model = PPO("MultiInputPolicy", small(), n_steps=250, batch_size=125, n_epochs=1, seed=0)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.learn(1000)
    assert model.num_timesteps == 1000
    assert any((value != before[key]).any() for key, value in model.policy.state_dict().items())
    assert len(model.ep_info_buffer) > 50


@pytest.mark.parametrize("vector", [DummyVecEnv, GlimpseVecEnv])
def test_vectors_of_stable_baselines(vector: Callable) -> None:
    made = vector([small] * 2)
    model = PPO("MultiInputPolicy", made, n_steps=8, batch_size=16, n_epochs=1, seed=0)
    model.learn(32)
    made = GlimpseVecEnv([small] * 2) if vector is GlimpseVecEnv else DummyVecEnv([lambda: Monitor(small())] * 2)
    returns, lengths = evaluate_policy(model, made, n_eval_episodes=4, return_episode_rewards=True)
    assert len(returns) == 4 and max(lengths) <= 4


@pytest.mark.slow
def test_vector_in_processes() -> None:
    made = SubprocVecEnv([small])
    made.seed(0)
    assert made.reset()["overview"].shape == (1, 1, 36, 36)
    for _ in range(4):
        _, rewards, _, infos = made.step(made.action_space.sample()[None])
        assert rewards.shape == (1,) and "target" in infos[0]
    made.close()


def test_vector_of_gymnasium() -> None:
    for make in (small, lambda: small().env):
        made = gymnasium.vector.SyncVectorEnv([make] * 2)
        made.reset(seed=0)
        made.action_space.seed(0)
        for _ in range(20):
            obs, rewards, *_ = made.step(made.action_space.sample())
        assert obs["glimpse"].shape == (2, 1, 36, 36) and rewards.shape == (2,)
        made.close()
