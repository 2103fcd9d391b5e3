"""What headers say of the size of a pixel, held against what else they say."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from glimpse.sources.dicom import is_dicom, read_dataset, sop_class
from glimpse.sources.pictures.dicom_pixels import SPACINGS
from glimpse.sources.pictures.plane import WHOLE_SLIDES
from glimpse.sources.slide.files import detected_format
from glimpse.sources.tiff.kinds import is_microscopy
from glimpse.sources.volume.dicom_folder import chosen_headers
from glimpse.sources.volume.dicom_grid import in_order
from glimpse.sources.volume.dicom_slices import slices_of
from glimpse.sources.volume.nifti import is_nifti, is_packed, read_layout

_PROJECTIONS = ("CR", "DX", "DR", "MG", "PX", "IO", "RG", "XA", "RF")  # modalities whose X-rays meet one detector
_AXES = 1.1  # largest ratio of a pixel's sides that is not reported
_POWER = 1.7  # largest factor between the stated pixel size and that usual for the objective
_USUAL = 10.0  # micrometres per pixel times the objective's power: 0.5 at 20, 0.25 at 40
_LENGTHS = 1.05  # largest factor between two statements of one length that is rounding


def contradictions(path: Path, ndim: int, given: bool = False, series: Any = None, frame: Any = None) -> list[str]:
    """Says where a header contradicts itself about the size of a pixel; an empty list if it does not.

    Args:
        path: the file, or the folder of a DICOM series.
        ndim: the number of axes of the image.
        given: whether the size of a pixel was given from elsewhere, which counts more than the header.
        series: which series of the folder, where there are several.
        frame: which volume of the series, where there are several.
    """
    if given:
        return []
    if ndim == 3:
        return _of_series(path, series, frame) if path.is_dir() else _of_nifti(path) if is_nifti(path) else []
    if path.is_dir():
        return []
    if is_dicom(path) and sop_class(path) != WHOLE_SLIDES:
        return _of_radiograph(path)
    return [] if detected_format(path) is None or is_microscopy(path) else _of_slide(path)


def _of_radiograph(path: Path) -> list[str]:
    """Compares the two sides of a pixel, and its size in the body with that on the detector, which X-rays magnify."""
    with open(path, "rb") as file:
        header = read_dataset(file, stop_before_pixels=True, specific_tags=[*SPACINGS, "Modality", "ImageType"])
    if str(header.get("Modality")) not in _PROJECTIONS or "DERIVED" in str(header.get("ImageType")):
        return []  # slices may have pixels that are no squares, and of a copy that was reduced the detector's may stay
    found, stated = [], {name: _pair(header.get(name)) for name in SPACINGS}
    name, size = next(((name, size) for name, size in stated.items() if size), ("", None))
    if size and max(size) > _AXES * min(size):
        found.append(f"a pixel is {size[1]:g} mm wide, but {size[0]:g} mm high, according to {name}")
    body, detector = stated["PixelSpacing"], stated["ImagerPixelSpacing"]
    if body and detector and any(one > _LENGTHS * two for one, two in zip(body, detector, strict=True)):
        sizes = f"{body[1]:g} mm wide according to PixelSpacing, but {detector[1]:g} mm according to ImagerPixelSpacing"
        found.append(f"a pixel is {sizes}, and nothing in front of a detector is shown smaller than it is")
    return found


def _pair(stated: Any) -> tuple[float, float] | None:
    """Returns the lengths (of a row, of a column) that a header states; None where it states none."""
    try:
        down, across = (float(value) for value in stated)
    except (TypeError, ValueError):
        return None
    return (down, across) if 0 < down < math.inf and 0 < across < math.inf else None


def _of_series(path: Path, series: Any, frame: Any) -> list[str]:
    """Compares the distance of slices by their positions with the one that their headers state."""
    headers = chosen_headers(path, None if series is None else str(series))  # a command line makes numbers of names
    slices = [one for file, header in headers for one in slices_of(file, header)]
    stated = {one.between for one in slices}
    if len(stated) != 1 or not (between := stated.pop()) > 0:
        return []
    ordered = in_order(path, slices, frame)
    steps = np.diff([one.position for one in ordered], axis=0)
    if not len(steps):
        return []
    # Along the normal, and from corner to corner: with a tilted gantry, a table step is the latter.
    normal = np.cross(*ordered[0].along)
    apart = [float(np.median(np.abs(steps @ normal))), float(np.median(np.linalg.norm(steps, axis=1)))]
    if any(1 / _LENGTHS < one / between < _LENGTHS for one in apart):
        return []
    return [
        f"slices lie {apart[0]:.4g} mm apart according to their positions, but {between:.4g} mm according to "
        "SpacingBetweenSlices"
    ]


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
