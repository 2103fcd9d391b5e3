"""Keeps a library's logger silent in one thread, while other threads still hear it."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _OfThisThread(logging.Filter):
    """Drops the records of threads that have asked for silence."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        return self.depth == 0

    @property
    def depth(self) -> int:
        """The number of `quiet` blocks that the current thread is in."""
        return getattr(self._asked, "depth", 0)

    @depth.setter
    def depth(self, value: int) -> None:
        self._asked.depth = value


_filter = _OfThisThread()


@contextmanager
def quiet(logger: logging.Logger) -> Iterator[None]:
    """Silences a logger for the current thread: what it would say of a damaged file is said in the error.

    Other threads are not affected, and the logger's own settings are never changed. Blocks may be nested.

    Args:
        logger: the logger that writes the records; filters do not act on those of its children.
    """
    logger.addFilter(_filter)  # which does nothing if it is there already
    _filter.depth += 1
    try:
        yield
    finally:
        _filter.depth -= 1
