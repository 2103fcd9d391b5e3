"""Composes the configuration of a training in Python, exactly as the command line does."""

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from glimpse.plugins import load_plugins
from glimpse.settings.checking import checked


def composed(*overrides: str) -> DictConfig:
    """Returns the configuration of `glimpse train` with some overrides; `glimpse.train.train` takes it.

    Args:
        *overrides: settings as on the command line, such as "env=wsi" or "joint.updates=9".

    Raises:
        SettingsError: a key does not exist.
    """
    load_plugins()
    running = GlobalHydra.instance().hydra  # of a command, which may compose settings of a training, too
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("glimpse.configs", version_base="1.3"):
            config = compose("train", list(overrides))
    finally:
        GlobalHydra.instance().hydra = running
    return OmegaConf.create(checked(OmegaConf.to_container(config, resolve=True), overrides))  # type: ignore[arg-type]
