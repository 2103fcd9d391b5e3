"""A training whose numbers become infinite says so, and keeps no such parameters."""

from pathlib import Path

import pytest
import torch

from glimpse.agents.learner import Learner, Loss
from glimpse.errors import DivergedError
from glimpse.networks.records import Episodes, Evaluation
from glimpse.runs.checkpoints import Checkpoint
from glimpse.settings.composing import composed
from glimpse.train import train

SHORT = ("experiment=smoke", "env=wsi", "threads=1", "progress=false", "report.readers=[]")

JOINT = ("joint.learning_rate.rate=1e30", "joint.updates=20", "pretrain=none", "warm_up=none")
"""The joint stage leaves out steps whose gradients are not finite; here the first step makes weights of 1e30."""


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        (r"^pretrain: .* lower pretrain\.learning_rate", ("pretrain.learning_rate=1e30", "pretrain.steps=4")),
        (
            r"^warm_up: .* lower warm_up\.learning_rate",
            ("warm_up.learning_rate=1e30", "warm_up.steps=4", "pretrain=none"),
        ),
        (r"^joint: Expected finite numbers in a flat action, got nan\. .* lower joint\.learning_rate\.rate", JOINT),
    ],
)
def test_the_stage_and_what_to_lower_are_named(
    said: str, settings: tuple[str, ...], tiny_slides: Path, tmp_path: Path
) -> None:
    typed = (*SHORT, *settings, f"env.cohort.path={tiny_slides}", f"run={tmp_path / 'run'}", "save_seconds=0")
    with pytest.raises(DivergedError, match=said):
        train(composed(*typed), typed)
    for file in (tmp_path / "run" / "checkpoints").glob("*.safetensors"):
        for name, part in Checkpoint.load(file).tensors.items():
            assert not part.is_floating_point() or torch.isfinite(part).all(), f"{file}: {name}"


def test_steps_that_are_left_out_one_after_the_other_end_a_training(
    tiny_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer_loss(self: Learner, episodes: Episodes, evaluation: Evaluation) -> Loss:
        steps.append(self.skipped)
        return Loss(evaluation.prediction.sum() * (torch.nan if len(steps) > 2 else 1e-6))

    steps: list[int] = []
    monkeypatch.setattr(Learner, "answer_loss", answer_loss)
    typed = (*SHORT, "pretrain=none", "warm_up=none", "joint.updates=40", "joint.validate_every=0")
    typed = (*typed, f"env.cohort.path={tiny_slides}", f"run={tmp_path / 'run'}")
    with pytest.raises(DivergedError, match=r"^joint: The gradients of 10 steps .* lower joint\.learning_rate\.rate"):
        train(composed(*typed), typed)
    assert steps == [0, 0, *range(10)]
