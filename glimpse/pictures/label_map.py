"""Shows where an agent looked in a volume, as a NIfTI label map that overlays in any viewer."""

import gzip
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt

from glimpse.sources.volume.grid import VoxelGrid


def labels_of(boxes: Float[np.ndarray, "look 2 3"], grid: VoxelGrid) -> UInt[np.ndarray, "i j k"]:
    """Returns for each stored voxel the number of the first look that showed it, from 1 on, and 0 elsewhere.

    Args:
        boxes: low and high corners of the looks in pixels of the image (z, y, x), in order.
        grid: the grid of the volume's file.
    """
    labels = np.zeros(grid.shape, np.uint8 if len(boxes) < 256 else np.uint16)
    for number, box in reversed(list(enumerate(grid.stored(boxes), start=1))):  # so that the first one stays
        labels[_voxels(box[0].tolist(), box[1].tolist(), grid.shape)] = number
    return labels


def _voxels(low: Sequence[float], high: Sequence[float], shape: Sequence[int]) -> tuple[slice, ...]:
    """Returns the voxels whose centres lie in a box."""
    return tuple(
        slice(min(max(math.ceil(a - 0.5), 0), n), max(min(math.ceil(b - 0.5), n), 0))
        for a, b, n in zip(low, high, shape, strict=True)
    )


def label_map(boxes: Float[np.ndarray, "look 2 3"], grid: VoxelGrid) -> bytes:
    """Returns the content of a `.nii.gz` with these labels (see `labels_of`), on the grid of the volume's own file."""
    import nibabel  # planes need none

    affine = np.array(grid.affine, np.float64)
    image = nibabel.Nifti1Image(labels_of(boxes, grid), affine)
    image.set_sform(affine, grid.code or 1)
    image.set_qform(affine, grid.code or 1, strip_shears=True)
    image.header.set_xyzt_units(grid.unit)
    return gzip.compress(image.to_bytes(), mtime=0)
