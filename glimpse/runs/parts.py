"""Which classes and functions the settings of a run folder may name: parts of runs, and nothing that could do harm.

Whoever loads a run calls what its `config.yaml` names. So each name is judged before anything is called:

- of glimpse itself, classes of the packages in `_PACKAGES`, functions of `glimpse.envs`, and `_BASELINE`;
- of torchvision and timm, everything, and of `torch.nn`, classes;
- of other installed packages, classes that are networks, tasks or environments; of packages that register modalities
  (see `glimpse.plugins`), everything;
- modules that no installed package holds are the user's own, and are trusted, as they would be by Python;
- nothing of the standard library.
"""

import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import gymnasium
from hydra.utils import get_object
from torch import nn

from glimpse import plugins
from glimpse.runs.checkpoints import CheckpointError
from glimpse.tasks import Task

_PACKAGES = ("agents", "cohort", "envs", "learning", "networks", "tasks", "views")
_BASELINE = "glimpse.agents.baselines.train_overview"
_WHOLE = ("torchvision", "timm")
_LAYER = re.compile(r"torch\.nn\.(modules\.\w+\.)?[A-Z]\w*")
_NEVER = {*sys.stdlib_module_names, "hydra", "omegaconf", "numpy", "torch"}
_KINDS = (nn.Module, Task, gymnasium.Env)


def check_targets(section: Any, path: Path) -> None:
    """Refuses settings that would call what is no part of any run, such as a command of the system; calls nothing.

    Args:
        section: settings, of which every `_target_` is judged.
        path: the file that they are from.

    Raises:
        CheckpointError: the message names the call.
    """
    for name, part in section.items() if isinstance(section, dict) else enumerate(section):
        if isinstance(part, dict | list):
            check_targets(part, path)
        elif name == "_target_" and not _is_part(str(part)):
            raise CheckpointError(
                f"{path}: it would call {part}, of which no run is made. Restore the file, and load only runs from "
                "people whom you trust. If the package is your own, name its module in the environment variable "
                f"{plugins.VARIABLE}."
            )


def _is_part(target: str) -> bool:
    root, _, rest = target.partition(".")
    if root in _WHOLE or _LAYER.fullmatch(target):
        return True
    if root in _NEVER or not rest:
        return False
    if root == "glimpse":
        return rest.partition(".")[0] in _PACKAGES and _is_own(target)
    if root in plugins.roots() or root not in packages_distributions():
        return True
    found = _found(target)
    return found is None or (isinstance(found, type) and issubclass(found, _KINDS))


def _is_own(target: str) -> bool:
    """Whether what glimpse's modules call so is a class of theirs or makes environments or baselines.

    It could be something else that they import, or a function that writes a file.
    """
    found = _found(target)
    origin = str(getattr(found, "__module__", "")).split(".")
    if isinstance(found, type):
        return origin[0] == "glimpse" and origin[1] in _PACKAGES
    return found is None or origin[:2] == ["glimpse", "envs"] or target == _BASELINE


def _found(target: str) -> Any:
    """Returns what a name stands for; None if there is no such thing, which whoever calls it will be told."""
    try:
        return get_object(target)
    except Exception:  # a package may fail in any way while it is imported
        return None
