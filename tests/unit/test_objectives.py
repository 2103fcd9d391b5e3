"""Learning without labels, by every objective: it lowers its loss, keeps glimpses apart, and can be interrupted."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glimpse.contract.stepped_sources import viewable_cases
from glimpse.envs import FlattenAction, make_array
from glimpse.errors import SettingsError
from glimpse.learning.augment import Augment
from glimpse.learning.contrastive import ContrastivePretrainer
from glimpse.learning.distillation import DistillationPretrainer
from glimpse.learning.masked import MaskedPretrainer
from glimpse.learning.pretrainer import Pretrainer
from glimpse.learning.pretraining import Contrastive, Distillation, Masked, Pretraining, VICReg
from glimpse.learning.stages import Training
from glimpse.learning.vicreg import VICRegPretrainer
from glimpse.networks import ConvEncoder, EfficientNetLite0, GlimpsePolicy
from glimpse.runs.checkpoints import Checkpoint
from glimpse.runs.folder import Run
from glimpse.settings.composing import composed

OBJECTIVES = [ContrastivePretrainer, VICRegPretrainer, MaskedPretrainer, DistillationPretrainer]
STAGES: list[type[Pretraining]] = [Contrastive, VICReg, Masked, Distillation]
SIDE = 16
SHARED: dict[str, Any] = {"steps": 4, "batch": 8, "pool": 24, "margin": 1.25, "learning_rate": 1e-3, "augment": {}}


def textures(count: int, side: int, ndim: int = 2) -> np.ndarray:
    """Random textures of four kinds of any brightness and contrast: stripes along two axes, grain, blots."""
    rng, images = np.random.default_rng(0), []
    for index in range(count):
        rough = (1,) * ndim if index % 4 == 2 else (4,) * ndim
        rough = {0: (*(side,) * (ndim - 1), 2), 1: (2, *(side,) * (ndim - 1))}.get(index % 4, rough)
        coarse = rng.uniform(70, 185) + rng.uniform(10, 70) * rng.uniform(-1, 1, [-(-side // step) for step in rough])
        images.append(np.kron(coarse, np.ones(rough))[(slice(side),) * ndim])
    return np.stack(images)[:, None].astype(np.uint8)


def policy_of(ndim: int = 2, side: int = SIDE, width: int | None = None) -> GlimpsePolicy:
    torch.manual_seed(0)
    images = list(textures(4, 2 * side, ndim))
    env: Any = FlattenAction(make_array((images, [0, 1, 0, 1]), overview_size=side, glimpse_size=side, max_glimpses=2))
    small = partial(ConvEncoder, widths=(8, 16, 16, 16), strides=(2, 2, 1, 1))  # cells of 4 pixels
    return GlimpsePolicy(env.observation_space, env.action_space, layout=env.layout, encoder=small, width=width)


def trainer_of(objective: Callable[..., Pretrainer], ndim: int = 2, count: int = 64, **options: Any) -> Pretrainer:
    policy = policy_of(ndim)
    augment = Augment((SIDE,) * ndim, 0.0, quarter_turns=True, zoom=0.0, tilt=0.0, strength=0.1)
    rate = 3e-4 if objective is DistillationPretrainer else 2e-3  # with 3e-3, contrastive losses may stay at chance
    return objective(policy, textures(count, 20, ndim), augment, **{"batch": 32, "learning_rate": rate, **options})


@pytest.mark.parametrize(("rate", "alike"), [(1e-3, False), (0.1, True)])
def test_an_encoder_to_which_all_glimpses_look_alike_is_called_so(rate: float, alike: bool) -> None:
    trainer = trainer_of(ContrastivePretrainer, learning_rate=rate)
    for _ in range(100):
        assert trainer.doubt() is None  # it is too early to tell
        trainer.step()
    said = trainer.doubt()
    assert said is None if not alike else said and "hardly tells glimpses apart" in said


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_falls_and_glimpses_stay_apart(objective: Callable[..., Pretrainer]) -> None:
    trainer = trainer_of(objective)
    trainer.calibrate()
    losses = [trainer.step() for _ in range(100)]
    assert np.mean(losses[-20:]) < 0.95 * np.mean(losses[:20])
    trainer.calibrate()
    with torch.no_grad():
        features = trainer.policy.summary_in_chunks(trainer.pool[..., 2:18, 2:18])
    standardised = (features - features.mean(0)) / (features.std(0) + 1e-3)
    strengths = torch.linalg.svdvals(standardised) ** 2
    shares = strengths / strengths.sum()
    assert float(torch.exp(-(shares * (shares + 1e-12).log()).sum())) > 2.5  # so many directions matter
    assert float((features.std(0) / (features.abs().mean(0) + 1e-6)).median()) > 0.07


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_number_of_axes_trains_the_encoder(objective: Callable[..., Pretrainer], ndim: int) -> None:
    trainer = trainer_of(objective, ndim, 8, batch=4)
    before = [one.clone() for one in trainer.policy.encoder.parameters()]
    trainer.calibrate()
    assert np.isfinite(trainer.step()) and trainer.done == 1
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.policy.encoder.parameters(), strict=True))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_tokens_may_be_narrower_than_features(objective: Callable[..., Pretrainer]) -> None:
    policy = policy_of(width=12)
    augment = Augment((SIDE, SIDE), 0.0, quarter_turns=True, zoom=0.0, tilt=0.0)
    trainer = objective(policy, textures(16, 20), augment, batch=8)
    assert (
        policy.embed(trainer.pool[:2, ..., :SIDE, :SIDE]).shape == (2, 12)
        and np.isfinite([trainer.step(), trainer.step()]).all()
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_parameters_that_need_no_gradient_stay_as_they_are(objective: Callable[..., Pretrainer]) -> None:
    torch.manual_seed(1)
    policy = policy_of()
    fixed = list(policy.encoder.parameters())[:4]
    for one in fixed:
        one.requires_grad_(False)
    kept, free = [one.clone() for one in fixed], list(policy.encoder.parameters())[4].clone()
    trainer = objective(policy, textures(16, SIDE), Augment((SIDE, SIDE), 0.0), batch=8)
    trainer.calibrate()
    for _ in range(2):
        trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(kept, fixed, strict=True))
    assert not torch.equal(free, list(policy.encoder.parameters())[4])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_interrupted_training_goes_on_with_the_same_numbers(
    objective: Callable[..., Pretrainer], tmp_path: Path
) -> None:
    found = []
    for interrupted in (False, True):
        trainer = trainer_of(objective, seed=3)
        trainer.calibrate()
        for _ in range(3):
            trainer.step()
        if interrupted:
            checkpoint = Checkpoint()
            trainer.save_state(checkpoint)
            checkpoint.save(tmp_path / "state.safetensors")
            trainer = trainer_of(objective, seed=4)
            trainer.restore_state(Checkpoint.load(tmp_path / "state.safetensors"))
        found.append(([trainer.step() for _ in range(3)], trainer.policy.state_dict()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_pretrained_weights_are_where_it_begins(objective: Callable[..., Pretrainer]) -> None:
    images = list(textures(4, 64))
    env: Any = FlattenAction(make_array((images, [0, 1, 0, 1]), overview_size=64, glimpse_size=32, max_glimpses=2))
    encoder = partial(EfficientNetLite0, stride=8, trainable="all")
    policy = GlimpsePolicy(env.observation_space, env.action_space, layout=env.layout, encoder=encoder)
    learned, untouched = dict(policy.encoder.named_parameters()), EfficientNetLite0(1, stride=8, trainable="all")
    trainer = objective(policy, textures(8, 32), Augment((32, 32), 0.0), batch=4, learning_rate=1e-5)
    trainer.calibrate()
    trainer.step()
    before = dict(untouched.named_parameters())
    assert any(not torch.equal(before[name], value) for name, value in learned.items())
    for name, value in learned.items():
        assert (before[name] - value).abs().max() < 2e-5  # one step of AdamW from them
    buffers = dict(untouched.named_buffers())  # the statistics of batch normalisation
    assert all(torch.equal(buffers[name], value) for name, value in policy.encoder.named_buffers())


# ---------------------------------------------------------------------------------------------- the stage
class KilledRun(Run):
    """A run folder whose process dies right after a step was saved."""

    def save(self, checkpoint: Checkpoint, stage: str) -> None:
        super().save(checkpoint, stage)
        if checkpoint.meta["done"] == 2:
            raise KeyboardInterrupt


def training_in(folder: Path, kind: type[Run] = Run, resume: bool = False) -> Training:
    policy = policy_of()
    images = list(textures(6, 2 * SIDE))
    env: Any = FlattenAction(make_array((images, [0, 1] * 3), overview_size=SIDE, glimpse_size=SIDE, max_glimpses=2))
    cases = viewable_cases(env)
    run = kind(folder, {}, resume=resume, save_seconds=0.0)

    def no_lanes(split: str, count: int) -> Any:
        raise AssertionError("learning without labels plays no episodes")

    return Training(run, policy, cases, no_lanes, lambda split: cases, seed=0, threads=1, progress=False)


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_ends_as_one_that_was_not(stage: type[Pretraining], tmp_path: Path) -> None:
    whole = training_in(tmp_path / "whole")
    stage(**SHARED).run(whole, "pretrain")
    with pytest.raises(KeyboardInterrupt):
        stage(**SHARED).run(training_in(tmp_path / "killed", KilledRun), "pretrain")
    torch.manual_seed(99)
    again = training_in(tmp_path / "killed", resume=True)
    assert again.run.last.meta["done"] == 2
    stage(**SHARED).run(again, "pretrain")
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, again.policy.state_dict()[name]), name


def test_without_steps_only_the_statistics_are_set(tmp_path: Path) -> None:
    training = training_in(tmp_path)
    training.policy.encoder.requires_grad_(False)
    before = {name: value.clone() for name, value in training.policy.state_dict().items()}
    VICReg(**{**SHARED, "steps": 0}).run(training, "pretrain")
    changed = {n for n, v in training.policy.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"pool.shift", "pool.spread"}


@pytest.mark.parametrize("stage", STAGES)
def test_an_encoder_that_may_not_be_trained_is_refused(stage: type[Pretraining], tmp_path: Path) -> None:
    training = training_in(tmp_path)
    training.policy.encoder.requires_grad_(False)
    with pytest.raises(SettingsError, match=r"no parameter of the encoder.*pretrain\.steps=0"):
        stage(**SHARED).run(training, "pretrain")


def test_glimpses_of_one_cell_cannot_be_hidden_in_part() -> None:
    policy = policy_of(side=4)
    with pytest.raises(SettingsError, match=r"4 x 4 pixels is a single cell.*env\.make\.glimpse_size"):
        MaskedPretrainer(policy, textures(4, 4), Augment((4, 4), 0.0))


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [
        (VICReg, "batch", 1),
        (VICReg, "covariance", -1.0),
        (Masked, "share", 1.0),
        (Masked, "patch", 0),
        (Distillation, "decay", 1.0),
        (Distillation, "teacher_temperature", 0.0),
        (Distillation, "prototypes", 1),
        (VICReg, "augment", {"blur": -1.0}),
    ],
)
def test_impossible_settings_are_refused(stage: type[Pretraining], name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match="blur" if name == "augment" else name):
        stage(**{**SHARED, name: value})


# ---------------------------------------------------------------------------------------------- the command line
def test_an_objective_that_would_make_no_steps_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"pretrain=vicreg: the recipe of env=wsi sets pretrain\.steps=0.*=1000"):
        composed("env=wsi", "pretrain=vicreg")
    assert composed("env=wsi", "pretrain=vicreg", "pretrain.steps=0").pretrain.steps == 0
    assert composed("env=wsi").pretrain.steps == 0


@pytest.mark.parametrize(
    ("objective", "stage"), zip(["contrastive", "vicreg", "masked", "distillation"], STAGES, strict=True)
)
def test_every_objective_is_an_option_of_the_command_line(objective: str, stage: type[Pretraining]) -> None:
    for env in ("wsi", "megapixel_mnist"):  # the second has settings that only contrastive learning takes
        config = composed(f"env={env}", f"pretrain={objective}", "pretrain.steps=7")
        assert config.pretrain._target_ == f"glimpse.learning.pretraining.{stage.__name__}"
        assert config.pretrain.steps == 7
    assert composed("env=wsi", f"pretrain={objective}", "pretrain.steps=7").pretrain.augment.stain == 0.2
