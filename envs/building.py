"""Helpers for functions that make environments: they turn sizes into views, and choose the cases of a split."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias

from glimpse.cohort import Case, Cohort
from glimpse.geometry import Extent
from glimpse.views import Views

Size: TypeAlias = int | Sequence[int]
Extents: TypeAlias = int | float | str | Sequence[Any]


def build_views(ndim: int, overview_size: Size, glimpse_size: Size, glimpse_extents: Extents) -> Views:
    """Builds views of d-dimensional images.

    Args:
        ndim: Number of axes, d.
        overview_size: Pixels of the overview; one number for all axes, or one per axis.
        glimpse_size: Pixels of a glimpse; one number for all axes, or one per axis.
        glimpse_extents: One field of view, such as 128 or "64um", or a list of several. A field of view with one value
            per axis must be inside a list, such as `[["8mm", "64mm", "64mm"]]`.

    Raises:
        ValueError: A size is not positive, or has another number of axes than the images.
    """
    single = isinstance(glimpse_extents, (Real, str))
    extents = [glimpse_extents] if single else list(glimpse_extents)  # type: ignore[arg-type]
    return Views(
        overview_size=_per_axis("overview_size", overview_size, ndim),
        glimpse_size=_per_axis("glimpse_size", glimpse_size, ndim),
        glimpse_extents=tuple(Extent.parse(extent) for extent in extents),
    )


def cases_of(cohort: Cohort | Sequence[Case], split: str | None) -> Sequence[Case]:
    """Returns the cases of one split, or all cases if `split` is None."""
    if split is None:
        return cohort
    if isinstance(cohort, Cohort):
        return cohort.split(split)
    return [case for case in cohort if case.split == split]


def _per_axis(name: str, size: Size, ndim: int) -> tuple[int, ...]:
    if not isinstance(size, Integral) and (isinstance(size, str) or not isinstance(size, Sequence)):
        raise ValueError(f"Expected {name} as one number, or {ndim} numbers (one per axis), got {size!r}.")
    sizes = (int(size),) * ndim if isinstance(size, Integral) else tuple(int(value) for value in size)
    if len(sizes) != ndim or min(sizes) < 1:
        raise ValueError(f"Expected {name} as one number, or {ndim} numbers (one per axis), above 0; got {size}.")
    return sizes
