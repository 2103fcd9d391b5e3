"""Learning from episodes: an agent plays, learns, and is held against the validation split now and then."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Image
from tqdm import tqdm

from glimpse.errors import SettingsError
from glimpse.learning.averaging import Average
from glimpse.learning.stages import STAGES, Training, at_least
from glimpse.runs.checkpoints import Checkpoint
from glimpse.runs.loading import save_policy

_SHOWN = {"loss": "train/loss", "return": "rollout/return", "glimpses": "rollout/glimpses", "val": "validation/score"}


@dataclass
class ValidationHistory:
    """What the validation split has said so far.

    Attributes:
        best: the highest score.
        history: one record per look: stage, updates of it, seconds since the run began, and the scores.
    """

    best: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class EpisodeLearning:
    """Runs an agent for a number of updates, from where the run stands, and leaves the policy with the average.

    Attributes:
        algorithm: makes the agent from a policy and a vector of environments; its options stand in `keywords`.
        learning_rate: a number, or a function of the progress remaining.
        updates: how many.
        validate_every: updates between two looks at the validation split; 0: none.
        average: decay of the running average of the parameters, which is what is validated and kept; 0: none.
        keep: whether to keep the policy of every look at the validation split, not only the best.
    """

    algorithm: Any
    learning_rate: float | Callable[[float], float]
    updates: int
    validate_every: int
    average: float
    keep: bool

    def __post_init__(self) -> None:
        at_least("updates", self.updates, 0)
        at_least("validate_every", self.validate_every, 0)
        if not 0 <= self.average < 1:
            raise SettingsError(f"Expected average of at least 0 and below 1, got {self.average!r}.")
        assert self._options  # which refuses what the agent does not know

    @property
    def _options(self) -> Any:
        return self.algorithm.func.parse_options(self.algorithm.keywords)

    def run(self, training: Training, name: str) -> None:
        run = training.run
        with run.timed(name):
            average = Average(training.policy, self.average)
            agent, validation = self._agent(training, name, average)
            total = self.updates * agent.steps_per_update
            remaining = agent.start_timesteps + total - agent.num_timesteps
            callback = StageCallback(training, name, self, validation, average)
            if remaining > 0:
                agent.learn(remaining, callback, reset_num_timesteps=False, tb_log_name=name)
            agent.env.close()
            average.apply()
            run.save(state_of(agent, validation, average), name)

    def _agent(self, training: Training, name: str, average: Average) -> tuple[Any, ValidationHistory]:
        """The agent, restored if the run stopped within this stage, and what validation has said in it."""
        run = training.run
        lanes = training.lanes("train", self._options.rollouts.episodes)
        seed = training.seed + 1000 * STAGES.index(name)  # stages draw different numbers
        agent = self.algorithm(
            training.policy, lanes, learning_rate=self.learning_rate, seed=seed, device=training.policy.device
        )
        agent.set_logger(run.logger)
        if run.last.meta["stage"] == name:
            average.restore(run.last)
            agent.restore_state(run.last)
            return agent, ValidationHistory(**run.last.meta["validation"])
        agent.start_timesteps = agent.num_timesteps = int(run.last.meta.get("timesteps", 0))
        return agent, ValidationHistory(history=run.last.meta.get("validation", {}).get("history", []))


class StageCallback(BaseCallback):
    """After every update: the average, progress and a checkpoint; now and then: the validation split, and the best.

    What is validated and kept is the averaged policy.
    """

    def __init__(
        self,
        training: Training,
        stage: str,
        settings: EpisodeLearning,
        validation: ValidationHistory,
        average: Average,
    ) -> None:
        super().__init__()
        self.training_, self.stage, self.validation, self.average = training, stage, validation, average
        self.settings, self.saved = settings, -1

    @property
    def agent(self) -> Any:
        """The algorithm, with what it has beyond those of Stable-Baselines3."""
        return self.model

    def _on_training_start(self) -> None:
        self.saved = self.agent.updates
        self.bar = tqdm(
            total=self.settings.updates,
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
        if self.agent.updates == self.saved:
            return
        self.saved = self.agent.updates
        self.average.update()
        values, every = self.logger.name_to_value, self.settings.validate_every
        self.bar.update()
        self.bar.set_postfix(
            {name: f"{values[key]:.3f}" for name, key in _SHOWN.items() if key in values}, refresh=False
        )
        if every and (self.saved % every == 0 or self.saved == self.settings.updates):
            with self.average.applied():
                self._validate()
        run = self.training_.run
        run.tick(self.stage)
        run.save(state_of(self.agent, self.validation, self.average), self.stage)

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
        if self.settings.keep:
            save_policy(policy, run.checkpoint(f"{self.stage}-{self.saved:05d}"))
        if "score" in scores and (self.validation.best is None or scores["score"] > self.validation.best):
            self.validation.best = scores["score"]
            save_policy(policy, run.checkpoint("best"))


def state_of(agent: Any, validation: ValidationHistory, average: Average) -> Checkpoint:
    """Everything from which this stage can go on."""
    checkpoint = Checkpoint(meta={"validation": asdict(validation)})
    agent.save_state(checkpoint)
    average.save(checkpoint)
    return checkpoint
