"""What can be changed of a run that goes on."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from glimpse.errors import SettingsError
from glimpse.settings.checking import typed_keys

CHANGEABLE = ("joint.updates", "joint.validate_every", "joint.keep", "threads", "device", "progress", "report")
"""Settings that take effect on a resumed run; everything below one of them does, too."""


def resumed(saved: Mapping[str, Any], given: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of a run that goes on: those it had, with what was typed beside `resume`.

    Args:
        saved: the run's settings.
        given: what was composed from the command line.
        overrides: what was typed, `key=value`.

    Raises:
        SettingsError: something was typed that cannot take effect, because what the run has learned depends on it.
    """
    settings = deepcopy(dict(saved))
    for override, key in zip(overrides, typed_keys(overrides), strict=True):
        if key == "resume" or key.startswith("hydra."):
            continue
        if override[0] in "+~" or not any(key == one or key.startswith(f"{one}.") for one in CHANGEABLE):
            raise SettingsError(
                f"{override}: cannot be changed beside resume=, because what the run has learned depends on it. "
                f"These can: {', '.join(CHANGEABLE)}."
            )
        _set(settings, key.split("."), _get(given, key.split(".")))
    return settings


def _get(node: Any, path: Sequence[str]) -> Any:
    for key in path:
        node = node[key]
    return node


def _set(node: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
