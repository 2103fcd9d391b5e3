"""What came of reading a case: what was answered and what it cost, and on request all that pictures need."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from glimpse.geometry import Frame
from glimpse.tasks import Task


@dataclass(frozen=True, eq=False)
class Trace:
    """What a reader saw and thought on the way, for pictures and animations.

    Attributes:
        task: What was asked.
        frame: The grid of the image at full resolution; it turns locations into pixels.
        overview: What the reader saw first.
        foreground: Where in the overview looking can make sense: 0 or 1.
        glimpses: The glimpses as they were read, in order.
        extents: Their fields of view as shares of the image, per axis.
        cells: The probability of looking at each cell next, after each prefix of glimpses; the axes of the overview's
            grid of cells come last.
    """

    task: Task
    frame: Frame
    overview: UInt8[np.ndarray, "channel *size"]
    foreground: UInt8[np.ndarray, "1 *size"]
    glimpses: UInt8[np.ndarray, "glimpse channel *glimpse_size"]
    extents: Float[np.ndarray, "glimpse d"]
    cells: Float[np.ndarray, "step *grid"]

    @property
    def sides(self) -> tuple[float, ...]:
        """Lengths of the image's axes, in its unit or in pixels."""
        return self.frame.sides

    @property
    def glimpse_sides(self) -> tuple[float, ...] | None:
        """Lengths of the first glimpse's axes, likewise; None where there is no glimpse."""
        return tuple((self.extents[0] * self.sides).tolist()) if len(self.extents) else None


@dataclass(frozen=True, eq=False)
class Reading:
    """How one case was read, and what was answered.

    Attributes:
        id: The case's name.
        patient: The patient's name.
        target: What the prediction is held against; None where it is not known.
        prediction: The last answer, raw scores.
        predictions: The answer after each prefix of glimpses, the first from the overview alone. A reader that answers
            only once has one row.
        scanpath: Locations of the glimpses in [-1, 1], in order.
        zooms: Which field of view each glimpse had.
        glimpses: How many were read.
        share_read: Pixels read over pixels of the foreground.
        pixels_read: Level-0 pixels that the glimpses cover.
        seconds: Wall-clock time, reading included.
        hits: Which of the case's marks some glimpse hit; None where it has no marks.
        trace: What was seen on the way; None unless it was asked for.
    """

    id: str
    patient: str
    target: Any
    prediction: Float[np.ndarray, " output"]
    predictions: Float[np.ndarray, "step output"]
    scanpath: Float[np.ndarray, "glimpse d"]
    zooms: Int[np.ndarray, " glimpse"]
    glimpses: int
    share_read: float
    pixels_read: int
    seconds: float
    hits: Bool[np.ndarray, " mark"] | None = None
    trace: Trace | None = None

    @property
    def hit_rate(self) -> float | None:
        """Share of the case's marks that were hit; None where it has none."""
        return float(np.mean(self.hits)) if self.hits is not None and len(self.hits) else None

    @property
    def decisive(self) -> int | None:
        """The glimpse that changed the answer most, counted from 0; None where there is none."""
        changes = np.abs(np.diff(self.predictions, axis=0)).sum(1)
        return int(changes.argmax()) if len(changes) else None

    @property
    def traced(self) -> Trace:
        """The trace, for what cannot do without one.

        Raises:
            ValueError: None was kept.
        """
        if self.trace is None:
            raise ValueError(f"{self.id}: this reading has no trace. Read the case with trace=True, by a policy.")
        return self.trace

    @property
    def probabilities(self) -> Float[np.ndarray, "step output"]:
        """The answers as probabilities, or in the units of the target (see `Task.probabilities`); needs a trace."""
        return self.traced.task.probabilities(self.predictions)

    @property
    def captions(self) -> list[tuple[str, float]]:
        """What pictures say of each answer, a text and the length of a bar; needs a trace."""
        return [self.traced.task.caption(prediction) for prediction in self.predictions]
