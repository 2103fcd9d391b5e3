"""The three stages of learning: pretrain the encoder, warm up on random glimpses, learn where to look."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Image
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from glimpse.contract.stepped_sources import ViewableCases
from glimpse.learning.augment import Augment
from glimpse.learning.averaging import Average
from glimpse.learning.contrastive import ContrastivePretrainer, sample_glimpses
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.networks.policy import GlimpsePolicy
from glimpse.runs.checkpoints import Checkpoint
from glimpse.runs.folder import Run
from glimpse.runs.loading import save_policy

STAGES = ["pretrain", "warm_up", "joint", "report"]
Lanes = Callable[[str, int], VecEnv]
"""Given a split and a number of episodes at once, a vector of flattened environments."""


@dataclass
class Training:
    """What all stages share."""

    run: Run
    policy: GlimpsePolicy
    env: ViewableCases  # the cases of the training split, and how to look at them
    lanes: Lanes
    look: Callable[[str], ViewableCases]
    seed: int
    threads: int
    progress: bool
    validate: Callable[[], tuple[dict[str, float], np.ndarray | None]] = field(default=lambda: ({}, None))


@dataclass
class Progress:
    """What the validation split has said so far.

    Attributes:
        best: the highest score.
        history: one record per look: stage, updates of it, seconds since the run began, and the scores.
    """

    best: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


# ---------------------------------------------------------------------------------------------- pretraining
def pretrain(training: Training, stage: str, config: DictConfig) -> None:
    """Contrastive learning on random foreground glimpses, without labels."""
    run = training.run
    begun = run.last.meta["stage"] == stage
    done = int(run.last.meta["done"]) if begun else 0
    with run.timed(stage):
        if not begun or done < config.steps:
            _pretrain(training, stage, config)
    save_policy(training.policy, run.checkpoint("pretrained"))


def _pretrain(training: Training, stage: str, config: DictConfig) -> None:
    run = training.run
    trainer = _pretrainer(training, config)
    if run.last.meta["stage"] == stage:
        trainer.restore_state(run.last)
    else:
        trainer.calibrate()
    bar = tqdm(total=config.steps, initial=trainer.done, desc="pretrain", unit="step", disable=not training.progress)
    while trainer.done < config.steps:
        loss = trainer.step()
        bar.update()
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        run.logger.record("pretrain/loss", loss)
        run.logger.dump(trainer.done)
        run.tick(stage)
        run.save(_state_of(trainer), stage)
    bar.close()
    trainer.calibrate()
    run.save(_state_of(trainer), stage)


def _state_of(trainer: ContrastivePretrainer | TokenWarmUp) -> Checkpoint:
    checkpoint = Checkpoint()
    trainer.save_state(checkpoint)
    return checkpoint


def _pretrainer(training: Training, config: DictConfig) -> ContrastivePretrainer:
    env, policy = training.env, training.policy
    sides = env.views.sides(env.cases[0].source)
    augment = Augment(env.views.glimpse_size, policy.encoder.background, sides, **config.augment)
    with tqdm(total=config.pool, desc="reading", unit="glimpse", disable=not training.progress) as bar:
        pool = sample_glimpses(
            env.cases,
            env.views,
            config.pool,
            margin=config.margin,
            seed=training.seed,
            threads=training.threads,
            progress=bar.update,
        )
    return ContrastivePretrainer(
        policy,
        pool,
        augment,
        batch=config.batch,
        learning_rate=config.learning_rate,
        temperature=config.temperature,
        seed=training.seed,
    )


# ---------------------------------------------------------------------------------------------- warm-up
def warm_up(training: Training, stage: str, config: DictConfig) -> None:
    """Supervised learning on random glimpses that are encoded once."""
    run, env, policy = training.run, training.env, training.policy
    with run.timed(stage):
        trainer = instantiate(config.trainer)(
            policy, env.cases, env.views, env.task, seed=training.seed, threads=training.threads
        )
        if run.last.meta["stage"] == stage:
            trainer.restore_state(run.last)
        with tqdm(total=len(env.cases), desc="encoding", unit="case", disable=not training.progress) as bar:
            trainer.encode(bar.update)
        bar = tqdm(total=trainer.steps, initial=trainer.done, desc="warm-up", disable=not training.progress)
        while trainer.done < trainer.steps:
            loss = trainer.step()
            bar.update()
            if trainer.done % _STEPS_PER_SAVE == 0 or trainer.done == trainer.steps:
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                run.logger.record("warm_up/loss", loss)
                run.logger.dump(trainer.done)
                run.tick(stage)
                run.save(_state_of(trainer), stage)
        bar.close()


_STEPS_PER_SAVE = 50  # steps take milliseconds


# ---------------------------------------------------------------------------------------------- learning from episodes
def learn(training: Training, stage: str, config: DictConfig) -> None:
    """Runs the stage's algorithm for its number of updates, from where the run stands; it leaves the average."""
    run = training.run
    with run.timed(stage):
        average = Average(training.policy, config.get("average", 0.0))
        algorithm, validation = _algorithm(training, stage, config, average)
        total = config.updates * algorithm.steps_per_update
        remaining = algorithm.start_timesteps + total - algorithm.num_timesteps
        callback = StageCallback(training, stage, config, validation, average)
        if remaining > 0:
            algorithm.learn(remaining, callback, reset_num_timesteps=False, tb_log_name=stage)
        algorithm.env.close()
        average.apply()
        run.save(_learning_state(algorithm, validation, average), stage)


def _algorithm(training: Training, stage: str, config: DictConfig, average: Average) -> tuple[Any, Progress]:
    """The stage's algorithm, restored if the run stopped within this stage, and what validation has said in it."""
    run, settings = training.run, config.algorithm
    lanes = training.lanes("train", settings.cases_per_rollout * settings.get("rollouts_per_case", 1))
    rate = config.learning_rate
    options = {
        "learning_rate": rate if isinstance(rate, int | float) else instantiate(rate),
        "device": training.policy.device,
    }
    seed = training.seed + 1000 * STAGES.index(stage)  # stages draw different numbers
    algorithm = instantiate(settings)(training.policy, lanes, seed=seed, **options)
    algorithm.set_logger(run.logger)
    if run.last.meta["stage"] == stage:
        average.restore(run.last)
        algorithm.restore_state(run.last)
        return algorithm, Progress(**run.last.meta["validation"])
    algorithm.start_timesteps = algorithm.num_timesteps = int(run.last.meta.get("timesteps", 0))
    return algorithm, Progress(history=run.last.meta.get("validation", {}).get("history", []))


class StageCallback(BaseCallback):
    """After every update: the average, progress and a checkpoint; now and then: the validation split, and the best.

    What is validated and kept is the averaged policy.
    """

    def __init__(
        self, training: Training, stage: str, config: DictConfig, validation: Progress, average: Average
    ) -> None:
        super().__init__()
        self.training_, self.stage, self.validation, self.average = training, stage, validation, average
        self.updates, self.validate_every, self.keep = config.updates, config.validate_every, config.get("keep", False)
        self.saved = -1

    @property
    def algorithm(self) -> Any:
        """The algorithm, with what it has beyond those of Stable-Baselines3."""
        return self.model

    def _on_training_start(self) -> None:
        self.saved = self.algorithm.updates
        self.bar = tqdm(
            total=self.updates,
            initial=self.saved,
            desc=self.stage.replace("_", "-"),
            unit="update",
            disable=not self.training_.progress,
        )

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._after_update()

    def _on_training_end(self) -> None:
        self._after_update()
        self.logger.dump(self.num_timesteps)
        self.bar.close()

    def _after_update(self) -> None:
        """Rollouts begin where the update before has ended; the last update is followed by the end of training."""
        if self.algorithm.updates == self.saved:
            return
        self.saved = self.algorithm.updates
        self.average.update()
        values = self.logger.name_to_value
        self.bar.update()
        self.bar.set_postfix(
            {name: f"{values[key]:.3f}" for name, key in _SHOWN.items() if key in values}, refresh=False
        )
        if self.validate_every and (self.saved % self.validate_every == 0 or self.saved == self.updates):
            with self.average.applied():
                self._validate()
        run = self.training_.run
        run.tick(self.stage)
        run.save(_learning_state(self.algorithm, self.validation, self.average), self.stage)

    def _validate(self) -> None:
        run, policy = self.training_.run, self.training_.policy
        run.tick(self.stage)  # what was learned in this time, not what the look at it takes
        seconds = round(sum(run.seconds.values()), 1)
        scores, picture = self.training_.validate()
        for name, value in scores.items():
            self.logger.record(f"validation/{name}", value)
        if picture is not None:
            self.logger.record("validation/scanpath", Image(picture, "HWC"), exclude=("stdout", "log", "json", "csv"))
        self.validation.history.append({"stage": self.stage, "updates": self.saved, "seconds": seconds, **scores})
        if self.keep:
            save_policy(policy, run.checkpoint(f"{self.stage}-{self.saved:05d}"))
        if "score" in scores and (self.validation.best is None or scores["score"] > self.validation.best):
            self.validation.best = scores["score"]
            save_policy(policy, run.checkpoint("best"))


_SHOWN = {"loss": "train/loss", "return": "rollout/return", "glimpses": "rollout/glimpses", "val": "validation/score"}


def _learning_state(algorithm: Any, validation: Progress, average: Average) -> Checkpoint:
    checkpoint = Checkpoint(meta={"validation": asdict(validation)})
    algorithm.save_state(checkpoint)
    average.save(checkpoint)
    return checkpoint


def stage_of(name: str, config: DictConfig) -> Callable[[Training, str, DictConfig], None]:
    """What runs a stage: a warm-up may do without episodes."""
    if name == "pretrain":
        return pretrain
    return warm_up if "trainer" in config else learn


def restore_policy(training: Training) -> None:
    """Gives the policy the parameters, and its optimizer the moments, with which the run's last stage ended."""
    last = training.run.last
    if last.meta["stage"] is None:
        return
    last.restore_module("policy", training.policy)


def seed_everything(seed: int, threads: int) -> None:
    """Seeds PyTorch and numpy and sets the number of compute threads; together they fix a run's numbers."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    if threads:
        torch.set_num_threads(threads)
