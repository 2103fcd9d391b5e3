"""How many files are held open at once: each costs a file descriptor, and a cohort may have thousands."""

import threading
import weakref
from collections import OrderedDict
from typing import Protocol, runtime_checkable


@runtime_checkable
class Holding(Protocol):
    """A source that opens its file when it is asked something, and opens it again after it has let go."""

    def let_go(self) -> None:
        """Drops its handle. Reads under way hold references of their own, and end undisturbed."""


class HeldOpen:
    """Bounds the number of sources of a kind that hold their files open: the one opened longest ago lets go.

    Args:
        limit: of how many are held.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._sources: OrderedDict[int, weakref.ref[Holding]] = OrderedDict()

    def opened(self, source: Holding) -> None:
        """To be called whenever a source has opened its file."""
        with self._lock:
            self._sources[id(source)] = weakref.ref(source)
            self._sources.move_to_end(id(source))
            while len(self._sources) > self._limit:
                oldest = self._sources.popitem(last=False)[1]()
                if oldest is not None:
                    oldest.let_go()

    def let_all_go(self) -> None:
        """Lets all of them close their files; they open them again when they are read."""
        with self._lock:
            held, self._sources = [one() for one in self._sources.values()], OrderedDict()
        for source in held:
            if source is not None:
                source.let_go()

    def forget(self, source: Holding) -> None:
        """To be called when a source has closed its file by itself."""
        with self._lock:
            self._sources.pop(id(source), None)
