"""Notices when another process has ended from which nothing will come any more, and ends this one with a message."""

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

_EVERY = 2.0  # seconds between two signs of life
_PATIENCE = 40.0  # seconds without a sign, after which a process has ended
_PAUSE = 3.0
_ENDED = b"ended"


class Watch:
    """A thread that gives signs of life through a store, and looks for those of the others.

    A process that waits for another one on a GPU, or for one on another machine that has lost its power, would
    otherwise wait for hours. Gloo notices most ends by itself, within a second.

    Args:
        store: a `torch.distributed.TCPStore` of this thread's own.
        rank: the number of this process.
        size: how many there are.
        message: returns what to say.
    """

    def __init__(self, store: Any, rank: int, size: int, message: Callable[[], str]) -> None:
        self.store, self.rank, self.message = store, rank, message
        self.others = [other for other in range(size) if other != rank]
        self._ended, self._failed = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._failed = kind is not None  # then it falls silent, and those who wait for it end as if it had been killed
        self._ended.set()
        self._thread.join(2 * _EVERY)

    @staticmethod
    def pause() -> None:
        """Waits for a moment, in which another process says what both have found."""
        time.sleep(_PAUSE)

    def _run(self) -> None:
        beat, now = 0, time.monotonic()
        heard: dict[int, tuple[bytes, float]] = {other: (b"", now) for other in self.others}
        while not self._ended.wait(_EVERY):
            beat += 1
            try:
                self.store.set(_key(self.rank), str(beat))
                signs = {other: self._sign(other) for other in self.others}
            except RuntimeError:  # the store has ended with the process that kept it
                signs = {}
            now = time.monotonic()
            heard |= {other: (sign, now) for other, sign in signs.items() if sign != heard[other][0]}
            if any(now - since > _PATIENCE for sign, since in heard.values() if sign != _ENDED):
                print(self.message(), file=sys.stderr, flush=True)
                os._exit(2)  # the main thread may wait where no exception reaches it
        if self._failed:
            return
        try:
            self.store.set(_key(self.rank), _ENDED.decode())
        except RuntimeError:
            return

    def _sign(self, other: int) -> bytes:
        return bytes(self.store.get(_key(other))) if self.store.check([_key(other)]) else b""


def _key(rank: int) -> str:
    return f"glimpse/alive/{rank}"
