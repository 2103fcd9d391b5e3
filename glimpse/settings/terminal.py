"""What is printed.

Names of files and cases may hold characters that move a terminal's cursor or colour it, and the stream may take nothing
any more.
"""

import os
import sys
from typing import NoReturn


def printable(text: str) -> str:
    """Returns a text in one line that a terminal shows as it is: control characters are escaped."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def put_out(text: str) -> None:
    """Prints a text; where nothing can be written any more, as on a full disk, the command ends in one line."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        end_unread()
    except OSError as error:
        _print_no_more()
        print(f"glimpse: what is printed cannot be written ({error.strerror}).", file=sys.stderr)
        sys.exit(2)


def end_unread() -> NoReturn:
    """Ends a command whose output nobody reads any more, such as that of `glimpse | head -1`."""
    _print_no_more()
    sys.exit(1)


def _print_no_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends


def printable_lines(text: str) -> str:
    """Returns a text of one or more lines, each of them `printable`."""
    return "\n".join(printable(line) for line in text.split("\n"))
