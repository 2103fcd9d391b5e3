"""Lets Ctrl-C and SIGTERM wait until the step that is being made has ended, so that it can be saved."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ONCE = 0.5  # seconds within which the same signal counts once


class Stopping:
    """Whether the program was asked to stop, and how it then stops.

    Attributes:
        asked: the signal that has arrived; None as long as there was none.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._last = 0.0

    def stop(self) -> None:
        """Ends the program as the signal would have done.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after SIGTERM; the exit code is 143.
        """
        if self.asked == signal.SIGTERM:
            sys.exit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    @contextmanager
    def deferred(self, message: str) -> Iterator[None]:
        """Makes the first signal wait: inside, it only sets `asked`, and the second one stops the program at once.

        Signals that the program ignores stay ignored. Only the main thread can defer signals; in other threads nothing
        is changed.

        Args:
            message: what to print when the first signal arrives.
        """
        before: dict[int, Any] = {}

        def arrived(number: int, frame: FrameType | None) -> None:
            now = time.monotonic()
            if number == self.asked and now - self._last < _ONCE:  # one that was sent to all processes of a group
                return
            again, self.asked, self._last = self.asked is not None, number, now
            if again:
                self.stop()
            os.write(2, f"\n{message}\n".encode())  # print() must not be called again while it is printing

        if threading.current_thread() is threading.main_thread():
            before = {one: signal.getsignal(one) for one in _SIGNALS if signal.getsignal(one) != signal.SIG_IGN}
        for one in before:
            signal.signal(one, arrived)
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
