"""Agents in Stable-Baselines3's own file: loaded without an environment, with other options, and for other cases."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glimpse.agents import PPO, Random
from glimpse.envs import FlattenAction, GlimpseVecEnv, array_cases, make_array
from glimpse.errors import SettingsError
from glimpse.networks import ConvEncoder

GIVEN: dict[str, Any] = {"cases_per_rollout": 2, "rollouts_per_case": 2, "seed": 0, "device": "cpu"}


def environment(cases: int = 6, max_glimpses: int = 3) -> FlattenAction:
    arrays = np.random.default_rng(0).integers(0, 255, (cases, 1, 48, 48), dtype=np.uint8)
    listed = array_cases(arrays, np.arange(cases) % 2)
    sizes: dict[str, Any] = {"overview_size": 24, "glimpse_size": 8, "glimpse_extents": [16]}
    return FlattenAction(make_array(listed, split=None, max_glimpses=max_glimpses, **sizes))


def lanes(count: int = 4, **options: Any) -> GlimpseVecEnv:
    return GlimpseVecEnv([environment(**options) for _ in range(count)], park=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[PPO, Path]:
    """An agent that has learned a little, and its file."""
    path = tmp_path_factory.mktemp("agent") / "ppo.zip"
    model = PPO("GlimpsePolicy", lanes(), clip_range=0.1, weight_decay=0.02, **GIVEN).learn(32)
    model.save(path)
    return model, path


def test_without_an_environment_it_predicts_as_before(saved: tuple[PPO, Path]) -> None:
    model, path = saved
    loaded = PPO.load(path, device="cpu")
    assert loaded.options.losses.clip_range == 0.1  # type: ignore[attr-defined]
    env = lanes(3)
    env.seed(0)
    shown, states, starts = env.reset(), (None, None), np.ones(3, bool)
    for _ in range(3):
        (one, first), (other, second) = (
            agent.predict(shown, state, starts, deterministic=True)
            for agent, state in zip((model, loaded), states, strict=True)
        )
        np.testing.assert_array_equal(one, other)
        states, starts = (first, second), np.zeros(3, bool)
        shown = env.step(one)[0]
    with pytest.raises(SettingsError, match=r"PPO needs an environment to learn: call set_env\(\)"):
        loaded.learn(16)


def test_it_learns_on_with_an_environment_that_is_set_later(saved: tuple[PPO, Path]) -> None:
    _, path = saved
    now, later = PPO.load(path, env=lanes(), device="cpu"), PPO.load(path, device="cpu")
    later.set_env(lanes())
    for model in (now, later):
        model.set_random_seed(3)
        model.learn(2 * model.steps_per_update)
    for name, value in now.policy.state_dict().items():
        assert torch.equal(value, later.policy.state_dict()[name]), name


def test_another_environment_brings_its_cases_and_its_budget(saved: tuple[PPO, Path]) -> None:
    _, path = saved
    model = PPO.load(path, env=lanes(), device="cpu")
    assert (model.n_cases, model.rollouts.budget, model.steps_per_update) == (6, 3, 16)
    model.learn(16)
    model.set_env(lanes(2, cases=3, max_glimpses=5))
    assert (model.n_cases, model.rollouts.budget, model.steps_per_update, model.n_envs) == (3, 5, 24, 2)
    model.learn(4 * model.steps_per_update, reset_num_timesteps=False)
    assert model.episodes is not None and int(model.episodes.length.max()) > 3
    fixed = PPO("GlimpsePolicy", lanes(), max_glimpses=2, **GIVEN)
    fixed.set_env(lanes(max_glimpses=5))
    assert fixed.rollouts.budget == 2  # it was asked for
    with pytest.raises(SettingsError, match="does not divide among 3"):
        model.set_env(lanes(3))
    assert (model.n_envs, model.n_cases) == (2, 3)


def test_options_given_to_load_take_effect_or_are_refused(saved: tuple[PPO, Path]) -> None:
    _, path = saved
    changes: dict[str, Any] = {"n_epochs": 3, "weight_decay": 0.5, "ent_coef": 0.25, "max_glimpses": 1}
    model = PPO.load(path, env=lanes(), device="cpu", learning_rate=0.125, stats_window_size=7, **changes)
    updates, losses = model.learner.updates, model.learner.losses
    assert (updates.n_epochs, updates.weight_decay, losses.ent_coef, losses.clip_range) == (3, 0.5, 0.25, 0.1)  # type: ignore[attr-defined]
    assert {group["weight_decay"] for group in model.policy.optimizer.param_groups} == {0.5}
    assert model.rollouts.budget == 1 and model.lr_schedule(1) == 0.125
    model.learn(model.steps_per_update)
    assert model.ep_info_buffer is not None and model.ep_info_buffer.maxlen == 7
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.125
    for given, words in (
        ({"n_epoch": 3}, "PPO.load has no option 'n_epoch'; did you mean 'n_epochs'"),
        ({"n_epochs": 0}, "n_epochs of at least 1"),
        ({"devise": "cpu"}, "did you mean 'device'"),
    ):
        with pytest.raises(SettingsError, match=words):
            PPO.load(path, **given)


def test_a_policy_that_was_given_to_the_agent_is_loaded_with_its_structure(tmp_path: Path) -> None:
    def narrow(channels: int, ndim: int) -> ConvEncoder:
        return ConvEncoder(channels, ndim, widths=(4, 8), strides=(2, 2))

    policy = PPO("GlimpsePolicy", lanes(), policy_kwargs={"encoder": narrow}, **GIVEN).policy
    model = Random(policy, lanes(2), cases_per_rollout=2, device="cpu").learn(8)
    model.save(tmp_path / "random.zip")
    assert model.policy.optimizer is not None
    model.learn(8)
    again = Random.load(tmp_path / "random.zip", device="cpu")
    assert sum(p.numel() for p in again.policy.encoder.parameters()) < 1000
    assert not torch.equal(again.policy.answer_head.weight, model.policy.answer_head.weight)
    again.set_env(lanes(2))
    again.learn(8)


def test_a_run_folder_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"loaded with glimpse\.load"):
        PPO.load(tmp_path)
