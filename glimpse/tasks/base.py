"""What every task is, and how metrics get their intervals."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Num
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap interval over patients; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Task(ABC):
    """What is asked about a case; tasks of one kind with equal options are equal.

    Attributes:
        outputs: length of a prediction.
        names: what each output stands for.
        metric_names: what `metrics` returns; "score" is always among them.
        headline: those of them that tables show, the most important first.
        target_shape: shape of one target in the array that `stack` makes.
    """

    outputs: int
    names: tuple[str, ...]
    metric_names: tuple[str, ...]
    headline: tuple[str, ...]
    target_shape: tuple[int, ...] = ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), self.names))

    # ------------------------------------------------------------------------------------------ learning
    @abstractmethod
    def loss(
        self, prediction: Float[Tensor, "*batch output"], target: Num[Tensor, "*batch_and_target"]
    ) -> Float[Tensor, "*batch"]:
        """The training loss of each prediction, not reduced."""

    @abstractmethod
    def score(
        self, prediction: Float[np.ndarray, "*batch output"], target: Num[np.ndarray, "*batch_and_target"]
    ) -> Float[np.ndarray, "*batch"]:
        """How good each prediction is: 1 perfect, 0 a blind guess, never below -1."""

    # ------------------------------------------------------------------------------------------ reporting
    @abstractmethod
    def probabilities(self, predictions: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch output"]:
        """Predictions as people read them: probabilities, or quantities in their own units."""

    @abstractmethod
    def weighted_metrics(
        self,
        predictions: Float[np.ndarray, "case output"],
        targets: Num[np.ndarray, "case *target"],
        weights: Float[np.ndarray, "resample case"],
    ) -> dict[str, Float[np.ndarray, " resample"]]:
        """Every metric of `metric_names`, of each weighting of the cases; NaN where it is not defined."""

    def metrics(
        self,
        predictions: Float[np.ndarray, "case output"],
        targets: Num[np.ndarray, "case *target"],
        patients: Sequence[str] | np.ndarray,
        *,
        bootstrap: int = 1000,
        seed: int = 0,
    ) -> dict[str, Interval]:
        """The metrics with intervals over resampled patients.

        Args:
            predictions: raw, as they are learned.
            targets: as `stack` makes them.
            patients: whom each case belongs to; patients, not cases, are resampled.
            bootstrap: number of resamples; those where a value is not defined (AUC of one class) are left out.
            seed: of the resampling.

        Returns:
            One interval per name in `metric_names`; NaN where the value is not defined.
        """
        predictions, targets = np.asarray(predictions, np.float64), np.asarray(targets)
        if not len(predictions) == len(targets) == len(patients):
            raise ValueError(
                f"expected as many predictions as targets and patients, got {len(predictions)}, {len(targets)} "
                f"and {len(patients)}."
            )
        if len(targets) == 0:
            return dict.fromkeys(self.metric_names, Interval(math.nan, math.nan, math.nan))
        weights = np.concatenate([np.ones((1, len(targets))), resampled_weights(patients, bootstrap, seed)])
        measured = self.weighted_metrics(predictions, targets, weights)
        return {name: interval(values[0], values[1:]) for name, values in measured.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """What tables call each output of `probabilities`."""
        return tuple(f"p_{name}" for name in self.names)

    @abstractmethod
    def describe(self, prediction: Float[np.ndarray, " output"]) -> str:
        """An answer in a few words, for a title."""

    def describe_target(self, target: Any) -> str:
        """A target in a few words, for a title."""
        return self.write_target(target)

    def caption(self, prediction: Float[np.ndarray, " output"]) -> tuple[str, float]:
        """What stands below a glimpse: an answer in a word or two, and the length of a bar from 0 to 1."""
        return probability_caption(self.probabilities(prediction), self.names)

    # ------------------------------------------------------------------------------------------ targets
    @abstractmethod
    def parse_target(self, text: str) -> Any:
        """The target that a cell of the cohort states.

        Raises:
            ValueError: the text is not a target; the message names the rule.
        """

    def write_target(self, target: Any) -> str:
        """The text that `parse_target` reads as this target."""
        return str(target)

    @abstractmethod
    def stack(self, targets: Sequence[Any]) -> Num[np.ndarray, "case *target"]:
        """Targets as one array, ready for ``torch.from_numpy``; the first axis counts the cases."""

    def strata(self, targets: Sequence[Any]) -> list[str]:
        """For each target, the group of targets that splits are to hold in proportion."""
        return [self.write_target(target) for target in targets]


def probability_caption(probabilities: Float[np.ndarray, " output"], names: Sequence[str]) -> tuple[str, float]:
    """A probability as text and as the length of a bar: that of the second of two outputs, or the highest of more."""
    shown = 1 if len(probabilities) == 2 else int(probabilities.argmax())
    return f"p({names[shown]}) {probabilities[shown]:.2f}", float(probabilities[shown])


def parse_name(text: str, names: Sequence[str]) -> int | None:
    """The index that a name or a number stands for ("1.0", as spreadsheets write it, too); None where it is neither."""
    if text in names:
        return names.index(text)
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() and 0 <= number < len(names) else None


def numbered(names: Sequence[str]) -> bool:
    """Whether names are but numbers, so that messages need not list them."""
    return tuple(names) == tuple(map(str, range(len(names))))


# ---------------------------------------------------------------------------------------------- intervals
def resampled_weights(
    patients: Sequence[str] | np.ndarray, count: int, seed: int
) -> Float[np.ndarray, "resample case"]:
    """How often each case occurs in each resample: as many patients as there are, drawn with replacement."""
    _, owner = np.unique(np.asarray([str(patient) for patient in patients]), return_inverse=True)
    number = int(owner.max()) + 1
    times = np.random.default_rng(seed).multinomial(number, np.full(number, 1.0 / number), count)
    return times[:, owner].astype(np.float64)


def interval(value: float, drawn: Float[np.ndarray, " resample"]) -> Interval:
    """The value with the 2.5th and 97.5th percentile of its resamples."""
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist() if len(drawn) else (math.nan, math.nan)
    return Interval(float(value), low, high)


def weighted_mean(values: np.ndarray, weights: Float[np.ndarray, "resample case"]) -> Float[np.ndarray, " resample"]:
    """Mean of values (case,) under each weighting."""
    return weights @ np.asarray(values, np.float64) / weights.sum(axis=1)


def weighted_auc(
    scores: Float[np.ndarray, " case"],
    positive: Bool[np.ndarray, " case"],
    weights: Float[np.ndarray, "resample case"],
) -> Float[np.ndarray, " resample"]:
    """Area under the ROC curve under each weighting, by the Mann-Whitney statistic; NaN where a class is absent.

    With w_i the weight of case i and s_i its score: ``sum_ij w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / sum_ij w_i w_j``
    over positive i and negative j.
    """
    order = np.argsort(scores, kind="stable")
    ranked, chosen = scores[order], positive[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # of groups of equal scores
    gains = np.add.reduceat(weights[:, order] * chosen, starts, axis=1)
    losses = np.add.reduceat(weights[:, order] * ~chosen, starts, axis=1)
    below = losses.cumsum(axis=1) - losses / 2
    return ratio((gains * below).sum(axis=1), gains.sum(axis=1) * losses.sum(axis=1))


def mean_of_defined(values: Float[np.ndarray, "kind resample"]) -> Float[np.ndarray, " resample"]:
    """Mean over kinds (classes, labels) of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below``, NaN where the latter is not positive."""
    above = np.asarray(above, np.float64)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=np.asarray(below) > 0)


_WORDS = {"auc": "AUC", "f1": "F1", "mae": "MAE", "r2": "R2"}


def metric_title(name: str) -> str:
    """What tables and axes call a metric of `Task.metric_names`: "auc" is AUC, "max_accuracy" is max accuracy."""
    return " ".join(_WORDS.get(word, word) for word in name.split("_"))
