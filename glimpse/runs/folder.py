"""The run folder: what a training writes, where it stands, and how it goes on after an interruption."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat

from glimpse.atomic import write_atomically
from glimpse.errors import UserError
from glimpse.runs.checkpoints import Checkpoint
from glimpse.runs.earlier import is_earlier
from glimpse.runs.loading import CONFIG_FILE


class RunError(UserError, ValueError):
    """A run folder cannot be used as asked."""


class Run:
    """One run folder.

    Layout: `config.yaml`, `splits.csv`, `policy.safetensors`, `metrics.json`, `predictions.csv`, `scanpaths/`,
    TensorBoard events, and `checkpoints/` with `last.safetensors` (everything needed to go on),
    `pretrained.safetensors` and `best.safetensors`.

    Args:
        folder: where; made if it is not there.
        settings: of the run, with everything resolved; written to `config.yaml`.
        resume: go on with what the folder holds. A new run refuses a folder that holds one already.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any], resume: bool = False) -> None:
        self.folder = Path(folder)
        if not resume and (self.folder / CONFIG_FILE).exists():
            raise RunError(
                f"{self.folder} holds a run already. Continue it with resume={self.folder}, "
                "or choose another folder with run=."
            )
        try:
            (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.folder}: cannot be made a run folder ({error.strerror}). Choose another one with run=."
            ) from error
        write_atomically(self.folder / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(dict(settings))))
        self.logger = Logger(str(self.folder), [TensorBoardOutputFormat(str(self.folder))])
        last = self.checkpoint("last")
        self.last = Checkpoint.load(last) if last.exists() else Checkpoint(meta={"stage": None, "seconds": {}})
        self.seconds: dict[str, float] = dict(self.last.meta["seconds"])

    def checkpoint(self, name: str) -> Path:
        """Path of a checkpoint."""
        return self.folder / "checkpoints" / f"{name}.safetensors"

    def finished(self, stage: str, stages: list[str]) -> bool:
        """Whether an earlier part of this run has been through a stage."""
        reached = self.last.meta["stage"]
        return reached is not None and stages.index(reached) > stages.index(stage)

    def save(self, checkpoint: Checkpoint, stage: str) -> None:
        """Makes `checkpoint` the point from which the run would go on."""
        checkpoint.meta |= {"stage": stage, "seconds": dict(self.seconds)}
        checkpoint.save(self.checkpoint("last"))
        self.last = checkpoint

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time spent inside to the stage's seconds, kept up to date by `tick`."""
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self.tick(stage)

    def tick(self, stage: str) -> None:
        """Books the time since the last tick on a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now

    def write_json(self, name: str, record: dict[str, Any]) -> None:
        """Writes a JSON file into the folder, atomically."""
        write_atomically(self.folder / name, json.dumps(record, indent=2) + "\n")


def settings_of(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings of an earlier run, to resume it.

    Raises:
        RunError: the folder holds no run, or one that cannot be resumed.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise RunError(f"{folder}: there is no run to resume here (no {CONFIG_FILE}).")
    settings: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    if is_earlier(settings):
        raise RunError(
            f"{folder}: an earlier version of glimpse began this run, under settings that had other names. It can be "
            "evaluated, but not resumed: train anew with run=<another folder>."
        )
    return dict(settings)


def check_continues(run: Run, updates: int | None) -> None:
    """Refuses fewer updates of the joint stage than the run has made already.

    Raises:
        RunError: the number can take no effect.
    """
    last = run.last.meta
    if last["stage"] == "joint" and updates is not None and updates < last["updates"]:
        raise RunError(
            f"{run.folder}: joint.updates={updates} can take no effect, because this run has made {last['updates']} "
            "updates already. Ask for more."
        )
