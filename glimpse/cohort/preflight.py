"""What can be refused before any work begins: sizes that do not fit the images of a cohort."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from glimpse.cohort import Case
from glimpse.errors import UserError
from glimpse.views import Views

_SHOWN = 2


class PreflightError(UserError, ValueError):
    """The sizes asked for are impossible on these images."""


def check_sizes(cases: Sequence[Case], views: Views, grid: tuple[int, ...], progress: bool = False) -> None:
    """Checks every case: no glimpse larger than the image, no cells coarser than glimpses, spacing where needed.

    Args:
        cases: of all splits.
        views: the sizes.
        grid: cells of the overview that a policy points at.
        progress: whether to show a bar (for more than 50 cases).

    Raises:
        PreflightError: lists the cases that do not fit, and why.
    """
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda case: [f"{case.id}: {why}" for why in views.problems(case.source, grid)], cases)
        bar = tqdm(found, total=len(cases), desc="checking sizes", disable=not progress or len(cases) <= 50)
        problems = [problem for several in bar for problem in several]
    if problems:
        more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
        raise PreflightError(
            f"{len(problems)} sizes do not fit: {'; '.join(problems[:_SHOWN])}{more}. Change env.make.overview_size, "
            "env.make.glimpse_size or env.make.glimpse_extents."
        )
