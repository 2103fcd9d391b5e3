"""Pixel sizes that users give: they count more than what a file states, and a warning names contradictions."""

import math
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

CONTRADICTION = 0.05  # so much may a given size differ from what the file states, as a share of it


def given_instead(
    name: str, given: Sequence[float], stated: Sequence[float] | None, unit: str, option: str
) -> tuple[float, ...]:
    """Returns the given size of a pixel, with a warning if the file states a clearly different one.

    Args:
        name: of the image, for the warning.
        given: the size per axis that the user gave.
        stated: the size per axis that the file states, or None.
        unit: of both.
        option: where the user gave it, such as "mpp".
    """
    if stated is not None and any(
        abs(one - other) > CONTRADICTION * other for one, other in zip(given, stated, strict=True)
    ):
        warnings.warn(
            f"{name}: a pixel is {_sizes(given)} {unit} according to {option}, but {_sizes(stated)} {unit} according "
            f"to the file. {option} counts; remove it if the file is right.",
            UserWarning,
            stacklevel=2,
        )
    return tuple(float(value) for value in given)


def spacing_per_axis(name: str, spacing: Any, ndim: int) -> tuple[float, ...]:
    """Returns a size of pixels that a user gave, one value or one per axis, as one per axis.

    Raises:
        ValueError: it is neither, or not positive.
    """
    values = spacing if isinstance(spacing, Sequence | np.ndarray) and not isinstance(spacing, str) else [spacing]
    if not all(map(_is_length, values)) or len(values) not in (1, ndim):
        raise ValueError(
            f"{name}: expected spacing as one number above 0, or {ndim} of them (one per axis), got {spacing!r}. "
            "Correct env.cohort.spacing, such as env.cohort.spacing=0.5."
        )
    return tuple(float(value) for value in values) * (ndim // len(values))


def checked_mpp(name: str, mpp: Any) -> float | None:
    """Returns the micrometres per pixel that a user gave, if any.

    Raises:
        ValueError: It is no number, or not positive.
    """
    if mpp is None:
        return None
    if not _is_length(mpp):
        raise ValueError(
            f"{name}: expected mpp as one number above 0 (micrometres per pixel), got {mpp!r}. "
            "Correct it: mpp=0.5 in Python, env.cohort.mpp, or the column mpp of the cohort."
        )
    return float(mpp)


def _is_length(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf


def _sizes(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in (values if len(set(values)) > 1 else values[:1]))
