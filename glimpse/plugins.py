"""Modalities of other packages: found by their entry points, loaded when they are needed.

A package names its modalities in its `pyproject.toml`; each entry point is a module that calls
`glimpse.register_modality` when it is imported, or a function that calls it:

    [project.entry-points."glimpse.modalities"]
    ultrasound = "glimpse_ultrasound:register"

Importing glimpse reads these names only, so that `gymnasium.make("glimpse/Ultrasound-v0")` knows them. The packages are
imported by `load_plugins`: at the start of training and evaluating, and when something of theirs is asked for. YAML
files in a folder `configs` of the package (`configs/env/ultrasound.yaml`) become options of the command line.

Modules that are no package of their own are named in the variable GLIMPSE_MODALITIES, separated by commas.
"""

import functools
import importlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import gymnasium

from glimpse.errors import UserError

GROUP = "glimpse.modalities"
VARIABLE = "GLIMPSE_MODALITIES"
MAKER = "glimpse.envs.modality:make_modality"
BUILT_IN = {
    "wsi": "glimpse/WSI-v0",
    "xray": "glimpse/XRay-v0",
    "mri": "glimpse/MRI-v0",
    "ct": "glimpse/CT-v0",
    "megapixel_mnist": "glimpse/MegapixelMNIST-v0",
    "cluttered_mnist": "glimpse/ClutteredMNIST-v0",
    "relations": "glimpse/Relations-v0",
}
"""The modalities that glimpse brings, and the ids of their environments."""

_BUILT_IN_MODULES = ("glimpse.envs.medical", "glimpse.envs.glyphs")  # imported by name: the core knows no modality

_lock = threading.RLock()
_failures: dict[tuple[str, str], str | None] = {}  # (name, value) of what has been loaded, and why it could not be
_loading = False  # whether a package is being loaded
_folders: dict[str, Path] = {}  # of YAML files, by the name of who brought them


class ModalityError(UserError, ValueError):
    """A modality cannot be registered, found or loaded."""


def environment_id(name: str) -> str:
    """The Gymnasium id of a modality: "retinal_oct" is `glimpse/RetinalOct-v0`."""
    return f"glimpse/{''.join(part[:1].upper() + part[1:] for part in name.split('_'))}-v0"


def announce() -> None:
    """Registers the ids of all modalities that glimpse and other packages bring; imports none of them."""
    for name, env_id in BUILT_IN.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(id=env_id, entry_point=MAKER, kwargs={"modality": name})
    known = {env_id.lower() for env_id in gymnasium.registry}
    for point in _points():
        env_id = environment_id(point.name)
        if point.name.isidentifier() and env_id.lower() not in known:
            gymnasium.register(id=env_id, entry_point=MAKER, kwargs={"modality": point.name})


def load_plugins() -> None:
    """Imports the modules that bring modalities, each once, and shows Hydra their YAML files.

    A package that fails is left out with a warning that names it.

    Raises:
        ModalityError: a module named in GLIMPSE_MODALITIES cannot be imported.
    """
    with _lock:
        for module in _BUILT_IN_MODULES:
            importlib.import_module(module)
        for point in _points():
            if (point.name, point.value) not in _failures:
                _load(point)
        for module in filter(None, (part.strip() for part in os.environ.get(VARIABLE, "").split(","))):
            if (module, module) not in _failures:
                _load_module(module)
        _extend_search_path()


def why_missing(name: str) -> str:
    """What is known about a modality that is not there: the failure of its package, or an empty text."""
    return "; ".join(reason for (known, _), reason in _failures.items() if known == name and reason)


def _points() -> list[EntryPoint]:
    try:
        return list(entry_points(group=GROUP))
    except Exception as error:  # metadata of any installed package may be broken
        warnings.warn(f"The entry points {GROUP} could not be read: {error}", UserWarning, stacklevel=3)
        return []


def _load(point: EntryPoint) -> None:
    global _loading
    key = point.name, point.value
    _failures[key] = None  # a package that asks for itself while it is loaded is not loaded again
    _loading = True
    try:
        found = point.load()
        if not isinstance(found, type(sys)):
            found()
        _remember_configs(_owner(point), point.module)
    except (Exception, SystemExit) as error:
        _failures[key] = f"{_owner(point)} could not be loaded ({point.value}): {type(error).__name__}: {error}"
        warnings.warn(
            f"The modality {point.name!r} of {_failures[key]}. Update or uninstall that package; all else goes on.",
            UserWarning,
            stacklevel=3,
        )
    finally:
        _loading = False


def is_loading() -> bool:
    """Whether a package is being loaded; what it registers may have been registered before, by importing it."""
    return _loading


def _load_module(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:
        raise ModalityError(
            f"{VARIABLE} names the module {name!r}, which cannot be imported: {type(error).__name__}: {error}"
        ) from error
    _failures[name, name] = None
    _remember_configs(name, name)


def _owner(point: EntryPoint) -> str:
    """The distribution of an entry point, with its version."""
    return "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"


# ---------------------------------------------------------------------------------------------- YAML files
def _remember_configs(owner: str, module: str) -> None:
    """Keeps the folder `configs` of the module's package, or of the nearest package around it."""
    while module:
        for root in getattr(sys.modules.get(module), "__path__", ()):
            if (folder := Path(root) / "configs").is_dir():
                _folders[owner] = folder
                return
        module = module.rpartition(".")[0]


def config_folders() -> Iterator[tuple[str, Path]]:
    """The folders of YAML files that other packages brought, with the name of each package."""
    yield from _folders.items()


def _extend_search_path() -> None:
    from hydra.core.plugins import Plugins  # takes a tenth of a second, which importing glimpse does not wait for

    Plugins.instance().register(_search_path_plugin())


@functools.cache
def _search_path_plugin() -> type[Any]:
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class GlimpseSearchPath(SearchPathPlugin):
        """Appends the folders, so that none of them hides an option of glimpse."""

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for owner, folder in config_folders():
                search_path.append(provider=owner, path=f"file://{folder}")

    return GlimpseSearchPath
