"""Files of arrays that are only appended to, with checksums; each has one writer and any number of readers."""

import errno
import fcntl
import math
import os
import re
import secrets
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt64

SUFFIX, UNFINISHED = ".features", ".unfinished"
KEY_BYTES = 16
_MAGIC, _AXES = b"glimpse1", 8
_HEAD = struct.Struct(f"<8s8sI{_AXES}I")  # magic, dtype, number of axes, lengths; a checksum follows
_CHECKSUM = struct.Struct("<I")
_START = _HEAD.size + _CHECKSUM.size  # where the first record begins
_NUMBERS = re.compile("[<|][fiub][1248]")  # types of numbers; never objects, which would be unpickled
_LARGEST = 1 << 40  # numbers of an array
_AT_ONCE = 1 << 23  # bytes that are read at once to gather keys
_NOT_FOR_WRITING = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOT_CLAIMED = (errno.EWOULDBLOCK, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EINVAL)


class DamagedError(Exception):
    """A file is not what was written."""


@dataclass(frozen=True)
class Layout:
    """What all arrays of a file have in common.

    Attributes:
        dtype: type of their numbers, as numpy writes it, such as "<f2".
        shape: their shape.
    """

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: np.ndarray) -> "Layout":
        """Returns the layout of an array."""
        return cls(array.dtype.newbyteorder("<").str, array.shape)

    @property
    def nbytes(self) -> int:
        """Returns the bytes of an array."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def record(self) -> int:
        """Returns the bytes of a record: key, array and checksum."""
        return KEY_BYTES + self.nbytes + _CHECKSUM.size


class Segment:
    """A file of records of one layout. A record is a key, an array, and the checksum of both.

    Records are appended whole. If a process is killed while it writes, the file ends with a part of a record, which
    nobody reads and the next writer cuts off. Whoever writes holds a lock, which ends with the process.

    Args:
        path: the file.
        salt: goes into every checksum, so that records of another purpose are not taken for these.
        file: the descriptor of the open file, which now belongs to this object.

    Raises:
        DamagedError: the file does not begin as it should.
    """

    def __init__(self, path: Path, salt: bytes, file: int) -> None:
        self.path, self._salt, self._file = path, zlib.crc32(salt), file
        self._end: int | None = None  # where the next record is written, if this object writes
        self._owner = 0
        try:
            self.layout = _layout_of(os.pread(file, _START, 0))
        except DamagedError:
            self.close()
            raise

    @classmethod
    def open(cls, path: Path, salt: bytes) -> "Segment":
        """Opens a file, for writing, too, where that is allowed.

        Raises:
            DamagedError: the file does not begin as it should.
            OSError: the file cannot be opened.
        """
        try:
            file = os.open(path, os.O_RDWR)
        except OSError as error:
            if error.errno not in _NOT_FOR_WRITING:
                raise
            file = os.open(path, os.O_RDONLY)
        return cls(path, salt, file)

    @classmethod
    def create(cls, folder: Path, salt: bytes, layout: Layout) -> "Segment":
        """Makes an empty file, which this object writes; it appears with its head or not at all.

        Raises:
            OSError: the folder cannot be written to.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{os.getpid()}-{secrets.token_hex(6)}{SUFFIX}"
        unfinished = path.with_name(f".{path.name}{UNFINISHED}")
        file = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            _write(file, _head_of(layout), 0)
            made = cls(path, salt, file)
            made.claim()
            made._end, made._owner = _START, os.getpid()  # nobody else knows the file yet
            os.rename(unfinished, path)
        except OSError:
            os.close(file)
            with suppress(OSError):
                unfinished.unlink()
            raise
        return made

    # ------------------------------------------------------------------------------------------ writing
    def claim(self) -> bool:
        """Tries to become the one writer of the file, and cuts off a record that a killed process left unfinished.

        It is not tried where the file system has no locks, where the file may only be read, or in a forked process,
        which would share its parent's lock.
        """
        if self._owner not in (0, os.getpid()):
            return False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            end = _START + self.rows() * self.layout.record
            os.ftruncate(self._file, end)
        except OSError as error:
            if error.errno not in _NOT_CLAIMED:
                raise
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
            return False
        self._end, self._owner = end, os.getpid()
        return True

    @property
    def writable(self) -> bool:
        """Returns whether this object writes the file: not in a forked process, nor after the file was removed."""
        return self._end is not None and self._owner == os.getpid() and not self.removed

    @property
    def removed(self) -> bool:
        """Returns whether another process has removed the file."""
        return os.fstat(self._file).st_nlink == 0

    @property
    def size(self) -> int:
        """Returns the bytes of the file."""
        return os.fstat(self._file).st_size

    def append(self, keys: Sequence[bytes], arrays: Sequence[np.ndarray]) -> int:
        """Appends records, and returns the row of the first of them.

        Raises:
            OSError: there is no room, or the disk fails; what was there before is still there.
        """
        assert self._end is not None, "only the writer of a file appends"
        parts = []
        for key, array in zip(keys, arrays, strict=True):
            content = key + np.ascontiguousarray(array, self.layout.dtype).tobytes()
            parts += [content, _CHECKSUM.pack(zlib.crc32(content, self._salt))]
        row = (self._end - _START) // self.layout.record
        data = b"".join(parts)
        _write(self._file, data, self._end)
        self._end += len(data)
        return row

    # ------------------------------------------------------------------------------------------ reading
    def rows(self) -> int:
        """Returns how many whole records there are."""
        return max(0, self.size - _START) // self.layout.record

    def heads(self, first: int, last: int) -> UInt64[np.ndarray, " row"]:
        """Returns the first eight bytes of the keys of the records from `first` to before `last`."""
        record = self.layout.record
        step, found = max(1, _AT_ONCE // record), []
        for start in range(first, last, step):
            count = min(step, last - start)
            data = os.pread(self._file, count * record, _START + start * record)
            whole = np.frombuffer(data[: len(data) // record * record], np.uint8).reshape(-1, record)
            found.append(np.ascontiguousarray(whole[:, :8]).view("<u8")[:, 0].astype(np.uint64))
        return np.concatenate(found) if found else np.zeros(0, np.uint64)

    def read(self, row: int, key: bytes) -> np.ndarray | None:
        """Returns the array of a record; None if it is that of another key.

        Raises:
            DamagedError: the record is not what was written.
        """
        record = self.layout.record
        data = os.pread(self._file, record, _START + row * record)
        content = data[: -_CHECKSUM.size]
        if len(data) < record or _CHECKSUM.pack(zlib.crc32(content, self._salt)) != data[-_CHECKSUM.size :]:
            raise DamagedError
        if content[:KEY_BYTES] != key:
            return None
        return np.frombuffer(content, self.layout.dtype, offset=KEY_BYTES).reshape(self.layout.shape)

    def touch(self) -> None:
        """Marks the file as used now."""
        with suppress(OSError):  # another user's
            os.utime(self._file)

    def close(self) -> None:
        """Closes the file, and gives up writing it."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._end = -1, None


def _head_of(layout: Layout) -> bytes:
    lengths = [*layout.shape, *[0] * (_AXES - len(layout.shape))]
    head = _HEAD.pack(_MAGIC, layout.dtype.encode(), len(layout.shape), *lengths)
    return head + _CHECKSUM.pack(zlib.crc32(head))


def _layout_of(head: bytes) -> Layout:
    if len(head) < _START or head[-_CHECKSUM.size :] != _CHECKSUM.pack(zlib.crc32(head[: _HEAD.size])):
        raise DamagedError
    magic, dtype, axes, *lengths = _HEAD.unpack(head[: _HEAD.size])
    kind = dtype.rstrip(b"\0").decode("ascii", "replace")
    if magic != _MAGIC or axes > _AXES or not _NUMBERS.fullmatch(kind):
        raise DamagedError
    if math.prod(lengths[:axes]) >= _LARGEST:
        raise DamagedError
    return Layout(kind, tuple(lengths[:axes]))


def _write(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
