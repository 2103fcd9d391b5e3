"""Reads the CSV that lists the cases of a cohort, and checks all of it before training begins."""

import csv
import difflib
import io
import math
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from glimpse.atomic import write_atomically
from glimpse.cohort.marks import read_marks
from glimpse.cohort.splits import SPLITS, stratified_splits
from glimpse.errors import UserError
from glimpse.sources import ImageReadError, ImageSource, RegionReadError, UnsupportedImageError, open_source
from glimpse.sources.base import unopened
from glimpse.sources.tolerant import TolerantSource, unread
from glimpse.tasks import Task

REQUIRED = ("case_id", "slide_id", "path", "target")
OPTIONAL = ("split", "mpp", "mask")
OTHER_NAMES = {"patient": "case_id", "case": "slide_id"}  # columns: other name, usual name
_MANY = 50  # with at most so many cases, no progress bar is shown
_LISTED = 50  # so many problems are listed; the rest are only counted


class CohortError(UserError, ValueError):
    """A cohort cannot be used; the message lists all problems at once."""


@dataclass(frozen=True, eq=False)
class Case:
    """One labelled image.

    Attributes:
        id: name of the case; it is unique in its cohort.
        patient: name of the patient, who may have several cases.
        source: reads the pixels.
        target: the true answer, with which predictions are compared, in the form that the task uses.
        split: "train", "val" or "test"; None where the cases are not split.
        marks: boxes around what matters in the image, as their low and high corners in level-0 pixels, float (mark, 2,
            d). Reports use them to say how often an agent looked there; nothing is learned from them.
    """

    id: str
    patient: str
    source: ImageSource
    target: Any
    split: str | None = None
    marks: Float[np.ndarray, "mark 2 d"] | None = None


class Cohort(Sequence[Case]):
    """Cases, in the order of their CSV.

    Attributes:
        skipped: with ``on_error="skip"``, one message for each case that was left out.
    """

    def __init__(self, cases: Iterable[Case], skipped: Iterable[str] = ()) -> None:
        self._cases = tuple(cases)
        self.skipped = tuple(skipped)

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        task: Task,
        *,
        on_error: str = "raise",
        seed: int = 0,
        fractions: tuple[float, float, float] = (0.6, 0.15, 0.25),
        source_options: Mapping[str, Any] | None = None,
        option_columns: Sequence[str] = (),
        progress: bool = True,
    ) -> "Cohort":
        """Reads and checks a CSV with the columns ``case_id,slide_id,path,target[,split][,mpp][,mask][,...]``.

        ``case_id`` is the patient and ``slide_id`` the case; the columns may be called ``patient`` and ``case``, too.
        Paths are relative to the CSV. A mask shows what matters in an image (see `glimpse.cohort.marks.read_marks`); it
        is used in reports only.

        Args:
            path: path of the CSV.
            task: the task that reads the column ``target``.
            on_error: what to do if an image or mask is missing, damaged or of an unknown kind: "raise" an error, or
                "skip" the case with a warning. With "skip", damaged parts of the other images are shown as background
                (see `glimpse.sources.tolerant`). Mistakes in the CSV itself are always errors.
            seed: seed of the split that is made if the CSV has no column ``split``. It is stratified by target (see
                `Task.strata`) and keeps all cases of a patient together.
            fractions: shares of the patients in train, val and test, for that split.
            source_options: options of `open_source` for all cases.
            option_columns: columns of the CSV that hold such options of single cases, such as ``series``; an empty cell
                leaves the option as it is for all.
            progress: whether to show a bar while files are checked (for more than 50 cases).

        Raises:
            CohortError: something is wrong; the message lists all problems with their lines.
        """
        path = Path(path)
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
        rows, columns = _read_rows(path)
        problems = _column_problems(columns) + _table_problems(rows, columns)
        parsed = [_parse_row(row, columns, task, problems) for row in rows]
        for row, values in zip(rows, parsed, strict=True):
            values["options"] |= {name: row.cells[name] for name in option_columns if row.cells.get(name)}
        opened = _open_sources(path, rows, parsed, source_options or {}, on_error, progress)
        broken = [message for message in opened if isinstance(message, str)]
        good = [
            Case(
                row.cells["slide_id"],
                row.cells["case_id"],
                TolerantSource(one.source, row.cells["slide_id"]) if on_error == "skip" else one.source,
                values["target"],
                values["split"],
                one.marks,
            )
            for row, values, one in zip(rows, parsed, opened, strict=True)
            if not problems and isinstance(one, _Opened)
        ]
        if problems or (broken and (on_error == "raise" or not good)):
            skip = "; on_error=skip (in commands env.cohort.on_error=skip) leaves unreadable images out"
            remedy = skip if broken and on_error == "raise" else ""
            raise _cohort_error(path, problems + broken, remedy)
        for message in broken:
            warnings.warn(f"{path}: skipped {message}", UserWarning, stacklevel=2)
        return cls(good if "split" in columns else _with_splits(path, good, task, fractions, seed), broken)

    @overload
    def __getitem__(self, index: int) -> Case: ...

    @overload
    def __getitem__(self, index: slice) -> "Cohort": ...

    def __getitem__(self, index: int | slice) -> "Case | Cohort":
        return Cohort(self._cases[index], self.skipped) if isinstance(index, slice) else self._cases[index]

    def __len__(self) -> int:
        return len(self._cases)

    def __repr__(self) -> str:
        counts = Counter(case.split for case in self._cases)
        parts = ", ".join(f"{count} {split or 'not split'}" for split, count in counts.items())
        return f"Cohort({len(self)} cases: {parts}; {len(self.skipped)} skipped)"

    def split(self, name: str) -> "Cohort":
        """Returns the cases of one split, "train", "val" or "test"; they share their sources with this cohort.

        Raises:
            ValueError: there is no such split.
        """
        if name not in SPLITS:
            raise ValueError(f"the splits are {', '.join(SPLITS)}, got {name!r}.")
        return Cohort((case for case in self._cases if case.split == name), self.skipped)

    def write_splits(self, path: str | os.PathLike[str]) -> None:
        """Writes a CSV with the columns ``case_id,slide_id,split``, atomically."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("case_id", "slide_id", "split"))
        writer.writerows((case.patient, case.id, case.split or "") for case in self._cases)
        write_atomically(path, text.getvalue())


@dataclass(frozen=True)
class _Row:
    line: int
    cells: dict[str, str]


@dataclass(frozen=True)
class _Opened:
    source: ImageSource
    marks: np.ndarray | None


def _cohort_error(path: Path, problems: Sequence[str], remedy: str = "") -> CohortError:
    listed = "".join(f"\n  - {problem}" for problem in problems[:_LISTED])
    rest = f"\n  ... and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return CohortError(f"{path}: {count} in this cohort{remedy}:{listed}{rest}")


def _read_rows(path: Path) -> tuple[list[_Row], list[str]]:
    if not path.is_file():
        raise CohortError(f"{path}: no such file. Give the path of a CSV with the columns {','.join(REQUIRED)}.")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            columns = _named([column.strip() for column in next(reader, [])])
            rows = [
                _Row(reader.line_num, dict(zip(columns, (cell.strip() for cell in cells), strict=False)))
                for cells in reader
                if any(cell.strip() for cell in cells)
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"{path}: cannot be read as a CSV in UTF-8 ({error}). Save it as 'CSV UTF-8'.") from error
    if not rows and not [column for column in REQUIRED if column not in columns]:
        raise CohortError(f"{path}: the cohort has no cases. Add one line per case below the header.")
    if not columns:
        raise CohortError(f"{path}: the file is empty. A cohort starts with the header {','.join(REQUIRED)}.")
    return rows, columns


def _named(columns: list[str]) -> list[str]:
    """Replaces other names of columns by the usual ones, except where a column is there under both names."""
    return [name if OTHER_NAMES.get(name, name) in columns else OTHER_NAMES[name] for name in columns]


def _column_problems(columns: Sequence[str]) -> list[str]:
    """Returns messages about missing, repeated and probably misspelt columns."""
    problems = [f"line 1: column {name!r} occurs twice" for name, n in Counter(columns).items() if n > 1 and name]
    problems += [
        f"line 1: columns {other!r} and {name!r} mean the same; remove one"
        for other, name in OTHER_NAMES.items()
        if other in columns and name in columns
    ]
    missing = [name for name in (*REQUIRED, *OPTIONAL) if name not in columns]
    suspects: dict[str, str] = {}
    for column in columns:
        if column and column not in (*REQUIRED, *OPTIONAL):
            near = _lookalike(column, missing)
            if near is not None and near not in suspects.values():
                suspects[column] = near
    problems += [f"line 1: column {column!r} looks like {near!r}; rename it" for column, near in suspects.items()]
    problems += [
        f"line 1: column {name!r} is missing; needed are {', '.join(REQUIRED)}"
        for name in missing
        if name in REQUIRED and name not in suspects.values()
    ]
    return problems


_SYNONYMS = {"label": "target", "lable": "target", "labels": "target", "class": "target"}
_SYNONYMS |= {"patient_id": "case_id", "slide": "slide_id", "file": "path", "filename": "path"}


def _lookalike(column: str, names: Sequence[str]) -> str | None:
    """Returns the column among `names` that `column` was probably meant to be, or None."""
    plain = column.lower().replace(" ", "_").replace("-", "_")
    meant = _SYNONYMS.get(plain)
    if meant is not None and meant in names:
        return meant
    matches = difflib.get_close_matches(plain, names, n=1, cutoff=0.8)
    return matches[0] if matches else None


def _parse_row(row: _Row, columns: Sequence[str], task: Task, problems: list[str]) -> dict[str, Any]:
    """Returns the row's target, split and options of the source; appends messages about mistakes to ``problems``."""
    problems += [
        f"line {row.line}: {name} is empty" for name in REQUIRED if name in columns and not row.cells.get(name)
    ]
    values: dict[str, Any] = {"target": None, "split": row.cells.get("split") or None, "options": {}}
    if row.cells.get("target"):
        try:
            values["target"] = task.parse_target(row.cells["target"])
        except ValueError as error:
            problems.append(f"line {row.line}: {error}")
    if values["split"] not in (None, *SPLITS):
        near = difflib.get_close_matches(values["split"].lower(), SPLITS, n=1, cutoff=0.5)
        hint = f"; is {near[0]!r} meant?" if near else ""
        problems.append(f"line {row.line}: split {values['split']!r} is none of {', '.join(SPLITS)}{hint}")
    if row.cells.get("mpp"):
        mpp = _parse_mpp(row, problems)
        values["options"] |= {} if mpp is None else {"mpp": mpp}
    return values


def _parse_mpp(row: _Row, problems: list[str]) -> float | None:
    try:
        value = float(row.cells["mpp"])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        problems.append(
            f"line {row.line}: mpp {row.cells['mpp']!r} must be a positive number of micrometres per pixel, or empty"
        )
        return None
    return value


def _table_problems(rows: Sequence[_Row], columns: Sequence[str]) -> list[str]:
    """Returns messages about repeated slides, patients in two splits, and rows in which the split is empty."""
    slides: dict[str, list[int]] = defaultdict(list)
    splits: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    problems = []
    for row in rows:
        slides[row.cells.get("slide_id", "")].append(row.line)
        if row.cells.get("split") in SPLITS:
            splits[row.cells.get("case_id", "")][row.cells["split"]].append(row.line)
        elif "split" in columns and not row.cells.get("split"):
            problems.append(f"line {row.line}: split is empty; fill it in for every case, or remove the column")
    for slide, lines in slides.items():
        if slide and len(lines) > 1:
            problems.append(f"lines {_join(lines)}: slide_id {slide!r} occurs {len(lines)} times; it must be unique")
    for patient, found in splits.items():
        if patient and len(found) > 1:
            where = ", ".join(f"{name} (line {_join(lines)})" for name, lines in found.items())
            problems.append(f"patient (case_id) {patient!r} is in {len(found)} splits: {where}; put all cases in one")
    return problems


def _join(lines: Sequence[int]) -> str:
    return ", ".join(map(str, lines))


def _open_sources(
    path: Path,
    rows: Sequence[_Row],
    parsed: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    on_error: str,
    progress: bool,
) -> list[_Opened | str | None]:
    """Returns for each row its source and marks, or a message about its files; None if the row names no image."""
    found: list[_Opened | str | None] = []
    for row, values in tqdm(
        zip(rows, parsed, strict=True),
        desc=f"checking {path.name}",
        unit="case",
        total=len(rows),
        disable=not progress or len(rows) <= _MANY,
    ):
        image, given = row.cells.get("path"), {**options, **values["options"]}
        found.append(
            _open_checked(path, row, path.parent / Path(image).expanduser(), given, on_error) if image else None
        )
    return found


def _open_checked(path: Path, row: _Row, image: Path, options: Mapping[str, Any], on_error: str) -> _Opened | str:
    """Opens, checks and closes an image; returns its source and marks, or a message about what is wrong."""
    where = f"line {row.line}, {row.cells.get('slide_id') or 'without slide_id'}"
    try:
        source = open_source(image, **options)
        try:
            source.check()
        except RegionReadError as error:
            if on_error == "raise":
                raise
            unread.add(row.cells["slide_id"], error)  # the rest can be read
        mask = row.cells.get("mask")
        marks = read_marks(path.parent / Path(mask).expanduser(), source) if mask else None
        source.close()
    except (ImageReadError, UnsupportedImageError) as error:
        return f"{where}: {error}"
    except UserError:  # of the machine, not of the image: an extra or room on the disk is missing
        raise
    except OSError as error:
        return f"{where}: {unopened(Path(error.filename or image), error)}"
    except (TypeError, ValueError) as error:
        raise CohortError(f"{path}, {where}: {image} cannot be opened with options {dict(options)}: {error}") from error
    return _Opened(source, marks)


def _with_splits(path: Path, cases: Sequence[Case], task: Task, fractions: Sequence[float], seed: int) -> list[Case]:
    strata = task.strata([case.target for case in cases])
    try:
        names = stratified_splits([case.patient for case in cases], strata, fractions, seed)
    except ValueError as error:
        raise CohortError(f"{path}: {error}") from error
    return [replace(case, split=name) for case, name in zip(cases, names, strict=True)]
