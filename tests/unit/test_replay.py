"""Answers learn again from the glimpses of earlier episodes."""

from functools import partial
from typing import Any

import pytest
import torch

from glimpse.agents import PPO
from glimpse.agents.replay import Replay, Seen, answers_from
from glimpse.envs import GlimpseVecEnv
from glimpse.errors import SettingsError
from glimpse.learning.episodes import EpisodeLearning
from glimpse.networks.policy import GlimpsePolicy
from tests.unit.test_saved_state import environment


def agent(**options: Any) -> PPO:
    lanes = GlimpseVecEnv([environment() for _ in range(4)], park=True)
    given: dict[str, Any] = {"cases_per_rollout": 4, "rollouts_per_case": 2, "seed": 0, "device": "cpu"}
    given["policy_kwargs"] = {"overview_dropout": 1.0}
    return PPO("GlimpsePolicy", lanes, 1e-2, **given | options)


def seen(number: float = 0.0) -> Seen:
    values = torch.arange(6.0).view(2, 3, 1) + number
    read = torch.tensor([[True, True, True], [True, False, False]])
    return Seen(values.expand(-1, -1, 4), values.expand(-1, -1, 2), values[..., 0].long(), read, torch.tensor([0, 1]))


def test_glimpses_are_shuffled_together_and_padding_stays_behind() -> None:
    orders = set()
    for _ in range(40):
        made = seen().shuffled()
        assert torch.equal(made.seen[..., 0], made.location[..., 0]) and torch.equal(
            made.zoom, made.location[..., 1].long()
        )
        assert torch.equal(made.read, seen().read) and torch.equal(made.target, seen().target)
        assert made.zoom[1, 0] == 3, "the only glimpse of the second episode"
        orders.add(tuple(made.zoom[0].tolist()))
    assert len(orders) == 6


def test_the_last_rollouts_are_kept_and_every_one_of_them_is_drawn() -> None:
    model = agent()
    model.learn(model.steps_per_update)
    replay = Replay(2)
    for shift in range(3):
        episodes = model.episodes
        assert episodes is not None
        episodes.seen.fill_(shift)
        replay.add(episodes)
    assert {float(replay.draw().seen.max()) for _ in range(40)} == {1.0, 2.0}


def test_answers_from_kept_features_are_those_of_the_episodes() -> None:
    model = agent(encoder_rate=0.0)
    model.learn(model.steps_per_update)
    policy: GlimpsePolicy = model.policy
    episodes = model.episodes
    assert episodes is not None
    with torch.no_grad():
        expected = policy.evaluate_episodes(episodes, conduct=model.conduct)
        every, single = answers_from(policy, Seen.of(episodes))
    torch.testing.assert_close(every[episodes.answered], expected.prediction[episodes.answered])
    torch.testing.assert_close(single[episodes.read], expected.glimpse_prediction[episodes.read])


def test_answers_learn_and_nothing_else_does() -> None:
    model = agent(replay_steps=8, replay_rollouts=1, encoder_rate=0.0)
    model.learn(model.steps_per_update)
    episodes = model.episodes
    assert episodes is not None
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    losses = [float(model.learner._learn_again(episodes)["supervised_last_again"]) for _ in range(8)]
    assert losses[-1] < losses[0]
    moved = {
        name.split(".")[0] for name, value in model.policy.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {"aggregator", "answer_head"} <= moved
    assert not moved & {"encoder", "locator", "memory", "stop_head", "value_head", "zoom_head"}


def test_there_are_fewer_steps_until_enough_is_kept() -> None:
    model, drawn = agent(replay_steps=6, replay_rollouts=3), []
    draw = model.learner.replay.draw
    model.learner.replay.draw = lambda: drawn.append(len(model.learner.replay.kept)) or draw()  # type: ignore[method-assign,func-returns-value]
    model.learn(4 * model.steps_per_update)
    assert [drawn.count(number) for number in (1, 2, 3)] == [2, 4, 12]


@pytest.mark.parametrize("options", [{"replay_steps": -1}, {"replay_steps": 1.5}, {"replay_rollouts": 0}])
def test_impossible_numbers_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(options))):
        PPO.parse_options(options)


def test_answers_that_always_see_the_overview_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"network\.overview_dropout=1, not 0\.5"):
        agent(replay_steps=1, policy_kwargs={"overview_dropout": 0.5})


def test_the_stage_refuses_them_before_anything_is_learned() -> None:
    policy = agent().policy
    stage = EpisodeLearning(partial(PPO, replay_steps=1), 1e-3, 2, 0, 0.9, False)
    stage.check(policy)
    policy.overview_dropout = 0.9
    with pytest.raises(SettingsError, match=r"network\.overview_dropout=1, not 0\.9"):
        stage.check(policy)
