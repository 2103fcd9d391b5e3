"""Checks that every key of a composed configuration is used by something, and that its value is of the right kind.

Hydra refuses to override a key that no file has, but a file, a recipe or `+key=value` can still add any key. Here every
key that stands beside a `_target_` must be an argument of that target. A recipe or another file may hold keys for
several options of a group (for example for both kinds of warm-up); those that only other options have are left out.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pkgutil import resolve_name
from typing import Any

from omegaconf import OmegaConf

from glimpse.errors import SettingsError
from glimpse.settings.kinds import check_kind, hints_of
from glimpse.settings.nearest import no_such_setting

Path = tuple[str, ...]

_OF_HYDRA = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
_SECTIONS: dict[Path, tuple[str, ...]] = {
    (): (
        "env", "network", "agent", "pretrain", "warm_up", "joint", "seed", "max_glimpses", "threads", "read_threads",
        "device", "progress", "features_cache", "run", "resume", "initial_weights", "splits", "save_seconds",
        "vector", "report",
    ),
    ("agent",): ("name", "algorithm"),
    ("report",): ("split", "readers", "lanes", "pictures", "calibrate", "pages", "overview", "full_scan"),
    ("pretrain", "augment"): (
        "turn", "quarter_turns", "tilt", "zoom", "shift", "flips", "strength", "stain", "stain_shift", "brightness",
        "gamma", "noise", "blur",
    ),
}  # fmt: skip
"""Sections without a `_target_`, and the keys that each of them may have."""

_NEEDED: tuple[Path, ...] = (
    ("network",), ("network", "encoder"), ("agent",), ("agent", "algorithm"), ("pretrain",), ("warm_up",), ("joint",),
    ("report",), ("report", "overview"), ("report", "full_scan"), ("vector",),
)  # fmt: skip

_GROUPS: dict[Path, str] = {
    ("pretrain",): "pretrain",
    ("warm_up",): "warm_up",
    ("joint",): "joint",
    ("agent", "algorithm"): "agent",
    ("joint", "algorithm"): "agent",
    ("network", "encoder"): "network/encoder",
    ("network", "locator"): "network/locator",
    ("network", "aggregator"): "network/aggregator",
}
"""Sections whose `_target_` is chosen by a group of configuration files, and the folder of that group."""


def checked(config: Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Checks all keys of a configuration, and drops those that only other options of their group have.

    Args:
        config: the composed configuration, with all interpolations resolved.
        overrides: what was typed on the command line, as `key=value`.

    Returns:
        The configuration without the dropped keys.

    Raises:
        SettingsError: a key does not exist (the message names the nearest one that does), or has a value of a kind
            that its target does not take.
    """
    sections = dict(config)
    _check_sections(sections)
    typed = {_path_of(one): one.partition("=")[2] for one in overrides}
    sections["env"] = _with_checked_task(sections["env"], typed)
    found = _checked(sections, (), typed)
    _check_environment(found, overrides)
    _check_pretraining(found, typed)
    return found


def typed_keys(overrides: Iterable[str]) -> list[str]:
    """Returns the keys of overrides such as `+joint.updates=9`, `~env.task.classes` or `agent=ppo`."""
    return [".".join(_path_of(one)) for one in overrides]


def _path_of(override: str) -> Path:
    return tuple(override.partition("=")[0].lstrip("+~").split("."))


def _is_typed(path: Path, typed: Mapping[Path, str]) -> bool:
    """Tells whether a key was set on the command line: by itself, below it, or in a section written `{...}`."""
    below = any(one[: len(path)] == path for one in typed)
    within = (value for one, value in typed.items() if path[: len(one)] == one and value.startswith("{"))
    return below or any(path[-1] in value for value in within)


def _checked(node: Any, path: Path, typed: Mapping[Path, str]) -> Any:
    if isinstance(node, list):
        return [_checked(part, (*path, str(index)), typed) for index, part in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    known, kept = _known(node, path), {}
    hints = hints_of(_resolved(str(node["_target_"]), ".".join(path))) if "_target_" in node else {}
    for key, value in node.items():
        here = (*path, str(key))
        if known is None or key in known or key in _OF_HYDRA:
            kept[key] = _checked(value, here, typed)
            if key in hints:
                check_kind(".".join(here), value, hints[key])
        elif _is_typed(here, typed) or key not in _of_other_options(path):
            raise SettingsError(no_such_setting(".".join(here), ".".join(path), known))
    return kept


def _with_checked_task(env: Mapping[str, Any], typed: Mapping[Path, str]) -> dict[str, Any]:
    """Checks `env.task` once, under the name that is typed, for all sections of `env` that refer to it.

    If another task was chosen on the command line, the settings that only the environment's own task has are dropped.
    """
    task, path = env.get("task"), ("env", "task")
    referring = [key for key, part in env.items() if isinstance(part, Mapping) and "task" in part]
    referring = [key for key in referring if task is not None and env[key]["task"] == task]
    if not referring:
        return dict(env)
    if not isinstance(task, Mapping) or "_target_" not in task:
        raise SettingsError(
            f"env.task: expected a section with a _target_, got {task!r}. Type env.task.classes=[a,b] for classes, or "
            "env.task._target_=glimpse.tasks.Regression +env.task.mean=50 +env.task.spread=10 for a quantity."
        )
    if _is_typed((*path, "_target_"), typed):
        known = _known(task, path)
        task = {
            key: value
            for key, value in task.items()
            if known is None or key in known or key in _OF_HYDRA or _is_typed((*path, str(key)), typed)
        }
    found = _checked(task, path, typed)
    return {**env, "task": found, **{key: {**env[key], "task": found} for key in referring}}


def _named(path: Path) -> str:
    return ".".join(path) or "A training"


def _known(node: Mapping[str, Any], path: Path) -> tuple[str, ...] | None:
    """Returns the keys that a section may have, or None where any key is allowed."""
    if "_target_" in node:
        return _arguments(str(node["_target_"]), ".".join(path))
    return _SECTIONS.get(path)


@cache
def _arguments(target: str, where: str) -> tuple[str, ...] | None:
    """Returns the names of a target's arguments, or None where it takes arguments of any name."""
    taken, names = _resolved(target, where), []
    for one in inspect.signature(taken).parameters.values():
        if one.kind is one.VAR_KEYWORD:
            more = getattr(taken, "option_names", None)
            if more is None:
                return None
            names += list(more())
        elif not one.name.startswith("_"):
            names.append(one.name)
    return tuple(names)


def _resolved(target: str, where: str) -> Callable[..., Any]:
    try:
        return resolve_name(target)
    except Exception as error:  # a module may fail in any way
        reason = " ".join(str(error).split())
        raise SettingsError(f"{where}._target_={target}: cannot be imported ({reason}).") from error


@cache
def _of_other_options(path: Path) -> frozenset[str]:
    """Returns the arguments of all targets that a section's group offers, together."""
    names: set[str] = set()
    if path not in _GROUPS:
        return frozenset()
    for file in files("glimpse.configs").joinpath(*_GROUPS[path].split("/")).iterdir():
        if file.name.endswith(".yaml"):
            node: Any = OmegaConf.to_container(OmegaConf.create(file.read_text(encoding="utf-8")))
            for key in path if node.get("_target_") is None else ():
                node = node.get(key, node)
            target = node.get("_target_") or node.get("algorithm", {}).get("_target_")
            names |= set(_arguments(target, _named(path)) or ()) if target else set()
    return frozenset(names)


def _check_sections(config: Mapping[str, Any]) -> None:
    """Refuses a configuration that lacks a section, or has a value in its place."""
    for path in (("env",), ("env", "cohort"), ("env", "make"), *_NEEDED):
        node: Any = config
        for key in path:
            node = node.get(key) if isinstance(node, Mapping) else None
        if not isinstance(node, Mapping):
            raise SettingsError(f"{'.'.join(path)}: expected a section, got {node!r}.")
    if "learning" in config["env"]:
        raise SettingsError(
            "env.learning: its settings have moved to the stages themselves. Write them into configs/recipe/<env>.yaml "
            "with the keys of the command line, such as joint.updates."
        )


def _check_environment(config: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuses keys of `env` that were only added by `+` on the command line, because nothing reads them."""
    typed = {_path_of(one) for one in overrides if one.startswith("+")}
    env = config.get("env", {})
    added = [key for key in env if all(leaf in typed for leaf in _leaves(env[key], ("env", str(key))))]
    for key in added:
        raise SettingsError(no_such_setting(f"env.{key}", "env", [one for one in env if one not in added]))


def _check_pretraining(config: Mapping[str, Any], typed: Mapping[Path, str]) -> None:
    """Refuses a way of pretraining that was chosen on the command line, where the recipe makes no steps of it."""
    chosen = typed.get(("pretrain",), "")
    if chosen.isidentifier() and config["pretrain"].get("steps") == 0 and not _is_typed(("pretrain", "steps"), typed):
        raise SettingsError(
            f"pretrain={chosen}: the recipe of env={config['env'].get('name')} sets pretrain.steps=0, so the encoder "
            "would learn nothing. Set pretrain.steps=1000, too, or pretrain.steps=0 to keep it as it is."
        )


def _leaves(node: Any, path: Path) -> Iterator[Path]:
    """Yields the paths of everything below a section that is not a section itself."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, (*path, str(key)))
    else:
        yield path
