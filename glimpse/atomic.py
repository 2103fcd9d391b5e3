"""Writes files atomically: after an interruption a file is complete, or not there. Locks between processes, too."""

import errno
import fcntl
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glimpse.errors import REMEDIES, UserError

_UMASK = os.umask(0)
os.umask(_UMASK)
_UNFINISHED = re.compile(r"\..+\.(?P<process>\d+)-\d+\.unfinished")  # of files that are not complete


class WriteError(UserError, OSError):
    """A file cannot be written; what was there before is still there."""


def write_error(path: str | os.PathLike[str], error: OSError) -> WriteError:
    """Returns the error for a file that cannot be written: what it is, why, and what to do."""
    remedy = REMEDIES.get(error.errno or 0, "Make sure that its folder is there.")
    return WriteError(f"{path}: cannot be written ({error.strerror or error}). {remedy}")


def made_folder(path: Path) -> Path:
    """Makes a folder, and those above it, where they do not exist; returns it.

    Raises:
        WriteError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def is_taken(path: Path) -> bool:
    """Tells whether a path is a file, or a folder that is not empty."""
    return path.is_file() or (path.is_dir() and next(path.iterdir(), None) is not None)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields the path of an unfinished file, which in the end replaces `path`, unless an error is raised.

    Raises:
        WriteError: the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise write_error(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    if path.exists() and not path.is_file():  # a device or a pipe would be replaced
        raise WriteError(f"{path}: cannot be written (it is no regular file). Choose another name.")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.unfinished")
    try:
        yield unfinished
        os.chmod(unfinished, 0o666 & ~_UMASK)  # some writers make files that only their owner can read
        os.replace(unfinished, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def remove_unfinished(*folders: Path, seconds: float = 3600) -> None:
    """Removes the files in folders that `replacing` left unfinished when their process was killed.

    A process is taken to be gone if there is none with its number on this machine, or if it is this one.

    Args:
        folders: Those that are not there are passed over.
        seconds: How old a file is at least that is removed: longer than writing takes, where other machines may be
            writing, too.
    """
    for folder in folders:
        for path in folder.glob(".*.unfinished"):
            found = _UNFINISHED.fullmatch(path.name)
            if found is None or (int(found["process"]) != os.getpid() and started(int(found["process"]))):
                continue
            with suppress(OSError):
                if time.time() - path.stat().st_mtime >= seconds:
                    path.unlink()


def started(process: int) -> str | None:
    """Returns when a process of this machine was started, in its own count; None if there is no such process.

    With it, another process that has the same number later is not taken for it.
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
        fields = text.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # it has ended, and nobody has asked how
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, IndexError):
        pass
    try:  # a system without /proc
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:
        pass
    return "alive"


def write_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file atomically: after an interruption it is complete, or as it was before.

    Raises:
        WriteError: the file cannot be written.
    """
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file atomically: after an interruption it is complete, or as it was before.

    Raises:
        WriteError: the file cannot be written.
    """
    with replacing(path) as unfinished, open(unfinished, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def alone(path: str | os.PathLike[str]) -> Iterator[None]:
    """Waits until no other process or thread is inside with the same path, which becomes an empty file."""
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # file systems without locks: the work may be done twice, its result is the same
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield
