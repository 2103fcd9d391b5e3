"""The result of reading a case: predictions and costs, and on request everything that pictures need."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from glimpse.geometry import Frame
from glimpse.tasks import Task


@dataclass(frozen=True, eq=False)
class Trace:
    """What a reader saw during an episode, and where it wanted to look next; pictures and animations need it.

    Attributes:
        task: The task whose target was predicted.
        frame: The grid of the image at full resolution; it turns locations into pixels.
        overview: The overview, with values of 0 to 255.
        foreground: Where in the overview looking can make sense: 0 or 1.
        glimpses: The glimpses as they were read, in order.
        extents: The field of view of each glimpse, as a share of the image along each axis.
        cells: The probability that the next glimpse lies in each cell, whatever its field of view, before the first
            glimpse and after each glimpse; the last axes are those of the grid of cells over the overview.
        parents: For each glimpse, the index of the wide glimpse that showed its place; -1 where that was the overview.
        shown: The low and high corner of what each glimpse showed, in level-0 pixels of the frame; None where only its
            centre is known.
        chances: The probability of each glimpse's place among the places of the same field of view that there were
            then; the choice of the field of view is not part of it.
        without: For each glimpse the last prediction, as raw outputs, from all glimpses but this one.
    """

    task: Task
    frame: Frame
    overview: UInt8[np.ndarray, "channel *size"]
    foreground: UInt8[np.ndarray, "1 *size"]
    glimpses: UInt8[np.ndarray, "glimpse channel *glimpse_size"]
    extents: Float[np.ndarray, "glimpse d"]
    cells: Float[np.ndarray, "step *grid"]
    parents: Int[np.ndarray, " glimpse"]
    shown: Float[np.ndarray, "glimpse 2 d"] | None = None
    chances: Float[np.ndarray, " glimpse"] | None = None
    without: Float[np.ndarray, "glimpse output"] | None = None

    @property
    def sides(self) -> tuple[float, ...]:
        """Length of each axis of the image, in the unit of its spacing, or in pixels where it has none."""
        return self.frame.sides

    @property
    def look_sides(self) -> Float[np.ndarray, "glimpse d"]:
        """Length of each axis of each glimpse, in the same unit as `sides`: fields of view differ."""
        return self.extents * np.array(self.sides)


@dataclass(frozen=True, eq=False)
class Reading:
    """How one case was read, and what was answered.

    Attributes:
        id: The case's name.
        patient: The patient's name.
        target: The true answer, with which the prediction is compared; None where it is not known.
        prediction: The last prediction, as raw outputs of the network (logits in a classification).
        predictions: All predictions in order: the first one before any glimpse, then one after each glimpse. A reader
            that answers only once has one row.
        scanpath: Locations of the glimpses in [-1, 1], in order.
        zooms: The index of each glimpse's field of view in `Views.glimpse_extents`.
        glimpses: How many glimpses were read.
        share_read: `pixels_read` divided by the number of pixels in the foreground.
        pixels_read: Level-0 pixels that the glimpses cover, clipped to the image; overlaps count each time, and a
            glimpse that is wider than the finest counts like a finest one.
        seconds: Wall-clock time, reading of pixels included; of cases that were read together, their mean.
        hits: For each of the case's marks, whether any glimpse hit it; None where the case has no marks.
        trace: What was seen on the way; None unless it was asked for.
        multiply_adds: Of the networks (see `glimpse.reading.costs`); None where nobody has counted them.
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
    multiply_adds: int | None = None

    @property
    def hit_rate(self) -> float | None:
        """Share of the case's marks that were hit; None where the case has no marks."""
        return float(np.mean(self.hits)) if self.hits is not None and len(self.hits) else None

    @property
    def decisive(self) -> int | None:
        """Index of the glimpse that changed the prediction most; None where no glimpse was read."""
        changes = np.abs(np.diff(self.predictions, axis=0)).sum(1)
        return int(changes.argmax()) if len(changes) else None

    @property
    def traced(self) -> Trace:
        """The trace, for callers that need one.

        Raises:
            ValueError: The reading has no trace.
        """
        if self.trace is None:
            raise ValueError(f"{self.id}: this reading has no trace. Read the case with trace=True, by a policy.")
        return self.trace

    @property
    def boxes(self) -> Float[np.ndarray, "glimpse 2 d"]:
        """The low and high corner of what each glimpse showed, in level-0 pixels; needs a trace."""
        trace = self.traced
        if trace.shown is not None:
            return trace.shown
        centers, half = trace.frame.to_pixels(self.scanpath), trace.extents * np.array(trace.frame.shape) / 2
        return np.stack([centers - half, centers + half], axis=1)

    @property
    def gains(self) -> Float[np.ndarray, " glimpse"]:
        """How much nearer each glimpse has brought the answer to the last one; needs a trace.

        With p_t the probabilities (or quantities) after t glimpses, and T the last of them, it is
        ``|p_(t-1) - p_T| - |p_t - p_T|``, where ``|.|`` is the largest difference of any output. Of two classes, this
        is by how much the probability of the final answer has grown. Gains add up to ``|p_0 - p_T|``.
        """
        left = np.abs(self.probabilities - self.probabilities[-1:]).max(axis=1)
        return left[:-1] - left[1:]

    @property
    def contributions(self) -> Float[np.ndarray, "glimpse output"] | None:
        """What each glimpse has added to the last answer; needs a trace.

        With p the last probabilities (or quantities), and p_(-i) those that the answer would have been from all
        glimpses but the i-th, it is ``p - p_(-i)``. Where to look next is not chosen anew. None where it is not known.
        """
        without = self.traced.without
        return None if without is None else self.probabilities[-1:] - self.traced.task.probabilities(without)

    @property
    def probabilities(self) -> Float[np.ndarray, "step output"]:
        """All predictions as probabilities, or in the units of the target (see `Task.probabilities`); needs a trace."""
        return self.traced.task.probabilities(self.predictions)

    @property
    def captions(self) -> list[tuple[str, float]]:
        """For each prediction the text and the length of the bar that pictures show; needs a trace."""
        return [self.traced.task.caption(prediction) for prediction in self.predictions]


@dataclass(frozen=True, eq=False)
class Validated:
    """What a validation during training found; everything is empty where there are no validation cases.

    Attributes:
        scores: Numbers by name.
        scanpaths: A picture (height, width, 3) of each of a few cases, always the same ones, by the case's name.
        spreads: Numbers of all cases, for histograms, by name.
    """

    scores: dict[str, float] = field(default_factory=dict)
    scanpaths: dict[str, UInt8[np.ndarray, "height width 3"]] = field(default_factory=dict)
    spreads: dict[str, Float[np.ndarray, " _"]] = field(default_factory=dict)
