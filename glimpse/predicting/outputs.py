"""The files of each case in an output folder. The record is written last, so a case that has one is complete."""

import io
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glimpse.atomic import made_folder, write_atomically, write_bytes_atomically, write_error
from glimpse.cohort.fingerprints import fingerprint
from glimpse.errors import SettingsError, UserError
from glimpse.pictures.drawing import below
from glimpse.pictures.geojson import OBJECTS, write_geojson
from glimpse.pictures.label_map import label_map
from glimpse.pictures.pages import PAGES, page_record, page_text
from glimpse.predicting.cells import table_text, writable
from glimpse.predicting.claims import Claims
from glimpse.predicting.inputs import Item
from glimpse.predicting.readings import CaseReading
from glimpse.reading.looks import DIGITS

RECORDS, LOOKS, OVERLAYS, GEOJSON, LABELS, FAILURES = "cases", "looks", "overlays", "geojson", "labels", "failures"
_ENDINGS = (
    (LOOKS, ".csv"),
    (OVERLAYS, ".png"),
    (GEOJSON, ".geojson"),
    (GEOJSON, ".geojson.gz"),
    (LABELS, ".nii.gz"),
    (PAGES, ".json"),
    (FAILURES, ".json"),
    (FAILURES, ".png"),
)
PREDICTIONS, FAILED = "predictions.csv", "failures.csv"
WRITTEN = (PREDICTIONS, FAILED, *dict.fromkeys((RECORDS, *(room for room, _ in _ENDINGS))))
"""The tables and folders in an output folder; whatever else they hold would be written over."""

_OF_TRAINING = re.compile(  # remedies that only training has; here the case is left out already
    r",? or leave the case out \(env\.cohort\.on_error=skip\)"
    r"|; env\.cohort\.on_error=skip shows such parts as background"
)
_UNFINISHED = re.compile(r"\.(?P<name>.+)\.(?:csv|png|geojson|geojson\.gz|nii\.gz|json)\.\d+(?:-\d+)?\.unfinished")


@dataclass(frozen=True)
class Form:
    """How results are written.

    Attributes:
        objects: the kind of QuPath's objects, "annotation" or "detection".
        subtract_bounds: whether positions in GeoJSON begin at the bounds that a slide states, as QuPath shows it.
        gzip: whether GeoJSON is compressed; QuPath reads it after `gunzip`.
    """

    objects: str = "annotation"
    subtract_bounds: bool = True
    gzip: bool = False

    def __post_init__(self) -> None:
        if self.objects not in OBJECTS:
            raise SettingsError(f"Expected objects as one of {', '.join(OBJECTS)}, got {self.objects!r}.")
        for name in ("subtract_bounds", "gzip"):
            if not isinstance(getattr(self, name), bool):
                raise SettingsError(f"Expected {name} as true or false, got {getattr(self, name)!r}.")


class Outputs:
    """The output folder, as far as the files of single cases go.

    Args:
        folder: the folder; it is made if it does not exist.
        form: how results are written.
        key: a digest of everything on which results depend besides the image: models, budget and form.
        models: names of the models, which tables and objects have where there are several.

    Raises:
        WriteError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, form: Form, key: str, models: Sequence[str]) -> None:
        self.folder, self.form, self.key, self.models = made_folder(folder), form, key, tuple(models)

    # ------------------------------------------------------------------------------------------ what is there
    def record(self, name: str) -> dict[str, Any] | None:
        """Returns the record of a case that was written with the same key; None if there is none."""
        return self._record(self.folder / RECORDS / f"{name}.json")

    def failure(self, name: str) -> dict[str, Any] | None:
        """Returns what is recorded of a case that failed with the same key; None if nothing is."""
        return self._record(self.folder / FAILURES / f"{name}.json")

    def records(self) -> list[dict[str, Any]]:
        """Returns the records of all cases with this key, sorted by their ids."""
        return self._sorted(RECORDS)

    def failures(self) -> list[dict[str, Any]]:
        """Returns what is recorded of cases that failed, sorted by their ids."""
        return self._sorted(FAILURES)

    def is_done(self, item: Item, name: str) -> bool:
        """Tells whether a case has all of its files, and its image is still the one that was read."""
        record = self.record(name)
        if record is None or record["slide_id"] != writable(item.id) or record["options"] != item.options:
            return False
        if not all((self.folder / file).is_file() for file in record["files"]):
            return False
        try:
            return record["fingerprint"] == fingerprint(item.path)
        except OSError:  # the image is gone, what was read of it stays
            return record["path"] == writable(str(item.path))

    def path_of_another(self, item: Item, name: str) -> str | None:
        """Returns the path of another image, still there, that was read under this name; None if there is none."""
        record = self.record(name)
        if record is None:
            return None
        path = str(record["path"])
        if path == writable(str(item.path)) or not Path(path).exists():
            return None  # the same image, or one that was moved, or that another machine calls otherwise
        try:
            return None if record["fingerprint"] == fingerprint(item.path) else path
        except OSError:
            return path

    def failed_since(self, name: str, moment: float) -> bool:
        """Tells whether a case has failed after a moment, by the clock of the file system."""
        try:
            return (self.folder / FAILURES / f"{name}.json").stat().st_mtime >= moment
        except OSError:
            return False

    def _sorted(self, room: str) -> list[dict[str, Any]]:
        found = [self._record(path) for path in (self.folder / room).glob("[!.]*.json")]
        return sorted((one for one in found if one is not None), key=lambda one: (one["slide_id"], one["file"]))

    def _record(self, path: Path) -> dict[str, Any] | None:
        try:
            record = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and record.get("key") == self.key else None

    # ------------------------------------------------------------------------------------------ a case that was read
    def write(self, item: Item, name: str, readings: Sequence[CaseReading], read: str) -> dict[str, Any]:
        """Writes all files of a case, the record last, and returns the record.

        Args:
            item: what was read.
            name: the name of its files.
            readings: one per model.
            read: the fingerprint of the image when reading began.

        Raises:
            WriteError: a file cannot be written.
        """
        self.clear(name)
        contents = self._contents(name, readings)
        for file, content in contents.items():
            path = self._in_room(file)
            if isinstance(content, bytes):
                write_bytes_atomically(path, content)
            elif isinstance(content, str):
                write_atomically(path, content)
            else:
                write_geojson(path, dict(content))
        record = self._answers(readings) | {
            "slide_id": writable(item.id),
            "path": writable(str(item.path)),
            "file": name,
            "options": item.options,
            "fingerprint": read,
            "files": sorted(contents),
            "key": self.key,
        }
        self._write_json(f"{RECORDS}/{name}.json", record)
        return record

    def _contents(self, name: str, readings: Sequence[CaseReading]) -> dict[str, bytes | str | Mapping[str, Any]]:
        contents: dict[str, bytes | str | Mapping[str, Any]] = {f"{LOOKS}/{name}.csv": self._looks(readings)}
        picture = io.BytesIO()
        below([reading.plot() for reading in readings]).save(picture, "PNG")
        contents[f"{OVERLAYS}/{name}.png"] = picture.getvalue()
        first = readings[0]
        models = self.models if len(readings) > 1 else ("",)
        contents[f"{PAGES}/{name}.json"] = page_text(page_record(readings, first.offset, models))
        if first.scanpath.shape[1] == 2:
            suffix = ".geojson.gz" if self.form.gzip else ".geojson"
            contents[f"{GEOJSON}/{name}{suffix}"] = self._geojson(readings)
        elif first.grid is not None:
            boxes = np.concatenate([reading.boxes for reading in readings])
            zooms = np.concatenate([reading.zooms for reading in readings])
            contents[f"{LABELS}/{name}.nii.gz"] = label_map(boxes, first.grid, zooms.tolist())
        return contents

    def _looks(self, readings: Sequence[CaseReading]) -> str:
        tables = [reading.table() for reading in readings]
        header = tables[0][0]
        if len(readings) == 1:
            return table_text(header, tables[0][1])
        rows = [[model, *row] for model, (_, rows) in zip(self.models, tables, strict=True) for row in rows]
        return table_text(["model", *header], rows)

    def _geojson(self, readings: Sequence[CaseReading]) -> dict[str, Any]:
        names = ["Look"] if len(readings) == 1 else [f"Look {model}" for model in self.models]
        features: list[Any] = []
        for name, reading in zip(names, readings, strict=True):
            features += reading.to_geojson(
                objects=self.form.objects,
                subtract_bounds=self.form.subtract_bounds,
                key=f"{self.key} {name}",
                name=name,
            )["features"]
        return {"type": "FeatureCollection", "features": features}

    def _answers(self, readings: Sequence[CaseReading]) -> dict[str, Any]:
        """Returns what the record tells of the answers: of several models the mean, and the standard deviation."""
        first, task = readings[0], readings[0].traced.task
        each = np.array([list(reading.answer.values()) for reading in readings], np.float64)
        told: dict[str, Any] = {
            "answer": task.answer(each.mean(axis=0)),
            "probabilities": _by_column(task.columns, each.mean(axis=0)),
            "glimpses": sum(reading.glimpses for reading in readings),
            "share_read": round(sum(reading.share_read for reading in readings), DIGITS),
            "spacing": None if first.spacing is None else [round(value, DIGITS) for value in first.spacing],
            "unit": first.unit,
            "glimpse_spacings": [
                [round(value, DIGITS) for value in spacing]
                for reading in readings
                for spacing in reading.glimpse_spacings
            ],
            "scanpaths": [reading.scanpath.astype(np.float64).round(DIGITS).tolist() for reading in readings],
        }
        if len(readings) > 1:
            told["spread"] = _by_column(task.columns, each.std(axis=0))
            told["models"] = {
                model: _by_column(task.columns, row) for model, row in zip(self.models, each, strict=True)
            }
        return told

    # ------------------------------------------------------------------------------------------ a case that failed
    def write_failure(self, item: Item, name: str, error: BaseException, thumbnail: bytes | None) -> dict[str, Any]:
        """Records why a case failed, and returns the record.

        Raises:
            WriteError: a file cannot be written.
        """
        self.clear(name)
        known = isinstance(error, UserError)
        reason = _OF_TRAINING.sub("", " ".join(str(error).split())) or "it says no more"
        picture = None
        if thumbnail is not None:
            picture = f"{FAILURES}/{name}.png"
            write_bytes_atomically(self._in_room(picture), thumbnail)
        record = {
            "slide_id": writable(item.id),
            "path": writable(str(item.path)),
            "file": name,
            "error": type(error).__name__,
            "reason": writable(reason if known else f"{type(error).__name__}: {reason}"),
            "thumbnail": picture,
            "key": self.key,
        }
        self._write_json(f"{FAILURES}/{name}.json", record)
        return record

    # ------------------------------------------------------------------------------------------ files
    def clear(self, name: str) -> None:
        """Removes all files of a case, its record first."""
        self._remove(f"{RECORDS}/{name}.json", *(f"{room}/{name}{ending}" for room, ending in _ENDINGS))

    def sweep(self, claims: Claims) -> None:
        """Removes what processes that were killed have left unfinished, unless a living one has claimed the case."""
        for room in {RECORDS, *(room for room, _ in _ENDINGS)}:
            for path in (self.folder / room).glob(".*.unfinished"):
                found = _UNFINISHED.fullmatch(path.name)
                if found is not None:
                    with claims.taken(found["name"]) as mine, suppress(OSError):
                        if mine:
                            path.unlink(missing_ok=True)

    def _in_room(self, file: str) -> Path:
        path = self.folder / file
        assert path.parent.parent == self.folder, "the name of a case's files leads out of the folder"
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(path.parent, error) from error
        return path

    def _write_json(self, file: str, record: Mapping[str, Any]) -> None:
        write_atomically(self._in_room(file), json.dumps(record, indent=1, sort_keys=True) + "\n")

    def _remove(self, *files: str) -> None:
        for file in files:
            with suppress(OSError):
                (self.folder / file).unlink(missing_ok=True)


def _by_column(columns: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {name: round(float(value), DIGITS) for name, value in zip(columns, values, strict=True)}
