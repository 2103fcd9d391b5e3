"""One process's work in an output folder: it reads what is missing, case by case, and keeps the tables up to date."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from glimpse.atomic import write_atomically
from glimpse.errors import EvaluationError
from glimpse.predicting.cells import table_text, writable
from glimpse.predicting.hand import DEATHS, ELSEWHERE, FAILED_BEFORE, KNOWN, READ, Hands, Named, Outcome, OwnHand
from glimpse.predicting.hand import FAILED as FAILED_NOW
from glimpse.predicting.inputs import Item
from glimpse.predicting.manifest import MANIFEST, Manifest
from glimpse.predicting.outputs import FAILED, PREDICTIONS
from glimpse.predicting.surviving import began
from glimpse.reading.looks import spacing_text
from glimpse.runs.file_names import file_names
from glimpse.runs.stopping import Stopping
from glimpse.settings.progress import say, silent
from glimpse.settings.terminal import printable

_TABLES = "~tables"  # a claim that no case can have: names of files have no such sign
_SECONDS = 5.0  # between two times that tables are written, at least
_LINE = 60.0  # seconds between two lines of progress, where no terminal shows a bar


@dataclass
class Done:
    """What a process has done.

    Attributes:
        read: how many cases it has read.
        failed: the ids of the cases that failed.
        known: how many cases had been read before.
        elsewhere: who reads other cases now, by their ids; of workers that have ended, it is those who had them last.
        others: how many cases of other inputs the output folder holds.
        failed_now: how many of those that failed did so just now, and not in another process or earlier.
    """

    read: int = 0
    failed: list[str] = field(default_factory=list)
    known: int = 0
    elsewhere: dict[str, str] = field(default_factory=dict)
    others: int = 0
    failed_now: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """The numbers, for the manifest."""
        return {"read": self.read, "failed": self.failed_now, "known": self.known, "elsewhere": len(self.elsewhere)}


class Work:
    """Reads the missing ones of some items.

    Args:
        own: what this process knows of the output folder, and reads with.
        manifest: the manifest of the output folder.
        progress: whether to show a bar, on a terminal.
        hands: who reads cases; this process by default.
    """

    def __init__(self, own: OwnHand, manifest: Manifest, progress: bool = False, hands: Hands | None = None) -> None:
        self.hands: Hands = own if hands is None else hands
        self.outputs, self.claims, self.columns = own.outputs, own.claims, own.agents[0].task.columns
        self.manifest, self.progress, self.done = manifest, progress, Done()
        self._written = 0.0
        self._cost = 0.0  # seconds that writing the tables has taken last

    def run(self, items: Sequence[Item], shard: tuple[int, int] = (1, 1)) -> Done:
        """Reads every item of the shard that is missing; Ctrl-C and SIGTERM wait until the case that is read has ended.

        Args:
            items: all items, the same and in the same order in every process.
            shard: which part, and of how many.

        Raises:
            EvaluationError: the folder holds results of other images under the same names.
            WriteError: results cannot be written.
            KeyboardInterrupt, SystemExit: it was asked to stop; the tables hold all that was read.
        """
        named = self._named(items)
        own = named[shard[0] - 1 :: shard[1]]
        stopping = Stopping()
        message = "glimpse: stopping after this case; the same command goes on from there. (Once more stops at once.)"
        self._tidy()
        moment = self.moment
        if began() is None:  # not in a child that goes on: what earlier commands have given up gets one more try
            for name, deaths in self.claims.all_deaths().items():
                self.claims.count(name, min(deaths, DEATHS - 1))
        try:
            self.hands.start()
            with stopping.deferred(message):
                left = self._pass(own, moment, stopping)
                self._pass(left, moment, stopping)  # perhaps others have left some behind
        finally:
            self.hands.stop()
            self.manifest.end()
            self._forget_renamed(named)
            self._tidy()
            for name in self.claims.all_deaths():
                if self.outputs.record(name) is not None or self.outputs.failed_since(name, moment):
                    self.claims.forget(name)
            self.claims.sweep()
        ids = {writable(item.id) for item in items}
        self.done.others = sum(record["slide_id"] not in ids for record in self.outputs.records())
        if stopping.asked is not None:
            stopping.stop()
        return self.done

    def help(self, named: Sequence[Named], shard: tuple[int, int], moment: float) -> Done:
        """Reads a shard, then what is missing of all others, as one of several jobs; signals are left to its caller.

        Args:
            named: all items with the names of their files, the same and in the same order in every job.
            shard: which part is read first, and of how many.
            moment: what has failed since then, by the clock of the file system, is not tried again.

        Raises:
            WriteError: results cannot be written.
        """
        waiting = Stopping()
        own = named[shard[0] - 1 :: shard[1]]
        try:
            left = self._pass(own, moment, waiting)
            mine = {name for _, name in own}
            self._pass([*left, *(one for one in named if one[1] not in mine)], moment, waiting)
        finally:
            self.manifest.end()
            self._tidy()
        return self.done

    @property
    def moment(self) -> float:
        """The time at which the command was started, by the clock of the file system, once tables were written."""
        now, start = (self.outputs.folder / MANIFEST).stat().st_mtime, began()
        return now if start is None else now - (time.time() - start)

    def _named(self, items: Sequence[Item]) -> list[Named]:
        """Returns items with the names of their files."""
        names = file_names([item.id for item in items])
        self._check_same_images(items, names)
        return list(zip(items, names, strict=True))

    def _forget_renamed(self, named: Sequence[Named]) -> None:
        """Removes what was read of these items under other names, which they had beside other ones."""
        names = {writable(item.id): name for item, name in named}
        for record in self.outputs.records():
            name = names.get(record["slide_id"], record["file"])
            if name != record["file"] and self.outputs.record(name) is not None:
                self.outputs.clear(record["file"])

    def _check_same_images(self, items: Sequence[Item], names: Sequence[str]) -> None:
        """Refuses images that would take the place of others, which the folder calls by the same names."""
        other = [
            (item, before)
            for item, name in zip(items, names, strict=True)
            if (before := self.outputs.path_of_another(item, name)) is not None
        ]
        if other:
            item, before = other[0]
            more = f", and {len(other) - 1} more" if len(other) > 1 else ""
            raise EvaluationError(
                f"{self.outputs.folder}: this folder holds results of other images under the same names ({item.id!r} "
                f"is {before} there, and {item.path} now{more}). Give each input an output folder of its own."
            )

    def _tidy(self) -> None:
        """Removes what was left behind, and writes the tables."""
        self.outputs.sweep(self.claims)
        self.write_tables()
        self.claims.sweep()

    def _pass(self, items: Sequence[Named], moment: float, stopping: Stopping) -> list[Named]:
        """Goes through items once; returns those that other processes have claimed."""
        left = []
        self.done.elsewhere.clear()
        with _Bar(len(items), self.progress) as bar:
            for item, name, outcome in self.hands.outcomes(items, moment, stopping):
                self._count(item, outcome)
                if outcome.state == ELSEWHERE:
                    left.append((item, name))
                elif outcome.state in (KNOWN, FAILED_BEFORE):
                    bar.skip()
                else:
                    bar.step()
                if time.monotonic() - self._written > max(_SECONDS, 20 * self._cost):
                    self.write_tables()
        return left if stopping.asked is None else []

    def _count(self, item: Item, outcome: Outcome) -> None:
        if outcome.state == ELSEWHERE:
            self.done.elsewhere[item.id] = outcome.told
        elif outcome.state == KNOWN:
            self.done.known += 1
        elif outcome.state == READ:
            self.done.read += 1
        else:
            self.done.failed.append(item.id)
            if outcome.state == FAILED_NOW:
                self.done.failed_now += 1
                tqdm.write(printable(f"glimpse: failed: {outcome.told}"), file=sys.stderr)

    # ------------------------------------------------------------------------------------------ tables
    def write_tables(self) -> None:
        """Writes `predictions.csv`, `failures.csv` and the manifest from what is recorded in the folder.

        Raises:
            WriteError: they cannot be written.
        """
        began = time.monotonic()
        folder, outputs = self.outputs.folder, self.outputs
        with self.claims.awaited(_TABLES):
            for file in (PREDICTIONS, FAILED, MANIFEST):
                for path in folder.glob(f".{file}.*.unfinished"):
                    path.unlink(missing_ok=True)
            self.manifest.check()
            records, failures = outputs.records(), outputs.failures()
            own = self.done.counts if self.hands.counts else {**self.done.counts, "read": 0, "failed": 0}
            if not (folder / MANIFEST).exists():  # before all else, since it says whose files these are
                self.manifest.write((), 0, own)
            write_atomically(folder / PREDICTIONS, predictions_table(records, self.columns))
            if failures:
                write_atomically(folder / FAILED, failures_table(failures))
            else:
                with suppress(OSError):
                    (folder / FAILED).unlink(missing_ok=True)
            self.manifest.write(records, len(failures), own)
        self._written = time.monotonic()
        self._cost = self._written - began


def predictions_table(records: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Returns the CSV of predictions, one line per record: the answer, probabilities, spread, and what was looked at.

    There are columns `sd_<...>`, the standard deviation over models, if the records have a spread.
    """
    several = any("spread" in one for one in records)
    spread = [f"sd_{column}" for column in columns] if several else []
    header = ["slide_id", "path", "answer", *columns, *spread, "glimpses", "share_read"]
    header += ["spacing", "unit", "glimpse_spacing", "file"]
    rows = []
    for one in records:
        of_models = [one.get("spread", {}).get(column) for column in columns] if several else []
        spacing = None if one["spacing"] is None else spacing_text(one["spacing"])
        seen = "; ".join(map(spacing_text, one["glimpse_spacings"]))
        answers = [one["probabilities"].get(column) for column in columns]
        looked = [one["glimpses"], float(one["share_read"]), spacing, one["unit"], seen, one["file"]]
        rows.append([one["slide_id"], one["path"], one["answer"], *answers, *of_models, *looked])
    return table_text(header, rows)


def failures_table(failures: Sequence[dict[str, Any]]) -> str:
    """Returns the CSV of failures, one line per case: what is wrong with it, and a thumbnail of what can be read."""
    header = ["slide_id", "path", "error", "reason", "thumbnail"]
    return table_text(header, ([one[name] for name in header] for one in failures))


class _Bar:
    """A progress bar that counts cases per minute; cases that are known already do not count for the rate.

    Where no terminal shows it, such as in a log file, there is a line of text every minute.
    """

    def __init__(self, total: int, progress: bool) -> None:
        form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        hidden = silent(progress and total > 0)
        self._bar = tqdm(total=total, desc="predicting", unit="case", bar_format=form, disable=hidden)
        self._began, self._done, self._read, self._total, self._progress = time.monotonic(), 0, 0, total, progress
        self._said = self._began

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def skip(self) -> None:
        """Counts a case that needs no work."""
        self._done += 1
        self._bar.update()

    def step(self) -> None:
        """Counts a case that was read."""
        self._read += 1
        self._done += 1
        now = time.monotonic()
        rate = f"{self._read / max(now - self._began, 1e-6) * 60:.1f} cases/min"
        self._bar.set_postfix_str(rate, refresh=False)
        self._bar.update()
        if now - self._said > _LINE:
            self._said = now
            say(f"predicting: {self._done} of {self._total} cases, {rate}", self._progress)
