"""pydicom, which is an optional extra: imported when the first DICOM file is opened."""

from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from glimpse.errors import MissingExtraError
from glimpse.sources.base import UnsupportedImageError, begins_as_dicom

INSTALL = 'pip install "glimpse-rl[dicom]"'


def require_pydicom() -> Any:
    """Imports pydicom and returns the module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module("pydicom")
    except ImportError as error:
        message = f"DICOM files need pydicom, which is not installed ({error}). Run: {INSTALL}"
        raise MissingExtraError(message) from error


def is_dicom(path: Path) -> bool:
    """Tells whether a file begins as DICOM files do, with or without the preamble of 128 bytes."""
    with open(path, "rb") as file:
        return begins_as_dicom(file.read(132))


def read_dataset(file: Path | BinaryIO, **options: Any) -> Any:
    """Reads a data set, also of a file without preamble.

    Such a file gets the transfer syntax that was found by reading it.

    Args:
        file: the file, or its path.
        **options: of `pydicom.dcmread`.

    Raises:
        MissingExtraError: pydicom is not installed.
        Exception: pydicom raises many kinds on damaged files.
    """
    pydicom = require_pydicom()
    data = pydicom.dcmread(file, force=True, **options)
    if data.file_meta.get("TransferSyntaxUID") is None:
        implicit, little = data.original_encoding
        uids = pydicom.uid
        explicit = uids.ExplicitVRLittleEndian if little else uids.ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = uids.ImplicitVRLittleEndian if implicit else explicit
    return data


def require_decoder(path: Path, syntax: Any) -> None:
    """Checks that pixels of a transfer syntax can be decoded here.

    Raises:
        UnsupportedImageError: nobody knows the syntax.
        MissingExtraError: the decoder is not installed.
    """
    pydicom = require_pydicom()
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError as error:
        raise UnsupportedImageError(
            f"{path}: its pixels are compressed in a way that cannot be read ({syntax.name}). Decompress it, e.g. with "
            "'gdcmconv --raw in.dcm out.dcm', or leave the case out (env.cohort.on_error=skip)."
        ) from error
    if not decoder.is_available:
        missing = ", ".join(decoder.missing_dependencies)
        raise MissingExtraError(f"{path}: {syntax.name} needs a decoder, none is installed ({missing}). Run: {INSTALL}")


def undecoded(syntax: Any) -> str:
    """Says what to do where the decoder of a transfer syntax fails on pixels that other programs may read."""
    return (
        f"If other programs show it, the decoder does not know this kind of {syntax.name}: decompress it, e.g. with "
        "'gdcmconv --raw in.dcm out.dcm'."
    )


def sop_class(path: Path) -> str | None:
    """Returns the UID of what a DICOM file holds, from its first group (PS3.10, 7.1), without pydicom.

    Returns:
        The UID, or None where the file is too damaged to say.
    """
    with open(path, "rb") as file:
        head = file.read(4096)
    head = head[132:] if head[128:132] == b"DICM" else head
    while len(head) >= 8 and head[:2] == b"\x02\x00":
        long = head[4:6] in (b"OB", b"OW", b"UN", b"UT")
        start = 12 if long else 8
        length = int.from_bytes(head[8:12] if long else head[6:8], "little")
        if head[2:4] == b"\x02\x00":
            return head[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
        head = head[start + length :]
    return None
