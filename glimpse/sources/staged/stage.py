"""The folder on a local disk in which copies of images lie: whole or not at all, and within a bound."""

import errno
import fcntl
import hashlib
import math
import os
import re
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import platformdirs

from glimpse.atomic import alone
from glimpse.errors import SettingsError, UserError
from glimpse.settings.kinds import fits
from glimpse.sources.base import ImageReadError

STAGING = ("stage", "stage_gigabytes")
"""The options of `open_source` that say where copies lie, and how much of them is kept."""

DEFAULT_GB = 50.0  # of remote images for which no folder is given
_BYTES = ".bytes"  # of a copy: how many bytes it has; locked as long as it is being written
_UNFINISHED, _REMOVED = ".unfinished", ".removed"
_NAME = re.compile(r"[0-9a-f]{32}")
_LEFT = re.compile(r"\.[0-9a-f]{32}(\.[0-9]+){1,2}(\.unfinished|\.removed)")  # the stage may hold files of others
_NO_FOLDER = re.compile(r"\0|://|^[a-zA-Z][a-zA-Z0-9+.-]+:/")  # the last as paths have it, which merge slashes
ROOM = ".room.lock"
"""The file in a stage by which one is told from other folders."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_SPARE = 1 << 26  # bytes that are left to others on the disk
_WAIT = 0.2  # seconds


class StageError(UserError, OSError):
    """An image cannot be copied to the stage: there is no room, or the folder cannot be written to."""

    def __str__(self) -> str:
        return str(self.args[0])


def default_folder() -> Path:
    """Returns where remote images lie if no folder is given: `staged` in GLIMPSE_CACHE, or the user's cache folder."""
    return Path(os.environ.get("GLIMPSE_CACHE") or platformdirs.user_cache_dir("glimpse")) / "staged"


@dataclass(frozen=True)
class Stage:
    """A folder that holds copies of images.

    Several processes and threads may use one at once: of those that ask for the same image, one copies it, and the
    others wait. A copy appears whole or not at all.

    Attributes:
        folder: the folder, absolute; it is made when it is needed, and may hold other files, too.
        gigabytes: how much all copies may take; None for as much as the disk has room for. The copies used longest ago
            are removed first.
    """

    folder: Path
    gigabytes: float | None = None

    @classmethod
    def of(cls, stage: str | os.PathLike[str] | None, gigabytes: float | None) -> "Stage":
        """Returns the stage that options ask for; without a folder, that of remote images.

        Raises:
            SettingsError: the folder is no path, or there is no positive number of gigabytes.
        """
        if stage is not None and (not isinstance(stage, str | os.PathLike) or not os.fspath(stage)):
            raise SettingsError(f"Expected stage as the path of a folder on a local disk, got {stage!r}.")
        if stage is not None and (bad := _NO_FOLDER.search(os.fspath(stage))):
            raise SettingsError(
                f"Expected stage as the path of a folder on a local disk, got {stage!r} with {bad[0]!r}."
            )
        if gigabytes is not None and (not fits(gigabytes, float) or not 0 < gigabytes < math.inf):
            raise SettingsError(f"Expected stage_gigabytes as a number above 0, or null, got {gigabytes!r}.")
        if stage is None:
            return cls(default_folder(), DEFAULT_GB if gigabytes is None else float(gigabytes))
        folder = Path(os.path.abspath(os.path.expanduser(stage)))
        return cls(folder, None if gigabytes is None else float(gigabytes))

    def place_of(self, key: Hashable) -> Path:
        """Returns the folder of the copy that has a key, whether it is there or not."""
        return self.folder / hashlib.sha256(repr(key).encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def holding(self, key: Hashable, size: int, whole: Callable[[Path], bool], copy: Callable[[Path], None]) -> Path:
        """Returns the folder of the copy that has a key; it is made if it is not there, or is not whole.

        Args:
            key: of the content, with a `repr` that is the same in every process.
            size: bytes that the copy takes; 0 where that is not known.
            whole: tells whether a folder holds all that it should.
            copy: writes the content into a folder; what it raises leaves nothing behind.

        Raises:
            StageError: there is no room, or the folder cannot be written to.
        """
        place = self.place_of(key)
        if whole(place):
            used(place)
            return place
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with alone(self.folder / f".{place.name[:2]}.lock"):
                if not whole(place):  # otherwise another process has just made it
                    self.remove(place)
                    self._made(place, size, copy)
        except UserError:
            raise
        except OSError as error:
            raise self._refused(error) from error
        return place

    def _made(self, place: Path, size: int, copy: Callable[[Path], None]) -> None:
        unfinished = self.folder / f".{place.name}.{os.getpid()}{_UNFINISHED}"
        for again in (True, False):
            try:
                with self._reserved(unfinished, size) as reserved:
                    copy(unfinished)
                    taken = _bytes_below(unfinished)
                    _state(reserved, taken)
                    if taken > size:  # which was not known
                        self.check_fits(taken)
                        with alone(self.folder / ROOM):
                            self._has_room(0)
                os.replace(unfinished, place)
                used(place)
                return
            except OSError as error:
                if isinstance(error, UserError) or error.errno not in _NO_ROOM or not again:
                    raise
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)

    @contextmanager
    def _reserved(self, unfinished: Path, size: int) -> Iterator[BinaryIO]:
        """Makes an unfinished folder for a copy of `size` bytes, and waits until that fits; it is locked inside.

        Raises:
            StageError: it would not fit even alone.
        """
        self.check_fits(size)
        while True:
            with alone(self.folder / ROOM):
                if self._has_room(size):
                    unfinished.mkdir()
                    reserved = open(unfinished / _BYTES, "wb")  # noqa: SIM115 - it is closed below
                    with suppress(OSError):  # file systems without locks: what is left behind there stays
                        fcntl.flock(reserved, fcntl.LOCK_EX)
                    _state(reserved, size)
                    break
            time.sleep(_WAIT)  # other copies, now being made, take the room; they can be removed when they are done
        with reserved:
            yield reserved

    def check_fits(self, size: int) -> None:
        """Refuses what is larger than the stage.

        Raises:
            StageError: it is.
        """
        if self.gigabytes is not None and size > self.gigabytes * 2**30:
            raise StageError(
                f"{self.folder}: {size / 2**30:.3g} GB do not fit into the {self.gigabytes:g} GB of the stage. Raise "
                "stage_gigabytes."
            )

    def _has_room(self, size: int) -> bool:
        """Removes the copies used longest ago until another one of `size` bytes fits; False if that is not enough.

        Where it is the disk that is full, nothing is waited for: writing will say so.
        """
        limit = math.inf if self.gigabytes is None else self.gigabytes * 2**30
        held, reserved = self._held()
        total = reserved + sum(one[1] for one in held)
        for _, bytes_, place in sorted(held):
            if total + size <= limit and size + _SPARE <= shutil.disk_usage(self.folder).free:
                break
            self.remove(place)
            total -= bytes_
        return total + size <= limit

    def _held(self) -> tuple[list[tuple[int, int, Path]], int]:
        """Returns when each copy was used last, its bytes and its folder; and the bytes of those being written.

        What a process that was killed has left behind is removed.
        """
        held: list[tuple[int, int, Path]] = []
        reserved = 0
        for entry in list(os.scandir(self.folder)):
            path = Path(entry.path)
            with suppress(OSError):  # another process is making room, too
                if _NAME.fullmatch(entry.name):
                    held.append((entry.stat().st_mtime_ns, _stated(path), path))
                elif not _LEFT.fullmatch(entry.name):
                    continue
                elif entry.name.endswith(_REMOVED):
                    shutil.rmtree(path, ignore_errors=True)
                elif _being_written(path):
                    reserved += _stated(path)
                else:
                    shutil.rmtree(path, ignore_errors=True)
        return held, reserved

    def remove(self, place: Path) -> None:
        """Removes a copy at once, if it is there; whoever has its files open keeps what is in them."""
        removed = place.with_name(f".{place.name}.{os.getpid()}.{threading.get_ident()}{_REMOVED}")
        with suppress(FileNotFoundError):
            os.replace(place, removed)
        shutil.rmtree(removed, ignore_errors=True)

    def _refused(self, error: OSError) -> StageError:
        remedy = "Choose a folder that this user can write to, with stage=."
        if error.errno in _NO_ROOM:
            remedy = "Free some space, or choose a folder with more room, with stage=."
        return StageError(f"{self.folder}: an image cannot be copied here ({error.strerror or error}). {remedy}")


def used(place: Path) -> None:
    """Notes that a copy is in use now."""
    with suppress(OSError):  # removed since, or another user's
        os.utime(place)


def copy_file(original: Path, copy: Path) -> None:
    """Copies a file with the time of its last change, down to the disk.

    Raises:
        ImageReadError: the original cannot be read.
        OSError: the copy cannot be written.
    """
    copy.parent.mkdir(parents=True, exist_ok=True)
    with _source_of(original) as source, open(copy, "wb") as target:
        while True:
            try:
                part = source.read(1 << 23)
            except OSError as error:
                raise _unreadable(original, error) from error
            if not part:
                break
            target.write(part)
        target.flush()
        os.fsync(target.fileno())
        status = os.fstat(source.fileno())
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))


def _source_of(original: Path) -> BinaryIO:
    try:
        return open(original, "rb")
    except OSError as error:
        raise _unreadable(original, error) from error


def _unreadable(original: Path, error: OSError) -> ImageReadError:
    return ImageReadError(
        f"{original}: cannot be copied to the stage ({error.strerror or error}). Look at the disk or network, or leave "
        "the case out (env.cohort.on_error=skip)."
    )


def _state(reserved: BinaryIO, size: int) -> None:
    reserved.seek(0)
    reserved.truncate()
    reserved.write(str(size).encode("ascii"))
    reserved.flush()


def _stated(place: Path) -> int:
    try:
        return int((place / _BYTES).read_text("ascii") or 0)
    except ValueError:
        return 0


def _bytes_below(folder: Path) -> int:
    return sum(
        os.path.getsize(Path(top, name)) for top, _, names in os.walk(folder) for name in names if name != _BYTES
    )


def _being_written(unfinished: Path) -> bool:
    try:
        with open(unfinished / _BYTES, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it is just being made, or was removed
        return (unfinished / _BYTES).exists()
    return False


_told: set[tuple[str, str]] = set()
_telling = threading.Lock()


def tell_once(folder: Path, kind: str, message: str) -> None:
    """Warns of what is read in place, once per process for each folder and kind of reason."""
    with _telling:
        new = (str(folder), kind) not in _told
        _told.add((str(folder), kind))
    if new:
        warnings.warn(message, UserWarning, stacklevel=2)
