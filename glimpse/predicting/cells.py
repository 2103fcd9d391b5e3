"""Tables of predictions as CSV, which spreadsheets open without taking a text for a formula."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from glimpse.reading.looks import DIGITS

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # signs with which spreadsheets let formulas begin


def table_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a CSV; texts that a spreadsheet would take for a formula begin with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_cell(name) for name in header])
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{DIGITS}f}"
    text = writable(str(value))
    return f"'{text}" if isinstance(value, str) and text.lstrip(" ").startswith(_FORMULA) else text


def writable(text: str) -> str:
    """Returns a text that UTF-8 can hold; file names may have bytes that are none of its characters."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
