"""Reads the validation split with the current policy, at intervals during training."""

import functools
from collections.abc import Callable

import numpy as np

from glimpse.cohort import Cohort
from glimpse.pictures.episodes import scanpath_picture
from glimpse.reading.readers import PolicyReader
from glimpse.report.comparison import Report, Trained
from glimpse.report.tables import summarise, value_of

Validate = Callable[[], tuple[dict[str, float], np.ndarray | None]]


def validator(trained: Trained, cohort: Cohort, report: Report) -> Validate:
    """Returns a function that reads the validation split with the policy as it is at the time of each call.

    That function returns scores by name, and a picture of one scanpath; without validation cases it returns an empty
    dictionary and None.

    Args:
        trained: the training that is going on.
        cohort: all cases of the run, of every split.
        report: the settings of the final report; validation reads cases in the same way.
    """
    if not len(cohort.split("val")):
        return lambda: ({}, None)

    looked = functools.cache(lambda: trained.viewable("val"))

    @functools.cache
    def reader() -> PolicyReader:
        return report.own_reader(trained.policy, report.access(trained, looked(), "val"))

    def validate() -> tuple[dict[str, float], np.ndarray | None]:
        row = summarise(reader().read(looked().cases), trained.cases.task, bootstrap=0)
        found = {name: value_of(row, name) for name in ("score", *row)}
        scores = {name: value for name, value in found.items() if value is not None} | {"glimpses": row["glimpses"]}
        (first,) = reader().read(looked().cases[:1], trace=True)
        return scores, scanpath_picture(first)

    return validate
