"""How many images of each split are drawn."""

from collections.abc import Mapping
from typing import Any

from glimpse.errors import SettingsError
from glimpse.settings.nearest import unknown_message
from glimpse.settings.options import at_least

_NAME = "env.cohort.n"


def numbers_of(given: Any, usual: Mapping[str, int]) -> dict[str, int]:
    """Returns the number of images of each split.

    Args:
        given: numbers by split; the others are the usual ones.
        usual: the number of images of every split where nothing else is said.

    Raises:
        SettingsError: it is no mapping, a split is unknown, or a number is no whole one from 0 on.
    """
    if not isinstance(given, Mapping):
        example = ", ".join(f"{split}: {count}" for split, count in usual.items())
        raise SettingsError(f"Expected {_NAME} as images per split, such as {{{example}}}, got {given!r}.")
    for split, count in given.items():
        if split not in usual:
            raise SettingsError(unknown_message(str(split), usual, _NAME, "split"))
        at_least(f"{_NAME}.{split}", count, 0, whole=True)
    return {split: int(given.get(split, count)) for split, count in usual.items()}
