"""Writes settings as they must be typed, so that messages name commands that work when pasted; and quotes paths."""

import os
import re
import shlex
from collections.abc import Iterable, Sequence

_PLAIN = re.compile(r"(?!\.[0-9])[A-Za-z_/.][A-Za-z0-9_/.-]*")  # neither the shell nor Hydra reads more in these
_WHOLE = re.compile(r"[0-9]+")  # which Hydra reads as a number
_WORDS = ("true", "false", "null", "nan", "inf")  # which Hydra does not read as texts
_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--info", "-i", "--experimental-rerun", "--config-path", "-cp",
               "--config-name", "-cn", "--config-dir", "-cd")  # options of Hydra that a word follows  # fmt: skip


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


def with_paths(arguments: Sequence[str], key: str, several: bool = False) -> list[str]:
    """Returns arguments in which paths that were typed without a key are the value of a setting, quoted for Hydra.

    What has no "=" counts as a path, and so does what has one and exists. Where the setting itself was typed, too, or
    there are several paths for a setting of one, nothing changes: Hydra names what it cannot read.

    Args:
        arguments: what was typed after the command.
        key: of the setting.
        several: whether its value may be a list.
    """
    before = ["", *arguments]
    bare = [
        place
        for place, (one, last) in enumerate(zip(arguments, before, strict=False))
        if one
        and not one.startswith(("-", "+"))
        and last not in _WITH_VALUE
        and ("=" not in one or os.path.exists(one))
    ]
    if not bare or (len(bare) > 1 and not several) or any(one.startswith(f"{key}=") for one in arguments):
        return list(arguments)
    quoted = [f'"{_escaped(arguments[place])}"' for place in bare]
    value = quoted[0] if len(quoted) == 1 else f"[{','.join(quoted)}]"
    return [f"{key}={value}", *(one for place, one in enumerate(arguments) if place not in bare)]
