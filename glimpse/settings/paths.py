"""Makes the paths in settings independent of the working directory, so that a run finds its files again."""

import os
from collections.abc import Collection, Mapping
from typing import Any

NAMES = ("path", "root", "folder", "checkpoint")
"""Settings of an environment or a network that are paths of files or folders, wherever they stand in its section."""


def with_whole_paths(section: Any, folders: Collection[str] = ()) -> Any:
    """Returns a section in which relative paths, and those that begin with "~", are absolute.

    The settings named `folders` are paths, too, where there is such a folder.
    """
    if isinstance(section, list):
        return [with_whole_paths(part, folders) for part in section]
    if not isinstance(section, Mapping):
        return section
    return {
        key: os.path.abspath(os.path.expanduser(part))
        if isinstance(part, str)
        and part
        and (key in NAMES or (key in folders and os.path.isdir(os.path.expanduser(part))))
        else with_whole_paths(part, folders)
        for key, part in section.items()
    }
