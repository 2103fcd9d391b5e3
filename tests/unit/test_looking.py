"""Learning where to look first from the worth of random glimpses, and from overviews that are encoded again."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import configure
from torch import Tensor

from glimpse.agents import PPO
from glimpse.errors import SettingsError
from glimpse.learning.averaging import Average
from glimpse.learning.episodes import EpisodeLearning, ValidationHistory, state_of
from glimpse.learning.looking import Worth, looking_loss
from glimpse.learning.stages import Training
from glimpse.networks import GlimpsePolicy
from glimpse.networks.records import Episodes, Evaluation
from glimpse.runs.checkpoints import CheckpointError
from tests.small_images import CASES, SMALL, environment, lanes


def played() -> tuple[GlimpsePolicy, Episodes]:
    """A policy after one update, without gradients and in evaluation mode, and the episodes that it learned from."""
    model = PPO("GlimpsePolicy", lanes(), **SMALL)
    model.learn(model.steps_per_update)
    assert model.episodes is not None
    model.policy.set_training_mode(False)
    model.policy.zero_grad()
    return model.policy, model.episodes


def test_the_loss_of_looking_is_that_of_sets() -> None:
    logits, single = torch.tensor([[0.0, 1.0, 2.0, 1.0]]), torch.tensor([[3.0, 1.0, 2.0, 2.0]])
    first = 1 / (1 + np.e)  # the probability of glimpse 0, and of glimpse 3, within their pairs
    bonus = -(first * np.log(first) + (1 - first) * np.log(1 - first))
    expected = -((first * -1 + (1 - first) * 1) / 2) - 0.1 * bonus
    assert float(looking_loss(logits, single, 2, 0.1)) == pytest.approx(expected, rel=1e-5)
    odd = [torch.cat([part, part[:, :1]], 1) for part in (logits, single)]
    assert float(looking_loss(*odd, 2, 0.1)) == pytest.approx(expected, rel=1e-5)  # one is left over
    whole = torch.softmax(logits, 1)[0] @ (2 - single[0])
    assert float(looking_loss(logits, single, 9, 0.0)) == pytest.approx(-float(whole), rel=1e-5)


def test_shuffling_keeps_what_belongs_together() -> None:
    cells = torch.arange(12).view(2, 6)
    worth = Worth(("a", "b"), cells, cells * 0.5, 2, 0.0)
    torch.manual_seed(0)
    shuffled = worth.shuffled()
    assert not torch.equal(shuffled.cells, cells) and torch.equal(shuffled.losses, shuffled.cells * 0.5)
    assert torch.equal(shuffled.cells.sort(1).values, cells)


def worth(cells: int, among: int = 2) -> Worth:
    """Of every case, the later a cell, the worse; and in every case of another half of the cells."""
    places = torch.stack([torch.randperm(cells)[: cells // 2] for _ in range(CASES)])
    return Worth(tuple(map(str, range(CASES))), places, places / cells, among, 0.0)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_the_locator_goes_on_learning_from_the_worth_of_random_glimpses(
    minibatches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = PPO("GlimpsePolicy", lanes(), look_coef=0.5, minibatches=minibatches, n_epochs=1, **SMALL)
    known = worth(len(model.policy.cells))
    model.worth = known
    inner: Any = environment().unwrapped
    overviews = {inner.views.overview(case.source).tobytes(): row for row, case in enumerate(inner.cases)}
    seen: list[list[int]] = []
    evaluate = model.policy.evaluate_episodes

    def noted(episodes: Episodes, places: Tensor, **others: Any) -> Evaluation:
        rows = [overviews[overview.numpy().tobytes()] for overview in episodes.overview]
        assert torch.equal(places.sort(1).values, known.cells[rows].sort(1).values)
        seen.append(rows)
        return evaluate(episodes, places=places, **others)

    monkeypatch.setattr(model.policy, "evaluate_episodes", noted)
    model.learn(model.steps_per_update, log_interval=2)
    assert sorted(row for rows in seen for row in rows) == sorted(model.drawn.tolist())
    assert "train/look" in model.logger.name_to_value


def test_the_logits_of_first_choices_are_those_of_the_first_step() -> None:
    policy, episodes = played()
    places = torch.randint(len(policy.cells), (4, 5))
    found = policy.evaluate_episodes(episodes, places=places).first_logits
    scene = policy.scene(episodes.overview, episodes.foreground, episodes.extents)
    state = policy.begin(scene)
    where = policy.where(state.memory[:, None], *policy.choices(scene, state))
    assert found is not None
    torch.testing.assert_close(found, where.logits[:, 0].gather(1, places))  # type: ignore[attr-defined]
    found.sum().backward()
    assert policy.locator.unary[0].weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in policy.memory.parameters())
    assert policy.evaluate_episodes(episodes).first_logits is None


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.3, 2), (1.0, 4)])
def test_the_encoder_learns_from_a_share_of_the_overviews(
    share: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, episodes = played()
    with torch.no_grad():
        episodes.features = policy.encode(episodes.overview)
    encoded: list[Tensor] = []
    features = policy.features
    monkeypatch.setattr(policy, "features", lambda images, conduct: encoded.append(images) or features(images, conduct))
    places = torch.arange(3).expand(4, 3)
    found = policy.evaluate_episodes(episodes, 0.5, places=places, overview_share=share).first_logits
    whole = policy.evaluate_episodes(episodes, 1.0, places=places).first_logits
    assert found is not None and whole is not None
    torch.testing.assert_close(found, whole)
    assert [len(images) for images in encoded] == ([count] if count else []) + [4]
    found.sum().backward()
    gradient = policy.encoder.layers[0].weight.grad
    assert (gradient is not None and bool(gradient.abs().sum() > 0)) == (count > 0)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_of_overviews_is_a_share(share: float) -> None:
    with pytest.raises(SettingsError, match="overview_share from 0 to 1"):
        PPO("GlimpsePolicy", lanes(), overview_share=share, **SMALL)


def test_without_a_weight_or_a_worth_nothing_is_learned_from_it() -> None:
    changed = []
    for look_coef, known in ((0.0, True), (1.0, False), (1.0, True)):
        model = PPO("GlimpsePolicy", lanes(), look_coef=look_coef, **SMALL)
        torch.manual_seed(1)
        model.worth = worth(len(model.policy.cells)) if known else None
        torch.manual_seed(2)
        model.learn(model.steps_per_update)
        changed.append(model.policy.locator.unary[0].weight.detach().clone())
    assert torch.equal(changed[0], changed[1]) and not torch.equal(changed[1], changed[2])


def test_a_run_that_learned_from_the_worth_of_glimpses_does_not_go_on_without_it(tmp_path: Path) -> None:
    begun = PPO("GlimpsePolicy", lanes(), look_coef=0.5, **SMALL)
    begun.worth = worth(len(begun.policy.cells))
    last = state_of(begun, ValidationHistory(), Average(begun.policy, 0.9))
    last.meta["stage"] = "joint"
    names = [SimpleNamespace(id=str(case)) for case in range(CASES)]
    run = SimpleNamespace(checkpoint=lambda name: tmp_path / f"{name}.safetensors", last=last, logger=configure())
    given: dict[str, Any] = {"policy": begun.policy, "lanes": lambda split, count: lanes(), "seed": 0}
    training: Any = object.__new__(Training)  # as much of it as an agent needs
    vars(training).update(given, run=run, cases=SimpleNamespace(cases=names))
    stage = EpisodeLearning(
        partial(PPO, look_coef=0.5, cases_per_rollout=4, rollouts_per_case=2), 1e-3, 2, 0, 0.9, False
    )
    with pytest.raises(CheckpointError, match=r"worth\.safetensors"):
        stage._agent(training, "joint", Average(begun.policy, 0.9))
    begun.worth.save(tmp_path / "worth.safetensors")
    agent, _ = stage._agent(training, "joint", Average(begun.policy, 0.9))
    assert agent.worth is not None and torch.equal(agent.worth.cells, begun.worth.cells)
