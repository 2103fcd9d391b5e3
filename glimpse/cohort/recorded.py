"""The splits that a run has recorded: whoever goes on with the run, or evaluates it, must not split its cases anew."""

import copy
import csv
import io
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from glimpse.atomic import write_atomically
from glimpse.cohort.manifest import Case, Cohort, CohortError
from glimpse.cohort.splits import SPLITS

SPLITS_FILE = "splits.csv"
LEARNED_FILE = "learned_before.csv"  # what the weights were learned from that a run began with
_LEARNED = ("train", "val")
_KNOWN = {"val": ("train",), "test": _LEARNED}  # by split: where a run may not have had a patient before
_COLUMNS = ("case_id", "slide_id", "split")
_NAMED = 5  # so many cases are named in a message


@dataclass(frozen=True)
class Record:
    """What a run knows of one case: its patient, its split, and the fingerprint of its image ("" if unknown)."""

    patient: str
    split: str | None
    fingerprint: str


@dataclass(frozen=True, eq=False)
class RecordedSplits:
    """The content of a run's `splits.csv`.

    Attributes:
        path: the file.
        cases: what it says of each case, by the name of the case.
        given: whether the file was given for a new run, and is not that of a run that goes on.
    """

    path: Path
    cases: dict[str, Record]
    given: bool = False

    def of_run(self, cohort: Cohort) -> Cohort:
        """Returns the run's own cohort with the splits of the run.

        Cases that the run does not know are in no split, and a warning names them. Another one names cases that the
        cohort has no more.

        Raises:
            CohortError: it is another cohort: it has none of the run's cases, or cases with other images.
        """
        other = [case.id for case in cohort if self._is_other(case)]
        found = [self._by_name(case) or self._by_image(case) for case in cohort]
        new = [case.id for case, record in zip(cohort, found, strict=True) if record is None]
        if other or len(new) == len(cohort):
            what = f"the images of {_named(other)} are others than" if other else "it has none of the cases"
            remedy = "the run's own: cohort=<its CSV> of evaluate, or env.cohort.path=<its CSV> beside resume="
            raise CohortError(
                f"This is not the cohort of the {'splits' if self.given else 'run'}, or it was changed: {what} in "
                f"{self.path}. Give {'splits of this cohort: splits=<CSV>' if self.given else remedy}."
            )
        since = f"{self.path} was written" if self.given else "the run began"
        if new:
            warnings.warn(
                f"New in the cohort since {since}: {_named(new)}. They are in none of the splits of {self.path}; "
                "evaluate split=all reads them, too.",
                UserWarning,
                stacklevel=2,
            )
        names, images = {case.id for case in cohort}, {_mark(case) for case in cohort} - {""}
        gone = [name for name, record in self.cases.items() if name not in names and record.fingerprint not in images]
        if gone:
            warnings.warn(f"No more in the cohort since {since}: {_named(gone)}.", UserWarning, stacklevel=2)
        return in_splits(cohort, [record.split if record else None for record in found])

    def of_another(self, cohort: Cohort) -> Cohort:
        """Returns another cohort, in which images that the run knows are in the split that they have in the run.

        Other images of files that the run knows, and other cases of the patients who have such images, get that split,
        too; of several splits, the one that was learned from. So no case is a test case that the run has learned from.
        """
        moved = self._as_known(cohort)
        if changed := [one.id for one, was in zip(moved, cohort, strict=True) if one.split != was.split]:
            warnings.warn(
                f"The run knows the images or patients of {_named(changed)}: they are in the split that they have in "
                f"{self.path}.",
                UserWarning,
                stacklevel=2,
            )
        return Cohort(moved, cohort.skipped, cohort.unsplit if any(case.split is None for case in moved) else "")

    def learned_in(self, cohort: Iterable[Case]) -> list[str]:
        """Returns the names of those cases from whose image, or from another one of whose patient, the run learned."""
        cases = list(cohort)
        patients = {case.patient for case in cases if self._has_learned(case)}
        return [case.id for case in cases if case.patient in patients]

    def known_of(self, cohort: Cohort) -> Cohort:
        """Returns those cases of another cohort whose images the run knows, in the splits that they have in the run.

        Raises:
            CohortError: there are some, but not all that the run has learned from.
        """
        found = [(case, self._by_name_and_image(case) or self._by_image(case)) for case in cohort]
        there = {record.fingerprint for _, record in found if record}
        lacking = [name for name in self.cases if self.cases[name].fingerprint not in there and self._learned(name)]
        if lacking and there:
            raise CohortError(
                f"Of the images that the run has learned from, {len(lacking)} are not in the cohort that was given: "
                f"{_named(lacking)} of {self.path}. Put the run's own cohort back where it was in training."
            )
        return Cohort([_moved(case, record.split) for case, record in found if record], cohort.skipped)

    def _learned(self, name: str) -> bool:
        return self.cases[name].split in _LEARNED

    def kept_apart(self, cohort: Cohort) -> Cohort:
        """Returns a cohort for a training that begins with the weights of this run.

        Nobody is tested on of whom the run has learned from an image, and nobody is validated on of whom it was trained
        on an image: such cases are in the training split, and a warning names them. Another warning names cases that
        have only their names in common with what was learned from.
        """
        unfit, known = set(self._unfit(cohort)), set(self.learned_in(cohort))
        cases = [_moved(case, "train") if case.id in unfit else case for case in cohort]
        if moved := [one.id for one, was in zip(cases, cohort, strict=True) if one.split != was.split]:
            warnings.warn(
                f"The weights were learned from images of the patients of {_named(moved)} ({self.path}): they are in "
                "the training split.",
                UserWarning,
                stacklevel=2,
            )
        # Drawn images have no marks, and whom the run was only validated on may be validated on again.
        files = [one for one in cases if one.split in _KNOWN and one.id not in known and _mark(one)]
        named = {split: self._names(splits) for split, splits in _KNOWN.items()}
        if alike := [one.id for one in files if named[one.split or ""] & {one.id, one.patient}]:
            warnings.warn(
                f"The weights were learned from cases or patients with the names of {_named(alike)} ({self.path}), but "
                "from other images. If they are the same patients, put them into the training split.",
                UserWarning,
                stacklevel=2,
            )
        return Cohort(cases, cohort.skipped, cohort.unsplit)

    def check_not_learned(self, cohort: Cohort, folds: bool = False) -> None:
        """Refuses a cohort with cases in its splits that must not be validated or tested on (see `kept_apart`).

        Args:
            cohort: the cases.
            folds: whether each of them is tested on, in one of several folds, whatever its split is.

        Raises:
            CohortError: the message names the cases.
        """
        if learned := self.learned_in(cohort) if folds else self._unfit(cohort):
            raise CohortError(
                f"The weights were learned from images of the patients of {_named(learned)} ({self.path}), which are "
                "to be validated or tested on. Leave out initial_weights, or give a run that was trained on others."
            )

    def _unfit(self, cohort: Iterable[Case]) -> list[str]:
        """Returns the names of cases that are in a split in which they must not be (see `kept_apart`)."""
        cases = list(cohort)
        known = {
            split: {case.patient for case in cases if self._has_learned(case, splits)}
            for split, splits in _KNOWN.items()
        }
        return [case.id for case in cases if case.patient in known.get(case.split or "", ())]

    def _names(self, splits: Sequence[str]) -> set[str]:
        """Returns the names of the cases and patients that the run has in these splits."""
        pairs = [(name, one.patient) for name, one in self.cases.items() if one.split in splits]
        return {name for pair in pairs for name in pair}

    def _has_learned(self, case: Case, splits: Sequence[str] = _LEARNED) -> bool:
        record = self._images.get(_mark(case)) or self._files.get(_file(_mark(case)))
        return record is not None and record.split in splits

    def _as_known(self, cohort: Cohort) -> list[Case]:
        """Returns the cases in the splits that their images, files or patients have in the run, or in their own."""
        found = [self._by_name_and_image(case) or self._by_image(case) or self._by_file(case) for case in cohort]
        known = [(case.patient, record) for case, record in zip(cohort, found, strict=True) if record]
        patients = {patient: record.split for patient, record in sorted(known, key=lambda one: -_learned(one[1]))}
        return [
            _moved(case, record.split if record else patients.get(case.patient, case.split))
            for case, record in zip(cohort, found, strict=True)
        ]

    @cached_property
    def _images(self) -> dict[str, Record]:
        """Records by the fingerprint of the image; of several, the one that was learned from."""
        return {one.fingerprint: one for one in self._ranked if one.fingerprint}

    @cached_property
    def _files(self) -> dict[str, Record]:
        """Records by the fingerprint of the image's file; of several, the one that was learned from."""
        return {_file(one.fingerprint): one for one in self._ranked if one.fingerprint}

    @cached_property
    def _ranked(self) -> list[Record]:
        """All records; those that were learned from come last."""
        return sorted(self.cases.values(), key=_learned, reverse=True)

    def _by_image(self, case: Case) -> Record | None:
        return self._images.get(_mark(case))

    def _by_file(self, case: Case) -> Record | None:
        return self._files.get(_file(_mark(case)))

    def _by_name_and_image(self, case: Case) -> Record | None:
        """Returns what the run knows of a case of this name with this image; fingerprints alone are nearly certain."""
        record = self.cases.get(case.id)
        return record if record is not None and _mark(case) and record.fingerprint == _mark(case) else None

    def _by_name(self, case: Case) -> Record | None:
        return None if self._is_other(case) else self.cases.get(case.id)

    def _is_other(self, case: Case) -> bool:
        """Returns whether the run knows another image by the name of this case."""
        mark, record = _mark(case), self.cases.get(case.id)
        return record is not None and "" not in (mark, record.fingerprint) and mark != record.fingerprint


def in_splits(cohort: Cohort, splits: Iterable[str | None]) -> Cohort:
    """Returns a cohort whose cases are in other splits, given in the order of the cases."""
    return Cohort(map(_moved, cohort, splits), cohort.skipped)


def read_splits(run: str | os.PathLike[str]) -> RecordedSplits | None:
    """Reads the splits of a run; None, with a warning, if the run folder has no such file.

    Raises:
        CohortError: the file cannot be read.
    """
    path = Path(run) / SPLITS_FILE
    if not path.exists():
        warnings.warn(
            f"{path} is missing, so cases are in the splits that the cohort has now.", UserWarning, stacklevel=2
        )
        return None
    return _read(path, "Restore the file from a copy of the run.", "Allow this user to read the run folder.")


def read_given_splits(path: str | os.PathLike[str]) -> RecordedSplits:
    """Reads splits from a file that was given for a new run, in the form of a run's `splits.csv`.

    Raises:
        CohortError: the file cannot be read, or has cases of one patient in several splits.
    """
    found = _read(Path(path), "Mend the file, or give another one: splits=<CSV>.", "Give another one: splits=<CSV>.")
    of_patients: dict[str, set[str]] = {}
    for record in found.cases.values():
        of_patients.setdefault(record.patient, set()).update(filter(None, [record.split]))
    for patient, splits in of_patients.items():
        if len(splits) > 1:
            raise CohortError(
                f"{path}: patient {patient} is in several splits ({', '.join(sorted(splits))}). Put all cases of a "
                "patient into one split."
            )
    return replace(found, given=True)


def read_learned(run: Path) -> RecordedSplits | None:
    """Reads what a run has learned from: its own splits, and those of runs whose weights it began with.

    None, with a warning, if the folder has no such file.

    Raises:
        CohortError: a file cannot be read.
    """
    mend, allow = "Restore the file from a copy of the run.", "Allow this user to read the run folder."
    files = [file for file in (run / SPLITS_FILE, run / LEARNED_FILE) if file.exists()]
    if not (run / SPLITS_FILE).exists():
        warnings.warn(
            f"{run / SPLITS_FILE} is missing, so nobody knows whether cases are validated or tested on here that the "
            "weights were learned from.",
            UserWarning,
            stacklevel=2,
        )
    if not files:
        return None
    cases: dict[str, Record] = {}
    for file in files:
        for name, record in _read(file, mend, allow).cases.items():
            cases[name if name not in cases else f"{name} ({len(cases)})"] = record
    return RecordedSplits(run / SPLITS_FILE, cases)


def write_learned(run: Path, initial: Path) -> None:
    """Writes into a run folder what the weights that it begins with were learned from, in the form of `splits.csv`.

    Raises:
        WriteError: the file cannot be written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were said before
        found = read_learned(initial)
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow([*_COLUMNS, "fingerprint"])
    for name, one in ({} if found is None else found.cases).items():
        if one.split in _LEARNED:
            rows.writerow([one.patient, name, one.split, one.fingerprint])
    write_atomically(run / LEARNED_FILE, text.getvalue())


def _read(path: Path, mend: str, allow: str) -> RecordedSplits:
    try:
        lines = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
        if not set(_COLUMNS) <= set(lines.fieldnames or ()):
            raise CohortError(f"{path}: expected the columns {','.join(_COLUMNS)}. {mend}")
        rows = list(lines)
        if broken := [at for at, line in enumerate(rows, 2) if not line["slide_id"] or None in line.values()]:
            raise CohortError(
                f"{path}: line {broken[0]} has not as many cells as the first line, or no slide_id. {mend}"
            )
        cases = {
            line["slide_id"]: Record(line["case_id"], line["split"] or None, line.get("fingerprint") or "")
            for line in rows
        }
    except OSError as error:
        raise CohortError(f"{path}: cannot be read ({error.strerror}). {allow}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"{path}: cannot be read ({error}). {mend}") from error
    wrong = Counter(record.split for record in cases.values()).keys() - {*SPLITS, None}
    if wrong:
        raise CohortError(f"{path}: {sorted(map(str, wrong))[0]!r} is no split. {mend}")
    return RecordedSplits(path, cases)


def _mark(case: Case) -> str:
    """Returns the fingerprint of a case, which users' own cases need not have."""
    return getattr(case, "fingerprint", "")


def _file(fingerprint: str) -> str:
    """Returns the part of a case's fingerprint that tells its file from others."""
    return fingerprint.partition(" ")[0]


def _learned(record: Record) -> int:
    """Ranks records: what was trained on comes before what was validated on, and that before all else."""
    return SPLITS.index(record.split or "test")


def _moved(case: Case, split: str | None) -> Case:
    """Returns a case in another split; users' own cases need not be instances of `Case`."""
    if case.split == split:
        return case
    moved = copy.copy(case)
    object.__setattr__(moved, "split", split)
    return moved


def _named(cases: Iterable[str]) -> str:
    names = list(cases)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ("case " if len(names) == 1 else "cases ") + ", ".join(names[:_NAMED]) + more
