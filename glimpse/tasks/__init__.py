"""Tasks: what is to be predicted, with the loss to learn it, the score that is rewarded, and metrics for reports."""

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
from glimpse.tasks.survival import Survival

__all__ = [
    "Classification",
    "Interval",
    "MultiLabel",
    "MultiTask",
    "Regression",
    "Survival",
    "Task",
    "interval",
    "metric_title",
    "resampled_weights",
    "weighted_auc",
    "weighted_mean",
]
