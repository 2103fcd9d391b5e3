"""Agents whose answers are not trained: only the search learns."""

from typing import Any

import pytest
import torch
from torch import Tensor

from glimpse.agents import PPO, Reinforce
from glimpse.agents.learner import Loss
from glimpse.errors import SettingsError
from glimpse.networks.policy import answering_parts
from tests.small_images import SMALL, lanes


def parameters(agent: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in agent.policy.named_parameters()}


@pytest.mark.parametrize("agent", [PPO, Reinforce])
def test_answers_that_are_not_trained_stay_as_they_are_while_the_search_learns(agent: type) -> None:
    model = agent("GlimpsePolicy", lanes(), train_answers=False, encoder_rate=0.0, min_glimpses=1, **SMALL)
    before, seen = parameters(model), torch.rand(3, model.policy.encoder.embed * 2)
    places, zooms = torch.rand(3, 2), torch.zeros(3, dtype=torch.int64)

    def answers() -> Tensor:
        with torch.no_grad():
            tokens = model.policy.glimpse_token(seen, places, zooms)
            return model.policy.answer_head(model.policy.aggregator(tokens[:, None]))

    first = answers()
    model.learn(4 * model.steps_per_update)  # the fourth update would read extra glimpses
    after = parameters(model)
    torch.testing.assert_close(answers(), first, rtol=0, atol=0)
    parts = torch.nn.ModuleList([answering_parts(model.policy), model.policy.scale, model.policy.position])
    answering = {id(parameter) for parameter in parts.parameters()}
    changed = {name: not torch.equal(before[name], after[name]) for name in before}
    for name, parameter in model.policy.named_parameters():
        assert not (changed[name] and id(parameter) in answering), name
    assert any(changed[name] for name in changed if name.startswith("locator."))
    assert any(changed[name] for name in changed if name.startswith("memory."))
    assert all(parameter.requires_grad for parameter in model.policy.parameters())  # for whoever trains on


def test_labels_teach_the_encoder_nothing_where_answers_are_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PPO.learner_class, "policy_loss", lambda self, episodes, evaluation, advantage: Loss(
        0.0 * evaluation.log_prob.sum(), {}))  # fmt: skip
    model = PPO("GlimpsePolicy", lanes(), train_answers=False, ent_coef=0.0, weight_decay=0.0, **SMALL)
    before = parameters(model)
    model.learn(model.steps_per_update)
    after = parameters(model)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("option", ["replay_steps", "extra_glimpses"])
def test_what_trains_only_answers_is_refused_where_they_are_not_trained(option: str) -> None:
    with pytest.raises(SettingsError, match=f"{option}=0"):
        PPO("GlimpsePolicy", lanes(), train_answers=False, **{option: 2}, **SMALL)
