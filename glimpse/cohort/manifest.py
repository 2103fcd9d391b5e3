"""Reads the CSV that lists the cases of a cohort, and checks all of it before training begins."""

import csv
import io
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Float

from glimpse.atomic import write_atomically
from glimpse.cohort.images import Opened, leak, listed_twice, open_images, repetition
from glimpse.cohort.skipped import Skipped
from glimpse.cohort.splits import SPLITS, TooFewPatientsError, joined, stratified_splits
from glimpse.cohort.table import (
    CohortError,
    Row,
    Table,
    cohort_error,
    column_problems,
    parse_row,
    read_table,
    table_problems,
    target_text,
)
from glimpse.sources import ImageSource
from glimpse.sources.tolerant import TolerantSource, unread
from glimpse.tasks import Task
from glimpse.tasks.names import in_python

__all__ = ["Case", "Cohort", "CohortError"]

_SKIP = (
    "; on_error=skip (glimpse train env.cohort.on_error=skip, also beside resume=) leaves unreadable images out, "
    "and so does removing their lines"
)


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
        fingerprint: a text that tells the image from others: the fingerprint of its file (see
            `glimpse.cohort.fingerprints`) and, where it is one of several in the file, which one; empty where the image
            has no file.
    """

    id: str
    patient: str
    source: ImageSource
    target: Any
    split: str | None = None
    marks: Float[np.ndarray, "mark 2 d"] | None = None
    fingerprint: str = ""


class Cohort(Sequence[Case]):
    """Cases, in the order of their CSV.

    Attributes:
        skipped: with ``on_error="skip"``, one message for each case that was left out, with its name and file.
        unsplit: why the cases could not be split; empty where they could.
    """

    def __init__(self, cases: Iterable[Case], skipped: Iterable[str] = (), unsplit: str = "") -> None:
        self._cases = tuple(cases)
        self.skipped = tuple(one if isinstance(one, Skipped) else Skipped(one) for one in skipped)
        self.unsplit = unsplit

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
        progress: bool = False,
    ) -> "Cohort":
        """Reads and checks a CSV with the columns ``case_id,slide_id,path,target[,split][,mpp][,mask][,...]``.

        ``case_id`` is the patient and ``slide_id`` the case; the columns may be called ``patient`` and ``case``, too.
        Columns may be separated by commas, semicolons (numbers may have decimal commas then), tabs or bars. Paths are
        relative to the CSV. An image that is listed in two splits, also as a copy of the file, is an error; within one
        split it is a warning. A mask shows what matters in an image (see `glimpse.cohort.marks.read_marks`); it is used
        in reports only.

        Args:
            path: path of the CSV.
            task: the task that reads the column ``target``, or those of `Task.target_columns` instead.
            on_error: what to do if an image or mask is missing, damaged or of an unknown kind: "raise" an error, or
                "skip" the case with a warning. With "skip", damaged parts of the other images are shown as background
                (see `glimpse.sources.tolerant`). Mistakes in the CSV itself are always errors.
            seed: seed of the split that is made if the CSV has no column ``split``. It is stratified by target (see
                `Task.strata`) and keeps all cases of a patient together.
            fractions: shares of the patients in train, val and test, for that split.
            source_options: options of `open_source` for all cases.
            option_columns: columns of the CSV that hold such options of single cases, such as ``series``; an empty cell
                leaves the option as it is for all.
            progress: whether to show a bar, on a terminal, while files are checked (for more than 50 cases).

        Raises:
            CohortError: something is wrong; the message lists all problems with their lines. Too few patients for a
                split are no error here, but in `split`.
        """
        path = Path(path)
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
        table = read_table(path)
        problems = column_problems(table.columns, task.target_columns) + table_problems(table)
        parsed = [parse_row(row, table, task, problems) for row in table.rows]
        for row, values in zip(table.rows, parsed, strict=True):
            values["options"] |= {name: row.cells[name] for name in option_columns if row.cells.get(name)}
        given, tolerant = [values["options"] for values in parsed], on_error == "skip"
        opened = open_images(path, table.rows, given, source_options or {}, tolerant, progress)
        repeated = listed_twice(table.rows, parsed, opened)
        problems += filter(None, map(leak, repeated))
        broken = [message for message in opened if isinstance(message, str)]
        good = [
            _case(row, values, one, tolerant)
            for row, values, one in zip(table.rows, parsed, opened, strict=True)
            if not problems and isinstance(one, Opened)
        ]
        if problems or (broken and (on_error == "raise" or not good)):
            remedy = _SKIP if broken and on_error == "raise" else ""
            unreadable = [] if problems and tolerant else broken  # those that will be skipped are no problem
            listed = zip(table.rows, opened, strict=True)
            there = [(row.where, one.source) for row, one in listed if isinstance(one, Opened)]
            raise cohort_error(path, [*problems, *unreadable], _naming(table, parsed, task) + remedy, there)
        for row, one in zip(table.rows, opened, strict=True):
            if isinstance(one, str):
                warnings.warn(f"{path}: skipped {one}", UserWarning, stacklevel=2)
                unread.left_out(row.cells["slide_id"])
        if repeated:
            warnings.warn(f"{path}: {repetition(repeated)}", UserWarning, stacklevel=2)
        together = joined([one.patient for one in group] for group in repeated)
        cohort = cls(good, broken)
        if "split" not in table.columns:
            cohort = _split_anew(path, cohort, task, together, fractions, seed)
        _warn_of_lacking(path, cohort, task)
        return cohort

    @overload
    def __getitem__(self, index: int) -> Case: ...

    @overload
    def __getitem__(self, index: slice) -> "Cohort": ...

    def __getitem__(self, index: int | slice) -> "Case | Cohort":
        return self._part(self._cases[index]) if isinstance(index, slice) else self._cases[index]

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
            CohortError: the cases could not be split.
        """
        if name not in SPLITS:
            raise ValueError(f"the splits are {', '.join(SPLITS)}, got {name!r}.")
        if self.unsplit:
            raise CohortError(self.unsplit)
        return self._part(case for case in self._cases if case.split == name)

    def _part(self, cases: Iterable[Case]) -> "Cohort":
        return Cohort(cases, self.skipped, self.unsplit)

    def write_splits(self, path: str | os.PathLike[str]) -> None:
        """Writes a CSV with the columns ``case_id,slide_id,split,fingerprint``, atomically.

        `glimpse.cohort.recorded` reads it again.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("case_id", "slide_id", "split", "fingerprint"))
        for case in self._cases:
            writer.writerow((case.patient, case.id, case.split or "", getattr(case, "fingerprint", "")))
        write_atomically(path, text.getvalue())


def _case(row: Row, values: Mapping[str, Any], opened: Opened, tolerant: bool) -> Case:
    name, patient = row.cells["slide_id"], row.cells["case_id"]
    source = TolerantSource(opened.source, name) if tolerant else opened.source
    return Case(name, patient, source, values["target"], values["split"], opened.marks, opened.key)


def _naming(table: Table, parsed: Sequence[Mapping[str, Any]], task: Task) -> str:
    """Returns the option with which all targets can be read, as part of a message; empty if all can be read."""
    texts = [target_text(row, task) for row in table.rows]
    wrong = any(text and values["target"] is None for text, values in zip(texts, parsed, strict=True))
    option = task.hint(filter(None, texts)) if wrong else ""
    order = " (bring the names into the order you want)" if "[" in option else ""
    python = f", in Python {in_python(option)}" if in_python(option) else ""
    return f"; {option} reads these targets{python}{order}" if option else ""


def _warn_of_lacking(path: Path, cohort: Cohort, task: Task) -> None:
    """Warns of splits to measure on whose targets lack something, so that answers to them cannot be compared."""
    for name in SPLITS[1:]:
        lacks = task.lacking([case.target for case in cohort if case.split == name])
        if lacks:
            warnings.warn(
                f"{path}: the split {name!r} has {lacks}. Put other cases into it.", UserWarning, stacklevel=3
            )


def _split_anew(
    path: Path, cohort: Cohort, task: Task, together: Mapping[str, str], fractions: Sequence[float], seed: int
) -> Cohort:
    """Splits a cohort; patients with the same value in `together` stay together."""
    patients = [together.get(case.patient, case.patient) for case in cohort]
    try:
        names = stratified_splits(patients, task.strata([case.target for case in cohort]), fractions, seed)
    except TooFewPatientsError as error:
        return Cohort(cohort, cohort.skipped, f"{path}: {error}")
    except ValueError as error:
        raise CohortError(f"{path}: {error}") from error
    return Cohort((replace(case, split=name) for case, name in zip(cohort, names, strict=True)), cohort.skipped)
