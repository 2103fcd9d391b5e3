"""Lets environments of any class be used in `GlimpseVecEnv`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from glimpse.contract.protocol import contract_of
from glimpse.spaces import Action


@dataclass
class EpisodeProgress:
    """The state of an episode, as `GlimpseVecEnv` needs it.

    Attributes:
        ended: True after the last action.
        truncated: Whether it was cut off, and did not end by its own rules.
        total: Sum of the rewards.
        steps: Number of actions.
    """

    ended: bool = False
    truncated: bool = False
    total: float = 0.0
    steps: int = 0


class SteppedLane:
    """Wraps an environment so that `GlimpseVecEnv` can use it like a `GlimpseEnv`.

    The environment is always stepped as a whole, wrappers included: `act` does a complete step, with the reading of the
    glimpse, and the other methods return parts of what the environment showed last.

    Args:
        env: An environment that has all that `glimpse.contract.protocol` lists.

    Raises:
        ProtocolError: The environment lacks something.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        parts = contract_of(env)
        self.env, self.layout, self.task = env, parts.layout, parts.task
        self.observation_space = parts.observation_space
        self._flat = isinstance(env.action_space, gymnasium.spaces.Box)
        self._observation: dict[str, Any] = {}
        self._info: dict[str, Any] = {}
        self._course: EpisodeProgress | None = None

    @property
    def episode(self) -> EpisodeProgress:
        """The current episode, or the one that ended last."""
        if self._course is None:
            raise ResetNeeded("No episode has begun yet: call reset() first.")
        return self._course

    @property
    def observation(self) -> dict[str, Any]:
        """The last observation of the environment."""
        return self._observation

    def begin(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> None:
        """Resets the environment and keeps its first observation."""
        self._observation, self._info = self.env.reset(seed=seed, options=dict(options) if options else None)
        self._course = EpisodeProgress()

    def act(self, action: Action, score: float = 0.0) -> float:
        """Steps the environment and returns its reward; `score` is not used, since the environment scores by itself."""
        if self.episode.ended:
            raise ResetNeeded("The episode has ended: call reset() before step().")
        flat = self.layout.pack(action.location, action.stop, action.prediction, action.zoom)
        written: Any = flat if self._flat else self.layout.to_dict(flat)
        self._observation, reward, terminated, truncated, self._info = self.env.step(written)
        course = self.episode
        course.ended, course.truncated = bool(terminated or truncated), bool(truncated and not terminated)
        course.total, course.steps = course.total + float(reward), course.steps + 1
        return float(reward)

    def case_views(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
        """Returns what stays in an episode: overview, foreground and extents, as `glimpse.spaces` describes them."""
        return self._observation["overview"], self._observation["foreground"], self._observation["extents"]

    def read_glimpse(self) -> NDArray[np.uint8]:
        """Returns the glimpse that the last step read: `(channel, *glimpse_size)`."""
        return self._observation["glimpse"]

    def location_and_remaining(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the last glimpse's location `(d,)` and the share of the budget that is left `(1,)`."""
        return self._observation["location"], self._observation["remaining"]

    def info(self) -> dict[str, Any]:
        """Returns the last info."""
        return dict(self._info)
