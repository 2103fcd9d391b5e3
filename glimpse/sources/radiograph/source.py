"""Radiographs: DICOM files of one grey image, and grey PNG, TIFF and JPEG, at their full bit depth."""

import os
import threading
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from glimpse.geometry import Frame, Numbers
from glimpse.sources.base import (
    ImageSource,
    check_readable,
    file_identity,
    missing_file,
    read_in_parts,
    region,
    understood,
    unopened,
    whole_frame,
)
from glimpse.sources.caches import images
from glimpse.sources.dicom import is_dicom, sop_class
from glimpse.sources.radiograph import dicom_files, pictures
from glimpse.sources.radiograph.foreground import body
from glimpse.sources.radiograph.header import Header, chosen_window, damaged
from glimpse.sources.radiograph.stored import Pixels
from glimpse.sources.resampling import Cut
from glimpse.sources.stated import given_instead, spacing_per_axis
from glimpse.sources.windows import Window, percentile_window

SUFFIXES = (".dcm", ".dicom", *pictures.SUFFIXES)
MAX_PIXELS = 1 << 24  # a wider read is made in parts
_PICTURES = (pictures.PNG, pictures.JPEG)
_SAMPLED = 512  # pixels per axis, about, that an automatic window is taken of
_SLIDES = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage


def is_radiograph(path: Path) -> bool:
    """Tells whether a file holds a picture that this reader knows: DICOM that is no slide, PNG, JPEG or grey TIFF.

    Some grey TIFFs are read as slides, too; `open_source` asks the reader of slides first.
    """
    head = pictures.magic(path)
    if is_dicom(path):
        return sop_class(path) != _SLIDES
    if head[:4] in pictures.TIFF:
        return pictures.is_grey(path)
    return path.suffix.lower() in pictures.SUFFIXES and head.startswith(_PICTURES)


class RadiographSource(ImageSource):
    """A radiograph; one channel, dark air, black outside.

    A read is the mean over the pixels of each box at the file's full bit depth, then the rescaling to what the values
    mean (modality LUT), then the window (VOI LUT), then the inversion of MONOCHROME1. Palettes of greys, and modality
    LUTs that are tables, are applied before the mean. Pictures are turned as their EXIF data or TIFF tag say.
    Uncompressed files are mapped into memory; images that have to be decoded are kept while there is room
    (GLIMPSE_IMAGE_CACHE_MB, 512).

    Of a DICOM file, the spacing is that of `PixelSpacing`, else of `ImagerPixelSpacing`, which is measured on the
    detector and so some percent too large for what lies in the body, else of `NominalScannedPixelSpacing`; of a
    picture that of its resolution, unless this is one of the values that programs write for want of a better.

    Args:
        path: the file.
        window: which values become black and white: (low, high), in units of the modality LUT; or an index into what
            the file states, its tables before its pairs of centre and width. By default the first of these, or what
            percentiles of the image say where it states none. 8-bit pictures are shown as they are.
        spacing: millimetres per pixel, one value or (y, x), instead of what the file states.
        frame: which one of several, from 0.
        name: what messages call it; by default the path.
        mpp: micrometres per pixel, likewise; it counts more than ``spacing``, because it is said of this image alone.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        window: int | Sequence[float] | None = None,
        spacing: float | Sequence[float] | None = None,
        frame: int | str | None = None,
        name: str | None = None,
        mpp: float | None = None,
    ) -> None:
        self.path: Path = Path(path).absolute()  # whatever the working directory is later
        self.name = name or str(path)
        self._window_choice = window if window is None or isinstance(window, int) else tuple(map(float, window))
        self._spacing = None if spacing is None else spacing_per_axis(self.name, spacing, 2)
        self._frame_index, self._mpp = whole_frame(self.path, frame), mpp
        self._options = {"window": window, "spacing": spacing, "frame": frame, "name": name, "mpp": mpp}
        self._lock = threading.Lock()
        self._header: Header | None = None
        self._frame: Frame | None = None
        self._mapped: Pixels | None = None
        self._window: Window | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.path, self._options)

    @property
    def frame(self) -> Frame:
        if self._frame is None:
            header, spacing = self._known_header(), None
            if self._mpp is not None:
                spacing = given_instead(self.name, (float(self._mpp) / 1000,) * 2, header.spacing, "mm", "mpp")
            elif self._spacing is not None:
                spacing = given_instead(self.name, self._spacing, header.spacing, "mm", "spacing")
            else:
                spacing = header.spacing
            self._frame = Frame(header.shape, spacing, "mm" if spacing else None, self.name)
        return self._frame

    @property
    def channels(self) -> int:
        return 1

    @property
    def background(self) -> UInt8[np.ndarray, " channel"]:
        return np.zeros(1, np.uint8)

    @property
    def identity(self) -> Hashable:
        return file_identity(self.path, "radiograph", self._window_choice, self._frame_index or 0)

    @property
    def lasting_identity(self) -> Hashable:
        return self.identity

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        header = self._known_header()
        start, width = region(center, extent, size, 2)
        cut = Cut.of(start, width, size)
        if cut.pixels > MAX_PIXELS and max(size) > 1:
            return read_in_parts(self, start, width, size)
        pixels = self._pixels(header)
        window = self._window or self._known_window(header, pixels)
        values, cover = cut.means(pixels)
        grey = np.nan_to_num(window(values * np.float32(header.slope) + np.float32(header.intercept)))
        grey = (1 - grey if header.inverted else grey) * cover
        return np.rint(255 * grey).astype(np.uint8)[None]

    def foreground(self, overview: UInt8[np.ndarray, "channel *size"]) -> Bool[np.ndarray, "*size"]:
        """Returns where the body is, rather than air or a collimator's shadow; it is never empty."""
        return body(overview[0])

    def close(self) -> None:
        self._mapped = None

    def _known_header(self) -> Header:
        if self._header is None:
            with self._lock:
                if self._header is None:
                    if not self.path.is_file():
                        raise missing_file(self.path)
                    check_readable(self.path)
                    with understood(self.path):
                        header = self._family().describe(self.path, self._frame_index)
                        Frame(header.shape, header.spacing, "mm", self.name)  # refuses sizes that make no sense
                        self._header = header
        return self._header

    def _family(self) -> Any:
        """Returns the module that knows files of this kind; a file without a known beginning may be old DICOM."""
        head = pictures.magic(self.path)
        picture = head[:4] in pictures.TIFF or head.startswith(_PICTURES)
        if is_dicom(self.path) or (not picture and self.path.suffix.lower() not in pictures.SUFFIXES):
            return dicom_files
        return pictures

    def _pixels(self, header: Header) -> Pixels:
        if header.stored is None:
            key = file_identity(self.path, "decoded", self._frame_index or 0)
            return Pixels(images.get(key, lambda: self._decoded(header)))
        mapped = self._mapped
        if mapped is None:
            try:
                mapped = self._mapped = header.stored.open(self.path, header.shape)
            except OSError as error:
                raise unopened(self.path, error) from error
            except ValueError as error:
                raise damaged(self.path, error) from error
        return mapped

    def _decoded(self, header: Header) -> np.ndarray:
        check_readable(self.path)
        with understood(self.path):
            pixels = np.ascontiguousarray(self._family().decode(self.path, header, self._frame_index))
        if pixels.shape != header.shape:
            raise damaged(self.path, f"its header says {header.shape} pixels, there are {pixels.shape}")
        return pixels

    def _known_window(self, header: Header, pixels: Pixels) -> Window:
        window = chosen_window(self.path, header.windows, self._window_choice)
        if window is None:
            sample = pixels[tuple(slice(None, None, max(1, n // _SAMPLED)) for n in header.shape)].astype(np.float64)
            if header.padding is not None:
                measured = (sample < header.padding[0]) | (sample > header.padding[1])
                sample = sample[measured] if measured.any() else sample
            window = percentile_window(sample * header.slope + header.intercept)
        self._window = window
        return window


def _rebuild(path: Path, options: dict[str, Any]) -> RadiographSource:
    return RadiographSource(path, **options)
