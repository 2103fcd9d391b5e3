"""Tells which TIFFs `TiffSource` reads: those that OpenSlide does not, or shows otherwise than they are meant."""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from glimpse.errors import UserError
from glimpse.sources.base import file_identity
from glimpse.sources.radiograph.pictures import is_grey
from glimpse.sources.slide.files import detected_format, is_tiff
from glimpse.sources.tiff.layout import opened

_GENERIC = "generic-tiff"  # OpenSlide's name for a tiled TIFF of which it knows nothing else
_OF_OPENSLIDE = (1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50000)  # compressions that its library can decode
_PIXELS_TO_LOOK_AT = 1 << 26  # a picture of more pixels is no radiograph
_SEGMENTS = 9  # so many strips are looked at for colours


def is_microscopy(path: Path) -> bool:
    """Tells whether a file is a TIFF that `TiffSource` reads.

    A TIFF of a known scanner is OpenSlide's. A tiled one of 8 bits with one or three channels and pages that are levels
    is, too; with more bits, channels or planes, OpenSlide would show a part of it without a word. A grey
    picture that nothing is said of is a radiograph.
    """
    try:
        return is_tiff(path) and _is_microscopy(file_identity(path), path)
    except UserError:  # it may not be read, or is damaged: the reader that its suffix calls for says so
        return False


def is_plain_picture(path: Path) -> bool:
    """Tells whether a TIFF is one plane in colours of 8 or 16 bits, in strips, of which nothing else is said."""
    try:
        return is_tiff(path) and _is_plain_picture(file_identity(path), path)
    except UserError:
        return False


@lru_cache(1024)
def _is_plain_picture(identity: Any, path: Path) -> bool:
    if detected_format(path) is not None:
        return False
    with opened(path) as tiff:
        page = tiff.pages.first
        told = tiff.is_ome or tiff.is_imagej or page.is_qpi or page.subifds or page.is_tiled or len(tiff.pages) > 1
        plain = page.planarconfig == 1 and str(page.dtype) in ("uint8", "uint16")
        return not told and plain and page.imagelength * page.imagewidth <= _PIXELS_TO_LOOK_AT


@lru_cache(1024)
def _is_microscopy(identity: Any, path: Path) -> bool:
    known = detected_format(path)
    if known not in (None, _GENERIC):
        return False
    with opened(path) as tiff:
        page = tiff.pages.first
        if tiff.is_ome or page.is_qpi or page.subifds:
            return True
        if tiff.is_imagej and _channels(tiff) > 1:
            return True
        if known == _GENERIC:
            return not _is_openslides(tiff, page)
        if page.is_tiled or _has_equal_pages(tiff, page) or _has_levels(tiff):
            return True
        return _has_colours(path, tiff, page)


def _channels(tiff: Any) -> int:
    return int((tiff.imagej_metadata or {}).get("channels", 1))


def _is_openslides(tiff: Any, page: Any) -> bool:
    """Tells whether OpenSlide shows a tiled TIFF as it is meant."""
    samples, colours = page.samplesperpixel, int(page.photometric) in (2, 6)
    plain = page.bitspersample == 8 and (samples == 1 or (colours and samples in (3, 4)))
    return plain and int(page.compression) in _OF_OPENSLIDE and not _has_equal_pages(tiff, page)


def _has_equal_pages(tiff: Any, page: Any) -> bool:
    return len(tiff.pages) > 1 and tiff.pages[1].shape == page.shape


def _has_levels(tiff: Any) -> bool:
    return len(tiff.pages) > 1 and any(len(one.levels) > 1 for one in tiff.series)


def _has_colours(path: Path, tiff: Any, page: Any) -> bool:
    """Tells whether a picture of one level has channels that differ, judged by some of its strips if that is enough."""
    if page.samplesperpixel == 1:
        return False
    if int(page.photometric) not in (2, 6) or page.planarconfig == 2:
        return True
    if page.imagelength * page.imagewidth > _PIXELS_TO_LOOK_AT:
        return True
    count = len(page.dataoffsets)
    for index in np.unique(np.linspace(0, count - 1, min(count, _SEGMENTS)).astype(int)).tolist():
        if page.databytecounts[index] and math.prod(page.shape) // count < _PIXELS_TO_LOOK_AT // 64:
            tiff.filehandle.seek(page.dataoffsets[index])
            data = tiff.filehandle.read(page.databytecounts[index])
            try:
                values = page.decode(data, index, jpegtables=page.jpegtables)[0]
            except Exception:  # a codec that is missing, or damage: the reader says so
                return True
            if (values[..., :1] != values[..., :3]).any():
                return True
    return not is_grey(path)
