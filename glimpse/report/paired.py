"""Compares two readers on the same cases: each metric of both, and whether the difference may be chance."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from glimpse.errors import EvaluationError
from glimpse.report.answers import Answers
from glimpse.report.tables import FEW_PATIENTS, SPENT, aligned, counted, interval_text, number, wrapped
from glimpse.tasks import Task, interval, metric_title, resampled_weights

_NAMED = 20  # so many cases are named in a table; JSON has all of them
CAPTION = (
    "Intervals are 95 %, and p-values two-sided, from one bootstrap over patients for both: in each resample, both are "
    "measured on the same cases. p-values are not corrected for the number of metrics."
)
_FEW = f"There are no p-values (-): they mean nothing for fewer than {FEW_PATIENTS} patients."
COSTS = {
    "glimpses": ("glimpses", 1.0, 1),
    "share_read": ("% of foreground read", 100.0, 1),
    "seconds_per_case": ("s/case", 1.0, 3),
    **{name: SPENT[name] for name in ("megapixels_per_case", "multiply_adds_per_case")},
}
"""What a case costs: the title of the line, the factor to its unit, and the digits."""
COSTS_CAPTION = (
    "Costs are means over these cases. Mpixel: megapixels of all glimpses. GMAC: billions of multiply-adds of "
    "networks. Seconds are those of the machines on which the two have read."
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two readers on the same cases.

    Attributes:
        names: what they are called.
        cases: how many cases both have answered.
        patients: of how many patients these are.
        only: the cases that only the first, and that only the second has answered; they are left out.
        metrics: of each metric "first", "second" and "difference" (first minus second), each with "value", "low" and
            "high", and "p"; None where it is not defined, and for fewer than `FEW_PATIENTS` patients.
        costs: of each of `COSTS` "first", "second" and "difference", means over the cases in the unit that rows of
            `metrics.json` have; None where a table does not say it of each case.
    """

    names: tuple[str, str]
    cases: int
    patients: int
    only: tuple[tuple[str, ...], tuple[str, ...]]
    metrics: dict[str, dict[str, Any]]
    costs: dict[str, dict[str, float | None]]

    def record(self) -> dict[str, Any]:
        """Returns the comparison as JSON has it."""
        return {
            "names": list(self.names),
            "cases": self.cases,
            "patients": self.patients,
            "only": {name: list(cases) for name, cases in zip(self.names, self.only, strict=True)},
            "metrics": self.metrics,
            "costs": self.costs,
        }

    @property
    def told(self) -> str:
        """The table, and the cases that were left out."""
        few = self.patients < FEW_PATIENTS
        cells = [["metric", *self.names, "difference (95 % interval)", "p"]]
        for name, found in self.metrics.items():
            both = (interval_text(found[one]) for one in ("first", "second"))
            p = "-" if few else "n/a" if found["p"] is None else f"{found['p']:.4f}"
            cells.append([metric_title(name), *both, interval_text(found["difference"], sign="+"), p])
        known = {name: one for name, one in self.costs.items() if (one["first"], one["second"]) != (None, None)}
        cells += [_cost_cells(name, one) for name, one in known.items()]
        table = [line.rstrip() for line in aligned(cells)]
        caption = f"{CAPTION} {COSTS_CAPTION}" if known else CAPTION
        lines = [
            *wrapped(caption, max(80, len(table[1]))),
            "",
            *table,
            "",
            " ".join([f"Compared: {counted(self.cases, self.patients)}", *([_FEW] if few else [])]),
        ]
        for name, cases in zip(self.names, self.only, strict=True):
            if cases:
                more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
                lines.append(f"Left out, since only {name} has answered them: {', '.join(cases[:_NAMED])}{more}.")
        return "\n".join(lines)


def compared(
    first: Answers, second: Answers, task: Task, names: tuple[str, str], *, bootstrap: int = 2000, seed: int = 0
) -> Comparison:
    """Compares two readers on the cases that both have answered, paired by the name of the case.

    The p-value is ``2 min(P(d <= 0), P(d >= 0))``, at most 1, with d the difference in the resamples, and
    ``P(A) = (1 + number of resamples with A) / (1 + number of resamples)`` (Davison and Hinkley 1997, 4.2). Where all
    of a few patients agree, it would be as small as the number of resamples allows; so `FEW_PATIENTS` are needed.

    Args:
        first: the answers of the first reader.
        second: those of the second one.
        task: what was predicted.
        names: what the two are called.
        bootstrap: number of resamples.
        seed: seed of the resampling.

    Raises:
        EvaluationError: no case is common, or a case has other targets or patients; the message names it.
    """
    shared = sorted(set(first.cases) & set(second.cases))
    if not shared:
        raise EvaluationError(
            f"{names[0]} and {names[1]} have no case in common, so they cannot be compared. Take runs with the same "
            "test cases: splits=<splits.csv of the other run>, or the same folds=<folds.csv>."
        )
    only = tuple(tuple(sorted(set(one.cases) - set(shared))) for one in (first, second))
    one, other = first.some(shared), second.some(shared)
    for what, texts in (("target", (one.targets, other.targets)), ("patient", (one.patients, other.patients))):
        unlike = [index for index, pair in enumerate(zip(*texts, strict=True)) if pair[0] != pair[1]]
        if unlike:
            index = unlike[0]
            raise EvaluationError(
                f"{shared[index]} has the {what} {texts[0][index]!r} in {names[0]} and {texts[1][index]!r} in "
                f"{names[1]} (and so {len(unlike)} of {len(shared)} cases in all). Compare runs on the same cohort."
            )
    targets = one.stacked(task)
    weights = np.concatenate([np.ones((1, len(shared))), resampled_weights(one.patients, bootstrap, seed)])
    both = [task.weighted_metrics(answers.predictions, targets, weights) for answers in (one, other)]
    patients = len(set(one.patients))
    metrics = {name: _difference(both[0][name], both[1][name]) for name in task.metric_names}
    if patients < FEW_PATIENTS:
        metrics = {name: found | {"p": None} for name, found in metrics.items()}
    costs = {name: _cost(one, other, name) for name in COSTS}
    return Comparison(names, len(shared), patients, (only[0], only[1]), metrics, costs)


def _cost(first: Answers, second: Answers, name: str) -> dict[str, float | None]:
    """Returns the mean cost of a case of both, and the difference; None where it is not known of each case."""
    both = [float(np.mean(one.costs[name])) if name in one.costs else math.nan for one in (first, second)]
    values = zip(("first", "second", "difference"), (*both, both[0] - both[1]), strict=True)
    return {which: None if math.isnan(value) else value for which, value in values}


def _cost_cells(name: str, found: Mapping[str, float | None]) -> list[str]:
    """Returns the line of a cost, which has no p-value."""
    title, factor, digits = COSTS[name]
    scaled = {which: None if value is None else factor * value for which, value in found.items()}
    first, second = (number(scaled[which], digits) for which in ("first", "second"))
    return [title, first, second, number(scaled["difference"], digits, sign="+"), ""]


def _difference(first: Float[np.ndarray, " resample"], second: Float[np.ndarray, " resample"]) -> dict[str, Any]:
    """Returns what a comparison tells of a metric; the first element is the value, the others are its resamples."""
    apart = first - second
    drawn = apart[1:][~np.isnan(apart[1:])]
    p = None
    if len(drawn) and not np.isnan(apart[0]):
        tails = [(1 + int(found.sum())) / (1 + len(drawn)) for found in (drawn <= 0, drawn >= 0)]
        p = min(1.0, 2 * min(tails))
    entries = zip(("first", "second", "difference"), (first, second, apart), strict=True)
    return {name: interval(values[0], values[1:]).record() for name, values in entries} | {"p": p}
