"""Checks, before training begins, that the sizes of views fit the images of a cohort."""

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from glimpse.cohort import Case, Cohort
from glimpse.cohort.remembered import Remembered
from glimpse.cohort.skipped import Skipped
from glimpse.errors import UserError
from glimpse.geometry import CellGrid, Extent, MissingSpacingError
from glimpse.settings.progress import silent
from glimpse.sources.tolerant import unread
from glimpse.views import Views

SPACING, SIZES = "spacing", "sizes"  # what is asked of images, by which answers are remembered
_SHOWN = 2
_SETTINGS = (
    "Change env.make.overview_size, env.make.glimpse_size or env.make.glimpse_extents; network.cell for finer cells."
)

_WHOLE_SLIDES = "Whole slides up to 32 mm wide: experiment=whole_slides."


class PreflightError(UserError, ValueError):
    """The sizes that were asked for are impossible on these images."""


def with_known_sizes(cohort: Cohort, make: Mapping[str, Any]) -> Cohort:
    """Returns a cohort without the cases whose pixel size is not known, where fields of view are physical.

    This is for cohorts with `on_error=skip`; a warning names each case, and they are listed when a command ends.

    Args:
        cohort: the cases of all splits; what is none is returned as it is.
        make: the section `env.make` of the settings; its `glimpse_extents` say what sizes are needed.
    """
    given = make.get("glimpse_extents") or ()
    listed = [given] if isinstance(given, str | int | float) else given
    if not isinstance(cohort, Cohort) or all(Extent.parse(one).unit == "px" for one in listed):
        return cohort
    remembered = Remembered((SPACING, _first(cohort)), len(cohort))
    unknown = [case for case in cohort if not _states_spacing(case, remembered)]
    remembered.save()
    if not unknown or len(unknown) == len(cohort):  # where there is nothing left, `check_sizes` says what to do
        return cohort
    messages = []
    for case in unknown:
        message = (
            f"{case.id}: {case.source.name}: the file does not state the size of a pixel, and glimpses are "
            f"{', '.join(map(str, listed))} wide. Write the micrometres per pixel into the column mpp of the cohort."
        )
        messages.append(Skipped(message, case.id, str(case.source.name), MissingSpacingError.__name__))
        warnings.warn(f"skipped {messages[-1]}", UserWarning, stacklevel=2)
        unread.left_out(case.id, "the size of a pixel is not known")
    without = {case.id for case in unknown}
    return Cohort([case for case in cohort if case.id not in without], [*cohort.skipped, *messages], cohort.unsplit)


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
        slides = views.ndim == 2 and cases[0].source.frame.unit == "um" and remedy == _SETTINGS
        hint = f" {_WHOLE_SLIDES}" if slides and "coarser than glimpses" in problems[0] else ""
        more = f" (And {len(problems) - _SHOWN} more.)" if len(problems) > _SHOWN else ""
        raise PreflightError(f"The sizes do not fit the images: {' '.join(problems[:_SHOWN])}{more} {remedy}{hint}")
