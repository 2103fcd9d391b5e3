"""The grid of voxels as a file stores it, and where its voxels lie in the body."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_MICROMETRE, _METRE = 1e-3, 1e3
_UNITS = {_MICROMETRE: "micron", 1.0: "mm", _METRE: "meter"}  # as NIfTI calls them, by their millimetres


@dataclass(frozen=True)
class VoxelGrid:
    """The stored axes (i, j, k) of a volume, in which viewers count voxels, beside those of its image (z, y, x).

    Pixels of the image are continuous: 0 is the outer edge of the first one. So are stored voxels, here; NIfTI's
    affine takes the centre of the first voxel as 0 instead.

    Attributes:
        shape: stored voxels (i, j, k).
        axes: the stored axes that are z, y and x of the image.
        flipped: whether each of these runs the other way in the file.
        affine: rows of NIfTI's matrix (4, 4) from stored indices to positions (right, anterior, superior).
        millimetres: of the affine's unit.
        code: what the file says of these positions, such as 1 for those of the scanner.
    """

    shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    affine: tuple[tuple[float, ...], ...]
    millimetres: float = 1.0
    code: int = 1

    @property
    def unit(self) -> str:
        """NIfTI's name of the affine's unit."""
        return _UNITS.get(self.millimetres, "mm")

    def stored(self, boxes: Float[np.ndarray, "box 2 3"]) -> Float[np.ndarray, "box 2 3"]:
        """Returns boxes, given as low and high corners (z, y, x) in pixels of the image, in stored voxels (i, j, k)."""
        found = np.empty_like(boxes)
        for axis, (stored, flipped) in enumerate(zip(self.axes, self.flipped, strict=True)):
            low, high = boxes[:, 0, axis], boxes[:, 1, axis]
            length = self.shape[stored]
            found[:, 0, stored] = length - high if flipped else low
            found[:, 1, stored] = length - low if flipped else high
        return found

    def positions(self, stored: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3"]:
        """Returns where points in stored voxels (i, j, k) lie, in millimetres to the right, front and top (RAS)."""
        affine = np.array(self.affine, np.float64)
        return ((stored - 0.5) @ affine[:3, :3].T + affine[:3, 3]) * self.millimetres

    def sides(self, boxes: Float[np.ndarray, "box 2 3"]) -> Float[np.ndarray, "box 3"]:
        """Returns the lengths of boxes in stored voxels along the stored axes, in millimetres."""
        lengths = np.sqrt((np.array(self.affine, np.float64)[:3, :3] ** 2).sum(axis=0)) * self.millimetres
        return (boxes[:, 1] - boxes[:, 0]) * lengths
