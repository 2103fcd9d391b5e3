"""What a check leaves behind: tables, thumbnails, the estimate, and the text that is printed."""

import base64
import csv
import json
import re
import shutil
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from glimpse.atomic import is_taken, remove_unfinished, write_atomically, write_bytes_atomically, write_error
from glimpse.errors import EvaluationError
from glimpse.inspecting.estimate import Estimate
from glimpse.inspecting.findings import RULES, Finding
from glimpse.inspecting.inputs import Candidate
from glimpse.inspecting.looking import Seen
from glimpse.predicting.cells import table_text
from glimpse.runs.file_names import file_names
from glimpse.settings.terminal import printable

FINDINGS, CASES, ESTIMATE, THUMBNAILS = "findings.csv", "cases.csv", "estimate.json", "thumbnails"
_CASES_HEADER = [
    "slide_id", "path", "env", "split", "target", "state", "rules", "shape", "channels", "spacing", "unit",
    "foreground", "ms_per_glimpse", "thumbnail",
]  # fmt: skip
_FINDINGS_HEADER = ["slide_id", "path", "csv", "line", "rule", "kind", "what", "remedy", "thumbnail"]
_LONGEST = 10_000  # bytes of a first line
_ELSEWHERE = "Choose another folder with output=."
_SHOWN = 40  # so many lines of the table are printed
_NAMED = 3  # so many cases with the same finding are named in one line
_RULE, _CASE = 12, 34  # characters of these columns

Listed = tuple[Candidate, Seen, tuple[Finding, ...]]
"""A case, what looking at it has told, and all that is wrong with it."""


def check_free(folder: Path) -> None:
    """Refuses a folder in which the tables of a check would be written over other files.

    Raises:
        EvaluationError: the message names a file.
    """
    for name, header in ((CASES, _CASES_HEADER), (FINDINGS, _FINDINGS_HEADER)):
        first = _first_line(folder / name)
        if first not in (None, ",".join(header)):
            raise EvaluationError(f"{folder / name}: this is another file, and no table of glimpse check. {_ELSEWHERE}")
    for path in (folder / ESTIMATE, folder / THUMBNAILS):
        if is_taken(path) and not (folder / CASES).exists():
            raise EvaluationError(f"{path}: this is not of glimpse check (there is no {CASES}). {_ELSEWHERE}")


def _first_line(path: Path) -> str | None:
    """Returns the first line of a file; None where there is no file."""
    try:
        with open(path, "rb") as file:
            return file.readline(_LONGEST).decode("utf-8", "replace").rstrip("\r\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise write_error(path, error) from error


def write_all(
    folder: Path, cases: Sequence[Listed], tables: Sequence[tuple[Path, Finding]], estimates: Sequence[Estimate]
) -> None:
    """Writes both tables, the thumbnails and the estimate, each atomically; an earlier check's thumbnails go.

    Raises:
        WriteError: a file cannot be written.
    """
    earlier = _earlier_thumbnails(folder)
    try:
        (folder / THUMBNAILS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder / THUMBNAILS, error) from error
    remove_unfinished(folder, folder / THUMBNAILS)
    if not (folder / CASES).exists():  # before all else, since it says whose files these are
        write_atomically(folder / CASES, table_text(_CASES_HEADER, []))
    names = file_names([candidate.id for candidate, _, _ in cases])
    pictures = [f"{THUMBNAILS}/{name}.png" if seen.thumbnail else "" for name, (_, seen, _) in zip(names, cases)]  # noqa: B905
    for picture, (_, seen, _) in zip(pictures, cases, strict=True):
        if picture:
            write_bytes_atomically(folder / picture, base64.b64decode(seen.thumbnail))
    write_atomically(folder / CASES, _cases(cases, pictures))
    write_atomically(folder / FINDINGS, _findings(cases, pictures, tables))
    write_atomically(folder / ESTIMATE, json.dumps([one.record() for one in estimates], indent=1) + "\n")
    for picture in earlier.difference(pictures):
        with suppress(OSError):
            (folder / picture).unlink()


def _earlier_thumbnails(folder: Path) -> set[str]:
    """Returns those that the table of an earlier check in a folder names, and no other file."""
    try:
        with open(folder / CASES, newline="", encoding="utf-8") as file:
            named = {row.get("thumbnail") or "" for row in csv.DictReader(file)}
    except (OSError, ValueError, csv.Error):
        return set()
    return {one for one in named if re.fullmatch(rf"{THUMBNAILS}/[^/\\]+\.png", one)}


def _cases(cases: Sequence[Listed], pictures: Sequence[str]) -> str:
    rows: list[list[Any]] = []
    for (candidate, seen, findings), picture in zip(cases, pictures, strict=True):
        wrong = [one for one in findings if not one.note]
        milliseconds = (
            sorted(seen.glimpse_seconds)[len(seen.glimpse_seconds) // 2] * 1e3 if seen.glimpse_seconds else None
        )
        spacing = None if seen.spacing is None else " x ".join(f"{value:g}" for value in seen.spacing)
        rows.append([
            candidate.id, str(candidate.path or ""), candidate.env, candidate.split, candidate.target,
            "wrong" if wrong else "note" if findings else "fine", " ".join(dict.fromkeys(one.rule for one in findings)),
            " x ".join(map(str, seen.shape)), seen.channels or None, spacing, seen.unit, seen.foreground, milliseconds,
            picture,
        ])  # fmt: skip
    return table_text(_CASES_HEADER, rows)


def _findings(cases: Sequence[Listed], pictures: Sequence[str], tables: Sequence[tuple[Path, Finding]]) -> str:
    rows: list[list[Any]] = [["", "", str(path), None, *_words(finding), ""] for path, finding in tables]
    for (candidate, _, findings), picture in zip(cases, pictures, strict=True):
        where = [candidate.id, str(candidate.path or ""), str(candidate.csv or ""), candidate.line or None]
        rows += [[*where, *_words(finding), picture] for finding in findings]
    return table_text(_FINDINGS_HEADER, rows)


def _words(finding: Finding) -> list[str]:
    return [finding.rule, "note" if finding.note else "wrong", finding.what, finding.remedy]


# ---------------------------------------------------------------------------------------------- what is printed
def table(cases: Sequence[Listed], tables: Sequence[tuple[Path, Finding]], width: int | None = None) -> str:
    """Returns all findings as a table: which cases, which rule, what was found and what to do; "" if there are none.

    Findings with the same words are one line. Rules come in the order of `RULES`, notes last.
    """
    together: dict[Finding, list[str]] = {}
    for path, finding in tables:
        together.setdefault(finding, []).append(path.name)
    for candidate, _, findings in cases:
        for finding in findings:
            together.setdefault(finding, []).append(candidate.id)
    order = list(RULES)
    lines = sorted(together.items(), key=lambda item: (item[0].note, order.index(item[0].rule)))
    if not lines:
        return ""
    wide = _width(width)
    rows = [_row(names, finding, wide) for finding, names in lines[:_SHOWN]]
    header = f"{'case':<{_CASE}}{'rule':<{_RULE}}what is wrong, and what to do"
    left = [f"... and {len(lines) - _SHOWN} more; {FINDINGS} lists all."] if len(lines) > _SHOWN else []
    return "\n".join([header, "-" * wide, *rows, *left])


def _row(names: Sequence[str], finding: Finding, width: int) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    cases = textwrap.wrap(printable(", ".join(names[:_NAMED])) + more, _CASE - 2) or [""]
    what = printable(f"{finding.what}. {finding.remedy}".replace("\n", " "))
    text = textwrap.wrap(f"(note) {what}" if finding.note else what, max(30, width - _CASE - _RULE))
    lines = []
    for i in range(max(len(cases), len(text))):
        left, right = (part[i] if i < len(part) else "" for part in (cases, text))
        lines.append(f"{left:<{_CASE}}{finding.rule if i == 0 else '':<{_RULE}}{right}".rstrip())
    return "\n".join(lines)


def told_of(one: Estimate, width: int | None = None) -> str:
    """Returns sentences that say how long a training takes, and what it keeps on disk."""
    cases = "1 case" if one.cases == 1 else f"{one.cases:,} cases"
    lines = [f"Estimate: a training with env={one.env} on {cases} takes about {duration(one.total)} on this machine."]
    for part in one.parts:
        read, encode = one.seconds(part)
        computed = f", {duration(encode)} of encoding" if one.encode_seconds else ""
        lines.append(f"  {part.name}: {part.glimpses:,} glimpses, {duration(read)} of reading{computed}")
    facts = f"A glimpse was read in {milliseconds(one.read_seconds[0])} here; {one.threads} threads read in a training."
    if one.encode_seconds:
        facts += (
            f" Encoding a glimpse took {milliseconds(one.encode_seconds[0])}. Left out is all that follows the "
            "encoder, and that what was seen before is neither read nor encoded again."
        )
    else:
        facts += f" Left out is all that the network computes, since it cannot be built ({printable(one.unknown)})."
    kept = [f"{size(one.features)} of features"] if one.features else []
    kept += [f"{size(one.unpacked)} of unpacked volumes"] if one.unpacked else []
    facts += f" On disk: {' and '.join(kept) or 'no caches'}; {size(one.free)} are free there."
    return "\n".join([*lines, *textwrap.wrap(facts, _width(width), initial_indent="  ", subsequent_indent="  ")])


def _width(width: int | None) -> int:
    return max(60, min(width or shutil.get_terminal_size((120, 24)).columns, 160))


def duration(seconds: float) -> str:
    """Returns a time in words, such as "3 min" or "2.5 h"."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}" if seconds < 10 * length else f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"


def milliseconds(seconds: float) -> str:
    """Returns a short time in words, of two digits, such as "0.49 ms" or "680 ms"."""
    return f"{float(f'{seconds * 1e3:.2g}'):g} ms"


def size(count: float) -> str:
    """Returns a number of bytes in words, such as "3.2 GB"."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count:.0f} bytes"
