"""The stage of pretraining: where it can be interrupted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimpse.contract.stepped_sources import viewable_cases
from glimpse.envs import FlattenAction, make_array
from glimpse.errors import SettingsError
from glimpse.learning.contrastive import ContrastivePretrainer
from glimpse.learning.foresight import ForesightPretrainer
from glimpse.learning.pretraining import Contrastive
from glimpse.learning.stages import Training
from glimpse.networks import GlimpsePolicy
from glimpse.runs.checkpoints import Checkpoint
from glimpse.runs.folder import Run
from glimpse.settings.composing import composed
from glimpse.train import train

SETTINGS: dict[str, Any] = {
    "steps": 3, "batch": 4, "pool": 8, "foresight": 0.0, "glimpses_per_overview": 2, "margin": 1.0,
    "learning_rate": 1e-3, "temperature": 0.2, "augment": {},
}  # fmt: skip


class NotingRun(Run):
    """A run folder that notes what is saved, in order."""

    def __init__(self, folder: Path, notes: list[str], save_seconds: float) -> None:
        super().__init__(folder, {}, save_seconds=save_seconds)
        self.notes = notes

    def save(self, checkpoint: Checkpoint, stage: str) -> None:
        self.notes.append(f"saved {checkpoint.meta['done']}")
        super().save(checkpoint, stage)


def lanes(split: str, count: int) -> Any:
    raise AssertionError("pretraining plays no episodes")


@pytest.mark.parametrize(("save_seconds", "between"), [(0.0, ["saved 1", "saved 2"]), (3600.0, [])])
def test_the_last_step_is_saved_once_its_tokens_are_calibrated(
    save_seconds: float, between: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (4, 1, 48, 48), np.uint8))
    env: Any = FlattenAction(make_array((images, [0, 1, 0, 1]), glimpse_size=16, max_glimpses=2))
    policy = GlimpsePolicy(env.observation_space, env.action_space, layout=env.layout)
    notes: list[str] = []
    monkeypatch.setattr(ContrastivePretrainer, "calibrate", lambda self: notes.append("calibrated"))
    run, cases = NotingRun(tmp_path, notes, save_seconds), viewable_cases(env)
    training = Training(run, policy, cases, lanes, lambda split: cases, seed=0, threads=1, progress=False)
    Contrastive(**SETTINGS).run(training, "pretrain")
    assert notes == ["calibrated", *between, "calibrated", "saved 3"]
    assert run.checkpoint("pretrained").is_file()


@pytest.mark.parametrize(("weight", "kind"), [(0.0, ContrastivePretrainer), (0.5, ForesightPretrainer)])
def test_foresight_is_learned_if_it_has_a_weight(
    weight: float, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (4, 1, 48, 48), np.uint8))
    env: Any = FlattenAction(make_array((images, [0, 1, 0, 1]), overview_size=24, glimpse_size=16, max_glimpses=2))
    policy = GlimpsePolicy(env.observation_space, env.action_space, layout=env.layout)
    used: list[tuple[type, float, int]] = []
    step = ContrastivePretrainer.step
    monkeypatch.setattr(ContrastivePretrainer, "step", lambda self: used.append(_told(self)) or step(self))
    run, cases = NotingRun(tmp_path, [], 3600), viewable_cases(env)
    training = Training(run, policy, cases, lanes, lambda split: cases, seed=0, threads=1, progress=False)
    Contrastive(**{**SETTINGS, "foresight": weight}).run(training, "pretrain")
    assert used == [(kind, weight, 8)] * 3


def _told(trainer: ContrastivePretrainer) -> tuple[type, float, int]:
    return type(trainer), getattr(trainer, "weight", 0.0), len(trainer.pool)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("batch", 0),
        ("margin", 0.5),
        ("temperature", 0.0),
        ("foresight", -0.1),
        ("glimpses_per_overview", 0),
    ],
)
def test_impossible_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=name):
        Contrastive(**{**SETTINGS, name: value})


def test_an_encoder_that_cannot_learn_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    config = composed(
        "env=wsi", "env.cohort.synthetic={n: 6, size: 1024}", "pretrain.steps=5", f"run={tmp_path / 'run'}"
    )
    with pytest.raises(SettingsError, match="no parameter of the encoder may be trained"):
        train(config)
    assert not (tmp_path / "run").exists()
