"""Shows where an agent looked in a volume, as a NIfTI label map that overlays in any viewer, and as a picture."""

import gzip
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt

from glimpse.pictures.drawing import draw_labels
from glimpse.pictures.planes import Picture
from glimpse.sources.volume.grid import VoxelGrid


def labels_of(
    boxes: Float[np.ndarray, "look 2 3"], grid: VoxelGrid, zooms: Sequence[int] | None = None
) -> UInt[np.ndarray, "i j k"]:
    """Returns for each stored voxel the number of the look that showed it best, from 1 on, and 0 elsewhere.

    That is a look with the finest field of view, since it lies inside wider ones that were read before; of several, the
    first.

    Args:
        boxes: low and high corners of the looks in pixels of the image (z, y, x), in order.
        grid: the grid of the volume's file.
        zooms: the index of the field of view of each look, from wide to fine; by default all have one.
    """
    labels = np.zeros(grid.shape, np.uint8 if len(boxes) < 256 else np.uint16)
    stored, levels = grid.stored(boxes), [0] * len(boxes) if zooms is None else [int(zoom) for zoom in zooms]
    for number in sorted(range(len(boxes)), key=lambda look: (levels[look], -look)):  # the last one written stays
        low, high = stored[number].tolist()
        labels[_voxels(low, high, grid.shape)] = number + 1
    return labels


def _voxels(low: Sequence[float], high: Sequence[float], shape: Sequence[int]) -> tuple[slice, ...]:
    """Returns the voxels whose centres lie in a box."""
    return tuple(
        slice(min(max(math.ceil(a - 0.5), 0), n), max(min(math.ceil(b - 0.5), n), 0))
        for a, b, n in zip(low, high, shape, strict=True)
    )


def label_map(boxes: Float[np.ndarray, "look 2 3"], grid: VoxelGrid, zooms: Sequence[int] | None = None) -> bytes:
    """Returns the content of a `.nii.gz` with these labels (see `labels_of`), on the grid of the volume's own file."""
    import nibabel  # planes need none

    affine = np.array(grid.affine, np.float64)
    image = nibabel.Nifti1Image(labels_of(boxes, grid, zooms), affine)
    image.set_sform(affine, grid.code or 1)
    image.set_qform(affine, grid.code or 1, strip_shears=True)
    image.header.set_xyzt_units(grid.unit)
    return gzip.compress(image.to_bytes(), mtime=0)


def label_map_picture(image: str | os.PathLike[str], labels: str | os.PathLike[str], height: int = 320) -> Picture:
    """Shows a label map over the volume on whose grid it lies, in three cuts through the first look.

    Args:
        image: the volume, a NIfTI file.
        labels: its label map, such as `labels/<case>.nii.gz` of `glimpse predict`.
        height: largest height of a cut in pixels.

    Raises:
        ValueError: they do not lie on one grid.
    """
    import nibabel

    pair: Any = [nibabel.load(path) for path in (image, labels)]
    if pair[0].shape != pair[1].shape or not np.allclose(pair[0].affine, pair[1].affine, atol=1e-3):
        raise ValueError(f"{labels}: expected a label map on the grid of {image}, got another shape or affine.")
    pair = [nibabel.as_closest_canonical(one) for one in pair]
    values, looks = (np.asarray(one.dataobj).T for one in pair)  # to (z, y, x)
    low, high = np.nanpercentile(values, [0.5, 99.5])
    grey = np.clip(np.nan_to_num((values - low) / max(float(high - low), 1e-12)), 0, 1)
    sides = np.array(pair[0].header.get_zooms()[:3], np.float64)[::-1] * looks.shape
    unit = {"micron": "um", "meter": None}.get(pair[0].header.get_xyzt_units()[0], "mm")
    pixels = np.rint(255 * grey).astype(np.uint8)[None]
    return draw_labels(pixels, looks.astype(np.int64), height, sides.tolist(), unit=unit)
