"""The rules of an episode: its rewards, its end, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    from glimpse.cohort import Case


GlimpseCost = float | Sequence[float]
"""What a glimpse costs, in units of the score: one number, or one for each field of view, in their order."""


def cost_of(cost: GlimpseCost, zoom: int) -> float:
    """Returns what a glimpse costs with the field of view at index `zoom`."""
    return float(cost[zoom]) if isinstance(cost, Sequence) else float(cost)


def checked_cost(cost: GlimpseCost, fields: int) -> float | tuple[float, ...]:
    """Returns the cost of a glimpse as an environment keeps it.

    Args:
        cost: The cost as it was given; also a list from a configuration.
        fields: Number of fields of view.

    Raises:
        ValueError: A cost is no number or below 0, or there are not as many of them as fields of view.
    """
    listed = isinstance(cost, Sequence | np.ndarray) and not isinstance(cost, str) and np.shape(cost) != ()
    given: list[Any] = np.asarray(cost, object).tolist() if listed else [cost]
    if not all(_is_number(one) and 0 <= one < np.inf for one in given):
        raise ValueError(f"Expected glimpse_cost to be a finite number, at least 0, got {cost!r}.")
    costs = tuple(float(one) for one in given)
    if listed and len(costs) != fields:
        raise ValueError(
            f"Expected glimpse_cost to be one number, or one for each of the {fields} fields of view, got {cost}."
        )
    return costs if listed else costs[0]


def _is_number(value: Any) -> bool:
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass
class Episode:
    """One pass over one case.

    Action t (t = 0, 1, ...) contains the prediction p_t, made from the overview and t glimpses. With s_t = score(p_t)
    and s_{-1} = 0, its reward is

        r_t = s_t - s_{t-1} - c [a glimpse is read now]

    where c is the cost of a glimpse, which may depend on its field of view. The rewards of an episode that ends with
    action T, after T glimpses, add up to s_T less the costs of these, which is s_T - c T where all cost the same. An
    episode ends with an action that stops, or with the first action after the budget is spent. This action reads no
    glimpse, so an episode has at most budget + 1 actions.

    Attributes:
        case: The case of the episode.
        budget: How many glimpses may be read.
        glimpse_cost: What each glimpse costs, in units of the score; or what one with each field of view costs.
        score: Score of the last prediction; 0, a blind guess, before the first.
        locations: Centres of the glimpses so far, in [-1, 1], each `(d,)`.
        zooms: Indices of their fields of view.
        ended: True after the last action.
        total: Sum of the rewards.
        steps: Number of actions.
    """

    case: Case
    budget: int
    glimpse_cost: GlimpseCost = 0.0
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
            location: `(d,)`, centre of the next glimpse; not used if the episode ends.
            stop: True ends the episode.
            zoom: Index of the field of view of the next glimpse.
        """
        reward = score - self.score
        self.score = score
        self.ended = bool(stop) or self.glimpses >= self.budget
        if not self.ended:
            self.locations.append(np.array(location, np.float32))
            self.zooms.append(int(zoom))
            reward -= cost_of(self.glimpse_cost, int(zoom))
        self.total += reward
        self.steps += 1
        return reward

    def scanpath(self, ndim: int) -> NDArray[np.float32]:
        """Returns the locations in order, float32 `(glimpses, d)`; `(0, d)` if no glimpse was read."""
        return np.array(self.locations, np.float32).reshape(-1, ndim)


class Ragged:
    """Holds an array of variable length in an info; it can be indexed, and passed to NumPy, like the array.

    Gymnasium's vector environments stack the arrays in infos, and fail if their lengths differ. Other objects they do
    not stack.
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
