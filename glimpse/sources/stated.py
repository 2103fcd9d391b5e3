"""Pixel sizes that users give: they count more than what a file states, and a warning names contradictions."""

import warnings
from collections.abc import Sequence

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


def _sizes(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in (values if len(set(values)) > 1 else values[:1]))
