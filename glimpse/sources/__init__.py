"""Lazy readers of images: `open_source` finds the right one."""

from glimpse.sources import array, nifti, radiograph, slide
from glimpse.sources.array import ArraySource
from glimpse.sources.base import (
    ImageReadError,
    ImageSource,
    UnsupportedImageError,
    open_source,
    register_reader,
)
from glimpse.sources.dicom_series import is_series
from glimpse.sources.radiograph import RadiographSource
from glimpse.sources.slide import SlideSource
from glimpse.sources.volume import VolumeSource

register_reader("slide", SlideSource, suffixes=slide.SUFFIXES, sniff=slide.is_slide)
register_reader("array", ArraySource, suffixes=array.SUFFIXES, sniff=array.is_array)
register_reader("radiograph", RadiographSource, suffixes=radiograph.SUFFIXES, sniff=radiograph.is_radiograph)
register_reader("volume", VolumeSource, suffixes=nifti.SUFFIXES, sniff=nifti.is_nifti, sniff_folder=is_series)

__all__ = [
    "ArraySource",
    "ImageReadError",
    "ImageSource",
    "RadiographSource",
    "SlideSource",
    "UnsupportedImageError",
    "VolumeSource",
    "open_source",
    "register_reader",
]
