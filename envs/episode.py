"""The rules of an episode: what is rewarded, what ends it, what is remembered of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    from glimpse.cohort import Case


@dataclass
class Episode:
    """One pass over one case.

    Action t (t = 0, 1, ...) carries the prediction p_t, made from the overview and t glimpses. With s_t = score(p_t)
    and s_{-1} = 0 its reward is the gain

        r_t = s_t - s_{t-1} - c [a glimpse is read now]

    where c is the cost of a glimpse. The sum telescopes: an episode that ends with action T after reading T glimpses
    returns s_T - c T, the final score less the cost of looking. It ends when the action stops, or when the budget is
    spent; nothing is read then, so an episode has at most budget + 1 actions.

    Attributes:
        case: What is looked at.
        budget: How many glimpses may be read.
        glimpse_cost: What each of them costs, in units of the score.
        score: Score of the last prediction; 0, a blind guess, before the first.
        locations: Centres of the glimpses read, in [-1, 1], each `(d,)`.
        zooms: Their fields of view, as indices.
        ended: True after the last action.
        total: Sum of the rewards.
        steps: Number of actions.
    """

    case: Case
    budget: int
    glimpse_cost: float = 0.0
    score: float = 0.0
    locations: list[NDArray[np.float32]] = field(default_factory=list)
    zooms: list[int] = field(default_factory=list)
    ended: bool = False
    total: float = 0.0
    steps: int = 0

    @property
    def glimpses(self) -> int:
        """Number of glimpses read."""
        return len(self.locations)

    def act(self, score: float, location: NDArray[np.float32], stop: bool, zoom: int = 0) -> float:
        """Takes one action and returns its reward.

        Args:
            score: Score of the action's prediction.
            location: `(d,)`, where the next glimpse is to be read unless the episode ends.
            stop: True ends the episode.
            zoom: Index of the field of view of the next glimpse.
        """
        reward = score - self.score
        self.score = score
        self.ended = bool(stop) or self.glimpses >= self.budget
        if not self.ended:
            self.locations.append(np.array(location, np.float32))
            self.zooms.append(int(zoom))
            reward -= self.glimpse_cost
        self.total += reward
        self.steps += 1
        return reward

    def scanpath(self, ndim: int) -> NDArray[np.float32]:
        """Returns the locations in order, float32 `(glimpses, d)`; `(0, d)` where nothing was read."""
        return np.array(self.locations, np.float32).reshape(-1, ndim)


class Ragged:
    """An array whose length differs from episode to episode; index it, or hand it to NumPy, like the array it holds.

    Gymnasium's vector environments stack the arrays they find in infos, and fail where lengths differ. They leave other
    objects as they are.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.array, dtype) if copy else np.asarray(self.array, dtype)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> Any:
        return self.array[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.array)

    def __eq__(self, other: object) -> bool:
        return np.array_equal(self.array, np.asarray(other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.array)
