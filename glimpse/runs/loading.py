"""Saves a policy to a run folder, and loads it again without unpickling anything."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from glimpse.networks.policy import GlimpsePolicy
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from glimpse.runs.earlier import upgraded
from glimpse.settings.building import build
from glimpse.spaces import ActionLayout

POLICY_FILE, CONFIG_FILE = "policy.safetensors", "config.yaml"


def build_policy(network: Any, observation_space: spaces.Dict, layout: ActionLayout, **changes: Any) -> GlimpsePolicy:
    """Builds an untrained policy from the section `network` of a configuration; `changes` override its keys."""
    return build(network)(observation_space, layout.box_space(), layout=layout, **changes)


def save_policy(policy: GlimpsePolicy, path: str | os.PathLike[str]) -> None:
    """Writes the policy's parameters, together with the shapes that are needed to build the network again."""
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
    """Loads the policy of a run folder, in evaluation mode; its attribute `settings` holds the settings of the run.

    Args:
        run: the run folder.
        file: the file with the parameters, relative to the folder, such as "checkpoints/best.safetensors".
        device: where the policy computes.
        **changes: override keys of the section `network`, such as `overview_dropout=0`; the saved parameters must still
            fit the network.

    Raises:
        CheckpointError: the folder, its `config.yaml` or its parameters are missing or broken.
    """
    folder = Path(run)
    stored = read_settings(folder)
    if stored is None:
        raise CheckpointError(
            f"{folder}: not a run folder (it has no {CONFIG_FILE}). Give the folder that training wrote."
        )
    settings = upgraded(stored)
    checkpoint = Checkpoint.load(folder / file)
    layout = ActionLayout(**checkpoint.meta["layout"])
    policy = build_policy(
        settings["network"], _space(checkpoint.meta["observation"], layout.ndim, layout.zooms), layout, **changes
    )
    checkpoint.restore_module("policy", policy)
    policy.settings = settings
    policy.set_training_mode(False)
    return policy.to(device)


def read_settings(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Reads the settings of the run in a folder as they were written; None if it holds no run.

    Raises:
        CheckpointError: `config.yaml` cannot be read, or holds no settings.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        settings: Any = OmegaConf.to_container(OmegaConf.create(path.read_text(encoding="utf-8")), resolve=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}). Allow this user to read the run folder."
        ) from error
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({' '.join(str(error).split())}). Restore the file.") from error
    env = settings.get("env") if isinstance(settings, dict) else None
    if not isinstance(env, dict) or not {"make", "cohort"} <= env.keys():
        raise CheckpointError(f"{path}: these are not the settings of a run. Restore the file.")
    return settings


def _space(shapes: dict[str, list[int]], ndim: int, zooms: int) -> spaces.Dict:
    overview, glimpse = tuple(shapes["overview"]), tuple(shapes["glimpse"])
    return spaces.Dict({
        "overview": spaces.Box(0, 255, overview, np.uint8),
        "foreground": spaces.Box(0, 255, (1, *overview[1:]), np.uint8),
        "glimpse": spaces.Box(0, 255, glimpse, np.uint8),
        "location": spaces.Box(-1, 1, (ndim,), np.float32),
        "remaining": spaces.Box(0, 1, (1,), np.float32),
        "extents": spaces.Box(0, np.inf, (zooms, ndim), np.float32),
    })  # fmt: skip
