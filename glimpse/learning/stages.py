"""What all stages of a training share, and the warm-up.

Learning without labels is in `glimpse.learning.pretraining`, learning from episodes in `glimpse.learning.episodes`.

A stage is built from its section of the configuration before training begins, so that a mistake in it shows at once.
Its method `run` then does the work; a stage that was interrupted continues from the run's last checkpoint.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from tqdm import tqdm

from glimpse.contract.stepped_sources import ViewableCases
from glimpse.errors import DivergedError, SettingsError
from glimpse.learning.second_look import SecondLook, ZoomSecondLook
from glimpse.learning.trainer import Trainer
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.learning.zoom_warm_up import ZoomWarmUp
from glimpse.networks.locator import PointerLocator
from glimpse.networks.policy import GlimpsePolicy
from glimpse.ranks.group import once
from glimpse.ranks.sharing import align
from glimpse.reading.records import Validated
from glimpse.runs.checkpoints import Checkpoint
from glimpse.runs.folder import Run
from glimpse.settings.progress import silent

STAGES = ["pretrain", "warm_up", "joint", "report"]
_STEPS_PER_LOG = 50  # of the warm-up, whose steps are too short to log each of them

Warm = TypeVar("Warm", bound=TokenWarmUp)
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
        validate: reads the validation split with the current policy, and with further budgets.
    """

    run: Run
    policy: GlimpsePolicy
    cases: ViewableCases
    lanes: Lanes
    viewable: Callable[[str], ViewableCases]
    seed: int
    threads: int
    progress: bool
    validate: Callable[[Sequence[int]], Validated] = lambda budgets: Validated()


class Stage(Protocol):
    """The interface of stages."""

    def run(self, training: Training, name: str) -> None:
        """Runs the stage to its end, from its beginning or from the last checkpoint; `name` is one of `STAGES`."""


class NoStage:
    """The stage that does nothing; it stands in for a stage that is left out."""

    def run(self, training: Training, name: str) -> None:
        """Does nothing."""


class WarmUp:
    """Supervised learning on glimpses that are read and encoded only once (see `TokenWarmUp`, `SecondLook`).

    Args:
        **options: options of `TokenWarmUp`.

    Raises:
        SettingsError: an option is unknown or impossible.
    """

    option_names = TokenWarmUp.option_names

    def __init__(self, **options: Any) -> None:
        TokenWarmUp.parse_options(options)
        self.options = options

    def check(self, policy: GlimpsePolicy) -> None:
        """Refuses options that do not suit a policy.

        Raises:
            SettingsError: `branches` are of another number of fields of view, or `look_contexts` would do nothing.
        """
        options = TokenWarmUp.parse_options(self.options)
        zooms, losses = policy.layout.zooms > 1, options.losses
        if zooms:
            options.glimpses.branches_of(policy.layout.zooms)
        if losses.look_contexts and not (zooms and losses.look_coef and isinstance(policy.locator, PointerLocator)):
            raise SettingsError(
                "warm_up.look_contexts teaches a locator that points at cells, with several fields of view and "
                "look_coef above 0: set it to 0, or change network.locator, env.make.glimpse_extents or "
                "warm_up.look_coef."
            )

    def run(self, training: Training, name: str) -> None:
        zooms = training.policy.layout.zooms > 1
        run, trainer = training.run, self._trainer(ZoomWarmUp if zooms else TokenWarmUp, training)
        last, going_on = run.last, run.last.meta["stage"] == name
        looked = going_on and SecondLook.holds(last)
        with run.timed(name):
            if not looked:
                if going_on:
                    trainer.restore_state(last)
                self._learn(training, name, trainer)
                if trainer.looks:
                    worth = trainer.worth()
                    once(lambda: worth.save(run.checkpoint("worth")))
            unlearned, first = trainer.unlearned, trainer.steps
            if unlearned is not None:
                kind = ZoomSecondLook if zooms else SecondLook
                trainer = second = self._trainer(kind, training)  # frees the features of the first look
                if looked:
                    second.restore_state(last)
                else:
                    second.begin(unlearned)
                self._learn(training, name, second, first)

    def _trainer(self, kind: type[Warm], training: Training) -> Warm:
        cases = training.cases
        given = {"seed": training.seed, "threads": training.threads, **self.options}
        return kind(training.policy, cases.cases, cases.views, cases.task, **given)

    def _learn(self, training: Training, name: str, trainer: TokenWarmUp, before: int = 0) -> None:
        """Reads and encodes the glimpses, and makes the steps that are left; `before` were made by another trainer."""
        with tqdm(total=len(trainer.cases), desc="encoding", unit="case", disable=silent(training.progress)) as bar:
            trainer.encode(bar.update)
        align(trainer.modules().values())
        run = training.run
        bar = tqdm(total=trainer.steps, initial=trainer.done, desc="warm-up", disable=silent(training.progress))
        with bar, run.stoppable():
            while trainer.done < trainer.steps:
                loss = trainer.step()
                ended = trainer.done == trainer.steps
                bar.update()
                if ended or trainer.done % _STEPS_PER_LOG == 0:
                    shown = finite(loss, trainer.done)
                    bar.set_postfix(loss=f"{shown:.3f}", refresh=False)
                    run.logger.record("warm_up/second_look" if before else "warm_up/loss", shown)
                    run.logger.dump(before + trainer.done)
                run.offer(name, lambda: state_of(trainer), now=ended)


def finite(loss: Float[Tensor, ""], done: int) -> float:
    """Returns the loss of a step as a number.

    Args:
        loss: the loss.
        done: how many steps have been made.

    Raises:
        DivergedError: it is not finite.
    """
    value = loss.item()
    if not math.isfinite(value):
        raise DivergedError(f"The loss of step {done} is {value}, so nothing more can be learned.")
    return value


def state_of(trainer: Trainer) -> Checkpoint:
    """Returns a checkpoint with the state of a trainer.

    Raises:
        DivergedError: parameters are not finite, so that nobody could go on with them.
    """
    parameters = [one for module in trainer.modules().values() for one in module.parameters()]
    if not torch.stack([one.isfinite().all() for one in parameters]).all():
        raise DivergedError(f"Parameters are not finite after step {trainer.done}, so nothing more can be learned.")
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
