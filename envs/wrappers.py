"""A wrapper that makes actions flat."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from glimpse.envs.base import Observation
from glimpse.spaces import ActionLayout


class FlattenAction(gymnasium.ActionWrapper[Observation, NDArray[Any], dict[str, Any]], RecordConstructorArgs):
    """Takes actions as one vector in [-1, 1] in place of a dictionary, as Stable-Baselines3 algorithms need.

    The parts have the order of `ActionLayout`: location; stop (a number above 0 stops); zoom (the largest number is
    chosen; only with several fields of view); prediction, divided by `ActionLayout.limit`. `layout.pack` makes such
    vectors.

    Args:
        env: A `GlimpseEnv`, or any environment with the same action space.
    """

    def __init__(self, env: gymnasium.Env[Observation, dict[str, Any]]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.ActionWrapper.__init__(self, env)
        layout = getattr(env.unwrapped, "layout", None)
        self.layout: ActionLayout = layout or ActionLayout.from_space(env.action_space)  # type: ignore[arg-type]
        self.action_space = self.layout.box_space()

    def action(self, action: NDArray[Any]) -> dict[str, Any]:
        """Turns a flat action `(size,)` into the environment's dictionary."""
        return self.layout.to_dict(action)
