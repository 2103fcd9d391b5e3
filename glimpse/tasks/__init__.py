"""What an answer is: the loss that teaches it, the score that rewards it, the metrics that report it."""

from glimpse.tasks.base import (
    Interval,
    Task,
    interval,
    metric_title,
    resampled_weights,
    weighted_auc,
    weighted_mean,
)
from glimpse.tasks.classification import Classification
from glimpse.tasks.multi_label import MultiLabel
from glimpse.tasks.multi_task import MultiTask
from glimpse.tasks.regression import Regression

__all__ = [
    "Classification",
    "Interval",
    "MultiLabel",
    "MultiTask",
    "Regression",
    "Task",
    "interval",
    "metric_title",
    "resampled_weights",
    "weighted_auc",
    "weighted_mean",
]
