"""What looking is worth at all levels, as the warm-up has found it, and what the joint stage learns from it."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from glimpse.agents import PPO
from glimpse.agents.baselines import Random
from glimpse.envs import GlimpseVecEnv
from glimpse.errors import SettingsError
from glimpse.geometry import CellGrid
from glimpse.learning.looking import InnerPlaces, InnerWorth, WideLooks, Worth
from glimpse.networks.locator import PointerLocator, moments_of
from glimpse.networks.overlap import Coverage
from glimpse.networks.where import CLOSED, Candidates, CellDistribution, levels_of
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from tests.zooming import ENCODER, environment, spotted, warmed


def test_the_worth_of_glimpses_of_all_levels_is_kept(tmp_path: Path) -> None:
    policy, trainer = warmed(spotted(), 2)
    for _ in range(2):
        trainer.step()
    worth = trainer.worth()
    (inner,) = worth.inner
    everyone = torch.arange(24)
    expected = trainer._losses(policy.glimpse_head(trainer._tokens_of(1, everyone)), everyone)
    gain = (expected.mean(1, keepdim=True) - expected).unflatten(1, (6, 5))
    torch.testing.assert_close(inner.losses, -gain)
    scores = trainer._logits(1, everyone).unflatten(1, (6, 5))
    torch.testing.assert_close(worth.losses, -(scores.softmax(-1) * gain).sum(-1))
    assert torch.equal(inner.location, policy.cells[worth.cells])
    worth.save(tmp_path / "worth.safetensors")
    some = Worth.load(tmp_path / "worth.safetensors", [worth.cases[5], worth.cases[2]])
    for name in ("location", "cells", "losses", "open"):
        assert torch.equal(getattr(some.inner[0], name), getattr(inner, name)[[5, 2]])
    kept = Checkpoint.load(tmp_path / "worth.safetensors")
    del kept.tensors["open.1"]
    kept.save(tmp_path / "worth.safetensors")
    with pytest.raises(CheckpointError, match="lacks what it says of glimpses inside"):
        Worth.load(tmp_path / "worth.safetensors", worth.cases)


def test_choices_inside_wide_glimpses_that_are_known_are_learned() -> None:
    """Two cases of two rollouts: in the first, each rollout has a known wide glimpse; in the second, there is none."""
    known = InnerWorth(
        location=torch.tensor([[[0.0, 0.5], [0.5, 0.0]], [[0.1, 0.1], [0.2, 0.2]]]),
        cells=torch.tensor([[[0, 3], [1, 2]], [[0, 1], [2, 3]]]),
        losses=torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[9.0, 9.0], [9.0, 9.0]]]),
        open=torch.tensor([[[True, True], [True, False]], [[True, True], [True, True]]]),
    )
    location = torch.zeros(4, 2, 2)
    location[0, 1], location[1, 0] = torch.tensor([0.0, 0.5]), torch.tensor([0.5, 0.0])
    location[2, 0] = torch.tensor([0.1, 0.1])  # of another field of view
    zoom = torch.tensor([[0, 0], [0, -1], [1, 0], [0, 0]])
    scores = torch.arange(32.0).reshape(4, 2, 4).requires_grad_()
    wide = WideLooks(location, zoom, scores)
    found = known.known(wide, 1).loss(0.0)
    logits = torch.stack([scores[0, 1, 0], scores[0, 1, 3], scores[1, 0, 1]])
    benefit = torch.tensor([2.0 - 1.0, 2.0 - 2.0, 2.0 - 3.0])
    torch.testing.assert_close(found, -(logits.softmax(0) * benefit).sum() / 2)
    found.backward()
    assert scores.grad is not None and not scores.grad[2:].any() and scores.grad[0, 1, 0] != 0
    worth = Worth(("a", "b"), torch.zeros(2, 2).long(), torch.tensor([[0.5, 1.0], [2.0, 4.0]]), 2, 0.0, (known,))
    moments = worth.moments(torch.tensor([[3.0, 1.0], [0.0, 0.0]]), wide)
    torch.testing.assert_close(moments[0], torch.tensor([1.0, -1.875, 2.5, (-1.5 - 1.0) / 4]))
    expected = [logits.mean(), -2.0, logits.square().mean(), (logits * torch.tensor([-1.0, -2.0, -3.0])).mean()]
    torch.testing.assert_close(moments[1], torch.tensor(expected))


def test_the_joint_stage_goes_on_learning_what_looking_is_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    env = spotted()
    policy, trainer = warmed(env, 2)
    trainer.step()
    worth = trainer.worth()
    # all cells of the overview and all cells of every wide glimpse are known
    cells, inner = len(policy.cells), len(policy.view_cells)
    every = InnerWorth(
        policy.cells.expand(24, -1, -1).contiguous(),
        torch.arange(inner).expand(24, cells, -1),
        torch.rand(24, cells, inner),
        torch.ones(24, cells, inner, dtype=torch.bool),
    )
    lanes = GlimpseVecEnv([spotted() for _ in range(4)], park=True)
    kwargs = {"encoder": ENCODER, "stop_bias": -20.0}
    agent = PPO(
        "GlimpsePolicy", lanes, 1e-3, cases_per_rollout=2, rollouts_per_case=2, seed=0, device="cpu",
        policy_kwargs=kwargs, look_coef=1.0,
    )  # fmt: skip
    agent.worth = replace(worth, inner=(every,))
    losses, compute = [], InnerPlaces.loss

    def noted(self: InnerPlaces, *given: Any) -> torch.Tensor:
        losses.append(compute(self, *given))
        return losses[-1]

    monkeypatch.setattr(InnerPlaces, "loss", noted)
    agent.learn(agent.steps_per_update)
    assert losses and all(loss.requires_grad and loss != 0 for loss in losses)  # it has looked somewhere that is known


@pytest.mark.parametrize("discount_seen", [False, True])
def test_without_random_glimpses_decisions_teach_what_scores_are_worth(discount_seen: bool) -> None:
    """An agent that learns no decisions leaves what the warm-up has found as it is, weight decay or not."""
    kwargs = {"encoder": ENCODER, "locator": partial(PointerLocator, discount_seen=discount_seen)}
    found: dict[type, PointerLocator] = {}
    for kind, rollouts in ((PPO, {"rollouts_per_case": 2, "weight_decay": 0.0}), (Random, {"weight_decay": 0.5})):
        lanes = GlimpseVecEnv([environment() for _ in range(4)], park=True)
        given: dict[str, Any] = {"seed": 0, "device": "cpu", "policy_kwargs": kwargs, **rollouts}
        agent = kind("GlimpsePolicy", lanes, 1e-2, cases_per_rollout=4, **given)
        locator: Any = agent.policy.locator
        with torch.no_grad():
            locator.worth_slope.fill_(2.0), locator.worth_offset.copy_(torch.tensor([0.5, -0.5]))
        agent.learn(agent.steps_per_update)
        found[kind] = locator
    taught, left = found[PPO], found[Random]
    assert taught.worth_slope.grad.abs().min() > 0 and taught.worth_slope.tolist() != [2.0, 2.0]
    # what is added to all levels changes no choice, so the gradient of their offsets sums to 0
    assert taught.worth_offset.grad.abs().min() > 1e-4 and abs(taught.worth_offset.grad.sum()) < 1e-6
    assert taught.worth_offset.tolist() != [0.5, -0.5]
    assert left.worth_slope.tolist() == [2.0, 2.0] and left.worth_offset.tolist() == [0.5, -0.5]


def test_what_scores_are_worth_is_followed_while_they_drift() -> None:
    torch.manual_seed(0)
    locator = PointerLocator(8, 8, zooms=2)
    worth = torch.randn(500)

    def moments(shift: float) -> torch.Tensor:
        levels = [moments_of(2 * worth + shift, worth), moments_of(4 * worth - shift, worth + 1.0)]
        return torch.stack(levels)

    def valued(level: int, logit: float) -> float:  # in units of the loss
        return 0.05 * (locator.worth_slope[level] * logit + locator.worth_offset[level]).item()

    locator.value_levels(moments(0.0), torch.tensor([12.0, 5.0]))
    assert locator.seen_penalty.tolist() == [12.0, 10.0]
    assert valued(0, 2 * 1.5) == pytest.approx(1.5, abs=1e-3) and valued(1, 4 * 1.5) == pytest.approx(2.5, abs=1e-3)
    for _ in range(200):
        locator.follow_levels(moments(7.0))
    assert valued(0, 2 * 1.5 + 7) == pytest.approx(1.5, abs=1e-2)
    assert valued(1, 4 * 1.5 - 7) == pytest.approx(2.5, abs=1e-2)
    nothing = torch.stack([moments(7.0)[0], moments_of(worth[:0], worth[:0])])
    before = locator.worth_slope[1].item()
    locator.follow_levels(nothing)  # no fine glimpse was known: what is known of their level stays
    assert locator.worth_slope[1].item() == before > 0


def test_a_level_without_places_is_worth_nothing_until_some_are_known() -> None:
    locator, some = PointerLocator(8, 8, zooms=2), torch.arange(4.0)
    locator.value_levels(torch.stack([moments_of(some, some), moments_of(some[:0], some[:0])]), torch.zeros(2))
    assert locator.worth_slope[0] > 0 and locator.worth_slope[1] == locator.worth_offset[1] == 0
    locator.follow_levels(torch.stack([moments_of(some, some)] * 2))
    assert locator.worth_slope[1].item() == pytest.approx(locator.worth_slope[0].item())


def test_what_was_seen_is_worth_less_the_more_of_it_was_seen() -> None:
    locator = PointerLocator(8, 8, zooms=2, discount_seen=True)
    some = torch.tensor([-1.0, 0.0, 1.0])
    locator.value_levels(torch.stack([moments_of(some, 0 * some + 0.1), moments_of(some, 0.05 * some)]), torch.zeros(2))
    # the first level is worth 0.1 anywhere, the second 0.05 per unit; a poor place is worth -0.05 sqrt(2 / 3)
    nothing = -((2 / 3) ** 0.5)
    logits = torch.tensor([[[3.0, 3.0, 3.0, 3.0, -4.0]]])
    share = torch.tensor([[[0.0, 1.0, 0.0, 0.25, 0.5]]])
    level = torch.tensor([[[0, 0, 1, 1, 1]]])
    seen = Coverage(share > 2, share, 0 * share, level[..., 0])
    found = locator.worth(logits, seen, level)
    expected = [2.0, nothing, 3.0, 3.0 - 0.25 * (3.0 - nothing), -4.0]
    torch.testing.assert_close(found[0, 0], torch.tensor(expected))
    where = CellDistribution(
        torch.tensor([[[5.0, 6.0, CLOSED, 1.0, 2.0]]]), torch.zeros(5, 2), level[:, 0], worth=found
    )
    torch.testing.assert_close(where.best(2)[0, 0], torch.tensor([2.0, expected[3]]))  # closed cells do not count
    torch.testing.assert_close(locator.level_logits(torch.zeros(1, 1, 2), where.best(2)), where.best(2))
    locator.wide_worth = 0.5  # of a wide look, half of what is worth more than nothing is left
    wide = [nothing + 0.5 * (2.0 - nothing), nothing]
    torch.testing.assert_close(locator.worth(logits, seen, level)[0, 0], torch.tensor([*wide, *expected[2:]]))


def test_levels_are_chosen_by_what_is_left_of_places() -> None:
    """The first level is worth more, until all of it was seen; where its scores are flat, a penalty does not help."""
    plain, discounting = (
        PointerLocator(8, 8, zooms=2, discount_seen=given, seen_penalty=0.0) for given in (False, True)
    )
    some = torch.tensor([-1.0, 0.0, 1.0])
    moments = torch.stack([moments_of(some, 0 * some + 0.1), moments_of(some, 0.05 * some)])
    level, nothing_seen = torch.tensor([[0, 0, 1, 1]]), torch.zeros(1, 1, 4)
    candidates = Candidates(
        keys=torch.zeros(1, 4, 8),
        unary=torch.tensor([[0.5, 0.0, 1.0, 0.0]]),
        open=torch.ones(1, 4, dtype=torch.bool),
        sides=torch.ones(1, 2, 2),
        grid=CellGrid((2, 1), (1, 1)),
        locations=torch.zeros(1, 4, 2),
        level=level,
        index=torch.arange(4)[None],
    )
    chosen = {}
    for locator in (plain, discounting):
        locator.value_levels(moments, torch.zeros(2))
        for share in (0.0, 1.0):
            shares = torch.where(level[:, None] == 0, share, nothing_seen)
            seen = Coverage(nothing_seen > 0, shares, nothing_seen, torch.zeros(1, 1, dtype=torch.long))
            where = locator(torch.zeros(1, 1, 8), candidates, seen)
            chosen[locator.discount_seen, share] = int(levels_of(locator, torch.zeros(1, 1, 2), where).argmax())
    assert chosen == {(False, 0.0): 0, (False, 1.0): 0, (True, 0.0): 0, (True, 1.0): 1}


def test_the_worth_of_wide_looks_is_refused_where_it_would_do_nothing() -> None:
    with pytest.raises(SettingsError, match="discount_seen"):
        PointerLocator(8, 8, zooms=2, wide_worth=0.5)
