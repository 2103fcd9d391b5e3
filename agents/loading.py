"""Saving an agent in Stable-Baselines3's own file, and loading it again, with or without an environment."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv

from glimpse.agents.options import Options
from glimpse.errors import SettingsError
from glimpse.networks.policy import GlimpsePolicy
from glimpse.settings.options import flat, refuse_unknown

Self = TypeVar("Self", bound="SavedAgent")

_KEYWORDS = ("policy_kwargs", "stats_window_size", "tensorboard_log", "verbose", "seed", "learning_rate")
_OF_LOAD = ("env", "device", "custom_objects", "print_system_info", "force_reset")


class SavedAgent(OnPolicyAlgorithm):
    """What an agent needs so that it can be loaded without an environment, or with other options.

    Attributes:
        asked: The options as they were given; those that are None are filled in from the environment.
    """

    policy: GlimpsePolicy  # type: ignore[assignment]
    asked: Options
    options: Options

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Returns the names of the options that this agent has."""
        raise NotImplementedError

    @classmethod
    def parse_options(cls, options: Mapping[str, Any]) -> Options:
        """Checks options and sorts them into records."""
        raise NotImplementedError

    @classmethod
    def load(
        cls: type[Self],
        path: Any,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Loads an agent that `save` has written, as in Stable-Baselines3.

        Args:
            path: The file.
            env: Where it learns further; without one it can only predict, until `set_env` is called.
            device: Where it computes.
            custom_objects: As in Stable-Baselines3.
            print_system_info: As in Stable-Baselines3.
            force_reset: As in Stable-Baselines3.
            **kwargs: Options of the agent, and keywords such as `learning_rate`, that replace the saved ones.

        Raises:
            SettingsError: An option does not exist or has an impossible value, or the path is a run folder.
        """
        if isinstance(path, str | os.PathLike) and Path(path).is_dir():
            raise SettingsError(
                f"{path}: a folder, not a file that {cls.__name__}.save has written. The agent of a run folder is "
                f"loaded with glimpse.load({str(path)!r})."
            )
        refuse_unknown(kwargs, (*cls.option_names(), *_KEYWORDS), f"{cls.__name__}.load", besides=_OF_LOAD)
        changed = {name: kwargs.pop(name) for name in cls.option_names() if name in kwargs}
        if "stats_window_size" in kwargs:
            kwargs["_stats_window_size"] = kwargs.pop("stats_window_size")  # where Stable-Baselines3 keeps it
        model = super().load(
            path, env, device, custom_objects, print_system_info, force_reset, _changed=changed, **kwargs
        )
        for group in model.policy.optimizer.param_groups:  # these were loaded with the saved weight decay
            group["weight_decay"] = model.options.updates.weight_decay
        return model

    def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Saves the agent, as in Stable-Baselines3; a policy that the agent was given is saved with its structure."""
        if self._structure is not None:
            self._structure = _without_optimizer(self.policy)
        super().save(path, exclude, include)

    _structure: GlimpsePolicy | None = None  # a copy of the policy, where it cannot be built from `policy_kwargs`
    _changed: Mapping[str, Any] = {}  # options that `load` was given

    def _apply_changes(self) -> None:
        """Replaces the saved options by those that `load` was given."""
        saved = {name: value for name, value in flat(self.asked).items() if name in self.option_names()}
        self.asked = self.options = self.parse_options({**saved, **self._changed})
        self._changed = {}
        losses = self.asked.losses
        self.gae_lambda, self.ent_coef, self.vf_coef = losses.gae_lambda, losses.ent_coef, losses.vf_coef
        self.max_grad_norm = self.asked.updates.max_grad_norm


def _without_optimizer(policy: GlimpsePolicy) -> GlimpsePolicy:
    """Returns a copy of a policy on the CPU, without its optimizer."""
    optimizer, policy.optimizer = policy.optimizer, None  # type: ignore[assignment]
    try:
        return copy.deepcopy(policy).cpu()
    finally:
        policy.optimizer = optimizer
