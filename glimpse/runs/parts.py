"""Which classes and functions the settings of a run may name: parts of runs, and nothing that could do harm.

Whoever loads a run calls what its `config.yaml` names. So each name is judged before anything is called, by what it
stands for and not by how it is spelled (`torchvision.torch.load` is PyTorch's):

- of glimpse itself, what its own YAML files name, classes of the packages in `_PACKAGES`, functions of `glimpse.envs`;
- of other installed packages, classes that are networks, tasks or environments, and the functions of
  `torchvision.models`; of packages that register modalities (see `glimpse.plugins`), everything;
- modules that no installed package holds are the user's own, and are trusted, as they would be by Python;
- nothing of the standard library.

To judge a name that no YAML file of glimpse holds, the modules of installed packages that it begins with are imported.
"""

import functools
import importlib
import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import gymnasium
from torch import nn

from glimpse import plugins
from glimpse.tasks import Task

_PACKAGES = ("agents", "cohort", "envs", "learning", "networks", "tasks", "views")
_NEVER = {*sys.stdlib_module_names, "test", "hydra", "omegaconf", "numpy"}
_KINDS = (nn.Module, Task, gymnasium.Env)
_TARGET = re.compile(r"_target_: ([\w.]+)")
_NAME = re.compile(r"(?!.*\.__)[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
REMEDY = (
    "If it is of a package of your own that is installed, name its module in the environment variable "
    f"{plugins.VARIABLE}."
)


def foreign_targets(section: Any) -> Iterator[str]:
    """Yields what settings would call that is no part of any run, such as a command of the system; calls nothing."""
    for name, part in section.items() if isinstance(section, dict) else enumerate(section):
        if isinstance(part, dict | list):
            yield from foreign_targets(part)
        elif name == "_target_" and not _is_part(str(part)):
            yield str(part)


def _is_part(target: str) -> bool:
    root = target.partition(".")[0]
    if root in _NEVER or not _NAME.fullmatch(target):
        return False
    if root == "glimpse":
        return target in _of_configs() or _is_own(_found(target))
    if root in plugins.roots() or root not in _installed(tuple(sys.path)):
        return True
    found = _found(target)
    if found is None:  # there is no such thing, which whoever calls it will be told
        return True
    if isinstance(found, type) and issubclass(found, _KINDS):
        return True
    return root == "torchvision" and _origin(found)[:2] == ["torchvision", "models"]


@functools.lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> frozenset[str]:
    """Returns which modules installed packages hold, for a `sys.path`; to find them takes up to a second."""
    return frozenset(packages_distributions())


@functools.cache
def _of_configs() -> frozenset[str]:
    """Returns what glimpse's own YAML files name; it is part of every run, and whoever loads one calls little of it."""
    folder = Path(importlib.import_module("glimpse.configs").__path__[0])
    return frozenset(name for file in folder.rglob("*.yaml") for name in _TARGET.findall(file.read_text("utf-8")))


def _is_own(found: Any) -> bool:
    origin = _origin(found)
    of_part = isinstance(found, type) and origin[0] == "glimpse" and origin[1] in _PACKAGES
    return found is None or of_part or origin[:2] == ["glimpse", "envs"]


def _origin(found: Any) -> list[str]:
    return str(getattr(found, "__module__", "")).split(".")


def _found(target: str) -> Any:
    """Returns what a name stands for, or None."""
    parts = target.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        except (Exception, SystemExit):  # a package may fail in any way while it is imported
            return None
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found
    return None


def told(target: str, where: str | os.PathLike[str]) -> str:
    """Returns why a name is refused, with the file or setting in which it stands."""
    return f"{where}: it would call {target}, of which no run is made."
