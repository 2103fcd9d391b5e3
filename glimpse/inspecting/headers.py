"""What headers say of the size of a pixel, held against what else they say."""

import math
from pathlib import Path
from typing import Any

from glimpse.sources.slide.files import detected_format
from glimpse.sources.tiff.kinds import is_microscopy
from glimpse.sources.volume.nifti import is_nifti, is_packed, read_layout

_AXES = 1.1  # largest ratio of a pixel's sides that is not reported
_POWER = 1.7  # largest factor between the stated pixel size and that usual for the objective
_USUAL = 10.0  # micrometres per pixel times the objective's power: 0.5 at 20, 0.25 at 40
_LENGTHS = 1.05  # largest factor between pixdim and the columns of the sform


def contradictions(path: Path, ndim: int, given: bool = False) -> list[str]:
    """Says where a header contradicts itself about the size of a pixel; an empty list if it does not.

    Args:
        path: the file.
        ndim: the number of axes of the image.
        given: whether the size of a pixel was given from elsewhere, which counts more than the header.
    """
    if given or path.is_dir():
        return []
    if ndim == 3:
        return _of_nifti(path) if is_nifti(path) else []
    return [] if detected_format(path) is None or is_microscopy(path) else _of_slide(path)


def _of_slide(path: Path) -> list[str]:
    import openslide

    with openslide.OpenSlide(path) as slide:
        properties = slide.properties
        across, down, power = (
            _number(properties.get(f"openslide.{name}")) for name in ("mpp-x", "mpp-y", "objective-power")
        )
    found = []
    if across > 0 and down > 0 and max(across, down) > _AXES * min(across, down):
        found.append(f"a pixel is {across:g} um wide, but {down:g} um high, according to the file")
    if across > 0 and power > 0 and not 1 / _POWER < across * power / _USUAL < _POWER:
        found.append(f"a pixel is {across:g} um wide, but the objective's power is {power:g}, according to the file")
    return found


def _of_nifti(path: Path) -> list[str]:
    import nibabel

    header: Any = nibabel.load(path).header
    affine, stated = header.get_best_affine(), header.get_zooms()[:3]
    lengths = [math.sqrt(float(sum(value**2 for value in affine[:3, axis]))) for axis in range(len(stated))]
    if all(
        one > 0 and 1 / _LENGTHS < one / max(two, 1e-9) < _LENGTHS for one, two in zip(stated, lengths, strict=True)
    ):
        return []
    if not all(one > 0 for one in stated):
        return []  # the header states no lengths, so that there is nothing to contradict
    sizes = (" x ".join(f"{float(value):.4g}" for value in values) for values in (stated, lengths))
    return ["a voxel is {} according to pixdim, but {} according to the sform".format(*sizes)]


def unpacked_bytes(path: Path) -> int:
    """Returns how many bytes an image takes when it is unpacked into the cache of volumes; 0 if it is not."""
    if path.is_dir() or not path.name.lower().endswith(".gz") or not is_nifti(path) or not is_packed(path):
        return 0
    layout = read_layout(path)
    return layout.offset + layout.dtype.itemsize * math.prod(layout.stored)


def _number(text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan
