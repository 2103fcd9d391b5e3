"""Writes the report: one HTML file that refers to nothing else, or has pages of cases in a folder beside it."""

import base64
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

import glimpse
from glimpse.atomic import remove_unfinished, write_atomically, write_error
from glimpse.errors import EvaluationError
from glimpse.pictures.cohort import BEST_AND_WORST, DESCRIPTION, TELLING
from glimpse.report.html.contents import answer_charts, learning_charts, result_tables
from glimpse.report.html.gathering import Gathered, Listed, gathered, page_of
from glimpse.report.tables import caption_of
from glimpse.runs.loading import goes_on
from glimpse.settings.options import at_least

REPORT = "report.html"
_PARTS = Path(__file__).parent / "parts"
_COLUMNS = 4  # of probabilities that a list has at most; with more there is the answer only
_THUMBNAILS = 2_000_000  # bytes of pictures of failed cases
_SHEETS = {
    BEST_AND_WORST: "Cases that were answered best and worst.",
    TELLING: "Glimpses on which answers rest most and least.",
}
_QUALITY = 80  # of JPEG
_LARGEST = 20_000_000  # pixels of a picture of the cohort


@dataclass(frozen=True)
class Written:
    """A report that was written.

    Attributes:
        file: the file to open.
        cases: how many cases it lists.
        pages: how many of them have a page.
        folder: the folder with these pages; None where they are in the file itself.
        unfinished: of a run whose training has not ended, sentences that say so; else empty.
    """

    file: Path
    cases: int
    pages: int
    folder: Path | None
    unfinished: str = ""

    @property
    def told(self) -> str:
        """Sentences that say what was written."""
        if self.unfinished:
            return f"{self.unfinished}\nWritten: {self.file}, as far as the training has come."
        where = "in it" if self.folder is None else f"in {self.folder}"
        return f"Written: {self.file}, {self.cases} cases, {self.pages} of them with a page {where}."


def write_report(
    folder: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, megabytes: float = 8.0
) -> Written:
    """Writes the report on a run, or on predictions.

    Args:
        folder: the run folder, or the output folder of `glimpse predict`.
        output: the file to write; `report.html` in the folder if not given.
        megabytes: how large all pages of cases may be together to lie in this file. Where they are larger, each lies in
            a file of its own, in a folder beside it that is called like it.

    Raises:
        SettingsError: `megabytes` is below 0.
        EvaluationError, CheckpointError: the folder holds neither a run nor predictions, or a file of it is damaged.
        WriteError: the report cannot be written.
    """
    at_least("megabytes", megabytes, 0)
    found = gathered(os.path.expanduser(folder))
    file = found.folder / REPORT if output is None else Path(os.path.expanduser(output))
    if output is not None:
        _check_is_report(file)
    return _Writer(found, file, _size(found.cases) <= 1e6 * megabytes).write()


def _check_is_report(file: Path) -> None:
    """Refuses to write over what is no report, such as a file of the run."""
    what = "a folder" if file.is_dir() else "another file"
    if file.is_file():
        try:
            with open(file, "rb") as opened:
                begins = opened.read(15).lower()
        except OSError as error:
            raise write_error(file, error) from error
        what = "" if begins in (b"", b"<!doctype html>") else what
    if what and file.exists():
        raise EvaluationError(f"{file}: this is {what}, and no report. Choose another name with output=.")


def _size(cases: Sequence[Listed]) -> int:
    """Returns the bytes of all records together."""
    total = 0
    for case in cases:
        with suppress(OSError):
            total += case.record.stat().st_size
    return total


class _Writer:
    """Writes one report.

    Args:
        found: what the folder holds.
        file: the file to write.
        inside: whether pages lie in this file.
    """

    def __init__(self, found: Gathered, file: Path, inside: bool) -> None:
        self.found, self.file, self.inside = found, file, inside
        self.pages = file.with_suffix("") if file.suffix else file.with_name(f"{file.name}-pages")
        self.kept: list[tuple[str, dict[str, Any]]] = []
        self.count = 0

    def write(self) -> Written:
        """Writes the pages, and in the end the file from which they are reached."""
        remove_unfinished(self.file.parent, self.pages)
        cases = list(self._cases())
        content = self._list(cases)
        _make(self.file.parent)
        write_atomically(self.file, content)
        pages = None if self.inside or not self.count else self.pages
        return Written(self.file, len(cases), self.count, pages, self._unfinished())

    # ------------------------------------------------------------------------------------------ pages
    def _cases(self) -> Iterator[dict[str, Any]]:
        """Yields what the list shows of each case; its page is written, or kept to be put into the file."""
        waiting: tuple[Listed, dict[str, Any], str, Listed | None] | None = None  # until it is known what follows
        for case in self.found.cases:
            record = page_of(case)
            thumbnail = None if record is None else record.pop("thumbnail", None)
            name = f"page-{self.count}"
            if record is None:
                yield self._told(case, None, None, None)
            elif self.inside:
                self.kept.append((name, record))
                yield self._told(case, name, f"#{name}", thumbnail)
            else:
                before = waiting and waiting[0]
                if waiting is not None:
                    self._write_page(*waiting, case)
                waiting = case, record, name, before
                yield self._told(case, name, _address(f"{self.pages.name}/{_page_file(case)}"), thumbnail)
            self.count += record is not None
        if waiting is not None:
            self._write_page(*waiting, None)

    def _write_page(
        self, case: Listed, record: dict[str, Any], name: str, before: Listed | None, after: Listed | None
    ) -> None:
        _make(self.pages)
        content = _rendered(
            "case.html",
            ("viewer.js",),
            title=f"{case.id}: {self._title}",
            record=record,
            back=f"{_address(f'../{self.file.name}')}#at-{name}",
            before=before and _address(_page_file(before)),
            after=after and _address(_page_file(after)),
        )
        write_atomically(self.pages / _page_file(case), content)

    def _told(self, case: Listed, page: str | None, href: str | None, thumbnail: str | None) -> dict[str, Any]:
        return {
            "id": case.id,
            "patient": case.patient,
            "target": case.target,
            "answer": case.answer,
            "short": case.answer if len(case.answer) <= 40 else "",
            "verdict": {None: "", True: "right", False: "wrong"}[case.right],
            "numbers": _shown(case.probabilities, self._pictured),
            "glimpses": case.glimpses,
            "share": case.share_read,
            "text": " ".join(filter(None, (case.id, case.patient, case.target, case.answer))),
            "page": page,
            "href": href,
            "thumbnail": thumbnail,
        }

    # ------------------------------------------------------------------------------------------ the list
    @property
    def _title(self) -> str:
        name = self.found.folder.resolve().name
        if self.found.kind == "run":
            return f"Run {name}"
        return "Predictions" if name.lower() == "predictions" else f"Predictions {name}"

    def _list(self, cases: Sequence[dict[str, Any]]) -> str:
        found = self.found
        tables = result_tables(found)
        return _rendered(
            "report.html",
            ("list.js", "viewer.js") if self.kept else ("list.js",),
            title=self._title,
            facts=found.facts,
            unfinished=self._unfinished(),
            tables=tables,
            explained=caption_of((row[0] for table in tables for row in table.rows), found.agent),
            answers=answer_charts(found),
            sheets=list(_sheets(found)),
            learning=learning_charts(found) if found.kind == "run" else [],
            cases=cases,
            note=self._note(len(cases)),
            columns=_shown(found.columns, self._pictured),
            patients=any(case["patient"] not in ("", case["id"]) for case in cases),
            targets=any(case["target"] for case in cases),
            verdicts=any(case["verdict"] for case in cases),
            failed="Cases that were left out" if found.kind == "run" else "Cases that failed",
            failures=list(_failures(found)),
            inside=self.kept,
        )

    @cached_property
    def _pictured(self) -> Sequence[int]:
        """The columns that a list shows where there are too many: the risk, where there are probabilities over time."""
        if self.found.task is not None:
            return self.found.task.pictured
        of_time = self.found.columns[:1] == ("risk",) and all(one.startswith("s_") for one in self.found.columns[1:])
        return [0] if of_time else range(len(self.found.columns))

    def _unfinished(self) -> str:
        if self.found.kind == "run" and self.found.metrics is None:
            told = "This training has not ended yet: there are no results, and no cases."
            return f"{told} {goes_on(self.found.folder)}"
        return ""

    def _note(self, cases: int) -> str:
        if self.count == cases:
            return ""
        if self.count:
            return f"{self.count} of {cases} cases have a page: of the others nothing was recorded that could be shown."
        return (
            "No case has a page: nothing was recorded that could be shown. Perhaps an earlier version made this folder."
        )


def _shown(values: Sequence[Any], pictured: Sequence[int]) -> list[Any]:
    """Returns the columns that a list shows: of two the second; where there are too many, those that pictures show.

    Args:
        values: of all columns.
        pictured: the columns that pictures show; where these are too many, too, there is none.
    """
    chosen = values[1:] if len(values) == 2 else values
    if len(chosen) > _COLUMNS:
        chosen = [values[one] for one in pictured]
    return list(chosen) if len(chosen) <= _COLUMNS else []


def _page_file(case: Listed) -> str:
    return f"{case.record.stem}.html"


def _sheets(found: Gathered) -> Iterator[dict[str, Any]]:
    """Yields the pictures of the cohort that a run has left, as JPEG; one that is damaged is left out."""
    for name, caption in _SHEETS.items() if found.kind == "run" and found.metrics is not None else ():
        with suppress(OSError, ValueError, SyntaxError), Image.open(found.folder / name, formats=["PNG"]) as picture:
            if picture.width * picture.height <= _LARGEST:
                told, content = str(picture.info.get(DESCRIPTION, caption)), io.BytesIO()
                picture.convert("RGB").save(content, "JPEG", quality=_QUALITY, optimize=True)
                data = base64.b64encode(content.getvalue()).decode()
                yield {"data": data, "told": told, "caption": caption, "width": picture.width, "height": picture.height}


def _failures(found: Gathered) -> Iterator[dict[str, Any]]:
    room = _THUMBNAILS
    for row in found.failures:
        picture = None
        path = (found.folder / (row.get("thumbnail") or "")).resolve()
        if row.get("thumbnail") and path.is_relative_to(found.folder.resolve()):  # the table may come from anywhere
            with suppress(OSError):
                content = path.read_bytes()
                picture = base64.b64encode(content).decode() if len(content) <= room else None
                room -= len(content) if picture else 0
        yield {"id": row.get("slide_id"), "reason": row.get("reason"), "path": row.get("path"), "thumbnail": picture}


# ---------------------------------------------------------------------------------------------- templates
def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error


def _address(path: str) -> str:
    """Returns a relative path as it is written in a link; names of files may have signs that mean something there."""
    return quote(path)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_PARTS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _rendered(template: str, scripts: Sequence[str], **shown: Any) -> str:
    """Fills a template. Only the package's own scripts may run in the page, and nothing is loaded from elsewhere."""
    texts = [(_PARTS / name).read_text("utf-8") for name in scripts]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    return (
        _environment()
        .get_template(template)
        .render(
            style=(_PARTS / "report.css").read_text("utf-8"),
            scripts=texts,
            allowed=" ".join(f"'sha256-{digest}'" for digest in digests),
            version=glimpse.__version__,
            **shown,
        )
    )
