"""Names that do not exist are errors, with the nearest name that does."""

import difflib
from collections.abc import Iterable

from glimpse.errors import SettingsError


def suggestion(name: str, known: Iterable[str]) -> str:
    """A text that asks whether the nearest known name was meant; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuses names that are not known.

    Args:
        given: names that somebody set.
        known: names that can be set.
        what: whose names they are; ends the message.

    Raises:
        SettingsError: a name is unknown; the message names it, the nearest known one, and all others.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise SettingsError(
                f"There is no setting {name!r}{suggestion(name, known)} of {what}; known are: {', '.join(known)}."
            )
