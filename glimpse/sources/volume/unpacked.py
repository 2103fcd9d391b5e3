"""Volumes unpacked into a folder of bounded size, from where they are memory-mapped."""

import errno
import hashlib
import os
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import platformdirs

from glimpse.atomic import alone
from glimpse.errors import UserError
from glimpse.sources.caches import room

DEFAULT_GB = 20.0
_SUFFIX, _UNFINISHED = ".nii", ".unfinished"
_ABANDONED = 24 * 3600  # seconds after which an unfinished file that nobody has written to is nobody's
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class CacheError(UserError, OSError):
    """There is no room for an unpacked volume, or the folder cannot be written to."""

    def __str__(self) -> str:
        return str(self.strerror)


def unpacked_folder() -> Path:
    """Returns where unpacked volumes lie: `volumes` in GLIMPSE_CACHE, else in the user's cache folder."""
    return Path(os.environ.get("GLIMPSE_CACHE") or platformdirs.user_cache_dir("glimpse")) / "volumes"


def open_unpacked(key: Hashable, write: Callable[[BinaryIO], None]) -> BinaryIO:
    """Opens the unpacked file of a key, which is written if it is not there.

    Of several processes and threads that ask for the same file at once, one writes it. It appears whole or not at all.
    The files used longest ago are removed once all of them take more than GLIMPSE_VOLUME_CACHE_GB (20). Whoever has a
    removed file open or mapped keeps what is in it.

    Args:
        key: of the content, with a `repr` that is the same in every process.
        write: writes the content; what it raises leaves nothing behind.

    Raises:
        CacheError: there is no room for the file, or the folder cannot be written to.
    """
    folder = unpacked_folder()
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
    path = folder / (digest + _SUFFIX)
    found = _open_used(path)
    if found is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with alone(folder / f".{digest[:2]}.lock"):
                found = _open_used(path) or _written(path, write)
        except OSError as error:
            if error.errno not in _NO_ROOM and not (error.filename and str(error.filename).startswith(str(folder))):
                raise
            raise CacheError(
                error.errno,
                f"{folder}: a volume cannot be unpacked here ({error.strerror}). Set GLIMPSE_CACHE to a folder with "
                "more room, or GLIMPSE_VOLUME_CACHE_GB to fewer gigabytes.",
            ) from error
    return found


def _open_used(path: Path) -> BinaryIO | None:
    """Opens the file and marks it as used now; None where it is not there."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    except FileNotFoundError:
        return None
    with suppress(OSError):  # removed since, or another user's: it is open all the same
        os.utime(path)
    return file


def _written(path: Path, write: Callable[[BinaryIO], None]) -> BinaryIO:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")
    try:
        with open(unfinished, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        written = open(unfinished, "rb")  # noqa: SIM115 - opened before others can remove it
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    _make_room(path)
    return written


def _make_room(keep: Path) -> None:
    """Removes what was used longest ago until the rest fits, except for one file."""
    limit = room("GLIMPSE_VOLUME_CACHE_GB", DEFAULT_GB) * 2**30
    held: list[tuple[int, int, Path]] = []
    for entry in os.scandir(keep.parent):
        try:
            status = entry.stat()
        except FileNotFoundError:  # another process is making room, too
            continue
        if entry.name.endswith(_SUFFIX):
            held.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
        elif entry.name.endswith(_UNFINISHED) and time.time() - status.st_mtime > _ABANDONED:
            Path(entry.path).unlink(missing_ok=True)
    total = sum(size for _, size, _ in held)
    for _, size, path in sorted(held):
        if total <= limit:
            break
        if path != keep:
            path.unlink(missing_ok=True)
            total -= size
