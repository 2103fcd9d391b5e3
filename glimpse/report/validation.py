"""Reads the validation split with the current policy, at intervals during training."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from glimpse.cohort import Case, Cohort
from glimpse.pictures.episodes import scanpath_picture
from glimpse.ranks.group import first, ranks
from glimpse.reading.readers import PolicyReader
from glimpse.reading.records import Validated
from glimpse.report.comparison import Report, Trained, own_random_numbers
from glimpse.report.tables import summarise, value_of

Validate = Callable[[Sequence[int]], Validated]
_WATCHED = 4  # cases whose scanpaths are drawn at every validation


def validator(trained: Trained, cohort: Cohort, report: Report) -> Validate:
    """Returns a function that reads the validation split with the policy as it is at the time of each call.

    It takes further budgets, with which the cases are read, too: "score" is the mean over these and the budget of the
    report, and there is a "score_with_<budget>" for each. It draws the scanpaths of the same few cases each time, of as
    many targets as possible.

    Args:
        trained: the training that is going on.
        cohort: all cases of the run, of every split.
        report: the settings of the final report; validation reads cases in the same way.
    """
    if not len(cohort.split("val")):
        return lambda budgets: Validated()

    looked = functools.cache(lambda: trained.viewable("val"))

    access = functools.cache(lambda: report.access(trained, looked(), "val"))

    @functools.cache
    def reader(budget: int) -> PolicyReader:
        return replace(report, max_glimpses=budget).own_reader(trained.policy, access())

    def validate(budgets: Sequence[int]) -> Validated:
        if ranks().size == 1:
            return validated(budgets)
        with own_random_numbers(trained.policy.device):  # ranks have different shares
            return validated(budgets)

    def validated(budgets: Sequence[int]) -> Validated:
        cases = looked().cases
        readings = reader(report.max_glimpses).read(cases)
        row = summarise(readings, trained.cases.task, bootstrap=0)
        found = {name: value_of(row, name) for name in ("score", *row)}
        scores = {name: value for name, value in found.items() if value is not None} | {"glimpses": row["glimpses"]}
        if budgets and "score" in scores:
            each: dict[int, float | None] = {report.max_glimpses: scores.pop("score")}
            for budget in sorted({*budgets} - {report.max_glimpses}):
                others = summarise(reader(budget).read(cases), trained.cases.task, bootstrap=0)
                each[budget] = value_of(others, "score")
            defined = {f"score_with_{budget}": score for budget, score in each.items() if score is not None}
            mean = {"score": sum(defined.values()) / len(each)} if len(defined) == len(each) else {}
            scores = mean | defined | scores
        if not first():  # pictures and histograms are shown by the first process
            return Validated(scores)
        shown = watched_of(cases, trained.cases.task.strata([case.target for case in cases]))
        watched = list(reader(report.max_glimpses).each(shown, trace=True))
        gains = np.concatenate([reading.gains for reading in watched])
        spreads = {
            "glimpses_of_a_case": np.array([reading.glimpses for reading in readings], np.float64),
            "share_of_foreground_read": np.array([reading.share_read for reading in readings], np.float64),
            "gain_of_a_glimpse": gains,
        }
        spreads = {name: values for name, values in spreads.items() if len(values)}  # nobody has looked anywhere
        return Validated(scores, {reading.id: scanpath_picture(reading) for reading in watched}, spreads)

    return validate


def watched_of(cases: Sequence[Case], strata: Sequence[str]) -> list[Case]:
    """Returns a few cases, in their order: first one of each target, then others."""
    first = {stratum: number for number, stratum in reversed(list(enumerate(strata)))}
    order = sorted(range(len(cases)), key=lambda number: (first[strata[number]] != number, number))
    return [cases[number] for number in sorted(order[:_WATCHED])]
