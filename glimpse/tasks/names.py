"""Names of classes and labels: how they are given, how cells of a CSV are read as one of them, and what to type."""

import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser

from glimpse.settings.quoting import typed_list

_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?")
_QUANTITY = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
_LONGEST = 100  # a text that is longer than this is no name
_SUGGESTED = 20  # with more different texts than this, they are hardly names


def names_of(what: str, given: Any) -> tuple[str, ...]:
    """Returns names from their number, or from a list of texts and numbers: 1 and 1.0 are both called "1".

    Args:
        what: what is named, for messages: "classes" or "labels".
        given: the number of names, or the names in order.

    Raises:
        ValueError: it is neither, or a name is empty, occurs twice, or is no text and no number.
    """
    if isinstance(given, Integral) and not isinstance(given, bool):
        return tuple(map(str, range(int(given))))
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"expected {what} as a number, or as a list of names such as [a,b], got {given!r}.")
    names = tuple(_name(what, one) for one in given)
    if len(set(names)) < len(names):
        raise ValueError(f"expected {what} with different names, got {', '.join(names)}.")
    return names


def _name(what: str, given: Any) -> str:
    if isinstance(given, (bool, np.bool_)) or not isinstance(given, (str, Real)) or not str(given).strip():
        raise ValueError(
            f"expected {what} with texts or numbers as names, got {given!r}. Put quotes around a text that looks so, "
            f'such as \'{what}=["no","true"]\'.'
        )
    if isinstance(given, str) or not float(given).is_integer():
        return unicodedata.normalize("NFC", str(given).strip())
    return str(int(float(given)))


def parse_name(text: str, names: Sequence[str]) -> int | None:
    """Returns the index of the name that a text means, or None if it means none.

    A text means the name that is spelt like it, in any form of Unicode; else the name that is the same number ("1.0" is
    "1"); else, if none of the names is a number, the name with this index, counted from 0.
    """
    text = unicodedata.normalize("NFC", text)
    if text in names:
        return names.index(text)
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    values = [float(name) if _NUMBER.fullmatch(name) else None for name in names]
    if any(value is not None for value in values):
        return values.index(number) if values.count(number) == 1 else None
    return int(number) if number.is_integer() and number < len(names) else None


def numbered(names: Sequence[str]) -> bool:
    """Returns whether the names are just the numbers from 0 on, so that messages need not list them."""
    return tuple(names) == tuple(map(str, range(len(names))))


def expected_names(names: Sequence[str], what: str) -> str:
    """Returns what `parse_name` understands, for messages; `what` is "a class" or "labels"."""
    if numbered(names):
        return f"{what} from 0 to {len(names) - 1}"
    if any(_NUMBER.fullmatch(name) for name in names):
        return f"{what} of {', '.join(names)}"
    return f"{what} from 0 to {len(names) - 1} or one of {', '.join(names)}"


def naming_option(setting: str, texts: Iterable[str], least: int = 1) -> str:
    """Returns the option that names what is in a cohort, to be typed in a shell.

    It is empty if these are too many or too long for names, or if some are numbers and others are not, which looks like
    a mistake.

    Args:
        setting: the option's name, such as "env.task.classes".
        texts: all names in the cohort; several times the same does not matter.
        least: how many different ones are needed.
    """
    words = {unicodedata.normalize("NFC", text.strip()) for text in texts} - {""}
    if any(len(word) > _LONGEST for word in words):
        return ""
    found = {_whole(word) if _NUMBER.fullmatch(word) else word for word in words}
    numbers = all(name.isdecimal() for name in found)
    if not least <= len(found) <= _SUGGESTED or (not numbers and any(_NUMBER.fullmatch(name) for name in found)):
        return ""
    ordered = sorted(found, key=int) if numbers else sorted(found)
    if numbers and int(ordered[-1]) < _SUGGESTED and "0" in found:
        return f"{setting}={int(ordered[-1]) + 1}"
    return typed_list(setting, ordered)


def in_python(options: str) -> str:
    """Returns the argument of Python that says the same as options of `Task.hint`; "" where only settings say it."""
    parser = OverridesParser.create()
    given = [parser.parse_override(word) for word in shlex.split(options)]
    values = {str(one.key_or_group).removeprefix("env.task."): one.value() for one in given}
    kind = str(values.pop("_target_", "")).rpartition(".")[2]
    if not kind and len(values) == 1:
        kind = {"classes": "Classification", "labels": "MultiLabel"}.get(next(iter(values)), "")
        return f"task=glimpse.{kind}({next(iter(values.values()))!r})" if kind else ""
    return f"task=glimpse.{kind}({', '.join(f'{name}={value!r}' for name, value in values.items())})" if kind else ""


def _whole(text: str) -> str:
    return str(int(float(text))) if float(text).is_integer() else text


def quantity_options(texts: Iterable[str]) -> str:
    """Returns what to type for targets that are a quantity, with their mean and standard deviation.

    The text is empty unless all targets are numbers and one of them has a fraction: others may be classes.
    """
    cells = [text.strip().replace(",", ".") for text in texts]
    if not cells or not all(_QUANTITY.fullmatch(cell) and len(cell) <= _LONGEST for cell in cells):
        return ""
    values = np.array(cells, np.float64)
    spread = f"{values.std():.4g}"
    if not (values % 1).any() or float(spread) == 0:
        return ""
    return f"env.task._target_=glimpse.tasks.Regression +env.task.mean={values.mean():.4g} +env.task.spread={spread}"
