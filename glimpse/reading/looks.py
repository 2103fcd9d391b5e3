"""The looks of a reading one by one: where each lies in the file, and what the answer was after it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glimpse.reading.records import Reading

DIGITS = 6  # of probabilities and gains, where they are written down


@dataclass(frozen=True)
class Look:
    """One look of a reading: a glimpse, where it lies, and what it changed.

    Attributes:
        order: its place in the scanpath, from 1 on.
        level: the index of its field of view; 0 is the widest.
        inside: the order of the wide look that showed its place; 0 where that was the overview, or where nothing did.
        low: its low corner in level-0 pixels of the file, in the order of the image's axes.
        high: its high corner.
        answer: the probabilities (or quantities) after it, by the name of their column.
        gain: how much nearer it has brought the answer to the last one (see `Reading.gains`).
        chance: the probability with which the locator chose its place; None where it is not known.
        spacing: the size of a pixel as it was seen, per axis in `unit`.
        unit: "um" or "mm"; "px", level-0 pixels, where the spacing of the image is not known.
    """

    order: int
    level: int
    inside: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    answer: dict[str, float]
    gain: float
    chance: float | None
    spacing: tuple[float, ...]
    unit: str

    @property
    def size(self) -> tuple[float, ...]:
        """Level-0 pixels that it spans along each axis."""
        return tuple(high - low for low, high in zip(self.low, self.high, strict=True))


def looks_of(reading: Reading, offset: Sequence[int] = ()) -> list[Look]:
    """Returns the looks of a reading, in order.

    Args:
        reading: a reading with a trace.
        offset: level-0 pixels of the file that lie before the image, per axis (see `ImageSource.offset`).

    Raises:
        ValueError: the reading has no trace.
    """
    trace, gains, after = reading.traced, reading.gains, reading.probabilities[1:]
    boxes = reading.boxes + np.asarray(offset or (0,) * reading.scanpath.shape[1], np.float64)
    spacings = (boxes[:, 1] - boxes[:, 0]) / trace.glimpses.shape[2:] * np.asarray(trace.frame.spacing or 1.0)
    return [
        Look(
            order=index + 1,
            level=int(reading.zooms[index]),
            inside=int(trace.parents[index]) + 1,
            low=tuple(boxes[index, 0].tolist()),
            high=tuple(boxes[index, 1].tolist()),
            answer=dict(zip(trace.task.columns, _rounded(after[index]), strict=True)),
            gain=round(float(gains[index]), DIGITS),
            chance=None if trace.chances is None else round(float(trace.chances[index]), DIGITS),
            spacing=tuple(_rounded(spacings[index])),
            unit=trace.frame.unit or "px",
        )
        for index in range(reading.glimpses)
    ]


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), DIGITS) for value in values]


def spacing_text(spacing: Sequence[float]) -> str:
    """Returns the size of a pixel as tables have it, such as "0.5 x 0.5"."""
    return " x ".join(f"{value:g}" for value in spacing)


def plain_number(value: float) -> int | float:
    """Returns a whole number as an int, and others rounded, so that files hold no digits that mean nothing."""
    rounded = round(value, DIGITS)
    return int(rounded) if rounded == int(rounded) else rounded
