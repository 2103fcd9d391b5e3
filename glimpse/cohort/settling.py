"""Options of a task that follow from the training split, such as the intervals of a survival task."""

from collections.abc import Mapping, Sequence
from typing import Any

from glimpse.cohort.manifest import Case, Cohort
from glimpse.cohort.table import CohortError
from glimpse.settings.building import build
from glimpse.tasks import Task


def settled_task(task: Task, cohort: Cohort | Sequence[Case], cases: Sequence[Case]) -> Task:
    """Returns a task without open options (see `Task.open_options`).

    Args:
        task: the task.
        cohort: where its training split says them.
        cases: say them where the cohort has no training split.

    Raises:
        CohortError: they do not follow from these cases.
    """
    learned = cohort.split("train") if isinstance(cohort, Cohort) and not cohort.unsplit else ()
    try:
        return task.settled([case.target for case in learned or cases])
    except ValueError as error:
        raise CohortError(str(error)) from error


def with_settled_task(env: Mapping[str, Any], cohort: Cohort) -> dict[str, Any]:
    """Returns the section `env` of the settings, in which the task has no open options any more.

    Args:
        env: the section, with all interpolations resolved; parts that have the same task get the same options.
        cohort: the cohort of the run.

    Raises:
        CohortError: they do not follow from the training split.
    """
    section = env.get("task")
    if not isinstance(section, Mapping):
        return dict(env)  # an environment of the user's own
    task: Task = build(section)
    try:
        options = task.open_options([case.target for case in cohort.split("train")])
    except ValueError as error:
        path = env["cohort"].get("path")
        raise CohortError(f"{path}: {error}" if path else str(error)) from error
    if not options:
        return dict(env)
    known = _merged(section, options)
    parts = {key: part for key, part in env.items() if isinstance(part, Mapping) and part.get("task") == section}
    return {**env, "task": known, **{key: {**part, "task": known} for key, part in parts.items()}}


def _merged(section: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    inner = {key: _merged(section[key], value) for key, value in options.items() if isinstance(value, Mapping)}
    return {**section, **options, **inner}
