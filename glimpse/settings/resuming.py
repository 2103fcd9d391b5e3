"""Says which settings may be changed when a run is resumed, and applies them."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from glimpse.errors import SettingsError
from glimpse.settings.checking import typed_keys

CHANGEABLE = (
    "joint.updates", "joint.validate_every", "joint.keep", "threads", "read_threads", "device", "progress",
    "save_seconds", "report", "env.cohort.path", "env.cohort.on_error", "env.cohort.stage",
    "env.cohort.stage_gigabytes", "features_cache",
)  # fmt: skip
"""Settings that may be changed when a run is resumed; a section stands for everything in it.

The path of the cohort is where it lies now: it must have the same images (see `glimpse.cohort.recorded`).
Images that were lost since the run began can be left out with `env.cohort.on_error=skip`.
"""


def resumed(saved: Mapping[str, Any], given: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the settings of a resumed run: its saved ones, changed by what was typed beside `resume`.

    Args:
        saved: the settings that the run was started with.
        given: the configuration that the command line composed; changed values are taken from it.
        overrides: what was typed on the command line, as `key=value`.

    Raises:
        SettingsError: a setting was typed that cannot be changed, because what the run has learned depends on it.
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
        _take(settings, given, key.split("."))
    return settings


def _take(settings: dict[str, Any], given: Mapping[str, Any], path: Sequence[str]) -> None:
    """Takes one setting from what was given; a section that the settings lack is taken whole."""
    first, *rest = path
    if rest and isinstance(settings.get(first), dict):
        _take(settings[first], given[first], rest)
    else:
        settings[first] = given[first]
