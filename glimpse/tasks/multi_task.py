"""The task that combines several tasks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from glimpse.tasks.base import Task

Array = TypeVar("Array", np.ndarray, Tensor)


class MultiTask(Task):
    """Combines several tasks: predictions are placed one after another, and losses and scores are averaged.

    A target is a mapping from the tasks' names to their targets, or a tuple of these in the tasks' order. `stack`
    returns one array (case, number) with the numbers of all tasks' targets side by side: int64 if all of them are whole
    numbers, and float32 otherwise.

    The metrics are "score", the mean of the tasks' scores, and all metrics of each task, under the names
    "<task>_<metric>".

    Args:
        tasks: the tasks by their names.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks: dict[str, Task] = {str(name): task for name, task in tasks.items()}
        wrong = [name for name in self.tasks if not name.strip() or set(name) & set("=;")]
        if not self.tasks or wrong:
            raise ValueError(
                f"expected at least one task, and names that are not empty and hold neither '=' nor ';', got "
                f"{list(self.tasks)}."
            )
        unclear = [name for task in self.tasks.values() for name in task.names if "=" in name and ";" in name]
        if unclear:
            raise ValueError(f"expected names without ';' or without '=' in several tasks at once, got {unclear[0]!r}.")
        self._outputs = _slices([task.outputs for task in self.tasks.values()])
        self._numbers = _slices([math.prod(task.target_shape) for task in self.tasks.values()])
        self.outputs = self._outputs[-1].stop
        self.target_shape = (self._numbers[-1].stop,)
        self.names = self._prefixed("names")
        self.metric_names = ("score", *self._prefixed("metric_names"))
        self.further = self._prefixed("further")
        self.headline = tuple(f"{name}_{_main(task)}" for name, task in self.tasks.items())

    def __repr__(self) -> str:
        return f"MultiTask({self.tasks})"

    def loss(
        self, prediction: Float[Tensor, "*batch output"], target: Num[Tensor, "*batch number"]
    ) -> Float[Tensor, "*batch"]:
        """Returns the mean of the tasks' losses."""
        losses = [task.loss(*part) for task, part in self._parts(prediction, target)]
        return torch.stack(losses).mean(0)

    def surprise(
        self, prediction: Float[Tensor, "*batch output"], before: Float[Tensor, "*#batch output"]
    ) -> Float[Tensor, "*batch"]:
        """Returns the mean of the tasks' surprises."""
        parts = zip(self.tasks.values(), self._outputs, strict=True)
        return torch.stack([task.surprise(prediction[..., at], before[..., at]) for task, at in parts]).mean(0)

    def score(
        self, prediction: Float[np.ndarray, "*batch output"], target: Num[np.ndarray, "*batch number"]
    ) -> Float[np.ndarray, "*batch"]:
        """Returns the mean of the tasks' scores."""
        both = self._parts(np.asarray(prediction), np.asarray(target))
        return np.asarray(np.mean([task.score(*part) for task, part in both], axis=0))

    def probabilities(self, predictions: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch column"]:
        """Returns the probabilities (or quantities) of all tasks side by side."""
        predictions = np.asarray(predictions)
        parts = zip(self.tasks.values(), self._outputs, strict=True)
        return np.concatenate([task.probabilities(predictions[..., where]) for task, where in parts], axis=-1)

    def predictions(self, probabilities: Float[np.ndarray, "*batch column"]) -> Float[np.ndarray, "*batch output"]:
        """Returns the predictions of all tasks side by side."""
        probabilities = np.asarray(probabilities)
        parts = zip(self.tasks.values(), self._columns(), strict=True)
        return np.concatenate([task.predictions(probabilities[..., where]) for task, where in parts], axis=-1)

    def weighing(self, targets: Sequence[Any]) -> dict[str, Any]:
        """Returns the options of those tasks that have any, as the section `tasks` has them."""
        each = [self._by_name(target) for target in targets]
        found = {name: task.weighing([target[name] for target in each]) for name, task in self.tasks.items()}
        return {"tasks": {name: options for name, options in found.items() if options}} if any(found.values()) else {}

    def weighted_metrics(
        self,
        predictions: Float[np.ndarray, "case output"],
        targets: Num[np.ndarray, "case number"],
        weights: Float[np.ndarray, "resample case"],
    ) -> dict[str, Float[np.ndarray, " resample"]]:
        """Returns the mean score and every task's metrics for each weighting."""
        both = zip(self.tasks, self._parts(predictions, targets), strict=True)
        found = {name: task.weighted_metrics(*part, weights) for name, (task, part) in both}
        score = np.mean([metrics["score"] for metrics in found.values()], axis=0)
        each = {f"{name}_{key}": values for name, metrics in found.items() for key, values in metrics.items()}
        return {"score": score, **each}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of all tasks, each with its task's name in front."""
        return self._prefixed("columns")

    @property
    def pictured(self) -> Sequence[int]:
        """Those of the first task, as in `caption`: others may have other units."""
        return next(iter(self.tasks.values())).pictured

    def describe(self, prediction: Float[np.ndarray, " output"]) -> str:
        """Returns each task's prediction, such as "majority 3 (0.98); max 7 (0.91)"."""
        parts = zip(self.tasks.items(), self._outputs, strict=True)
        return "; ".join(f"{name} {task.describe(prediction[where])}" for (name, task), where in parts)

    def answer(self, probabilities: Float[np.ndarray, " column"]) -> str:
        """Returns each task's answer, such as "majority=3;max=7"."""
        parts = zip(self.tasks.items(), self._columns(), strict=True)
        return ";".join(f"{name}={task.answer(probabilities[where])}" for (name, task), where in parts)

    def describe_target(self, target: Any) -> str:
        """Returns each task's target, such as "majority 3; max 7"."""
        parts = self._by_name(target)
        return "; ".join(f"{name} {task.describe_target(parts[name])}" for name, task in self.tasks.items())

    def caption(self, prediction: Float[np.ndarray, " output"]) -> tuple[str, float]:
        """Returns the caption of the first task."""
        return next(iter(self.tasks.values())).caption(prediction[self._outputs[0]])

    def parse_target(self, text: str) -> dict[str, Any]:
        """Reads all tasks' targets from a text such as "majority=3;max=7"."""
        cells = self._cells(text)
        missing = [name for name in self.tasks if name not in cells]
        if missing:
            raise ValueError(f"target {text!r} lacks {', '.join(missing)}: expected {self._form()}")
        return {name: self._parse(name, task, cells[name]) for name, task in self.tasks.items()}

    def _cells(self, text: str) -> dict[str, str]:
        """Returns the text of each task's target."""
        cells: dict[str, str] = {}
        last = None
        for word in str(text).split(";"):
            name, equals, rest = word.partition("=")
            if equals and name.strip() in self.tasks:
                last = name.strip()
                if last in cells:
                    raise ValueError(f"target {text!r} states {last!r} twice: expected {self._form()}")
                cells[last] = rest
            elif last is None:
                raise ValueError(f"target {text!r}: expected {self._form()}")
            else:  # a set of labels contains ";", too
                cells[last] += f";{word}"
        return cells

    @staticmethod
    def _parse(name: str, task: Task, cell: str) -> Any:
        try:
            return task.parse_target(cell.strip())
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def hint(self, texts: Iterable[str], section: str = "env.task") -> str:
        """Returns the options of those tasks whose targets cannot all be read."""
        found: dict[str, list[str]] = {name: [] for name in self.tasks}
        wrong = set()
        for text in texts:
            try:
                cells = self._cells(text)
            except ValueError:
                continue
            for name, cell in cells.items():
                found[name].append(cell)
                try:
                    self.tasks[name].parse_target(cell.strip())
                except ValueError:
                    wrong.add(name)
        hints = (self.tasks[name].hint(found[name], f"{section}.tasks.{name}") for name in self.tasks if name in wrong)
        return " ".join(filter(None, hints))

    def _form(self) -> str:
        return "'" + ";".join(f"{name}=..." for name in self.tasks) + "'"

    def write_target(self, target: Any) -> str:
        """Returns all tasks' targets as a text such as "majority=3;max=7"."""
        parts = self._by_name(target)
        return ";".join(f"{name}={task.write_target(parts[name])}" for name, task in self.tasks.items())

    def stack(self, targets: Sequence[Any]) -> Num[np.ndarray, "case number"]:
        """Returns the numbers of all tasks' targets side by side; the class describes the array."""
        by_name = [self._by_name(target) for target in targets]
        columns = [
            task.stack([target[name] for target in by_name]).reshape(len(targets), math.prod(task.target_shape))
            for name, task in self.tasks.items()
        ]
        whole = all(np.issubdtype(column.dtype, np.integer) for column in columns)
        return np.concatenate([column.astype(np.int64 if whole else np.float32) for column in columns], axis=1)

    def strata(self, targets: Sequence[Any]) -> list[str]:
        """Returns the strata of the first task."""
        first = next(iter(self.tasks))
        return self.tasks[first].strata([self._by_name(target)[first] for target in targets])

    def lacking(self, targets: Sequence[Any]) -> str:
        """Returns what the targets of any task lack."""
        each = self._by_task(targets)
        return "; ".join(filter(None, (self.tasks[name].lacking(some) for name, some in each.items())))

    def open_options(self, targets: Sequence[Any]) -> dict[str, Any]:
        """Returns the open options of all tasks that have some, as `{"tasks": {name: options}}`."""
        each = self._by_task(targets)
        found = {name: self.tasks[name].open_options(some) for name, some in each.items()}
        found = {name: options for name, options in found.items() if options}
        return {"tasks": found} if found else {}

    def common_options(self, targets: Sequence[Any]) -> dict[str, Any]:
        """Returns the common options of all tasks that have some, as `{"tasks": {name: options}}`."""
        each = self._by_task(targets)
        found = {name: self.tasks[name].common_options(some) for name, some in each.items()}
        found = {name: options for name, options in found.items() if options}
        return {"tasks": found} if found else {}

    def settled(self, targets: Sequence[Any]) -> "Task":
        """Returns the combination of tasks without open options; this one if none is open."""
        found = {name: self.tasks[name].settled(some) for name, some in self._by_task(targets).items()}
        return self if found == self.tasks else MultiTask(found)

    # ------------------------------------------------------------------------------------------ parts
    def _by_task(self, targets: Sequence[Any]) -> dict[str, list[Any]]:
        """Returns the targets of each task."""
        parts = [self._by_name(target) for target in targets]
        return {name: [part[name] for part in parts] for name in self.tasks}

    def _columns(self) -> list[slice]:
        """Returns where the columns of each task lie in `probabilities`; a task may have more of them than outputs."""
        return _slices([len(task.columns) for task in self.tasks.values()])

    def _parts(self, prediction: Array, target: Array) -> list[tuple[Task, tuple[Array, Array]]]:
        """Returns each task with its part of the prediction (*batch, output) and of the target (*batch, *target)."""
        parts = []
        for task, outputs, numbers in zip(self.tasks.values(), self._outputs, self._numbers, strict=True):
            shape = tuple(target.shape[:-1]) + task.target_shape
            parts.append((task, (prediction[..., outputs], target[..., numbers].reshape(shape))))
        return parts

    def details(
        self, predictions: Float[np.ndarray, "case output"], targets: Num[np.ndarray, "case number"]
    ) -> dict[str, Any]:
        """Returns what each task tells, as "<task>_<name>"."""
        both = zip(self.tasks, self._parts(predictions, targets), strict=True)
        found = {name: task.details(*part) for name, (task, part) in both}
        return {f"{name}_{key}": value for name, told in found.items() for key, value in told.items()}

    def _by_name(self, target: Any) -> Mapping[str, Any]:
        if not isinstance(target, Mapping):
            return dict(zip(self.tasks, target, strict=True))
        if target.keys() != self.tasks.keys():
            raise ValueError(f"expected a target with the parts {list(self.tasks)}, got {list(target)}.")
        return target

    def _prefixed(self, attribute: str) -> tuple[str, ...]:
        return tuple(f"{name}_{one}" for name, task in self.tasks.items() for one in getattr(task, attribute))


def _slices(lengths: Sequence[int]) -> list[slice]:
    ends = np.cumsum(lengths).tolist()
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _main(task: Task) -> str:
    """Returns the metric of a task that is shown where there is room for one only."""
    return "accuracy" if "accuracy" in task.metric_names else task.headline[0]
