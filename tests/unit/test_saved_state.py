"""Whoever learns can be interrupted: restored from a checkpoint, it ends as if it had never stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from glimpse.agents import PPO, Random, Reinforce
from glimpse.agents.base import GlimpseAlgorithm
from glimpse.envs import FlattenAction, GlimpseVecEnv, array_cases, make_array
from glimpse.learning.augment import Augment
from glimpse.learning.contrastive import ContrastivePretrainer
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.networks.policy import GlimpsePolicy
from glimpse.runs.checkpoints import Checkpoint

Trainer = ContrastivePretrainer | TokenWarmUp
CASES = 6


def environment() -> FlattenAction:
    rng = np.random.default_rng(0)
    cases = array_cases(rng.integers(0, 255, (CASES, 1, 48, 48), dtype=np.uint8), np.arange(CASES) % 2)
    sizes: dict[str, Any] = {"overview_size": 24, "glimpse_size": 8, "glimpse_extents": [16]}
    return FlattenAction(make_array(cases, split=None, max_glimpses=3, **sizes))


def untrained(overview_dropout: float = 0.5) -> GlimpsePolicy:
    torch.manual_seed(0)
    env = environment()
    layout = env.unwrapped.layout  # type: ignore[attr-defined]
    return GlimpsePolicy(env.observation_space, env.action_space, layout=layout, overview_dropout=overview_dropout)  # type: ignore[arg-type]


def through_a_file(holder: Any, folder: Path) -> Checkpoint:
    """The state of whoever learns, written and read again."""
    checkpoint = Checkpoint()
    holder.save_state(checkpoint)
    checkpoint.save(folder / "state.safetensors")
    return Checkpoint.load(folder / "state.safetensors")


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("learner", ["agent", "trainer"])
def test_the_generator_of_the_device_that_computes_is_saved_and_restored(
    learner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    for name in ("add_global_generators", "restore_global_generators"):
        monkeypatch.setattr(Checkpoint, name, lambda self, device=None: given.append(device))
    policy, pool = untrained(), np.zeros((4, 1, 8, 8), np.uint8)
    if learner == "agent":
        env = GlimpseVecEnv([environment() for _ in range(4)], park=True)
        holder: Any = Reinforce(policy, env, cases_per_rollout=4, rollouts_per_case=2, device="cpu")
    else:
        holder = ContrastivePretrainer(policy, pool, Augment((8, 8), 0.0))
    checkpoint = Checkpoint()
    holder.save_state(checkpoint)
    holder.restore_state(checkpoint)
    assert given == [policy.device] * 2


AGENTS: list[tuple[type[GlimpseAlgorithm], dict[str, Any]]] = [
    (PPO, {"rollouts_per_case": 2, "min_glimpses": 1, "minibatches": 2, "encoder_share": 0.5}),
    (Reinforce, {"rollouts_per_case": 2, "baseline": "critic"}),
    (
        PPO,
        {"rollouts_per_case": 2, "replay_steps": 3, "replay_rollouts": 2, "policy_kwargs": {"overview_dropout": 1.0}},
    ),
    (Random, {}),
]


@pytest.mark.parametrize(("agent", "options"), AGENTS, ids=["ppo", "reinforce", "replay", "random"])
def test_an_agent_goes_on_as_if_it_had_not_stopped(
    agent: type[GlimpseAlgorithm], options: dict[str, Any], tmp_path: Path
) -> None:
    def begun() -> GlimpseAlgorithm:
        lanes = GlimpseVecEnv([environment() for _ in range(4)], park=True)
        return agent("GlimpsePolicy", lanes, cases_per_rollout=4, seed=0, device="cpu", **options)

    def go_on(model: GlimpseAlgorithm) -> None:
        model.learn(3 * model.steps_per_update, reset_num_timesteps=False)

    model = begun()
    model.learn(2 * model.steps_per_update)
    state = through_a_file(model, tmp_path)
    go_on(model)
    again = begun()
    again.restore_state(state)
    assert (again.updates, again.num_timesteps) == (2, 2 * again.steps_per_update)
    go_on(again)
    assert (again.updates, again.num_timesteps) == (5, 5 * again.steps_per_update)
    assert_same(model.policy.state_dict(), again.policy.state_dict())


def pretraining() -> ContrastivePretrainer:
    pool = np.random.default_rng(0).integers(0, 256, (40, 1, 12, 12), dtype=np.uint8)
    return ContrastivePretrainer(untrained(), pool, Augment((8, 8), 0.0), batch=8)


def warm_up() -> TokenWarmUp:
    policy, inner = untrained(), environment().unwrapped
    options: dict[str, Any] = {"glimpses_per_case": 6, "max_sequence": 4, "batch": 4, "steps": 8}
    trainer = TokenWarmUp(policy, inner.cases, inner.views, inner.task, threads=1, **options)  # type: ignore[attr-defined]
    trainer.encode()
    return trainer


@pytest.mark.parametrize("begun", [pretraining, warm_up])
def test_a_trainer_goes_on_as_if_it_had_not_stopped(begun: Callable[[], Trainer], tmp_path: Path) -> None:
    def go_on(trainer: Trainer) -> list[float]:
        return [trainer.step() for _ in range(3)]

    trainer = begun()
    go_on(trainer)
    state = through_a_file(trainer, tmp_path)
    expected = go_on(trainer)
    again = begun()
    again.restore_state(state)
    assert again.done == 3
    assert go_on(again) == expected
    assert again.done == 6
    assert_same(trainer.policy.state_dict(), again.policy.state_dict())


def test_stable_baselines_own_file_keeps_the_options(tmp_path: Path) -> None:
    lanes = GlimpseVecEnv([environment() for _ in range(4)], park=True)
    given: dict[str, Any] = {"cases_per_rollout": 2, "rollouts_per_case": 2, "clip_range": 0.1, "min_glimpses": 1}
    model = PPO("GlimpsePolicy", lanes, seed=0, device="cpu", **given).learn(16)
    model.save(tmp_path / "ppo.zip")
    again = PPO.load(tmp_path / "ppo.zip", env=lanes, device="cpu")
    assert again.options == model.options
    assert again.learner.losses.clip_range == 0.1
    assert_same(model.policy.state_dict(), again.policy.state_dict())
    again.learn(16)
