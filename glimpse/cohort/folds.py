"""The folds of a cross-validation, and the file that holds them, so that others can use the same."""

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glimpse.atomic import write_atomically
from glimpse.cohort.manifest import Cohort, CohortError
from glimpse.cohort.recorded import in_splits
from glimpse.cohort.splits import SPLITS, folds, joined, stratified_splits
from glimpse.errors import SettingsError
from glimpse.tasks import Task

FOLDS_FILE = "folds.csv"
_FOLD = "fold_{}"  # the column with the splits of a fold


@dataclass(frozen=True)
class Folds:
    """In which fold each case of a cohort is a test case, and its split in each of the others.

    Attributes:
        of: the number of the fold, from 1, in which each case is a test case, in the order of the cohort.
        splits: of each fold, the split of each case: "train", "val" or "test".
    """

    of: tuple[int, ...]
    splits: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.splits)

    def cohort(self, cohort: Cohort, fold: int) -> Cohort:
        """Returns a cohort with the splits of a fold, which is counted from 1."""
        return in_splits(cohort, self.splits[fold - 1])

    def text(self, cohort: Cohort) -> str:
        """Returns the file: ``case_id,slide_id,fold,fold_1,...,fingerprint``, with the split of each fold."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = [_FOLD.format(number) for number in range(1, len(self) + 1)]
        writer.writerow(["case_id", "slide_id", "fold", *columns, "fingerprint"])
        for case, of, *splits in zip(cohort, self.of, *self.splits, strict=True):
            writer.writerow([case.patient, case.id, of, *splits, getattr(case, "fingerprint", "")])
        return text.getvalue()

    def write(self, path: str | os.PathLike[str], cohort: Cohort) -> None:
        """Writes the file, atomically."""
        write_atomically(path, self.text(cohort))


def make_folds(cohort: Cohort, task: Task, count: int, validation: float, seed: int) -> Folds:
    """Divides a cohort into folds of about equally many patients, stratified by target (see `Task.strata`).

    All cases of a patient, and of patients with the same image, are in one fold. Splits of the cohort do not matter.

    Args:
        cohort: the cases.
        task: the task of their targets.
        count: number of folds.
        validation: the share of the patients outside a fold who are validated on; the others are learned from.
        seed: seed of both divisions.

    Raises:
        SettingsError: there are fewer patients than folds.
    """
    patients = _together(cohort)
    if len(set(patients)) < count:
        raise SettingsError(
            f"folds={count}: this cohort has {len(set(patients))} patients only. Take fewer folds, or add cases."
        )
    strata = task.strata([case.target for case in cohort])
    of = [0] * len(cohort)
    for number, part in enumerate(folds(patients, strata, count, seed), 1):
        for index in part:
            of[index] = number
    return _with_validation(of, patients, strata, count, validation, seed)


def read_folds(path: str | os.PathLike[str], cohort: Cohort, task: Task, validation: float, seed: int) -> Folds:
    """Reads folds from a file with the columns ``slide_id,fold``, and perhaps ``fold_1,fold_2,...`` with splits.

    Without these, validation cases are chosen as in `make_folds`. Cases that the cohort lacks do not matter.

    Raises:
        CohortError: the file cannot be read, or does not fit the cohort: cases without a fold, other images, or a
            patient in several folds.
    """
    lines = lines_of(path)
    missing = [case.id for case in cohort if not (lines.get(case.id) or {}).get("fold")]
    if missing:
        raise CohortError(
            f"{path}: no fold for {len(missing)} of {len(cohort)} cases, such as {missing[0]}. Add them, or leave "
            "folds= a number."
        )
    rows = [lines[case.id] for case in cohort]
    for case, row in zip(cohort, rows, strict=True):
        if len({getattr(case, "fingerprint", ""), row.get("fingerprint") or ""} - {""}) > 1:
            raise CohortError(
                f"{path}: {case.id} is another image than that of the folds. Give the folds of this cohort."
            )
    names = sorted({row["fold"] for row in rows}, key=lambda name: (len(name), name))
    if len(names) < 2:
        raise CohortError(f"{path}: expected at least two folds in the column 'fold', got {', '.join(names)}.")
    of = [1 + names.index(row["fold"]) for row in rows]
    patients = _together(cohort)
    _check_patients(path, patients, of, "folds")
    columns = [_FOLD.format(number) for number in range(1, len(names) + 1)]
    if not all(row.get(column) for row in rows for column in columns):
        return _with_validation(
            of, patients, task.strata([case.target for case in cohort]), len(names), validation, seed
        )
    splits = tuple(tuple(row[column] for row in rows) for column in columns)
    for number, found in enumerate(splits, 1):
        wrong = [name for name in found if name not in SPLITS]
        unlike = any((split == "test") != (fold == number) for split, fold in zip(found, of, strict=True))
        if wrong or unlike:
            what = f"{wrong[0]!r} is no split" if wrong else f"its test cases are not those of fold {number}"
            raise CohortError(
                f"{path}: column {_FOLD.format(number)!r}: {what}. Mend it, or remove all of these columns."
            )
        _check_patients(path, patients, found, f"splits of fold {number}")
    return Folds(tuple(of), splits)


def _together(cohort: Cohort) -> list[str]:
    """Returns a name for each case that all cases share which must not be parted: those of a patient, and copies."""
    of_image: dict[str, list[str]] = defaultdict(list)
    for case in cohort:
        if mark := getattr(case, "fingerprint", ""):
            of_image[mark].append(case.patient)
    names = joined(group for group in of_image.values() if len(group) > 1)
    return [names.get(case.patient, case.patient) for case in cohort]


def _with_validation(
    of: Sequence[int], patients: Sequence[str], strata: Sequence[str], count: int, validation: float, seed: int
) -> Folds:
    splits = []
    for number in range(1, count + 1):
        outside = [index for index, fold in enumerate(of) if fold != number]
        found = ["test"] * len(of)
        names = stratified_splits(
            [patients[i] for i in outside],
            [strata[i] for i in outside],
            (1 - validation, validation, 0.0),
            seed + number,
        )
        for index, name in zip(outside, names, strict=True):
            found[index] = name
        splits.append(tuple(found))
    return Folds(tuple(of), tuple(splits))


def _check_patients(
    path: str | os.PathLike[str], patients: Sequence[str], parts: Sequence[int | str], what: str
) -> None:
    first: dict[str, int | str] = {}
    for patient, part in zip(patients, parts, strict=True):
        if first.setdefault(patient, part) != part:
            raise CohortError(
                f"{path}: patient {patient} is in several {what}. Put all cases of a patient, and copies of an image, "
                "into one."
            )


def lines_of(path: str | os.PathLike[str]) -> dict[str, Mapping[str, str]]:
    """Reads a file of folds; returns its lines by the ids of their cases.

    Raises:
        CohortError: the file cannot be read, lacks a column or lines, or has several lines for a case.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(Path(path).read_text(encoding="utf-8-sig"), newline="")))
    except OSError as error:
        raise CohortError(f"{path}: cannot be read ({error.strerror}). Give a file of folds, or a number.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"{path}: cannot be read ({error}). Give a file of folds, or a number.") from error
    if not rows or not {"slide_id", "fold"} <= set(rows[0]):
        raise CohortError(f"{path}: expected the columns slide_id,fold and at least one line.")
    twice = [name for name, count in Counter(row["slide_id"] for row in rows).items() if count > 1]
    if twice:
        raise CohortError(f"{path}: {twice[0]} has several lines. Leave one for each case.")
    return {row["slide_id"]: row for row in rows}
