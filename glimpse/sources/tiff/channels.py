"""Channels of an image, chosen by name, and which of their values are black and white."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glimpse.settings.nearest import suggestion
from glimpse.sources.base import UnsupportedImageError
from glimpse.sources.windows import LinearWindow

_HELP = (
    "Give env.cohort.windows as 'auto' (percentiles of each channel), [low, high], a list with one of these for each "
    "channel, or by name, such as 'env.cohort.windows={DAPI:[0,4000]}'."
)


def chosen_channels(path: Path, names: Sequence[str], given: Sequence[str | int] | str | int | None) -> list[int]:
    """Returns the indices of the channels that are read: those that are given, else all.

    Args:
        path: the file, for messages.
        names: of the channels that there are.
        given: names, or numbers from 0 on, in the order in which they are read.

    Raises:
        UnsupportedImageError: there is no such channel, several are called so, or one is given twice; the message
            lists those that there are.
    """
    if given is None:
        return list(range(len(names)))
    wanted = [given] if isinstance(given, str | int) else list(given)
    found = [_index(path, names, one) for one in wanted]
    if not found or len(set(found)) < len(found):
        rule = "no channel is chosen" if not found else f"a channel is chosen twice in {wanted}"
        raise UnsupportedImageError(f"{path}: {rule}. Correct env.cohort.channels; {_listed(names)}.")
    return found


def _index(path: Path, names: Sequence[str], one: str | int) -> int:
    text = str(one).strip()
    same = [index for index, name in enumerate(names) if name == text]
    same = same or [index for index, name in enumerate(names) if name.casefold() == text.casefold()]
    if len(same) == 1:
        return same[0]
    if not same and text.isdecimal() and int(text) < len(names):
        return int(text)
    rule = f"{len(same)} of its channels are called {text!r}" if same else f"it has no channel {text!r}"
    raise UnsupportedImageError(
        f"{path}: {rule}{'' if same else suggestion(text, names)}. Choose by name or number with env.cohort.channels; "
        f"{_listed(names)}."
    )


def _listed(names: Sequence[str]) -> str:
    return "there are " + ", ".join(f"{name} ({index})" for index, name in enumerate(names))


def channel_windows(path: Path, names: Sequence[str], given: Any) -> tuple[LinearWindow | None, ...]:
    """Reads the windows of the channels that are read, one for each; None means percentiles.

    Args:
        path: the file, for messages.
        names: of these channels.
        given: None or "auto", [low, high], a list of these, or a mapping from names to these.

    Raises:
        UnsupportedImageError: a name is none of these channels, or a list is not as long as they are.
        ValueError: it is no such window.
    """
    if isinstance(given, Mapping):
        windows: dict[str, LinearWindow | None] = {}
        for name, window in given.items():
            index = _index_among(path, names, str(name))
            windows[names[index]] = _window(window)
        return tuple(windows.get(name) for name in names)
    if given is None or isinstance(given, str) or _is_pair(given):
        return (_window(given),) * len(names)
    if len(given) != len(names):
        raise UnsupportedImageError(
            f"{path}: there are {len(given)} windows, but {len(names)} channels ({', '.join(names)}). {_HELP}"
        )
    return tuple(_window(one) for one in given)


def _index_among(path: Path, names: Sequence[str], name: str) -> int:
    same = [index for index, one in enumerate(names) if one.casefold() == name.strip().casefold()]
    if not same:
        raise UnsupportedImageError(
            f"{path}: env.cohort.windows has a window for {name!r}, which is none of the channels that are read"
            f"{suggestion(name, names)}; these are {', '.join(names)}. Correct the name, or choose the channel with "
            "env.cohort.channels."
        )
    return same[0]


def check_windows(given: Any) -> None:
    """Refuses what cannot be windows of any image.

    Raises:
        ValueError: it is none.
    """
    if isinstance(given, Mapping):
        for one in given.values():
            _window(one)
    elif given is not None and not isinstance(given, str) and isinstance(given, Sequence) and not _is_pair(given):
        for one in given:
            _window(one)
    else:
        _window(given)


def _is_pair(given: Any) -> bool:
    return (
        isinstance(given, Sequence | np.ndarray)
        and not isinstance(given, str)
        and len(given) == 2
        and all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in given)
    )


def _window(given: Any) -> LinearWindow | None:
    if given is None or (isinstance(given, str) and given == "auto"):
        return None
    if _is_pair(given):
        return LinearWindow(float(given[0]), float(given[1]))
    raise ValueError(f"cannot read the window {given!r}. {_HELP}")
