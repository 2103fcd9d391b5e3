"""What a source is, and what readers share."""

import math
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt8

from glimpse.errors import UserError
from glimpse.geometry import Frame, Numbers
from glimpse.sources.resampling import Cut

# How far a pixel must be from the background, of 255, before it can be worth looking at.
BACKGROUND_TOLERANCE = 8


class UnsupportedImageError(UserError, ValueError):
    """No reader knows this kind of file, or it does not fit what was asked for."""


class ImageReadError(UserError, OSError):
    """A file of a known kind is missing, truncated or damaged, or may not be read."""


class RegionReadError(ImageReadError):
    """A part of an image is damaged; other parts may still be read."""


class ImageMemoryError(ImageReadError):
    """A file says that it holds more than fits into memory."""


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Turns whatever a library raises inside, on a damaged file, into an error that names the file and the remedy.

    Libraries raise errors of any kind where a header makes no sense, so their list would never be complete.

    Raises:
        ImageReadError: the file is damaged, or says that it holds more than fits into memory.
    """
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise ImageMemoryError(
            f"{path}: there is not enough memory for what the file says it holds. Look at the sizes that it states and "
            "copy it again, or leave the case out (env.cohort.on_error=skip)."
        ) from error
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(".")
        raise ImageReadError(
            f"{path}: cannot be read ({said}). It is probably damaged: copy it again and compare its size with the "
            "original's, or leave the case out (env.cohort.on_error=skip)."
        ) from error


class ImageSource(ABC):
    """Lazy reader of one case's pixels, in any number of dimensions.

    A source opens its file when it is first asked something, is safe from several threads, and pickles as its path.

    Attributes:
        path: the file, or None for an image that lives in memory.
        name: what messages call it.
    """

    path: Path | None
    name: str

    @property
    @abstractmethod
    def frame(self) -> Frame:
        """Returns the full-resolution grid."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Returns the number of channels of every read."""

    @property
    @abstractmethod
    def background(self) -> UInt8[np.ndarray, " channel"]:
        """Returns the value of each channel outside the image."""

    @abstractmethod
    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        """Reads the region [center - extent / 2, center + extent / 2), resampled by area.

        Where the extent is a whole multiple of the size (in pixels of the level that is read), the region starts at the
        nearest pixel, so that nothing is blurred; otherwise pixels on its edges count by the part that lies inside.

        Args:
            center: level-0 pixels, (d,).
            extent: level-0 pixels, (d,) or one value for all axes.
            size: pixels of the result per axis.

        Returns:
            uint8 (channel, *size), the background wherever the region leaves the image.

        Raises:
            ImageReadError: the file is missing, truncated or damaged.
        """

    def shown(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> Float[np.ndarray, "2 d"]:
        """Returns the region that `read` shows when it is asked the same: its low and high corner in level-0 pixels.

        It is the region that was asked for, but where that starts at the nearest pixel.
        """
        cut = Cut.of(*region(center, extent, size, self.ndim), size)
        low = np.add(cut.first, cut.start)
        return np.stack([low, low + cut.extent])

    @property
    def offset(self) -> tuple[int, ...]:
        """Returns how many level-0 pixels of the file lie before the image, per axis; 0 but for slides with bounds."""
        return (0,) * self.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the pixels per axis at full resolution, (height, width) or (depth, height, width)."""
        return self.frame.shape

    @property
    def ndim(self) -> int:
        """Returns the number of axes of the image, channels aside."""
        return len(self.frame.shape)

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Returns the size of a pixel per axis in `unit`, or None where it is not known."""
        return self.frame.spacing

    @property
    def unit(self) -> str | None:
        """Returns the unit of `spacing`, "um" or "mm"; None where the spacing is not known."""
        return self.frame.unit

    @property
    @abstractmethod
    def identity(self) -> Hashable:
        """Returns the key of caches: it is equal for two sources exactly when they show the same pixels."""

    @property
    def lasting_identity(self) -> Hashable | None:
        """Returns the key of caches that outlive the process; None where nothing may be kept for so long.

        It is made of plain values, and changes whenever a file is written from which pixels come. Two sources of one
        class with the same one show the same pixels in the same region.
        """
        return None

    @property
    def file(self) -> Path | None:
        """Returns the file that is read: `path`, or a copy of it on a local disk; None for an image in memory."""
        return self.path

    @property
    def files(self) -> Sequence[Path] | None:
        """Returns all files from which pixels come, in the folder of `path` or below; None if it cannot be staged."""
        return None

    def overview(self, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        """Reads the whole image at the given size."""
        shape = np.asarray(self.frame.shape, np.float64)
        return self.read(shape / 2, shape, size)

    def foreground(self, overview: UInt8[np.ndarray, "channel *size"]) -> Bool[np.ndarray, "*size"]:
        """Returns where looking makes sense: where any channel is further from the background than a small tolerance.

        The mask is never empty: a blank image can be looked at everywhere.
        """
        background = self.background.astype(np.int16).reshape(-1, *[1] * (overview.ndim - 1))
        far = np.abs(overview.astype(np.int16) - background) > BACKGROUND_TOLERANCE
        return never_empty(far.any(axis=0))

    def check(self) -> None:
        """Reads the far corner at full resolution, so that a file that is cut short shows it now.

        Raises:
            ImageReadError: the file is missing, truncated or damaged.
        """
        corner = np.asarray(self.frame.shape, np.float64)
        self.read(corner - 0.5, np.ones_like(corner), (1,) * self.ndim)

    def close(self) -> None:  # noqa: B027 - a source without a handle has nothing to close
        """Closes open files; the next read opens them again. It must not be called while another thread reads."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def never_empty(mask: Bool[np.ndarray, "*size"]) -> Bool[np.ndarray, "*size"]:
    """Returns the mask, or all True where nothing is set."""
    return mask if mask.any() else np.ones_like(mask)


def file_identity(path: Path, *options: Hashable) -> Hashable:
    """Returns the identity of a file's pixels: its absolute path, time of the last change, size, and options."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise unopened(path, error) from error
    return (os.fspath(path.absolute()), status.st_mtime_ns, status.st_size, *options)


def missing_file(path: Path) -> ImageReadError:
    """Returns the error for a path that leads nowhere."""
    return ImageReadError(f"{path}: no such file. Correct the path (in a cohort, paths are relative to the CSV).")


def unopened(path: Path, error: OSError) -> ImageReadError:
    """Returns the error for a file or folder that the system does not open: it is missing, or may not be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return missing_file(path)
    remedy = "Look at the disk, or leave the case out (env.cohort.on_error=skip)."
    if isinstance(error, PermissionError):
        remedy = (
            f"Get the right to read it, e.g. with 'chmod u+rX {path}', or leave the case out "
            "(env.cohort.on_error=skip)."
        )
    return ImageReadError(f"{path}: cannot be opened ({error.strerror or error}). {remedy}")


def check_readable(path: Path) -> None:
    """Opens a file or folder, so that one that is missing or may not be read shows it here.

    Raises:
        ImageReadError: the system does not open it, or it is a pipe or a device, for which one would wait.
    """
    try:
        if path.is_dir():
            os.scandir(path).close()
        elif path.exists() and not path.is_file():
            raise ImageReadError(f"{path}: neither a file nor a folder. Correct the path.")
        else:
            open(path, "rb").close()
    except OSError as error:
        raise unopened(path, error) from error


def whole_frame(path: Path, frame: int | str | None) -> int | None:
    """Returns the option ``frame``, which chooses one of several images of a file, as a number from 0; None if unset.

    Raises:
        UnsupportedImageError: it is no whole number from 0 on.
    """
    text = str(frame).strip()
    if frame is None:
        return None
    if isinstance(frame, bool) or not text.isdecimal():
        raise UnsupportedImageError(f"{path}: expected frame as a whole number from 0 on, got {frame!r}.")
    return int(text)


def one_frame(path: Path, frames: int, frame: int | None, what: str = "frame") -> int:
    """Returns the index of the image to read of a file that may hold several.

    Args:
        path: the file.
        frames: how many images it holds.
        frame: the one that is chosen, or None.
        what: what messages call such an image.

    Raises:
        UnsupportedImageError: the file holds several and none is chosen, or it has no such image.
    """
    if frame is None and frames > 1:
        raise UnsupportedImageError(
            f"{path}: it holds {frames} {what}s, a case is one. Choose one of them, 0 to {frames - 1}, with "
            "env.cohort.frame=0 or in a column 'frame' of the CSV (for predict, of input=<CSV>); in Python with "
            "frame=0."
        )
    if not 0 <= (frame or 0) < max(frames, 1):
        raise UnsupportedImageError(
            f"{path}: frame={frame}, but it holds {frames} {what}{'s' if frames > 1 else ''}, numbered from 0. Correct "
            "env.cohort.frame or the column 'frame' of the CSV."
        )
    return frame or 0


def region(center: Numbers, extent: Numbers, size: Sequence[int], ndim: int) -> tuple[list[float], list[float]]:
    """Checks a region, and returns its start and extent as plain floats.

    Raises:
        ValueError: the number of axes is wrong, or the extent or size is not positive.
    """
    centers = np.asarray(center, np.float64).reshape(-1).tolist()
    extents = np.asarray(extent, np.float64).reshape(-1).tolist()
    if len(extents) == 1:
        extents = extents * ndim
    if len(centers) != ndim or len(extents) != ndim or len(size) != ndim:
        raise ValueError(
            f"expected {ndim} values in center, extent and size, got {len(centers)}, {len(extents)} and {len(size)}."
        )
    if not all(map(math.isfinite, centers)) or not all(0 < value < math.inf for value in extents) or min(size) < 1:
        raise ValueError(
            f"expected a finite center, a positive extent and size, got {centers}, {extents} and {tuple(size)}."
        )
    return [middle - width / 2 for middle, width in zip(centers, extents, strict=True)], extents


@runtime_checkable
class _Reads(Protocol):
    """Whatever reads regions as `ImageSource.read` does."""

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> np.ndarray: ...


def read_in_parts(
    source: _Reads, start: Sequence[float], extent: Sequence[float], size: Sequence[int], axis: int | None = None
) -> np.ndarray:
    """Reads the two halves of a region one after the other, which bounds the memory of wide reads.

    Args:
        source: what to read.
        start: level-0 pixels, (d,).
        extent: level-0 pixels, (d,).
        size: pixels of the result, (d,), more than one on the axis that is split.
        axis: along which the region is split; by default the result's longest.
    """
    axis = int(np.argmax(size)) if axis is None else axis
    half = size[axis] // 2
    parts = []
    for first, count in ((0, half), (half, size[axis] - half)):
        lengths, begin, counts = list(extent), list(start), list(size)
        begin[axis] += extent[axis] * first / size[axis]
        lengths[axis], counts[axis] = extent[axis] * count / size[axis], count
        middle = np.add(begin, np.divide(lengths, 2))
        parts.append(source.read(middle, np.asarray(lengths), counts))
    return np.concatenate(parts, axis=axis + 1)


_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x93NUMPY", "a NumPy array"),
    *((0, magic, "a TIFF image") for magic in (b"II*\0", b"MM\0*")),
    *((0, magic, "a BigTIFF image") for magic in (b"II+\0", b"MM\0+")),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"GIF8", "a GIF image"),
    (4, b"ftyphei", "a HEIC image"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "gzip-compressed data"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x89HDF", "an HDF5 file"),
    (344, b"n+1\0", "a NIfTI volume"),
)


_FIRST_REPRESENTATIONS = (b"UL", b"OB", b"UI", b"CS", b"DA", b"SH", b"LO")  # of elements that files begin with
_LONGEST_FIRST = 1024  # bytes that a first element has at most


def begins_as_dicom(head: bytes) -> bool:
    """Tells whether the first 132 bytes of a file are those of a DICOM file.

    Files of old, and what some programs export, lack the preamble: they begin with their first element, which is of
    group 0002 or 0008, in little endian (PS3.5, 7.1).
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 12 or head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3] != 0:
        return False
    explicit = head[4:6] in _FIRST_REPRESENTATIONS
    return explicit or (head[:2] == b"\x08\x00" and 0 < int.from_bytes(head[4:8], "little") <= _LONGEST_FIRST)


def _unpacked(head: bytes) -> bytes:
    """Returns what the first bytes of a file compressed with gzip hold."""
    try:
        return zlib.decompressobj(31).decompress(head)
    except zlib.error:
        return b""


def describe_content(path: Path) -> str:
    """Says what a file seems to be, judged by its first bytes, such as "a PNG image as content"."""
    if path.is_dir():
        return "a folder as content"
    with open(path, "rb") as file:
        head = file.read(512)
    if head[:2] == b"\x1f\x8b" and _unpacked(head)[344:348] in (b"n+1\0", b"ni1\0"):
        return "a NIfTI volume as content"
    if not head:
        return "no content (an empty file)"
    if begins_as_dicom(head):  # first: the 128 bytes before its mark may imitate another format
        return "a DICOM file as content"
    for offset, magic, description in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return f"{description} as content"
    if all(32 <= byte < 127 or byte in (9, 10, 13) for byte in head):
        return "text as content"
    return f"unknown content (first bytes {head[:8].hex(' ')})"
