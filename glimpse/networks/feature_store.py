"""Keeps features on disk, so that the next training of the same encoder on the same images need not compute them."""

import os
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import numpy as np
import platformdirs
from jaxtyping import Int64, UInt64

from glimpse.networks.segments import SUFFIX, UNFINISHED, DamagedError, Layout, Segment
from glimpse.settings.options import above_zero

_GB = 2**30
_LARGEST = 64 * 2**20  # bytes of a file, after which another one is begun: whole files make room
_FILES, _CHECKS = 8, 16  # the least number of files that fill a store; how often its size is checked while it is filled
_RECENT = 1 << 16  # so many new records are remembered one by one before they are sorted among the others
_FRESH = 10.0  # seconds for which what others have written is not looked for again
_TOUCH = 60.0  # seconds between two marks of use of a file
_ABANDONED = 24 * 3600  # seconds after which an unfinished file is nobody's


def default_folder() -> Path:
    """Returns where features are kept: `features` in GLIMPSE_CACHE, else in the user's cache folder."""
    return Path(os.environ.get("GLIMPSE_CACHE") or platformdirs.user_cache_dir("glimpse")) / "features"


class FeatureStore:
    """A folder of bounded size with the features of encoders that are not trained.

    Each encoder, kind of features and size of images has a shelf of its own, which is a folder. Several processes may
    use a store at the same time, and a process that is killed leaves nothing that could be taken for features. Files
    that were used longest ago are removed first. What cannot be read or written is computed, after one warning.

    Args:
        folder: where it lies; with None in `default_folder()`.
        gigabytes: room that all files may take, roughly.
        precision: in which features are kept. Those that float16 cannot hold are kept in float32.

    Raises:
        SettingsError: `gigabytes` is not above 0.
    """

    def __init__(
        self,
        folder: str | None = None,
        gigabytes: float = 4.0,
        precision: Literal["float16", "float32"] = "float16",
    ) -> None:
        above_zero("gigabytes", gigabytes)
        self.folder = default_folder() if folder is None else Path(os.path.expanduser(folder)).absolute()
        self.precision, self.limit = precision, gigabytes * _GB
        self.largest = min(_LARGEST, self.limit / _FILES)
        self.lock = threading.RLock()
        self.can_write = True
        self._unchecked = float("inf")  # bytes that were written since the size was checked
        self._shelves: dict[str, Shelf] = {}

    def shelf(self, name: str) -> "Shelf":
        """Returns the shelf of a name; its folder is called so."""
        with self.lock:
            if name not in self._shelves:
                self._shelves[name] = Shelf(self, name)
            return self._shelves[name]

    def rounded(self, features: np.ndarray) -> np.ndarray:
        """Returns features in the precision in which they are kept."""
        if self.precision == "float32":
            return features
        with np.errstate(over="ignore"):
            half = features.astype(np.float16)
        return half if np.isfinite(half).all() else features

    def make_room(self, coming: int) -> None:
        """Removes the files that were used longest ago, if with so many more bytes there are too many."""
        self._unchecked += coming
        if self._unchecked < self.limit / _CHECKS:
            return
        held, total = [], float(coming)
        for path in self.folder.glob(f"*/*{SUFFIX}"):
            with suppress(OSError):  # removed by another process
                status = path.stat()
                held.append((status.st_mtime_ns, status.st_size, path))
                total += status.st_size
        for _, size, path in sorted(held):
            if total <= self.limit - self.limit / _CHECKS:
                break
            with suppress(OSError):
                path.unlink()
            total -= size
        for path in self.folder.glob(f"*/.*{UNFINISHED}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()
        self._unchecked = 0.0

    def give_up_writing(self, error: OSError) -> None:
        """Writes nothing any more, and says why once."""
        if self.can_write:
            self.can_write = False
            warnings.warn(
                f"{self.folder}: features cannot be kept here ({error.strerror or error}), so every run computes them. "
                "Choose another folder with features_cache.folder=<folder>, or type features_cache=null.",
                UserWarning,
                stacklevel=2,
            )

    def close(self) -> None:
        """Closes all files; shelves that are asked for later open them again."""
        with self.lock:
            for shelf in self._shelves.values():
                shelf.close()
            self._shelves.clear()


class Shelf:
    """Arrays by keys of 16 bytes, in files of one folder. It is safe from several threads and processes."""

    def __init__(self, store: FeatureStore, name: str) -> None:
        self.store, self.name, self.folder = store, name, store.folder / name
        self._segments: dict[Path, Segment] = {}
        self._numbered: list[Segment] = []  # a record's place is the number of its file and its row
        self._rows: dict[Path, int] = {}  # of each file, that are in the index
        self._touched: dict[Path, float] = {}
        self._refused: set[Path] = set()  # damaged files that may not be removed
        self._writers: dict[Layout, Segment] = {}
        self._index = _Index()
        self._looked = -float("inf")

    def find(self, keys: Sequence[bytes]) -> list[np.ndarray | None]:
        """Returns the array of each key, read-only, or None where there is none."""
        if not keys:
            return []
        with self.store.lock:
            places = self._index.find(keys)
            if (places < 0).any() and time.monotonic() - self._looked > _FRESH:
                self._look_again()
                places = self._index.find(keys)
            return [
                None if place < 0 else self._read(place, key) for place, key in zip(places.tolist(), keys, strict=True)
            ]

    def keep(self, keys: Sequence[bytes], arrays: Sequence[np.ndarray]) -> None:
        """Keeps arrays, if the store can be written to."""
        with self.store.lock:
            groups: dict[Layout, list[int]] = {}
            for row, array in enumerate(arrays):
                groups.setdefault(Layout.of(array), []).append(row)
            for layout, rows in groups.items():
                if self.store.can_write and layout.record * _FILES <= self.store.limit:
                    try:
                        self._append(layout, [keys[row] for row in rows], [arrays[row] for row in rows])
                    except OSError as error:
                        self.store.give_up_writing(error)

    def close(self) -> None:
        """Closes all files; nothing is found any more."""
        for segment in list(self._segments.values()):
            self._forget(segment)

    # ------------------------------------------------------------------------------------------ writing
    def _append(self, layout: Layout, keys: list[bytes], arrays: list[np.ndarray]) -> None:
        at_once = max(1, int(self.store.largest // layout.record))
        for start in range(0, len(keys), at_once):
            part = slice(start, start + at_once)
            self.store.make_room(len(keys[part]) * layout.record)
            segment = self._writer(layout)
            first = segment.append(keys[part], arrays[part])
            number = self._numbered.index(segment)
            self._rows[segment.path] = first + len(keys[part])
            self._index.add(keys[part], number, first)

    def _writer(self, layout: Layout) -> Segment:
        """Returns the file to append to: an unfinished one that nobody writes, or a new one."""
        writer = self._writers.get(layout)
        if writer is not None and writer.writable and writer.size < self.store.largest:
            return writer
        self._look_again()
        for segment in self._segments.values():
            fits = segment.layout == layout and segment.size < self.store.largest and not segment.removed
            if fits and segment is not writer and segment.claim():
                self._note_rows(segment)  # written since by a process that has ended
                self._writers[layout] = segment
                return segment
        made = Segment.create(self.folder, self.name.encode(), layout)
        self._segments[made.path], self._writers[layout] = made, made
        self._rows[made.path] = 0
        self._numbered.append(made)
        return made

    # ------------------------------------------------------------------------------------------ reading
    def _look_again(self) -> None:
        """Takes note of what other processes have written or removed."""
        self._looked = time.monotonic()
        gone = [path for path, segment in self._segments.items() if segment.removed]
        for path in gone:
            self._forget(self._segments[path])
        for path in sorted(self.folder.glob(f"*{SUFFIX}")) if self.folder.is_dir() else ():
            if path not in self._segments and path not in self._refused:
                try:
                    self._segments[path] = Segment.open(path, self.name.encode())
                except DamagedError:
                    self._remove(path)
                    continue
                except OSError:  # removed, or not for this user
                    continue
                self._numbered.append(self._segments[path])
            if path in self._segments:
                self._note_rows(self._segments[path])

    def _note_rows(self, segment: Segment) -> None:
        known, rows = self._rows.get(segment.path, 0), segment.rows()
        if rows > known:
            heads = segment.heads(known, rows)
            self._index.merge(heads, self._numbered.index(segment), known)
            self._rows[segment.path] = known + len(heads)

    def _read(self, place: int, key: bytes) -> np.ndarray | None:
        segment = self._numbered[place >> _Index.ROW_BITS]
        try:
            found = segment.read(place & ((1 << _Index.ROW_BITS) - 1), key)
        except (DamagedError, OSError) as error:
            if segment.path in self._segments:  # it may be damaged in several records that are asked for at once
                self._forget(segment)
                if isinstance(error, DamagedError):
                    self._remove(segment.path)
            return None
        now = time.monotonic()
        if now - self._touched.get(segment.path, -float("inf")) > _TOUCH:
            self._touched[segment.path] = now
            segment.touch()
        return found

    def _remove(self, path: Path) -> None:
        warnings.warn(
            f"{path}: this file of kept features is damaged. It is removed, and its features are computed again.",
            UserWarning,
            stacklevel=2,
        )
        self._refused.add(path)
        with suppress(OSError):
            path.unlink()

    def _forget(self, segment: Segment) -> None:
        self._index.drop(self._numbered.index(segment))
        self._writers = {layout: one for layout, one in self._writers.items() if one is not segment}
        for held in (self._segments, self._rows, self._touched):
            held.pop(segment.path, None)
        segment.close()


class _Index:
    """Where records lie, by the first eight bytes of their keys: twelve to sixteen bytes of memory for each record."""

    ROW_BITS = 40

    def __init__(self) -> None:
        self._heads: UInt64[np.ndarray, " record"] = np.zeros(0, np.uint64)  # sorted
        self._places: Int64[np.ndarray, " record"] = np.zeros(0, np.int64)
        self._recent: dict[int, int] = {}

    def find(self, keys: Sequence[bytes]) -> Int64[np.ndarray, " key"]:
        """Returns the place of each key's record, or -1."""
        heads = np.frombuffer(b"".join(key[:8] for key in keys), "<u8").astype(np.uint64)
        spots = np.searchsorted(self._heads, heads)
        found = np.full(len(keys), -1, np.int64)
        inside = np.flatnonzero(spots < len(self._heads))
        inside = inside[self._heads[spots[inside]] == heads[inside]]
        found[inside] = self._places[spots[inside]]
        if self._recent:
            recent = [self._recent.get(head, -1) for head in heads.tolist()]
            found = np.where(np.array(recent) >= 0, recent, found)
        return found

    def add(self, keys: Sequence[bytes], number: int, first: int) -> None:
        """Adds the records of file `number` that begin with row `first`."""
        begin = (number << self.ROW_BITS) + first
        self._recent |= {int.from_bytes(key[:8], "little"): begin + row for row, key in enumerate(keys)}
        if len(self._recent) > _RECENT:
            self._sort_in(*self._unsorted())

    def merge(self, heads: UInt64[np.ndarray, " row"], number: int, first: int) -> None:
        """Adds the records of file `number` that begin with row `first`, by the heads of their keys."""
        self._sort_in(heads, (number << self.ROW_BITS) + first + np.arange(len(heads), dtype=np.int64))

    def drop(self, number: int) -> None:
        """Forgets the records of a file."""
        self._sort_in(*self._unsorted())
        stay = self._places >> self.ROW_BITS != number
        self._heads, self._places = self._heads[stay], self._places[stay]

    def _unsorted(self) -> tuple[np.ndarray, np.ndarray]:
        recent, self._recent = self._recent, {}
        return np.array(list(recent), np.uint64), np.array(list(recent.values()), np.int64)

    def _sort_in(self, heads: np.ndarray, places: np.ndarray) -> None:
        heads, places = np.concatenate([self._heads, heads]), np.concatenate([self._places, places])
        order = np.argsort(heads, kind="stable")
        self._heads, self._places = heads[order], places[order]


# ---------------------------------------------------------------------------------------------- the store in use
_in_use: list[FeatureStore] = []


def store_in_use() -> FeatureStore | None:
    """Returns the store that the running command uses, or None."""
    return _in_use[-1] if _in_use else None


@contextmanager
def using(store: FeatureStore | None) -> Iterator[None]:
    """Inside, features are kept in this store; with None, only in memory."""
    before = _in_use[:]
    _in_use[:] = [] if store is None else [store]
    try:
        yield
    finally:
        _in_use[:] = before
        if store is not None:
            store.close()
