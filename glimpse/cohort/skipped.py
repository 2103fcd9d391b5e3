"""Cases that were left out of a cohort, and their table in a run folder."""

import csv
import io
import os
from collections.abc import Sequence

from glimpse.atomic import write_atomically

FAILURES_FILE = "failures.csv"


class Skipped(str):
    """A message about a case that was left out; it says which one.

    Attributes:
        case: the name of the case; empty where it is not known.
        path: its image, as the CSV calls it, or where it was opened.
        error: the kind of error, such as "ImageReadError".
    """

    case: str
    path: str
    error: str

    def __new__(cls, message: str, case: str = "", path: str = "", error: str = "") -> "Skipped":
        made = super().__new__(cls, message)
        made.case, made.path, made.error = case, path, error
        return made


def write_failures(path: str | os.PathLike[str], skipped: Sequence[Skipped]) -> None:
    """Writes a CSV with the columns ``slide_id,path,error,reason``, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("slide_id", "path", "error", "reason"))
    writer.writerows((one.case, one.path, one.error, str(one)) for one in skipped)
    write_atomically(path, text.getvalue())
