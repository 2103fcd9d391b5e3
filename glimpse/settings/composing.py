"""The configuration of a training from Python, as the command line would compose it."""

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from glimpse.plugins import load_plugins
from glimpse.settings.checking import checked


def composed(*overrides: str) -> DictConfig:
    """The configuration of `glimpse train` with some overrides, for `glimpse.train.train`.

    Args:
        *overrides: as on the command line, such as "env=wsi" or "joint.updates=9".

    Raises:
        SettingsError: a key does not exist.
    """
    load_plugins()
    with initialize_config_module("glimpse.configs", version_base="1.3"):
        config = compose("train", list(overrides))
    return OmegaConf.create(checked(OmegaConf.to_container(config, resolve=True), overrides))  # type: ignore[arg-type]
