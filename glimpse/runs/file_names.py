"""Names of files for cases, whatever the cases are called."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

_LONGEST = 120  # bytes; file systems take 255, and suffixes follow
_RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{i}" for name in ("com", "lpt") for i in range(1, 10))}  # on Windows


def file_names(cases: Sequence[str]) -> list[str]:
    """Returns for each case a name that files can have on every system, without suffix; no two are the same.

    A case that no file could be called after (its name holds "/", is very long, or differs from another one only in
    upper and lower case) gets a similar name with the beginning of a hash.
    """
    names, used = [], set()
    for case in cases:
        name = _possible(case)
        if name != case or _folded(name) in used:
            name = f"{name}-{_hash(case)}"
        while _folded(name) in used:  # another case is called so
            name = f"{name}-{_hash(name)}"
        used.add(_folded(name))
        names.append(name)
    return names


def _possible(name: str) -> str:
    """Returns a name of letters, digits, spaces and a few signs, which is not too long."""
    plain = re.sub(r"[^\w .+=@()\[\]-]", "_", unicodedata.normalize("NFC", name))
    plain = plain.encode("utf-8", "replace")[:_LONGEST].decode("utf-8", "ignore").rstrip(". ")
    plain = re.sub(r"^[. =+@-]+", "_", plain)  # neither hidden, nor an option of a command, nor a formula
    return "_" if not plain or plain.partition(".")[0].lower() in _RESERVED else plain


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
