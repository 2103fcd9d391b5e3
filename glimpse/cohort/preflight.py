"""Checks, before training begins, that the sizes of views fit the images of a cohort."""

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from glimpse.cohort import Case, Cohort, CohortError
from glimpse.cohort.proposals import advice
from glimpse.cohort.remembered import Remembered
from glimpse.cohort.skipped import Skipped
from glimpse.cohort.table import cohort_error
from glimpse.errors import UserError
from glimpse.geometry import UNKNOWN_SIZE, CellGrid, Extent, Frame, MissingSpacingError
from glimpse.settings.progress import silent
from glimpse.sources import ImageSource
from glimpse.sources.tolerant import unread
from glimpse.views import LARGER, MISORDERED, Views

SPACING, SIZES = "spacing", "sizes"  # what is asked of images, by which answers are remembered
_SHOWN = 2
_ASKED = 12  # cases of an environment that is stepped
_SETTINGS = (
    "Change env.make.overview_size, env.make.glimpse_size or env.make.glimpse_extents; network.cell for finer cells."
)
_SKIPPED = "Where nobody knows it: env.cohort.on_error=skip leaves such cases out."
_OWN = "Change the environment's overview or its extents; network.cell or network.view_cell for finer cells."
_REVERSED = "Let the environment's extents go from wide to fine, for each zoom less than for the one before it."
_SMALL = "Choose a smaller env.make.glimpse_extents, or leave the case out."


class PreflightError(UserError, ValueError):
    """The sizes that were asked for are impossible on these images."""


def with_known_sizes(cohort: Cohort, make: Mapping[str, Any]) -> Cohort:
    """Returns a cohort without the cases whose pixel size is not known, where fields of view are physical.

    This is for cohorts with `on_error=skip`; a warning names each case, and they are listed when a command ends.

    Args:
        cohort: the cases of all splits; what is none is returned as it is.
        make: the section `env.make` of the settings; its `glimpse_extents` say what sizes are needed.
    """
    wide = _physical(make)
    if not isinstance(cohort, Cohort) or not wide:
        return cohort
    remembered = Remembered((SPACING, _first(cohort)), len(cohort))
    unknown = [case for case in cohort if not _states_spacing(case, remembered)]
    remembered.save()
    if not unknown or len(unknown) == len(cohort):  # where there is nothing left, `check_sizes` says what to do
        return cohort
    messages = []
    for case in unknown:
        message = f"{case.id}: {_unstated(case.source, wide)}."
        messages.append(Skipped(message, case.id, str(case.source.name), MissingSpacingError.__name__))
        warnings.warn(f"skipped {messages[-1]}", UserWarning, stacklevel=2)
        unread.left_out(case.id, "the size of a pixel is not known")
    without = {case.id for case in unknown}
    return Cohort([case for case in cohort if case.id not in without], [*cohort.skipped, *messages], cohort.unsplit)


def with_unknown_sizes(error: CohortError, make: Mapping[str, Any]) -> CohortError:
    """Returns an error that also lists the images whose pixel size is not known, where fields of view are physical.

    Otherwise these would show one training later, after all other mistakes are mended.

    Args:
        error: what is wrong with a cohort.
        make: the section `env.make` of the settings.
    """
    wide, found = _physical(make), error.found
    if not wide or found is None:
        return error
    unknown = [f"{where}: {_unstated(source, wide)}" for where, source in found.opened if not _has_spacing(source)]
    return cohort_error(found.path, [*found.each, *unknown], found.remedy) if unknown else error


def _physical(make: Mapping[str, Any]) -> str:
    """Returns the fields of view of glimpses as a text where one is not in pixels of the file; else ""."""
    given = make.get("glimpse_extents") or ()
    listed = [given] if isinstance(given, str | int | float) else given
    return "" if all(Extent.parse(one).unit == "px" for one in listed) else ", ".join(map(str, listed))


def _unstated(source: ImageSource, wide: str) -> str:
    return (
        f"{source.name}: the file does not state the size of a pixel, and glimpses are {wide} wide. Write the "
        "micrometres per pixel into the column mpp of the cohort, or in training for all slides into env.cohort.mpp"
    )


def _has_spacing(source: ImageSource) -> bool:
    try:
        return source.spacing is not None
    except (UserError, OSError):  # which is said when it is read
        return True


def _first(cases: Sequence[Case]) -> str:
    return first_of([case.source.name for case in cases[:1]])


def first_of(names: Sequence[str]) -> str:
    """Returns the name of the first image, by which what is remembered of a cohort is told from that of others."""
    return str(names[0]) if names else ""


def _states_spacing(case: Case, remembered: Remembered) -> bool:
    key = remembered.key(case.source)
    if remembered.found(key) is None:
        if case.source.spacing is None:
            return False
        remembered.keep(key, "stated")
    return True


def check_sizes(
    cases: Sequence[Case],
    views: Views,
    grid: CellGrid,
    progress: bool = False,
    remedy: str = _SETTINGS,
    view_grid: CellGrid | None = None,
) -> None:
    """Checks that no glimpse is larger than an image, no cell is larger than a glimpse, and spacings are known.

    With the usual remedy, the message proposes sizes that all cases accept (see `glimpse.cohort.proposals`).

    Args:
        cases: the cases of all splits.
        views: the sizes to check.
        grid: the cells of the overview from which a policy chooses.
        progress: whether to show a bar (for more than 50 cases).
        remedy: the sentence that ends the message: what to do.
        view_grid: the cells of wide glimpses, from which it chooses, too, where there are several fields of view.

    Raises:
        PreflightError: some cases do not fit; the message names the first of them and the reasons.
    """
    remembered = Remembered((SIZES, _first(cases), repr(views), repr(grid), repr(view_grid)), len(cases))

    keys = [remembered.key(case.source) for case in cases]
    new = [(case, key) for case, key in zip(cases, keys, strict=True) if remembered.found(key) is None]

    def asked(one: tuple[Case, str | None]) -> list[str]:
        case, key = one
        wrong = views.problems(case.source, grid, view_grid)
        if not wrong:
            remembered.keep(key, "fits")
        return [f"{case.id}: {why}" for why in wrong]

    with ThreadPoolExecutor(4) as pool:
        found = pool.map(asked, new)
        bar = tqdm(found, total=len(new), desc="checking sizes", disable=silent(progress and len(new) > 50))
        problems = [problem for several in bar for problem in several]
    remembered.save()
    if problems:
        _refuse(problems, *_remedies(problems, cases, views, grid, view_grid, remedy))


def check_stepped(cases: Sequence[Case], views: Views, grid: CellGrid, view_grid: CellGrid | None = None) -> None:
    """Checks the same of environments whose pixels are reached by stepping them, on a few cases: each costs a reset.

    Args:
        cases: the cases of such an environment; at most 12 are asked, spread over all of them.
        views: their views.
        grid: the cells of the overview from which a policy chooses.
        view_grid: the cells of wide glimpses, from which it chooses, too, where there are several fields of view.

    Raises:
        PreflightError: some of them have cells coarser than glimpses, or fields of view that do not go from wide to
            fine.
    """
    count = min(len(cases), _ASKED)
    several = [cases[i * (len(cases) - 1) // max(1, count - 1)] for i in range(count)]
    problems = [f"{case.id}: {why}" for case in several for why in views.problems(case.source, grid, view_grid)]
    _refuse(problems, _REVERSED if all(MISORDERED in problem for problem in problems) else _OWN)


def _refuse(problems: Sequence[str], *remedies: str) -> None:
    if problems:
        more = [f"(And {len(problems) - _SHOWN} more.)"] if len(problems) > _SHOWN else []
        raise PreflightError(
            f"The sizes do not fit the images: {' '.join([*problems[:_SHOWN], *more, *filter(None, remedies)])}"
        )


def _remedies(
    problems: Sequence[str],
    cases: Sequence[Case],
    views: Views,
    grid: CellGrid,
    view_grid: CellGrid | None,
    remedy: str,
) -> list[str]:
    """Returns sentences that say what to do: where settings can be changed, what would fit all cases."""
    if all(UNKNOWN_SIZE in problem for problem in problems):  # other sizes would not help
        return [_SKIPPED if remedy == _SETTINGS else ""]
    if remedy != _SETTINGS:
        return [remedy]
    with ThreadPoolExecutor(4) as pool:  # those that were remembered are opened now
        frames = [frame for frame in pool.map(_frame, cases) if frame is not None]
    found = advice(views, frames, grid, view_grid)
    if found and any(MISORDERED in problem for problem in problems):
        return [found]
    small = any(LARGER in problem for problem in problems)
    return [found or (_SMALL if small else ""), remedy]


def _frame(case: Case) -> Frame | None:
    try:
        return case.source.frame
    except (UserError, OSError):
        return None
