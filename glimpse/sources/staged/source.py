"""Images that are read from a copy in a stage: the copy is made when the image is first read."""

import os
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, UInt8

from glimpse.geometry import Frame, Numbers
from glimpse.sources.base import ImageReadError, ImageSource, UnsupportedImageError, unopened
from glimpse.sources.staged.stage import Stage, StageError, copy_file, tell_once, used

_TOUCHED = 60.0  # seconds after which a copy that is read is marked as used again
_TRIES = 5  # reads of one region before which the copy was removed each time

Answer = TypeVar("Answer")
Stamp = tuple[int, int]
"""Bytes of a file, and the time of its last change in microseconds, which all file systems of local disks keep."""

Opening = Callable[[Path], ImageSource]
"""Opens a file or folder with the reader and the options of an image."""


class CopiedSource(ImageSource):
    """An image that is read from a copy; messages name the original.

    Where the copy has been removed, because others needed its room, it is made again.

    Attributes and methods of its reader, such as the grid of a volume, are looked up in the copy.

    Args:
        path: the original.
        stage: where copies lie.
        opening: opens the copy.
    """

    def __init__(self, path: Path, stage: Stage, opening: Opening) -> None:
        self.path: Path = path
        self.name = self._original = str(path)  # the latter is what messages call the copy
        self._stage, self._opening = stage, opening
        self._lock = threading.RLock()
        self._called = path.name  # in the folder of the copy
        self._place: Path | None = None
        self._copy: ImageSource | None = None
        self._touched = 0.0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "source":  # not there yet while a copy is unpickled
            raise AttributeError(name)
        return self._asked(lambda copy: getattr(copy, name))

    @abstractmethod
    def _placed(self) -> Path | None:
        """Makes the copy if it is not there; returns its folder, or None where the image is to be read in place.

        Raises:
            ImageReadError: the original cannot be read.
        """

    @abstractmethod
    def _whole(self, place: Path) -> bool:
        """Tells whether a folder holds the whole copy, by the sizes and times of its files."""

    @abstractmethod
    def _in_place(self) -> ImageSource:
        """Returns the source that reads the original.

        Raises:
            ImageReadError: it can be read from a copy only.
        """

    @property
    def file(self) -> Path:
        return self._asked(lambda copy: copy.file) or self.path

    @property
    def files(self) -> Sequence[Path] | None:
        return self._asked(lambda copy: copy.files)

    @property
    def frame(self) -> Frame:
        return self._asked(lambda copy: copy.frame)

    @property
    def channels(self) -> int:
        return self._asked(lambda copy: copy.channels)

    @property
    def background(self) -> UInt8[np.ndarray, " channel"]:
        return self._asked(lambda copy: copy.background)

    @property
    def offset(self) -> tuple[int, ...]:
        return self._asked(lambda copy: copy.offset)

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        return self._asked(lambda copy: copy.read(center, extent, size))

    def shown(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> Float[np.ndarray, "2 d"]:
        return self._asked(lambda copy: copy.shown(center, extent, size))

    def overview(self, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        return self._asked(lambda copy: copy.overview(size))

    def foreground(self, overview: UInt8[np.ndarray, "channel *size"]) -> Bool[np.ndarray, "*size"]:
        return self._asked(lambda copy: copy.foreground(overview))

    def check(self) -> None:
        self._asked(lambda copy: copy.check())

    def close(self) -> None:
        if self._copy is not None:
            self._copy.close()

    def _asked(self, ask: Callable[[ImageSource], Answer]) -> Answer:
        """Asks the copy; again where it fails because the copy has been removed, and at last without a copy.

        Raises:
            ImageReadError: the image cannot be read; or others need the room of its copy, and it cannot do without.
        """
        for _ in range(_TRIES):
            try:
                return ask(self._opened())
            except (ImageReadError, UnsupportedImageError, FileNotFoundError) as error:
                if self._lost() or self._perhaps_cut():
                    continue
                text = self._named(str(error))
                if isinstance(error, FileNotFoundError) or text == str(error):
                    raise
                raise type(error)(text) from error
        with self._lock:
            self._place, self._copy = None, self._in_place()
        tell_once(
            self._stage.folder,
            "removed",
            f"{self.name} is read in place, and so are others: copies were removed again and again, because others "
            "needed the room. Give the stage more of it, with stage_gigabytes=.",
        )
        return ask(self._copy)

    def _opened(self) -> ImageSource:
        copy = self._copy
        if copy is None:
            with self._lock:
                if self._copy is None:
                    self._place = self._placed()
                    self._copy = self._of_copy(self._place)
                    self._touched = time.monotonic()
                copy = self._copy
        elif self._place is not None and time.monotonic() - self._touched > _TOUCHED:
            self._touched = time.monotonic()
            used(self._place)
        return copy

    def _of_copy(self, place: Path | None) -> ImageSource:
        if place is None:
            return self._in_place()
        try:
            copy = self._opening(place / self._called)
        except (ImageReadError, UnsupportedImageError) as error:
            raise type(error)(self._named(str(error))) from error
        copy.name = self.name
        return copy

    def _lost(self) -> bool:
        """Tells whether the copy that was read is not there any more; it is made again then."""
        with self._lock:
            if self._place is None or self._whole(self._place):
                return False
            self._copy = self._place = None  # not closed: another thread may still read what it has open
            return True

    def _perhaps_cut(self) -> bool:
        """Removes a copy of which nobody knows how long it should be, once, to make it again; tells whether it did."""
        return False

    def _named(self, text: str) -> str:
        """Returns a message in which the copy is called by the name of the original."""
        if self._place is None:
            return text
        text = text.replace(str(self._place / self._called), self._original)
        return text.replace(str(self._place), os.path.dirname(self._original) or ".")


class StagedSource(CopiedSource):
    """An image on a slow or shared disk. Where it cannot be copied, it is read in place, with a notice.

    Args:
        source: reads the original.
        stage: where copies lie.
        opening: opens the copy.
    """

    def __init__(self, source: ImageSource, stage: Stage, opening: Opening) -> None:
        assert source.path is not None, "an image in memory is not staged"
        super().__init__(source.path, stage, opening)
        self.source, self.name = source, source.name
        self._stamps: Mapping[str, Stamp] = {}
        self._identities: tuple[Hashable, Hashable | None] | None = None  # of what was copied

    def __reduce__(self) -> tuple[Any, ...]:
        return StagedSource, (self.source, self._stage, self._opening)

    @property
    def identity(self) -> Hashable:
        return self.source.identity if self._identities is None else self._identities[0]

    @property
    def lasting_identity(self) -> Hashable | None:
        return self.source.lasting_identity if self._identities is None else self._identities[1]

    def _in_place(self) -> ImageSource:
        return self.source

    def _placed(self) -> Path | None:
        files = self.source.files
        if files is None:
            tell_once(
                self._stage.folder,
                "format",
                f"{self.path}: is read in place, as are others of its kind: which files such an image consists of is "
                "not known, so it cannot be copied to the stage.",
            )
            return None
        stamps = _stamps(self.path, files)
        key = (os.fspath(self.path.absolute()), sorted(stamps.items()))
        size = sum(one[0] for one in stamps.values())
        self._stamps = stamps
        self._identities = None
        identities = self.source.identity, self.source.lasting_identity
        try:
            place = self._stage.holding(key, size, self._whole, self._copy_into)
            self._identities = identities
            return place
        except StageError as error:
            tell_once(self._stage.folder, "room", f"{error} {self.path} is read in place, and so are others.")
            return None

    def _copy_into(self, folder: Path) -> None:
        for below in self._stamps:
            copy_file(self.path.parent / below, folder / below)
        if not self._whole(folder):
            raise ImageReadError(
                f"{self.path}: it has changed while it was copied to the stage. Wait until it is written, and start "
                "again."
            )

    def _whole(self, place: Path) -> bool:
        return all(_stamp(place / below) == stamp for below, stamp in self._stamps.items())


def _stamp(file: Path) -> Stamp | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns // 1000


def _stamps(path: Path, files: Sequence[Path]) -> Mapping[str, Stamp]:
    """Returns the stamps of an image's files by their paths below the folder in which the image lies."""
    found = {}
    for file in files:
        try:
            status = os.stat(file)
        except OSError as error:
            raise unopened(file, error) from error
        found[os.fspath(file.relative_to(path.parent))] = (status.st_size, status.st_mtime_ns // 1000)
    return found
