"""What a radiograph says of itself before its pixels are read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glimpse.sources.base import UnsupportedImageError
from glimpse.sources.pictures.stored import Stored
from glimpse.sources.windows import LinearWindow, Window


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


def coloured(path: object, what: str) -> UnsupportedImageError:
    """Returns the error for a picture in colours."""
    return UnsupportedImageError(
        f"{path}: it is coloured ({what}), a radiograph is grey. Choose env=photo for photographs; if it is a "
        "radiograph nevertheless, convert it, e.g. with 'magick in.png -colorspace Gray out.png'; otherwise correct "
        "the path."
    )


def palette_window(greys: np.ndarray) -> LinearWindow:
    """Returns the window of a picture with a palette of greys: of 8 bits, or of 16 if there are values above 255."""
    return LinearWindow(0.0, 255.0 if greys.max() <= 255 else 65535.0)


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
