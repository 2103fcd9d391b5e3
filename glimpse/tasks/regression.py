"""The task of predicting a quantity."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Float32, Num
from torch import Tensor

from glimpse.tasks.base import Task, ratio, weighted_mean

_QUARTILES = (0.25, 0.5, 0.75)


class Regression(Task):
    """Predicts a quantity; a prediction is one number z, which stands for the quantity ``mean + spread * z``.

    Metrics are "mae" (mean absolute error in the target's units), "r2" (coefficient of determination), "correlation"
    (Pearson's; both NaN where all targets are equal) and the mean "score".

    Args:
        mean: the blind guess, best the mean of the training split's targets.
        spread: the error that gives a score of 0, best the standard deviation of those targets.
        name: name of the quantity.
    """

    metric_names = ("mae", "r2", "correlation", "score")
    headline = ("mae", "correlation")

    def __init__(self, mean: float | int = 0.0, spread: float | int = 1.0, name: str = "value") -> None:
        if not math.isfinite(mean) or not 0 < spread < math.inf:
            raise ValueError(
                f"a regression needs a finite mean and a positive, finite spread, got {mean} and {spread}."
            )
        self.mean, self.spread = float(mean), float(spread)
        self.names, self.outputs = (name,), 1

    def __repr__(self) -> str:
        return f"Regression({self.mean:g}, {self.spread:g}, {self.names[0]!r})"

    def loss(
        self, prediction: Float[Tensor, "*batch output"], target: Num[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """Returns the smooth L1 loss of the error e in spreads: ``e^2 / 2`` up to 1, then ``|e| - 1 / 2``."""
        wanted = (target.to(prediction.dtype) - self.mean) / self.spread
        return F.smooth_l1_loss(prediction[..., 0], wanted, reduction="none")

    def score(
        self, prediction: Float[np.ndarray, "*batch output"], target: Num[np.ndarray, "*batch"]
    ) -> Float[np.ndarray, "*batch"]:
        """Returns ``max(1 - e^2, -1)`` with the error e in units of the spread: 1 is perfect, 0 an error of one spread.

        If mean and spread are those of the targets, the blind guess, which is the mean, has e^2 = 1 and thus a score of
        0 on average (or a little more, because no score is below -1).
        """
        error = np.asarray(prediction)[..., 0] - (np.asarray(target) - self.mean) / self.spread
        return np.asarray(np.maximum(1.0 - error**2, -1.0))

    def probabilities(self, predictions: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch output"]:
        """Returns the quantities in the target's units."""
        return self.mean + self.spread * np.asarray(predictions)

    def predictions(self, probabilities: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch output"]:
        """Returns quantities in spreads from the mean."""
        return (np.asarray(probabilities) - self.mean) / self.spread

    def weighted_metrics(
        self,
        predictions: Float[np.ndarray, "case output"],
        targets: Num[np.ndarray, " case"],
        weights: Float[np.ndarray, "resample case"],
    ) -> dict[str, Float[np.ndarray, " resample"]]:
        """Returns mean absolute error, r2, correlation and mean score for each weighting; the class describes them."""
        answers, wanted = self.probabilities(predictions)[:, 0], np.asarray(targets, np.float64)
        share = weights / weights.sum(axis=1, keepdims=True)
        off = wanted - (share @ wanted)[:, None]
        other = answers - (share @ answers)[:, None]
        spreads = (share * off**2).sum(axis=1) * (share * other**2).sum(axis=1)
        return {
            "mae": weighted_mean(np.abs(answers - wanted), weights),
            "r2": 1.0 - ratio(share @ (answers - wanted) ** 2, (share * off**2).sum(axis=1)),
            "correlation": ratio((share * off * other).sum(axis=1), np.sqrt(spreads)),
            "score": weighted_mean(self.score(predictions, targets), weights),
        }

    @property
    def columns(self) -> tuple[str, ...]:
        """The name of the quantity."""
        return self.names

    def describe(self, prediction: Float[np.ndarray, " output"]) -> str:
        """Returns the quantity with four digits."""
        return f"{self.probabilities(prediction)[0]:.4g}"

    def answer(self, probabilities: Float[np.ndarray, " output"]) -> str:
        """Returns the quantity with four digits."""
        return f"{probabilities[0]:.4g}"

    def describe_target(self, target: float | int) -> str:
        """Returns the quantity with four digits."""
        return f"{target:.4g}"

    def caption(self, prediction: Float[np.ndarray, " output"]) -> tuple[str, float]:
        """Returns the quantity, and a bar that reaches from two spreads below the mean to two spreads above it."""
        return self.describe(prediction), float(np.clip((prediction[0] + 2) / 4, 0, 1))

    def parse_target(self, text: str) -> float:
        """Reads a finite number."""
        try:
            value = float(str(text).strip())
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"target {text!r} is not a number: expected a finite one, with a point before decimals")
        return value

    def stack(self, targets: Sequence[Any]) -> Float32[np.ndarray, " case"]:
        """Returns the quantities as float32."""
        return np.asarray(targets, np.float32)

    def strata(self, targets: Sequence[Any]) -> list[str]:
        """Returns for each target in which quarter of all targets it lies, "0" to "3"."""
        values = np.asarray(targets, np.float64)
        if not len(values):
            return []
        return [str(quarter) for quarter in np.searchsorted(np.quantile(values, _QUARTILES), values)]
