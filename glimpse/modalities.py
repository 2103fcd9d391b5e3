"""Modalities: registers a kind of image under a name, as an environment and as an option of the command line."""

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
from glimpse.sources.registry import knows_nothing, reader_names, register_reader
from glimpse.sources.staged.stage import STAGING

__all__ = ["Modality", "ModalityError", "find_modality", "register_modality"]

Size = int | Sequence[int]
Extents = int | float | str | Sequence[Any]

RECIPE_PARTS = ("pretrain", "warm_up", "joint", "agent", "network")
"""Sections of the configuration that a recipe may set; they say how an agent learns."""

NETWORK_PARTS = ("encoder", "locator", "aggregator")
"""Parts of the network that a modality may choose: the groups in `configs/network`."""

OPTION_COLUMNS = ("series", "frame")
"""Options of a source that may differ from case to case; a cohort may have a column for each of them."""

_TWO_CLASSES = {"_target_": "glimpse.tasks.Classification", "classes": 2, "class_weights": None, "specificity": 0.9}
_OF_A_COHORT = ("modality", "path", "task", "on_error", "seed", "synthetic", "progress", *STAGING)
_NOT_SET_BY_USERS = ("folder", "progress", "workers")  # arguments of functions that make synthetic cohorts


@dataclass(frozen=True, eq=False)
class Modality:
    """Everything that defines a kind of image: its environment, and its option `env=` on the command line.

    glimpse's own modalities are such records, too: slides, radiographs, MR and CT in `glimpse.envs.medical`, and drawn
    images in `glimpse.envs.glyphs`. The defaults of a modality are written in its record only.

    Attributes:
        name: name of the modality; on the command line it is chosen with `env=<name>`.
        source: the class that reads the images listed in a CSV; None if the images are drawn.
        reader: name under which the source is registered in `glimpse.sources`; the name of the modality if not given.
        options: options of the source, with their defaults. Users set them as `env.cohort.<option>` on the command
            line, and as keyword arguments of `gymnasium.make`. An option that is None is not passed to the source.
            Those of `OPTION_COLUMNS` may also be columns of the CSV.
        synthetic: makes a synthetic cohort and returns the path of its CSV; a function, or its "module:name".
        synthetic_options: options of the source for that cohort; users can still set others.
        draws: for drawn images, in place of `source`: makes a `Cohort`; a function, or its "module:name". Users set its
            keyword arguments in the same way as `options`.
        shared: options that both the cohort and the task use; users set them as `env.<option>`.
        task: configuration of the task, with a `_target_`.
        overview_size, glimpse_size: sizes in pixels, one number or one per axis. If `overview_size` is None, it is half
            the size of the first image.
        glimpse_extents: fields of view, from wide to fine, in level-0 pixels, or with a unit such as "8mm".
        max_glimpses: budget of an episode.
        glimpse_cost: what a glimpse costs, in units of the score; or the cost for each field of view.
        background: pixel value outside the image.
        networks: parts of the network that suit these images, each an option of a group of the command line, such as
            `{"encoder": "efficientnet_lite0"}` for `network/encoder=efficientnet_lite0`. Users can still choose others.
        learning: the recipe for these images, with the content that a file `configs/recipe/<name>.yaml` would have.
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
    glimpse_cost: float | Sequence[float] = 0.002
    background: int = 0
    networks: Mapping[str, str] = field(default_factory=dict)
    learning: Mapping[str, Any] = field(default_factory=dict)

    @property
    def env_id(self) -> str:
        """The Gymnasium id of the environment."""
        return BUILT_IN.get(self.name) or environment_id(self.name)

    def maker(self) -> Callable[..., Any] | None:
        """Returns the function that makes the synthetic cohort or draws the images, or None."""
        named = self.draws or self.synthetic
        if not isinstance(named, str):
            return named
        module, _, name = named.partition(":")
        return getattr(import_module(module), name)

    def cohort_options(self) -> dict[str, Any]:
        """Returns the options of a cohort of this modality, with their defaults."""
        return {**(_defaults_of(self.maker()) if self.draws else self.options)}

    def source_options(self, given: Mapping[str, Any], synthetic: bool = False) -> dict[str, Any]:
        """Returns the options of `open_source` for images of this modality.

        Args:
            given: options of a cohort, such as `windows`; those that are None or not given have their defaults.
            synthetic: whether the images are those of the modality's synthetic cohort, which has options of its own.
        """
        options = {**self.cohort_options(), **self.shared, **given}
        if synthetic:
            missing = {name for name, value in options.items() if value is None}
            options |= {name: value for name, value in self.synthetic_options.items() if name in missing}
        return {"reader": self.reader or self.name} | {k: v for k, v in options.items() if v is not None}

    @property
    def staging(self) -> tuple[str, ...]:
        """The options of a cohort that say where copies of its images lie; none where images are drawn."""
        return STAGING if self.draws is None else ()

    def config(self) -> dict[str, Any]:
        """Returns the section `env` of the configuration that `env=<name>` chooses, with all of its settings."""
        options = self.cohort_options() | {name: f"${{env.{name}}}" for name in self.shared}
        if self.draws is None:
            files = {"path": None, "task": "${env.task}", "on_error": "raise", "seed": "${seed}"}
            made = {} if self.synthetic is None else _defaults_of(self.maker())
            options = {**files, **options, **dict.fromkeys(STAGING), "synthetic": made, "progress": "${progress}"}
        sizes = {name: getattr(self, name) for name in ("overview_size", "glimpse_size", "glimpse_extents")}
        budget = {"max_glimpses": "${max_glimpses}", "glimpse_cost": self.glimpse_cost}
        maker = {"_target_": MAKER.replace(":", "."), "modality": self.name, "task": "${env.task}"}
        loader = {"_target_": "glimpse.envs.modality.load_modality", "modality": self.name}
        chosen = [
            {f"override /network/{part}@_global_.network.{part}": option} for part, option in self.networks.items()
        ]
        return _plain({
            "defaults": ["_self_", *chosen],
            "name": self.name,
            "background": self.background,
            "max_glimpses": self.max_glimpses,
            **self.shared,
            "cohort": loader | options,
            "task": {**(_TWO_CLASSES if self.task["_target_"] == _TWO_CLASSES["_target_"] else {}), **self.task},
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
    """Registers a source as a modality: as a Gymnasium environment, an option of the command line, and a reader.

    After registering "retinal_oct", `gymnasium.make("glimpse/RetinalOct-v0", cohort="cohort.csv")` makes its
    environment, with the options of `glimpse.envs.modality.make_modality`, and `glimpse train env=retinal_oct
    env.cohort.path=cohort.csv` trains on it; the defaults below can be changed on the command line.
    `glimpse.open_source` uses the source for files with its suffixes or content.

    Args:
        name: an identifier that no other modality, environment or reader uses.
        source: a subclass of `ImageSource`, called with the path and `options`.
        suffixes: suffixes of its files, such as (".mhd",).
        sniff: tells from a file's content whether the source can read it. Without suffixes and sniff, the source reads
            all files in cohorts of this modality, and `open_source` does not find it.
        overwrite: whether to replace a modality of the same name, for example when a notebook's cell is run again.
        **defaults: attributes of `Modality`, such as `glimpse_extents=("8mm",)` or
            `learning={"joint": {"updates": 60}}`.

    Returns:
        The modality.

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
    """Registers a modality with Gymnasium, and adds it and its recipe to the options of the command line."""
    from hydra.core.config_store import ConfigStore  # slow to import, and needed here only

    store = ConfigStore.instance()
    store.store(group="env", name=modality.name, node=modality.config(), provider="glimpse.modalities")
    if modality.name not in BUILT_IN:  # those have a file; an empty recipe takes the place of an earlier one
        learning = _plain(dict(modality.learning))
        store.store(group="recipe", name=modality.name, node=learning, provider="glimpse.modalities")
    gymnasium.registry.pop(modality.env_id, None)  # from `announce`, or of a modality that is replaced
    gymnasium.register(id=modality.env_id, entry_point=MAKER, kwargs={"modality": modality.name})
    _MODALITIES[modality.name] = modality


def find_modality(name: str) -> Modality:
    """Returns a registered modality; if it is not there yet, packages with modalities are loaded first.

    Raises:
        ModalityError: there is no such modality; the message says why loading failed, or which modalities exist.
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
    if sniff is None and endings:  # files are recognised by their suffix alone
        register_reader(modality.name, source, suffixes=endings, sniff=lambda path: path.name.lower().endswith(endings))
    else:
        register_reader(modality.name, source, suffixes=endings, sniff=sniff or knows_nothing)


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
    """Returns the registered ids in lower case, without those of modalities whose packages are not loaded yet."""
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
    for setting in ("learning", "networks", "options", "synthetic_options", "shared"):
        if not isinstance(defaults.get(setting, {}), Mapping):
            raise ModalityError(f"{name}: expected {setting} as a mapping, got {defaults[setting]!r}.")
    for part in defaults.get("learning", {}):
        if part not in RECIPE_PARTS:
            raise ModalityError(
                f"{name}: learning has no part {part!r}{suggestion(part, RECIPE_PARTS)}; its parts are "
                f"{', '.join(RECIPE_PARTS)}, with the keys that they have on the command line."
            )
    for part, option in defaults.get("networks", {}).items():
        if part not in NETWORK_PARTS:
            raise ModalityError(
                f"{name}: networks has no part {part!r}{suggestion(str(part), NETWORK_PARTS)}; its parts are "
                f"{', '.join(NETWORK_PARTS)}."
            )
        if not isinstance(option, str) or not option:
            raise ModalityError(
                f"{name}: expected the name of an option of network/{part}, such as those that `glimpse train --help` "
                f"lists, got {option!r}."
            )
    taken = sorted({*defaults.get("options", {})} & {*_OF_A_COHORT})
    if taken:
        raise ModalityError(f"{name}: options of a source cannot be called {', '.join(taken)}: cohorts have these.")


# ---------------------------------------------------------------------------------------------- configurations
def _defaults_of(maker: Callable[..., Any] | None) -> dict[str, Any]:
    """Returns the keyword arguments of `maker` that users may set, with their defaults."""
    if maker is None:
        return {}
    given = inspect.signature(maker).parameters.values()
    return {
        one.name: one.default
        for one in given
        if one.default is not one.empty and one.name not in _NOT_SET_BY_USERS
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Converts nested mappings to dicts and sequences to lists, as configurations require."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
