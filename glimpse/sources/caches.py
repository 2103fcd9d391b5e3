"""What stays in memory while there is room: decoded images, overviews and foregrounds, glimpses, and features."""

import math
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

DEFAULT_CACHE_MB = 512.0
IMAGE_CACHE_MB = 1024.0  # room for the 20 cases that are read at once, if photographs have 17 megapixels
SMALL_CACHE_MB = 256.0


class ByteCache:
    """Least-recently-used cache of arrays, bounded in bytes and safe from several threads.

    Threads that ask for the same array at once wait for one of them to make it; other arrays are not held up.

    Args:
        limit: bytes held at most; a single larger array is held alone.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._held = 0
        self._lock = threading.Lock()
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._under_way: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a key, made when it is not held; read-only, since it is shared."""
        with self._lock:
            found = self._touch(key)
            if found is not None:
                return found
            turn = self._under_way.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                found = self._touch(key)
            if found is not None:
                return found
            try:
                array = make()
                self.keep(key, array)
            finally:
                with self._lock:
                    self._under_way.pop(key, None)
        return array

    def find(self, key: Hashable) -> np.ndarray | None:
        """The array of a key, or None when it is not held."""
        with self._lock:
            return self._touch(key)

    def keep(self, key: Hashable, array: np.ndarray) -> None:
        """Holds an array, which becomes read-only, until others need its room."""
        array.setflags(write=False)
        self._keep(key, array)

    def clear(self) -> None:
        """Lets go of everything that is held."""
        with self._lock:
            self._arrays.clear()
            self._held = 0

    def _touch(self, key: Hashable) -> np.ndarray | None:
        found = self._arrays.get(key)
        if found is not None:
            self._arrays.move_to_end(key)
        return found

    def _keep(self, key: Hashable, array: np.ndarray) -> None:
        with self._lock:
            replaced = self._arrays.pop(key, None)
            self._arrays[key] = array
            self._held += array.nbytes - (0 if replaced is None else replaced.nbytes)
            while self._held > self._limit and len(self._arrays) > 1:
                self._held -= self._arrays.popitem(last=False)[1].nbytes


def room(variable: str, default: float) -> float:
    """Returns the number in an environment variable; the default, with a warning, where it holds no such number."""
    text = os.environ.get(variable) or str(default)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number >= 0:
        warnings.warn(
            f"{variable}={text}: expected a number of at least 0; {default:g} counts instead. Correct the variable.",
            UserWarning,
            stacklevel=2,
        )
        return default
    return number


def _cache(variable: str, default: float) -> ByteCache:
    return ByteCache(room(variable, default) * 2**20)


images = _cache("GLIMPSE_IMAGE_CACHE_MB", IMAGE_CACHE_MB)
"""The process's one cache of decoded images; GLIMPSE_IMAGE_CACHE_MB sets its size (1024)."""

overviews = _cache("GLIMPSE_OVERVIEW_CACHE_MB", DEFAULT_CACHE_MB)
"""The process's one cache of overviews and foregrounds; GLIMPSE_OVERVIEW_CACHE_MB sets its size (512)."""

glimpses = _cache("GLIMPSE_GLIMPSE_CACHE_MB", SMALL_CACHE_MB)
"""The process's one cache of glimpses that environments read; GLIMPSE_GLIMPSE_CACHE_MB sets its size (256)."""

features = _cache("GLIMPSE_FEATURE_CACHE_MB", SMALL_CACHE_MB)
"""The process's one cache of features of encoders that are not trained; GLIMPSE_FEATURE_CACHE_MB sets it (256)."""

_further: list[Callable[[], None]] = []


def clears(clear: Callable[[], None]) -> None:
    """Registers a function that clears a further cache, for `clear_all`."""
    _further.append(clear)


def clear_all() -> None:
    """Lets go of pixels and features that this process holds, so that the next read pays for them.

    Files that stay open, and what the system keeps of files, are not affected.
    """
    for cache in (images, overviews, glimpses, features):
        cache.clear()
    for clear in _further:
        clear()
