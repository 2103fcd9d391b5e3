"""Guesses what a user meant: finds the known name that is nearest to one that does not exist."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name most similar to `name`, or None where none is similar enough."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return found[0] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns " (did you mean '...'?)" with the nearest known name, or an empty text where none is near."""
    meant = nearest(name, known)
    return "" if meant is None else f" (did you mean {meant!r}?)"


def no_such_setting(full_key: str, section: str, known: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """Returns one sentence that a section has no such setting, with the nearest one and all that there are.

    Args:
        full_key: The key with its section, such as "joint.updatez".
        section: The section, such as "joint"; empty for the top level.
        known: The keys of the section.
        elsewhere: Settings of other sections that are called alike; the first of them is what was meant.
    """
    names, alike = sorted(known), next(iter(elsewhere), None)
    meant = (
        f" (did you mean {alike!r}?)"
        if alike
        else suggestion(full_key, (f"{section}.{name}" if section else name for name in names))
    )
    return f"There is no setting {full_key!r}{meant}. {section or 'The top level'} has: {', '.join(names) or 'none'}."


def unknown_message(name: str, known: Iterable[str], where: str, kind: str = "option") -> str:
    """Returns one sentence which says that `where` has nothing called `name`, and what was probably meant.

    Args:
        name: The name that was not found.
        known: All names that exist.
        where: What was searched, such as the name of a class; the sentence begins with it.
        kind: What such a name is called in the sentence, such as "option".
    """
    names = list(known)
    meant = nearest(name, names)
    refusal = f"{where} has no {kind} {name!r}"
    if meant is not None:
        return f"{refusal}; did you mean {meant!r}?"
    return f"{refusal}; there {'is' if len(names) == 1 else 'are'}: {', '.join(names) or 'none'}."
