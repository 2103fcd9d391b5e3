"""Finds what is to be read: a folder with everything below it, a CSV, one file, or a list of these."""

import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glimpse.cohort.images import located
from glimpse.cohort.parquet import SUFFIXES
from glimpse.cohort.table import CohortError, Row, Table, cohort_error, parse_mpp, read_table
from glimpse.errors import EvaluationError
from glimpse.modalities import OPTION_COLUMNS, Modality
from glimpse.settings.nearest import suggestion
from glimpse.sources import ImageReadError
from glimpse.sources.base import begins_as_dicom
from glimpse.sources.registry import Reader, knows_nothing, reader_named
from glimpse.sources.staged.remote import RemotePath, local, remote
from glimpse.sources.staged.stage import ROOM

COLUMNS = ("path", "slide_id", "mpp", *OPTION_COLUMNS)
_CSV = (".csv", ".tsv", *SUFFIXES)
_DOUBLE = (".nii.gz", ".ome.tiff", ".ome.tif")  # suffixes of two parts
_NO_IMAGES = ({ROOM}, {"manifest.json", "predictions.csv"}, {"config.yaml", "policy.safetensors"})
_WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".ods")
_SHOWN = 5


@dataclass(frozen=True)
class Item:
    """One image that is to be read.

    Attributes:
        id: the name of the case; it is unique among the items.
        path: the file, or the folder that is one image; absolute.
        options: options of its source, such as `mpp`.
    """

    id: str
    path: Path
    options: dict[str, Any] = field(default_factory=dict)


def find_items(given: Sequence[str | os.PathLike[str]], modality: Modality, without: Path | None = None) -> list[Item]:
    """Returns the images that are to be read, sorted by their ids.

    The id of a file in a folder is its path below that folder without the suffix, such as "site-1/slide-7"; that of a
    file which is named itself is its name without the suffix. Where two images would have the same id, both keep their
    suffixes; where that does not help, they are called by their whole paths. A CSV may give ids in the column
    `slide_id`.

    Args:
        given: folders, CSVs and files.
        modality: the kind of images.
        without: a folder that is left out, since results lie there.

    Raises:
        EvaluationError: nothing is given, something is missing, two images have the same id, or there are no images;
            the message says what is there.
        CohortError: a CSV has mistakes; all of them are listed.
    """
    if not given:
        raise EvaluationError("Which images? Give a folder, a CSV, a file or a list of these: input=<folder>.")
    reader = reader_named(modality.reader or modality.name)
    found: list[Found] = []
    for one in given:
        path = there(one)
        if path.is_dir():
            found += _in_folder(path, reader, without)
        elif path.suffix.lower() in _CSV and not reader.has_suffix(path):
            found += _in_csv(path, modality)
        else:
            found.append(Found(path, path.name))
    items = sorted(with_ids(found), key=lambda item: item.id)
    for item, other in itertools.pairwise(items):
        if item.id == other.id:
            raise EvaluationError(
                f"Two images are called {item.id!r}: {item.path} and {other.path}. Correct the column slide_id, so "
                "that every image has a name of its own, or predict them into folders of their own."
            )
    return items


@dataclass(frozen=True)
class Found:
    """An image that was found.

    Attributes:
        path: absolute path.
        below: its path below what was given, with the suffix.
        id: the id that a CSV gives it; empty if it gives none.
        options: options of its source.
    """

    path: Path
    below: str
    id: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The path below what was given, without the suffix."""
        lower = self.below.lower()
        double = next((one for one in _DOUBLE if lower.endswith(one)), None)
        cut = len(double) if double else len(Path(self.below).suffix)
        return self.below[: len(self.below) - cut] if not self.path.is_dir() else self.below


def there(given: str | os.PathLike[str]) -> Path:
    """Returns the absolute path of what was given, or the address of an image on another machine.

    Raises:
        EvaluationError: there is nothing, or it is a list on another machine, or in a workbook.
    """
    text = local(os.fspath(given))
    address = remote(text)
    if address is not None:
        if address.suffix.lower() in _CSV:
            raise EvaluationError(f"input={text}: a list of images is read from a disk only. Copy it there.")
        return address
    path = Path(os.path.abspath(os.path.expanduser(text)))
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EvaluationError(
            f"input={text}: cannot be read ({reason}). Give a folder, a CSV with the column path, or an image."
        ) from error
    if path.suffix.lower() in _WORKBOOKS:
        raise EvaluationError(f"input={text}: this is a workbook, and lists of images are CSV. Save it as CSV.")
    return path


# ---------------------------------------------------------------------------------------------- ids
def with_ids(found: Sequence[Found]) -> Iterator[Item]:
    """Yields an item for each image; one that was found twice is one item."""
    once: dict[Any, Found] = {}
    for one in found:
        once.setdefault((one.path, one.id, repr(sorted(one.options.items()))), one)
    images = list(once.values())
    longer: list[Callable[[Found], str]] = [
        lambda one: one.below,
        lambda one: str(one.path),
        lambda one: f"{one.path} {one.options}",  # one of several images in a file
    ]
    ids = [_composed(one.id or one.short) for one in images]
    for way in longer:
        taken = Counter(ids)
        longest = way is longer[-1]  # paths may differ in how their accents are written only
        ids = [
            name if one.id or taken[name] == 1 else way(one) if longest else _composed(way(one))
            for name, one in zip(ids, images, strict=True)
        ]
    for name, one in zip(ids, images, strict=True):
        yield Item(name, one.path, one.options)


def _composed(text: str) -> str:
    """Returns a text with accents in one character each, as most systems write names."""
    return unicodedata.normalize("NFC", text)


# ---------------------------------------------------------------------------------------------- folders
def _in_folder(top: Path, reader: Reader, without: Path | None) -> list[Found]:
    """Returns the images below a folder, those of linked folders included; hidden ones are left out."""
    found, others, unread = [], Counter[str](), list[Path]()
    for folder, files in walked(top, without, unread):
        if _is_one_image(files, reader):
            below = folder.relative_to(top).as_posix()
            found.append(Found(folder, top.name if below == "." else below))
            files = [file for file in files if reader.has_suffix(file) and not is_dicom_file(file)]  # whole volumes
        for file in without_companions(files, reader):
            if _is_image(file, reader):
                found.append(Found(file, file.relative_to(top).as_posix()))
            else:
                others[file.suffix.lower() or "no suffix"] += 1
    found += [Found(folder, folder.relative_to(top).as_posix()) for folder in unread]  # each fails by itself
    if not found:
        kinds = ", ".join(f"{count} of {kind}" for kind, count in others.most_common(_SHOWN)) or "it is empty"
        raise EvaluationError(
            f"input={top}: there are no images in this folder that the model reads; {reader.kind}. Other files: "
            f"{kinds}. Give another folder, or a CSV with the column path."
        )
    return found


def walked(
    top: Path, without: Path | None = None, unread: list[Path] | None = None
) -> Iterator[tuple[Path, list[Path]]]:
    """Yields every folder from `top` on with its files in order, linked folders once.

    Hidden ones are left out, and so are the copies in a stage, earlier predictions and runs, whose pictures are none
    to be read.

    Args:
        top: the folder.
        without: a folder that is left out, since results lie there.
        unread: gets the folders below `top` that may not be read.

    Raises:
        ImageReadError: a folder may not be read, and there is no list for it.
    """

    def refused(error: OSError) -> None:
        folder = Path(error.filename or top)
        if unread is None or folder == top:
            raise ImageReadError(
                f"{folder}: cannot be opened ({error.strerror or error}). Get the right to read it, e.g. with 'chmod "
                f"u+rX {folder}', or give other folders."
            ) from error
        unread.append(folder)

    seen = set() if without is None else {os.path.realpath(without)}
    for here, inner, names in os.walk(top, onerror=refused, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            inner[:] = []
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if here != os.fspath(top) and any(marks <= {*names} for marks in _NO_IMAGES):
            inner[:] = []
            continue
        folder = Path(here)
        yield folder, [folder / name for name in sorted(names) if not name.startswith(".")]


def _is_one_image(files: Sequence[Path], reader: Reader) -> bool:
    """Tells whether the files of a folder are one image together, as the slices of a series are."""
    return reader.sniff_folder is not knows_nothing and any(is_dicom_file(file) for file in files)


def is_dicom_file(file: Path) -> bool:
    """Tells whether a file begins as DICOM files do; what is no file, such as a pipe, is not opened."""
    try:
        if not file.is_file():
            return False
        with open(file, "rb") as opened:
            return begins_as_dicom(opened.read(132))
    except OSError:
        return False


def without_companions(files: Sequence[Path], reader: Reader) -> Iterator[Path]:
    """Yields files, but of the DICOM files in a folder that are one slide each time only the first one."""
    series: set[str] = set()
    for file in files:
        if reader.name == "slide" and is_dicom_file(file):
            import openslide  # only this reader has such slides

            try:
                with openslide.OpenSlide(file) as slide:
                    name = slide.properties.get("dicom.SeriesInstanceUID", file.name)
            except openslide.OpenSlideError:
                name = file.name
            if name in series:
                continue
            series.add(name)
        yield file


def _is_image(file: Path, reader: Reader) -> bool:
    """Tells whether a file is one that the reader reads, or would if it were not damaged."""
    try:
        if file.exists() and not file.is_file():  # a pipe or a device would be waited for
            return False
        if reader.has_suffix(file):
            return True
        return file.is_file() and reader.claims(file)
    except (OSError, ImageReadError):  # it may not be read; its name does not say that it is an image
        return False


# ---------------------------------------------------------------------------------------------- CSVs
def normal(path: Path) -> Path:
    """Returns a path without "..", of which addresses on other machines have none."""
    return path if isinstance(path, RemotePath) else Path(os.path.normpath(path))


def _in_csv(path: Path, modality: Modality) -> list[Found]:
    table = _table(path)
    problems = _column_problems(table.columns)
    found = [_row(path, row, table, modality, problems) for row in table.rows] if not problems else []
    given = Counter(one.id for one in found if one.id)
    repeated = [name for name, count in given.items() if count > 1]
    problems += [f"slide_id {name!r} occurs {given[name]} times; it must be unique" for name in repeated]
    if not table.rows and not problems:
        problems = ["there are no lines below the header; add one for each image"]
    if problems:
        raise cohort_error(path, problems)
    return found


def _table(path: Path) -> Table:
    try:
        if not path.read_bytes().strip():
            raise CohortError(f"{path}: the file is empty. Give a CSV with the column path, one line for each image.")
    except OSError:
        pass  # which is said below
    return read_table(path)


def _column_problems(columns: Sequence[str]) -> list[str]:
    if "path" in columns:
        return [f"line 1: column {name!r} occurs twice" for name in COLUMNS if columns.count(name) > 1]
    near = next((column for column in columns if suggestion(column, ["path"]) or column.lower() in _PATHS), None)
    hint = f"; is {near!r} meant? Rename it" if near else ""
    others = "slide_id, mpp, series and frame, which may be left out"
    return [f"line 1: column 'path' is missing{hint}; others are {others}"]


_PATHS = ("file", "filename", "image", "slide_path")


def _row(path: Path, row: Row, table: Table, modality: Modality, problems: list[str]) -> Found:
    cell, options = row.cells.get("path", ""), dict[str, Any]()
    if not cell:
        problems.append(f"line {row.line}: path is empty")
    if row.surplus:
        problems.append(f"line {row.line}: there is no column for {', '.join(map(repr, row.surplus))}")
    if row.cells.get("mpp") and (mpp := parse_mpp(row, table.separator, problems)) is not None:
        options["mpp"] = mpp
    options |= {name: row.cells[name] for name in OPTION_COLUMNS if name in modality.options and row.cells.get(name)}
    try:
        whole = normal(located(path, cell))
    except ImageReadError as error:
        problems.append(f"line {row.line}: {error}")
        whole = path
    return Found(whole, whole.name, row.cells.get("slide_id", ""), options)
