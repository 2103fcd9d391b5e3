"""What sources of radiographs and of photographs share: a file, one frame of it, and its pixels."""

import os
import threading
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from glimpse.geometry import Frame
from glimpse.sources.base import (
    ImageSource,
    check_readable,
    file_identity,
    missing_file,
    understood,
    unopened,
    whole_frame,
)
from glimpse.sources.caches import images
from glimpse.sources.dicom import is_dicom
from glimpse.sources.pictures.errors import damaged
from glimpse.sources.pictures.files import JPEG, PNG, TIFF, is_webp, magic
from glimpse.sources.pictures.stored import Pixels, Stored
from glimpse.sources.stated import checked_mpp, given_instead, spacing_per_axis

MAX_PIXELS = 1 << 24  # a wider read is made in parts
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif")  # of files that are no DICOM, whatever they begin with
WHOLE_SLIDES = "1.2.840.10008.5.1.4.1.1.77.1.6"  # SOP class: VL Whole Slide Microscopy Image Storage


class Described(Protocol):
    """What is known of a plane before its pixels are decoded.

    Attributes:
        shape: pixels, (height, width).
        spacing: millimetres per pixel (y, x), or None where the file does not say.
        stored: where its pixels lie uncompressed in the file; None where they have to be decoded.
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def spacing(self) -> tuple[float, float] | None: ...

    @property
    def stored(self) -> Stored | None: ...


def holds_dicom(path: Path) -> bool:
    """Tells whether a file is to be read as DICOM; one without a known beginning may be of old."""
    head = magic(path)
    picture = head[:4] in TIFF or head.startswith((PNG, JPEG)) or is_webp(path)
    return is_dicom(path) or (not picture and path.suffix.lower() not in PICTURE_SUFFIXES)


class PlaneSource(ImageSource):
    """A file of one plane, whose pixels are mapped into memory, or decoded once and kept while there is room.

    Args:
        path: the file.
        spacing: millimetres per pixel, one value or (y, x), instead of what the file states.
        frame: which one of several, from 0.
        name: what messages call it; by default the path.
        mpp: micrometres per pixel, likewise; it counts more than ``spacing``, because it is said of this image alone.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        spacing: float | Sequence[float] | None = None,
        frame: int | str | None = None,
        name: str | None = None,
        mpp: float | None = None,
    ) -> None:
        self.path: Path = Path(path).absolute()  # whatever the working directory is later
        self.name = name or str(path)
        self._spacing = None if spacing is None else spacing_per_axis(self.name, spacing, 2)
        self._frame_index, self._mpp = whole_frame(self.path, frame), checked_mpp(self.name, mpp)
        self._options: dict[str, Any] = {"spacing": spacing, "frame": frame, "name": name, "mpp": mpp}
        self._lock = threading.Lock()
        self._header: Any = None
        self._frame: Frame | None = None
        self._mapped: Pixels | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.path, self._options)

    @abstractmethod
    def _describe(self) -> Described:
        """Reads the header."""

    @abstractmethod
    def _decode(self, header: Any) -> np.ndarray:
        """Decodes the pixels of a file that cannot be mapped, (height, width, *samples)."""

    @property
    def frame(self) -> Frame:
        if self._frame is None:
            header, spacing = self._known_header(), None
            if self._mpp is not None:
                spacing = given_instead(self.name, (self._mpp / 1000,) * 2, header.spacing, "mm", "mpp")
            elif self._spacing is not None:
                spacing = given_instead(self.name, self._spacing, header.spacing, "mm", "spacing")
            else:
                spacing = header.spacing
            self._frame = Frame(header.shape, spacing, "mm" if spacing else None, self.name)
        return self._frame

    @property
    def lasting_identity(self) -> Hashable:
        return self.identity

    @property
    def files(self) -> Sequence[Path]:
        return (self.path,)

    def close(self) -> None:
        self._mapped = None

    def _known_header(self) -> Any:
        if self._header is None:
            with self._lock:
                if self._header is None:
                    if not self.path.is_file():
                        raise missing_file(self.path)
                    check_readable(self.path)
                    with understood(self.path):
                        header = self._describe()
                        Frame(header.shape, header.spacing, "mm", self.name)  # refuses sizes that make no sense
                        self._header = header
        return self._header

    def _pixels(self, header: Described, kind: str, *samples: int) -> Pixels:
        """Returns the pixels of the image, mapped or decoded.

        Args:
            header: what `_describe` has returned.
            kind: tells decoded pixels of different sources apart.
            *samples: number of samples of each pixel, where they are more than one.
        """
        if header.stored is None:
            key = file_identity(self.path, kind, self._frame_index or 0)
            return Pixels(images.get(key, lambda: self._checked(header, *samples)))
        mapped = self._mapped
        if mapped is None:
            try:
                mapped = self._mapped = header.stored.open(self.path, (*header.shape, *samples))
            except OSError as error:
                raise unopened(self.path, error) from error
            except ValueError as error:
                raise damaged(self.path, error) from error
        return mapped

    def _checked(self, header: Described, *samples: int) -> np.ndarray:
        check_readable(self.path)
        with understood(self.path):
            pixels = np.ascontiguousarray(self._decode(header))
        if pixels.shape != (*header.shape, *samples):
            raise damaged(self.path, f"its header says {header.shape} pixels, there are {pixels.shape}")
        return pixels


def _rebuild(cls: type[PlaneSource], path: Path, options: dict[str, Any]) -> PlaneSource:
    return cls(path, **options)
