"""What looking is worth at all levels, as the warm-up has found it, and what the joint stage learns from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from glimpse.agents import PPO
from glimpse.envs import GlimpseVecEnv
from glimpse.learning.looking import InnerWorth, WideLooks, Worth
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from tests.unit.test_zoom import ENCODER, spotted, warmed


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
    found = known.loss(WideLooks(location, zoom, scores), 1, 0.0)
    logits = torch.stack([scores[0, 1, 0], scores[0, 1, 3], scores[1, 0, 1]])
    benefit = torch.tensor([2.0 - 1.0, 2.0 - 2.0, 2.0 - 3.0])
    torch.testing.assert_close(found, -(logits.softmax(0) * benefit).sum() / 2)
    found.backward()
    assert scores.grad is not None and not scores.grad[2:].any() and scores.grad[0, 1, 0] != 0


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
    losses, compute = [], InnerWorth.loss

    def noted(self: InnerWorth, *given: Any) -> torch.Tensor:
        losses.append(compute(self, *given))
        return losses[-1]

    monkeypatch.setattr(InnerWorth, "loss", noted)
    agent.learn(agent.steps_per_update)
    assert losses and all(loss.requires_grad and loss != 0 for loss in losses)  # it has looked somewhere that is known
