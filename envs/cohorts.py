"""Loads cohorts from their CSVs, each once per process, so that many environments do not check its files many times."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from glimpse.cohort import Cohort, CohortError
from glimpse.cohort.images import located
from glimpse.cohort.table import read_table
from glimpse.sources import ImageReadError
from glimpse.sources.volume.dicom_folder import files_below
from glimpse.tasks import Task

_KEPT = 4  # how many cohorts are kept; the one used longest ago is forgotten first
_PATHS = ("path", "mask")  # columns of a CSV that name files

Stamp = tuple[int, int] | None
"""Time of the last change of a file, and its size; None where there is no such file."""


@dataclass(frozen=True)
class _Loaded:
    """A cohort, its task, and the files it was read from, as they were then."""

    cohort: Cohort
    task: Task
    files: dict[str, Stamp]


_lock = threading.Lock()
_loaded: OrderedDict[Hashable, _Loaded] = OrderedDict()


def loaded_once(path: Path, task: Task, options: Hashable, load: Callable[[], Cohort]) -> Cohort:
    """Returns the cohort of a CSV; it is loaded again only if the CSV or any file that it names has changed.

    Files count as changed if their size or the time of their last change differ.

    Args:
        path: path of the CSV.
        task: the task of the cohort; equal tasks share cohorts.
        options: everything else that the cohort depends on.
        load: loads the cohort.

    Raises:
        CohortError: `load` raises it; nothing is kept then.
    """
    key, files = (str(path.resolve()), options), _files_of(path)
    with _lock:
        known = _loaded.get(key)
        if known is not None and known.task == task and known.files == files:
            _loaded.move_to_end(key)
            return known.cohort
    cohort = load()
    with _lock:
        _loaded[key] = _Loaded(cohort, task, files)
        _loaded.move_to_end(key)
        while len(_loaded) > _KEPT:
            _loaded.popitem(last=False)
    return cohort


def _files_of(path: Path) -> dict[str, Stamp]:
    """Returns the stamps of a CSV and of the images and masks that it lists."""
    found = {str(path): _stamp(path)}
    try:
        cells = {row.cells.get(column, "") for row in read_table(path).rows for column in _PATHS} - {""}
    except CohortError:
        return found  # loading says what is wrong
    for cell in cells:
        with suppress(ImageReadError):  # loading says what is wrong with it
            for file in _with_companions(located(path, cell)):
                found[str(file)] = _stamp(file)
    return found


def _with_companions(file: Path) -> Iterator[Path]:
    """Yields a file; of an image that is a folder, or has one beside it (MRXS), all files in that folder, too."""
    yield file
    folder = file.with_suffix("") if file.suffix.lower() == ".mrxs" else file
    if folder.is_dir():
        yield from files_below(folder)


def _stamp(file: Path) -> Stamp:
    try:
        found = file.stat()
    except (OSError, ValueError):  # no such file, or a text that cannot be a path
        return None
    return found.st_mtime_ns, found.st_size
