"""The run folder: what a training writes, where it stands, and how it goes on after an interruption."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat

from glimpse.atomic import write_atomically
from glimpse.runs.checkpoints import Checkpoint
from glimpse.runs.loading import CONFIG_FILE


class RunError(ValueError):
    """A run folder cannot be used as asked."""


class Run:
    """One run folder.

    Layout: `config.yaml`, `splits.csv`, `policy.safetensors`, `metrics.json`, `predictions.csv`, `scanpaths/`,
    TensorBoard events, and `checkpoints/` with `last.safetensors` (everything needed to go on),
    `pretrained.safetensors` and `best.safetensors`.

    Args:
        folder: where; made if it is not there.
        config: of the run; written to `config.yaml` of a new one.
        resume: go on with what the folder holds. A new run refuses a folder that holds one already.
    """

    def __init__(self, folder: str | os.PathLike[str], config: DictConfig, resume: bool = False) -> None:
        self.folder = Path(folder)
        if not resume and (self.folder / CONFIG_FILE).exists():
            raise RunError(
                f"{self.folder} holds a run already. Continue it with resume={self.folder}, "
                "or choose another folder with run=."
            )
        (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        if not resume:
            write_atomically(self.folder / CONFIG_FILE, OmegaConf.to_yaml(config, resolve=True))
        self.logger = Logger(str(self.folder), [TensorBoardOutputFormat(str(self.folder))])
        last = self.checkpoint("last")
        self.last = Checkpoint.load(last) if last.exists() else Checkpoint(meta={"stage": None, "seconds": {}})
        self.seconds: dict[str, float] = dict(self.last.meta["seconds"])

    @staticmethod
    def config_of(folder: str | os.PathLike[str]) -> DictConfig:
        """The configuration of an earlier run.

        Raises:
            RunError: the folder holds no run.
        """
        path = Path(folder) / CONFIG_FILE
        if not path.is_file():
            raise RunError(f"{folder}: there is no run to resume here (no {CONFIG_FILE}).")
        config = OmegaConf.load(path)
        assert isinstance(config, DictConfig)
        return config

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
