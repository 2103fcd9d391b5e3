"""The folder of a demo: new, empty, or marked by a demo as its own, so that no files of others are overwritten."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glimpse.atomic import write_atomically, write_error
from glimpse.errors import EvaluationError, SettingsError

MARKER = "demo.json"
"""The file by which a demo knows its folder; it is written before anything else."""


def take(folder: Path, facts: Mapping[str, Any]) -> None:
    """Makes the folder if it is not there, and marks it as a demo's own.

    Args:
        folder: the folder.
        facts: what the slides in it depend on; a folder of other slides is not taken.

    Raises:
        SettingsError: it is a file.
        EvaluationError: it holds something, and no demo has marked it, or one of another version.
        WriteError: it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"output={folder}: this is a file. Give the path of a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # What another demo writes right now comes after its marker, which is looked for after this.
        others = [name for name in sorted(os.listdir(folder)) if not name.startswith(f".{MARKER}.")]
    except OSError as error:
        raise write_error(folder, error) from error
    marked = _marked(folder / MARKER)
    if marked is None and others:
        raise EvaluationError(
            f"{folder}: this folder is not empty ({others[0]}), and no demo has made it (it has no whole {MARKER}), so "
            "nothing is written there. Give a new or empty folder: glimpse demo output=<folder>."
        )
    if marked is not None and marked != facts:
        raise EvaluationError(
            f"{folder}: another version of glimpse has painted the slides of this demo (its {MARKER} says so). Give "
            "another folder, glimpse demo output=<folder>, or remove this one."
        )
    if marked is None:
        write_atomically(folder / MARKER, json.dumps(facts) + "\n")


def _marked(path: Path) -> Any:
    """Returns what the marker says; None where there is none, or nothing that can be understood."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
