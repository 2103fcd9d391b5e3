"""pydicom, which is an optional extra: imported when the first DICOM file is opened."""

from importlib import import_module
from typing import Any

INSTALL = 'pip install "glimpse-rl[dicom]"'


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message says how to install it."""


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
