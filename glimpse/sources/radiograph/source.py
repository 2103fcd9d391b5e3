"""Radiographs: DICOM files of one grey image, and grey PNG, TIFF and JPEG, at their full bit depth."""

import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from glimpse.geometry import Numbers
from glimpse.sources.base import file_identity, read_in_parts, region
from glimpse.sources.dicom import is_dicom, sop_class
from glimpse.sources.pictures.dicom_pixels import is_coloured
from glimpse.sources.pictures.files import JPEG, PNG, TIFF, magic
from glimpse.sources.pictures.plane import MAX_PIXELS, PICTURE_SUFFIXES, WHOLE_SLIDES, PlaneSource, holds_dicom
from glimpse.sources.pictures.stored import Pixels
from glimpse.sources.radiograph import dicom_files, pictures
from glimpse.sources.radiograph.foreground import body
from glimpse.sources.radiograph.header import Header, chosen_window
from glimpse.sources.resampling import Cut
from glimpse.sources.windows import Window, finite_sample, percentile_window

SUFFIXES = (".dcm", ".dicom", *PICTURE_SUFFIXES)
_SAMPLED = 512  # pixels per axis, about, that an automatic window is taken of


def is_radiograph(path: Path) -> bool:
    """Tells whether a file holds a radiograph: DICOM that is no slide, PNG, JPEG or TIFF, and it is grey.

    Some grey TIFFs are read as slides, too; `open_source` asks the reader of slides first.
    """
    if not may_be_radiograph(path):
        return False
    return not is_coloured(path) if is_dicom(path) else magic(path)[:4] in TIFF or pictures.is_grey(path)


def may_be_radiograph(path: Path) -> bool:
    """Tells the same of files that are meant to be radiographs: colours are refused where they are read."""
    head = magic(path)
    if is_dicom(path):
        return sop_class(path) != WHOLE_SLIDES
    if head[:4] in TIFF:
        return pictures.is_grey(path)
    return path.suffix.lower() in PICTURE_SUFFIXES and head.startswith((PNG, JPEG))


class RadiographSource(PlaneSource):
    """A radiograph; one channel, dark air, black outside.

    A read is the mean over the pixels of each box at the file's full bit depth, then the rescaling to what the values
    mean (modality LUT), then the window (VOI LUT), then the inversion of MONOCHROME1. Palettes of greys, and modality
    LUTs that are tables, are applied before the mean. Pictures are turned as their EXIF data or TIFF tag say.
    Uncompressed files are mapped into memory; images that have to be decoded are kept while there is room
    (GLIMPSE_IMAGE_CACHE_MB, 1024).

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
        super().__init__(path, spacing=spacing, frame=frame, name=name, mpp=mpp)
        self._window_choice = window if window is None or isinstance(window, int) else tuple(map(float, window))
        self._options["window"] = window
        self._window: Window | None = None

    @property
    def channels(self) -> int:
        return 1

    @property
    def background(self) -> UInt8[np.ndarray, " channel"]:
        return np.zeros(1, np.uint8)

    @property
    def identity(self) -> Hashable:
        return file_identity(self.path, "radiograph", self._window_choice, self._frame_index or 0)

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        header = self._known_header()
        start, width = region(center, extent, size, 2)
        cut = Cut.of(start, width, size)
        if cut.pixels > MAX_PIXELS and max(size) > 1:
            return read_in_parts(self, start, width, size)
        pixels = self._pixels(header, "decoded")
        window = self._window or self._known_window(header, pixels)
        values, cover = cut.means(pixels)
        grey = np.nan_to_num(window(values * np.float32(header.slope) + np.float32(header.intercept)))
        grey = (1 - grey if header.inverted else grey) * cover
        return np.rint(255 * grey).astype(np.uint8)[None]

    def foreground(self, overview: UInt8[np.ndarray, "channel *size"]) -> Bool[np.ndarray, "*size"]:
        """Returns where the body is, rather than air or a collimator's shadow; it is never empty."""
        return body(overview[0])

    def _describe(self) -> Header:
        return self._family().describe(self.path, self._frame_index)

    def _decode(self, header: Header) -> np.ndarray:
        return self._family().decode(self.path, header, self._frame_index)

    def _family(self) -> Any:
        """Returns the module that knows files of this kind."""
        return dicom_files if holds_dicom(self.path) else pictures

    def _known_window(self, header: Header, pixels: Pixels) -> Window:
        window = chosen_window(self.path, header.windows, self._window_choice)
        doubtful = pixels.words.dtype.kind == "f" or not np.isfinite(header.slope + header.intercept)
        if window is None or doubtful:
            sample = pixels[tuple(slice(None, None, max(1, n // _SAMPLED)) for n in header.shape)].astype(np.float64)
            if header.padding is not None:
                measured = (sample < header.padding[0]) | (sample > header.padding[1])
                sample = sample[measured] if measured.any() else sample
            meant = sample * header.slope + header.intercept
            if doubtful:
                meant = finite_sample(self.path, meant, (row * header.slope + header.intercept for row in pixels.words))
            window = window or percentile_window(meant)
        self._window = window
        return window
