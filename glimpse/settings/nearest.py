"""What somebody probably meant: the nearest known name to one that does not exist."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`; None where none of them is much like it."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return found[0] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """A question whether the nearest known name was meant, in brackets; empty where none is near."""
    meant = nearest(name, known)
    return "" if meant is None else f" (did you mean {meant!r}?)"


def unknown_message(name: str, known: Iterable[str], where: str, kind: str = "option") -> str:
    """One sentence that says that `where` has nothing called `name`, and what was probably meant.

    Args:
        name: What was asked for.
        known: The names that there are.
        where: Who was asked, as it stands in front of "has no option".
        kind: What the names are names of.
    """
    names = list(known)
    meant = nearest(name, names)
    refusal = f"{where} has no {kind} {name!r}"
    if meant is not None:
        return f"{refusal}; did you mean {meant!r}?"
    return f"{refusal}; there {'is' if len(names) == 1 else 'are'}: {', '.join(names) or 'none'}."
