"""Chooses what stands out in a cohort: cases that were answered best and worst, and the most and least telling looks.

Both choices can be made while a cohort is read: what they return of some readings can be given to them again with the
next ones, and the result is that of all readings at once. So only few traces are in memory at a time.

    kept, looks = [], []
    for reading in reader.each(cases, trace=True):
        kept, looks = outermost([*kept, reading]), candidates([*looks, reading])
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8

from glimpse.reading.records import Reading

Item = TypeVar("Item")
CASES, LOOKS, PER_CASE = 3, 8, 2
_SPARE = 4  # candidates for each look that is shown: some of them are near duplicates
_SAME_BOX = 0.5  # intersection over union, from which on two looks of a case count as one
_SAME, _SAME_SHARE = 4.0, 0.25  # grey levels, and share of the contrast, up to which two glimpses look alike
_EQUAL = 1e-3  # share of a contribution, up to which another one is as large
_PIXELS = 64  # along each axis, at most, that are compared


# ---------------------------------------------------------------------------------------------- cases
def score_of(reading: Reading) -> tuple[float, float] | None:
    """Returns the score of an answer and, for answers of one score, minus its loss; None where it has no target.

    No score is below -1 (see `Task.score`), so that several wrong answers may have the same one. The reading needs a
    trace, which knows the task.
    """
    if reading.target is None:
        return None
    task, prediction = reading.traced.task, np.asarray(reading.prediction, np.float64)[None]
    target = task.stack([reading.target])
    score = float(task.score(prediction, target)[0])
    loss = float(task.loss(torch.from_numpy(prediction), torch.from_numpy(target))[0])
    return (score, -loss) if np.isfinite([score, loss]).all() else None


def outermost(readings: Iterable[Reading], count: int = CASES) -> list[Reading]:
    """Returns the cases that were answered best and worst, as many of each, from the best to the worst.

    Cases without a target are left out. Of fewer than ``2 * count`` cases all are returned.

    Args:
        readings: readings with traces; an iterator is read to its end, and only what is returned is kept.
        count: how many of the best, and how many of the worst.

    Raises:
        ValueError: `count` is below 1, or a reading has no trace.
    """
    known = ((scored, reading) for reading in readings if (scored := score_of(reading)) is not None)
    return [reading for _, reading in _ends(known, lambda one: (-one[0][0], -one[0][1]), count)]


def _ends(items: Iterable[Item], key: Callable[[Item], tuple[float, ...]], count: int) -> list[Item]:
    """Returns the first and the last `count` of the items in ascending order; equal ones stay in their order."""
    if count < 1:
        raise ValueError(f"expected a count of at least 1, got {count}.")
    kept: list[Item] = []
    for item in items:
        kept = sorted([*kept, item], key=key)
        if len(kept) > 2 * count:
            del kept[count]
    return kept


def halves(number: int, count: int) -> tuple[int, int]:
    """Returns how many of a sorted list's items are its first ones and its last ones: `count`, or half of them."""
    return min(count, (number + 1) // 2), min(count, number // 2)


# ---------------------------------------------------------------------------------------------- looks
@dataclass(frozen=True, eq=False)
class TellingLook:
    """A look, and what it has added to the last answer of its case.

    Attributes:
        id: the case's name.
        order: its place in the scanpath, from 1 on.
        count: how many looks the case has.
        column: the name of the probability (or quantity) to which it has added most (see `Task.pictured`).
        added: what it has added to it (see `Reading.contributions`).
        glimpse: what the agent saw.
        sides: length of each axis of the glimpse, in `unit`, or in level-0 pixels.
        unit: "um" or "mm"; None where the spacing is not known.
    """

    id: str
    order: int
    count: int
    column: str
    added: float
    glimpse: UInt8[np.ndarray, "channel *size"]
    sides: tuple[float, ...]
    unit: str | None

    @property
    def size(self) -> float:
        """How telling it is: by how much the answer would differ without it."""
        return abs(self.added)


def candidates(
    seen: Iterable[Reading | TellingLook], count: int = LOOKS, per_case: int = PER_CASE
) -> list[TellingLook]:
    """Returns the looks of which `telling` chooses some, from the most to the least telling one.

    They are the most and the least telling ones of each case that show different places, and of all cases so many as
    are enough where some of them are alike.

    Args:
        seen: readings with traces, and looks that this function has returned. Readings of which nothing is known of
            what looks have added are left out.
        count: how many of the most telling looks are shown in the end, and how many of the least telling ones.
        per_case: how many of each may be of one case.

    Raises:
        ValueError: `count` or `per_case` is below 1, or a reading has no trace.
    """
    if per_case < 1:
        raise ValueError(f"expected at least one look per case, got per_case={per_case}.")
    each = (look for one in seen for look in ([one] if isinstance(one, TellingLook) else _of_case(one, per_case)))
    return _ends(each, lambda look: (-look.size,), _SPARE * count)


def _of_case(reading: Reading, most: int) -> list[TellingLook]:
    """Returns the most and the least telling looks of a case."""
    trace, given = reading.traced, reading.contributions
    if given is None or not len(given) or not np.isfinite(given).all():
        return []
    pictured = list(trace.task.pictured)
    sizes = np.abs(given[:, pictured])
    near = sizes >= sizes.max(axis=1, keepdims=True) * (1 - _EQUAL) - 1e-6  # of two classes, both: the second is shown
    columns = [pictured[int(np.flatnonzero(row)[-1])] for row in near]
    order = np.argsort(-sizes.max(axis=1), kind="stable").tolist()
    first, last = halves(len(order), most)
    boxes = reading.boxes
    chosen = _apart(order[: len(order) - last], boxes, first)
    chosen += _apart([one for one in reversed(order) if one not in chosen], boxes, last, chosen)
    sides = (boxes[:, 1] - boxes[:, 0]) * np.asarray(trace.frame.spacing or 1.0)
    return [
        TellingLook(
            id=reading.id,
            order=index + 1,
            count=len(given),
            column=trace.task.columns[columns[index]],
            added=float(given[index, columns[index]]),
            glimpse=trace.glimpses[index].copy(),  # not the array of all of them
            sides=tuple(sides[index].tolist()),
            unit=trace.frame.unit,
        )
        for index in chosen
    ]


def _apart(
    order: Sequence[int], boxes: Float[np.ndarray, "glimpse 2 d"], count: int, taken: Sequence[int] = ()
) -> list[int]:
    """Returns the first `count` looks of an order that show other places than those before them, and than `taken`."""
    chosen: list[int] = []
    for one in order:
        if len(chosen) < count and all(_overlap(boxes[one], boxes[other]) < _SAME_BOX for other in (*taken, *chosen)):
            chosen.append(one)
    return chosen


def _overlap(one: Float[np.ndarray, "2 d"], other: Float[np.ndarray, "2 d"]) -> float:
    """Returns intersection over union of two boxes."""
    shared = np.maximum(np.minimum(one[1], other[1]) - np.maximum(one[0], other[0]), 0).prod()
    both = (one[1] - one[0]).prod() + (other[1] - other[0]).prod() - shared
    return float(shared / both) if both > 0 else 0.0


def telling(
    seen: Iterable[Reading | TellingLook], count: int = LOOKS, per_case: int = PER_CASE
) -> tuple[list[TellingLook], list[TellingLook]]:
    """Returns the most telling looks, the most telling one first, and the least telling ones, the least one first.

    They are chosen in turns from both ends of the list of `candidates`, whose arguments and errors these are. A glimpse
    that looks like one that was chosen before is left out. No look of the second list is more telling than one of the
    first.
    """
    left = candidates(seen, count, per_case)
    most: list[TellingLook] = []
    least: list[TellingLook] = []
    while left and (len(most) < count or len(least) < count):
        for chosen, end in ((most, 0), (least, -1)):
            while left and len(chosen) < count:
                look = left.pop(end)
                if sum(one.id == look.id for one in chosen) < per_case and not _shown(look, [*most, *least]):
                    chosen.append(look)
                    break
    return most, least


def _shown(look: TellingLook, shown: Sequence[TellingLook]) -> bool:
    return any(_alike(look.glimpse, one.glimpse) for one in shown)


def _alike(one: UInt8[np.ndarray, "..."], other: UInt8[np.ndarray, "..."]) -> bool:
    """Returns whether two glimpses differ by little, in grey levels and in comparison with their contrast."""
    if one.shape != other.shape:
        return False
    some = (slice(None), *(slice(None, None, -(-side // _PIXELS)) for side in one.shape[1:]))
    first, second = one[some].astype(np.float32), other[some].astype(np.float32)
    apart = float(np.sqrt(np.square(first - second).mean()))
    return apart <= max(_SAME, _SAME_SHARE * min(float(first.std()), float(second.std())))
