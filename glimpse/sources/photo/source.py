"""Photographs: skin, fundus, endoscopy and colour ultrasound, in PNG, JPEG, WebP, TIFF and DICOM files."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from glimpse.geometry import Numbers
from glimpse.sources.array import ArraySource
from glimpse.sources.base import file_identity
from glimpse.sources.dicom import is_dicom, sop_class
from glimpse.sources.photo import dicom_files, pictures
from glimpse.sources.photo.field import field_of_view
from glimpse.sources.photo.header import Header
from glimpse.sources.pictures.files import JPEG, PNG, TIFF, is_webp, magic
from glimpse.sources.pictures.plane import PICTURE_SUFFIXES, WHOLE_SLIDES, PlaneSource, holds_dicom
from glimpse.sources.radiograph.source import RadiographSource

SUFFIXES = (".dcm", ".dicom", *PICTURE_SUFFIXES, ".webp")


def is_photo(path: Path) -> bool:
    """Tells whether a file holds a picture, in colour or grey: DICOM or TIFF that is no slide, PNG, JPEG or WebP."""
    head = magic(path)
    if is_dicom(path):
        return sop_class(path) != WHOLE_SLIDES
    if head[:4] in TIFF:
        return pictures.is_picture(path)
    return path.suffix.lower() in SUFFIXES and (head.startswith((PNG, JPEG)) or is_webp(path))


def may_be_photo(path: Path) -> bool:
    """Tells the same of files that are meant to be photographs, whatever their names; a TIFF may be in tiles, too."""
    if is_dicom(path):
        return is_photo(path)
    head = magic(path)
    if head[:4] in TIFF:
        return pictures.is_picture(path, tiles=True)
    return head.startswith((PNG, JPEG)) or is_webp(path)


class PhotoSource(PlaneSource):
    """A photograph; red, green and blue, black outside.

    Pictures are turned as their EXIF data or TIFF tag say. Of more than 8 bits, the highest 8 count. What is
    transparent is laid on black. Grey pictures have three equal channels; greys in DICOM files are shown through the
    first window that the file states, as radiographs are. Uncompressed RGB is mapped into memory; images that have to
    be decoded are kept while there is room (GLIMPSE_IMAGE_CACHE_MB, 1024).

    The spacing is what DICOM files state of pixels or of the regions of ultrasound; the resolution of other pictures
    says nothing of what was photographed.

    Args:
        path: the file.
        spacing: millimetres per pixel, one value or (y, x), instead of what the file states.
        frame: which one of several, from 0.
        name: what messages call it; by default the path.
        mpp: micrometres per pixel, likewise; it counts more than ``spacing``, because it is said of this image alone.
    """

    _grey: RadiographSource | None = None

    @property
    def channels(self) -> int:
        return 3

    @property
    def background(self) -> UInt8[np.ndarray, " channel"]:
        return np.zeros(3, np.uint8)

    @property
    def identity(self) -> Hashable:
        return file_identity(self.path, "photo", self._frame_index or 0)

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        header = self._known_header()
        if self._grey is not None:
            return np.repeat(self._grey.read(center, extent, size), 3, axis=0)
        colours = np.moveaxis(self._pixels(header, "colours", 3).words, -1, 0)
        return ArraySource(colours, name=self.name).read(center, extent, size)

    def foreground(self, overview: UInt8[np.ndarray, "channel *size"]) -> Bool[np.ndarray, "*size"]:
        """Returns the field of view within a dark surround, or everything where there is none; it is never empty."""
        return field_of_view(overview)

    def close(self) -> None:
        super().close()
        if self._grey is not None:
            self._grey.close()

    def _describe(self) -> Header:
        if not holds_dicom(self.path):
            return pictures.describe(self.path, self._frame_index)
        if not dicom_files.is_grey(self.path):
            return dicom_files.describe(self.path, self._frame_index)
        grey = RadiographSource(self.path, frame=self._frame_index, name=self.name)
        header = Header(grey.frame.shape, grey.frame.spacing)  # type: ignore[arg-type]
        self._grey = grey
        return header

    def _decode(self, header: Any) -> np.ndarray:
        family = dicom_files if holds_dicom(self.path) else pictures
        return family.decode(self.path, self._frame_index or 0)
