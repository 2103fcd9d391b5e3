"""Texts as a terminal may show them: names of files and cases may hold characters that move its cursor or colour it."""


def printable(text: str) -> str:
    """Returns a text in one line that a terminal shows as it is: control characters are escaped."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def printable_lines(text: str) -> str:
    """Returns a text of one or more lines, each of them `printable`."""
    return "\n".join(printable(line) for line in text.split("\n"))
