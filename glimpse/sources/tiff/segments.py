"""Stored planes of a TIFF as arrays of which only the tiles or strips that a read touches are decoded."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glimpse.errors import MissingExtraError
from glimpse.sources.caches import images

INSTALL = 'pip install "glimpse-rl[tiff]"'


class SegmentError(Exception):
    """A tile or strip cannot be read; the message says which one and why."""


@dataclass(frozen=True, eq=False)
class StoredPage:
    """What a read needs to know of one page; it holds no open file.

    Attributes:
        key: tells this page from others of the same file.
        shape: rows and columns of its pixels.
        segment: rows and columns of a tile, or of a strip.
        samples: values that lie beside each other in a segment.
        dtype: of the values, as they are stored.
        offsets: where in the file each segment begins; of one that is missing, 0.
        counts: bytes of each segment.
        tiled: whether segments are tiles, which are whole also at the edges.
        raw: whether values lie in the file as they are, so that any part of a segment can be mapped.
        decode: decodes the bytes of a segment, given its index, as `tifffile.TiffPage.decode` does.
        tables: further arguments of `decode`.
    """

    key: Hashable
    shape: tuple[int, int]
    segment: tuple[int, int]
    samples: int
    dtype: np.dtype
    offsets: Sequence[int]
    counts: Sequence[int]
    tiled: bool
    raw: bool
    decode: Callable[..., Any]
    tables: dict[str, Any]

    @property
    def grid(self) -> tuple[int, int]:
        """Segments along rows and columns."""
        return -(-self.shape[0] // self.segment[0]), -(-self.shape[1] // self.segment[1])

    @property
    def end(self) -> int:
        """The byte that its pixels reach to."""
        return max((a + n for a, n in zip(self.offsets, self.counts, strict=False) if a and n), default=0)


@dataclass(frozen=True)
class Plane:
    """One channel of a level: a sample of a page.

    Attributes:
        page: the page; None where the file lacks it.
        separate: which of the planes of a page whose samples are stored apart.
        sample: which of the samples that lie beside each other.
    """

    page: StoredPage | None
    separate: int = 0
    sample: int = 0


class Stack:
    """The channels of one level as an array (channel, height, width) that can be sliced.

    Args:
        planes: one per channel; all have the same shape.
        shape: rows and columns.
        dtype: of the values in memory.
        content: the bytes of the file.
        file: its path, and what tells its segments from those of other files in the cache of decoded ones.
        missing: what pixels have whose segments the file does not hold.
    """

    ndim = 3

    def __init__(
        self,
        planes: Sequence[Plane],
        shape: tuple[int, int],
        dtype: np.dtype,
        content: np.ndarray,
        file: tuple[str, Hashable],
        missing: float = 0,
    ) -> None:
        self.shape = (len(planes), *shape)
        self._dtype, self._content, self._file, self._missing = dtype, content, file, missing
        self._groups: dict[tuple[int, int], list[tuple[int, Plane]]] = {}  # of channels that share their segments
        for channel, plane in enumerate(planes):
            self._groups.setdefault((id(plane.page), plane.separate), []).append((channel, plane))

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Returns (channel, rows, columns) of the slices, which have no steps; all channels are read.

        Raises:
            SegmentError: a segment cannot be read.
        """
        (top, bottom), (left, right) = ((one.start, one.stop) for one in index[1:])
        block = np.full((self.shape[0], max(bottom - top, 0), max(right - left, 0)), self._missing, self._dtype)
        for group in self._groups.values():
            page = group[0][1].page
            if page is not None and block.size:
                self._fill(block, page, group, (top, bottom, left, right))
        return block[index[0]]

    def _fill(
        self, block: np.ndarray, page: StoredPage, group: Sequence[tuple[int, Plane]], box: tuple[int, int, int, int]
    ) -> None:
        """Copies what is asked for of each segment of a page that a box (top, bottom, left, right) touches."""
        top, bottom, left, right = box
        high, wide = page.segment
        across = page.grid[1]
        first = group[0][1].separate * page.grid[0] * across
        for row in range(top // high, -(-bottom // high)):
            for column in range(left // wide, -(-right // wide)):
                y, x = row * high, column * wide
                rows = slice(max(top - y, 0), min(bottom - y, high))
                columns = slice(max(left - x, 0), min(right - x, wide))
                part = self._part(page, first + row * across + column, y, rows, columns)
                if part is None:
                    continue
                target = (slice(y + rows.start - top, y + rows.start - top + part.shape[0]),
                          slice(x + columns.start - left, x + columns.start - left + part.shape[1]))  # fmt: skip
                for channel, plane in group:
                    block[channel][target] = part[..., plane.sample]

    def _part(self, page: StoredPage, index: int, y: int, rows: slice, columns: slice) -> np.ndarray | None:
        """Returns a part of a segment, (row, column, sample); None where the file does not hold the segment."""
        offset, count = (int(one[index]) if index < len(one) else 0 for one in (page.offsets, page.counts))
        if not offset or not count:
            return None
        if offset + count > len(self._content):
            raise SegmentError(f"the file ends at byte {len(self._content):,}, a part of it at {offset + count:,}")
        if page.raw:
            high = page.segment[0] if page.tiled else min(page.segment[0], page.shape[0] - y)
            shape = (high, page.segment[1], page.samples)
            if count < page.dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
                raise SegmentError(f"a part of it has {count:,} bytes, too few for {high} x {page.segment[1]} pixels")
            return np.ndarray(shape, page.dtype, self._content, offset)[rows, columns]
        return images.get((self._file, page.key, index), lambda: self._decoded(page, index))[rows, columns]

    def _decoded(self, page: StoredPage, index: int) -> np.ndarray:
        offset, count = int(page.offsets[index]), int(page.counts[index])
        try:
            values, _, _ = page.decode(self._content[offset : offset + count].tobytes(), index, **page.tables)
            decoded = np.array(values[0])  # one of its own: some codecs return views
        except Exception as error:  # each codec raises its own kinds on damaged data
            if isinstance(error, ImportError) or "imagecodecs" in str(error):  # of 12 bits side by side, for example
                reason = " ".join(str(error).split())
                raise MissingExtraError(
                    f"{self._file[0]}: its pixels need the package imagecodecs, which is not installed ({reason}). "
                    f"Run: {INSTALL}"
                ) from error
            raise SegmentError(" ".join(str(error).split()) or type(error).__name__) from error
        if decoded.ndim != 3 or decoded.shape[2] != page.samples:
            raise SegmentError(f"a part of it has the shape {decoded.shape}, {page.samples} samples were expected")
        return decoded
