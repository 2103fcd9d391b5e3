"""What is to be checked: a folder with everything below it, a CSV, one file, or a list of these."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glimpse.cohort.images import located
from glimpse.cohort.table import (
    CohortError,
    Row,
    Table,
    column_problems,
    parse_row,
    read_table,
    table_problems,
    target_text,
)
from glimpse.errors import EvaluationError, SettingsError, UserError
from glimpse.inspecting.findings import LEAK, TABLE, TARGET, Finding, of_error
from glimpse.inspecting.kinds import check_env, images_below, most_common_env
from glimpse.modalities import OPTION_COLUMNS, find_modality
from glimpse.predicting.inputs import Found, find_items, there, with_ids
from glimpse.settings.building import build
from glimpse.sources import ImageReadError
from glimpse.sources.registry import reader_named
from glimpse.tasks import Task

_TABLES = (".csv", ".tsv")
_OF_A_COHORT = ("case_id", "split")  # columns that a list of images to predict does not have, nor those of targets
_OF_THE_TABLE = ("case_id", "slide_id", "path", "there", "split", "mpp")  # what other problems of a line begin with

Settings = Callable[[str], Mapping[str, Any]]
"""Returns the settings of a training for the environment of a name."""


@dataclass(frozen=True)
class Candidate:
    """One image that is to be looked at.

    Attributes:
        id: the name of the case; several may have the same, which is a finding then.
        path: the file or folder; None where a line of a CSV names none.
        env: the environment that reads it.
        options: options of its source that hold for this image only, such as `mpp`.
        csv: the CSV that lists it, or None.
        line: its line there, or 0.
        patient: its patient; "" if that is not known.
        split: its split; "" if it has none.
        target: its target as the CSV has it.
        mask: its mask, or None.
        findings: what is wrong with its line.
    """

    id: str
    path: Path | None
    env: str
    options: dict[str, Any] = field(default_factory=dict)
    csv: Path | None = None
    line: int = 0
    patient: str = ""
    split: str = ""
    target: str = ""
    mask: Path | None = None
    findings: tuple[Finding, ...] = ()


@dataclass
class Inputs:
    """What was found.

    Attributes:
        cases: the images.
        tables: findings that concern a CSV as a whole, each with the CSV.
        guessed: the environments that nobody has named, but the files.
    """

    cases: list[Candidate] = field(default_factory=list)
    tables: list[tuple[Path, Finding]] = field(default_factory=list)
    guessed: list[str] = field(default_factory=list)


def find_candidates(
    given: Sequence[str | os.PathLike[str]], env: str | None, settings: Settings, without: Path
) -> Inputs:
    """Returns all images that are to be looked at, with what is wrong with their lines in a CSV.

    Args:
        given: folders, CSVs and files.
        env: the environment that reads all of them. None: each file in a folder has that which its content calls for,
            and a CSV that which reads most of its files.
        settings: of a training.
        without: a folder that is left out, since results lie there.

    Raises:
        EvaluationError: something is missing, or there are no images.
        CohortError: a CSV cannot be read, or has no column `path`.
        SettingsError: results would lie among the images.
    """
    if env is not None:
        check_env(env)
    found = Inputs()
    for one in given:
        path = there(one)
        if path.is_dir():
            _check_apart(path, without)
            found.cases += _below(path, env, without)
        elif path.suffix.lower() in _TABLES and not (env and _reader(env).has_suffix(path)):
            _in_csv(path, env, settings, found)
        else:
            found.cases += _with_ids([Found(path, path.name)], env or most_common_env([path]))
    if not found.cases:
        raise EvaluationError(f"input={' '.join(map(str, given))}: there are no images. Give another folder, or a CSV.")
    if env is None:
        found.guessed = sorted({case.env for case in found.cases})
    return found


def _reader(env: str) -> Any:
    modality = find_modality(env)
    return reader_named(modality.reader or modality.name)


def _check_apart(folder: Path, without: Path) -> None:
    if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(without)):
        raise SettingsError(f"output={without}: results would lie among the images of {folder}. Give another folder.")


# ---------------------------------------------------------------------------------------------- folders
def _below(folder: Path, env: str | None, without: Path) -> list[Candidate]:
    if env is not None:
        items = find_items([folder], find_modality(env), without=without)
        return [Candidate(item.id, item.path, env, item.options) for item in items]
    kept = list(images_below(folder, without))
    envs = {one.found.path: one.env for one in kept}
    items = sorted(with_ids([one.found for one in kept]), key=lambda item: item.id)
    return [Candidate(item.id, item.path, envs[item.path], item.options) for item in items]


def _with_ids(found: Sequence[Found], env: str) -> list[Candidate]:
    return [Candidate(item.id, item.path, env, item.options) for item in with_ids(found)]


# ---------------------------------------------------------------------------------------------- CSVs
def _env_of_table(path: Path, table: Table) -> str:
    paths = []
    for row in table.rows:
        try:
            paths.append(located(path, row.cells.get("path", "")))
        except ImageReadError:
            continue  # which is a finding later
    return most_common_env(paths)


def _in_csv(path: Path, env: str | None, settings: Settings, found: Inputs) -> None:
    """Adds the lines of a CSV, and what is wrong with it."""
    table = read_table(path)
    if "path" not in table.columns:
        listed = ". ".join(one[:1].upper() + one[1:] for one in column_problems(table.columns))
        raise CohortError(f"{path}: there is no column path, so there is nothing to check. {listed}.")
    env = env or _env_of_table(path, table)
    task: Task = build(settings(env)["env"]["task"])
    if any(name in table.columns for name in (*_OF_A_COHORT, *task.target_columns)):
        problems = column_problems(table.columns, task.target_columns)
        found.tables += [(path, Finding(TABLE, *_in_two(problem))) for problem in problems]
    for problem in table_problems(table):
        found.tables.append((path, Finding(LEAK if "splits:" in problem else TABLE, *_in_two(problem))))
    found.tables += [(path, finding) for finding in _lacking(table, task)]
    hint = _hint(table, task)
    found.cases += [_candidate(path, row, table, (env, task, hint)) for row in table.rows]


def _candidate(csv: Path, row: Row, table: Table, reading: tuple[str, Task, str]) -> Candidate:
    env, task, hint = reading
    problems: list[str] = []
    values = parse_row(row, table, task, problems)
    findings = [_of_line(problem, hint, len(task.target_columns) > 1) for problem in problems]
    options = dict(values["options"])
    for name in OPTION_COLUMNS:
        if name in find_modality(env).options and row.cells.get(name):
            options[name] = row.cells[name]
    places: dict[str, Path | None] = {}
    for column in ("path", "mask"):
        cell = row.cells.get(column, "")
        places[column] = None
        try:
            places[column] = located(csv, cell) if cell else None
        except UserError as error:
            findings.append(of_error(error, cell))
    name = row.cells.get("slide_id") or (places["path"].stem if places["path"] else f"line {row.line}")
    patient, target, split = row.cells.get("case_id", ""), target_text(row, task), values["split"] or ""
    known = (options, csv, row.line, patient, split, target, places["mask"], tuple(findings))
    return Candidate(name, places["path"], env, *known)


def _lacking(table: Table, task: Task) -> list[Finding]:
    """Returns what the targets of whole splits lack; without a column `split`, those of all cases."""
    parsed = [parse_row(row, table, task, []) for row in table.rows]
    found = []
    for split in dict.fromkeys(values["split"] for values in parsed):
        targets = [values["target"] for values in parsed if values["split"] == split and values["target"] is not None]
        lacks = task.lacking(targets)
        where = f"the split {split!r}" if split else "this CSV"
        found += [Finding(TABLE, f"{where} has {lacks}", "Put other cases into it.")] if lacks else []
    return found


def _of_line(problem: str, hint: str, of_columns: bool) -> Finding:
    """Returns the finding for a problem of a line, which begins with "line 3: ".

    Problems of targets that have several columns say what to do, as those of the table do.
    """
    text = problem.partition(": ")[2]
    if text.split(" ", 1)[0] in _OF_THE_TABLE:
        return Finding(TABLE, *_in_two(text))
    if of_columns:
        return Finding(TARGET, *_in_two(text))
    return Finding(TARGET, text.rstrip("."), "" if text == "target is empty" else hint)


def _in_two(problem: str) -> tuple[str, str]:
    """Parts a problem into what is wrong and what to do, which follows a semicolon."""
    what, _, remedy = problem.partition("; ")
    return what, f"{remedy[:1].upper()}{remedy[1:]}." if remedy else ""


def _hint(table: Table, task: Task) -> str:
    """Returns a remedy for targets that the task cannot read: the setting with which all can be read, or ""."""
    option = task.hint(filter(None, (target_text(row, task) for row in table.rows)))
    return f"Correct the target, or train with {option}, which reads all targets of this CSV." if option else ""
