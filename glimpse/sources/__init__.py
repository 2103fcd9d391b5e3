"""Lazy readers of images: `open_source` finds the right one."""

from glimpse.sources.array import SUFFIXES as ARRAY_SUFFIXES
from glimpse.sources.array import ArraySource, is_array
from glimpse.sources.base import ImageReadError, ImageSource, RegionReadError, UnsupportedImageError
from glimpse.sources.photo.source import SUFFIXES as PHOTO_SUFFIXES
from glimpse.sources.photo.source import PhotoSource, is_photo, may_be_photo
from glimpse.sources.radiograph.source import SUFFIXES as RADIOGRAPH_SUFFIXES
from glimpse.sources.radiograph.source import RadiographSource, is_radiograph, may_be_radiograph
from glimpse.sources.registry import Kind, open_source, register_reader
from glimpse.sources.slide.opening import SUFFIXES as SLIDE_SUFFIXES
from glimpse.sources.slide.opening import is_slide_or_tiff, is_surely_slide, open_slide
from glimpse.sources.slide.source import SlideSource
from glimpse.sources.tiff.source import TiffSource
from glimpse.sources.volume.dicom_folder import is_series
from glimpse.sources.volume.neighbours import open_volume
from glimpse.sources.volume.nifti import SUFFIXES as NIFTI_SUFFIXES
from glimpse.sources.volume.nifti import is_nifti
from glimpse.sources.volume.source import VolumeSource

register_reader(
    "slide",
    open_slide,
    suffixes=SLIDE_SUFFIXES,
    sniff=is_surely_slide,
    may_read=is_slide_or_tiff,
    kind=Kind(
        "whole slides (SVS, NDPI, MRXS, SCN, OME-TIFF and other TIFF, DICOM)",
        ("wsi",),
        {
            f"a {name} image": f"with 'vips tiffsave in{ending} out.tiff --tile --pyramid'"
            for name, ending in (("PNG", ".png"), ("JPEG", ".jpg"), ("TIFF", ".tif"))
        },
    ),
)
register_reader(
    "array",
    ArraySource,
    suffixes=ARRAY_SUFFIXES,
    sniff=is_array,
    kind=Kind("uint8 arrays (.npy)"),
)
register_reader(
    "radiograph",
    RadiographSource,
    suffixes=RADIOGRAPH_SUFFIXES,
    sniff=is_radiograph,
    kind=Kind(
        "radiographs (DICOM; grey PNG, JPEG and TIFF)",
        ("xray",),
    ),
    may_read=may_be_radiograph,
)
register_reader(  # after radiographs, which grey pictures are unless somebody says otherwise
    "photo",
    PhotoSource,
    suffixes=PHOTO_SUFFIXES,
    sniff=is_photo,
    may_read=may_be_photo,
    kind=Kind(
        "photographs (PNG, JPEG, WebP, TIFF and DICOM, in colour or grey)",
        ("photo",),
        {f"a {name} image": "with 'vips copy in.tif out.png'" for name in ("TIFF", "BigTIFF")},
    ),
)
register_reader(
    "volume",
    open_volume,
    suffixes=NIFTI_SUFFIXES,
    sniff=is_nifti,
    sniff_folder=is_series,
    kind=Kind("volumes (NIfTI files, folders of DICOM slices)", ("mri", "ct"), {"a DICOM file": "with dcm2niix"}),
)

__all__ = [
    "ArraySource",
    "ImageReadError",
    "ImageSource",
    "PhotoSource",
    "RadiographSource",
    "RegionReadError",
    "SlideSource",
    "TiffSource",
    "UnsupportedImageError",
    "VolumeSource",
    "open_source",
    "register_reader",
]
