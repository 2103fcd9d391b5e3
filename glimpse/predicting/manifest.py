"""`manifest.json`: which models, arguments and versions results are of, and when which process worked on them.

Times are nowhere else, so that all other files depend on images and models only.
"""

import hashlib
import json
import os
import platform
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import glimpse
from glimpse.atomic import is_taken, write_atomically
from glimpse.errors import EvaluationError
from glimpse.predicting.outputs import WRITTEN
from glimpse.reading.calibration import CALIBRATION_FILE
from glimpse.runs.loading import CONFIG_FILE, POLICY_FILE

MANIFEST = "manifest.json"
_PACKAGES = ("torch", "numpy", "openslide-python", "openslide-bin", "nibabel", "pydicom", "tifffile", "pillow", "scipy")


def model_facts(run: str | os.PathLike[str]) -> dict[str, str]:
    """Returns where a model lies, and the SHA-256 of its parameters, its settings and its temperatures, if any."""
    folder = Path(run)
    names = (POLICY_FILE, CONFIG_FILE, *([CALIBRATION_FILE] if (folder / CALIBRATION_FILE).exists() else []))
    return {"run": os.path.abspath(folder)} | {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names
    }


def digest_of(facts: Mapping[str, Any]) -> str:
    """Returns a short digest of facts that JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Returns the versions of glimpse, Python and the packages on which results may depend."""
    found = {"glimpse": glimpse.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Manifest:
    """The manifest of an output folder, as one process sees it.

    Args:
        folder: the output folder.
        made: what results depend on: models, budget and form. Where the folder has results of others, it is refused.
        arguments: what was asked for.
        shard: the part of the images that this process has, such as "1/4"; None for all.
    """

    def __init__(
        self, folder: Path, made: Mapping[str, Any], arguments: Mapping[str, Any], shard: str | None = None
    ) -> None:
        self.path, self.made, self.arguments = folder / MANIFEST, dict(made), dict(arguments)
        self._own: dict[str, Any] = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "shard": shard,
            "device": arguments.get("device"),
            "engine": arguments.get("engine"),
            "versions": versions(),
            "started": _now(),
            "ended": None,
        }
        self._began = time.perf_counter()

    def check(self) -> None:
        """Refuses a folder with results that other models or arguments have made, or with files that are none.

        Raises:
            EvaluationError: the message says what differs, or what would be written over.
        """
        before = (self._read() or {}).get("made")
        if not isinstance(before, dict):
            self._check_free()
            return
        if before == self.made:
            return
        names = sorted({*before, *self.made})
        differ = [name for name in names if before.get(name) != self.made.get(name)]
        said = ", ".join(
            "other models" if name == "models" else f"{name}={_typed(before.get(name))}, not {_typed(self.made[name])}"
            for name in differ
            if name in self.made
        )
        raise EvaluationError(
            f"{self.path.parent}: this folder holds predictions that were made otherwise ({said or 'other settings'}). "
            "Choose another output folder, or remove this one."
        )

    def _check_free(self) -> None:
        """Refuses a folder without a manifest that holds what results would be written over."""
        folder = self.path.parent
        for name in (MANIFEST, *WRITTEN):
            path = folder / name
            if is_taken(path):
                what = f"a file {name}" if path.is_file() else f"a folder {name} with files"
                raise EvaluationError(
                    f"{folder}: it has {what}, which is not of glimpse predict (no {MANIFEST} says so) and would be "
                    "written over. Choose another output folder."
                )

    def write(self, records: Sequence[Mapping[str, Any]], failed: int, done: Mapping[str, int]) -> None:
        """Writes the manifest; the caller must have claimed the folder's tables.

        Args:
            records: those of all cases of the folder.
            failed: how many cases of the folder have failed.
            done: what this process has done so far, by name.

        Raises:
            WriteError: it cannot be written.
        """
        before = self._read() or {}
        listed = before.get("processes") if isinstance(before.get("processes"), list) else []
        own = self._own | dict(done)
        own["seconds"] = round(time.perf_counter() - self._began, 3)
        same = ("host", "process", "started")
        others = [one for one in listed or [] if not all(one.get(name) == own[name] for name in same)]
        manifest = {
            "made": self.made,
            "arguments": self.arguments,
            "cases": {"predicted": len(records), "failed": failed},
            "spacings": _spacings(records),
            "processes": [*others, own],
        }
        write_atomically(self.path, json.dumps(manifest, indent=1) + "\n")

    def end(self) -> None:
        """Notes that this process has done its work; `write` writes it down."""
        self._own["ended"] = _now()

    def _read(self) -> dict[str, Any] | None:
        try:
            manifest = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return manifest if isinstance(manifest, dict) else None


def _spacings(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the sizes of pixels that occur, of the image and of the glimpses, and how many cases have each."""
    found = Counter(json.dumps([one["spacing"], one["unit"], one["glimpse_spacings"]]) for one in records)
    names = ("spacing", "unit", "glimpse_spacings")
    return [
        {**dict(zip(names, json.loads(text), strict=True)), "cases": count} for text, count in sorted(found.items())
    ]


def _typed(value: Any) -> str:
    return json.dumps(value)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
