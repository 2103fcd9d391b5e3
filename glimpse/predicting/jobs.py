"""Jobs of submitit that read cases: an array on Slurm, or processes of this machine.

Each job reads its share of the images and then what is missing of all others. A job that is preempted or runs out of
time is put into the queue again, and goes on with the cases that are not written yet.
"""

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from glimpse.atomic import started, write_atomically, write_error
from glimpse.errors import SettingsError
from glimpse.predicting.actors import library
from glimpse.predicting.claims import BEAT, STALE, Claims
from glimpse.predicting.hand import ELSEWHERE, FAILED, KNOWN, READ, Named, Outcome, OwnHand, claims_in
from glimpse.predicting.inputs import Item
from glimpse.predicting.order import Order
from glimpse.predicting.outputs import FAILURES, RECORDS
from glimpse.predicting.work import Work
from glimpse.runs.stopping import Stopping
from glimpse.settings.allocator import keep_freed_memory
from glimpse.settings.nearest import suggestion
from glimpse.settings.options import at_least
from glimpse.settings.terminal import printable

LOGS = "jobs"  # the folder of their logs, in the output folder
_SHARED = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "tasks_per_node", "nodes", "name")
_POLL = 1.0  # seconds between two looks at what jobs have written
_END = 20.0  # seconds that jobs have to end when all is read
_MINUTES = 24 * 60  # submitit's own limit is 5
_TIMES = 2  # so often jobs are started, at least: a second time for what those that have died have left behind


@dataclass(frozen=True)
class _Share:
    """What a job does: a part of the images first, then what is missing of the others.

    Attributes:
        order: what it reads with.
        cases: the file that lists the images; they are found once, by the process that asks for jobs.
        part: which part, and of how many.
        moment: what has failed since then is not tried again.
        visible: the GPUs that jobs of this machine may see, as CUDA_VISIBLE_DEVICES names them; None leaves that to
            submitit.
    """

    order: Order
    cases: Path
    part: tuple[int, int]
    moment: float
    visible: str | None = None

    def __call__(self) -> dict[str, int]:
        """Returns how many cases it has read, and how many had been read before."""
        keep_freed_memory()  # as the command does in its own process
        if self.visible is not None:  # before CUDA begins; submitit has named the first ones of the machine
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible
        if self.order.device == "cuda":
            _take_gpu(self.part[0] - 1)
        work = Work(self.order.hand(), self.order.manifest("/".join(map(str, self.part))))
        return work.help(_listed(self.cases), self.part, self.moment).counts

    def checkpoint(self) -> Any:
        """Returns what the job is to do when it runs again: the same, since all that it has read is written.

        The case that it reads now is let go of: what ends it is no death of this case.
        """
        claims = claims_in(Path(self.order.folder))
        claims.release(claims.of_process(os.getpid(), started(os.getpid())))
        return library("submitit", "slurm", "submitit").helpers.DelayedSubmission(self)


class Jobs:
    """Reads cases with jobs of submitit.

    Args:
        order: what each job reads with.
        own: this process's part of the output folder.
        workers: how many jobs.
        options: `cluster`, "slurm" or "local" (by default Slurm where it is installed); everything else is given to
            submitit's `update_parameters`, such as `timeout_min`, `mem_gb` and `slurm_partition`.

    Raises:
        MissingExtraError: submitit is not installed.
        SettingsError: submitit does not know an option, or there is no such cluster.
    """

    counts = False  # jobs count for themselves

    def __init__(self, order: Order, own: OwnHand, workers: int, options: Mapping[str, Any]) -> None:
        submitit = library("submitit", "slurm", "submitit")
        self._order, self._outputs, self._workers = order.absolute, own.outputs, workers
        self._claims: Claims = own.claims
        self._jobs: list[Any] = []
        given = {"timeout_min": _MINUTES, "cpus_per_task": 2, "name": "glimpse-predict", **options}
        cluster = given.pop("cluster", None)
        if cluster not in (None, "slurm", "local"):
            raise SettingsError(f"Expected cluster in jobs as slurm or local, got {cluster!r}.")
        at_least("timeout_min in jobs", given["timeout_min"], 1, whole=True)
        folder = Path(self._order.folder) / LOGS
        try:
            self._executor = submitit.AutoExecutor(folder, cluster=cluster)
            local = self._executor.cluster == "local"
            if order.device.startswith("cuda"):  # on this machine, jobs share out what they all see
                given = {"gpus_per_node": _gpus() if local else 1, **given}
            self._executor.update_parameters(**given)
            self._visible = _visible(given.get("gpus_per_node")) if local else None
        except (NameError, ValueError, TypeError, AssertionError, RuntimeError) as error:
            with suppress(OSError):
                folder.rmdir()  # unless it holds logs
            raise _refused(options, error) from error
        except OSError as error:
            raise write_error(folder, error) from error
        self._chosen = cluster is not None

    def start(self) -> None:
        """Tells where jobs will run, if nobody has said so; they are started when it is known what is missing."""
        if not self._chosen and self._executor.cluster == "local":
            told = (
                "glimpse: Slurm's commands were not found: the jobs run on this machine, as with jobs={cluster: local}."
            )
            tqdm.write(told, file=sys.stderr)

    def stop(self) -> None:
        """Cancels jobs that have not ended."""
        for job in self._jobs:
            if not self._done(job):
                job.cancel(check=False)

    def outcomes(
        self, items: Sequence[Named], moment: float, stopping: Stopping
    ) -> Iterator[tuple[Item, str, Outcome]]:
        """Yields what becomes of each item, as jobs write their files (see `Hands.outcomes`)."""
        missing: dict[str, Item] = {}
        for item, name in items:
            if self._outputs.is_done(item, name):
                yield item, name, Outcome(KNOWN)
            else:
                missing[name] = item
        attempt, died = 0, dict[str, int]()
        while missing and stopping.asked is None and (attempt < _TIMES or self._more_died(missing, died)):
            attempt, died = attempt + 1, {name: self._claims.deaths(name) for name in missing}
            self._submit(missing, moment)
            ended = False
            while missing and not ended and stopping.asked is None:
                time.sleep(_POLL)
                ended = all(map(self._done, self._jobs))  # before the last look at what they have written
                for name, outcome in self._written(missing, moment):
                    yield missing.pop(name), name, outcome
            self._await_end(stopping)
            self._tell_failures()
            if missing and attempt < _TIMES:
                self._await_claims(missing, stopping)
            self._claims.sweep()
        if stopping.asked is None:
            for name, item in missing.items():
                holder = self._claims.holder(name)
                yield item, name, Outcome(ELSEWHERE, holder or f"jobs that have ended ({self._outputs.folder / LOGS})")

    def _more_died(self, missing: Mapping[str, Item], before: Mapping[str, int]) -> bool:
        """Tells whether jobs have died of a missing case since: it comes to an end, when enough of them have."""
        return any(self._claims.deaths(name) > before.get(name, 0) for name in missing)

    def _done(self, job: Any) -> bool:
        """Tells whether a job has ended; Slurm is asked as often as submitit thinks fit, this machine each time."""
        return bool(job.done(force_check=self._executor.cluster == "local"))

    def _submit(self, missing: Mapping[str, Item], moment: float) -> None:
        """Starts jobs for what is missing; where that is impossible, the message says what submitit said."""
        count, cases = min(self._workers, len(missing)), _listing(self._outputs.folder / LOGS, missing)
        try:
            with self._executor.batch():
                shares = [_Share(self._order, cases, (i + 1, count), moment, self._visible) for i in range(count)]
                self._jobs = [self._executor.submit(share) for share in shares]
        except Exception as error:  # what comes of calling sbatch
            raise SettingsError(f"The jobs could not be submitted: {' '.join(str(error).split())}") from error

    def _written(self, missing: Mapping[str, Item], moment: float) -> Iterator[tuple[str, Outcome]]:
        """Yields the missing cases that have been written since, and what became of them."""
        for name in self._names(RECORDS) & missing.keys():
            if self._outputs.is_done(missing[name], name):  # not what was read before its options changed
                yield name, Outcome(READ)
        for name in self._names(FAILURES) & missing.keys():
            if self._outputs.failed_since(name, moment):
                told = self._outputs.failure(name)
                yield name, Outcome(FAILED, f"{told['slide_id']}: {told['reason']}" if told else name)

    def _names(self, room: str) -> set[str]:
        try:
            with os.scandir(self._outputs.folder / room) as files:
                return {one.name.removesuffix(".json") for one in files if one.name.endswith(".json")}
        except FileNotFoundError:
            return set()

    def _await_end(self, stopping: Stopping) -> None:
        """Waits a little for jobs that are about to end, since all is read, not for those that never began."""
        until = time.monotonic() + _END
        while stopping.asked is None and time.monotonic() < until and not all(map(self._done, self._jobs)):
            time.sleep(_POLL / 5)

    def _await_claims(self, missing: Mapping[str, Item], stopping: Stopping) -> None:
        """Waits until nobody has claimed any of these cases, as processes that were killed on other machines have."""
        until = time.monotonic() + STALE + 2 * BEAT
        while stopping.asked is None and time.monotonic() < until:
            self._claims.sweep()
            if not any(self._claims.holder(name) for name in missing):
                return
            time.sleep(_POLL)

    def _tell_failures(self) -> None:
        for job in self._jobs:
            if not self._done(job):
                continue
            if not job.paths.result_pickle.exists():  # asking submitit for it would take a quarter of a minute
                reason = "it was killed, such as for its memory."
            elif (error := job.exception()) is not None:
                reason = _reason(str(error))
            else:
                continue
            text = f"glimpse: job {job.job_id} has ended too early: {reason} Its log: {job.paths.stderr}"
            tqdm.write(printable(text), file=sys.stderr)


def _gpus() -> int:
    import torch  # slow to import, and needed on GPUs only

    return max(1, torch.cuda.device_count())


def _visible(count: int | None) -> str | None:
    """Returns the first of the GPUs that this process may see; None if it may see all, or no job asks for any."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if names is None or not count else ",".join(names.split(",")[:count])


def _take_gpu(number: int) -> None:
    """Computes on one of the GPUs that this process sees; jobs on one machine share them out by their numbers."""
    import torch

    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())


def _listing(folder: Path, cases: Mapping[str, Item]) -> Path:
    """Writes a list of images for jobs, and returns its absolute path; other images have a list of another name.

    Raises:
        WriteError: it cannot be written.
    """
    text = json.dumps([[name, item.id, str(item.path), item.options] for name, item in cases.items()])
    path = Path(os.path.abspath(folder)) / f"cases-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    write_atomically(path, text)
    return path


def _listed(path: Path) -> list[Named]:
    """Reads what `_listing` has written."""
    return [(Item(id, Path(file), options), name) for name, id, file, options in json.loads(path.read_text("utf-8"))]


def _refused(options: Mapping[str, Any], error: Exception) -> SettingsError:
    """Returns the first line of what submitit says of options, with what was probably meant."""
    said, _, known = (str(error).splitlines() or [type(error).__name__])[0].partition(" Valid arguments: ")
    names = [*_SHARED, *(f"slurm_{name}" for name in known.split(", "))]
    near = next((suggestion(name, names) for name in options if repr(name) in said), "")
    return SettingsError(
        f"jobs={dict(options)}: submitit refuses this: {said.rstrip('.')}{near}. Options are {', '.join(_SHARED)}, and "
        "those of sbatch with slurm_ before them, such as slurm_partition."
    )


def _reason(text: str) -> str:
    """Returns the line of submitit's message that says why a job has ended: the error in a traceback, or the first."""
    lines = text.strip().splitlines() or ["it says no more"]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt)\b", line)]
    return errors[-1] if errors and "Traceback" in text else lines[0]
