"""The stages of a training: pretraining and warm-up. Learning from episodes is in `glimpse.learning.episodes`.

A stage is built from its section of the configuration before training begins, so that a mistake in it shows at once.
Its method `run` then does the work; a stage that was interrupted continues from the run's last checkpoint.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from glimpse.contract.stepped_sources import ViewableCases
from glimpse.errors import SettingsError
from glimpse.learning.augment import Augment
from glimpse.learning.contrastive import CALIBRATION, ContrastivePretrainer, sample_glimpses
from glimpse.learning.foresight import ForesightPretrainer, sample_foreseen
from glimpse.learning.trainer import Trainer
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.networks.policy import GlimpsePolicy
from glimpse.runs.checkpoints import Checkpoint
from glimpse.runs.folder import Run
from glimpse.runs.loading import save_policy
from glimpse.settings.options import above_zero, at_least
from glimpse.settings.progress import silent

STAGES = ["pretrain", "warm_up", "joint", "report"]
_STEPS_PER_LOG = 50  # of the warm-up, whose steps are too short to log each of them

Lanes = Callable[[str, int], VecEnv]
"""A function that takes a split and a number, and returns a vector of so many flattened environments."""


@dataclass
class Training:
    """What all stages of a training work with.

    Attributes:
        run: the run folder, with the last checkpoint.
        policy: the policy that learns.
        cases: the cases of the training split, and how to look at them.
        lanes: takes a split and a number, and returns a vector of so many environments.
        viewable: takes a split, and returns its cases and how to look at them.
        seed: seed of all random numbers.
        threads: how many threads read images.
        progress: whether to show progress bars.
        validate: reads the validation split with the current policy; returns scores by name, and a picture of one
            scanpath. Without validation cases it returns an empty dictionary and None.
    """

    run: Run
    policy: GlimpsePolicy
    cases: ViewableCases
    lanes: Lanes
    viewable: Callable[[str], ViewableCases]
    seed: int
    threads: int
    progress: bool
    validate: Callable[[], tuple[dict[str, float], np.ndarray | None]] = field(default=lambda: ({}, None))


class Stage(Protocol):
    """The interface of stages."""

    def run(self, training: Training, name: str) -> None:
        """Runs the stage to its end, from its beginning or from the last checkpoint; `name` is one of `STAGES`."""


class NoStage:
    """The stage that does nothing; it stands in for a stage that is left out."""

    def run(self, training: Training, name: str) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class Pretraining:
    """Contrastive learning on random foreground glimpses, without labels.

    Attributes:
        steps: number of updates; with 0 the encoder stays as it is, and only the statistics of `TokenPool` are set.
        batch: glimpses per step; each of them gives two views.
        pool: how many glimpses are read, once, to learn from.
        foresight: weight of the loss by which cells of overviews learn to foresee what glimpses show (see
            `glimpse.learning.foresight`). With 0, no overviews are used.
        glimpses_per_overview: with foresight, how many glimpses of a case a step takes.
        margin: factor by which these are larger than a glimpse, as room for shifts and turns.
        learning_rate: learning rate of AdamW.
        temperature: temperature of the contrastive loss.
        augment: keyword arguments of `Augment`.
    """

    steps: int
    batch: int
    pool: int
    foresight: float
    glimpses_per_overview: int
    margin: float
    learning_rate: float
    temperature: float
    augment: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("pool", 1), ("glimpses_per_overview", 1)):
            at_least(name, getattr(self, name), least, whole=True)
        at_least("margin", self.margin, 1)
        at_least("foresight", self.foresight, 0)
        for name in ("learning_rate", "temperature"):
            above_zero(name, getattr(self, name))
        if not isinstance(self.augment, Mapping):
            raise SettingsError(f"Expected augment as a section, got {self.augment!r}.")
        for name, value in self.augment.items():
            if name != "flips":
                at_least(f"augment.{name}", value, 0)

    def run(self, training: Training, name: str) -> None:
        run = training.run
        begun = run.last.meta["stage"] == name
        with run.timed(name):
            if not begun or run.last.meta["done"] < self.steps:
                self._learn(training, name)
        save_policy(training.policy, run.checkpoint("pretrained"))

    def _learn(self, training: Training, name: str) -> None:
        run = training.run
        trainer = self._trainer(training)
        if run.last.meta["stage"] == name:
            trainer.restore_state(run.last)
        elif self.steps:
            trainer.calibrate()
        bar = tqdm(total=self.steps, initial=trainer.done, desc=name, unit="step", disable=silent(training.progress))
        with bar, run.stoppable():
            while trainer.done < self.steps:
                loss = trainer.step()
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                run.logger.record("pretrain/loss", loss)
                run.logger.dump(trainer.done)
                if trainer.done < self.steps:  # the last step counts once the tokens are calibrated, too
                    run.offer(name, lambda: _state_of(trainer))
        trainer.calibrate()
        run.save(_state_of(trainer), name)
        run.stop_if_asked()

    def _trainer(self, training: Training) -> ContrastivePretrainer:
        cases, views, policy = training.cases.cases, training.cases.views, training.policy
        sides = views.sides(cases[0].source)
        augment = Augment(views.glimpse_size, policy.encoder.background, sides, **self.augment)
        learning: dict[str, Any] = {
            "batch": self.batch,
            "learning_rate": self.learning_rate,
            "temperature": self.temperature,
            "seed": training.seed,
        }
        count, margin = (self.pool, self.margin) if self.steps else (min(self.pool, CALIBRATION), 1.0)
        drawn: dict[str, Any] = {"margin": margin, "seed": training.seed, "threads": training.threads}
        with tqdm(total=count, desc="reading", unit="glimpse", disable=silent(training.progress)) as bar:
            drawn["progress"] = bar.update
            if not self.foresight or not self.steps:
                pool = sample_glimpses(cases, views, count, **drawn)
                return ContrastivePretrainer(policy, pool, augment, **learning)
            each = self.glimpses_per_overview
            foreseen = sample_foreseen(policy, cases, views, count, each, **drawn)
        return ForesightPretrainer(policy, foreseen, augment, per_case=each, weight=self.foresight, **learning)


class WarmUp:
    """Supervised learning on random glimpses that are read and encoded only once (see `TokenWarmUp`).

    Args:
        **options: options of `TokenWarmUp`.

    Raises:
        SettingsError: an option is unknown or impossible.
    """

    option_names = TokenWarmUp.option_names

    def __init__(self, **options: Any) -> None:
        TokenWarmUp.parse_options(options)
        self.options = options

    def run(self, training: Training, name: str) -> None:
        run, cases = training.run, training.cases
        with run.timed(name):
            trainer = TokenWarmUp(
                training.policy,
                cases.cases,
                cases.views,
                cases.task,
                seed=training.seed,
                threads=training.threads,
                **self.options,
            )
            if run.last.meta["stage"] == name:
                trainer.restore_state(run.last)
            with tqdm(total=len(cases.cases), desc="encoding", unit="case", disable=silent(training.progress)) as bar:
                trainer.encode(bar.update)
            self._learn(training, name, trainer)
            if trainer.looks:
                trainer.worth().save(run.checkpoint("worth"))

    def _learn(self, training: Training, name: str, trainer: TokenWarmUp) -> None:
        run = training.run
        bar = tqdm(total=trainer.steps, initial=trainer.done, desc="warm-up", disable=silent(training.progress))
        with bar, run.stoppable():
            while trainer.done < trainer.steps:
                loss = trainer.step()
                ended = trainer.done == trainer.steps
                bar.update()
                if ended or trainer.done % _STEPS_PER_LOG == 0:
                    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                    run.logger.record("warm_up/loss", loss)
                    run.logger.dump(trainer.done)
                run.offer(name, lambda: _state_of(trainer), now=ended)


def _state_of(trainer: Trainer) -> Checkpoint:
    checkpoint = Checkpoint()
    trainer.save_state(checkpoint)
    return checkpoint


def restore_policy(training: Training) -> None:
    """Loads the parameters of the run's last checkpoint into the policy, if there is one."""
    last = training.run.last
    if last.meta["stage"] is not None:
        last.restore_module("policy", training.policy)


def seed_everything(seed: int, threads: int) -> None:
    """Seeds all global random generators and sets the number of threads, so that a run can be repeated exactly."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # numpy takes no larger seed
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)
