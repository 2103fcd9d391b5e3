"""Steps an environment with known actions and writes down what comes back; for the contract checker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from glimpse.spaces import Action, ActionLayout

LONGEST = 8  # steps of an episode where the budget is not known
_UNSURE = 0.03  # largest prediction tried, in units of the limit: scores of surer ones may be cut off, and all be equal


class NotCheckedError(Exception):
    """A rule cannot be checked on this environment; the message says why."""


@dataclass
class Trace:
    """One episode, or its beginning.

    Attributes:
        observations: The reset's, then one per step.
        actions: What was done, one per step.
        rewards: One per step.
        infos: The reset's, then one per step.
        ended: Whether the environment ended it.
    """

    observations: list[dict[str, Any]]
    infos: list[dict[str, Any]]
    actions: list[Action] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    ended: bool = False

    @property
    def reads(self) -> int:
        """Number of steps that read a glimpse: all, but for the one that ended the episode."""
        return len(self.actions) - self.ended


class Probe:
    """Talks to an environment, whether its actions are dictionaries or flat.

    Args:
        env: The environment.
        seed: Of resets and of the actions tried.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0) -> None:
        self.env, self.seed = env, seed
        space = env.action_space
        self.flat = isinstance(space, gymnasium.spaces.Box)
        if not self.flat and not isinstance(space, gymnasium.spaces.Dict):
            raise ValueError(f"expected actions as a Dict, or a Box by FlattenAction, got {space}")
        self.layout = self.attribute("layout") if self.flat else ActionLayout.from_space(space)  # type: ignore[arg-type]
        wanted = self.layout.box_space() if self.flat else self.layout.dict_space()
        if space != wanted:
            raise ValueError(f"expected actions as {wanted}, got {space}")

    @property
    def budget(self) -> int | None:
        """The budget of an episode, or None where the environment does not tell."""
        try:
            return int(self.attribute("max_glimpses"))
        except NotCheckedError:
            return None

    def attribute(self, name: str) -> Any:
        """Returns an attribute of the environment, looked for through its wrappers."""
        if not self.env.has_wrapper_attr(name):
            raise NotCheckedError(f"the environment has no attribute `{name}`")
        return self.env.get_wrapper_attr(name)

    def actions(self, count: int) -> list[Action]:
        """Returns random actions that do not stop, the same ones every time.

        Locations keep off the edges and the diagonals, so that no two orders of axes say the same.
        """
        rng = np.random.default_rng(self.seed)
        layout = self.layout
        signs = np.array([[1, -1][axis % 2] for axis in range(layout.ndim)]) * rng.choice([-1, 1], (count, 1))
        locations = (rng.uniform(0.1, 0.8, (count, layout.ndim)) * signs).astype(np.float32)
        predictions = rng.uniform(-_UNSURE, _UNSURE, (count, layout.outputs)) * layout.limit
        zooms = np.arange(count) % layout.zooms
        return [
            layout.unpack(layout.pack(location, False, prediction, zoom))
            for location, prediction, zoom in zip(locations, predictions, zooms, strict=True)
        ]

    def reset(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Resets and returns the info."""
        return dict(self.env.reset(seed=seed, options=None if options is None else dict(options))[1])

    def run(self, actions: Sequence[Action] | None = None, options: Mapping[str, Any] | None = None) -> Trace:
        """Runs an episode from the seed, to its end or to the end of the actions.

        Args:
            actions: What to do; None is random actions, as many as the budget allows.
            options: Of the reset.
        """
        if actions is None:
            actions = self.actions(LONGEST if self.budget is None else self.budget + 1)
        observation, info = self.env.reset(seed=self.seed, options=None if options is None else dict(options))
        trace = Trace([deepcopy(observation)], [dict(info)])
        for action in actions:
            observation, reward, terminated, truncated, info = self.env.step(self._written(action))
            trace.observations.append(deepcopy(observation))
            trace.infos.append(dict(info))
            trace.actions.append(action)
            trace.rewards.append(float(reward))
            trace.ended = bool(terminated or truncated)
            if trace.ended:
                break
        return trace

    def _written(self, action: Action) -> Any:
        flat = self.layout.pack(action.location, action.stop, action.prediction, action.zoom)
        return flat if self.flat else self.layout.to_dict(flat)
