"""Random views of glimpses in training, for agents whose encoder learns."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from stable_baselines3.common.vec_env import VecEnv

from glimpse.learning.augment import glimpse_augment
from glimpse.networks.policy import GlimpsePolicy

View = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def random_view(env: VecEnv, policy: GlimpsePolicy, options: Mapping[str, Any] | None) -> View | None:
    """Returns what makes random views of glimpses, uint8 (glimpse, channel, *size); None without options.

    It is called with the glimpses and the indices of their fields of view. Wide ones are not moved, because what lies
    in their cells is looked at where it is. Its random numbers are PyTorch's global ones. Turns are made in the
    physical proportions of the first case's finest glimpses, or in those of their pixels where the environment does not
    say how large they are.

    Raises:
        SettingsError: an option does not fit the images.
    """
    if options is None:
        return None
    shape: Any = policy.observation_space["glimpse"].shape  # type: ignore[index]
    given = (shape, policy.encoder.background, options, _sides(env))
    augment, finest = glimpse_augment(*given), policy.layout.zooms - 1

    def view(glimpses: torch.Tensor, zoom: torch.Tensor) -> torch.Tensor:
        # Ranks draw the same numbers, and do not have the same fields of view.
        return augment.whole_pixels(glimpses, torch.default_generator, zoom == finest if finest else None)

    return view


def _sides(env: VecEnv) -> tuple[float, ...] | None:
    try:
        views, cases = (env.get_attr(name, [0])[0] for name in ("views", "cases"))
    except AttributeError:
        return None
    return None if views is None else views.sides(cases[0].source, -1)
