"""Writes settings as they must be typed, so that messages name commands that work when they are pasted."""

import os
import re
import shlex
from collections.abc import Iterable

_PLAIN = re.compile(r"(?!\.[0-9])[A-Za-z_/.][A-Za-z0-9_/.-]*")  # neither the shell nor Hydra reads more in these
_WHOLE = re.compile(r"[0-9]+")  # which Hydra reads as a number
_WORDS = ("true", "false", "null", "nan", "inf")  # which Hydra does not read as texts


def plain(text: str) -> bool:
    """Returns whether a text can be typed as it is: the shell and Hydra read it as the same text without quotes."""
    return bool(_PLAIN.fullmatch(text)) and text.lower() not in _WORDS


def typed_list(key: str, texts: Iterable[str]) -> str:
    """Returns `key=[text,text]` as it must be typed in a shell, as `typed`; whole numbers stay numbers."""
    quoted = (one if plain(one) or _WHOLE.fullmatch(one) else f'"{_escaped(one)}"' for one in texts)
    return shlex.quote(f"{key}=[{','.join(quoted)}]")


def _escaped(text: str) -> str:
    return re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text).replace("${", "\\${")


def typed(key: str, value: str | os.PathLike[str]) -> str:
    """Returns `key=value` as it must be typed in a shell, for a value that is a text; quoted only where necessary.

    Hydra reads characters such as "=", "," and "[" in values, and the shell reads spaces and quotes. The value is
    therefore quoted for Hydra, and the whole for the shell.
    """
    text = os.fspath(value)
    if plain(text):
        return f"{key}={text}"
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    given = f"{key}='" + escaped.replace("${", "\\${") + "'"
    return f'"{given}"' if not re.search(r'["$`\\!]', given) else shlex.quote(given)
