"""Compares two readers on the same cases: each metric of both, and whether the difference may be chance."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from glimpse.errors import EvaluationError
from glimpse.report.answers import Answers
from glimpse.report.tables import aligned, counted, interval_text, wrapped
from glimpse.tasks import Task, interval, metric_title, resampled_weights

_NAMED = 20  # so many cases are named in a table; JSON has all of them
CAPTION = (
    "Intervals are 95 %, and p-values two-sided, from one bootstrap over patients for both: in each resample, both are "
    "measured on the same cases. p-values are not corrected for the number of metrics."
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
            "high", and "p"; None where it is not defined.
    """

    names: tuple[str, str]
    cases: int
    patients: int
    only: tuple[tuple[str, ...], tuple[str, ...]]
    metrics: dict[str, dict[str, Any]]

    def record(self) -> dict[str, Any]:
        """Returns the comparison as JSON has it."""
        return {
            "names": list(self.names),
            "cases": self.cases,
            "patients": self.patients,
            "only": {name: list(cases) for name, cases in zip(self.names, self.only, strict=True)},
            "metrics": self.metrics,
        }

    @property
    def told(self) -> str:
        """The table, and the cases that were left out."""
        cells = [["metric", *self.names, "difference (95 % interval)", "p"]]
        for name, found in self.metrics.items():
            both = (interval_text(found[one]) for one in ("first", "second"))
            p = "n/a" if found["p"] is None else f"{found['p']:.4f}"
            cells.append([metric_title(name), *both, interval_text(found["difference"], sign="+"), p])
        table = aligned(cells)
        lines = [
            *wrapped(CAPTION, max(80, len(table[1]))),
            "",
            *table,
            "",
            f"Compared: {counted(self.cases, self.patients)}",
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
    ``P(A) = (1 + number of resamples with A) / (1 + number of resamples)`` (Davison and Hinkley 1997, 4.2).

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
    metrics = {name: _difference(both[0][name], both[1][name]) for name in task.metric_names}
    return Comparison(names, len(shared), len(set(one.patients)), (only[0], only[1]), metrics)


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
