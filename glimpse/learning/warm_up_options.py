"""Options of the warm-up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glimpse.errors import SettingsError
from glimpse.learning.augment import check_augment
from glimpse.learning.judging import LOSS, SURPRISE, WorthBy
from glimpse.settings.options import above_zero, at_least

_MOST_SCORES = 1_000_000  # of which a judge takes the mean: more than any case has glimpses
_BRANCHES = {2: (16, 6), 3: (12, 4, 4), 4: (8, 3, 3, 3)}
"""How many glimpses are read at each level: 112, 252 and 320 of a case in all."""


@dataclass(frozen=True)
class WarmUpGlimpses:
    """How many glimpses are read, and how many of them make a sequence.

    Attributes:
        glimpses_per_case: How many glimpses are read of each case; at least so many with `glimpses_per_patch`. With
            several fields of view, `branches` says it instead of both.
        glimpses_per_patch: Glimpses for each patch of the foreground; a patch is as large as a glimpse of the first
            field of view. So many are read of every case as this makes of the mean foreground, but not fewer than
            `glimpses_per_case` and not more than four times as many. With 0, it is `glimpses_per_case`. The larger an
            image is, the less a single glimpse says.
        max_total_glimpses: How many glimpses are read in all at most; with many cases, fewer are read of each.
        max_sequence: How many glimpses a sequence has at most.
        look_among: Among how many glimpses the locator learns to choose. All glimpses of a case are then parted into
            sets of so many. The fewer there are, the more rarely the locator can do with what is found most easily.
            None: among those of a sequence. With several fields of view, the glimpses of each are parted into sets by
            themselves, and None means that those of a case are one set; in the joint stage, which may learn on from
            them (`look_coef`), only glimpses of the widest field of view are parted.
        branches: With several fields of view: how many glimpses of the first one are read of each case, how many of the
            next in each of these, and so on. None: 16 of the first and 6 of the next; with three fields of view 12, 4
            and 4, with four 8, 3, 3 and 3, with more 6, and 2 of each finer one. At most as
            many are read as there are cells, since more would show the same places again.
        augment: Keyword arguments of `glimpse.learning.augment.Augment`: each glimpse is seen in a random view, with
            other colours. Shifts are left out. None: as it is.
    """

    glimpses_per_case: int = 24
    glimpses_per_patch: float = 0.0
    max_total_glimpses: int = 150_000
    max_sequence: int = 16
    look_among: int | None = None
    branches: Sequence[int] | None = None
    augment: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("glimpses_per_case", "max_total_glimpses", "max_sequence"):
            above_zero(f"{name} of the warm-up", getattr(self, name))
        at_least("glimpses_per_patch of the warm-up", self.glimpses_per_patch, 0)
        if self.look_among is not None:
            at_least("look_among of the warm-up", self.look_among, 2, whole=True)
        for count in () if self.branches is None else self.branches:
            at_least("branches of the warm-up", count, 1, whole=True)
        check_augment(self.augment)

    def branches_of(self, levels: int) -> tuple[int, ...]:
        """Returns how many glimpses are read at each of some levels.

        Raises:
            SettingsError: `branches` are of another number of levels.
        """
        if self.branches is None:
            return _BRANCHES[levels] if levels in _BRANCHES else (6, *[2] * (levels - 1))
        if len(self.branches) != levels:
            raise SettingsError(
                f"Expected one of warm_up.branches for each of the {levels} fields of view, got {list(self.branches)}. "
                f"Give {levels} numbers, or warm_up.branches=null, which fits any number of them."
            )
        return tuple(self.branches)


@dataclass(frozen=True)
class WarmUpLosses:
    """Weights of the parts of the loss; that of the last answer of a sequence has weight 1 (but see `answer_judges`).

    Attributes:
        prefix_coef: Weight of the loss averaged over all answers of a sequence.
        glimpse_coef: Weight of the loss of answers from single glimpses.
        look_coef: Weight of the locator's loss; with 0 the locator is not trained.
        look_entropy: Weight, within the locator's loss, of the entropy of its choice.
        look_expected: Whether the locator learns from the loss that a glimpse is expected to have by what it shows, and
            not from the loss that it has (with `look_worth` "surprise", from what is expected of that). A small network
            learns to expect it, from the tokens of all glimpses. Where it is partly chance whether a glimpse helps (a
            digit may not be of the majority's class), the losses themselves are learnt by heart.
        look_judges: Numbers such as [4, 8, 16]. For each of them there are two judges that say what a glimpse is worth,
            in place of the policy's own answers from single glimpses (see `glimpse.learning.judging`). Where few of the
            glimpses of a case show what makes its target, those are chance. None: there are no judges.
        look_worth: What a glimpse is worth by `look_judges`. "loss": how much lower the loss of their answer from it is
            than the mean over the case. "surprise": the divergence of that answer from their mean answer over all
            cases, whatever the target is, scaled to a mean of 0.03. Where few glimpses tell anything, the losses of all
            others differ by chance, and locators learn this chance.
        answer_judges: Numbers as of `look_judges`. After each glimpse of a sequence, what the aggregator answers learns
            to equal what such judges answer from the same glimpses, in the second look, too. This takes the place of
            the loss by the labels, so that `prefix_coef` has no effect. What it answers from each single glimpse learns
            to equal the judges' answers, too (smooth L1 losses, of weight 1). Tokens still learn from labels, by the
            answers of `glimpse_coef`. With few cases, answers that learn from labels know the cases by heart, by where
            glimpses lie for instance, which a judge does not know. With several fields of view, judges know the finest
            glimpses only: after a wide one, or the overview, answers are to stay what they were. They learn more from
            these in the joint stage, if answers are trained there. None: there are no such judges.
        cross_fitted: Whether these judges say what they say of other cases than those they have learned from: two
            judges learn from half of the cases each, and judge the other half. A judge that knows its cases by heart
            finds that all of their glimpses help. With few cases, half of them may be too few to learn from.
        look_contexts: With several fields of view, where a target lies in how glimpses relate: how many random contexts
            of a case say in each step what a finest glimpse brings, which is L(S) - L(S + j) for a context S and a
            glimpse j. A context is the overview and up to `max_sequence` glimpses, the beginning of a sequence; those
            of a step are beginnings of the same one. What tells together with j is rarely in S, unless sequences hold a
            good part of the glimpses of a case: few `branches`, a large `max_sequence`. 0: it is what the glimpse
            answers alone.
        look_by_state: Whether the memory's state has a say in the choice, or only the look of each cell. The memory is
            not trained here. With few cases, what the locator learns from its state is chance. With several fields of
            view it never has.
        look_calibrated: Whether the features of cells are first scaled to mean 0 and standard deviation 1 over cells of
            the training split. It suits encoders that are not trained: their statistics stay what they are.
        look_inside: With several fields of view: whether a wide glimpse is worth what the choice inside it is expected
            to bring. If not, it is worth what it answers by itself, which seldom tells where to look, and answers from
            single wide glimpses are learned, too; this is there for comparison.
    """

    prefix_coef: float = 0.5
    glimpse_coef: float = 1.0
    look_coef: float = 1.0
    look_entropy: float = 0.01
    look_expected: bool = False
    look_judges: Sequence[int] | None = None
    look_worth: WorthBy = LOSS
    look_contexts: int = 0
    answer_judges: Sequence[int] | None = None
    cross_fitted: bool = False
    look_by_state: bool = True
    look_calibrated: bool = True
    look_inside: bool = True

    def __post_init__(self) -> None:
        at_least("look_contexts of the warm-up", self.look_contexts, 0, whole=True)
        if self.look_contexts and self.answer_judges is not None:
            raise SettingsError(
                "Answers that learn from judges say nothing of how glimpses relate: set warm_up.look_contexts=0, or "
                "warm_up.answer_judges=null."
            )
        if self.look_contexts and self.look_judges is not None:
            raise SettingsError(
                "Judges say what single glimpses are worth, not in contexts: set warm_up.look_contexts=0, or "
                "warm_up.look_judges=null and warm_up.look_worth=loss."
            )
        if self.look_worth == SURPRISE and not self.look_inside:
            raise SettingsError("What surprises is not compared between fields of view: set warm_up.look_worth=loss.")
        if self.look_worth == SURPRISE and self.look_judges is None:
            raise SettingsError(
                "What surprises is said by judges: set warm_up.look_judges=[2,4,8], or warm_up.look_worth=loss."
            )
        if self.cross_fitted and self.look_judges is None and self.answer_judges is None:
            raise SettingsError(
                "Judges are cross-fitted, and there are none: set warm_up.look_judges=[2,4,8], or "
                "warm_up.cross_fitted=false."
            )
        for name in ("look_judges", "answer_judges"):
            judges = getattr(self, name)
            if judges is None:
                continue
            if isinstance(judges, str) or not isinstance(judges, Sequence) or not judges:
                raise SettingsError(
                    f"Expected {name} of the warm-up as a list such as [4,8,16], or null, got {judges}."
                )
            for count in judges:
                at_least(f"{name} of the warm-up", count, 1, whole=True, most=_MOST_SCORES)


@dataclass(frozen=True)
class WarmUpSteps:
    """The number and size of the optimizer's steps.

    Attributes:
        steps: How many steps are made.
        batch: Cases per step.
        learning_rate: Learning rate of the first step; it falls to 0 over all steps, along half a cosine.
        weight_decay: Weight decay of AdamW.
    """

    steps: int = 1500
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        above_zero("batch of the warm-up", self.batch)
        above_zero("learning_rate of the warm-up", self.learning_rate)
        if self.steps < 0:
            raise SettingsError(f"Expected steps of the warm-up of at least 0, got {self.steps}.")


@dataclass(frozen=True)
class WarmUpSecondLook:
    """How answers learn anew from where the locator has learned to look (see `glimpse.learning.second_look`).

    Attributes:
        second_look: Share of the new glimpses of a case that lie where the locator looks; the others are at random
            places. With several fields of view it is that share at each of them. 0: there are no new glimpses, as where
            the warm-up has no steps or does not teach the locator.
        second_steps: How many steps are made with them.
    """

    second_look: float = 0.0
    second_steps: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.second_look <= 1:
            raise SettingsError(f"Expected second_look of the warm-up from 0 to 1, got {self.second_look}.")
        at_least("second_steps of the warm-up", self.second_steps, 1, whole=True)


@dataclass(frozen=True)
class WarmUpOptions:
    """All options of the warm-up."""

    glimpses: WarmUpGlimpses
    losses: WarmUpLosses
    steps: WarmUpSteps
    again: WarmUpSecondLook
