"""The base class of all agents: Stable-Baselines3's `OnPolicyAlgorithm` with rollouts of complete episodes."""

from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from glimpse.agents.learner import Learner, PolicyLearner, give_optimizer
from glimpse.agents.loading import SavedAgent
from glimpse.agents.options import Options, Rollouts
from glimpse.agents.random_views import random_view
from glimpse.agents.rollout import EpisodePlayer, join, read_ahead, regrouped, shared_glimpses
from glimpse.errors import SettingsError
from glimpse.learning.looking import Worth
from glimpse.networks.blind import RandomLocator
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import Conduct, Episodes, Glimpses
from glimpse.ranks.sharing import declared, of_all, share_of, total
from glimpse.runs.checkpoints import Checkpoint
from glimpse.settings.options import option_names, refuse_unknown, sorted_into
from glimpse.spaces import ActionLayout

Self = TypeVar("Self", bound="GlimpseAlgorithm")

_EXTRA_EVERY = 4  # extra glimpses are read once in so many updates
_KEYWORDS = ("policy_kwargs", "stats_window_size", "tensorboard_log", "verbose", "seed", "device", "learning_rate")


class GlimpseAlgorithm(SavedAgent):
    """Learns from complete episodes. Minibatches contain whole episodes, so that recurrent states are never cut.

    A rollout has `cases_per_rollout * rollouts_per_case` episodes. Each counts as `max_glimpses + 1` steps, also if it
    stopped early, so that the number of updates in `total_timesteps` is known beforehand.

    Subclasses say what is learned (`learner_class`), which locator replaces the policy's own (`override`), and which
    options they have.

    Args:
        policy: "GlimpsePolicy", this class, or a policy that is trained further.
        env: A vector of flattened glimpse environments, or a single one; None only in Stable-Baselines3's `load`.
        learning_rate: A number, or a function of the share of training that remains (from 1 down to 0).
        policy_kwargs: Arguments of the policy, if it is built here.
        stats_window_size, tensorboard_log, verbose, seed, device: As in Stable-Baselines3.
        _init_setup_model: Whether to build the networks now; Stable-Baselines3 passes False when it loads a model.
        **options: Fields of the records in `glimpse.agents.options`, such as `n_epochs=4, ent_coef=0.01`.

    Raises:
        SettingsError: An option does not exist or has an impossible value.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"GlimpsePolicy": GlimpsePolicy}
    options_class: ClassVar[type[Options]] = Options
    learner_class: ClassVar[type[Learner]] = Learner
    encodes_overviews: ClassVar[bool] = True  # in rollouts; False is for agents whose answers there are not used
    defaults: ClassVar[Mapping[str, Any]] = {}  # defaults that differ from those of the records
    fixed: ClassVar[Mapping[str, Any]] = {}  # options that callers cannot set
    unused: ClassVar[frozenset[str]] = frozenset()  # options that this agent does not have
    policy: GlimpsePolicy

    def __init__(
        self,
        policy: str | type[GlimpsePolicy] | GlimpsePolicy,
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-3,
        *,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        **options: Any,
    ) -> None:
        self.asked = self.options = self.parse_options(options)
        self._given = policy if isinstance(policy, GlimpsePolicy) else None
        self._structure = self._given
        super().__init__(
            GlimpsePolicy if self._given is not None else policy,  # type: ignore[arg-type]
            maybe_make_env(env, verbose) if isinstance(env, str) else env,  # type: ignore[arg-type]
            learning_rate,
            n_steps=1,
            gamma=1.0,
            gae_lambda=self.options.losses.gae_lambda,
            ent_coef=self.options.losses.ent_coef,
            vf_coef=self.options.losses.vf_coef,
            max_grad_norm=self.options.updates.max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device=device,
            seed=seed,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box,),
        )
        self.episodes: Episodes | None = None
        self.conduct = Conduct()  # how the policy acted in the last rollout
        self.extra: Glimpses | None = None  # extra glimpses at random places, for each row of `episodes`
        self.worth: Worth | None = None  # of random glimpses of all cases, where a warm-up has found it out
        self.drawn: torch.Tensor = torch.zeros(0, dtype=torch.long)  # the cases of `episodes`
        self.updates = 0
        self._log_due = False  # whether the next update ends with writing the logs
        self.start_timesteps = 0  # `num_timesteps` before this agent; above 0 after another stage
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------------------------------ options
    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Returns the names of the options that this agent has."""
        withheld = cls.unused | set(cls.fixed)
        return tuple(name for name in option_names(cls.options_class) if name not in withheld)

    @classmethod
    def parse_options(cls, options: Mapping[str, Any]) -> Options:
        """Checks options and sorts them into records; it needs neither an environment nor a policy.

        Raises:
            SettingsError: An option does not exist or has an impossible value.
        """
        refuse_unknown(options, cls.option_names(), cls.__name__, besides=_KEYWORDS)
        parsed = sorted_into(cls.options_class, {**cls.defaults, **options, **cls.fixed}, cls.__name__)
        if issubclass(cls.learner_class, PolicyLearner):
            parsed.check_comparable()
        return parsed

    @property
    def rollouts(self) -> Rollouts:
        """How many episodes a rollout has, and how long they are."""
        return self.options.rollouts

    @property
    def steps_per_update(self) -> int:
        """Number of time steps per update; pass `updates * steps_per_update` to `learn` as `total_timesteps`."""
        return self.rollouts.episodes * (self.rollouts.budget + 1)

    @property
    def own_episodes(self) -> int:
        """How many episodes of a rollout this process plays: all, or its share (see `glimpse.ranks.sharing`)."""
        share = share_of(self.rollouts.cases_per_rollout)
        return (share.stop - share.start) * self.rollouts.rollouts_per_case

    # ------------------------------------------------------------------------------------------ setting up
    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self._apply_changes()
        if self.env is not None:
            self._check_lanes(self.env.num_envs)
            self.layout: ActionLayout = self.env.get_attr("layout", [0])[0]
        self.policy = self._built_policy().to(self.device)
        self._given = None
        give_optimizer(self.policy, self.lr_schedule(1))
        self.random = np.random.default_rng(self.seed)
        self.queue: deque[int] = deque()
        self.rollout_buffer: Any = None  # episodes are kept in `self.episodes`
        if self.env is not None:
            self._adopt(self.env)

    def _adopt(self, env: VecEnv) -> None:
        """Takes over task, cases and budget of an environment."""
        if env.get_attr("layout", [0])[0] != self.layout:
            raise SettingsError(f"Expected an environment with actions of the layout {self.layout}.")
        self.task, self.n_cases = env.get_attr("task", [0])[0], len(env.get_attr("cases", [0])[0])
        budget = env.get_attr("max_glimpses", [0])[0]
        self.policy.check_budget(budget)
        self.options = self.asked.settled(budget)
        self.view = random_view(env, self.policy, self.options.rollouts.augment)
        self.learner = self.learner_class(self.policy, self.task, self.options, self.lr_schedule(1))
        self.queue.clear()
        self.n_steps = self.steps_per_update // env.num_envs

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Learns from another environment from now on; its number of lanes and its cases may differ.

        Raises:
            SettingsError: Its lanes do not divide a rollout, or its actions have another layout.
            ValueError: Its spaces differ from those of the policy.
        """
        vector = self._wrap_env(env, self.verbose)
        self._check_lanes(vector.num_envs)
        before, self.n_envs = self.n_envs, vector.num_envs
        try:
            super().set_env(vector, force_reset)
        except ValueError:
            self.n_envs = before
            raise
        self._adopt(vector)

    def _built_policy(self) -> GlimpsePolicy:
        if self._given is not None:
            return self._given
        if self._structure is not None:
            return self._structure
        if "layout" not in self.__dict__:
            raise SettingsError(
                "An earlier version of glimpse has saved this agent, whose cells lie beside what they see: train anew."
            )
        return self.policy_class(  # type: ignore[return-value]
            self.observation_space, self.action_space, self.lr_schedule, layout=self.layout, **self.policy_kwargs
        )

    def _check_env(self) -> None:
        if self.env is None:
            raise SettingsError(f"{type(self).__name__} needs an environment to learn: call set_env(), or pass env=.")

    def _check_lanes(self, lanes: int) -> None:
        if self.own_episodes % lanes:
            raise SettingsError(
                f"A rollout of {self.rollouts.cases_per_rollout} cases x {self.rollouts.rollouts_per_case} rollouts = "
                f"{self.own_episodes} episodes does not divide among {lanes} environments; use a divisor."
            )

    def override(self) -> nn.Module | None:
        """Returns a locator to use in place of the policy's own, or None to use the policy's own."""
        return None

    # ------------------------------------------------------------------------------------------ collecting
    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any = None, n_rollout_steps: int = 0
    ) -> bool:
        """Plays one rollout of complete episodes into `self.episodes`; returns False if a callback asked to stop.

        In the updates that learn from extra glimpses, these are put into `self.extra`, and None otherwise.
        """
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        with declared(share_of(self.rollouts.cases_per_rollout)):
            return self._collect(env, callback)

    def _collect(self, env: VecEnv, callback: BaseCallback) -> bool:
        each = self.rollouts.rollouts_per_case
        cases = self._next_cases()[share_of(self.rollouts.cases_per_rollout).own]
        lanes = np.repeat(cases, each).reshape(-1, env.num_envs)
        grouped = each if env.num_envs % each == 0 else 1
        budget, before = self._draw_budget(), self.num_timesteps
        self.conduct = self._conduct()
        played = self._play(env, callback, lanes, grouped, budget)
        if played is None:
            return False
        self.extra = self._look_elsewhere(env, lanes, grouped)
        self.num_timesteps = before + self.steps_per_update
        self.episodes, self.drawn = regrouped(join(played), each // grouped), torch.from_numpy(cases)
        read_ahead(env, self.policy.device, self.queue, share_of(self.rollouts.cases_per_rollout).own)
        callback.on_rollout_end()
        return True

    def _play(
        self, env: VecEnv, callback: BaseCallback, lanes: np.ndarray, grouped: int, budget: int
    ) -> list[Episodes] | None:
        """Plays the cases in `lanes` (wave, lane), one wave after another; None if a callback asked to stop."""

        def on_step(ended: list[dict[str, Any]]) -> bool:
            self.num_timesteps += env.num_envs
            self._update_info_buffer(ended)
            callback.update_locals({"infos": ended, "self": self})
            return callback.on_step()

        encodes = self.encodes_overviews or not self.conduct.train_encoder  # updates need the features then
        player = EpisodePlayer(env, self.policy, budget, self.task.stack, encodes, self._shown())
        waves = []
        for wave in lanes:
            episodes = player.play(wave.tolist(), grouped, on_step, self.conduct)
            if episodes is None:
                return None
            waves.append(episodes)
        return waves

    def _look_elsewhere(self, env: VecEnv, lanes: np.ndarray, grouped: int) -> Glimpses | None:
        """Reads glimpses at random places of the same cases, in every fourth update; they do not count as steps."""
        if not self.rollouts.extra_glimpses or self.updates % _EXTRA_EVERY:
            return None
        elsewhere = Conduct(RandomLocator(), train_encoder=self.conduct.train_encoder)
        player = EpisodePlayer(env, self.policy, self.rollouts.extra_glimpses, self.task.stack, view=self._shown())
        waves = (player.play(wave.tolist(), grouped, lambda ended: True, elsewhere) for wave in lanes)
        played = join([episodes for episodes in waves if episodes is not None])  # no callback stops these
        return shared_glimpses(played, self.rollouts.rollouts_per_case)

    def _conduct(self) -> Conduct:
        """Returns how the policy acts in the next rollout."""
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)  # not an earlier call's
        may_stop = 1.0 - self._current_progress_remaining >= self.rollouts.stop_from
        return Conduct(self.override(), may_stop, train_encoder=self._trains_encoder())

    def _trains_encoder(self) -> bool:
        return self.options.updates.encoder_rate > 0 and self.policy.trains_encoder()

    def _shown(self) -> Any:
        """Returns what makes random views of glimpses; None where they are seen as they are."""
        return self.view if self.conduct.train_encoder else None

    def _draw_budget(self) -> int:
        least, most = self.rollouts.min_glimpses, self.rollouts.budget
        return most if least is None else int(self.random.integers(least, most + 1))

    def _next_cases(self) -> np.ndarray:
        """Returns the next cases of a shuffled pass through the cohort, and then of the next pass."""
        count = self.rollouts.cases_per_rollout
        while len(self.queue) < count:
            self.queue.extend(int(case) for case in self.random.permutation(self.n_cases))
        return np.array([self.queue.popleft() for _ in range(count)])

    # ------------------------------------------------------------------------------------------ learning
    def train(self) -> None:
        """Makes one update from the last rollout: `n_epochs` passes over minibatches of whole episodes."""
        if self.episodes is None:
            raise RuntimeError("train() needs a rollout: call learn(), or collect_rollouts() first.")
        rate = self.lr_schedule(self._current_progress_remaining)
        worth = None if self.worth is None else self.worth.of_cases(self.drawn)
        with declared(share_of(self.rollouts.cases_per_rollout)):
            logs = self.learner.update(self.episodes, self.extra, rate, self.conduct, worth)
            means = self.episodes.reward.sum(1).mean(), self.episodes.length.float().mean()
            played = [total(of_all(one)).item() for one in means]
        self.updates += 1
        self.logger.record("train/learning_rate", rate)
        for name, value in logs.items():
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/updates", self.updates, exclude="tensorboard")
        self.logger.record("rollout/return", played[0])
        self.logger.record("rollout/glimpses", played[1])
        if self._log_due:
            self.write_logs()

    def dump_logs(self, iteration: int = 0) -> None:
        """Notes that logs are to be written after the update: Stable-Baselines3 calls this before it."""
        self._log_due = True

    def write_logs(self) -> None:
        """Writes what the last rollout and the update from it have recorded, at the current number of time steps."""
        self._log_due = False
        super().dump_logs(self.updates)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        own, total = num_timesteps - self.start_timesteps, total_timesteps - self.start_timesteps
        self._current_progress_remaining = 1.0 - own / max(1, total)

    def learn(
        self: Self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int | None = 1,
        tb_log_name: str = "",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Trains as in Stable-Baselines3; `total_timesteps` divided by `steps_per_update` is the number of updates.

        Logs are written after every `log_interval` updates; with None the caller writes them with `write_logs`.
        """
        self._check_env()
        name = tb_log_name or type(self).__name__
        interval: Any = log_interval
        return super().learn(total_timesteps, callback, interval, name, reset_num_timesteps, progress_bar)

    # ------------------------------------------------------------------------------------------ going on later
    def save_state(self, checkpoint: Checkpoint) -> None:
        """Adds to a checkpoint everything needed to go on as if the training had not been interrupted."""
        checkpoint.meta |= {
            "timesteps": self.num_timesteps,
            "start": self.start_timesteps,
            "updates": self.updates,
            "queue": list(self.queue),
            "random": self.random.bit_generator.state,
        }
        checkpoint.add_module("policy", self.policy)
        checkpoint.add_optimizer("optimizer", self.policy.optimizer)
        checkpoint.add_global_generators(self.policy.device)
        self.learner.replay.save(checkpoint)

    def restore_state(self, checkpoint: Checkpoint) -> None:
        """Restores what `save_state` stored, including the states of all global random generators.

        Raises:
            CheckpointError: The checkpoint belongs to another network.
        """
        meta = checkpoint.meta
        checkpoint.restore_module("policy", self.policy)
        checkpoint.restore_optimizer("optimizer", self.policy.optimizer)
        checkpoint.restore_global_generators(self.policy.device)
        self.learner.restore_replay(checkpoint)
        self.num_timesteps, self.start_timesteps = meta["timesteps"], meta["start"]
        self.updates, self.queue = meta["updates"], deque(meta["queue"])
        self.random.bit_generator.state = meta["random"]

    def _excluded_save_params(self) -> list[str]:
        own = ["_given", "conduct", "drawn", "episodes", "extra", "learner", "task", "view", "worth"]
        return [*super()._excluded_save_params(), *own]
