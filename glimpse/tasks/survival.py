"""The task of predicting when an event comes, where some cases were not seen until then."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Num
from torch import Tensor

from glimpse.tasks.base import Task, divergence, weighted_mean
from glimpse.tasks.concordance import SLACK, kaplan_meier, weighted_brier, weighted_concordance

Array = TypeVar("Array", np.ndarray, Tensor)

_OTHER_COLUMNS = ("case_id", "slide_id", "path", "split", "mpp", "mask", "patient", "case")
_LEAST = 1e-9  # of hazards and probabilities that are read from tables, which have nine digits
_DIGITS = 4  # of edges, which stand in the names of columns
_EVENTS = {"1": 1, "true": 1, "0": 0, "false": 0}
_THIRDS = (1 / 3, 2 / 3)


class Survival(Task):
    """Predicts when an event comes, in discrete time; cases may be censored: last seen before any event.

    Time is divided into K intervals, from one edge to the next; the first begins at 0. Output k is a logit: added to
    the logit of the baseline's hazard b_k, it makes ``h_k = sigmoid(output_k + logit b_k)``, the probability of the
    event in interval k if it did not come before. So an output of 0 is the blind guess, the Kaplan-Meier curve of the
    training split. ``S_k = (1 - h_1) ... (1 - h_k)`` is the probability of no event until edge k.

    A target is a pair (time, event), with event 1 where it was seen at that time, and 0 where the case was last seen
    then. A CSV has a column for each of them.

    In tables stand the columns "risk", which is 1 minus the mean of S_1 to S_K (the higher, the sooner the event is
    expected), and "s_<edge>", S_k at the time of the edge. The metrics are "c_index" (Harrell's concordance index of
    the risk), "brier" (the Brier score of the probabilities, averaged over time up to the last edge; 0 is perfect) and
    the mean "score".

    The loss is that of a single case, as those of all tasks are: rewards are given to one answer to one case. Cox's
    partial likelihood compares a case with all others that were still at risk, so it is neither a loss nor a score of
    one case, and with the few cases of a batch it would be another quantity. Hence there is none.

    What is None follows from the training split when a training or an environment begins, and is kept in the settings
    of a run: edges are then quantiles of the times of events.

    Args:
        time: the column with times from 0 on, in any unit.
        event: the column with events, 1 or 0.
        unit: the unit of times, for titles, such as "months".
        bins: how many intervals are made, where edges are not given; fewer where there are fewer times of events.
        edges: the ends of the intervals, ascending, above 0.
        baseline: the hazard of each interval as a blind guess has it.
        blind: the mean loss of the blind guess in the training split, with which scores are compared.
    """

    metric_names = ("c_index", "brier", "score")
    headline = ("c_index", "brier")
    target_shape = (2,)

    def __init__(
        self,
        time: str = "time",
        event: str = "event",
        unit: str = "",
        bins: int = 8,
        edges: Sequence[float | int] | None = None,
        baseline: Sequence[float | int] | None = None,
        blind: float | int | None = None,
    ) -> None:
        self.target_columns = (str(time).strip(), str(event).strip())
        self.unit, self.bins = str(unit).strip(), _whole(bins)
        self.edges = None if edges is None else _ascending(edges)
        self.baseline = None if baseline is None else tuple(float(one) for one in baseline)
        self.blind = None if blind is None else float(blind)
        if len({*self.target_columns, *_OTHER_COLUMNS}) < 2 + len(_OTHER_COLUMNS) or not all(self.target_columns):
            raise ValueError(
                f"expected two different columns for time and event, none of {', '.join(_OTHER_COLUMNS)}, got "
                f"{time!r} and {event!r}."
            )
        if self.baseline is not None and not (self.edges and len(self.baseline) == len(self.edges)):
            raise ValueError(f"expected one hazard of the baseline for each edge, got {baseline} for edges {edges}.")
        if not all(0 < one < 1 for one in self.baseline or ()):
            raise ValueError(f"expected hazards of the baseline between 0 and 1, got {baseline}.")
        if self.blind is not None and not 0 < self.blind < math.inf:
            raise ValueError(f"expected the loss of a blind guess above 0, got {blind}.")
        self.outputs = len(self.edges or ()) or self.bins
        if self.edges is None:
            self.names = tuple(map(str, range(1, self.bins + 1)))
        else:
            self.names = tuple(f"until_{_plain(edge)}" for edge in self.edges)

    def __repr__(self) -> str:
        return f"Survival({', '.join(self.target_columns)}, edges={self.edges})"

    # ------------------------------------------------------------------------------------------ open options
    def open_options(self, targets: Sequence[Any]) -> dict[str, Any]:
        """Returns edges, baseline and blind, unless they are known.

        Edges are quantiles of the times of events, rounded up to 4 digits; the last one is the latest event. The
        baseline is ``1 - S(edge) / S(edge before)`` with the Kaplan-Meier curve S of the targets, kept from 0 and 1 by
        half a case.

        Raises:
            ValueError: no event was seen after time 0, so that nothing about its time can be learned.
        """
        if None not in (self.edges, self.baseline, self.blind):
            return {}
        given = np.asarray(targets, np.float64).reshape(-1, 2)
        times, events = given[:, 0], given[:, 1] == 1
        if not (events & (times > 0)).any():
            raise ValueError(
                f"no event was seen in the training split: {self._none_seen(len(given))}. Add cases with events, or "
                "put some into the split 'train'."
            )
        edges = self.edges or _quantiles(times[events], self.bins)
        baseline = self.baseline
        if baseline is None:
            curve = kaplan_meier(times, events, np.array([0.0, *np.multiply(edges, SLACK)]))[0]
            curve[0] = 1.0
            hazard = 1.0 - np.divide(curve[1:], curve[:-1], out=np.ones(len(edges)), where=curve[:-1] > 0)
            least = 0.5 / len(given)
            baseline = tuple(round(one, 6) for one in hazard.clip(least, 1 - least).tolist())
        known = Survival(edges=edges, baseline=baseline)
        loss = known._loss(torch.zeros(len(given), len(edges)).double(), torch.from_numpy(given))
        return {"edges": list(edges), "baseline": list(baseline), "blind": round(float(loss.mean()), 6)}

    def common_options(self, targets: Sequence[Any]) -> dict[str, Any]:
        """Returns the edges, unless they are known.

        Raises:
            ValueError: no event was seen after time 0.
        """
        given = np.asarray(targets, np.float64).reshape(-1, 2)
        seen = given[(given[:, 1] == 1) & (given[:, 0] > 0), 0]
        if self.edges is None and not len(seen):
            raise ValueError(f"no event was seen: {self._none_seen(len(given))}. Add cases with events.")
        return {} if self.edges is not None else {"edges": list(_quantiles(seen, self.bins))}

    def _none_seen(self, count: int) -> str:
        time, event = self.target_columns
        return f"{event} is 0 or {time} is 0 in all of its {count} cases, so when it comes cannot be learned"

    def settled(self, targets: Sequence[Any]) -> Task:
        """Returns this task with edges, baseline and blind; itself if they are known."""
        (time, event), found = self.target_columns, self.open_options(targets)
        return Survival(time, event, self.unit, self.bins, **found) if found else self

    def lacking(self, targets: Sequence[Any]) -> str:
        """Says so where no case of a split had its event."""
        if any(event for _, event in targets) or not len(targets):
            return ""
        whose = "its only case" if len(targets) == 1 else f"all of its {len(targets)} cases"
        return f"no event: {self.target_columns[1]} is 0 in {whose}, so it is not known whose event comes first"

    # ------------------------------------------------------------------------------------------ learning
    def loss(
        self, prediction: Float[Tensor, "*batch output"], target: Num[Tensor, "*batch 2"]
    ) -> Float[Tensor, "*batch"]:
        """Returns minus the log-likelihood of what was seen of a case (Gensheimer and Narasimhan 2019).

        An event in interval k has the likelihood ``h_k S_(k-1)``. A case that was last seen in interval k has
        ``(1 - h_k)^f S_(k-1)``, where f is the share of the interval that it was seen: its probability of no event
        until then, with a hazard that is constant in the interval. Gensheimer and Narasimhan round f to 0 or 1. A case
        that was seen for longer than the last edge has ``S_K``, with or without an event later.
        """
        self._check_settled()
        return self._loss(prediction, target)

    def _loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        logits = prediction + _like(self._offsets(), prediction)
        lived, ended = self._seen(target.to(prediction.dtype))
        return (lived * F.softplus(logits) + ended * F.softplus(-logits)).sum(-1)

    def _seen(self, target: Array) -> tuple[Array, Array]:
        """Returns which share of each interval a case was seen without an event, and 1 where it had one; (*batch, K).

        The interval of an event counts as 0 there.
        """
        edges, (time, event) = (0.0, *(self.edges or ())), (target[..., :1], target[..., 1:])
        low, high = _like(edges[:-1], target), _like(edges[1:], target)
        ended = event * (time <= high * SLACK) * ((time > low * SLACK) | (low == 0))
        return ((time - low) / (high - low)).clip(0, 1) * (1 - ended), ended

    def _offsets(self) -> list[float]:
        return [math.log(one / (1 - one)) for one in self.baseline or ()]

    def _check_settled(self) -> None:
        if None in (self.edges, self.baseline, self.blind):
            raise ValueError(
                "the intervals of this Survival are not known yet: call settled(targets) with the targets of the "
                "training split, or give edges, baseline and blind."
            )

    def surprise(
        self, prediction: Float[Tensor, "*batch output"], before: Float[Tensor, "*#batch output"]
    ) -> Float[Tensor, "*batch"]:
        """Returns the divergence of the times of events, by their intervals, from those before, in nats."""
        self._check_settled()
        own, other = (part + _like(self._offsets(), part) for part in (prediction, before))
        lived = F.logsigmoid(-own).cumsum(-1).exp()  # until the end of each interval
        begun = torch.cat([torch.ones_like(lived[..., :1]), lived[..., :-1]], -1)
        return (begun * divergence(own, other)).sum(-1)

    def score(
        self, prediction: Float[np.ndarray, "*batch output"], target: Num[np.ndarray, "*batch 2"]
    ) -> Float[np.ndarray, "*batch"]:
        """Returns ``max(1 - L / B, -1)`` with the loss L, and B the mean loss of the blind guess in training.

        It is 1 if what was seen was certain to the answer, and 0 on average for the Kaplan-Meier curve of the training
        split (or a little more, because no score is below -1).
        """
        self._check_settled()
        assert self.blind is not None
        logits = np.asarray(prediction, np.float64) + self._offsets()
        lived, ended = self._seen(np.asarray(target, np.float64))
        loss = (lived * np.logaddexp(0.0, logits) + ended * np.logaddexp(0.0, -logits)).sum(axis=-1)
        return np.asarray(np.maximum(1.0 - loss / self.blind, -1.0))

    # ------------------------------------------------------------------------------------------ reporting
    def probabilities(self, predictions: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch column"]:
        """Returns the risk and S_1 to S_K, as the class describes them; one column more than outputs."""
        self._check_settled()
        logits = np.asarray(predictions, np.float64) + self._offsets()
        survival = np.exp(-np.logaddexp(0.0, logits).cumsum(axis=-1))
        return np.concatenate([1.0 - survival.mean(axis=-1, keepdims=True), survival], axis=-1)

    def predictions(self, probabilities: Float[np.ndarray, "*batch column"]) -> Float[np.ndarray, "*batch output"]:
        """Returns outputs that have these S_1 to S_K; the risk follows from them."""
        self._check_settled()
        survival = np.asarray(probabilities, np.float64)[..., 1:].clip(_LEAST, 1.0)
        before = np.concatenate([np.ones_like(survival[..., :1]), survival[..., :-1]], axis=-1)
        hazard = (1.0 - survival / before).clip(_LEAST, 1.0 - _LEAST)
        return np.asarray(np.log(hazard) - np.log1p(-hazard) - self._offsets())

    def weighted_metrics(
        self,
        predictions: Float[np.ndarray, "case output"],
        targets: Num[np.ndarray, "case 2"],
        weights: Float[np.ndarray, "resample case"],
    ) -> dict[str, Float[np.ndarray, " resample"]]:
        """Returns concordance index, Brier score and mean score for each weighting; the class describes them."""
        answers, given = self.probabilities(predictions), np.asarray(targets, np.float64)
        times, events = given[:, 0], given[:, 1] == 1
        return {
            "c_index": weighted_concordance(answers[:, 0], times, events, weights),
            "brier": weighted_brier(answers[:, 1:], np.array(self.edges), times, events, weights),
            "score": weighted_mean(self.score(predictions, given), weights),
        }

    @property
    def columns(self) -> tuple[str, ...]:
        """The risk, and the probability of no event until each edge."""
        return ("risk", *(name.replace("until_", "s_") for name in self.names))

    @property
    def pictured(self) -> Sequence[int]:
        """The risk."""
        return range(1)

    def describe(self, prediction: Float[np.ndarray, " output"]) -> str:
        """Returns risk and median, such as "risk 0.62, median 340 days"."""
        return self.answer(self.probabilities(prediction))

    def answer(self, probabilities: Float[np.ndarray, " column"]) -> str:
        """Returns the risk, and the time until which the event comes with a probability of 1 / 2."""
        return f"risk {probabilities[0]:.2f}, median {self._with_unit(self._median(probabilities[1:]))}"

    def _median(self, survival: Float[np.ndarray, " output"]) -> str:
        """Returns when survival falls to 1 / 2, with a constant hazard in each interval; or that it does not."""
        edges, logs = [0.0, *(self.edges or ())], [0.0, *np.log(np.maximum(survival, 1e-300))]
        for k in range(1, len(edges)):
            if logs[k] <= -math.log(2.0):
                share = (-math.log(2.0) - logs[k - 1]) / (logs[k] - logs[k - 1])
                return f"{edges[k - 1] + share * (edges[k] - edges[k - 1]):.4g}"
        return f"> {edges[-1]:.4g}"

    def _with_unit(self, time: str) -> str:
        return f"{time} {self.unit}".strip()

    def describe_target(self, target: Any) -> str:
        """Returns the time of an event, such as "340 days"; "> 340 days" where the case was last seen then."""
        time, event = target
        return self._with_unit(f"{'' if event else '> '}{time:.4g}")

    def caption(self, prediction: Float[np.ndarray, " output"]) -> tuple[str, float]:
        """Returns the risk as a text, and as a bar."""
        risk = float(self.probabilities(prediction)[0])
        return f"risk {risk:.2f}", risk

    # ------------------------------------------------------------------------------------------ targets
    def parse_target(self, text: str) -> tuple[float, int]:
        """Reads a text such as "340;1": the time, and whether it is that of the event."""
        words = str(text).split(";")
        if len(words) != 2:
            raise ValueError(f"target {text!r}: expected '<time>;1' for an event, '<time>;0' where it was not seen")
        return self.parse_cells(words)

    def parse_cells(self, cells: Sequence[str]) -> tuple[float, int]:
        """Reads a finite time from 0 on, and an event: 1 or 0, or true or false."""
        (time, event), (given, seen) = self.target_columns, (str(cell).strip() for cell in cells)
        expected = (
            f"expected {'the time' if not self.unit else self.unit} until the event or until last seen, from 0 on"
        )
        try:
            value = float(given)
        except ValueError:
            value = math.nan
        if not given:
            raise ValueError(f"{time} is empty; {expected}")
        if not math.isfinite(value):
            raise ValueError(f"{time} {given!r} is not a number; {expected}, with a point before decimals")
        if value < 0:
            raise ValueError(f"{time} {given!r} is negative; {expected}")
        known = _EVENTS.get(seen.lower().removesuffix(".0"))
        if known is None:
            told = f"{event} {seen!r} is neither 0 nor 1" if seen else f"{event} is empty"
            raise ValueError(
                f"{told}; write 1 where the event was seen at {time}, and 0 where it was not seen until then"
            )
        return value, known

    def write_target(self, target: Any) -> str:
        """Returns the time and the event, such as "340;1"."""
        return ";".join(self.write_cells(target))

    def write_cells(self, target: Any) -> tuple[str, str]:
        """Returns the time, as precisely as it was given, and the event."""
        time, event = target
        return repr(float(time)).removesuffix(".0"), str(int(event))

    def stack(self, targets: Sequence[Any]) -> Float32[np.ndarray, "case 2"]:
        """Returns times and events as float32."""
        return np.asarray(targets, np.float32).reshape(len(targets), 2)

    def strata(self, targets: Sequence[Any]) -> list[str]:
        """Returns for each target its event, and in which third of the times of its kind it lies, such as "1-0"."""
        given = np.asarray(targets, np.float64).reshape(-1, 2)
        names = np.empty(len(given), object)
        for event in (0, 1):
            times = given[given[:, 1] == event, 0]
            if len(times):
                thirds = np.searchsorted(np.quantile(times, _THIRDS), times)
                names[given[:, 1] == event] = [f"{event}-{third}" for third in thirds]
        return names.tolist()


def _whole(bins: Any) -> int:
    if isinstance(bins, bool) or int(bins) != bins or not 1 <= bins <= 100:
        raise ValueError(f"expected bins as a whole number from 1 to 100, got {bins!r}.")
    return int(bins)


def _like(values: Sequence[float], other: Array) -> Array:
    """Returns numbers as an array or a tensor, as the other one is."""
    if isinstance(other, Tensor):
        return torch.tensor(values, dtype=other.dtype, device=other.device)
    return np.asarray(values, other.dtype)


def _ascending(edges: Sequence[float | int]) -> tuple[float, ...]:
    found = tuple(float(edge) for edge in edges)
    if not found or not all(low < high < math.inf for low, high in zip((0.0, *found), found, strict=False)):
        raise ValueError(f"expected edges as ascending times above 0, such as [12,24,60], got {edges!r}.")
    return found


def _quantiles(times: Float[np.ndarray, " event"], bins: int) -> tuple[float, ...]:
    """Returns the edges of intervals with about equally many events each, rounded up to 4 digits."""
    found = np.quantile(times, np.arange(1, bins + 1) / bins, method="inverted_cdf")
    found = np.unique(found[found > 0])
    scale = 10.0 ** (_DIGITS - 1 - np.floor(np.log10(found)))
    rounded = np.ceil(found * scale * (1 - 1e-7)) / scale  # 12.3 may be a little more as a float32
    return tuple(sorted({float(_plain(edge)) for edge in rounded.tolist()}))


def _plain(edge: float) -> str:
    return f"{edge:.10g}"
