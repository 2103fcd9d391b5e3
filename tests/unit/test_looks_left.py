"""With `looks_left`, decisions depend on how many glimpses may still be read: in rollouts, updates and readings."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from glimpse.agents import PPO
from glimpse.envs import FlattenAction
from glimpse.errors import SettingsError
from glimpse.networks.memory import GRUMemory, LooksLeft
from glimpse.networks.policy import GlimpsePolicy
from glimpse.reading.lanes import Access
from glimpse.reading.readers import reader_named
from glimpse.settings.composing import composed
from glimpse.train import train
from tests.zooming import environment, policy_for

MOST = 4


def mindful(env: FlattenAction) -> GlimpsePolicy:
    """A policy that looks widely while more than half of the glimpses that it knows of are left, and then closely."""
    policy = policy_for(env, memory=partial(GRUMemory, looks_left=MOST))
    with torch.no_grad():
        apart = policy.zoom_head.weight[0] - policy.zoom_head.weight[1]
        policy.memory.looks_left.weight.copy_(200 * apart / apart.square().sum())
        policy.zoom_head.bias[0] -= 100
    policy.set_training_mode(False)
    return policy


def read(policy: GlimpsePolicy, env: FlattenAction, budget: int) -> Any:
    inner: Any = env.unwrapped
    return reader_named("policy", policy, Access(inner.views, inner.task, threads=1), budget).read(
        inner.cases[:3], trace=True
    )


def test_it_adds_a_share_of_the_number_that_is_left() -> None:
    module = LooksLeft(3, 4)
    states, left = torch.randn(6, 3), torch.tensor([-1, 0, 1, 4, 5, 1 << 30])
    assert torch.equal(module(states, left), states)  # nothing has been learned yet
    nn.init.ones_(module.weight)
    shares = torch.tensor([0, 0, 0.25, 1, 1, 1])[:, None]
    torch.testing.assert_close(module(states, left), states + shares)
    for most in (0, -1):
        with pytest.raises(SettingsError, match="looks_left"):
            LooksLeft(3, most)


def test_a_policy_without_it_has_no_part_of_it() -> None:
    env = environment(max_glimpses=3)
    plain, own = policy_for(env), policy_for(env, memory=partial(GRUMemory, looks_left=3))
    assert {*own.state_dict()} - {*plain.state_dict()} == {"memory.looks_left.weight"}
    for name, part in plain.state_dict().items():
        assert torch.equal(part, own.state_dict()[name])


@pytest.mark.parametrize("levels", [2, 3])
def test_an_update_sees_the_decisions_that_the_rollout_made(levels: int) -> None:
    env = environment(levels, max_glimpses=MOST)
    policy = mindful(env)
    agent = PPO(
        policy, env, cases_per_rollout=2, rollouts_per_case=2, min_glimpses=1, weight_decay=0.0, seed=1, device="cpu"
    )
    weight, budgets = policy.memory.looks_left.weight.clone(), set()
    for total in (1, 2, 3, 4):
        agent.learn(total, reset_num_timesteps=False)
        episodes = agent.episodes
        budgets |= {*episodes.budget.tolist()}
        assert torch.equal(episodes.left[:, 0], episodes.budget) and (episodes.length <= episodes.budget).all()
        assert (episodes.left[episodes.answered] >= 0).all()
    assert len(budgets) > 1 and budgets <= {1, 2, 3, 4}
    assert not torch.equal(policy.memory.looks_left.weight, weight)  # it is learned
    agent.collect_rollouts(agent.env, agent._init_callback(None), agent.rollout_buffer, 1)
    evaluation, episodes = policy.evaluate_episodes(agent.episodes, conduct=agent.conduct), agent.episodes
    torch.testing.assert_close(evaluation.log_prob[episodes.decided], episodes.log_prob[episodes.decided])
    torch.testing.assert_close(evaluation.value[episodes.answered], episodes.value[episodes.answered])


def test_readings_and_stable_baselines_decide_alike_and_by_what_is_left() -> None:
    env = environment(max_glimpses=MOST)
    policy = mindful(env)
    readings = read(policy, env, MOST)
    for case, reading in enumerate(readings):
        observation, state, done = env.reset(options={"case": case})[0], None, False
        while not done:
            start = np.array([state is None])
            action, state = policy.predict(observation, state, start, deterministic=True)
            observation, _, done, _, info = env.step(action)
        np.testing.assert_allclose(info["scanpath"], reading.scanpath, atol=1e-6)
        np.testing.assert_array_equal(info["zooms"], reading.zooms)
        assert reading.zooms[[0, 1, 3]].tolist() == [0, 0, 1]  # 4, 3 and 1 are left; with 2, it may do either
    assert [reading.zooms.tolist()[1:] for reading in read(policy, env, 2)] == [[1]] * 3
    for reading in read(policy, env, MOST + 3):  # with more than it knows of, it looks as with all that it knows of
        assert reading.zooms[[0, 1, 2, 3, 4, 6]].tolist() == [0, 0, 0, 0, 0, 1]


def test_it_counts_the_glimpses_that_the_environment_counts() -> None:
    env = environment(max_glimpses=MOST + 1)
    with pytest.raises(SettingsError, match=f"looks_left={MOST} counts other glimpses than max_glimpses={MOST + 1}"):
        PPO(mindful(env), env, cases_per_rollout=2, rollouts_per_case=2, device="cpu")


def test_weights_that_mind_what_is_left_are_not_taken_over_in_silence(tiny_slides: Path, tmp_path: Path) -> None:
    short = ["experiment=smoke", "env=wsi", "threads=1", "progress=false", "report.readers=[]", "report.pictures=0"]
    short += ["joint.updates=1", "pretrain=none", "warm_up=none", f"env.cohort.path={tiny_slides}"]
    train(composed(*short, f"run={tmp_path / 'one'}", "network.memory.looks_left=3"))
    kept = [*short, f"initial_weights={tmp_path / 'one'}"]
    with pytest.warns(UserWarning, match=r"minds how many looks are left.*add network\.memory\.looks_left"):
        train(composed(*kept, f"run={tmp_path / 'two'}"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        train(composed(*kept, f"run={tmp_path / 'three'}", "network.memory.looks_left=3"))
    assert not [one for one in told if "looks_left" in str(one.message)]
