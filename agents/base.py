"""The base of all agents: whole-episode rollouts, a supervised loss on every prefix, and what agents add to it."""

from collections import deque
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from glimpse.agents.returns import (
    all_at_the_end,
    consequences,
    gains,
    generalised_advantage,
    leave_one_out,
    masked_mean,
    returns_to_go,
    standardised,
)
from glimpse.agents.rollout import EpisodePlayer, join, regrouped, shared_glimpses
from glimpse.networks.locator import RandomLocator
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import Conduct, Episodes, Evaluation, Glimpses

Self = TypeVar("Self", bound="GlimpseAlgorithm")
Record = TypeVar("Record", Episodes, Glimpses, Glimpses | None)

_EXTRA_EVERY = 4  # updates


class GlimpseAlgorithm(OnPolicyAlgorithm):
    """Learns from complete episodes, all minibatches being whole episodes, so that nothing recurrent is truncated.

    A rollout is `cases_per_rollout * rollouts_per_case` episodes. Each counts as (max_glimpses + 1) steps even where it
    stopped early, so that the number of updates in `total_timesteps` is known beforehand.

    Subclasses say what a policy learns beside the supervised loss (`policy_loss`) and where it looks (`override`).

    Args:
        policy: "GlimpsePolicy", the class, or a built policy to go on with.
        env: flattened glimpse environments (a vector of them, or one, which is then wrapped).
        learning_rate: a number, or a function of the progress remaining (1 to 0).
        cases_per_rollout: cases played between two updates.
        rollouts_per_case: episodes of the same case, which share its encoded overview.
        credit: "gain" (each glimpse is credited with what the answer gained by it and later ones) or "final" (all of
            an episode's decisions with its return).
        baseline: "leave_one_out" (the other rollouts of the case) or "critic" (the value head, with GAE, discount 1).
        max_glimpses: budget while learning; the environment's own when not given.
        min_glimpses: the budget of each rollout is drawn from this to `max_glimpses`, so that one policy learns to
            do with any; always `max_glimpses` when not given.
        extra_glimpses: at random places, read in one update of four after every rollout's own. Each rollout is followed
            by those of all rollouts of its case, and answers after these are learned as well, so that they hold when
            more is read than `max_glimpses`; nothing else learns from them. When not given, `max_glimpses` where
            budgets are drawn, else none.
        stop_from: share of the learning after which the policy may stop by itself. Before, it reads its whole budget:
            while answers are worth nothing yet, looking costs more than it brings, and all it would learn is to stop.
        n_epochs, minibatches: passes over a rollout, and parts (by case) per pass.
        prefix_coef: weight of the supervised loss averaged over all prefixes, beside 1 for the last.
        glimpse_coef: weight of the loss of answers from single glimpses.
        gae_lambda, ent_coef, vf_coef, max_grad_norm: as in Stable-Baselines3.
        weight_decay: of AdamW.
        encoder_rate: learning rate of the shared encoder as a share of `learning_rate`; 0 leaves the encoder as it is,
            which is also quicker.
        encoder_share: share of each case's rollouts whose glimpses are encoded again in an update, with a gradient. The
            encoder learns from these, everything else from all rollouts: with less than 1, all other glimpses and the
            overviews stand as the rollout encoded them. Rollouts of a case show much the same, so that with four of
            them 0.25 loses nothing and takes half the time.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"GlimpsePolicy": GlimpsePolicy}
    explores = True  # whether where to look is learned at all
    policy: GlimpsePolicy  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[GlimpsePolicy] | GlimpsePolicy,
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        *,
        cases_per_rollout: int = 16,
        rollouts_per_case: int = 4,
        credit: str = "gain",
        baseline: str = "leave_one_out",
        max_glimpses: int | None = None,
        min_glimpses: int | None = None,
        extra_glimpses: int | None = None,
        stop_from: float = 0.0,
        n_epochs: int = 1,
        minibatches: int = 1,
        prefix_coef: float = 0.5,
        glimpse_coef: float = 1.0,
        gae_lambda: float = 1.0,
        ent_coef: float = 0.001,
        vf_coef: float = 0.5,
        max_grad_norm: float = 1.0,
        weight_decay: float = 1e-4,
        encoder_rate: float = 1.0,
        encoder_share: float = 1.0,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        _check_options(credit, baseline, encoder_share, rollouts_per_case if self.explores else None)
        self._given = policy if isinstance(policy, GlimpsePolicy) else None
        env = maybe_make_env(env, verbose) if isinstance(env, str) else env
        super().__init__(
            GlimpsePolicy if self._given is not None else policy,  # type: ignore[arg-type]
            env,
            learning_rate,
            n_steps=1,
            gamma=1.0,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
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
        self.cases_per_rollout, self.rollouts_per_case = cases_per_rollout, rollouts_per_case
        self.credit, self.baseline = credit, baseline
        self.n_epochs, self.minibatches, self.weight_decay = n_epochs, minibatches, weight_decay
        self.prefix_coef, self.glimpse_coef = prefix_coef, glimpse_coef
        self.max_glimpses, self.min_glimpses, self.extra_glimpses = max_glimpses, min_glimpses, extra_glimpses
        self.stop_from = stop_from
        self.encoder_rate, self.encoder_share = encoder_rate, encoder_share
        self.episodes: Episodes | None = None
        self.conduct = Conduct()  # of the policy in the last rollout
        self.extra: Glimpses | None = None  # of the same cases, row by row: what random places show
        self.updates = 0
        self.start_timesteps = 0  # where this algorithm's own progress begins, when another has come before it
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------------------------------ setting up
    def _setup_model(self) -> None:
        env = self._vector()
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.task, self.n_cases = env.get_attr("task", [0])[0], len(env.get_attr("cases", [0])[0])
        if self.max_glimpses is None:
            self.max_glimpses = env.get_attr("max_glimpses", [0])[0]
        if self.min_glimpses is not None and not 0 <= self.min_glimpses <= self.max_glimpses:
            raise ValueError(
                f"Expected min_glimpses from 0 to max_glimpses ({self.max_glimpses}), got {self.min_glimpses}."
            )
        if self.extra_glimpses is not None and self.extra_glimpses < 0:
            raise ValueError(f"Expected extra_glimpses of at least 0, got {self.extra_glimpses}.")
        if self.extra_glimpses is None:
            self.extra_glimpses = 0 if self.min_glimpses is None else self.max_glimpses
        self._check_lanes(env.num_envs)
        if self._given is None:
            layout = env.get_attr("layout", [0])[0]
            self.policy = self.policy_class(  # type: ignore[assignment]
                self.observation_space, self.action_space, self.lr_schedule, layout=layout, **self.policy_kwargs
            )
        else:
            self.policy, self._given = self._given, None
        self.policy = self.policy.to(self.device)
        if getattr(self.policy, "optimizer", None) is None:
            encoder = list(self.policy.encoder.parameters())
            others = [p for name, p in self.policy.named_parameters() if not name.startswith("encoder.")]
            groups = [{"params": others}, {"params": encoder}]
            self.policy.optimizer = torch.optim.AdamW(groups, self.lr_schedule(1), weight_decay=self.weight_decay)
        self.random = np.random.default_rng(self.seed)
        self.queue: deque[int] = deque()
        self.rollout_buffer: Any = None  # episodes are kept in `self.episodes`
        self.n_steps = self.steps_per_update // env.num_envs

    def _vector(self) -> VecEnv:
        if self.env is None:
            raise ValueError(f"{type(self).__name__} needs an environment: pass env= or call set_env().")
        return self.env

    def _check_lanes(self, lanes: int) -> None:
        episodes = self.cases_per_rollout * self.rollouts_per_case
        if episodes % lanes:
            raise ValueError(
                f"A rollout of {self.cases_per_rollout} cases x {self.rollouts_per_case} rollouts = {episodes} "
                f"episodes does not divide among {lanes} environments; use a number of environments that divides it."
            )

    @property
    def steps_per_update(self) -> int:
        """Time steps that one update counts for: pass `updates * steps_per_update` to `learn` as `total_timesteps`."""
        return self.cases_per_rollout * self.rollouts_per_case * (int(self.max_glimpses or 0) + 1)

    def override(self) -> nn.Module | None:
        """Where to look instead of where the policy says; None leaves it to the policy."""
        return None

    # ------------------------------------------------------------------------------------------ collecting
    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any = None, n_rollout_steps: int = 0
    ) -> bool:
        """Plays one rollout of complete episodes into `self.episodes`; False when a callback asked to stop.

        What random places of the same cases show goes into `self.extra`, in the updates that learn from it.
        """
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        lanes = np.repeat(self._next_cases(), self.rollouts_per_case).reshape(-1, env.num_envs)
        grouped = self.rollouts_per_case if env.num_envs % self.rollouts_per_case == 0 else 1
        player = EpisodePlayer(env, self.policy, self._draw_budget(), self.task.stack)
        before, waves = self.num_timesteps, []

        def on_step(ended: list[dict[str, Any]]) -> bool:
            self.num_timesteps += env.num_envs
            self._update_info_buffer(ended)
            callback.update_locals({"infos": ended, "self": self})
            return callback.on_step()

        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)  # not an earlier call's
        may_stop = 1.0 - self._current_progress_remaining >= self.stop_from
        self.conduct = Conduct(self.override(), may_stop, train_encoder=self.encoder_rate > 0)
        for wave in lanes:
            episodes = player.play(wave.tolist(), grouped, on_step, self.conduct)
            if episodes is None:
                return False
            waves.append(episodes)
        self.extra = self._look_elsewhere(env, lanes, grouped)
        self.num_timesteps = before + self.steps_per_update
        self.episodes = regrouped(join(waves), self.rollouts_per_case // grouped)
        callback.on_rollout_end()
        return True

    def _look_elsewhere(self, env: VecEnv, lanes: np.ndarray, grouped: int) -> Glimpses | None:
        """What random places of the same cases show, in one update of `_EXTRA_EVERY`; this counts as no steps."""
        if not self.extra_glimpses or self.updates % _EXTRA_EVERY:
            return None
        elsewhere = Conduct(RandomLocator())
        player = EpisodePlayer(env, self.policy, self.extra_glimpses, self.task.stack)
        waves = (player.play(wave.tolist(), grouped, lambda ended: True, elsewhere) for wave in lanes)
        played = join([episodes for episodes in waves if episodes is not None])  # nobody stops these
        return shared_glimpses(played, self.rollouts_per_case)

    def _draw_budget(self) -> int:
        most = int(self.max_glimpses or 0)
        return most if self.min_glimpses is None else int(self.random.integers(self.min_glimpses, most + 1))

    def _next_cases(self) -> np.ndarray:
        """The next cases of a shuffled pass through the cohort; a new pass begins when one is through."""
        while len(self.queue) < self.cases_per_rollout:
            self.queue.extend(int(case) for case in self.random.permutation(self.n_cases))
        return np.array([self.queue.popleft() for _ in range(self.cases_per_rollout)])

    # ------------------------------------------------------------------------------------------ learning
    def train(self) -> None:
        """One update from the last rollout: `n_epochs` passes over minibatches of whole episodes."""
        if self.episodes is None:
            raise RuntimeError("train() needs a rollout: call learn(), or collect_rollouts() first.")
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        self.policy.optimizer.param_groups[1]["lr"] *= self.encoder_rate
        episodes, extra, logs = self.episodes, self.extra, {}
        advantage, returns = self.advantages(episodes)
        for _ in range(self.n_epochs):
            order = torch.randperm(len(episodes.overview))
            for cases in order.chunk(self.minibatches):
                rows = (cases[:, None] * episodes.rollouts + torch.arange(episodes.rollouts)).flatten()
                if self.minibatches == 1:  # stored glimpses can be large: no copy of them all
                    logs = self._step(_to(episodes, self.device), _to(extra, self.device), advantage, returns)
                else:
                    some, more = episodes.of_cases(cases), None if extra is None else extra.of_rows(rows)
                    some, more = _to(some, self.device), _to(more, self.device)
                    logs = self._step(some, more, advantage[rows], returns[rows])
        self.updates += 1
        self._record(episodes, logs)

    def _step(self, episodes: Episodes, extra: Glimpses | None, advantage: Tensor, returns: Tensor) -> dict[str, float]:
        evaluation = self.policy.evaluate_episodes(episodes, self.encoder_share, extra, self.conduct)
        loss, logs = self.supervised_loss(episodes, evaluation)
        if self.explores:
            more, policy_logs = self.policy_loss(episodes, evaluation, advantage, returns)
            loss, logs = loss + more, {**logs, **policy_logs}
        self.policy.optimizer.zero_grad()
        loss.backward()
        # The encoder's gradient can be a hundred times that of the rest: clipped together, it would silence the rest.
        groups = [group["params"] for group in self.policy.optimizer.param_groups]
        norm = torch.stack([nn.utils.clip_grad_norm_(group, self.max_grad_norm) for group in groups]).norm()
        if torch.isfinite(norm):  # a single broken batch must not poison the parameters
            self.policy.optimizer.step()
        return {**logs, "loss": loss.item(), "gradient_norm": norm.item()}

    def supervised_loss(self, episodes: Episodes, evaluation: Evaluation) -> tuple[Tensor, dict[str, float]]:
        """The task's loss on the last answer, on the mean of all answers, and on answers from single glimpses."""
        answered, read = episodes.answered, episodes.read
        every = self.task.loss(evaluation.prediction, _along(episodes.target, answered))
        last = every.gather(1, episodes.length[:, None])[:, 0].mean()
        prefixes = masked_mean(every, answered)
        single = self.task.loss(evaluation.glimpse_prediction, _along(episodes.target, read))
        glimpse = masked_mean(single, read)
        loss = last + self.prefix_coef * prefixes + self.glimpse_coef * glimpse
        logs = {"supervised_last": last.item(), "supervised_all": prefixes.item(), "glimpse": glimpse.item()}
        if evaluation.extra_prediction is not None:
            extra = evaluation.extra_prediction
            more = self.task.loss(extra, _along(episodes.target, extra[..., 0])).mean()
            loss, logs = loss + more, {**logs, "supervised_extra": more.item()}
        return loss, logs

    def advantages(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """Standardised advantages and the value head's targets, both (batch, step)."""
        if self.credit == "final":
            caused = all_at_the_end(episodes.reward, episodes.decided)
        else:
            caused = self._consequences(episodes)
        returns = returns_to_go(caused)
        if not self.explores:
            return torch.zeros_like(returns), returns
        if self.baseline == "leave_one_out":
            advantage = leave_one_out(returns, self.rollouts_per_case)
        else:
            advantage = generalised_advantage(caused, episodes.value, episodes.decided, self.gae_lambda)
            returns = (advantage + episodes.value).masked_fill(~episodes.decided, 0.0)
        return standardised(advantage, episodes.decided).to(self.device), returns.to(self.device)

    def _consequences(self, episodes: Episodes) -> Tensor:
        target = _along(episodes.target, episodes.answered)
        score = torch.from_numpy(self.task.score(episodes.prediction.numpy(), target.numpy())).float()
        return consequences(episodes.reward, gains(score, episodes.answered))

    def policy_loss(
        self, episodes: Episodes, evaluation: Evaluation, advantage: Tensor, returns: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss that teaches where to look; agents that learn it define it."""
        raise NotImplementedError

    def common_losses(
        self, episodes: Episodes, evaluation: Evaluation, returns: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Entropy bonus and, with a critic, the value loss."""
        entropy = masked_mean(evaluation.entropy, episodes.decided)
        loss, logs = -self.ent_coef * entropy, {"entropy": entropy.item()}
        if self.baseline == "critic":
            value = masked_mean((evaluation.value - returns) ** 2, episodes.decided)
            loss, logs = loss + self.vf_coef * value, {**logs, "value_loss": value.item()}
        return loss, logs

    # ------------------------------------------------------------------------------------------ logging, API
    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        own, total = num_timesteps - self.start_timesteps, total_timesteps - self.start_timesteps
        self._current_progress_remaining = 1.0 - own / max(1, total)

    def _record(self, episodes: Episodes, logs: dict[str, float]) -> None:
        for name, value in logs.items():
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/updates", self.updates, exclude="tensorboard")
        self.logger.record("rollout/return", episodes.reward.sum(1).mean().item())
        self.logger.record("rollout/glimpses", episodes.length.float().mean().item())

    def learn(
        self: Self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int = 1,
        tb_log_name: str = "",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """As in Stable-Baselines3; see `steps_per_update` for how many updates `total_timesteps` are."""
        name = tb_log_name or type(self).__name__
        return super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "conduct", "episodes", "extra", "task"]


def _check_options(credit: str, baseline: str, encoder_share: float, rollouts: int | None) -> None:
    """Refuses what cannot work together; `rollouts` per case, None where nothing is learned from comparing them."""
    if credit not in ("gain", "final"):
        raise ValueError(f'Expected credit "gain" or "final", got {credit!r}.')
    if baseline not in ("leave_one_out", "critic"):
        raise ValueError(f'Expected baseline "leave_one_out" or "critic", got {baseline!r}.')
    if not 0 < encoder_share <= 1:
        raise ValueError(f"Expected encoder_share above 0 and up to 1, got {encoder_share}.")
    if baseline == "leave_one_out" and rollouts is not None and rollouts < 2:
        raise ValueError(
            f"A leave-one-out baseline needs rollouts_per_case >= 2, got {rollouts}; "
            'use more of them or baseline="critic".'
        )


def _to(record: Record, device: torch.device) -> Record:
    if record is None or device.type == "cpu":
        return record
    return type(record)(**{name: tensor.to(device, non_blocking=True) for name, tensor in vars(record).items()})


def _along(target: Tensor, mask: Tensor) -> Tensor:
    """Targets (batch, ...) repeated along the steps of `mask` (batch, step)."""
    return target[:, None].expand(-1, mask.shape[1], *target.shape[1:])
