"""The task of choosing one of several classes."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Int64, Num
from torch import Tensor

from glimpse.tasks.base import Task, mean_of_defined, weighted_auc, weighted_mean
from glimpse.tasks.names import expected_names, names_of, naming_option, numbered, parse_name, quantity_options


class Classification(Task):
    """Predicts one of several classes; predictions are logits.

    The metrics are "auc", "accuracy" and the mean "score". With more than two classes, "auc" is the mean of the
    one-versus-rest areas of all classes that some cases have and others do not; it is NaN if only one class is present.

    Args:
        classes: the number of classes, or their names in order, texts or numbers (such as the grades [1, 2, 3]). Of two
            classes, the second is the positive one.
    """

    metric_names = ("auc", "accuracy", "score")
    headline = ("auc", "accuracy")

    def __init__(self, classes: int | Sequence[str | float] = 2) -> None:
        self.names = names_of("classes", classes)
        self.outputs = len(self.names)
        if self.outputs < 2:
            raise ValueError(f"a classification needs at least two classes with different names, got {classes!r}.")

    def __repr__(self) -> str:
        return f"Classification({list(self.names)})"

    def loss(
        self, prediction: Float[Tensor, "*batch output"], target: Num[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """Returns the cross-entropy, ``-log p(target)``."""
        flat = F.cross_entropy(prediction.reshape(-1, self.outputs), target.reshape(-1).long(), reduction="none")
        return flat.reshape(target.shape)

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

    def weighted_metrics(
        self,
        predictions: Float[np.ndarray, "case output"],
        targets: Num[np.ndarray, " case"],
        weights: Float[np.ndarray, "resample case"],
    ) -> dict[str, Float[np.ndarray, " resample"]]:
        """Returns AUC, accuracy and mean score for each weighting; the class describes them."""
        probabilities = self.probabilities(predictions)
        compared = [1] if self.outputs == 2 else range(self.outputs)
        areas = [weighted_auc(probabilities[:, k], targets == k, weights) for k in compared]
        return {
            "auc": mean_of_defined(np.stack(areas)),
            "accuracy": weighted_mean(predictions.argmax(axis=-1) == targets, weights),
            "score": weighted_mean(self.score(predictions, targets), weights),
        }

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
