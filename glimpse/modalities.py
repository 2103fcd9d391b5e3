"""One's own modality: a source, registered under a name, becomes an environment and an option of the command line."""

import inspect
import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import gymnasium

from glimpse.plugins import MAKER, ModalityError, environment_id, is_loading, load_plugins, why_missing
from glimpse.sources.base import ImageSource
from glimpse.sources.registry import reader_names, register_reader

__all__ = ["Modality", "ModalityError", "find_modality", "register_modality"]

Size = int | Sequence[int]
Extents = int | float | str | Sequence[Any]

_TWO_CLASSES = {"_target_": "glimpse.tasks.Classification", "classes": 2}


@dataclass(frozen=True)
class Modality:
    """What is known of a registered modality; see `register_modality`."""

    name: str
    source: type[ImageSource]
    options: Mapping[str, Any] = field(default_factory=dict)
    synthetic: Callable[..., Any] | None = None
    task: Mapping[str, Any] = field(default_factory=lambda: dict(_TWO_CLASSES))
    overview_size: Size = 256
    glimpse_size: Size = 64
    glimpse_extents: Extents = (128,)
    max_glimpses: int = 12
    glimpse_cost: float = 0.002
    background: int = 0
    overview_dropout: float = 1.0
    strides: Sequence[Any] | None = None
    learning: Mapping[str, Any] = field(default_factory=dict)

    @property
    def env_id(self) -> str:
        """The Gymnasium id."""
        return environment_id(self.name)

    def config(self) -> dict[str, Any]:
        """The option `env=<name>` of the command line, with everything that can be set there."""
        extents = self.glimpse_extents
        made = {
            "name": self.name,
            "background": self.background,
            "overview_dropout": self.overview_dropout,
            "learning": dict(self.learning),
            "cohort": {
                "_target_": "glimpse.envs.modality.load_modality",
                "modality": self.name,
                "path": None,
                "task": "${env.task}",
                "on_error": "raise",
                "seed": "${seed}",
                "options": dict(self.options),
                "synthetic": {},
                "progress": "${progress}",
            },
            "task": dict(self.task),
            "make": {
                "_target_": "glimpse.envs.modality.make_modality",
                "modality": self.name,
                "task": "${env.task}",
                "overview_size": _plain(self.overview_size),
                "glimpse_size": _plain(self.glimpse_size),
                "glimpse_extents": _plain(extents),
                "max_glimpses": "${max_glimpses}",
                "glimpse_cost": self.glimpse_cost,
            },
        }
        return made if self.strides is None else {**made, "strides": _plain(self.strides)}


_MODALITIES: dict[str, Modality] = {}


def register_modality(
    name: str,
    source: type[ImageSource],
    *,
    suffixes: Sequence[str] = (),
    sniff: Callable[[Path], bool] | None = None,
    overwrite: bool = False,
    **defaults: Any,
) -> Modality:
    """Makes a source a modality: a Gymnasium environment, an option of the command line, and a reader.

    With the name "retinal_oct" there are `gymnasium.make("glimpse/RetinalOct-v0", cohort="cohort.csv")`, with the
    options of `glimpse.envs.modality.make_modality`, and `python -m glimpse.train env=retinal_oct
    env.cohort.path=cohort.csv`, with every default below to be set on the command line. `glimpse.open_source` finds
    the source by suffix and content.

    Args:
        name: an identifier that no other modality, environment or reader has.
        source: a subclass of `ImageSource`, called with the path and `options`.
        suffixes: of its files, such as (".mhd",).
        sniff: says from a file's content whether the source can read it. Without suffixes and sniff, the source reads
            whatever the modality's cohorts name, and `open_source` does not know it.
        overwrite: replaces a modality registered under this name, as when a notebook's cell is run again.
        **defaults: attributes of the modality where they differ from its own: `options` (of the source, for all cases),
            `synthetic` (makes a cohort to try out and returns the path of its CSV; called with `env.cohort.synthetic`),
            `task` (a configuration, such as `{"_target_": "glimpse.tasks.Regression", "mean": 60, "spread": 12}`; two
            classes), `overview_size` (256 pixels), `glimpse_size` (64 pixels), `glimpse_extents` ((128,), in level-0
            pixels, or such as ("8mm",)), `max_glimpses` (12), `glimpse_cost` (0.002 of the score), `background` (0,
            pixel value outside the image), `overview_dropout` (1.0: answers come from glimpses only), `strides` (of the
            encoder), `learning` (settings of the stages, as in `configs/env/*.yaml`).

    Returns:
        What was registered.

    Raises:
        ModalityError: the name is no identifier or exists already, the source is no `ImageSource` or lacks methods, or
            a default is unknown.
    """
    if is_loading() and name in _MODALITIES and _MODALITIES[name].source is source:
        return _MODALITIES[name]
    _check_name(name, overwrite)
    _check_source(name, source)
    _check_defaults(name, defaults)
    modality = Modality(name, source, **defaults)
    _register(modality, suffixes, sniff)
    _MODALITIES[name] = modality
    return modality


def find_modality(name: str) -> Modality:
    """A registered modality; packages that bring modalities are loaded if it is not there yet.

    Raises:
        ModalityError: there is none; the message says why its package could not be loaded, or which ones there are.
    """
    if name not in _MODALITIES:
        load_plugins()
    if name in _MODALITIES:
        return _MODALITIES[name]
    known = ", ".join(sorted(_MODALITIES)) or "none"
    reason = why_missing(name) or f"registered are: {known}"
    raise ModalityError(
        f"There is no modality {name!r}; {reason}. Call glimpse.register_modality({name!r}, source=...) in a package "
        "with an entry point, or in a module that the variable GLIMPSE_MODALITIES names."
    )


def _register(modality: Modality, suffixes: Sequence[str], sniff: Callable[[Path], bool] | None) -> None:
    from hydra.core.config_store import ConfigStore  # slow to import, and needed here only

    ConfigStore.instance().store(group="env", name=modality.name, node=modality.config(), provider="register_modality")
    endings = tuple(suffix.lower() for suffix in suffixes)
    if sniff is None and endings:  # the suffix is all that is known of its files, whatever others make of their content
        register_reader(
            modality.name, modality.source, suffixes=endings, sniff=lambda path: path.name.lower().endswith(endings)
        )
    else:
        register_reader(modality.name, modality.source, suffixes=endings, **({} if sniff is None else {"sniff": sniff}))
    gymnasium.registry.pop(modality.env_id, None)  # of a package's announcement, or of what is replaced
    gymnasium.register(id=modality.env_id, entry_point=MAKER, kwargs={"modality": modality.name})


# ---------------------------------------------------------------------------------------------- what is refused
def _check_name(name: str, overwrite: bool) -> None:
    if not isinstance(name, str) or not name.isascii() or not name.isidentifier() or keyword.iskeyword(name):
        raise ModalityError(f"Expected the name of a modality as an identifier such as 'retinal_oct', got {name!r}.")
    if not name.strip("_"):
        raise ModalityError(f"Expected a letter in the name of a modality, got {name!r}.")
    if name in _MODALITIES and overwrite:
        return
    if name in _MODALITIES:
        by = f"{_MODALITIES[name].source.__module__}.{_MODALITIES[name].source.__qualname__}"
        raise ModalityError(
            f"The modality {name!r} exists already, with the source {by}. Choose another name, or pass overwrite=True."
        )
    env_id = environment_id(name)
    if env_id.lower() in _ids_in_use():
        raise ModalityError(f"{env_id}: this environment exists already. Choose another name than {name!r}.")
    if name in _packaged_options():
        raise ModalityError(f"env={name}: this option exists already. Choose another name than {name!r}.")
    if name in reader_names():
        raise ModalityError(f"A reader called {name!r} exists already. Choose another name for the modality.")


def _ids_in_use() -> set[str]:
    """Ids that make something, in lower case: all but those announced for packages that are not loaded yet."""
    announced = {
        env_id
        for env_id, spec in gymnasium.registry.items()
        if spec.entry_point == MAKER and spec.kwargs.get("modality") not in _MODALITIES
    }
    return {env_id.lower() for env_id in gymnasium.registry if env_id not in announced}


def _packaged_options() -> set[str]:
    return {file.name.removesuffix(".yaml") for file in (files("glimpse.configs") / "env").iterdir()}


def _check_source(name: str, source: Any) -> None:
    if not (isinstance(source, type) and issubclass(source, ImageSource)):
        raise ModalityError(
            f"{name}: expected source as a subclass of glimpse.sources.ImageSource (the class, not an object of it), "
            f"got {source!r}."
        )
    if inspect.isabstract(source):
        missing = ", ".join(sorted(source.__abstractmethods__))
        raise ModalityError(f"{name}: {source.__qualname__} lacks {missing}; see glimpse.sources.ImageSource.")


def _check_defaults(name: str, defaults: Mapping[str, Any]) -> None:
    known = [key for key in Modality.__dataclass_fields__ if key not in ("name", "source")]
    unknown = sorted(set(defaults) - set(known))
    if unknown:
        raise ModalityError(f"{name}: unknown settings {', '.join(unknown)}; known are {', '.join(known)}.")
    task = defaults.get("task", _TWO_CLASSES)
    if not isinstance(task, Mapping) or "_target_" not in task:
        raise ModalityError(f"{name}: expected task as a configuration such as {_TWO_CLASSES}, got {task!r}.")


def _plain(value: Any) -> Any:
    """Sequences as lists, all the way down: configurations hold nothing else."""
    return [_plain(part) for part in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
