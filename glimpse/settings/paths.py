"""Makes the paths in settings independent of the working directory, so that a run finds its files again."""

import os
from collections.abc import Mapping
from typing import Any

NAMES = ("path", "root", "folder", "checkpoint")
"""Settings of an environment or a network that are paths of files or folders, wherever they stand in its section."""


def with_whole_paths(section: Any) -> Any:
    """Returns a section in which relative paths, and those that begin with "~", are absolute."""
    if isinstance(section, list):
        return [with_whole_paths(part) for part in section]
    if not isinstance(section, Mapping):
        return section
    return {
        key: os.path.abspath(os.path.expanduser(part))
        if key in NAMES and isinstance(part, str) and part
        else with_whole_paths(part)
        for key, part in section.items()
    }
