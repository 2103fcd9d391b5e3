"""Checks that a setting is of a kind that its target takes, from the type hints in the target's signature.

Hints of numbers, texts, true and false, null, lists, mappings and literals are checked. Everything else is left to the
target, as are sections, from which other objects are built.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from glimpse.errors import SettingsError

_SCALARS: dict[Any, tuple[type, str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a text"),
    NoneType: (NoneType, "null"),
}
_PLURALS: dict[Any, str] = {int: " of whole numbers", float: " of numbers", str: " of texts"}


@cache
def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Returns the type hints of a target's arguments; those whose default is None take None, too."""
    made: Any = target.__init__ if inspect.isclass(target) else target
    try:
        hints = get_type_hints(made)
    except (NameError, TypeError, AttributeError):  # hints may name what only type checkers import
        return {}
    defaults = {one.name: one.default for one in inspect.signature(target).parameters.values()}
    return {name: Union[hint, None] if defaults.get(name, 0) is None else hint for name, hint in hints.items()}  # noqa: UP007


def check_kind(name: str, value: Any, hint: Any) -> None:
    """Refuses a setting whose value is of a kind that its hint does not have.

    Raises:
        SettingsError: the message names the setting, what is expected, and the value.
    """
    if not fits(value, hint):
        raise SettingsError(f"{name}: expected {expected(hint)}, got {value!r}.")


def fits(value: Any, hint: Any) -> bool:
    """Returns whether a value is of a kind that a hint has; true and false are no numbers."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if hint in _SCALARS:
        return isinstance(value, _SCALARS[hint][0]) and (hint is bool or not isinstance(value, bool))
    if _is_list(hint):
        listed = isinstance(value, Sequence) and not isinstance(value, str)  # also lists of OmegaConf
        return listed and all(fits(one, part) for one in value for part in _items(parts))
    if _is_mapping(hint):
        return isinstance(value, Mapping)  # also a section, from which a mapping may be built
    if value is None:  # hints that say nothing of None are those of objects, which must be there
        return hint in (Any, object) or not (hint is Callable or isinstance(hint, type) or origin is not None)
    return True


def _is_list(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return inspect.isclass(kind) and issubclass(kind, Sequence) and not issubclass(kind, str | bytes)


def _is_mapping(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return inspect.isclass(kind) and issubclass(kind, Mapping)


def _items(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns the hint of a list's items, where all of them have the same one."""
    known = tuple(part for part in parts if part is not Ellipsis)
    return known if len(known) == 1 else ()


def expected(hint: Any) -> str:
    """Returns in words what a hint allows, such as "a whole number or null"."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        words = list(dict.fromkeys(expected(part) for part in parts))
        return " or ".join(words)
    if origin is Literal:
        return " or ".join(repr(part) for part in parts)
    if hint in _SCALARS:
        return _SCALARS[hint][1]
    if _is_list(hint):
        (item,) = _items(parts) or (Any,)
        return f"a list{_PLURALS.get(item, '')}"
    return "a mapping" if _is_mapping(hint) else "a section"
