"""The stage in which an agent plays episodes and learns from them, with a validation at intervals."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Image
from tqdm import tqdm

from glimpse.errors import SettingsError
from glimpse.learning.averaging import Average
from glimpse.learning.looking import Worth
from glimpse.learning.stages import STAGES, Training
from glimpse.networks.policy import GlimpsePolicy
from glimpse.ranks.group import agreed, from_first, once
from glimpse.ranks.sharing import align, share_of
from glimpse.reading.readers import MOST_GLIMPSES
from glimpse.runs.checkpoints import Checkpoint
from glimpse.runs.loading import save_policy
from glimpse.settings.kinds import check_kind
from glimpse.settings.options import above_zero, at_least, check_later
from glimpse.settings.progress import say, silent

_SAID = ("score", "accuracy", "auc", "hit_rate")  # of a validation, in lines of text
_TEXT = ("stdout", "log", "json", "csv")  # outputs of the logger that hold neither pictures nor histograms
_SHOWN = {"loss": "train/loss", "return": "rollout/return", "glimpses": "rollout/glimpses", "val": "validation/score"}


@dataclass
class ValidationHistory:
    """The results of all validations so far.

    Attributes:
        best: the highest validation score in this stage; None before the first validation.
        history: one record per validation: the stage, its number of updates, seconds of the run, and the scores.
    """

    best: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class EpisodeLearning:
    """Runs an agent for a number of updates; at the end the policy has the averaged parameters.

    Attributes:
        algorithm: a `functools.partial` of the agent's class; called with a policy and a vector of environments.
        learning_rate: a number, or a function of the share of training that remains (from 1 down to 0).
        updates: how many updates the stage makes in all.
        validate_every: number of updates between two validations; 0 means that there are none.
        average: decay of the running average of the parameters, which is validated and kept; 0 means no average.
        keep: whether to save the policy of every validation, not only the best one.
        validate_glimpses: further budgets of validations; the score that chooses the policy is the mean over these and
            the budget of the run.
    """

    algorithm: Any
    learning_rate: float | Callable[[float], float]
    updates: int
    validate_every: int
    average: float
    keep: bool
    validate_glimpses: Sequence[int] = ()

    def __post_init__(self) -> None:
        at_least("updates", self.updates, 0, whole=True)
        at_least("validate_every", self.validate_every, 0, whole=True)
        check_kind("validate_glimpses", self.validate_glimpses, Sequence[int])
        for budget in self.validate_glimpses:
            at_least("validate_glimpses", budget, 0, whole=True, most=MOST_GLIMPSES)
        at_least("average", self.average, 0)
        if not self.average < 1:
            raise SettingsError(f"Expected average of at least 0 and below 1, got {self.average!r}.")
        if not callable(self.learning_rate):
            above_zero("learning_rate", self.learning_rate)
        if not hasattr(self.algorithm, "func"):
            raise SettingsError(f"Expected algorithm as a section with a _target_, got {self.algorithm!r}.")
        check_later(self.algorithm)

    @property
    def _options(self) -> Any:
        return self.algorithm.func.parse_options(self.algorithm.keywords)

    def check(self, policy: GlimpsePolicy) -> None:
        """Refuses options that do not suit a policy.

        Raises:
            SettingsError: Answers are to learn from kept glimpses alone, but see the overview, too.
        """
        check = getattr(self._options, "check_replay", None)  # algorithms of others may not have it
        if check is not None:
            check(policy.overview_dropout)

    def run(self, training: Training, name: str) -> None:
        run = training.run
        with run.timed(name):
            average = Average(training.policy, self.average)
            agent, validation = self._agent(training, name, average)
            total = self.updates * agent.steps_per_update
            remaining = agent.start_timesteps + total - agent.num_timesteps
            callback = StageCallback(training, name, self, validation, average)
            if remaining > 0:
                with run.stoppable():  # the callback writes the logs, once an update is complete: hence no interval
                    agent.learn(remaining, callback, log_interval=None, reset_num_timesteps=False, tb_log_name=name)
            agent.env.close()
            average.apply()
            run.save(state_of(agent, validation, average), name)
            run.stop_if_asked()

    def _agent(self, training: Training, name: str, average: Average) -> tuple[Any, ValidationHistory]:
        """Makes the agent and the validation history; both are restored if the run was interrupted in this stage."""
        run = training.run
        align([training.policy])
        share, rollouts = share_of(self._options.rollouts.cases_per_rollout), self._options.rollouts.rollouts_per_case
        lanes = training.lanes("train", (share.stop - share.start) * rollouts)
        seed = training.seed + 1000 * STAGES.index(name)  # so that stages draw different random numbers
        agent = self.algorithm(
            training.policy, lanes, learning_rate=self.learning_rate, seed=seed, device=training.policy.device
        )
        agent.set_logger(run.logger)
        going_on = run.last.meta["stage"] == name
        if self._options.losses.look_coef:
            file, needed = run.checkpoint("worth"), going_on and run.last.meta.get("worth", False)
            if agreed(needed or file.is_file()):
                agent.worth = from_first(lambda: Worth.load(file, [case.id for case in training.cases.cases]))
        if going_on:
            average.restore(run.last)
            agent.restore_state(run.last)
            return agent, ValidationHistory(**run.last.meta["validation"])
        agent.start_timesteps = agent.num_timesteps = int(run.last.meta.get("timesteps", 0))
        return agent, ValidationHistory(history=run.last.meta.get("validation", {}).get("history", []))


class StageCallback(BaseCallback):
    """After every update, updates average, bar and logs and offers a checkpoint; at intervals, validates the policy.

    The policy is validated as the stage finds it, too. It is validated and saved with its averaged parameters. A
    checkpoint is saved at every validation.
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
        self.settings, self.done = settings, -1
        self.shown: dict[str, str] = {}

    @property
    def agent(self) -> Any:
        """The agent that learns (an `OnPolicyAlgorithm` with glimpse's own attributes, hence `Any`)."""
        return self.model

    def _on_training_start(self) -> None:
        self.done = self.agent.updates
        self.bar = tqdm(
            total=self.settings.updates,
            initial=self.done,
            desc=self.stage.replace("_", "-"),
            unit="update",
            disable=silent(self.training_.progress),
        )
        if self.done == 0 and self.settings.validate_every > 0:  # the stage must not make things worse
            self._validate()
            self.agent.write_logs()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._after_update()

    def _on_training_end(self) -> None:
        self._after_update()
        self.bar.close()

    def _after_update(self) -> None:
        """Does the work after an update; called before each rollout and at the end, where nothing is done twice."""
        if self.agent.updates == self.done:
            return
        self.done = self.agent.updates
        self.average.update()
        every = self.settings.validate_every
        validated = every > 0 and (self.done % every == 0 or self.done == self.settings.updates)
        if validated:
            with self.average.applied():
                self._validate()
        values = self.logger.name_to_value
        self.shown |= {name: f"{values[key]:.3f}" for name, key in _SHOWN.items() if key in values}
        self.bar.update()
        self.bar.set_postfix(self.shown, refresh=False)
        self.agent.write_logs()
        state = functools.partial(state_of, self.agent, self.validation, self.average)
        self.training_.run.offer(self.stage, state, now=validated)

    def _validate(self) -> None:
        run, policy = self.training_.run, self.training_.policy
        run.tick(self.stage)  # so that the recorded seconds do not include this validation
        seconds = round(sum(run.seconds.values()), 1)
        validated = self.training_.validate(self.settings.validate_glimpses)
        scores = validated.scores
        for name, value in scores.items():
            self.logger.record(f"validation/{name}", value)
        for name, picture in validated.scanpaths.items():
            self.logger.record(f"scanpaths/{name}", Image(picture, "HWC"), exclude=_TEXT)
        for name, values in validated.spreads.items():
            self.logger.record(f"looks/{name}", torch.from_numpy(values), exclude=_TEXT)  # a histogram
        found = ", ".join(f"{name} {scores[name]:.3f}" for name in _SAID if name in scores)
        say(
            f"{self.stage}: {self.done} of {self.settings.updates} updates, {seconds:.0f} s; validation: {found}",
            self.training_.progress and bool(found),
        )
        self.validation.history.append({"stage": self.stage, "updates": self.done, "seconds": seconds, **scores})
        if self.settings.keep:
            once(lambda: save_policy(policy, run.checkpoint(f"{self.stage}-{self.done:05d}")))
        if "score" in scores and (self.validation.best is None or scores["score"] > self.validation.best):
            self.validation.best = scores["score"]
            once(lambda: save_policy(policy, run.checkpoint("best")))


def state_of(agent: Any, validation: ValidationHistory, average: Average) -> Checkpoint:
    """Returns a checkpoint with everything that is needed to resume this stage."""
    checkpoint = Checkpoint(meta={"validation": asdict(validation), "worth": agent.worth is not None})
    agent.save_state(checkpoint)
    average.save(checkpoint)
    return checkpoint
