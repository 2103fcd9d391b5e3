"""What a radiograph says of itself before its pixels are read."""

from dataclasses import dataclass

from glimpse.sources.base import ImageReadError
from glimpse.sources.windows import Window

REMEDY = "Copy the file again and compare its size with the original's, or leave the case out (on_error=skip)."


@dataclass(frozen=True)
class Header:
    """What is known of a radiograph before its pixels are decoded.

    Attributes:
        shape: pixels, (height, width).
        spacing: millimetres per pixel (y, x), or None where the file does not say.
        slope: a stored value ``x`` means ``slope x + intercept``.
        intercept: see ``slope``.
        window: maps meant values to [0, 1]; None where the file states none.
        inverted: whether low values are shown white (MONOCHROME1).
        complete: whether the file is known to hold all of its pixels; otherwise only reading them tells.
    """

    shape: tuple[int, int]
    spacing: tuple[float, float] | None = None
    slope: float = 1.0
    intercept: float = 0.0
    window: Window | None = None
    inverted: bool = False
    complete: bool = False


def damaged(path: object, error: object) -> ImageReadError:
    """The error for a radiograph that cannot be read."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageReadError(f"{path}: cannot be read ({reason}). It is probably truncated or damaged. {REMEDY}")


def one_frame(path: object, frames: int, frame: int | None) -> int:
    """The index of the frame to read, 0 for a file of one.

    Raises:
        ValueError: the file holds several and none is chosen, or it has no such frame.
    """
    if frames > 1 and frame is None:
        raise ValueError(
            f"{path}: it holds {frames} frames, a radiograph is one. Choose it with the option frame=0 to {frames - 1}."
        )
    if not 0 <= (frame or 0) < max(frames, 1):
        raise ValueError(f"{path}: frame={frame}, but its {frames} frames are numbered from 0.")
    return frame or 0
