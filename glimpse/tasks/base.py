"""The base class of all tasks, and the bootstrap intervals of metrics."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Float, Num
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap interval over patients; NaN where they are not defined."""

    value: float
    low: float
    high: float

    def record(self) -> dict[str, float | None]:
        """Returns value, low and high as JSON has them: None where they are not defined."""
        return {name: float(one) if math.isfinite(one) else None for name, one in vars(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Task(ABC):
    """What is to be predicted of a case. Tasks of the same class with equal options are equal.

    Attributes:
        outputs: length of a prediction.
        names: what each output means.
        metric_names: names of the metrics that `metrics` returns; "score" is always among them.
        headline: the metrics that tables show, with the most important one first.
        further: the metrics that a second table shows.
        calibrates: whether dividing predictions by one number, a temperature, changes only how sure answers are.
        target_shape: shape of one target in the array that `stack` returns.
        target_columns: the columns of a cohort's CSV that hold a target.
    """

    outputs: int
    names: tuple[str, ...]
    metric_names: tuple[str, ...]
    headline: tuple[str, ...]
    further: tuple[str, ...] = ()
    calibrates: bool = False
    target_shape: tuple[int, ...] = ()
    target_columns: tuple[str, ...] = ("target",)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), self.names))

    # ------------------------------------------------------------------------------------------ learning
    @abstractmethod
    def loss(
        self, prediction: Float[Tensor, "*batch output"], target: Num[Tensor, "*batch_and_target"]
    ) -> Float[Tensor, "*batch"]:
        """Returns the training loss of each prediction, without averaging over the batch."""

    @abstractmethod
    def score(
        self, prediction: Float[np.ndarray, "*batch output"], target: Num[np.ndarray, "*batch_and_target"]
    ) -> Float[np.ndarray, "*batch"]:
        """Returns how good each prediction is: 1 is perfect, 0 is a blind guess, and no score is below -1."""

    def surprise(
        self, prediction: Float[Tensor, "*batch output"], before: Float[Tensor, "*#batch output"]
    ) -> Float[Tensor, "*batch"]:
        """Returns how much predictions tell that others did not: the divergence of the first from the second, in nats.

        It is what Itti and Baldi (2009, "Bayesian surprise attracts human attention") call surprise. Unless a task says
        otherwise, outputs are means of normal distributions of variance 1: it is half their squared distance. Rounding
        may make it a little less than 0.
        """
        return (prediction - before).square().sum(-1) / 2

    def weighing(self, targets: Sequence[Any]) -> dict[str, Any]:
        """Returns options of this task that depend on the targets to learn from, as a section of settings has them."""
        return {}

    # ------------------------------------------------------------------------------------------ reporting
    @abstractmethod
    def probabilities(self, predictions: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch column"]:
        """Converts raw predictions to probabilities, or to quantities in the units of the target, one per column."""

    def predictions(self, probabilities: Float[np.ndarray, "*batch column"]) -> Float[np.ndarray, "*batch output"]:
        """Returns predictions that have these probabilities (or quantities): what `probabilities` undoes.

        Raises:
            NotImplementedError: the task does not say it; it cannot be measured from a table of answers then.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks the method predictions().")

    @abstractmethod
    def weighted_metrics(
        self,
        predictions: Float[np.ndarray, "case output"],
        targets: Num[np.ndarray, "case *target"],
        weights: Float[np.ndarray, "resample case"],
    ) -> dict[str, Float[np.ndarray, " resample"]]:
        """Returns every metric of `metric_names` for each weighting of the cases; NaN where it is not defined."""

    def metrics(
        self,
        predictions: Float[np.ndarray, "case output"],
        targets: Num[np.ndarray, "case *target"],
        patients: Sequence[str] | np.ndarray,
        *,
        bootstrap: int = 1000,
        seed: int = 0,
    ) -> dict[str, Interval]:
        """Returns the metrics with bootstrap intervals, for which patients are resampled.

        Args:
            predictions: raw predictions (logits in a classification).
            targets: targets as `stack` returns them.
            patients: the patient of each case; patients, not cases, are resampled.
            bootstrap: number of resamples; those in which a value is not defined (AUC of one class) are left out.
            seed: seed of the resampling.

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

    def details(
        self, predictions: Float[np.ndarray, "case output"], targets: Num[np.ndarray, "case *target"]
    ) -> dict[str, Any]:
        """Returns what JSON files tell beside metrics, such as the confusion matrix, by name."""
        return {}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `probabilities` in tables."""
        return tuple(f"p_{name}" for name in self.names)

    @property
    def pictured(self) -> Sequence[int]:
        """The columns of `probabilities` that pictures of contributions tell of; they have the same unit."""
        return range(len(self.columns))

    @abstractmethod
    def describe(self, prediction: Float[np.ndarray, " output"]) -> str:
        """Returns a prediction as a short text, for titles."""

    def answer(self, probabilities: Float[np.ndarray, " column"]) -> str:
        """Returns what `probabilities` come to, as a text for tables, such as the name of the most probable class."""
        return "; ".join(f"{name} {value:.4g}" for name, value in zip(self.names, probabilities, strict=True))

    def describe_target(self, target: Any) -> str:
        """Returns a target as a short text, for titles."""
        return self.write_target(target)

    def caption(self, prediction: Float[np.ndarray, " output"]) -> tuple[str, float]:
        """Returns what pictures show of a prediction: a very short text, and the length of a bar from 0 to 1."""
        return probability_caption(self.probabilities(prediction), self.names)

    # ------------------------------------------------------------------------------------------ targets
    @abstractmethod
    def parse_target(self, text: str) -> Any:
        """Reads the target from the text of a cell in the cohort's CSV.

        Raises:
            ValueError: the text is not a target; the message says what is expected.
        """

    def parse_cells(self, cells: Sequence[str]) -> Any:
        """Reads the target from the cells of `target_columns`, as `parse_target` does from a text.

        Raises:
            ValueError: the cells hold no target; the message says what is expected.
        """
        return self.parse_target(cells[0])

    def write_target(self, target: Any) -> str:
        """Returns the text from which `parse_target` reads this target."""
        return str(target)

    def write_cells(self, target: Any) -> tuple[str, ...]:
        """Returns the cells of `target_columns` from which `parse_cells` reads this target."""
        return (self.write_target(target),)

    def hint(self, texts: Iterable[str], section: str = "env.task") -> str:
        """Returns the option with which all texts of a cohort can be read, to be typed in a shell; empty if none.

        Args:
            texts: what the cohort's CSV has as targets.
            section: the section of the configuration that makes this task.
        """
        return ""

    @abstractmethod
    def stack(self, targets: Sequence[Any]) -> Num[np.ndarray, "case *target"]:
        """Returns the targets as one array, ready for ``torch.from_numpy``; its first axis is the case."""

    def strata(self, targets: Sequence[Any]) -> list[str]:
        """Returns the stratum of each target; splits contain all strata in the same proportions."""
        return [self.write_target(target) for target in targets]

    def lacking(self, targets: Sequence[Any]) -> str:
        """Returns what the targets of a split lack so that answers to them can be compared; empty if nothing."""
        return ""

    # ------------------------------------------------------------------------------------------ open options
    def open_options(self, targets: Sequence[Any]) -> dict[str, Any]:
        """Returns the options that were left open, as they follow from the targets of the training split.

        Raises:
            ValueError: they do not follow from these targets; the message says what is missing.
        """
        return {}

    def common_options(self, targets: Sequence[Any]) -> dict[str, Any]:
        """Returns those open options that all folds of a cross-validation must have in common, to be measured together.

        They say of what the answer is, such as the intervals of time, and nothing of the answer. `open_options` of
        each fold follow from its own training split.

        Args:
            targets: those of the whole cohort.

        Raises:
            ValueError: they do not follow from these targets; the message says what is missing.
        """
        return {}

    def settled(self, targets: Sequence[Any]) -> "Task":
        """Returns this task without open options (see `open_options`)."""
        return self


def probability_caption(probabilities: Float[np.ndarray, " output"], names: Sequence[str]) -> tuple[str, float]:
    """Returns one probability as a text and a number: that of the second of two outputs, or the highest of more."""
    shown = 1 if len(probabilities) == 2 else int(probabilities.argmax())
    return f"p({names[shown]}) {probabilities[shown]:.2f}", float(probabilities[shown])


# ---------------------------------------------------------------------------------------------- intervals
def resampled_weights(
    patients: Sequence[str] | np.ndarray, count: int, seed: int
) -> Float[np.ndarray, "resample case"]:
    """Returns how often each case occurs in each resample, for which patients are drawn with replacement."""
    _, owner = np.unique(np.asarray([str(patient) for patient in patients]), return_inverse=True)
    number = int(owner.max()) + 1
    times = np.random.default_rng(seed).multinomial(number, np.full(number, 1.0 / number), count)
    return times[:, owner].astype(np.float64)


def interval(value: float, drawn: Float[np.ndarray, " resample"]) -> Interval:
    """Returns the value with the 2.5th and 97.5th percentiles of its resamples."""
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist() if len(drawn) else (math.nan, math.nan)
    return Interval(float(value), low, high)


def weighted_mean(values: np.ndarray, weights: Float[np.ndarray, "resample case"]) -> Float[np.ndarray, " resample"]:
    """Returns the mean of values (case,) under each weighting."""
    return weights @ np.asarray(values, np.float64) / weights.sum(axis=1)


def weighted_auc(
    scores: Float[np.ndarray, " case"],
    positive: Bool[np.ndarray, " case"],
    weights: Float[np.ndarray, "resample case"],
) -> Float[np.ndarray, " resample"]:
    """Returns the area under the ROC curve for each weighting (Mann-Whitney statistic); NaN if a class is absent.

    With w_i the weight of case i and s_i its score: ``sum_ij w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / sum_ij w_i w_j``
    over positive i and negative j.
    """
    return auc_of(*ranked(scores, positive, weights))


def ranked(
    scores: Float[np.ndarray, " case"],
    positive: Bool[np.ndarray, " case"],
    weights: Float[np.ndarray, "resample case"],
) -> tuple[Float[np.ndarray, "resample rank"], Float[np.ndarray, "resample rank"]]:
    """Returns for each different score, in ascending order, the weights of its positive and of its negative cases."""
    order = np.argsort(scores, kind="stable")
    values, chosen = scores[order], positive[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])  # first indices of groups of equal scores
    ordered = weights[:, order]
    return np.add.reduceat(ordered * chosen, starts, axis=1), np.add.reduceat(ordered * ~chosen, starts, axis=1)


def auc_of(
    gains: Float[np.ndarray, "resample rank"], losses: Float[np.ndarray, "resample rank"]
) -> Float[np.ndarray, " resample"]:
    """Returns the area under the ROC curve from what `ranked` returns; NaN if a class is absent."""
    below = losses.cumsum(axis=1) - losses / 2
    return ratio((gains * below).sum(axis=1), gains.sum(axis=1) * losses.sum(axis=1))


def mean_of_defined(values: Float[np.ndarray, "kind resample"]) -> Float[np.ndarray, " resample"]:
    """Returns the mean over kinds (classes or labels), without NaN; NaN where all kinds are NaN."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Returns ``above / below``, and NaN where ``below`` is not positive."""
    above = np.asarray(above, np.float64)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=np.asarray(below) > 0)


_WORDS = {"auc": "AUC", "c": "C", "f1": "F1", "mae": "MAE", "r2": "R2", "ece": "ECE", "brier": "Brier"}


def metric_title(name: str) -> str:
    """Returns the title of a metric for tables and axes: "AUC" for "auc", "max accuracy" for "max_accuracy"."""
    return " ".join(_WORDS.get(word, word) for word in name.split("_"))


def divergence(logits: Float[Tensor, "*batch"], before: Float[Tensor, "*#batch"]) -> Float[Tensor, "*batch"]:
    """Returns the Kullback-Leibler divergence of yes-or-no answers from others before, in nats, from their logits."""
    return logits.sigmoid() * (logits - before) - F.softplus(logits) + F.softplus(before)
