"""Reinforcement learning on large medical images: an agent that looks where it matters, and answers.

The agent sees an overview of the whole image, which is cheap, reads glimpses (small patches at full resolution) at
locations that it chooses itself, and predicts the target from what it has seen.

    import glimpse
    import gymnasium

    env = gymnasium.make("glimpse/WSI-v0")

Importing this package is quick: PyTorch and the image readers are imported by the first name that needs them.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from glimpse.settings.collecting import without_collecting

if TYPE_CHECKING:
    from glimpse.cohort import Case, Cohort
    from glimpse.modalities import register_modality
    from glimpse.predicting.agent import load
    from glimpse.sources import open_source
    from glimpse.tasks import Classification, MultiLabel, MultiTask, Regression, Survival

__version__ = "0.1.0"

__all__ = [
    "Case",
    "Classification",
    "Cohort",
    "MultiLabel",
    "MultiTask",
    "Regression",
    "Survival",
    "__version__",
    "load",
    "open_source",
    "register_modality",
]

_HOMES = {
    "Case": "glimpse.cohort",
    "Classification": "glimpse.tasks",
    "Cohort": "glimpse.cohort",
    "MultiLabel": "glimpse.tasks",
    "Regression": "glimpse.tasks",
    "Survival": "glimpse.tasks",
    "MultiTask": "glimpse.tasks",
    "load": "glimpse.predicting.agent",
    "open_source": "glimpse.sources",
    "register_modality": "glimpse.modalities",
}

_FORMER_NAMES = {"Several": "MultiTask"}


def __getattr__(name: str) -> Any:
    """Imports a public name from its module when it is used for the first time."""
    name = _FORMER_NAMES.get(name, name)
    if name not in _HOMES:
        raise AttributeError(f"module 'glimpse' has no attribute {name!r}; its public names are {', '.join(__all__)}.")
    with without_collecting():
        value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _extend_path_to_checkout() -> None:
    """Makes envs/, agents/ and configs/ importable as `glimpse.envs` and so on, if this is a checkout.

    In the wheel these folders are inside the package. In a checkout they are beside it; the project's own
    `pyproject.toml` must be there, too, so that folders of a user are never taken for them.
    """
    root = Path(__file__).resolve().parent.parent
    project = root / "pyproject.toml"
    if not all((root / name).is_dir() for name in ("envs", "agents", "configs")) or not project.is_file():
        return
    if 'name = "glimpse-rl"' in project.read_text(encoding="utf-8") and str(root) not in __path__:
        __path__.append(str(root))


def _register_environments() -> None:
    """Registers the Gymnasium ids; `glimpse.envs` is imported later, by `gymnasium.make`."""
    if "glimpse/Array-v0" not in gymnasium.registry:
        gymnasium.register(id="glimpse/Array-v0", entry_point="glimpse.envs.array:make_array")
    import_module("glimpse.plugins").announce()


_extend_path_to_checkout()
_register_environments()
