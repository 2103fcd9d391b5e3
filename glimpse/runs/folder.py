"""The run folder: the files that a training writes, and what it needs to go on after an interruption."""

import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import HParam, Logger, TensorBoardOutputFormat

from glimpse.atomic import remove_unfinished, write_atomically
from glimpse.errors import UserError
from glimpse.ranks.group import agreed, first, in_turn, largest, once, ranks
from glimpse.runs.checkpoints import Checkpoint
from glimpse.runs.loading import CONFIG_FILE, no_run, read_settings, settings_text
from glimpse.runs.stopping import Stopping
from glimpse.settings.quoting import typed

_ROOMS = ("checkpoints", "scanpaths")  # the folders of a run that only its training writes to
_EVENTS = "events.out.tfevents.*"  # the names of TensorBoard's files


class RunError(UserError, ValueError):
    """A run folder cannot be used in the way that was asked for."""


class Run:
    """One run folder. Opening it writes `config.yaml` and reads the last checkpoint, if there is one.

    Layout: `config.yaml`, `splits.csv`, `failures.csv` where cases were left out, `policy.safetensors`, `metrics.json`,
    `predictions.csv`, `scanpaths/`, `best_and_worst.png`, `telling_glimpses.png`, `pages/`, `report.html`, TensorBoard
    events, and `checkpoints/` with `last.safetensors` (everything needed to resume), `pretrained.safetensors` and
    `best.safetensors`.

    Args:
        folder: path of the folder; it is created if it does not exist.
        settings: all settings of the run, with interpolations resolved; they are written to `config.yaml`.
        resume: whether to continue the run in this folder. Otherwise a folder that holds a run is refused.
        save_seconds: seconds between two checkpoints, at least; with 0 each one that is offered is saved.

    Attributes:
        logger: writes scalars and pictures for TensorBoard.
        last: the last checkpoint; its `meta["stage"]` is None before anything was learned.
        seconds: time spent in each stage, by the stage's name.

    Raises:
        RunError: the folder holds a run already, or cannot be created.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: Mapping[str, Any],
        resume: bool = False,
        save_seconds: float = 60.0,
    ) -> None:
        self.folder, self.save_seconds = Path(folder), save_seconds
        self.last = Checkpoint(meta={"stage": None, "seconds": {}, "events": {}})
        with in_turn(first()):
            self._open(settings, resume)
        self.last = agreed(self.last)  # on another machine, a shared folder may show an earlier one for a while
        self.seconds: dict[str, float] = dict(self.last.meta["seconds"])
        self._stopping, self._saved = Stopping(), time.monotonic()
        ranks().folder = str(self.folder)

    def _open(self, settings: Mapping[str, Any], resume: bool) -> None:
        """Makes the folder; the first of several ranks also makes its first files and reads the last checkpoint."""
        if first() and not resume and _holds_run(self.folder):
            raise RunError(
                f"{self.folder} holds a run already. Continue it with {typed('resume', self.folder)}, "
                "or choose another folder with run=."
            )
        try:
            (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.folder}: cannot be made a run folder ({error.strerror}). Choose another one with run=."
            ) from error
        if first():
            remove_unfinished(*(self.folder / room for room in _ROOMS), seconds=0)  # first, for they may fill the disk
            remove_unfinished(self.folder)  # other commands write there, too
            write_atomically(self.folder / CONFIG_FILE, settings_text(settings))
        self.logger = Logger(str(self.folder), [])
        if not first():
            return
        last = self.checkpoint("last")
        self.last = Checkpoint.load(last) if last.exists() else self.last
        if resume:
            _cut_events(self.folder, self.last.meta.get("events"))
        self._events = TensorBoardOutputFormat(str(self.folder))
        self.logger = Logger(str(self.folder), [self._events])
        if self.last.meta["stage"] is None:  # what TensorBoard's tab HParams compares runs by
            self.logger.record("settings", HParam(compared(settings), {"validation/score": 0.0}))
            self.logger.dump(0)

    @staticmethod
    def has_learned(folder: str | os.PathLike[str]) -> bool:
        """Returns whether the run in a folder has a checkpoint to go on from."""
        return (Path(folder) / "checkpoints" / "last.safetensors").exists()

    def checkpoint(self, name: str) -> Path:
        """Returns the path of the checkpoint with this name."""
        return self.folder / "checkpoints" / f"{name}.safetensors"

    def finished(self, stage: str, stages: list[str]) -> bool:
        """Returns whether the run has completed a stage; `stages` lists all stages in order."""
        reached = self.last.meta["stage"]
        return reached is not None and stages.index(reached) > stages.index(stage)

    def save(self, checkpoint: Checkpoint, stage: str) -> None:
        """Saves `checkpoint` as the point from which the run is resumed; of several ranks, the first one does."""
        checkpoint.meta |= {"stage": stage, "seconds": dict(self.seconds)}
        if first():
            self._events.writer.flush()
            checkpoint.meta["events"] = {file.name: file.stat().st_size for file in self.folder.glob(_EVENTS)}
            checkpoint.save(self.checkpoint("last"))
        self.last, self._saved = checkpoint, time.monotonic()

    def offer(self, stage: str, state: Callable[[], Checkpoint], now: bool = False) -> None:
        """Saves a checkpoint if the last one is `save_seconds` old, if `now` is True, or if the run is to be stopped.

        Stages call it after every step, when another process could go on from the state that they are in.

        Args:
            stage: the stage that offers it.
            state: makes the checkpoint; called only if it is to be saved.
            now: whether to save it in any case.

        Raises:
            KeyboardInterrupt, SystemExit: the run is to be stopped (see `stoppable`), and the checkpoint is saved.
        """
        self.tick(stage)
        stop = self._stop_together()
        if first() and (now or stop or time.monotonic() - self._saved >= self.save_seconds):
            self.save(state(), stage)
        if stop:
            once(lambda: None)  # the last checkpoint is written before any process ends
            self._stopping.stop()

    def _stop_together(self) -> bool:
        """Returns whether any rank was asked to stop; all of them stop then after the same step."""
        asked = largest(self._stopping.asked or 0)
        self._stopping.asked = asked or None
        return asked > 0

    def stop_if_asked(self) -> None:
        """Ends the program if it was asked to stop in `stoppable`; stages call it after they have saved their end.

        Raises:
            KeyboardInterrupt, SystemExit: the run is to be stopped.
        """
        if self._stop_together():
            self._stopping.stop()

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Makes Ctrl-C and SIGTERM wait for the next call of `offer`; the second one does not wait."""
        how = f"glimpse train {typed('resume', self.folder)}"
        message = f"glimpse: stopping after this step; {how} goes on from here. (Once more stops at once.)"
        with self._stopping.deferred(message):
            yield

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time spent inside to the stage's seconds; `tick` updates them in between."""
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self.tick(stage)

    def tick(self, stage: str) -> None:
        """Adds the time since the last call to the seconds of a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now

    def write_json(self, name: str, record: dict[str, Any]) -> None:
        """Writes a JSON file into the folder, atomically."""
        write_atomically(self.folder / name, json.dumps(record, indent=2) + "\n")


def _holds_run(folder: Path) -> bool:
    try:
        return (folder / CONFIG_FILE).exists()
    except OSError:  # it may not be read, so it will not be written either, which is said better then
        return False


def _cut_events(folder: Path, sizes: Mapping[str, int] | None) -> None:
    """Takes from TensorBoard's files what was logged after a checkpoint: a run that goes on from it logs it again.

    Args:
        folder: the run folder.
        sizes: size of each file at the checkpoint; None where an earlier version has saved it without them.
    """
    if sizes is None:
        return
    for file in folder.glob(_EVENTS):
        size = sizes.get(file.name, 0)
        if size == 0:
            file.unlink()
        elif file.stat().st_size > size:
            os.truncate(file, size)


def settings_of(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the settings of the run in a folder, in order to resume it.

    Raises:
        RunError: the folder holds no run, or a run of an earlier version, which cannot be resumed.
        CheckpointError: its `config.yaml` cannot be read, or holds no settings.
    """
    settings = read_settings(folder)
    if settings is None:
        raise RunError(no_run(Path(folder), "there is no run to resume here (no {file})."))
    return settings


def check_continues(folder: str | os.PathLike[str], updates: int | None, keys: Collection[str] = ()) -> None:
    """Refuses changes of the joint stage that a run has gone too far for; nothing is written.

    Args:
        folder: The run folder.
        updates: The number of updates that the run is to reach; None where it has no joint stage.
        keys: The settings that are to be changed, such as "joint.keep".

    Raises:
        RunError: A change can take no effect.
    """
    last = Path(folder) / "checkpoints" / "last.safetensors"
    meta: dict[str, Any] = Checkpoint.load(last).meta if last.exists() else {"stage": None}
    if meta["stage"] != "joint" or updates is None:
        return
    done, more = meta["updates"], "Ask for more updates, too, such as joint.updates={}."
    if updates < done:
        raise RunError(
            f"{folder}: joint.updates={updates} can take no effect, because this run has made {done} updates already. "
            + more.format(2 * done)
        )
    late = [key for key in keys if key.startswith("joint.") and key != "joint.updates"]
    if late and updates == done:
        raise RunError(
            f"{folder}: {', '.join(late)} can take no effect, because this run has made all of its {done} updates. "
            + more.format(2 * done)
        )


def compared(settings: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Returns the settings by which runs are compared, `{"joint.updates": 80, ...}`: those of learning, if not null."""
    found: dict[str, bool | int | float | str] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                add(f"{name}.{key}", inner)
        elif isinstance(value, bool | int | float | str) and not name.endswith(("._target_", "._partial_")):
            found[name] = value

    for section in ("seed", "max_glimpses", "agent", "network", "pretrain", "warm_up", "joint"):
        add(section, settings.get(section))
    return found
