"""Reads the CSV of a cohort as a table, whichever program has written it, and finds mistakes in it."""

import csv
import difflib
import io
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glimpse.cohort.parquet import SUFFIXES, ParquetError, parquet_rows
from glimpse.cohort.splits import SPLITS
from glimpse.errors import UserError
from glimpse.sources.base import ImageSource
from glimpse.tasks import Task

REQUIRED = ("case_id", "slide_id", "path", "target")
OPTIONAL = ("split", "mpp", "mask")
OTHER_NAMES = {"patient": "case_id", "case": "slide_id"}  # columns: the name that is taught, the name in tables
_TAUGHT = {name: other for other, name in OTHER_NAMES.items()}
_HEADER = ",".join(_TAUGHT.get(name, name) for name in REQUIRED)
_NO_CASES = "the cohort has no cases; add one line per case below the header"
SEPARATORS = (",", ";", "\t", "|")
_STATED = re.compile(r"""(?i)"?sep=(?P<separator>.)"?[\s,;|]*""")  # a first line that spreadsheets write
_OF_SURVIVAL = ("time", "event")  # columns that hold the target of another task, and its options that rename them
_IDS = ("case_id", "slide_id")  # paths stay as they are: file systems tell two spellings apart
_COLUMNS = 12  # so many columns of a file are named
_LISTED = 50  # so many problems are listed; the rest are only counted
_NUMBERS = 6  # so many lines with the same problem are named
_NUL = "holds characters of code 0, as texts in UTF-16 that do not say so, or damaged files."
_OF_A_LINE = re.compile(r"line (\d+): (.*)", re.DOTALL)
_SYNONYMS = {"label": "target", "lable": "target", "labels": "target", "class": "target"}
_SYNONYMS |= {"patient_id": "case_id", "slide": "slide_id", "file": "path", "filename": "path"}
_KNOWN = {*REQUIRED, *OPTIONAL, *OTHER_NAMES, *_SYNONYMS}


class CohortError(UserError, ValueError):
    """A cohort cannot be used; the message lists all problems at once.

    Attributes:
        found: what the message was made of, where it is about lines; others may add to it.
    """

    found: "Problems | None" = None


@dataclass(frozen=True)
class Problems:
    """What is wrong with the lines of a cohort.

    Attributes:
        path: the CSV.
        each: all problems.
        remedy: what ends the first line of the message.
        opened: the images that could be opened nevertheless, by where they stand.
    """

    path: Path
    each: tuple[str, ...]
    remedy: str = ""
    opened: tuple[tuple[str, ImageSource], ...] = ()


@dataclass(frozen=True)
class Row:
    """One case of the table.

    Attributes:
        line: number of its line in the file, from 1.
        cells: the texts by the name of the column.
        surplus: texts for which there is no column.
    """

    line: int
    cells: dict[str, str]
    surplus: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The line and the case, for messages."""
        return f"line {self.line}, {self.cells.get('slide_id') or 'without slide_id'}"


@dataclass(frozen=True)
class Table:
    """The content of a CSV.

    Attributes:
        rows: its rows, without empty ones.
        columns: names of the columns, by their usual names.
        separator: what stands between the cells of a line.
    """

    rows: list[Row]
    columns: list[str]
    separator: str = ","


def cohort_error(
    path: Path, problems: Sequence[str], remedy: str = "", opened: Iterable[tuple[str, ImageSource]] = ()
) -> CohortError:
    """Returns an error that lists problems, and counts those for which there is no room.

    What is wrong with many lines in the same way is listed once.
    """
    together = _together(problems)
    listed = "".join(f"\n  - {problem}" for problem, _ in together[:_LISTED])
    left = sum(count for _, count in together[_LISTED:])
    rest = f"\n  ... and {left} more" if left else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    error = CohortError(f"{path}: {count} in this cohort{remedy}:{listed}{rest}")
    error.found = Problems(path, tuple(problems), remedy, tuple(opened))
    return error


def _together(problems: Sequence[str]) -> list[tuple[str, int]]:
    """Returns problems with how many each stands for: those that differ in the number of their line only are one."""
    lines: dict[str, list[str]] = {}
    for problem in problems:
        found = _OF_A_LINE.fullmatch(problem)
        lines.setdefault(found[2] if found else problem, []).append(found[1] if found else "")
    made = []
    for text, numbers in lines.items():
        some = ", ".join(numbers[:_NUMBERS]) + (
            f" and {len(numbers) - _NUMBERS} more" if len(numbers) > _NUMBERS else ""
        )
        where = "" if not numbers[0] else f"line{'s' if len(numbers) > 1 else ''} {some}: "
        made.append((where + text, len(numbers)))
    return made


# ---------------------------------------------------------------------------------------------- reading
def read_table(path: Path) -> Table:
    """Reads a CSV whose columns are separated by commas, semicolons, tabs or bars; the header decides which.

    A Parquet file has the same columns.

    Raises:
        CohortError: the file cannot be read, is no CSV, or has not even a header.
        MissingExtraError: it is a Parquet file, and pyarrow is not installed.
    """
    if path.suffix.lower() in SUFFIXES:
        return _of_parquet(path)
    lines = list(io.StringIO(_text(path), newline=""))
    skipped = 0
    while skipped < len(lines) and not lines[skipped].strip():
        skipped += 1
    separator = None
    if skipped < len(lines) and (stated := _STATED.fullmatch(lines[skipped])):
        separator, skipped = stated["separator"], skipped + 1
    if skipped == len(lines):
        raise CohortError(f"{path}: the file is empty. A cohort starts with the header {_HEADER}.")
    separator = separator or _separator(lines[skipped])
    reader = csv.reader(lines[skipped:], delimiter=separator, strict=True)
    try:
        columns = _named([column.strip() for column in next(reader)])
        rows = [_row(reader.line_num + skipped, columns, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise CohortError(
            f"{path}: line {reader.line_num + skipped} cannot be read as a line of a CSV ({error}). Write a cell that "
            'holds a quotation mark as "a ""quoted"" word".'
        ) from error
    return Table(rows, columns, separator)


def _of_parquet(path: Path) -> Table:
    """Reads a Parquet file; its rows have the numbers of the lines that they would have in a CSV."""
    try:
        names, texts = parquet_rows(path)
    except ParquetError as error:
        raise CohortError(str(error)) from error
    columns = _named([name.strip() for name in names])
    for line, cells in enumerate([names, *texts], start=1):
        for name, cell in zip(columns, cells, strict=True):
            if "\0" in cell:
                raise CohortError(f"{path}: line {line}, column {name!r} {_NUL} Correct it, and write the file again.")
    rows = [_row(i + 2, columns, cells) for i, cells in enumerate(texts) if any(map(str.strip, cells))]
    return Table(rows, columns)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CohortError(f"{path}: no such file. Give the path of a CSV with the columns {_HEADER}.") from error
    except IsADirectoryError as error:
        raise CohortError(f"{path}: this is a folder. Give the path of the CSV that lists the images.") from error
    except OSError as error:
        raise CohortError(
            f"{path}: cannot be read ({error.strerror}). Correct the path, or allow this user to read the file."
        ) from error
    utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")  # "Unicode text" of spreadsheets
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise CohortError(f"{path}: cannot be read as a CSV in UTF-8 ({error}). Save it as 'CSV UTF-8'.") from error
    if "\0" in text:
        raise CohortError(f"{path}: {_NUL} Save it as 'CSV UTF-8'.")
    return text


def _separator(header: str) -> str:
    """Returns what separates the columns of a header: that by which most names of columns are known ones."""

    def known(separator: str) -> tuple[int, int]:
        cells = next(csv.reader([header], delimiter=separator), [])
        return sum(_plain(cell) in _KNOWN for cell in cells), len(cells)

    return max(SEPARATORS, key=known)


def _plain(column: str) -> str:
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def _row(line: int, columns: Sequence[str], cells: Sequence[str]) -> Row:
    """Makes a row; names that look alike are spelt alike, since accents may be letters of their own in Unicode."""
    texts = [cell.strip() for cell in cells]
    surplus = tuple(filter(None, texts[len(columns) :]))
    named = dict(zip(columns, texts, strict=False))
    named |= {column: unicodedata.normalize("NFC", named[column]) for column in _IDS if column in named}
    return Row(line, named, surplus)


def _named(columns: list[str]) -> list[str]:
    """Replaces other names of columns by the usual ones, except where a column is there under both names."""
    return [name if OTHER_NAMES.get(name, name) in columns else OTHER_NAMES[name] for name in columns]


# ---------------------------------------------------------------------------------------------- columns
def column_problems(columns: Sequence[str], target_columns: Sequence[str] = ("target",)) -> list[str]:
    """Returns messages about missing, repeated and probably misspelt columns.

    Args:
        columns: the columns of the CSV.
        target_columns: those that hold targets (see `Task.target_columns`).
    """
    required = (*REQUIRED[:-1], *target_columns)
    problems = [f"line 1: column {name!r} occurs twice" for name, n in Counter(columns).items() if n > 1 and name]
    problems += [
        f"line 1: columns {other!r} and {name!r} mean the same; remove one"
        for other, name in OTHER_NAMES.items()
        if other in columns and name in columns
    ]
    missing = [name for name in (*required, *OPTIONAL) if name not in columns]
    suspects: dict[str, tuple[str, str]] = {}
    for column in columns:
        if column and column not in (*required, *OPTIONAL):
            near = _lookalike(column, missing)
            if near is not None and near[0] not in [one for one, _ in suspects.values()]:
                suspects[column] = near
    problems += [f"line 1: column {column!r} looks like {near!r}; rename it" for column, (_, near) in suspects.items()]
    meant = [name for name, _ in suspects.values()]
    lacking = [name for name in missing if name in required and name not in meant]
    if len(columns) == 1 and columns[0] not in required:
        problems.append(f"line 1: the only column is {columns[0]!r}; put commas, semicolons or tabs between columns")
    return [*problems, _lacking(lacking, columns, required)] if lacking else problems


def _lacking(lacking: Sequence[str], columns: Sequence[str], required: Sequence[str]) -> str:
    """Returns the message about all columns that are missing, with those that the file has."""
    names = ", ".join(repr(_TAUGHT.get(name, name)) for name in lacking)
    needed = ", ".join(f"{_TAUGHT[name]} (or {name})" if name in _TAUGHT else name for name in required)
    times = required[len(REQUIRED) - 1 :]
    if "target" in lacking and all(column in columns for column in _OF_SURVIVAL):
        needed += f", or env.task._target_=glimpse.tasks.Survival for {' and '.join(_OF_SURVIVAL)}"
    elif len(times) > 1:
        options = (f"+env.task.{_OF_SURVIVAL[times.index(name)]}=<column>" for name in lacking if name in times)
        needed += "".join(f"; {option} names another one" for option in options)
    hint = ". Where each patient has one image, repeat its name as the patient" if "case_id" in lacking else ""
    several = len(lacking) > 1
    return (
        f"line 1: column{'s' if several else ''} {names} {'are' if several else 'is'} missing; needed are {needed}. "
        f"{_others([name for name in columns if name and name not in (*required, *OPTIONAL)])}{hint}"
    )


def _others(columns: Sequence[str]) -> str:
    """Returns what to do with the columns of a file that mean nothing here: some of them may be those that lack."""
    if not columns:
        return "Add what is missing to the first line"
    some = ", ".join(map(repr, columns[:_COLUMNS]))
    more = f" and {len(columns) - _COLUMNS} more" if len(columns) > _COLUMNS else ""
    return f"Other columns of this file are {some}{more}: rename in the first line those that are meant"


def _lookalike(column: str, names: Sequence[str]) -> tuple[str, str] | None:
    """Returns the column among `names` that `column` was probably meant to be, and how to call it; else None."""
    plain = _plain(column)
    meant = _SYNONYMS.get(plain)
    if meant is not None and meant in names:
        return meant, _TAUGHT.get(meant, meant)
    taught = [other for other, name in OTHER_NAMES.items() if name in names]
    matches = difflib.get_close_matches(plain, [*names, *taught], n=1, cutoff=0.8)
    return (OTHER_NAMES.get(matches[0], matches[0]), matches[0]) if matches else None


# ---------------------------------------------------------------------------------------------- rows
def parse_row(row: Row, table: Table, task: Task, problems: list[str]) -> dict[str, Any]:
    """Returns the row's target, split and options of its source; mistakes are appended to ``problems``."""
    several = len(task.target_columns) > 1
    needed = REQUIRED[:-1] if several else (*REQUIRED[:-1], *task.target_columns)
    problems += [
        f"line {row.line}: {name} is empty" for name in needed if name in table.columns and not row.cells.get(name)
    ]
    if row.surplus:
        problems.append(
            f"line {row.line}: there is no column for {', '.join(map(repr, row.surplus))}; put quotation marks "
            f"around a cell that holds {'a tab' if table.separator == chr(9) else repr(table.separator)}"
        )
    values: dict[str, Any] = {"target": None, "split": row.cells.get("split") or None, "options": {}}
    cells = [row.cells.get(name, "") for name in task.target_columns]
    if all(name in table.columns for name in task.target_columns) and (several or cells[0]):
        try:
            values["target"] = _parse_target(cells, task, table.separator)
        except ValueError as error:
            problems.append(f"line {row.line}: {error}")
    if values["split"] not in (None, *SPLITS):
        near = difflib.get_close_matches(values["split"].lower(), SPLITS, n=1, cutoff=0.5)
        hint = f"; is {near[0]!r} meant?" if near else ""
        problems.append(f"line {row.line}: split {values['split']!r} is none of {', '.join(SPLITS)}{hint}")
    if row.cells.get("mpp"):
        mpp = parse_mpp(row, table.separator, problems)
        values["options"] |= {} if mpp is None else {"mpp": mpp}
    return values


def _parse_target(cells: Sequence[str], task: Task, separator: str) -> Any:
    try:
        return task.parse_cells(cells)
    except ValueError:
        pointed = [_pointed(cell, separator) for cell in cells]
        if pointed != cells:
            return task.parse_cells(pointed)
        raise


def target_text(row: Row, task: Task) -> str:
    """Returns what a row has as its target: its cell, or several with ";" between them; empty if all are."""
    cells = [row.cells.get(name, "") for name in task.target_columns]
    return ";".join(cells) if any(cells) else ""


def parse_mpp(row: Row, separator: str, problems: list[str]) -> float | None:
    """Returns the row's micrometres per pixel; where they are no such number, None, and `problems` says so."""
    try:
        value = float(_pointed(row.cells["mpp"], separator))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        problems.append(
            f"line {row.line}: mpp {row.cells['mpp']!r} must be a positive number of micrometres per pixel, or empty"
        )
        return None
    return value


def _pointed(text: str, separator: str) -> str:
    """Returns a text with points in place of decimal commas, which programs write that separate by semicolons."""
    return re.sub(r"(?<=\d),(?=\d)", ".", text) if separator == ";" else text


def table_problems(table: Table) -> list[str]:
    """Returns messages about a table without rows, repeated slides, patients in two splits, and empty splits."""
    slides: dict[str, list[int]] = defaultdict(list)
    splits: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    problems = [] if table.rows else [_NO_CASES]
    for row in table.rows:
        slides[row.cells.get("slide_id", "")].append(row.line)
        if row.cells.get("split") in SPLITS:
            splits[row.cells.get("case_id", "")][row.cells["split"]].append(row.line)
        elif "split" in table.columns and not row.cells.get("split"):
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
