"""Episodes that take the most probable choices: answers learn from them, and decisions do not."""

from functools import partial
from typing import Any

import pytest
import torch

from glimpse.agents import PPO, Random, Reinforce
from glimpse.agents.learner import PolicyLearner
from glimpse.agents.options import Rollouts
from glimpse.agents.returns import leave_one_out, returns_to_go
from glimpse.envs import GlimpseVecEnv
from glimpse.errors import SettingsError
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import Conduct
from tests.rank_stages import environment as zoomed
from tests.small_images import BASELINE, SMALL, environment, lanes

STILL: dict[str, Any] = {"learning_rate": 0.0, "greedy_rollouts": 1}  # nothing changes, so episodes can be played again


zooming = partial(zoomed, [16, 8])


def scanpath(env: Any, policy: GlimpsePolicy, case: int) -> torch.Tensor:
    """Where the policy looks at a case if Stable-Baselines3 asks it for the most probable actions."""
    state, path, over = None, [], False
    observation, _ = env.reset(options={"case": case})
    start = torch.ones(1, dtype=torch.bool).numpy()
    while not over:
        action, state = policy.predict(observation, state, start, deterministic=True, conduct=Conduct(may_stop=False))
        path.append(torch.as_tensor(action[:2]))
        observation, _, ended, cut, _ = env.step(action)
        start, over = start & False, ended or cut
    return torch.stack(path[:-1])


@pytest.mark.parametrize(("make", "count"), [(environment, 1), (environment, 2), (environment, 8), (zooming, 8)])
def test_the_first_episodes_of_each_case_are_those_of_a_test(make: Any, count: int) -> None:
    """Also where lanes are no multiple of the episodes of a case, and with several fields of view."""
    model = PPO("GlimpsePolicy", GlimpseVecEnv([make() for _ in range(count)], park=True), **SMALL, **STILL)
    model.learn(3 * model.steps_per_update)
    episodes = model.episodes
    assert episodes is not None and episodes.greedy.tolist() == [True, False] * 4
    drawn = [
        torch.allclose(episodes.location[row], scanpath(make(), model.policy, int(case)), atol=1e-6)
        for row, case in enumerate(model.drawn.repeat_interleave(2))
    ]
    assert all(drawn[::2]) and not any(drawn[1::2])


@pytest.mark.parametrize("agent", [PPO, Reinforce])
def test_where_to_look_is_learned_from_the_others(agent: Any) -> None:
    model = agent("GlimpsePolicy", lanes(), **SMALL, **STILL)
    model.learn(model.steps_per_update)
    episodes, learner = model.episodes, model.learner
    assert isinstance(learner, PolicyLearner)
    credit = learner.credit(episodes)
    expected = leave_one_out(returns_to_go(learner._consequences(episodes)), 2)
    drawn = episodes.drawn
    assert torch.equal(drawn, episodes.decided & ~episodes.greedy[:, None]) and 0 < drawn.sum() < episodes.decided.sum()
    torch.testing.assert_close(credit.advantage[drawn], expected[drawn] / (expected[drawn].std() + 1e-6))
    assert not credit.advantage[~drawn].any()
    evaluation = model.policy.evaluate_episodes(episodes)
    evaluation.log_prob = evaluation.log_prob.detach().requires_grad_()
    learner.policy_loss(episodes, evaluation, torch.ones_like(credit.advantage)).value.backward()
    assert torch.equal(evaluation.log_prob.grad != 0, drawn)


def test_the_encoder_learns_from_them_first() -> None:
    model = PPO("GlimpsePolicy", lanes(), **{**SMALL, "rollouts_per_case": 4, "cases_per_rollout": 2}, **STILL)
    model.learn(model.steps_per_update)
    episodes, policy = model.episodes, model.policy
    assert episodes is not None
    with torch.no_grad():
        for parameter in policy.encoder.parameters():
            parameter.mul_(1.5)
        for share, fewest in ((0.25, 2), (0.5, 4)):
            again = (policy._seen(episodes, share, Conduct())[0] != episodes.seen).flatten(1).any(1)
            assert again[episodes.greedy].all() and again.sum() == fewest


def test_what_cannot_be_is_refused() -> None:
    for wrong in (2, -1, 0.5):
        with pytest.raises(SettingsError, match="greedy_rollouts"):
            PPO("GlimpsePolicy", lanes(), **{**SMALL, "greedy_rollouts": wrong})
    with pytest.raises(ValueError, match="greedy_rollouts"):
        Random("GlimpsePolicy", lanes(), greedy_rollouts=1, **BASELINE)
    assert Rollouts(rollouts_per_case=3, greedy_rollouts=2).greedy_rows((3, 2)).tolist() == [[1, 1], [0, 1], [1, 0]]
