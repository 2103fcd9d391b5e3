"""What a radiograph says of itself before its pixels are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glimpse.sources.base import ImageReadError, UnsupportedImageError, describe_content
from glimpse.sources.radiograph.stored import Stored
from glimpse.sources.windows import LinearWindow, Window

REMEDY = (
    "Copy the file again and compare its size with the original's, or leave the case out (env.cohort.on_error=skip)."
)


@dataclass(frozen=True)
class Header:
    """What is known of a radiograph before its pixels are decoded.

    Attributes:
        shape: pixels, (height, width).
        spacing: millimetres per pixel (y, x), or None where the file does not say.
        slope: a pixel ``x`` means ``slope x + intercept``.
        intercept: see ``slope``.
        windows: map meant values to [0, 1]; as many as the file states, the one to take by default first.
        inverted: whether low values are shown white (MONOCHROME1).
        stored: where its pixels lie uncompressed in the file; None where they have to be decoded.
        padding: the lowest and highest pixel, before slope and intercept, that say "nothing was measured here".
    """

    shape: tuple[int, int]
    spacing: tuple[float, float] | None = None
    slope: float = 1.0
    intercept: float = 0.0
    windows: tuple[Window, ...] = ()
    inverted: bool = False
    stored: Stored | None = None
    padding: tuple[float, float] | None = None


def damaged(path: object, error: object) -> ImageReadError:
    """Returns the error for a radiograph that cannot be read."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageReadError(f"{path}: cannot be read ({reason}). It is probably truncated or damaged. {REMEDY}")


def truncated(path: object, needed: int, size: int) -> ImageReadError:
    """Returns the error for a file that ends before its pixels do."""
    return damaged(path, f"its pixels reach to byte {needed:,}, the file ends at byte {size:,}")


def coloured(path: object, what: str) -> UnsupportedImageError:
    """Returns the error for a picture in colours."""
    return UnsupportedImageError(
        f"{path}: it is coloured ({what}), a radiograph is grey. If it is one nevertheless, convert it, e.g. with "
        "'magick in.png -colorspace Gray out.png'; otherwise correct the path."
    )


def palette_window(greys: np.ndarray) -> LinearWindow:
    """Returns the window of a picture with a palette of greys: of 8 bits, or of 16 if there are values above 255."""
    return LinearWindow(0.0, 255.0 if greys.max() <= 255 else 65535.0)


def unsupported(path: Path, rule: str, remedy: str) -> UnsupportedImageError:
    """Returns the error for a file that is whole but no radiograph."""
    return UnsupportedImageError(f"{path}: suffix {path.suffix!r} with {describe_content(path)}, {rule}. {remedy}")


def chosen_window(path: object, windows: Sequence[Window], choice: int | Sequence[float] | None) -> Window | None:
    """Returns the window that the option ``window`` chooses by its index or as (low, high).

    The option None chooses the first one; the result is None where there is none.

    Raises:
        UnsupportedImageError: the file states no window of that index.
        ValueError: (low, high) are not two increasing numbers.
    """
    if choice is None:
        return windows[0] if windows else None
    if isinstance(choice, int | np.integer):
        if not 0 <= choice < len(windows):
            raise UnsupportedImageError(
                f"{path}: window={choice}, but the file states {len(windows)}, numbered from 0. Choose one "
                "of these, or give two values, window=[low, high]."
            )
        return windows[int(choice)]
    values = [float(value) for value in choice]
    if len(values) != 2:
        raise ValueError(f"{path}: window={choice!r}; expected an index, or two values [low, high].")
    return LinearWindow(*values)
