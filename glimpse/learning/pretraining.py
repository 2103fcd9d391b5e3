"""The stage of learning without labels, with one class for each objective.

Every objective reads glimpses of the training split once, and trains the encoder as it is: random or pretrained.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from glimpse.errors import SettingsError
from glimpse.learning.augment import Augment
from glimpse.learning.contrastive import ContrastivePretrainer
from glimpse.learning.distillation import DistillationPretrainer
from glimpse.learning.foresight import ForesightPretrainer, sample_foreseen
from glimpse.learning.masked import MaskedPretrainer
from glimpse.learning.pretrainer import CALIBRATION, Pretrainer
from glimpse.learning.sampling import sample_glimpses
from glimpse.learning.stages import Training, finite, state_of
from glimpse.learning.vicreg import VICRegPretrainer, Weights
from glimpse.networks.policy import GlimpsePolicy
from glimpse.ranks.group import once
from glimpse.ranks.sharing import align
from glimpse.runs.loading import save_policy
from glimpse.settings.options import above_zero, at_least
from glimpse.settings.progress import silent

_MOST_STEPS_PER_LOG = 10  # whoever shows a loss waits for the device


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """What the stages of all objectives share; a subclass says which trainer is made.

    Attributes:
        steps: number of updates; with 0 the encoder stays as it is, and only the statistics of `TokenPool` are set.
        batch: glimpses per step.
        pool: how many glimpses are read, once, to learn from.
        margin: factor by which these are larger than a glimpse, as room for shifts and turns.
        learning_rate: learning rate of AdamW.
        augment: keyword arguments of `Augment`. Turns keep the proportions of the finest glimpses; wider ones are
            turned in those, too.
    """

    steps: int
    batch: int
    pool: int
    margin: float
    learning_rate: float
    augment: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("pool", 1)):
            at_least(name, getattr(self, name), least, whole=True)
        at_least("margin", self.margin, 1)
        above_zero("learning_rate", self.learning_rate)
        if not isinstance(self.augment, Mapping):
            raise SettingsError(f"Expected augment as a section, got {self.augment!r}.")
        Augment.parse_options(dict(self.augment))

    def run(self, training: Training, name: str) -> None:
        """Runs the stage to its end, from its beginning or from the last checkpoint."""
        run = training.run
        begun = run.last.meta["stage"] == name
        with run.timed(name):
            if not begun or run.last.meta["done"] < self.steps:
                self._learn(training, name)
        once(lambda: save_policy(training.policy, run.checkpoint("pretrained")))

    def check(self, policy: GlimpsePolicy) -> None:
        """Refuses a policy that cannot learn here.

        Raises:
            SettingsError: there are steps, but the encoder has no parameter that may be trained.
        """
        if self.steps and not any(one.requires_grad for one in policy.encoder.parameters()):
            raise SettingsError(
                "pretrain: no parameter of the encoder may be trained, so it cannot learn. Set pretrain.steps=0."
            )

    def trainer(self, training: Training) -> Pretrainer:
        """Reads the glimpses and makes the trainer; with 0 steps, one that only sets statistics.

        Raises:
            SettingsError: the encoder has no parameter that may be trained, or stains are to be changed in images
                without colours.
        """
        policy, views = training.policy, training.cases.views
        finest = views.sides(training.cases.cases[0].source, -1)
        augment = Augment(views.glimpse_size, policy.encoder.background, finest, **self.augment)
        if not self.steps:
            pool = self._glimpses(training, min(self.pool, CALIBRATION), 1.0)
            return Pretrainer(policy, pool, augment, {})
        self.check(policy)
        augment.check_channels(policy.observation_space["overview"].shape[0])  # type: ignore[index]
        return self._trainer(training, augment)

    def _trainer(self, training: Training, augment: Augment) -> Pretrainer:
        return self._of(training.policy, self._glimpses(training, self.pool, self.margin), augment, training.seed)

    def _of(self, policy: GlimpsePolicy, pool: np.ndarray, augment: Augment, seed: int) -> Pretrainer:
        """Makes the trainer of this objective."""
        raise NotImplementedError

    def _shared(self, seed: int) -> dict[str, Any]:
        return {"batch": self.batch, "learning_rate": self.learning_rate, "seed": seed}

    def _glimpses(self, training: Training, count: int, margin: float) -> np.ndarray:
        cases, views = training.cases.cases, training.cases.views
        drawn: dict[str, Any] = {"margin": margin, "seed": training.seed, "threads": training.threads}
        with tqdm(total=count, desc="reading", unit="glimpse", disable=silent(training.progress)) as bar:
            return sample_glimpses(cases, views, count, progress=bar.update, **drawn)

    def _learn(self, training: Training, name: str) -> None:
        run = training.run
        trainer = self.trainer(training)
        if run.last.meta["stage"] == name:
            trainer.restore_state(run.last)
        elif self.steps:
            trainer.calibrate()
        align(trainer.modules().values())
        every = min(max(self.steps // 20, 1), _MOST_STEPS_PER_LOG)
        bar = tqdm(total=self.steps, initial=trainer.done, desc=name, unit="step", disable=silent(training.progress))
        with bar, run.stoppable():
            while trainer.done < self.steps:
                loss = trainer.step()
                bar.update()
                if trainer.done == self.steps or trainer.done % every == 0:
                    shown = finite(loss, trainer.done)
                    bar.set_postfix(loss=f"{shown:.3f}", refresh=False)
                    run.logger.record("pretrain/loss", shown)
                    run.logger.dump(trainer.done)
                if trainer.done < self.steps:  # the last step counts once the tokens are calibrated, too
                    run.offer(name, lambda: state_of(trainer))
        doubt = trainer.doubt()
        if doubt is not None:
            warnings.warn(doubt, stacklevel=2)
        trainer.calibrate()
        run.save(state_of(trainer), name)
        run.stop_if_asked()


@dataclass(frozen=True, kw_only=True)
class Contrastive(Pretraining):
    """Glimpses are told apart by two views of each (see `glimpse.learning.contrastive`).

    Attributes:
        temperature: temperature of the contrastive loss.
        foresight: weight of the loss by which cells of overviews learn to foresee what glimpses show (see
            `glimpse.learning.foresight`). With 0, no overviews are used.
        glimpses_per_overview: with foresight, how many glimpses of a case a step takes.
    """

    temperature: float = 0.2
    foresight: float = 0.0
    glimpses_per_overview: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("glimpses_per_overview", self.glimpses_per_overview, 1, whole=True)
        at_least("foresight", self.foresight, 0)
        above_zero("temperature", self.temperature)

    def _trainer(self, training: Training, augment: Augment) -> Pretrainer:
        if not self.foresight:
            return super()._trainer(training, augment)
        each, policy, seed = self.glimpses_per_overview, training.policy, training.seed
        drawn: dict[str, Any] = {"margin": self.margin, "seed": seed, "threads": training.threads}
        with tqdm(total=self.pool, desc="reading", unit="glimpse", disable=silent(training.progress)) as bar:
            cases, views = training.cases.cases, training.cases.views
            foreseen = sample_foreseen(policy, cases, views, self.pool, each, progress=bar.update, **drawn)
        learning = {**self._shared(seed), "temperature": self.temperature}
        return ForesightPretrainer(policy, foreseen, augment, per_case=each, weight=self.foresight, **learning)

    def _of(self, policy: GlimpsePolicy, pool: np.ndarray, augment: Augment, seed: int) -> Pretrainer:
        return ContrastivePretrainer(policy, pool, augment, temperature=self.temperature, **self._shared(seed))


@dataclass(frozen=True, kw_only=True)
class VICReg(Pretraining):
    """Two views get the same embedding, with varied and uncorrelated numbers (see `glimpse.learning.vicreg`).

    Attributes:
        width: numbers of an embedding.
        invariance, variance, covariance: weights of the parts of the loss.
    """

    width: int = 256
    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch", "pool", "width"):
            at_least(name, getattr(self, name), 2, whole=True)
        for name in ("invariance", "variance", "covariance"):
            at_least(name, getattr(self, name), 0)

    def _of(self, policy: GlimpsePolicy, pool: np.ndarray, augment: Augment, seed: int) -> Pretrainer:
        weights = Weights(self.invariance, self.variance, self.covariance)
        return VICRegPretrainer(policy, pool, augment, width=self.width, weights=weights, **self._shared(seed))


@dataclass(frozen=True, kw_only=True)
class Masked(Pretraining):
    """The texture of hidden parts is predicted from the others (see `glimpse.learning.masked`).

    Attributes:
        share: share of the patches of a glimpse that are hidden, above 0 and below 1.
        patch: side of a patch, in cells of the encoder.
    """

    share: float = 0.5
    patch: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("patch", self.patch, 1, whole=True)
        above_zero("share", self.share)
        if self.share >= 1:
            raise SettingsError(f"Expected share above 0 and below 1, got {self.share!r}.")

    def _of(self, policy: GlimpsePolicy, pool: np.ndarray, augment: Augment, seed: int) -> Pretrainer:
        return MaskedPretrainer(policy, pool, augment, share=self.share, patch=self.patch, **self._shared(seed))


@dataclass(frozen=True, kw_only=True)
class Distillation(Pretraining):
    """An average of the encoder teaches it (see `glimpse.learning.distillation`).

    Attributes:
        prototypes: how many outputs student and teacher have.
        student_temperature, teacher_temperature: the lower, the sharper their outputs.
        decay: how slowly the teacher follows the student, at least 0 and below 1.
        centre_decay: how slowly the centre follows the teacher's outputs, at least 0 and below 1.
    """

    prototypes: int = 256
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    decay: float = 0.996
    centre_decay: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("prototypes", self.prototypes, 2, whole=True)
        for name in ("student_temperature", "teacher_temperature"):
            above_zero(name, getattr(self, name))
        for name in ("decay", "centre_decay"):
            at_least(name, getattr(self, name), 0)
            if getattr(self, name) >= 1:
                raise SettingsError(f"Expected {name} of at least 0 and below 1, got {getattr(self, name)!r}.")

    def _of(self, policy: GlimpsePolicy, pool: np.ndarray, augment: Augment, seed: int) -> Pretrainer:
        own: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("prototypes", "student_temperature", "teacher_temperature", "decay", "centre_decay")
        }
        return DistillationPretrainer(policy, pool, augment, **own, **self._shared(seed))
