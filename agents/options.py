"""The options of all agents, in three small records; their defaults are written here only."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from glimpse.errors import SettingsError
from glimpse.learning.augment import check_augment
from glimpse.settings.options import above_zero, at_least


@dataclass(frozen=True)
class Rollouts:
    """How many episodes are played between two updates, and how long they are.

    Attributes:
        cases_per_rollout: Cases that are played between two updates.
        rollouts_per_case: Episodes of each of these cases. They share the encoded overview of the case.
        max_glimpses: Budget of an episode in training; None takes the environment's own.
        min_glimpses: If given, the budget of each rollout is drawn at random from this number to `max_glimpses`, so
            that the policy learns to use any budget. With None the budget is always `max_glimpses`.
        extra_glimpses: In every fourth update, so many more glimpses are read at random places for each rollout, and
            the extra glimpses of all rollouts of a case are appended to each of them. Only the answers after them are
            learned, so that answers stay good if more than `max_glimpses` are read later. None means `max_glimpses` if
            `min_glimpses` is given, and 0 otherwise.
        stop_from: Share of the training (0 to 1) after which the policy may end an episode by itself; before, it always
            spends its whole budget. Early in training, glimpses cost something but do not improve answers yet, so a
            policy that may stop would learn only to stop at once.
        augment: Options of `glimpse.learning.augment.Augment`: in training, each glimpse is seen in a random view. It
            has no effect with `encoder_rate=0`: features of an encoder that is not trained are kept and used again.
    """

    cases_per_rollout: int = 16
    rollouts_per_case: int = 4
    max_glimpses: int | None = None
    min_glimpses: int | None = None
    extra_glimpses: int | None = None
    stop_from: float = 0.5
    augment: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        at_least("cases_per_rollout", self.cases_per_rollout, 1)
        at_least("rollouts_per_case", self.rollouts_per_case, 1)
        at_least("stop_from", self.stop_from, 0)
        for name in ("max_glimpses", "extra_glimpses"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 0)
        check_augment(self.augment)
        self._check_least()

    def _check_least(self) -> None:
        least, most = self.min_glimpses, self.max_glimpses
        if least is None or (least >= 0 and (most is None or least <= most)):
            return
        most_known = "" if most is None else f" ({most})"
        raise SettingsError(
            f"Expected min_glimpses from 0 to max_glimpses{most_known}, got {least}. Choose it, too, such as "
            "agent.algorithm.min_glimpses=0."
        )

    @property
    def episodes(self) -> int:
        """Number of episodes in a rollout."""
        return self.cases_per_rollout * self.rollouts_per_case

    @property
    def budget(self) -> int:
        """The largest budget of an episode; 0 if it is not known yet (see `settled`)."""
        return self.max_glimpses or 0

    def settled(self, max_glimpses: int) -> "Rollouts":
        """Returns these options with every None replaced, for an environment with a budget of `max_glimpses`.

        Raises:
            SettingsError: `min_glimpses` is above the budget.
        """
        most = max_glimpses if self.max_glimpses is None else self.max_glimpses
        extra = self.extra_glimpses
        if extra is None:
            extra = 0 if self.min_glimpses is None else most
        return replace(self, max_glimpses=most, extra_glimpses=extra)


@dataclass(frozen=True)
class Losses:
    """What is learned from episodes, and the weights of the parts of the loss.

    The loss of an episode's last answer has weight 1.

    Attributes:
        credit: "gain" credits each decision with the gains in score of its glimpse and of later ones; "final" credits
            every decision with the return of the whole episode.
        baseline: What a return is compared with: "leave_one_out" is the mean of the other rollouts of the case, and
            "critic" is the value head, with generalised advantage estimation (discount 1).
        prefix_coef: Weight of the loss averaged over all answers of an episode.
        glimpse_coef: Weight of the loss of answers from single glimpses.
        gae_lambda: Lambda of generalised advantage estimation; only used with a critic.
        ent_coef: Weight of the entropy bonus.
        vf_coef: Weight of the value head's loss; only used with a critic.
        look_coef: Weight of the loss by which the locator goes on learning where to look first from the random glimpses
            of the warm-up (see `glimpse.learning.looking`); only used after a warm-up that has taught it. With several
            fields of view it also goes on learning where to look inside those wide glimpses that the warm-up has read,
            and after each step it measures again what scores of places are worth. With 0, decisions alone teach that.
    """

    credit: str = "gain"
    baseline: str = "leave_one_out"
    prefix_coef: float = 0.5
    glimpse_coef: float = 1.0
    gae_lambda: float = 1.0
    ent_coef: float = 0.001
    vf_coef: float = 0.5
    look_coef: float = 0.0

    def __post_init__(self) -> None:
        if self.credit not in ("gain", "final"):
            raise SettingsError(f'Expected credit "gain" or "final", got {self.credit!r}.')
        if self.baseline not in ("leave_one_out", "critic"):
            raise SettingsError(f'Expected baseline "leave_one_out" or "critic", got {self.baseline!r}.')
        for name in ("prefix_coef", "glimpse_coef", "ent_coef", "vf_coef", "look_coef"):
            at_least(name, getattr(self, name), 0)
        if not 0 <= self.gae_lambda <= 1:
            raise SettingsError(f"Expected gae_lambda from 0 to 1, got {self.gae_lambda}.")


@dataclass(frozen=True)
class Updates:
    """How parameters change in one update.

    Attributes:
        n_epochs: Number of passes over each rollout.
        minibatches: Number of parts into which the cases of a rollout are divided in each pass.
        max_grad_norm: Largest norm of the gradient; the encoder and all other parameters are clipped separately.
        weight_decay: Weight decay of AdamW.
        encoder_rate: Learning rate of the shared encoder, as a share of the learning rate. With 0 the encoder is not
            trained, which is also faster. An encoder none of whose parameters trains (`requires_grad`) is not
            trained at any rate.
        train_answers: Whether answers are trained. If not, labels teach nothing here, and tokens, the aggregator and
            the heads of answers stay as they are; only the search is learned, and an encoder that is trained follows it
            (`encoder_rate`). For few cases, whose labels answers would learn by heart, after a warm-up in which they
            have learned otherwise (`warm_up.answer_judges`). `prefix_coef` and `glimpse_coef` have no effect then, and
            there are no extra glimpses.
        encoder_share: Share of each case's rollouts whose glimpses are encoded again in an update, with a gradient. The
            encoder learns from these only; all other parts learn from all rollouts. Below 1, the other glimpses and the
            overviews keep the features that were computed when the rollout was played. Rollouts of a case show much the
            same, so with four of them 0.25 loses nothing and takes half the time.
        overview_share: Share of the cases whose overviews are encoded again in an update, with a gradient, if
            `encoder_share` is below 1. Without any, an encoder that learns from glimpses loses sight of what the
            locator has to see in overviews.
        replay_steps: Number of extra steps of the optimizer after each update. Each trains the answers on one of the
            last rollouts, drawn at random, from the features that were computed when it was played (see
            `glimpse.agents.replay`). Until `replay_rollouts` are kept, proportionally fewer steps are made. They take
            little time, since nothing is read or encoded. Only for policies whose answers never see the overview
            (`network.overview_dropout=1`).
        replay_rollouts: How many rollouts are kept for that, in memory and in each checkpoint: episodes x glimpses x
            pooled features x 4 bytes each. Where the encoder learns, fewer of them are nearer to what it is now.
    """

    n_epochs: int = 1
    minibatches: int = 1
    max_grad_norm: float = 1.0
    weight_decay: float = 0.01
    encoder_rate: float = 1.0
    train_answers: bool = True
    encoder_share: float = 1.0
    overview_share: float = 0.0
    replay_steps: int = 0
    replay_rollouts: int = 40

    def __post_init__(self) -> None:
        at_least("n_epochs", self.n_epochs, 1)
        at_least("minibatches", self.minibatches, 1)
        at_least("weight_decay", self.weight_decay, 0)
        at_least("replay_steps", self.replay_steps, 0, whole=True)
        at_least("replay_rollouts", self.replay_rollouts, 1, whole=True)
        at_least("encoder_rate", self.encoder_rate, 0)
        above_zero("max_grad_norm", self.max_grad_norm)
        if self.replay_steps and not self.train_answers:
            raise SettingsError("Extra steps train answers only: set replay_steps=0, or train_answers=true.")
        if not 0 < self.encoder_share <= 1:
            raise SettingsError(f"Expected encoder_share above 0 and up to 1, got {self.encoder_share}.")
        if not 0 <= self.overview_share <= 1:
            raise SettingsError(f"Expected overview_share from 0 to 1, got {self.overview_share}.")


@dataclass(frozen=True)
class Options:
    """All options of an agent."""

    rollouts: Rollouts
    losses: Losses
    updates: Updates

    def __post_init__(self) -> None:
        if self.rollouts.extra_glimpses and not self.updates.train_answers:
            raise SettingsError("Extra glimpses train answers only: set extra_glimpses=0, or train_answers=true.")

    def settled(self, max_glimpses: int) -> "Options":
        """Returns these options with every None replaced, for an environment with a budget of `max_glimpses`.

        Raises:
            SettingsError: `min_glimpses` is above the budget.
        """
        none: dict[str, Any] = {} if self.updates.train_answers else {"extra_glimpses": 0}
        return replace(self, rollouts=replace(self.rollouts, **none).settled(max_glimpses))

    def check_replay(self, overview_dropout: float) -> None:
        """Refuses to learn from kept glimpses alone if answers see the overview, too.

        Raises:
            SettingsError: `overview_dropout` of the network is below 1.
        """
        if self.updates.replay_steps and overview_dropout < 1:
            raise SettingsError(
                "Answers that see the overview cannot learn from kept glimpses alone: set replay_steps=0, or "
                f"network.overview_dropout=1, not {overview_dropout}."
            )

    def check_comparable(self) -> None:
        """Refuses a leave-one-out baseline if there is only one rollout per case.

        Raises:
            SettingsError: There is nothing to compare with; the message says what to change.
        """
        count = self.rollouts.rollouts_per_case
        if self.losses.baseline == "leave_one_out" and count < 2:
            raise SettingsError(
                f"A leave-one-out baseline needs rollouts_per_case >= 2, got {count}; "
                'use more of them or baseline="critic".'
            )
