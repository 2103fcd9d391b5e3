"""Saves a policy to a run folder, and loads it again without unpickling anything."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from glimpse.cohort import Case
from glimpse.errors import SettingsError, UserError
from glimpse.geometry import Extent
from glimpse.networks.feature_store import FeatureStore
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.pretrained import weights_replaced
from glimpse.ranks.group import from_first
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from glimpse.runs.parts import REMEDY, foreign_targets, told
from glimpse.settings.building import build, build_setting
from glimpse.settings.collecting import without_collecting
from glimpse.settings.options import at_least, check_device
from glimpse.settings.quoting import typed
from glimpse.spaces import ActionLayout, observation_space
from glimpse.views import Views

_SAID = 500  # characters of an error that are repeated
_NEWEST = "read_threads"  # a setting that only runs have whose cells lie in the middle of what they see
POLICY_FILE, CONFIG_FILE, METRICS_FILE = "policy.safetensors", "config.yaml", "metrics.json"
PRETRAINED_FILE = "checkpoints/pretrained.safetensors"  # the policy at the end of pretraining
OVERVIEW_FILE = "checkpoints/overview.safetensors"  # a separate network that answers from overviews alone


@contextmanager
def restored(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turns whatever goes wrong inside, where a run folder is damaged, into an error that names the folder.

    Raises:
        CheckpointError: the settings or parameters of the run make no sense.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:_SAID].removesuffix(".")
        raise CheckpointError(
            f"{folder}: its {CONFIG_FILE} and {POLICY_FILE} do not make a network that reads images ({said}). Restore "
            "both files from a copy of the run."
        ) from error


def build_policy(network: Any, observation_space: spaces.Dict, layout: ActionLayout, **changes: Any) -> GlimpsePolicy:
    """Builds an untrained policy from the section `network` of a configuration; `changes` override its keys."""
    return build(network)(observation_space, layout.box_space(), layout=layout, **changes)


def check_costs(make: Mapping[str, Any]) -> None:
    """Checks the cost of a glimpse in the section `env.make` of a configuration: one, or one for each field of view.

    Raises:
        SettingsError: a cost is below 0, or there are not as many of them as fields of view.
    """
    cost, extents = make.get("glimpse_cost"), make.get("glimpse_extents")
    if cost is None:
        return
    for one in cost if isinstance(cost, list) else [cost]:
        at_least("env.make.glimpse_cost", one, 0)
    fields = len(extents) if isinstance(extents, list) else 1
    if isinstance(cost, list) and extents is not None and len(cost) != fields:
        raise SettingsError(
            f"Expected env.make.glimpse_cost to be one number, or one for each of the {fields} fields of view, got "
            f"{cost}."
        )


def check_sizes_and_network(make: Mapping[str, Any], network: Any) -> None:
    """Checks, before there are any images, that sizes can be read and that a network can be built for them.

    The number of an image's axes and channels may not be known yet. The settings are refused if they fit none that is
    common.

    Args:
        make: the section `env.make` of a configuration. If it lacks sizes, nothing is checked.
        network: the section `network`.

    Raises:
        SettingsError: the settings do not go together.
    """
    check_costs(make)
    sizes: list[Any] = [make.get(name) for name in ("overview_size", "glimpse_size")]
    extents = make.get("glimpse_extents")
    if extents is None or not all(isinstance(size, int | list) for size in sizes):
        return
    lengths = [len(size) for size in sizes if isinstance(size, list)]
    kinds = [(3, lengths[0])] if lengths else [(3, 2), (1, 2), (1, 3), (1, 1)]
    reasons = []
    for channels, ndim in kinds + [(1, ndim) for ndim in lengths[:1]]:
        try:
            overview, glimpse = ([size] * ndim if isinstance(size, int) else size for size in sizes)
            listed = extents if isinstance(extents, list) else [extents]
            views = Views(tuple(overview), tuple(glimpse), tuple(Extent.parse(one) for one in listed))
            untrained_policy(network, channels, views)
            return
        except (TypeError, ValueError) as error:
            reasons.append(error)
    raise SettingsError(f"The settings of env.make or network do not go together: {reasons[0]}") from reasons[0]


def untrained_policy(network: Any, channels: int, views: Views) -> GlimpsePolicy:
    """Builds a network to see which sizes go together, with two answers, for images of so many channels.

    Args:
        network: the section `network` of a configuration.
        channels: number of channels of the images.
        views: the sizes.
    """
    layout = ActionLayout(views.ndim, 2, len(views.glimpse_extents))
    return build_policy(network, observation_space(channels, views), layout)


def feature_store(settings: Mapping[str, Any], cases: Sequence[Case] | None = None) -> FeatureStore | None:
    """Returns the store of features that settings ask for in the section `features_cache`, or None.

    Args:
        settings: all settings of a run.
        cases: the cases that are read. There is no store for images that have no files: those that are drawn are
            drawn anew for every seed.

    Raises:
        SettingsError: a value is impossible.
    """
    section = settings.get("features_cache")
    if section is None or (cases and cases[0].source.path is None):
        return None
    if not isinstance(section, Mapping) or "_target_" not in section:
        raise SettingsError(f"features_cache: expected a section or null, got {section!r}; type features_cache=null.")
    store: FeatureStore = build_setting("features_cache", section)
    return store


def save_policy(policy: GlimpsePolicy, path: str | os.PathLike[str]) -> None:
    """Writes the policy's parameters, together with the shapes that are needed to build the network again."""
    space = policy.observation_space
    assert isinstance(space, spaces.Dict)
    layout = policy.layout
    checkpoint = Checkpoint(meta={
        "observation": {name: list(space[name].shape or ()) for name in ("overview", "glimpse")},
        "layout": {"ndim": layout.ndim, "outputs": layout.outputs, "zooms": layout.zooms, "limit": layout.limit},
    })  # fmt: skip
    checkpoint.add_module("policy", policy)
    checkpoint.save(path)


def load(run: str | os.PathLike[str], file: str = POLICY_FILE, device: str = "cpu", **changes: Any) -> GlimpsePolicy:
    """Loads the policy of a run folder, in evaluation mode; its attribute `settings` holds the settings of the run.

    Args:
        run: the run folder.
        file: the file with the parameters, relative to the folder, such as "checkpoints/best.safetensors".
        device: where the policy computes.
        **changes: override keys of the section `network`, such as `overview_dropout=0`; the saved parameters must still
            fit the network.

    Raises:
        CheckpointError: the folder, its `config.yaml` or its parameters are missing or broken.
        SettingsError: PyTorch cannot compute on the device.
    """
    folder = Path(run)
    with without_collecting():  # it imports what the settings name
        return _loaded(folder, *_read(folder, file), device, changes)


def load_together(
    run: str | os.PathLike[str], file: str = POLICY_FILE, device: str = "cpu", **changes: Any
) -> GlimpsePolicy:
    """Loads as `load` does, in all processes that train together, what the first of them reads."""
    folder = Path(run)
    return _loaded(folder, *from_first(lambda: _read(folder, file)), device, changes)


def _read(folder: Path, file: str) -> tuple[dict[str, Any], Checkpoint]:
    """Returns the settings of a run, and the content of one of its files."""
    settings = read_settings(folder)
    if settings is None:
        raise CheckpointError(no_run(folder))
    if file == POLICY_FILE and (reason := not_ended(folder, file)):
        raise CheckpointError(reason)
    return settings, Checkpoint.load(folder / file)


def _loaded(
    folder: Path, settings: dict[str, Any], checkpoint: Checkpoint, device: str, changes: Mapping[str, Any]
) -> GlimpsePolicy:
    check_device(device)
    with restored(folder):
        layout = ActionLayout(**checkpoint.meta["layout"])
        space = _space(checkpoint.meta["observation"], layout.ndim, layout.zooms)
        try:
            with weights_replaced():
                policy = build_policy(_with_own_weights(settings["network"]), space, layout, **changes)
        except ImportError as error:
            raise CheckpointError(
                f"{folder}: its network cannot be built ({' '.join(str(error).split())}). Install what it was trained "
                "with, or put the folder of your own module into PYTHONPATH."
            ) from error
        checkpoint.restore_module("policy", policy)
    policy.settings = settings
    policy.set_training_mode(False)
    return policy.to(device)


def _with_own_weights(section: Any) -> Any:
    """Returns the section `network` without files of weights: a run holds all of its own."""
    if not isinstance(section, Mapping):
        return section
    return {
        name: None if name == "checkpoint" and isinstance(part, str) else _with_own_weights(part)
        for name, part in section.items()
    }


def no_run(
    folder: Path, what: str = "not a run folder (it has no {file}). Give the folder that training wrote."
) -> str:
    """Returns why a folder without a `config.yaml` cannot be used as a run, and what to give in its place."""
    folds = sorted(file.parent for file in folder.glob(f"fold-*/{CONFIG_FILE}"))
    if folds:
        return (
            f"{folder}: the folder of a cross-validation, which has a run for each fold. Give one, such as {folds[0]}."
        )
    return f"{folder}: {what.format(file=CONFIG_FILE)}"


def not_ended(folder: Path, file: str) -> str:
    """Returns why a run has no such file, where its training has not ended, and what to do; else ""."""
    begun = (folder / CONFIG_FILE).exists() and (folder / PRETRAINED_FILE).parent.is_dir()
    if not begun or (folder / file).exists() or (folder / METRICS_FILE).exists():
        return ""
    return f"{folder}: this training has not ended, so it has no {file} yet. {goes_on(folder)}"


def goes_on(folder: str | os.PathLike[str]) -> str:
    """Returns a sentence that says how a training that was interrupted goes on."""
    return f"If it was interrupted, glimpse train {typed('resume', folder)} goes on with it."


def settings_text(settings: Mapping[str, Any]) -> str:
    """Returns the content of `config.yaml`, from which `read_settings` reads these settings, whatever they hold."""
    return OmegaConf.to_yaml(OmegaConf.create(_literal(dict(settings))))


def _literal(value: Any) -> Any:
    """Returns settings whose texts are no interpolations, even those with a dollar sign and a brace."""
    if isinstance(value, Mapping):
        return {key: _literal(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(one) for one in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def read_settings(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Reads the settings of the run in a folder as they were written; None if it holds no run.

    Raises:
        CheckpointError: `config.yaml` cannot be read, or holds no settings, or those of an earlier version.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        settings: Any = OmegaConf.to_container(OmegaConf.create(path.read_text(encoding="utf-8")), resolve=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}). Allow this user to read the run folder."
        ) from error
    except (YAMLError, OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({' '.join(str(error).split())}). Restore the file.") from error
    env = settings.get("env") if isinstance(settings, dict) else None
    if not isinstance(env, dict) or not {"make", "cohort"} <= env.keys() or not isinstance(env["make"], dict):
        raise CheckpointError(f"{path}: these are not the settings of a run. Restore the file.")
    if _NEWEST not in settings:
        raise CheckpointError(
            f"{folder}: an earlier version of glimpse trained this run. The cells of its network lie beside what they "
            "see, so it cannot be used any more. Train anew with run=<another folder>."
        )
    for target in foreign_targets(settings):
        raise CheckpointError(
            f"{told(target, path)} Restore the file, and load only runs from people whom you trust. {REMEDY}"
        )
    return settings


def overview_network(run: Path, policy: GlimpsePolicy) -> GlimpsePolicy | None:
    """Returns the network of a run that answers from overviews, on the device of its policy.

    It is the policy itself, unless that never sees overviews when it answers (`overview_dropout=1`). Then it is the
    network that the run's report has trained and kept; None if there is none.

    Raises:
        CheckpointError: the kept network is broken.
    """
    if policy.overview_dropout < 1:
        return policy
    kept = run / OVERVIEW_FILE
    return load(run, OVERVIEW_FILE, str(policy.device), overview_dropout=0.0) if kept.exists() else None


def _space(shapes: dict[str, list[int]], ndim: int, zooms: int) -> spaces.Dict:
    overview, glimpse = tuple(shapes["overview"]), tuple(shapes["glimpse"])
    return spaces.Dict({
        "overview": spaces.Box(0, 255, overview, np.uint8),
        "foreground": spaces.Box(0, 255, (1, *overview[1:]), np.uint8),
        "glimpse": spaces.Box(0, 255, glimpse, np.uint8),
        "location": spaces.Box(-1, 1, (ndim,), np.float32),
        "remaining": spaces.Box(0, 1, (1,), np.float32),
        "extents": spaces.Box(0, 1, (zooms * ndim,), np.float32),
    })  # fmt: skip
