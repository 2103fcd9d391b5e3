"""What is done with one case, in whichever process it is: another's work is respected, and what is wrong recorded."""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from glimpse.atomic import WriteError
from glimpse.cohort.fingerprints import fingerprint
from glimpse.errors import EvaluationError
from glimpse.pictures.drawing import through_the_middle
from glimpse.predicting.agent import Agent
from glimpse.predicting.cells import writable
from glimpse.predicting.claims import Claims
from glimpse.predicting.inputs import Item
from glimpse.predicting.outputs import Outputs
from glimpse.runs.stopping import Stopping
from glimpse.sources import UnsupportedImageError
from glimpse.sources.tolerant import TolerantSource

KNOWN, ELSEWHERE, READ, FAILED, FAILED_BEFORE = "known", "elsewhere", "read", "failed", "failed before"
_THUMBNAIL = 256
DEATHS = 3  # so many processes may die of a case before it has failed

Named = tuple[Item, str]
"""An item, and the name of its files."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        state: "read" or "failed", just now; "known" or "failed before", in this run by another process or earlier;
            "elsewhere", since another process has claimed it.
        told: who has claimed it, or why it has failed.
    """

    state: str
    told: str = ""


@runtime_checkable
class Hands(Protocol):
    """Those who read cases: this process (`OwnHand`), or workers that an engine starts.

    Attributes:
        counts: whether the manifest counts what they read as this process's; jobs write counts of their own.
    """

    counts: bool

    def start(self) -> None:
        """Starts workers, before signals are deferred."""

    def outcomes(
        self, items: Sequence[Named], moment: float, stopping: Stopping
    ) -> Iterator[tuple[Item, str, Outcome]]:
        """Yields what becomes of each item, in any order; ends early when it is asked to stop.

        Args:
            items: items and the names of their files.
            moment: what has failed since then, by the clock of the file system, is not tried again.
            stopping: says whether the program was asked to stop.

        Raises:
            WriteError: results cannot be written.
        """
        ...

    def stop(self) -> None:
        """Ends the workers."""


def claims_in(folder: Path) -> Claims:
    """Returns the claims on the cases of an output folder."""
    return Claims(folder / ".claims", counts_deaths=True)


class OwnHand:
    """Reads cases in this process.

    Args:
        agents: those who read each item.
        budgets: the budget of each of them.
        outputs: where results are written.
        staging: options of `glimpse.open_source` that say where copies of images lie.
    """

    counts = True

    def __init__(
        self, agents: Sequence[Agent], budgets: Sequence[int], outputs: Outputs, staging: Mapping[str, Any]
    ) -> None:
        self.agents, self.budgets, self.outputs, self._staging = agents, budgets, outputs, dict(staging)
        self.claims = claims_in(outputs.folder)

    def start(self) -> None:
        """Does nothing: this process is there already."""

    def stop(self) -> None:
        """Does nothing."""

    def outcomes(
        self, items: Sequence[Named], moment: float, stopping: Stopping
    ) -> Iterator[tuple[Item, str, Outcome]]:
        """Yields what becomes of each item, in their order, but last of those of which a process has died.

        So one that crashes every process keeps nobody from the others. See `Hands.outcomes`.
        """
        deaths = self.claims.all_deaths()

        def late(one: Named) -> tuple[bool, int]:  # of several, one after the other until it is given up
            return one[1] in deaths, -deaths.get(one[1], 0)

        for item, name in sorted(items, key=late):
            if stopping.asked is not None:
                return
            yield item, name, self.one(item, name, moment)

    def one(self, item: Item, name: str, moment: float) -> Outcome:
        """Reads an item and writes its files, unless that has been done, or another process does it.

        Raises:
            WriteError: results cannot be written.
        """
        outcome = self._known(item, name, moment)
        if outcome is None:
            with self.claims.taken(name) as mine:
                if not mine:
                    return Outcome(ELSEWHERE, self.claims.holder(name) or "another process")
                outcome = self._known(item, name, moment)  # another process may just have finished it
                if outcome is None:
                    deadly = self.claims.deaths(name) >= DEATHS
                    outcome = self.give_up(item, name) if deadly else self._read(item, name)
                    self.claims.forget(name)
        return outcome

    def give_up(self, item: Item, name: str) -> Outcome:
        """Records that processes have died of an item; the next command tries it once more.

        Raises:
            WriteError: results cannot be written.
        """
        error = EvaluationError(
            f"{item.path}: {DEATHS} processes have ended while they read it, of too little memory or of what the file "
            "holds. glimpse check says what is wrong with it."
        )
        record = self.outputs.write_failure(item, name, error, None)
        self.claims.forget(name)
        return Outcome(FAILED, f"{record['slide_id']}: {record['reason']}")

    def _known(self, item: Item, name: str, moment: float) -> Outcome | None:
        if self.outputs.is_done(item, name):
            return Outcome(KNOWN)
        return Outcome(FAILED_BEFORE) if self.outputs.failed_since(name, moment) else None

    def _read(self, item: Item, name: str) -> Outcome:
        """Reads an item and writes its files; whatever is wrong with it is recorded, and stops nobody."""
        before = ""
        with suppress(OSError, UnsupportedImageError):  # reading says better what is wrong
            before = fingerprint(item.path)  # what is replaced while it is read is to be read again
        try:
            budgets = zip(self.agents, self.budgets, strict=True)
            options = item.options | self._staging
            readings = [agent.read(item.path, budget, name=writable(item.id), **options) for agent, budget in budgets]
            self.outputs.write(item, name, readings, before)
        except WriteError:
            raise
        except Exception as error:
            record = self.outputs.write_failure(item, name, error, self._thumbnail(item))
            return Outcome(FAILED, f"{record['slide_id']}: {record['reason']}")
        return Outcome(READ)

    def _thumbnail(self, item: Item) -> bytes | None:
        """Returns a small picture of an image that cannot be read, as far as it can; None if nothing of it can."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with closing(self.agents[0].open(item.path, **item.options, **self._staging)) as source:
                    overview = TolerantSource(source, item.id).overview(self.agents[0].views.overview_size)
                    picture = through_the_middle(overview, _THUMBNAIL, source.frame.sides)
        except Exception:
            return None
        content = io.BytesIO()
        picture.save(content, "PNG")
        return content.getvalue()
