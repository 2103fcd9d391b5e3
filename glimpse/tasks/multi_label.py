"""The task of choosing any subset of several labels."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

from glimpse.tasks.base import Task, divergence, mean_of_defined, ratio, weighted_mean
from glimpse.tasks.measures import (
    calibration_curve,
    calibration_error,
    checked_specificity,
    confusion_matrix,
    counted,
    separation,
)
from glimpse.tasks.names import expected_names, names_of, naming_option, numbered, parse_name

NONE = ("none", "-")  # texts for the empty set; `write_target` uses the first
_OTHER_SIGNS = ",|\t"  # which some programs write between labels
_LEAST = 1e-12  # least probability that has a logit, and its distance from 1
_COMMON = 3  # from so many cases on (one for each split), a set of labels is a stratum of its own


class MultiLabel(Task):
    """Predicts any subset of several labels; predictions are one logit per label.

    A target is an int64 array (label,) of 0 and 1. The metrics, each but "accuracy" and "score" a mean over labels (see
    `glimpse.tasks.measures`):

    - "auc": of the labels that some cases have and others do not.
    - "accuracy": the share of cases with all labels right, also called subset accuracy.
    - "balanced_accuracy": the mean of sensitivity and specificity; where all cases have a label, or none has it, the
      one that is defined.
    - "f1": of the labels that occur in targets or answers.
    - "sensitivity_at_specificity_<s>": the highest sensitivity of a threshold with a specificity of at least s, of the
      labels that some cases have and others do not.
    - "brier" and "ece": Brier score and expected calibration error.
    - "score": the mean score.

    Args:
        labels: the number of labels, or their names in order, texts or numbers.
        specificity: for the metric "sensitivity_at_specificity_<s>", from 0 to 1.
    """

    headline = ("auc", "accuracy")
    calibrates = True

    def __init__(self, labels: int | Sequence[str | float], specificity: float = 0.9) -> None:
        names = names_of("labels", labels)
        if not names:
            raise ValueError(f"a multi-label task needs at least one label, all with different names, got {labels!r}.")
        wrong = [name for name in names if ";" in name or name.lower() in NONE]
        if wrong:
            raise ValueError(f"labels must not hold ';' or be one of {', '.join(NONE)}; rename {wrong[0]!r}.")
        self.specificity = checked_specificity(specificity)
        self._sensitivity = f"sensitivity_at_specificity_{self.specificity:g}"
        self.further = ("balanced_accuracy", "f1", self._sensitivity, "brier", "ece")
        self.metric_names = ("auc", "accuracy", *self.further, "score")
        self.names = names
        self.outputs = len(names)
        self.target_shape = (self.outputs,)

    def __repr__(self) -> str:
        return f"MultiLabel({list(self.names)})"

    def loss(
        self, prediction: Float[Tensor, "*batch output"], target: Num[Tensor, "*batch output"]
    ) -> Float[Tensor, "*batch"]:
        """Returns the binary cross-entropy, averaged over the labels."""
        each = F.binary_cross_entropy_with_logits(prediction, target.to(prediction.dtype), reduction="none")
        return each.mean(-1)

    def surprise(
        self, prediction: Float[Tensor, "*batch output"], before: Float[Tensor, "*#batch output"]
    ) -> Float[Tensor, "*batch"]:
        """Returns the divergence of each label's probability from the one before, averaged over the labels, in nats."""
        return divergence(prediction, before).mean(-1)

    def score(
        self, prediction: Float[np.ndarray, "*batch output"], target: Num[np.ndarray, "*batch output"]
    ) -> Float[np.ndarray, "*batch"]:
        """Returns ``max(1 - H / log 2, -1)`` with the loss H: 1 if certain and right, 0 for p = 1 / 2."""
        prediction, target = np.asarray(prediction), np.asarray(target)
        entropy = (np.logaddexp(0.0, prediction) - target * prediction).mean(axis=-1)
        return np.asarray(np.maximum(1.0 - entropy / math.log(2.0), -1.0))

    def probabilities(self, predictions: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch output"]:
        """Returns the logistic function of each logit."""
        return np.exp(-np.logaddexp(0.0, -np.asarray(predictions)))

    def predictions(self, probabilities: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch output"]:
        """Returns the logits of probabilities."""
        inside = np.clip(probabilities, _LEAST, 1 - _LEAST)
        return np.log(inside) - np.log1p(-inside)

    def weighted_metrics(
        self,
        predictions: Float[np.ndarray, "case output"],
        targets: Num[np.ndarray, "case output"],
        weights: Float[np.ndarray, "resample case"],
    ) -> dict[str, Float[np.ndarray, " resample"]]:
        """Returns all metrics for each weighting; the class describes them."""
        wanted, answered, sure = targets == 1, predictions > 0, self.probabilities(predictions)
        area, sensitivity = separation(zip(predictions.T, wanted.T, strict=True), self.specificity, weights)
        balanced = []
        for k in range(self.outputs):
            own = counted(wanted[:, k].astype(np.int64), answered[:, k].astype(np.int64), 2, weights)
            balanced.append(own.balanced_accuracy)
        return {
            "auc": area,
            "accuracy": weighted_mean((wanted == answered).all(axis=1), weights),
            "balanced_accuracy": mean_of_defined(np.stack(balanced)),
            "f1": _macro_f1(wanted, answered, weights),
            self._sensitivity: sensitivity,
            "brier": weighted_mean(((sure - wanted) ** 2).mean(axis=1), weights),
            "ece": np.mean([calibration_error(sure[:, k], wanted[:, k], weights) for k in range(self.outputs)], axis=0),
            "score": weighted_mean(self.score(predictions, targets), weights),
        }

    def details(
        self, predictions: Float[np.ndarray, "case output"], targets: Num[np.ndarray, "case output"]
    ) -> dict[str, Any]:
        """Returns of each label the confusion matrix (a row for targets without it, and with it) and the curve."""
        wanted, sure = np.asarray(targets) == 1, self.probabilities(predictions)
        told = []
        for k, name in enumerate(self.names):
            matrix = confusion_matrix(wanted[:, k].astype(np.int64), (predictions[:, k] > 0).astype(np.int64), 2)
            told.append(
                {
                    "name": name,
                    "confusion": {"classes": ["without", "with"], "matrix": matrix.tolist()},
                    "calibration": calibration_curve(sure[:, k], wanted[:, k]),
                }
            )
        return {"labels": told}

    def describe(self, prediction: Float[np.ndarray, " output"]) -> str:
        """Returns the labels with a probability above 1 / 2, such as "1, 4, 7"."""
        return self.describe_target(np.asarray(prediction) > 0)

    def answer(self, probabilities: Float[np.ndarray, " output"]) -> str:
        """Returns the labels with a probability above 1 / 2, with ";" between them, or "none"."""
        return self.write_target(np.asarray(probabilities) > 0.5)

    def describe_target(self, target: np.ndarray) -> str:
        """Returns the names of the labels in a set, such as "1, 4, 7"."""
        return self.write_target(target).replace(";", ", ")

    def caption(self, prediction: Float[np.ndarray, " output"]) -> tuple[str, float]:
        """Returns the labels with a probability above 1 / 2, and the probability that exactly this set is right."""
        answer = self.probabilities(prediction)
        return self.describe(prediction), float(np.maximum(answer, 1 - answer).prod())

    def parse_target(self, text: str) -> Int64[np.ndarray, " label"]:
        """Reads a set of labels from names or numbers, "oedema;nodule" or "1;4;7"; "none" or "-" is the empty set."""
        target = np.zeros(self.outputs, np.int64)
        words = [word.strip() for word in str(text).split(";")]
        if len(words) == 1 and words[0].lower() in NONE:
            return target
        for word in words:
            found = parse_name(word, self.names)
            if found is None:
                raise ValueError(
                    f"target {text!r}: {word!r} is no label: expected {expected_names(self.names, 'labels')}, with "
                    f"';' between them, or {NONE[0]!r}"
                )
            target[found] = 1
        return target

    def write_target(self, target: Any) -> str:
        """Returns the labels' names with ";" between them, or "none"."""
        return ";".join(name for name, there in zip(self.names, target, strict=True) if there) or NONE[0]

    def hint(self, texts: Iterable[str], section: str = "env.task") -> str:
        """Returns the option that names the labels which occur in a cohort, unless they have been named already.

        It is empty if other signs than ";" seem to separate labels: "1,4" is hardly the name of one label.
        """
        words = [word.strip() for text in texts for word in text.split(";")]
        if not numbered(self.names) or any(sign in word for word in words for sign in _OTHER_SIGNS):
            return ""
        return naming_option(f"{section}.labels", (word for word in words if word.lower() not in NONE))

    def stack(self, targets: Sequence[Any]) -> Int64[np.ndarray, "case label"]:
        """Returns the sets as an int64 array (case, label) of 0 and 1."""
        return np.asarray(targets, np.int64).reshape(len(targets), self.outputs)

    def strata(self, targets: Sequence[Any]) -> list[str]:
        """Returns the set itself if at least three cases have it or it is empty, and otherwise its rarest label."""
        sets = [self.write_target(target) for target in targets]
        common, frequency = Counter(sets), self.stack(targets).sum(axis=0)
        return [
            whole if common[whole] >= _COMMON or whole == NONE[0] else self._rarest(target, frequency)
            for whole, target in zip(sets, targets, strict=True)
        ]

    def _rarest(self, target: Any, frequency: np.ndarray) -> str:
        return self.names[int(np.where(np.asarray(target) == 1, frequency, np.inf).argmin())]


def _macro_f1(
    wanted: Bool[np.ndarray, "case label"],
    answered: Bool[np.ndarray, "case label"],
    weights: Float[np.ndarray, "resample case"],
) -> Float[np.ndarray, " resample"]:
    """Returns the mean of ``2 TP / (2 TP + FP + FN)`` over the labels for which it is defined."""
    both = weights @ (wanted & answered)
    either = weights @ wanted + weights @ answered
    return mean_of_defined(ratio(2 * both, either).T)
