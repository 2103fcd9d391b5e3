"""Checks, before training begins, that the sizes of views fit the images of a cohort."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from glimpse.cohort import Case
from glimpse.errors import UserError
from glimpse.geometry import CellGrid
from glimpse.settings.progress import silent
from glimpse.views import Views

_SHOWN = 2
_SETTINGS = (
    "Change env.make.overview_size, env.make.glimpse_size or env.make.glimpse_extents; network.cell for finer cells."
)


class PreflightError(UserError, ValueError):
    """The sizes that were asked for are impossible on these images."""


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
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(
            lambda case: [f"{case.id}: {why}" for why in views.problems(case.source, grid, view_grid)], cases
        )
        bar = tqdm(found, total=len(cases), desc="checking sizes", disable=silent(progress and len(cases) > 50))
        problems = [problem for several in bar for problem in several]
    if problems:
        more = f" (And {len(problems) - _SHOWN} more.)" if len(problems) > _SHOWN else ""
        raise PreflightError(f"The sizes do not fit the images: {' '.join(problems[:_SHOWN])}{more} {remedy}")
