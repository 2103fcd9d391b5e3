"""One's own modality: a source, registered under a name, becomes an environment and an option of the command line."""

import inspect
import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium

from glimpse.plugins import BUILT_IN, MAKER, ModalityError, environment_id, is_loading, load_plugins, why_missing
from glimpse.settings.nearest import suggestion
from glimpse.sources.base import ImageSource
from glimpse.sources.registry import reader_names, register_reader

__all__ = ["Modality", "ModalityError", "find_modality", "register_modality"]

Size = int | Sequence[int]
Extents = int | float | str | Sequence[Any]

RECIPE_PARTS = ("pretrain", "warm_up", "joint", "agent", "network")
"""What a recipe may set: the groups of the command line that say how an agent learns."""

_TWO_CLASSES = {"_target_": "glimpse.tasks.Classification", "classes": 2}
_OF_A_COHORT = ("modality", "path", "task", "on_error", "seed", "synthetic", "progress")
_NOT_SET_BY_USERS = ("folder", "progress", "workers")  # of makers of synthetic cohorts


@dataclass(frozen=True)
class Modality:
    """What an environment and an option `env=` of the command line are made of.

    Slides, radiographs, MR and CT are such records, too (`glimpse.envs.medical`), and so are the drawn images
    (`glimpse.envs.glyphs`). Every default stands in its record and nowhere else.

    Attributes:
        name: of the option, `env=<name>`.
        source: reads the images that a CSV lists; None where they are drawn.
        reader: the name of the reader that is asked first; the modality's own when not given.
        options: of the source, with their defaults. They can be set for a cohort: `env.cohort.<option>` on the command
            line, keyword arguments in `gymnasium.make`. None leaves the source's own default.
        synthetic: makes a cohort to try out and returns the path of its CSV; a function, or its "module:name".
        synthetic_options: options of the source for that cohort, where they are not set otherwise.
        draws: makes a `Cohort` of drawn images, in place of `source`; a function, or its "module:name". Its keyword
            arguments can be set as those of a source can.
        shared: options that cohort and task have in common; they are set as `env.<option>`.
        task: a configuration of the task.
        overview_size, glimpse_size: in pixels, one number or one per axis; for an `overview_size` of None it is half
            the first image's.
        glimpse_extents: fields of view in level-0 pixels, or with a unit such as "8mm".
        max_glimpses: budget of an episode.
        glimpse_cost: what a glimpse costs, in units of the score.
        background: pixel value outside the image.
        learning: the recipe that suits these images, as the file `configs/recipe/<name>.yaml` would hold it.
    """

    name: str
    source: type[ImageSource] | None = None
    reader: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    synthetic: Callable[..., Any] | str | None = None
    synthetic_options: Mapping[str, Any] = field(default_factory=dict)
    draws: Callable[..., Any] | str | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=lambda: dict(_TWO_CLASSES))
    overview_size: Size | None = 256
    glimpse_size: Size = 64
    glimpse_extents: Extents = (128,)
    max_glimpses: int = 12
    glimpse_cost: float = 0.002
    background: int = 0
    learning: Mapping[str, Any] = field(default_factory=dict)

    @property
    def env_id(self) -> str:
        """The Gymnasium id."""
        return BUILT_IN.get(self.name) or environment_id(self.name)

    def maker(self) -> Callable[..., Any] | None:
        """The function that makes the synthetic cohort or draws the images."""
        named = self.draws or self.synthetic
        if not isinstance(named, str):
            return named
        module, _, name = named.partition(":")
        return getattr(import_module(module), name)

    def cohort_options(self) -> dict[str, Any]:
        """What can be set of a cohort beside its path, with the defaults."""
        return {**(_defaults_of(self.maker()) if self.draws else self.options)}

    def config(self) -> dict[str, Any]:
        """The option `env=<name>` of the command line, with everything that can be set there."""
        options = self.cohort_options() | {name: f"${{env.{name}}}" for name in self.shared}
        if self.draws is None:
            files = {"path": None, "task": "${env.task}", "on_error": "raise", "seed": "${seed}"}
            made = {} if self.synthetic is None else _defaults_of(self.maker())
            options = {**files, **options, "synthetic": made, "progress": "${progress}"}
        sizes = {name: getattr(self, name) for name in ("overview_size", "glimpse_size", "glimpse_extents")}
        budget = {"max_glimpses": "${max_glimpses}", "glimpse_cost": self.glimpse_cost}
        maker = {"_target_": MAKER.replace(":", "."), "modality": self.name, "task": "${env.task}"}
        loader = {"_target_": "glimpse.envs.modality.load_modality", "modality": self.name}
        return _plain({
            "name": self.name,
            "background": self.background,
            "max_glimpses": self.max_glimpses,
            **self.shared,
            "cohort": loader | options,
            "task": dict(self.task),
            "make": maker | sizes | budget,
        })  # fmt: skip


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
        **defaults: attributes of `Modality`, such as `glimpse_extents=("8mm",)` or
            `learning={"joint": {"updates": 60}}`.

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
    _register_reader(modality, source, suffixes, sniff)
    install(modality)
    return modality


def install(modality: Modality) -> None:
    """Makes a modality known: to Gymnasium, and to the command line with its recipe."""
    from hydra.core.config_store import ConfigStore  # slow to import, and needed here only

    store = ConfigStore.instance()
    store.store(group="env", name=modality.name, node=modality.config(), provider="glimpse.modalities")
    if modality.learning:
        learning = _plain(dict(modality.learning))
        store.store(group="recipe", name=modality.name, node=learning, provider="glimpse.modalities")
    gymnasium.registry.pop(modality.env_id, None)  # of a package's announcement, or of what is replaced
    gymnasium.register(id=modality.env_id, entry_point=MAKER, kwargs={"modality": modality.name})
    _MODALITIES[modality.name] = modality


def find_modality(name: str) -> Modality:
    """A registered modality; packages that bring modalities are loaded if it is not there yet.

    Raises:
        ModalityError: there is none; the message says why its package could not be loaded, or which ones there are.
    """
    if name not in _MODALITIES:
        load_plugins()
    if name in _MODALITIES:
        return _MODALITIES[name]
    reason = why_missing(name) or f"registered are: {', '.join(sorted(_MODALITIES))}"
    raise ModalityError(
        f"There is no modality {name!r}; {reason}. Call glimpse.register_modality({name!r}, source=...) in a package "
        "with an entry point, or in a module that the variable GLIMPSE_MODALITIES names."
    )


def _register_reader(
    modality: Modality, source: type[ImageSource], suffixes: Sequence[str], sniff: Callable[[Path], bool] | None
) -> None:
    endings = tuple(suffix.lower() for suffix in suffixes)
    if sniff is None and endings:  # the suffix is all that is known of its files, whatever others make of their content
        register_reader(modality.name, source, suffixes=endings, sniff=lambda path: path.name.lower().endswith(endings))
    else:
        register_reader(modality.name, source, suffixes=endings, **({} if sniff is None else {"sniff": sniff}))


# ---------------------------------------------------------------------------------------------- what is refused
def _check_name(name: str, overwrite: bool) -> None:
    if not isinstance(name, str) or not name.isascii() or not name.isidentifier() or keyword.iskeyword(name):
        raise ModalityError(f"Expected the name of a modality as an identifier such as 'retinal_oct', got {name!r}.")
    if not name.strip("_"):
        raise ModalityError(f"Expected a letter in the name of a modality, got {name!r}.")
    if name in BUILT_IN:
        raise ModalityError(f"{BUILT_IN[name]}: this environment exists already. Choose another name than {name!r}.")
    if name in _MODALITIES and overwrite:
        return
    if name in _MODALITIES:
        by = f"{_MODALITIES[name].source.__module__}.{_MODALITIES[name].source.__qualname__}"  # type: ignore[union-attr]
        raise ModalityError(
            f"The modality {name!r} exists already, with the source {by}. Choose another name, or pass overwrite=True."
        )
    env_id = environment_id(name)
    if env_id.lower() in _ids_in_use():
        raise ModalityError(f"{env_id}: this environment exists already. Choose another name than {name!r}.")
    if name in reader_names():
        raise ModalityError(f"A reader called {name!r} exists already. Choose another name for the modality.")


def _ids_in_use() -> set[str]:
    """Ids that make something, in lower case: all but those announced for packages that are not loaded yet."""
    announced = {
        env_id
        for env_id, spec in gymnasium.registry.items()
        if spec.entry_point == MAKER and spec.kwargs.get("modality") not in {*_MODALITIES, *BUILT_IN}
    }
    return {env_id.lower() for env_id in gymnasium.registry if env_id not in announced}


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
    known = [one.name for one in fields(Modality) if one.name not in ("name", "source", "reader", "draws")]
    unknown = sorted(set(defaults) - set(known))
    if unknown:
        raise ModalityError(f"{name}: unknown settings {', '.join(unknown)}; known are {', '.join(known)}.")
    task = defaults.get("task", _TWO_CLASSES)
    if not isinstance(task, Mapping) or "_target_" not in task:
        raise ModalityError(f"{name}: expected task as a configuration such as {_TWO_CLASSES}, got {task!r}.")
    for part in defaults.get("learning", {}):
        if part not in RECIPE_PARTS:
            raise ModalityError(
                f"{name}: learning has no part {part!r}{suggestion(part, RECIPE_PARTS)}; its parts are "
                f"{', '.join(RECIPE_PARTS)}, with the keys that they have on the command line."
            )
    taken = sorted({*defaults.get("options", {})} & {*_OF_A_COHORT})
    if taken:
        raise ModalityError(f"{name}: options of a source cannot be called {', '.join(taken)}: cohorts have these.")


# ---------------------------------------------------------------------------------------------- configurations
def _defaults_of(maker: Callable[..., Any] | None) -> dict[str, Any]:
    """The keyword arguments of a maker of cohorts that users may set, with their defaults."""
    if maker is None:
        return {}
    given = inspect.signature(maker).parameters.values()
    return {
        one.name: one.default
        for one in given
        if one.default is not one.empty and one.name not in _NOT_SET_BY_USERS
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Mappings as dicts and sequences as lists, all the way down: configurations hold nothing else."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
