"""Says where progress is shown: in bars on a terminal, in lines of text elsewhere."""

import sys

from glimpse.ranks.group import first


def silent(progress: bool) -> bool | None:
    """Returns what `tqdm` takes as `disable`: True hides a bar; None shows it on a terminal only, not in a log file.

    Args:
        progress: whether bars were asked for; commands do so, functions of the library do not by themselves.
    """
    return None if progress and first() else True


def say(line: str, progress: bool) -> None:
    """Writes a line to the standard error where bars were asked for and no terminal shows them, such as in a log file.

    Args:
        line: what to say.
        progress: as of `silent`.
    """
    if progress and first() and not sys.stderr.isatty():
        print(f"glimpse: {line}", file=sys.stderr, flush=True)
