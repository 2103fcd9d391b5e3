"""The task of choosing one of several classes."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

from glimpse.tasks.base import Task, weighted_mean
from glimpse.tasks.measures import (
    brier,
    calibration_curve,
    calibration_error,
    checked_specificity,
    confusion_matrix,
    counted,
    separation,
)
from glimpse.tasks.names import expected_names, names_of, naming_option, numbered, parse_name, quantity_options

BALANCED = "balanced"  # class weights that follow from how often classes occur


class Classification(Task):
    """Predicts one of several classes; predictions are logits.

    The metrics, with K classes (see `glimpse.tasks.measures`):

    - "auc": the area under the ROC curve; with more than two classes the mean of the one-versus-rest areas of all
      classes that some cases have and others do not. NaN if only one class is present.
    - "accuracy", "balanced_accuracy", "f1" (of the second of two classes, or the mean over all).
    - "sensitivity_at_specificity_<s>": the highest sensitivity of a threshold with a specificity of at least s; with
      more than two classes the mean of one versus rest.
    - "brier": the Brier score; "ece": the expected calibration error, of the probability of the second of two classes,
      or of the answer's probability.
    - "score": the mean score.

    Args:
        classes: the number of classes, or their names in order, texts or numbers (such as the grades [1, 2, 3]). Of two
            classes, the second is the positive one.
        class_weights: what the loss of a case is multiplied with, one number for each class; or "balanced", which a
            training replaces by n / (K n_k) for class k, which n_k of its n training cases have. Score and metrics are
            not weighted.
        specificity: for the metric "sensitivity_at_specificity_<s>", from 0 to 1.
    """

    headline = ("auc", "accuracy")
    calibrates = True

    def __init__(
        self,
        classes: int | Sequence[str | float] = 2,
        class_weights: str | Sequence[float] | None = None,
        specificity: float = 0.9,
    ) -> None:
        self.names = names_of("classes", classes)
        self.outputs = len(self.names)
        if self.outputs < 2:
            raise ValueError(f"a classification needs at least two classes with different names, got {classes!r}.")
        self.class_weights = _checked_weights(class_weights, self.names)
        self.specificity = checked_specificity(specificity)
        self._sensitivity = f"sensitivity_at_specificity_{self.specificity:g}"
        self.further = ("balanced_accuracy", "f1", self._sensitivity, "brier", "ece")
        self.metric_names = ("auc", "accuracy", *self.further, "score")

    def __repr__(self) -> str:
        return f"Classification({list(self.names)})"

    def loss(
        self, prediction: Float[Tensor, "*batch output"], target: Num[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """Returns the cross-entropy ``-w log p(target)``, with the weight w of the target's class.

        Raises:
            ValueError: class weights are "balanced", and nobody has counted the classes (see `weighing`).
        """
        if self.class_weights == BALANCED:
            raise ValueError(
                "class_weights=balanced has no numbers before the training cases are counted, as glimpse train does. "
                "Give a list: task.weighing(targets) returns it."
            )
        weights = None if self.class_weights is None else prediction.new_tensor(self.class_weights)
        flat = F.cross_entropy(
            prediction.reshape(-1, self.outputs), target.reshape(-1).long(), weight=weights, reduction="none"
        )
        return flat.reshape(target.shape)

    def surprise(
        self, prediction: Float[Tensor, "*batch output"], before: Float[Tensor, "*#batch output"]
    ) -> Float[Tensor, "*batch"]:
        """Returns the divergence of the classes' probabilities from those before, ``sum p log(p / q)``, in nats."""
        own = prediction.log_softmax(-1)
        return (own.exp() * (own - before.log_softmax(-1))).sum(-1)

    def weighing(self, targets: Sequence[Any]) -> dict[str, Any]:
        """Returns the class weights that "balanced" means for these targets; 1 for classes that they lack.

        With K classes, of which class k has n_k of n targets: n / (K n_k), so that their mean over the targets is 1.
        """
        if self.class_weights != BALANCED:
            return {}
        counts = np.bincount(self.stack(targets), minlength=self.outputs)
        present = int((counts > 0).sum())
        return {"class_weights": [round(len(targets) / (present * n), 6) if n else 1.0 for n in counts.tolist()]}

    def score(
        self, prediction: Float[np.ndarray, "*batch output"], target: Num[np.ndarray, "*batch"]
    ) -> Float[np.ndarray, "*batch"]:
        """Returns ``max(1 + log p(target) / log K, -1)`` with K classes: 1 if certain and right, 0 for p = 1 / K."""
        target = np.asarray(target, np.int64)
        chosen = np.take_along_axis(_log_softmax(np.asarray(prediction)), target[..., None], axis=-1)[..., 0]
        return np.asarray(np.maximum(1.0 + chosen / math.log(self.outputs), -1.0))

    def probabilities(self, predictions: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch output"]:
        """Returns the softmax over the classes."""
        return np.exp(_log_softmax(np.asarray(predictions)))

    def predictions(self, probabilities: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch output"]:
        """Returns the logarithms of probabilities."""
        return np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))

    def weighted_metrics(
        self,
        predictions: Float[np.ndarray, "case output"],
        targets: Num[np.ndarray, " case"],
        weights: Float[np.ndarray, "resample case"],
    ) -> dict[str, Float[np.ndarray, " resample"]]:
        """Returns all metrics for each weighting; the class describes them."""
        targets = np.asarray(targets, np.int64)
        scores, answers = self.probabilities(predictions), predictions.argmax(axis=-1)
        compared = {1: predictions[:, 1] - predictions[:, 0]} if self.outputs == 2 else dict(enumerate(scores.T))
        outcomes = ((values, targets == k) for k, values in compared.items())
        area, sensitivity = separation(outcomes, self.specificity, weights)
        counts = counted(targets, answers, self.outputs, weights)
        return {
            "auc": area,
            "accuracy": weighted_mean(answers == targets, weights),
            "balanced_accuracy": counts.balanced_accuracy,
            "f1": counts.f1,
            self._sensitivity: sensitivity,
            "brier": weighted_mean(brier(scores, targets), weights),
            "ece": calibration_error(*self._event(scores, targets), weights),
            "score": weighted_mean(self.score(predictions, targets), weights),
        }

    def details(
        self, predictions: Float[np.ndarray, "case output"], targets: Num[np.ndarray, " case"]
    ) -> dict[str, Any]:
        """Returns the confusion matrix (a row for each class of targets, a column for each answer), and calibration."""
        targets = np.asarray(targets, np.int64)
        matrix = confusion_matrix(targets, predictions.argmax(axis=-1), self.outputs)
        return {
            "confusion": {"classes": list(self.names), "matrix": matrix.tolist()},
            "calibration": calibration_curve(*self._event(self.probabilities(predictions), targets)),
        }

    def _event(
        self, probabilities: Float[np.ndarray, "case output"], targets: Num[np.ndarray, " case"]
    ) -> tuple[Float[np.ndarray, " case"], Bool[np.ndarray, " case"]]:
        """Returns the probability of an event, and whether it happened.

        The event is the second of two classes, or of more that the answer is right.
        """
        if self.outputs == 2:
            return probabilities[:, 1], targets == 1
        return probabilities.max(axis=1), probabilities.argmax(axis=1) == targets

    def describe(self, prediction: Float[np.ndarray, " output"]) -> str:
        """Returns the most probable class with its probability, such as "tumour (0.93)"."""
        answer = self.probabilities(prediction)
        return f"{self.names[int(answer.argmax())]} ({answer.max():.2f})"

    def answer(self, probabilities: Float[np.ndarray, " output"]) -> str:
        """Returns the name of the most probable class."""
        return self.names[int(np.argmax(probabilities))]

    def parse_target(self, text: str) -> int:
        """Reads a class from its name, "tumour", "1", or "1.0", as spreadsheets write it (see `parse_name`)."""
        text = str(text).strip()
        found = parse_name(text, self.names)
        if found is None:
            raise ValueError(f"target {text!r} is out of range: expected {expected_names(self.names, 'a class')}")
        return found

    def write_target(self, target: Any) -> str:
        """Returns the name of a class."""
        return self.names[int(target)]

    def hint(self, texts: Iterable[str], section: str = "env.task") -> str:
        """Returns the option that names the classes which occur in a cohort, unless they have been named already.

        Where the targets are no classes but a quantity, these are the options of a regression.
        """
        if not numbered(self.names):
            return ""
        texts = list(texts)
        quantity = quantity_options(texts) if section == "env.task" else ""
        return quantity or naming_option(f"{section}.classes", texts, 2)

    def strata(self, targets: Sequence[Any]) -> list[str]:
        """Returns the indices of the classes: splits must not depend on what the classes are called."""
        return [str(int(target)) for target in targets]

    def stack(self, targets: Sequence[Any]) -> Int64[np.ndarray, " case"]:
        """Returns the classes as int64."""
        return np.asarray(targets, np.int64)


def _log_softmax(logits: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch output"]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _checked_weights(weights: Any, names: Sequence[str]) -> str | tuple[float, ...] | None:
    if weights is None or weights == BALANCED:
        return weights
    listed = [] if isinstance(weights, str) or not isinstance(weights, Sequence) else list(weights)
    good = all(isinstance(one, int | float) and not isinstance(one, bool) and 0 < one < math.inf for one in listed)
    if len(listed) != len(names) or not good:
        raise ValueError(
            f"expected class_weights as {BALANCED!r} or as a list of {len(names)} numbers above 0, one for each class "
            f"({', '.join(names)}), got {weights!r}."
        )
    return tuple(map(float, listed))
