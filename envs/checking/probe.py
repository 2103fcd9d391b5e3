"""Steps an environment with known actions and records what it returns; for the contract checker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from glimpse.spaces import Action, ActionLayout

LONGEST = 8  # steps of an episode if the budget is not known
_UNSURE = 0.03  # largest prediction tried, in units of the limit; larger ones may all have the lowest score


class NotCheckedError(Exception):
    """A rule cannot be checked on this environment; the message says why."""


@dataclass
class ProbedEpisode:
    """The record of one episode, or of its first steps.

    Attributes:
        observations: The observation of the reset, then one per step.
        actions: The actions, one per step.
        rewards: The rewards, one per step.
        infos: The info of the reset, then one per step.
        ended: Whether the environment ended the episode.
    """

    observations: list[dict[str, Any]]
    infos: list[dict[str, Any]]
    actions: list[Action] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    ended: bool = False

    @property
    def reads(self) -> int:
        """Number of steps that read a glimpse: all except the one that ended the episode."""
        return len(self.actions) - self.ended


class Probe:
    """Resets and steps an environment, whose actions may be dictionaries or flat.

    Args:
        env: The environment.
        seed: Seed of the resets and of the random actions.
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
        """The budget of an episode, or None if the environment has no attribute `max_glimpses`."""
        try:
            return int(self.attribute("max_glimpses"))
        except NotCheckedError:
            return None

    def attribute(self, name: str) -> Any:
        """Returns an attribute of the environment or of its wrappers.

        Raises:
            NotCheckedError: There is no such attribute.
        """
        if not self.env.has_wrapper_attr(name):
            raise NotCheckedError(f"the environment has no attribute `{name}`")
        return self.env.get_wrapper_attr(name)

    def actions(self, count: int) -> list[Action]:
        """Returns random actions that do not stop; they are the same at every call.

        Locations are not near edges or diagonals, so that swapping their axes gives another place.
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
        """Resets the environment and returns the info."""
        return dict(self.env.reset(seed=seed, options=None if options is None else dict(options))[1])

    def run(self, actions: Sequence[Action] | None = None, options: Mapping[str, Any] | None = None) -> ProbedEpisode:
        """Resets the environment with the seed, and takes actions until the episode ends or there are no more.

        Args:
            actions: The actions to take; None takes random ones, as many as the budget allows.
            options: The options of the reset.
        """
        if actions is None:
            actions = self.actions(LONGEST if self.budget is None else self.budget + 1)
        observation, info = self.env.reset(seed=self.seed, options=None if options is None else dict(options))
        trace = ProbedEpisode([deepcopy(observation)], [dict(info)])
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
