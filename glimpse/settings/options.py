"""Sorts flat keyword options, as users write them, into the small dataclasses that the code passes around.

A user writes `PPO(..., n_epochs=4, ent_coef=0.01)`; inside, `n_epochs` belongs to a record of updates and `ent_coef` to
a record of losses. These records are frozen dataclasses. The names of their fields are the names of the options, and
the defaults of the fields are the only place where defaults are written down.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any, TypeVar, get_type_hints

import numpy as np

from glimpse.errors import SettingsError
from glimpse.settings.kinds import expected, fits
from glimpse.settings.nearest import unknown_message

Record = TypeVar("Record")


def option_names(record: type) -> tuple[str, ...]:
    """Returns the names of a record's options: its fields, and the fields of the records within it."""
    return tuple(name for name, _ in _options(record))


def flat(record: Any) -> dict[str, Any]:
    """Returns the options of a record, and of the records within it, by name: the opposite of `sorted_into`."""
    found: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        found |= flat(value) if is_dataclass(value) else {field.name: value}
    return found


def sorted_into(record: type[Record], options: Mapping[str, Any], where: str, besides: Iterable[str] = ()) -> Record:
    """Makes a record from flat options; what is not given keeps its default.

    Args:
        record: A dataclass. A field whose type is a dataclass too is made from the options named after its fields.
        options: Values by the name of the option.
        where: The class or function that has these options, for error messages.
        besides: Other keywords that `where` takes; a misspelt option may have been meant for one of these.

    Raises:
        SettingsError: An option does not exist, or its value has the wrong type or is refused by the record.
    """
    refuse_unknown(options, option_names(record), where, besides)
    for name, hint in _options(record):
        if name in options and not fits(options[name], hint):
            raise SettingsError(f"Expected {name} of {where} to be {expected(hint)}, got {options[name]!r}.")
    return _made(record, options)


def refuse_unknown(options: Iterable[str], known: Iterable[str], where: str, besides: Iterable[str] = ()) -> None:
    """Raises an error for the first option that is not known; `besides` are other names to suggest in its place.

    Raises:
        SettingsError: An option is not known; the message names it and the nearest known one.
    """
    names = tuple(known)
    for name in options:
        if name in names:
            continue
        if name in besides:
            raise SettingsError(f"{where} takes {name!r}, but not as an option: set it where {where} is made.")
        raise SettingsError(unknown_message(name, (*names, *besides), where))


def _options(record: type) -> Iterator[tuple[str, Any]]:
    """Yields the name and the type of every option of a record."""
    hints = get_type_hints(record)
    for field in fields(record):
        hint = hints[field.name]
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _options(hint)
        else:
            yield field.name, hint


def _made(record: type[Record], options: Mapping[str, Any]) -> Record:
    hints = get_type_hints(record)
    given: dict[str, Any] = {}
    for field in fields(record):  # type: ignore[arg-type]
        hint = hints[field.name]
        if isinstance(hint, type) and is_dataclass(hint):
            given[field.name] = _made(hint, options)
        elif field.name in options:
            value = options[field.name]
            given[field.name] = value.item() if isinstance(value, np.generic) else value
    return record(**given)


def check_later(made: Any) -> Any:
    """Checks the options in a `functools.partial` now, although the object itself is built later.

    Nothing is checked where the class inside has no method `parse_options`.

    Returns:
        The argument itself, so that calls can be chained.

    Raises:
        SettingsError: an option does not exist, or has an impossible value.
    """
    parse = getattr(getattr(made, "func", None), "parse_options", None)
    if parse is not None:
        parse(made.keywords)
    return made


def at_least(name: str, value: Any, least: float, whole: bool = False, most: float = math.inf) -> None:
    """Refuses a setting that is not a finite number (a whole one, if asked for), or is not from `least` to `most`.

    Raises:
        SettingsError: The message names the setting.
    """
    number = not isinstance(value, bool) and isinstance(value, Integral if whole else Real)
    if not number or not least <= float(value) <= most or not math.isfinite(value):
        bound = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        kind = "as a whole number " if whole else ""
        raise SettingsError(f"Expected {name} {kind}{bound}, got {value!r}.")


def above_zero(name: str, value: Any) -> None:
    """Refuses a setting that is not a finite number above 0.

    Raises:
        SettingsError: The message names the setting.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise SettingsError(f"Expected {name} above 0, got {value!r}.")


def check_device(device: Any, here: bool = True) -> str:
    """Refuses a device on which PyTorch cannot compute on this machine, and returns its name.

    Args:
        device: such as "cpu", "cuda" or "cuda:1"; or PyTorch's object.
        here: whether this machine has to have it; if not, only its name is checked.

    Raises:
        SettingsError: The message names the device and the reason.
    """
    import torch  # slow to import, and needed here only

    if not isinstance(device, str | torch.device):
        number = isinstance(device, int) and not isinstance(device, bool) and device >= 0
        meant = f" Did you mean device=cuda:{device}?" if number else ""
        raise SettingsError(f"Expected device as the name of one, such as cpu, cuda or cuda:0, got {device!r}.{meant}")
    try:
        torch.zeros(1, device=device) if here else torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:  # what PyTorch raises if it has no such device
        reason = str(error).splitlines()[0]
        raise SettingsError(f"device={device}: cannot compute there ({reason}). device=cpu always works.") from error
    return str(device)
