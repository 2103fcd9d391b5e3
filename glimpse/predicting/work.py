"""One process's work in an output folder: it reads what is missing, case by case, and keeps the tables up to date."""

import io
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from glimpse.atomic import WriteError, write_atomically
from glimpse.cohort.fingerprints import fingerprint
from glimpse.errors import EvaluationError
from glimpse.pictures.drawing import through_the_middle
from glimpse.predicting.agent import Agent
from glimpse.predicting.cells import table_text, writable
from glimpse.predicting.claims import Claims
from glimpse.predicting.inputs import Item
from glimpse.predicting.manifest import MANIFEST, Manifest
from glimpse.predicting.outputs import Outputs
from glimpse.reading.looks import spacing_text
from glimpse.runs.file_names import file_names
from glimpse.runs.stopping import Stopping
from glimpse.settings.progress import silent
from glimpse.settings.terminal import printable
from glimpse.sources.tolerant import TolerantSource

PREDICTIONS, FAILED = "predictions.csv", "failures.csv"
_TABLES = "~tables"  # a claim that no case can have: names of files have no such sign
_SECONDS = 5.0  # between two times that tables are written, at least
_THUMBNAIL = 256


@dataclass
class Done:
    """What a process has done.

    Attributes:
        read: how many cases it has read.
        failed: the ids of the cases that failed.
        known: how many cases had been read before.
        elsewhere: who reads other cases now, by their ids.
        others: how many cases of other inputs the output folder holds.
    """

    read: int = 0
    failed: list[str] = field(default_factory=list)
    known: int = 0
    elsewhere: dict[str, str] = field(default_factory=dict)
    others: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """The numbers, for the manifest."""
        return {"read": self.read, "failed": len(self.failed), "known": self.known, "elsewhere": len(self.elsewhere)}


class Work:
    """Reads the missing ones of some items with one or several agents.

    Args:
        agents: those who read each item.
        budgets: the budget of each of them.
        outputs: where results are written.
        manifest: the manifest of the output folder.
        progress: whether to show a bar, on a terminal.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        budgets: Sequence[int],
        outputs: Outputs,
        manifest: Manifest,
        progress: bool = False,
    ) -> None:
        self.agents, self.budgets, self.outputs, self.manifest = agents, budgets, outputs, manifest
        self.progress, self.done = progress, Done()
        self.claims = Claims(outputs.folder / ".claims")
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
        names = file_names([item.id for item in items])
        self._check_same_images(items, names)
        own = list(zip(items, names, strict=True))[shard[0] - 1 :: shard[1]]
        stopping = Stopping()
        message = "glimpse: stopping after this case; the same command goes on from there. (Once more stops at once.)"
        self._tidy()
        moment = (self.outputs.folder / MANIFEST).stat().st_mtime
        try:
            with stopping.deferred(message):
                left = self._pass(own, moment, stopping)
                self._pass(left, moment, stopping)  # perhaps others have left some behind
        finally:
            self.manifest.end()
            self._tidy()
        ids = {writable(item.id) for item in items}
        self.done.others = sum(record["slide_id"] not in ids for record in self.outputs.records())
        if stopping.asked is not None:
            stopping.stop()
        return self.done

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

    def _pass(self, items: Sequence[tuple[Item, str]], moment: float, stopping: Stopping) -> list[tuple[Item, str]]:
        """Goes through items once; returns those that other processes have claimed."""
        left = []
        self.done.elsewhere.clear()
        with _Bar(len(items), self.progress) as bar:
            for item, name in items:
                if stopping.asked is not None:
                    return []
                if self._is_known(item, name, moment):
                    bar.skip()
                    continue
                with self.claims.taken(name) as mine:
                    if not mine:
                        self.done.elsewhere[item.id] = self.claims.holder(name) or "another process"
                        left.append((item, name))
                    elif self._is_known(item, name, moment):  # another process has just finished it
                        bar.skip()
                    else:
                        self._read(item, name)
                        bar.step()
                if time.monotonic() - self._written > max(_SECONDS, 20 * self._cost):
                    self.write_tables()
        return left

    def _is_known(self, item: Item, name: str, moment: float) -> bool:
        if self.outputs.is_done(item, name):
            self.done.known += 1
            return True
        if self.outputs.failed_since(name, moment):
            self.done.failed.append(item.id)
            return True
        return False

    def _read(self, item: Item, name: str) -> None:
        """Reads an item and writes its files; whatever is wrong with it is recorded, and stops nobody."""
        before = ""
        with suppress(OSError):  # reading says better what is wrong
            before = fingerprint(item.path)  # what is replaced while it is read is to be read again
        try:
            budgets = zip(self.agents, self.budgets, strict=True)
            readings = [
                agent.read(item.path, budget, name=writable(item.id), **item.options) for agent, budget in budgets
            ]
            self.outputs.write(item, name, readings, before)
        except WriteError:
            raise
        except Exception as error:
            record = self.outputs.write_failure(item, name, error, self._thumbnail(item))
            self.done.failed.append(item.id)
            tqdm.write(printable(f"glimpse: failed: {record['slide_id']}: {record['reason']}"), file=sys.stderr)
        else:
            self.done.read += 1

    def _thumbnail(self, item: Item) -> bytes | None:
        """Returns a small picture of an image that cannot be read, as far as it can; None if nothing of it can."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with closing(self.agents[0].open(item.path, **item.options)) as source:
                    overview = TolerantSource(source, item.id).overview(self.agents[0].views.overview_size)
                    picture = through_the_middle(overview, _THUMBNAIL, source.frame.sides)
        except Exception:
            return None
        content = io.BytesIO()
        picture.save(content, "PNG")
        return content.getvalue()

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
            write_atomically(folder / PREDICTIONS, predictions_table(records, self.agents[0].task.columns))
            if failures:
                write_atomically(folder / FAILED, failures_table(failures))
            else:
                with suppress(OSError):
                    (folder / FAILED).unlink(missing_ok=True)
            self.manifest.write(records, len(failures), self.done.counts)
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
    """A progress bar that counts cases per minute; cases that are known already do not count for the rate."""

    def __init__(self, total: int, progress: bool) -> None:
        form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        hidden = silent(progress and total > 0)
        self._bar = tqdm(total=total, desc="predicting", unit="case", bar_format=form, disable=hidden)
        self._began, self._read = time.monotonic(), 0

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def skip(self) -> None:
        """Counts a case that needs no work."""
        self._bar.update()

    def step(self) -> None:
        """Counts a case that was read."""
        self._read += 1
        minutes = max(time.monotonic() - self._began, 1e-6) / 60
        self._bar.set_postfix_str(f"{self._read / minutes:.1f} cases/min", refresh=False)
        self._bar.update()
