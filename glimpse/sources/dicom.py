"""pydicom, which is an optional extra: imported when the first DICOM file is opened."""

from importlib import import_module
from pathlib import Path
from typing import Any

from glimpse.errors import MissingExtraError

INSTALL = 'pip install "glimpse-rl[dicom]"'


def require_pydicom() -> Any:
    """The module `pydicom`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module("pydicom")
    except ImportError as error:
        message = f"DICOM files need pydicom, which is not installed ({error}). Run: {INSTALL}"
        raise MissingExtraError(message) from error


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def sop_class(path: Path) -> str | None:
    """The UID of what a DICOM file holds, from its first group (PS3.10, 7.1); needs no pydicom.

    Returns:
        The UID, or None where the file is too damaged to say.
    """
    with open(path, "rb") as file:
        head = file.read(4096)[132:]
    while len(head) >= 8 and head[:2] == b"\x02\x00":
        long = head[4:6] in (b"OB", b"OW", b"UN", b"UT")
        start = 12 if long else 8
        length = int.from_bytes(head[8:12] if long else head[6:8], "little")
        if head[2:4] == b"\x02\x00":
            return head[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
        head = head[start + length :]
    return None
