"""What an answer is: the loss that teaches it, the score that rewards it, the metrics that report it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Int64
from sklearn.metrics import roc_auc_score
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
    """What is asked about a case.

    Attributes:
        outputs: length of a prediction.
        names: what each output stands for.
    """

    outputs: int
    names: tuple[str, ...]

    @abstractmethod
    def loss(
        self, prediction: Float[Tensor, "*batch output"], target: Int64[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """The training loss of each prediction, not reduced."""

    @abstractmethod
    def score(
        self, prediction: Float[np.ndarray, "*batch output"], target: Int64[np.ndarray, "*batch"]
    ) -> Float[np.ndarray, "*batch"]:
        """How good each prediction is: 1 perfect, 0 a blind guess, never below -1."""

    @abstractmethod
    def probabilities(self, predictions: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch output"]:
        """Predictions as probabilities."""

    @abstractmethod
    def metrics(
        self,
        predictions: Float[np.ndarray, "case output"],
        targets: Int64[np.ndarray, " case"],
        patients: Sequence[str] | np.ndarray,
        *,
        bootstrap: int = 1000,
        seed: int = 0,
    ) -> dict[str, Interval]:
        """What a table reports, with intervals over resampled patients."""

    @abstractmethod
    def parse_target(self, text: str) -> Any:
        """The target that a cell of the cohort states.

        Raises:
            ValueError: the text is not a target; the message names the rule.
        """

    @abstractmethod
    def stack(self, targets: Sequence[Any]) -> np.ndarray:
        """Targets as one array, ready for ``torch.from_numpy``."""


class Classification(Task):
    """One of several classes; predictions are logits.

    Args:
        classes: their number, or their names in order. Two is binary: class 1 is the positive one.
    """

    def __init__(self, classes: int | Sequence[str] = 2) -> None:
        names = [str(index) for index in range(classes)] if isinstance(classes, int) else list(classes)
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"a classification needs at least two classes with different names, got {classes!r}.")
        self.names = tuple(names)
        self.outputs = len(names)

    def __repr__(self) -> str:
        return f"Classification({list(self.names)})"

    def loss(
        self, prediction: Float[Tensor, "*batch output"], target: Int64[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """Cross-entropy, ``-log p(target)``."""
        flat = F.cross_entropy(prediction.reshape(-1, self.outputs), target.reshape(-1), reduction="none")
        return flat.reshape(target.shape)

    def score(
        self, prediction: Float[np.ndarray, "*batch output"], target: Int64[np.ndarray, "*batch"]
    ) -> Float[np.ndarray, "*batch"]:
        """``max(1 + log p(target) / log K, -1)`` with K classes: 1 when certain and right, 0 for p = 1 / K."""
        target = np.asarray(target)
        chosen = np.take_along_axis(_log_softmax(np.asarray(prediction)), target[..., None], axis=-1)[..., 0]
        return np.asarray(np.maximum(1.0 + chosen / math.log(self.outputs), -1.0))

    def probabilities(self, predictions: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch output"]:
        """Softmax over the classes."""
        return np.exp(_log_softmax(np.asarray(predictions)))

    def metrics(
        self,
        predictions: Float[np.ndarray, "case output"],
        targets: Int64[np.ndarray, " case"],
        patients: Sequence[str] | np.ndarray,
        *,
        bootstrap: int = 1000,
        seed: int = 0,
    ) -> dict[str, Interval]:
        """AUC (macro one-versus-rest with more than two classes), accuracy and mean score.

        Args:
            predictions: logits.
            targets: class of each case.
            patients: whom each case belongs to; patients, not cases, are resampled.
            bootstrap: number of resamples; those where a value is not defined (AUC of one class) are left out.
            seed: of the resampling.

        Returns:
            "auc", "accuracy" and "score"; the AUC is NaN where only one class is present.
        """
        predictions, targets = np.asarray(predictions, np.float64), np.asarray(targets)
        if not len(predictions) == len(targets) == len(patients):
            raise ValueError(
                f"expected as many predictions as targets and patients, got {len(predictions)}, {len(targets)} "
                f"and {len(patients)}."
            )
        if len(targets) == 0:
            return dict.fromkeys(("auc", "accuracy", "score"), Interval(math.nan, math.nan, math.nan))
        probabilities = self.probabilities(predictions)
        weights = _resampled_weights(patients, bootstrap, seed)
        correct = (predictions.argmax(axis=-1) == targets).astype(np.float64)
        scores = self.score(predictions, targets)
        return {
            "auc": _interval(_auc(probabilities, targets), _weighted_aucs(probabilities, targets, weights)),
            "accuracy": _interval(correct.mean(), weights @ correct / weights.sum(axis=1)),
            "score": _interval(scores.mean(), weights @ scores / weights.sum(axis=1)),
        }

    def parse_target(self, text: str) -> int:
        """A class by its name or its number, "tumour" or "1" ("1.0", as spreadsheets write it, too)."""
        text = str(text).strip()
        if text in self.names:
            return self.names.index(text)
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not number.is_integer() or not 0 <= number < self.outputs:
            named = "" if self.names == tuple(map(str, range(self.outputs))) else f" or one of {', '.join(self.names)}"
            raise ValueError(f"target {text!r} is out of range: expected a class from 0 to {self.outputs - 1}{named}")
        return int(number)

    def stack(self, targets: Sequence[Any]) -> Int64[np.ndarray, " case"]:
        """Classes as int64."""
        return np.asarray(targets, np.int64)


def _log_softmax(logits: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch output"]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _compared_classes(outputs: int) -> Sequence[int]:
    """The classes whose curves count: the positive one of two, each of more."""
    return [1] if outputs == 2 else range(outputs)


def _auc(probabilities: Float[np.ndarray, "case output"], targets: Int64[np.ndarray, " case"]) -> float:
    """Area under the ROC curve, of several classes the mean over those that some cases have and others do not."""
    classes = [k for k in _compared_classes(probabilities.shape[1]) if 0 < np.sum(targets == k) < len(targets)]
    if not classes:
        return math.nan
    return float(np.mean([roc_auc_score(targets == k, probabilities[:, k]) for k in classes]))


def _weighted_aucs(
    probabilities: Float[np.ndarray, "case output"],
    targets: Int64[np.ndarray, " case"],
    weights: Float[np.ndarray, "resample case"],
) -> Float[np.ndarray, " resample"]:
    """`_auc` of every resample at once, by the Mann-Whitney statistic; scikit-learn would take seconds.

    With w_i the times case i was drawn: ``sum_ij w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / sum_ij w_i w_j`` over
    positive i and negative j.
    """
    areas = []
    for k in _compared_classes(probabilities.shape[1]):
        order = np.argsort(probabilities[:, k], kind="stable")
        ranked, positive = probabilities[order, k], targets[order] == k
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # of groups of equal scores
        gains = np.add.reduceat(weights[:, order] * positive, starts, axis=1)
        losses = np.add.reduceat(weights[:, order] * ~positive, starts, axis=1)
        below = losses.cumsum(axis=1) - losses / 2
        pairs = gains.sum(axis=1) * losses.sum(axis=1)
        areas.append(np.divide((gains * below).sum(axis=1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
    defined = ~np.isnan(areas)
    total = np.where(defined, areas, 0.0).sum(axis=0)
    return np.divide(total, defined.sum(axis=0), out=np.full(len(total), np.nan), where=defined.any(axis=0))


def _resampled_weights(
    patients: Sequence[str] | np.ndarray, count: int, seed: int
) -> Float[np.ndarray, "resample case"]:
    """How often each case occurs in each resample: as many patients as there are, drawn with replacement."""
    _, owner = np.unique(np.asarray([str(patient) for patient in patients]), return_inverse=True)
    number = int(owner.max()) + 1
    times = np.random.default_rng(seed).multinomial(number, np.full(number, 1.0 / number), count)
    return times[:, owner].astype(np.float64)


def _interval(value: float, drawn: Float[np.ndarray, " resample"]) -> Interval:
    """The value with the 2.5th and 97.5th percentile of its resamples."""
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist() if len(drawn) else (math.nan, math.nan)
    return Interval(float(value), low, high)
