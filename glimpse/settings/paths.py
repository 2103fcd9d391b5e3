"""Checks the paths in settings, and makes them independent of the working directory, so that files are found again."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from glimpse.errors import SettingsError

NAMES = ("path", "root", "folder", "checkpoint", "stage")
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


def folder_for(name: str, given: Any) -> Path:
    """Returns the absolute path of a folder for results.

    Raises:
        SettingsError: what is given is no path. An empty one would be the working folder, which nobody means.
    """
    if not _is_path(given):
        raise SettingsError(f"Expected {name} as the path of a folder, got {given!r}.")
    return Path(os.path.abspath(os.path.expanduser(given)))


def listed_paths(name: str, given: Any) -> list[str | os.PathLike[str]]:
    """Returns one path, or a list of them, as a list.

    Raises:
        SettingsError: what is given is neither, or an empty list.
    """
    several = [given] if isinstance(given, str | os.PathLike) else given
    if not isinstance(several, Sequence) or not several or not all(map(_is_path, several)):
        raise SettingsError(f"Expected {name} as a path or a list of paths, got {given!r}.")
    return list(several)


def _is_path(given: Any) -> bool:
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    return isinstance(text, str) and bool(text) and "\0" not in text
