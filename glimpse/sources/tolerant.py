"""Images of which parts are damaged: these parts are shown as background, and their cases are named at the end.

Cases that are left out, because nothing of their images can be read or pixel sizes are missing, are named there, too.
"""

import sys
import threading
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from glimpse.geometry import Frame, Numbers
from glimpse.sources.base import ImageReadError, ImageSource, RegionReadError, read_in_parts, region

FINEST = 8  # an overview with damaged parts is read in at most so many parts along each axis
_NAMED = 10  # so many cases are named; the rest are only counted


class UnreadParts:
    """Counts the reads that failed, by case, and notes cases that were left out. It is safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self._left_out: dict[str, str] = {}  # why, in order, each once
        self._gathering = 0

    def add(self, case: str, error: ImageReadError) -> None:
        """Counts a read that failed; outside of `named_at_the_end`, the first one of each case is a warning."""
        with self._lock:
            self._counts[case] += 1
            self._reasons.setdefault(case, str(error))
            warn = self._counts[case] == 1 and not self._gathering
        if warn:
            warnings.warn(f"{case}: shown as background where it cannot be read: {error}", UserWarning, stacklevel=4)

    def failures(self, case: str) -> int:
        """Returns how many reads of a case have failed."""
        with self._lock:
            return self._counts[case]

    def left_out(self, case: str, why: str = "images or masks cannot be read") -> None:
        """Notes a case that was left out of a cohort, and why."""
        with self._lock:
            self._left_out[case] = why

    def summary(self) -> str | None:
        """Returns one line that counts and names the cases and says what is wrong with each; None if all was read."""
        with self._lock:
            counts, reasons, left_out = dict(self._counts), dict(self._reasons), dict(self._left_out)
        parts = [_left_out_line([case for case, why in left_out.items() if why == one], one) for one in
                 dict.fromkeys(left_out.values())]  # fmt: skip
        return "; ".join(parts + ([self._damaged_line(counts, reasons)] if counts else [])) or None

    @staticmethod
    def _damaged_line(counts: Mapping[str, int], reasons: Mapping[str, str]) -> str:
        named = [
            f"{case} ({count} {'read' if count == 1 else 'reads'} failed; first: {reasons[case]})"
            for case, count in counts.items()
        ]
        more = [f"and {len(named) - _NAMED} more"] if len(named) > _NAMED else []
        cases = "1 case has parts" if len(named) == 1 else f"{len(named)} cases have parts"
        return f"{cases} that cannot be read; they were shown as background: {'; '.join([*named[:_NAMED], *more])}"

    @contextmanager
    def named_at_the_end(self) -> Iterator[None]:
        """Counts anew and gives no warnings inside; at the end, also after an error, it prints the summary."""
        with self._lock:
            self._counts.clear()
            self._reasons.clear()
            self._left_out.clear()
            self._gathering += 1
        try:
            yield
        finally:
            with self._lock:
                self._gathering -= 1
            summary = self.summary()
            if summary is not None:
                sys.stdout.flush()  # so that it is the last line also where both go into one file
                print(f"glimpse: {summary}", file=sys.stderr, flush=True)


def _left_out_line(cases: Sequence[str], why: str) -> str:
    more = [f"and {len(cases) - _NAMED} more"] if len(cases) > _NAMED else []
    many = "1 case was" if len(cases) == 1 else f"{len(cases)} cases were"
    return f"{many} left out, since {why}: {', '.join([*cases[:_NAMED], *more])}"


unread = UnreadParts()
"""The process's one count of reads that failed."""


class TolerantSource(ImageSource):
    """A source that shows damaged parts of its image as background, and goes on.

    A glimpse of which a part is damaged is background as a whole; of an overview, only the damaged parts are. Every
    failure is counted in `unread` under the name of the case. Caches keep what is shown instead like any other view:
    the damage stays as long as the file does, and a file that was mended has another `identity`.

    Only a `RegionReadError` means damage. An image that is lost, may not be read any more, or cannot be read at all
    raises its error, since a whole image of background would teach something wrong.

    Args:
        source: the image.
        case: the name of the case.
    """

    def __init__(self, source: ImageSource, case: str) -> None:
        self.source, self.case = source, case
        self.path, self.name = source.path, source.name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "source":  # not there yet while a copy is unpickled
            raise AttributeError(name)
        return getattr(self.source, name)

    @property
    def frame(self) -> Frame:
        return self.source.frame

    @property
    def channels(self) -> int:
        return self.source.channels

    @property
    def background(self) -> UInt8[np.ndarray, " channel"]:
        return self.source.background

    @property
    def identity(self) -> Hashable:
        return ("tolerant", type(self.source).__qualname__, self.source.identity)

    @property
    def lasting_identity(self) -> Hashable | None:
        """None once a read has failed: every run must read it, to name it."""
        inner = None if unread.failures(self.case) else self.source.lasting_identity
        return None if inner is None else (type(self.source).__qualname__, inner)

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        try:
            return self.source.read(center, extent, size)
        except RegionReadError as error:
            return self.background_for(size, error)

    def shown(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> Float[np.ndarray, "2 d"]:
        return self.source.shown(center, extent, size)

    @property
    def offset(self) -> tuple[int, ...]:
        return self.source.offset

    def overview(self, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        try:
            return self.source.overview(size)
        except RegionReadError as error:
            shape = np.asarray(self.frame.shape, np.float64)
            return _Parts(self, tuple(-(-n // FINEST) for n in size)).around(shape / 2, shape, size, error)

    @property
    def file(self) -> Path | None:
        return self.source.file

    @property
    def files(self) -> Sequence[Path] | None:
        return self.source.files

    def foreground(self, overview: UInt8[np.ndarray, "channel *size"]) -> Bool[np.ndarray, "*size"]:
        return self.source.foreground(overview)

    def check(self) -> None:
        self.source.check()

    def close(self) -> None:
        self.source.close()

    def background_for(self, size: Sequence[int], error: RegionReadError) -> UInt8[np.ndarray, "channel *size"]:
        """Counts a failure, and returns what is shown instead."""
        unread.add(self.case, error)
        background = self.background.reshape(-1, *[1] * len(size))
        return np.broadcast_to(background, (self.channels, *size)).copy()


class _Parts:
    """Reads a region in ever smaller parts, until they can be read or are as small as the finest part.

    Args:
        source: what to read; it shows what it cannot read as background.
        finest: pixels of the finest part of the result, per axis.
    """

    def __init__(self, source: TolerantSource, finest: tuple[int, ...]) -> None:
        self._tolerant, self._finest = source, finest

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        try:
            return self._tolerant.source.read(center, extent, size)
        except RegionReadError as error:
            return self.around(center, extent, size, error)

    def around(
        self, center: Numbers, extent: Numbers, size: Sequence[int], error: RegionReadError
    ) -> UInt8[np.ndarray, "channel *size"]:
        """Reads the halves of a region whose read has failed; the finest part is shown as background."""
        if all(n <= least for n, least in zip(size, self._finest, strict=True)):
            return self._tolerant.background_for(size, error)
        start, width = region(center, extent, size, len(size))
        return read_in_parts(self, start, width, size)
