"""A trained policy from its run folder, without unpickling anything."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from glimpse.networks.policy import GlimpsePolicy
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from glimpse.spaces import ActionLayout

POLICY_FILE, CONFIG_FILE = "policy.safetensors", "config.yaml"


def build_policy(network: Any, observation_space: spaces.Dict, layout: ActionLayout, **changes: Any) -> GlimpsePolicy:
    """An untrained policy from the `network` part of a configuration; `changes` take the place of keys of it."""
    return instantiate(network)(observation_space, layout.box_space(), layout=layout, **changes)


def save_policy(policy: GlimpsePolicy, path: str | os.PathLike[str]) -> None:
    """Writes the parameters with the shapes needed to build the network again."""
    space = policy.observation_space
    assert isinstance(space, spaces.Dict)
    layout = policy.layout
    checkpoint = Checkpoint(meta={
        "observation": {name: list(space[name].shape or ()) for name in ("overview", "glimpse")},
        "layout": {"ndim": layout.ndim, "outputs": layout.outputs, "zooms": layout.zooms, "limit": layout.limit},
    })  # fmt: skip
    checkpoint.add_module("policy", policy)
    checkpoint.save(path)


def load(run: str | os.PathLike[str], file: str = POLICY_FILE, device: str = "cpu", **changes: Any) -> GlimpsePolicy:
    """The policy of a run folder, in evaluation mode.

    Its `config` is the run's configuration. `file` may name another checkpoint of the folder. `changes` take the place
    of keys of the configuration's network, such as `overview_dropout=0`; the saved parameters must still fit.

    Raises:
        CheckpointError: the folder, its `config.yaml` or its parameters are missing or broken.
    """
    folder = Path(run)
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{folder}: not a run folder (it has no {CONFIG_FILE}). Give the folder that training wrote."
        )
    config = OmegaConf.load(folder / CONFIG_FILE)
    assert isinstance(config, DictConfig)
    checkpoint = Checkpoint.load(folder / file)
    layout = ActionLayout(**checkpoint.meta["layout"])
    policy = build_policy(config.network, _space(checkpoint.meta["observation"], layout.ndim), layout, **changes)
    checkpoint.restore_module("policy", policy)
    policy.config = config
    policy.set_training_mode(False)
    return policy.to(device)


def _space(shapes: dict[str, list[int]], ndim: int) -> spaces.Dict:
    overview, glimpse = tuple(shapes["overview"]), tuple(shapes["glimpse"])
    return spaces.Dict({
        "overview": spaces.Box(0, 255, overview, np.uint8),
        "foreground": spaces.Box(0, 255, (1, *overview[1:]), np.uint8),
        "glimpse": spaces.Box(0, 255, glimpse, np.uint8),
        "location": spaces.Box(-1, 1, (ndim,), np.float32),
        "remaining": spaces.Box(0, 1, (1,), np.float32),
    })  # fmt: skip
