"""Lazy readers of images: `open_source` finds the right one."""

from glimpse.sources import array, slide
from glimpse.sources.array import ArraySource
from glimpse.sources.base import (
    ImageReadError,
    ImageSource,
    UnsupportedImageError,
    open_source,
    register_reader,
)
from glimpse.sources.slide import SlideSource

register_reader("slide", SlideSource, suffixes=slide.SUFFIXES, sniff=slide.is_slide)
register_reader("array", ArraySource, suffixes=array.SUFFIXES, sniff=array.is_array)

__all__ = [
    "ArraySource",
    "ImageReadError",
    "ImageSource",
    "SlideSource",
    "UnsupportedImageError",
    "open_source",
    "register_reader",
]
