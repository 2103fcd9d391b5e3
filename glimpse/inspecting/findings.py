"""What can be wrong with a case: the rules, what a finding says, and how it is written."""

from dataclasses import dataclass

from glimpse.errors import UserError
from glimpse.sources.base import ImageMemoryError

UNREADABLE, TILES, SPACING, SIZE, FOREGROUND = "unreadable", "tiles", "spacing", "size", "foreground"
TARGET, LEAK, COPY, TABLE, MASK, KILLED, SLOW, MEMORY, REMARK = (
    "target", "leak", "copy", "table", "mask", "killed", "slow", "memory", "remark",
)  # fmt: skip

RULES: dict[str, tuple[str, str]] = {
    TABLE: ("A cohort's CSV is complete and consistent.", "Correct the line in the CSV."),
    TARGET: ("Every case has a target that the task can read.", "Fill in or correct the target, or remove the line."),
    UNREADABLE: (
        "Every file is there, whole, and of a kind that is read.",
        "Copy the file again, or leave the case out (env.cohort.on_error=skip).",
    ),
    TILES: (
        "Every part of an image can be read.",
        "Copy the file again, or train with env.cohort.on_error=skip, which shows such parts as background.",
    ),
    KILLED: (
        "Reading an image does not end the process.",
        "Leave the case out: the file, or the library that reads it, is broken.",
    ),
    SLOW: ("An image is read in reasonable time.", "Look at the disk or network, or allow more time: timeout=1200."),
    MEMORY: (
        "Reading an image takes a bounded amount of memory.",
        "Look at the sizes that the file states, leave the case out, or use fewer workers.",
    ),
    SPACING: (
        "The size of a pixel is known and not contradictory.",
        "Write the micrometres per pixel into the column mpp of the CSV, or for all slides into env.cohort.mpp; for "
        "volumes and radiographs there is env.cohort.spacing, in millimetres.",
    ),
    SIZE: ("Glimpses fit into the image.", "Choose a smaller env.make.glimpse_extents, or leave the case out."),
    FOREGROUND: (
        "Something can be looked at in every image.",
        "Look at the thumbnail; leave the case out if nothing was scanned.",
    ),
    MASK: ("A mask can be read and fits its image.", "Correct the path of the mask, or empty the cell."),
    LEAK: (
        "No image and no patient is in two splits.",
        "Put all of them into one split, or remove the copies: what is tested would have been learned.",
    ),
    COPY: ("Every image is listed once.", "Remove the copies, unless they are meant to count several times."),
    REMARK: (
        "An image is as its file says, and nothing has to be put right when it is read.",
        "Look at the thumbnail, and go on if it shows what it should.",
    ),
}
"""Of each rule, what it asks for and what to do where it is broken; in the order in which findings are listed."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        rule: a key of `RULES`.
        what: what was found, as a clause without a full stop at its end.
        remedy: what to do; by default that of the rule.
        note: whether it is only worth knowing, so that a training would go on all the same.
    """

    rule: str
    what: str
    remedy: str = ""
    note: bool = False

    def __post_init__(self) -> None:
        assert self.rule in RULES, f"there is no rule {self.rule!r}"
        if not self.remedy:
            object.__setattr__(self, "remedy", RULES[self.rule][1])


def of_error(error: BaseException, path: str, rule: str = UNREADABLE) -> Finding:
    """Returns the finding for an error: its first sentence is what was found, the others are the remedy.

    Args:
        error: what reading has raised.
        path: the file; where the message begins with it, it is left out, since a finding names the file anyway.
        rule: the rule that is broken, unless the error says that it is another one.
    """
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return Finding(MEMORY, f"there is not enough memory for what the file says it holds ({text or 'no more said'})")
    rule = MEMORY if isinstance(error, ImageMemoryError) else rule
    if not isinstance(error, UserError):
        return Finding(rule, f"{type(error).__name__}: {text.rstrip('.') or 'it says no more'}")
    for name in sorted({path, path.rpartition("/")[2]}, key=len, reverse=True):
        text = text.removeprefix(f"{name}: ")
    what, _, remedy = text.partition(". ")
    return Finding(rule, what.rstrip("."), remedy)
