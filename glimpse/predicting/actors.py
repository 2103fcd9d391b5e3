"""Actors of Ray that read cases, one each; the path of an image travels to them, its pixels do not.

This process hands out cases one by one and writes the tables. A case whose actor has died is given to another one; if
three die of it, the case is recorded as failed, so that one image can stop nobody for good.
"""

import math
import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from glimpse.errors import EvaluationError, MissingExtraError, SettingsError, UserError
from glimpse.predicting.claims import BEAT, STALE, Claims
from glimpse.predicting.hand import DEATHS, ELSEWHERE, Named, Outcome, OwnHand
from glimpse.predicting.inputs import Item
from glimpse.predicting.order import Order
from glimpse.runs.stopping import Stopping
from glimpse.settings.allocator import keep_freed_memory

_POLL = 1.0  # seconds between two looks at whether the program was asked to stop


def library(name: str, extra: str, engine: str) -> Any:
    """Imports what an engine needs.

    Raises:
        MissingExtraError: it is not installed, or cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"engine={engine} needs the extra `{extra}`, which is not installed or broken ({error}). "
            f'Run: pip install "glimpse-rl[{extra}]"'
        ) from error


class _Reader:
    """What an actor is: the agents, loaded once, and one case after the other."""

    def __init__(self, order: Order) -> None:
        keep_freed_memory()  # as the command does in its own process
        self._hand = order.hand()

    def ready(self) -> None:
        """Returns when the agents are loaded."""

    def read(self, item: Item, name: str, moment: float) -> Outcome:
        """Opens, reads and closes an image, and writes its files (see `OwnHand.one`)."""
        return self._hand.one(item, name, moment)


@dataclass
class _Flights:
    """What the actors do now: the calls that have not returned, with their actor and case, and who does nothing."""

    calls: dict[Any, tuple[Any, Named | None]] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        """Whether a case is being read."""
        return any(case is not None for _, case in self.calls.values())


def share_of_gpu(gpus: float, workers: int) -> float:
    """Returns which share of a GPU each actor takes, so that all of them run at once.

    Ray puts a share into one GPU, and counts in steps of 0.0001: of 2 GPUs, 3 actors get a half each.
    """
    if gpus < 1:
        return 0.0
    return 1.0 if workers <= gpus else math.floor(1e4 / math.ceil(workers / int(gpus))) / 1e4


class Actors:
    """Reads cases with actors of Ray, in the cluster that `RAY_ADDRESS` names or that runs here, or one of its own.

    Args:
        order: what each actor reads with.
        own: this process's part of the output folder.
        workers: how many actors.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    counts = True

    def __init__(self, order: Order, own: OwnHand, workers: int) -> None:
        self._ray = library("ray", "ray", "ray")
        self._order, self._own, self._workers = order.absolute, own, min(workers, max(1, len(order.items)))
        self._claims: Claims = own.claims
        self._flights, self._deaths = _Flights(), Counter[str]()
        self._made: list[Any] = []
        self._own_cluster = False

    def start(self) -> None:
        """Starts Ray, unless it runs already, and the actors."""
        ray = self._ray
        if not ray.is_initialized():
            quiet = {"include_dashboard": False, "logging_level": "error"}
            try:
                try:
                    ray.init(num_cpus=self._workers, **quiet)
                except ValueError:  # there is a cluster already, which knows its processors
                    ray.init(**quiet)
            except (ValueError, ConnectionError, RuntimeError) as error:
                raise SettingsError(
                    f"engine=ray: Ray does not start, or its cluster cannot be reached ({error}). Correct the variable "
                    f"RAY_ADDRESS ({os.environ.get('RAY_ADDRESS', 'not set')}), or unset it."
                ) from error
            self._own_cluster = True
        gpus = 0.0
        if self._order.device.startswith("cuda"):
            gpus = share_of_gpu(ray.cluster_resources().get("GPU", 0.0), self._workers)
        self._actor = ray.remote(num_cpus=1, num_gpus=gpus)(_Reader)
        for _ in range(self._workers):
            self._add()

    def _add(self) -> None:
        actor = self._actor.remote(self._order)
        self._made.append(actor)
        self._flights.calls[actor.ready.remote()] = (actor, None)

    def stop(self) -> None:
        """Ends the actors, and Ray if it was started here."""
        for actor in self._made:
            self._ray.kill(actor)
        self._made.clear()
        if self._own_cluster:
            self._ray.shutdown()

    def outcomes(
        self, items: Sequence[Named], moment: float, stopping: Stopping
    ) -> Iterator[tuple[Item, str, Outcome]]:
        """Yields what becomes of each item, as actors finish them (see `Hands.outcomes`).

        Raises:
            EvaluationError: an actor cannot load the agents.
        """
        waiting, flights = deque(items), self._flights
        claimed: list[tuple[Named, float]] = []  # by an actor that has died, and until when that is believed
        while True:
            if stopping.asked is None:
                claimed = self._released(claimed, waiting)
                while flights.idle and waiting:
                    actor, case = flights.idle.pop(), waiting.popleft()
                    flights.calls[actor.read.remote(*case, moment)] = (actor, case)
            left = stopping.asked is None and (waiting or claimed)
            if not flights.busy and not left:
                return
            if not flights.calls:
                time.sleep(_POLL)
                continue
            for call in self._ray.wait(list(flights.calls), num_returns=1, timeout=_POLL)[0]:
                actor, given = flights.calls.pop(call)
                outcome = self._outcome(call, actor, given)
                if given is None:
                    continue
                item, name = given
                lost = outcome is None or (outcome.state == ELSEWHERE and self._deaths[name] > 0)
                if lost and self._deaths[name] < DEATHS:
                    claimed.append((given, time.monotonic() + STALE + 2 * BEAT))
                elif outcome is None:
                    yield item, name, self._own.give_up(item, name)
                else:
                    yield item, name, outcome

    def _outcome(self, call: Any, actor: Any, case: Named | None) -> Outcome | None:
        """Returns what a call has brought; None if its actor has died, in whose place there is another one then."""
        errors = self._ray.exceptions
        try:
            outcome: Outcome | None = self._ray.get(call)
        except errors.RayTaskError as error:  # what no case can have done, such as a disk that is full
            raise error.cause if isinstance(error.cause, UserError) else error from None
        except errors.RayError as error:
            if case is None:
                raise EvaluationError(f"A worker of Ray could not load the model: {_last_line(error)}.") from error
            self._deaths[case[1]] += 1
            self._made.remove(actor)
            self._add()
            return None
        self._flights.idle.append(actor)
        return outcome

    def _released(self, claimed: list[tuple[Named, float]], waiting: deque[Named]) -> list[tuple[Named, float]]:
        """Moves cases to the waiting ones when the claim of the actor that has died is gone; returns the others."""
        if not claimed:
            return claimed
        self._claims.sweep()
        kept = []
        for case, until in claimed:
            if self._claims.holder(case[1]) is None or time.monotonic() > until:
                waiting.append(case)
            else:
                kept.append((case, until))
        return kept


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip().rstrip(".")
