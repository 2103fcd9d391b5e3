"""Remembers from one command to the next which images are as they should be, so that large cohorts begin at once.

`glimpse check` and every training keep what they find. An image is asked about again when its file has changed (its
size or the time of its last change), when it is read with other options, or by another version of glimpse. Only good
news is kept: what is wrong is said again.
"""

import hashlib
import json
import os
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs

import glimpse
from glimpse.atomic import WriteError, write_atomically
from glimpse.sources import ImageReadError, ImageSource
from glimpse.sources.staged.remote import RemoteSource
from glimpse.sources.tolerant import TolerantSource, unread

LEAST = 200  # with fewer images nothing is kept: asking takes seconds


def default_folder() -> Path:
    """Returns where it is kept: `checked` in GLIMPSE_CACHE, else in the user's cache folder."""
    return Path(os.environ.get("GLIMPSE_CACHE") or platformdirs.user_cache_dir("glimpse")) / "checked"


class Remembered:
    """What was found of images, by image; a file of the cache folder.

    Several processes may use one: the last one that saves it is believed. A file that cannot be read or written is as
    good as none.

    Args:
        question: what was asked of the images; each question has a file of its own.
        count: how many images there are; with fewer than `LEAST` nothing is kept.
    """

    def __init__(self, question: Hashable, count: int) -> None:
        self._keeps = self.keeps(count)
        self._file = default_folder() / f"{_digest(question)}.json"
        self._before: dict[str, str] = {}
        self._now: dict[str, str] = {}
        if self._keeps:
            with suppress(OSError, ValueError, RecursionError):
                found = json.loads(self._file.read_text(encoding="utf-8"))
                kept = found.items() if isinstance(found, dict) else ()
                self._before = {key: what for key, what in kept if isinstance(what, str) and what}

    @staticmethod
    def keeps(count: int) -> bool:
        """Tells whether anything is kept of so many images."""
        return count >= LEAST

    def key(self, source: ImageSource) -> str | None:
        """Returns by what an image is remembered; None where it cannot be, such as a file that is not there."""
        if not self._keeps:
            return None
        if isinstance(source, TolerantSource):
            if unread.failures(source.case):
                return None
            source = source.source
        try:
            lasting = source.lasting_identity
        except (ImageReadError, OSError):
            return None
        if lasting is None:
            return None
        source = _innermost(source)
        return _digest((glimpse.__version__, type(source).__qualname__, lasting, _made_of(source)))

    def found(self, key: str | None) -> str | None:
        """Returns what was found of an image; None if nothing is known."""
        if key is None or key not in self._before:
            return None
        self._now[key] = self._before[key]
        return self._before[key]

    def keep(self, key: str | None, found: str) -> None:
        """Notes what was found of an image."""
        if key is not None:
            self._now[key] = found

    def save(self) -> None:
        """Writes what is known of the images that were asked about, unless the file holds it already."""
        if self._keeps and self._now != self._before:
            with suppress(OSError, WriteError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._file, json.dumps(self._now))


def _innermost(source: ImageSource) -> ImageSource:
    """Returns the source that a source wraps, such as the original of one that is staged."""
    while isinstance(inner := getattr(source, "source", None), ImageSource):
        source = inner
    return source


def _made_of(source: ImageSource) -> str:
    """Returns the options that a source was made with, such as ``mpp``; its pixels do not depend on all of them."""
    if isinstance(source, RemoteSource):
        return source.made_of
    made: Any = source.__reduce_ex__(4)  # what makes it again in another process
    return repr(made[1])


def options_of(source: ImageSource) -> dict[str, Any]:
    """Returns the options that a source was made with, such as ``mpp``, besides its path and its name."""
    source = _innermost(source)
    given: Any = source.made_of if isinstance(source, RemoteSource) else source.__reduce_ex__(4)[1][-1:]
    found = given[0] if isinstance(given, tuple) and given and isinstance(given[0], dict) else {"made": given}
    return {name: value for name, value in found.items() if name != "name"}


def _digest(value: Hashable) -> str:
    return hashlib.sha256(repr(value).encode("utf-8", "surrogateescape")).hexdigest()[:24]
