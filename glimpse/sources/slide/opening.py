"""Opens a slide with the reader that its format calls for: OpenSlide, or tifffile for what OpenSlide does not read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glimpse.sources.base import ImageSource, UnsupportedImageError, one_frame, whole_frame
from glimpse.sources.slide.source import SlideSource, is_slide
from glimpse.sources.tiff.kinds import is_microscopy, is_plain_picture
from glimpse.sources.tiff.source import TiffSource

SUFFIXES = (
    ".svs", ".ndpi", ".mrxs", ".scn", ".tif", ".tiff", ".bif", ".vms", ".vmu", ".svslide", ".qptiff", ".btf", ".tf8",
)  # fmt: skip


def is_slide_or_tiff(path: Path) -> bool:
    """Tells whether OpenSlide knows the format of a file, or it is a TIFF that `TiffSource` reads."""
    return is_slide(path) or is_microscopy(path)


def is_surely_slide(path: Path) -> bool:
    """Tells the same of a file of which nobody has said that it is a slide: a plain picture is none."""
    return is_slide(path) or (is_microscopy(path) and not is_plain_picture(path))


def open_slide(
    path: str | os.PathLike[str],
    *,
    channels: Sequence[str | int] | str | int | None = None,
    windows: Any = None,
    frame: int | str | None = None,
    image: str | int | None = None,
    mpp: float | int | None = None,
    name: str | None = None,
) -> ImageSource:
    """Opens a slide.

    Args:
        path: the file.
        channels: names or numbers of the channels that are read; see `TiffSource`, as for the next three.
        windows: which of their values are black and white.
        frame: which plane of a stack, from 0.
        image: which image of a file that holds several.
        mpp: micrometres per pixel, in place of what the file says.
        name: what messages call it; by default the path.

    Raises:
        UnsupportedImageError: channels, windows, a plane or an image are to be chosen of a slide that OpenSlide reads.
    """
    path = Path(path)
    if is_microscopy(path):
        return TiffSource(path, channels=channels, windows=windows, frame=frame, image=image, mpp=mpp, name=name)
    one_frame(path, 1, whole_frame(path, frame), "plane")
    given = {"channels": channels, "windows": windows, "image": image}
    for option, value in given.items():
        if value is not None:
            raise UnsupportedImageError(
                f"{path}: env.cohort.{option}={value} does not fit: OpenSlide shows slides of this format in red, "
                f"green and blue as they are. Leave env.cohort.{option} out, or put such slides into another cohort."
            )
    return SlideSource(path, mpp=mpp, name=name)
