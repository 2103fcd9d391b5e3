"""The weights of another run, with which a training may begin."""

import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.transfer import take_over
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from glimpse.runs.loading import CONFIG_FILE, OVERVIEW_FILE, POLICY_FILE, no_run, not_ended, read_settings
from glimpse.settings.progress import say

_BEST = "checkpoints/best.safetensors"
_HEADS = ("answer_head", "glimpse_head", "value_head")  # what depends on the task
_ANSWER = ("answer_head.", "aggregator.", "pool.project.")  # without which no answer makes sense
_FORMS = ("_target_", "name", "stride", "strides", "kernels", "widths", "lora_rank")  # of an encoder: other features
_HELD = ("stop_bias", "locator.seen_penalty", "locator.near_penalty", "locator.std")  # settings that weights replace


def take_weights(policy: GlimpsePolicy, run: str | os.PathLike[str], settings: Mapping[str, Any]) -> bool:
    """Copies the weights of a run that has ended into a policy, where both networks are alike.

    Fields of view correspond from the finest one on (see `glimpse.networks.transfer`). Answers begin anew where the
    task is another one. Warnings say what begins anew, and which settings have no effect, since they are initial
    values of weights.

    Args:
        policy: what is changed, in place.
        run: the run folder, or a file of weights, such as its `checkpoints/best.safetensors`.
        settings: the settings by which the policy was made.

    Returns:
        Whether all that answers has taken its weights.

    Raises:
        CheckpointError: there are no such weights, or they are of another encoder.
    """
    file = weights_file(run)
    checkpoint = Checkpoint.load(file)
    prefix = "policy/"
    state = {key.removeprefix(prefix): part for key, part in checkpoint.tensors.items() if key.startswith(prefix)}
    layout = checkpoint.meta.get("layout")
    levels = layout.get("zooms") if isinstance(layout, Mapping) else None
    if not isinstance(levels, int) or levels < 1 or not state:
        raise CheckpointError(f"{file}: these are no weights of a policy. {_instead(run_of(run))}")
    own_parts = policy.state_dict()
    for name, part in state.items():
        if not part.isfinite().all():
            raise CheckpointError(f"{file}: {name} has values that are not finite. {_instead(run_of(run))}")
        if name in own_parts and part.is_floating_point() != own_parts[name].is_floating_point():
            raise CheckpointError(f"{file}: {name} has numbers of another kind ({part.dtype}). {_instead(run_of(run))}")
    theirs = read_settings(run_of(run)) or {}
    others: Any = theirs.get("network")
    others = others if isinstance(others, Mapping) else {}
    _check_encoder(run, policy, state, settings["network"].get("encoder"), others.get("encoder"))
    other_task = bool(theirs) and _task_of(theirs) != _task_of(settings)
    if other_task:
        state = {name: part for name, part in state.items() if not name.startswith(_HEADS)}
    kept = take_over(policy, state, levels)
    say(f"weights of {run}: {len(policy.state_dict()) - len(kept)} parts taken", settings["progress"])
    if kept:
        why = "their task is another one" if other_task else "they have other shapes, or are not there"
        warnings.warn(f"Not taken from {run}, so that they begin anew: {_named(policy, kept)} ({why}).", stacklevel=2)
    if "memory.looks_left.weight" in state and "memory.looks_left.weight" not in own_parts:
        warnings.warn(
            f"The policy of {run} minds how many looks are left, and without that decides as if none were: add "
            "network.memory.looks_left with the number of max_glimpses.",
            stacklevel=2,
        )
    own, replaced = _flat(settings["network"]), _flat(others)
    held = [name for name in _HELD if name in own and replaced.get(name, own[name]) != own[name]]
    if held:
        named = ", ".join(f"network.{name}" for name in held)
        warnings.warn(f"No effect beside initial_weights, which has values of its own: {named}.", stacklevel=2)
    return not any(name.startswith(_ANSWER) for name in kept)


def run_of(weights: str | os.PathLike[str]) -> Path:
    """Returns the folder of the run that has the given weights: the folder itself, or that of one of its files."""
    path = Path(weights)
    if path.is_dir():
        return path
    return next((folder for folder in path.parents[:2] if (folder / CONFIG_FILE).exists()), path.parent)


def weights_file(run: str | os.PathLike[str]) -> Path:
    """Returns the file with the weights of a run, which may be given itself.

    Raises:
        CheckpointError: there is no such file, it is not that of an agent, or an earlier version trained the run.
    """
    path = Path(run)
    found = read_settings(run_of(path))
    if path.is_dir() and found is None:
        raise CheckpointError(no_run(path))
    file = path / POLICY_FILE if path.is_dir() else path
    if not file.is_file():
        if path.is_dir() and (reason := not_ended(path, POLICY_FILE)):
            best = path / _BEST
            raise CheckpointError(f"{reason} Its best weights so far: {best}." if best.is_file() else reason)
        raise CheckpointError(f"{file}: there is no such file. {_instead(run_of(path))}")
    if file.name == Path(OVERVIEW_FILE).name:
        raise CheckpointError(f"{file}: this network answers from overviews alone. {_instead(run_of(path))}")
    return file


def weights_checksum(run: str | os.PathLike[str]) -> str:
    """Returns what tells the weights of a run from others: the first 16 digits of the SHA-256 of their file.

    Raises:
        CheckpointError: as `weights_file`.
    """
    return hashlib.sha256(weights_file(run).read_bytes()).hexdigest()[:16]


def _instead(folder: Path) -> str:
    best = folder / _BEST
    return f"Give {best}." if best.is_file() else "Give the folder of a run that has ended."


def _check_encoder(
    run: str | os.PathLike[str], policy: GlimpsePolicy, state: Mapping[str, Any], own: Any, theirs: Any
) -> None:
    """Refuses weights of an encoder that is made otherwise; other options are named in a warning."""
    names = {name for name in policy.state_dict() if name.startswith("encoder.")}
    there = {name for name in state if name.startswith("encoder.")}
    one, two = _flat(own), _flat(theirs)
    changed = [
        f"{name}={two.get(name)} there, {one.get(name)} here"
        for name in sorted(one.keys() | two.keys())
        if theirs and _differs(name, one, two)
    ]
    parts = {name: (tuple(state[name].shape), tuple(policy.state_dict()[name].shape)) for name in names & there}
    shapes = {name: both for name, both in parts.items() if both[0] != both[1]}
    if shapes and names == there:
        name = next(name for name in policy.state_dict() if name in shapes)
        changed.append(f"{name} has the shape {shapes[name][0]} there, {shapes[name][1]} here")
    formed = [one for one in changed if one.partition("=")[0].rpartition(".")[2] in _FORMS]
    if names != there or shapes or formed:
        said = f" ({'; '.join(changed)})" if changed else ""
        raise CheckpointError(
            f"{run}: its encoder is made otherwise than network.encoder here{said}. Choose network.encoder as its "
            f"{CONFIG_FILE} says, adapters and what is trained among it, for images of as many channels, or leave out "
            "initial_weights."
        )
    if changed:
        warnings.warn(f"{run}: network.encoder has {'; '.join(changed)}.", stacklevel=3)


def _differs(name: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Returns whether an option differs; one that only one side has differs if it is on there."""
    if name.endswith("checkpoint"):
        return False
    if name not in one or name not in two:
        return bool(one.get(name) or two.get(name))
    return bool(_unmoved(one[name]) != _unmoved(two[name]))


def _unmoved(value: Any) -> Any:
    """Returns the last part of a whole path, as of the folder of a Hugging Face model, and other values as they are."""
    return os.path.basename(value) if isinstance(value, str) and os.path.isabs(value) else value


def _task_of(settings: Mapping[str, Any]) -> Any:
    """Returns what the settings of a run say of its task, without what only weights its loss or measures it."""
    env = settings.get("env") or {}
    task = (env.get("make") or {}).get("task") or env.get("task")
    if not isinstance(task, Mapping):
        return task
    return {name: value for name, value in task.items() if name not in ("class_weights", "specificity")}


def _named(policy: GlimpsePolicy, kept: Iterable[str]) -> str:
    """Names parts of a policy; modules of which no part was taken, by their own name."""
    kept, names = set(kept), list(policy.state_dict())
    found = []
    for name in sorted(kept):
        words = name.split(".")
        above = [".".join(words[:count]) for count in range(1, len(words))]
        whole = (one for one in above if all(part in kept for part in names if part.startswith(f"{one}.")))
        found.append(next(whole, name))
    return ", ".join(dict.fromkeys(found))


def _flat(section: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested sections by their names with dots."""
    if not isinstance(section, Mapping):
        return {}
    found: dict[str, Any] = {}
    for name, value in section.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
