"""Translates the settings of runs that an earlier version of glimpse has written into the names of today."""

from collections.abc import Mapping
from typing import Any

_TARGETS = {
    "glimpse.tasks.Several": "glimpse.tasks.MultiTask",
    "glimpse.envs.mnist.mnist_task": "glimpse.envs.glyphs.mnist_task",
    "glimpse.agents.overview.train_overview": "glimpse.agents.baselines.train_overview",
}
_MODULES = {
    "wsi": "wsi",
    "xray": "xray",
    "mri": "mri",
    "ct": "ct",
    "mnist": "megapixel_mnist",
    "cluttered_mnist": "cluttered_mnist",
    "relations": "relations",
}
"""For each environment module that `glimpse.envs` used to have, the name of its modality today."""


def is_earlier(settings: Mapping[str, Any]) -> bool:
    """Returns whether settings are from before recipes replaced the section `env.learning`."""
    return "_target_" not in settings.get("pretrain", {})


def upgraded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with the names of today, as far as loading a policy and evaluating it need them."""
    found: dict[str, Any] = _renamed(settings)
    if not is_earlier(settings):
        return found
    env = found["env"]
    for part, target in (("make", "make_modality"), ("cohort", "load_modality")):
        words = str(env[part]["_target_"]).split(".")
        if len(words) == 4 and words[:2] == ["glimpse", "envs"] and words[2] in _MODULES:
            env[part] |= {"_target_": f"glimpse.envs.modality.{target}", "modality": _MODULES[words[2]]}
    cohort = env["cohort"]
    cohort |= cohort.pop("options", {})
    cohort.get("synthetic", {}).pop("progress", None)
    return found


def _renamed(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _TARGETS.get(part, part) if key == "_target_" else _renamed(part) for key, part in node.items()}
    return [_renamed(part) for part in node] if isinstance(node, list) else node
