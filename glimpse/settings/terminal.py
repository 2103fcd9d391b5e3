"""Texts as a terminal may show them: names of files and cases may hold characters that move its cursor or colour it."""

import os
import sys


def printable(text: str) -> str:
    """Returns a text in one line that a terminal shows as it is: control characters are escaped."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def put_out(text: str) -> None:
    """Prints a text; where nothing can be written any more, as on a full disk, the command ends in one line."""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        if not isinstance(error, BrokenPipeError):  # nobody reads any more
            print(f"glimpse: what is printed cannot be written ({error.strerror}).", file=sys.stderr)
        sys.exit(2)


def printable_lines(text: str) -> str:
    """Returns a text of one or more lines, each of them `printable`."""
    return "\n".join(printable(line) for line in text.split("\n"))
