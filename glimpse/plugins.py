"""Finds modalities of other packages by their entry points, and loads them when they are needed.

A package lists its modalities in its `pyproject.toml`. Each entry point is a module that calls
`glimpse.register_modality` when it is imported, or a function that does so:

    [project.entry-points."glimpse.modalities"]
    ultrasound = "glimpse_ultrasound:register"

When glimpse is imported, it reads only the names, so that `gymnasium.make("glimpse/Ultrasound-v0")` knows them. The
packages are imported by `load_plugins`, when a command starts and when an unknown modality is used. YAML files in a
folder `configs` of the package, such as `configs/env/ultrasound.yaml`, become options of the command line.

Modules that are not part of an installed package can be named in the environment variable GLIMPSE_MODALITIES, separated
by commas.
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
    "photo": "glimpse/Photo-v0",
    "mri": "glimpse/MRI-v0",
    "ct": "glimpse/CT-v0",
    "megapixel_mnist": "glimpse/MegapixelMNIST-v0",
    "gigapixel_mnist": "glimpse/GigapixelMNIST-v0",
    "needle_mnist": "glimpse/NeedleMNIST-v0",
    "cluttered_mnist": "glimpse/ClutteredMNIST-v0",
    "relations": "glimpse/Relations-v0",
}
"""glimpse's own modalities, and the ids of their environments."""

_BUILT_IN_MODULES = ("glimpse.envs.medical", "glimpse.envs.glyphs")  # they register the built-in modalities

_lock = threading.RLock()
_failures: dict[tuple[str, str], str | None] = {}  # loaded so far, as (name, value): None, or why it failed
_loading = False  # whether an entry point is being loaded now
_folders: dict[str, Path] = {}  # folders of YAML files, by the name of their package


class ModalityError(UserError, ValueError):
    """A modality cannot be registered, found or loaded."""


def environment_id(name: str) -> str:
    """Returns the Gymnasium id of a modality, such as `glimpse/RetinalOct-v0` for "retinal_oct"."""
    return f"glimpse/{''.join(part[:1].upper() + part[1:] for part in name.split('_'))}-v0"


def announce() -> None:
    """Registers the Gymnasium ids of glimpse's and other packages' modalities, without importing them."""
    for name, env_id in BUILT_IN.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(id=env_id, entry_point=MAKER, kwargs={"modality": name})
    known = {env_id.lower() for env_id in gymnasium.registry}
    for point in _points():
        env_id = environment_id(point.name)
        if point.name.isidentifier() and env_id.lower() not in known:
            gymnasium.register(id=env_id, entry_point=MAKER, kwargs={"modality": point.name})


def load_plugins() -> None:
    """Imports all modules that register modalities, each once, and adds their YAML files to Hydra's search path.

    If importing a package fails, a warning names it and it is left out.

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


def roots() -> set[str]:
    """Returns the top-level names of the packages and modules that register modalities."""
    named = os.environ.get(VARIABLE, "").split(",")
    return {name.strip().partition(".")[0] for name in (*(point.module for point in _points()), *named)} - {""}


def why_missing(name: str) -> str:
    """Returns why the package of a missing modality could not be loaded, or an empty text if that is not known."""
    return "; ".join(reason for (known, _), reason in _failures.items() if known == name and reason)


def _points() -> list[EntryPoint]:
    try:
        return list(entry_points(group=GROUP))
    except Exception as error:  # the metadata of an installed package may be broken
        warnings.warn(f"The entry points {GROUP} could not be read: {error}", UserWarning, stacklevel=3)
        return []


def _load(point: EntryPoint) -> None:
    global _loading
    key = point.name, point.value
    _failures[key] = None  # set before loading, so that a package is not loaded again by itself
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
    """Returns whether an entry point is being loaded now; it may register again what its import has registered."""
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
    """Returns the name and version of the package that an entry point belongs to."""
    return "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"


# ---------------------------------------------------------------------------------------------- YAML files
def _remember_configs(owner: str, module: str) -> None:
    """Remembers the folder `configs` of the module's package, or of the nearest package that contains it."""
    while module:
        for root in getattr(sys.modules.get(module), "__path__", ()):
            if (folder := Path(root) / "configs").is_dir():
                _folders[owner] = folder
                return
        module = module.rpartition(".")[0]


def config_folders() -> Iterator[tuple[str, Path]]:
    """Yields the name of each package that has a folder of YAML files, and the folder."""
    yield from _folders.items()


def _extend_search_path() -> None:
    from hydra.core.plugins import Plugins  # imported here, because it takes a tenth of a second

    Plugins.instance().register(_search_path_plugin())


@functools.cache
def _search_path_plugin() -> type[Any]:
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class GlimpseSearchPath(SearchPathPlugin):
        """Appends the folders to the end of the search path, so that they cannot hide options of glimpse."""

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for owner, folder in config_folders():
                search_path.append(provider=owner, path=f"file://{folder}")

    return GlimpseSearchPath
