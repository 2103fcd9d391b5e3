"""Learning curves of a run, from the events that it has written for TensorBoard."""

import logging
import math
from collections.abc import Collection, Iterator
from pathlib import Path

from glimpse.tasks import metric_title

Curve = tuple[list[float], list[float]]
"""Steps and values."""

_SHOWN = (
    ("Pretraining", "optimiser steps", "loss", {"pretrain/loss": "loss"}),
    (
        "Warm-up",
        "optimiser steps",
        "loss",
        {"warm_up/loss": "loss", "warm_up/second_look": "loss of answers in the second look"},
    ),
    ("Joint stage", "environment steps", "loss", {"train/loss": "loss"}),
    ("Joint stage", "environment steps", "return per episode", {"rollout/return": "return"}),
    ("Joint stage", "environment steps", "nats", {"train/entropy": "entropy of where to look"}),
)
"""Titles of charts, what their axes show, and the names of their curves' events."""
_VALIDATION, _COUNT = "validation/", "glimpses"


def learning_curves(folder: Path, further: Collection[str] = ()) -> Iterator[tuple[str, str, str, dict[str, Curve]]]:
    """Yields title, title of the horizontal and the vertical axis, and curves by name, for each chart that there is.

    Metrics of the validation split that are in `further` have a chart of their own: all in one could not be told apart.
    """
    events = _events(folder)
    for title, across, up, names in _SHOWN:
        curves = {name: events[tag] for tag, name in names.items() if tag in events}
        if curves:
            yield f"{title}: {next(iter(curves))}", across, up, curves
    found = {tag.removeprefix(_VALIDATION): curve for tag, curve in events.items() if tag.startswith(_VALIDATION)}
    found.pop(_COUNT, None)
    parts = {"Validation": found.keys() - further, "Validation: further metrics": found.keys() & further}
    for title, metrics in parts.items():
        if metrics:
            yield title, "environment steps", "value", {metric_title(name): found[name] for name in sorted(metrics)}


def _events(folder: Path) -> dict[str, Curve]:
    """Returns all scalars by their names, without those that are not finite; nothing where there are no events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # which takes a while

    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it tells of every file that it has read
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1})
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        points = [(float(one.step), float(one.value)) for one in events.Scalars(tag) if math.isfinite(one.value)]
        if points:
            found[tag] = ([step for step, _ in points], [value for _, value in points])
    return found
