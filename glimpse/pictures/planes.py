"""Lays out images of one, two and three dimensions in pictures.

An image of two dimensions is shown as it is, and a signal of one dimension as a band. A volume is shown in three cuts,
as radiologists do it. Its axes (z, y, x) run to superior, anterior and right, but pictures show the head above, the
front above or on the left, and the patient's right on the left. So every axis of a volume is reversed in pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

Picture = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Plane:
    """Says which two axes of an image become the rows and columns of a picture.

    Attributes:
        rows: the array axis that runs downwards; None for a signal, which becomes a band.
        columns: the array axis that runs across.
        through: the axis that is cut; None where the image has no third axis.
        name: name of the cut.
        left: letter of the side of the body that is on the left.
    """

    rows: int | None
    columns: int
    through: int | None = None
    name: str = ""
    left: str = ""

    def cut(self, image: np.ndarray, at: Float[np.ndarray, " d"]) -> np.ndarray:
        """Returns the picture (*channel, height, width) of an image (*channel, *size), cut at a location `at`."""
        if self.rows is None:
            return np.repeat(image[..., None, :], max(1, image.shape[-1] // 8), axis=-2)
        if self.through is None:
            return image
        leading = image.ndim - 3
        pixels = image.shape[leading + self.through]
        index = min(pixels - 1, max(0, int((at[self.through] + 1) / 2 * pixels)))
        return self._laid_out(image.take(index, leading + self.through))

    def most(self, values: np.ndarray) -> np.ndarray:
        """Returns the picture (height, width) of the largest of `values` (*size) along the axis that is cut."""
        if self.rows is None or self.through is None:
            return np.atleast_2d(values)
        return self._laid_out(values.max(self.through))

    def _laid_out(self, picture: np.ndarray) -> np.ndarray:
        return np.flip(picture, (-2, -1))  # the remaining axes are in the right order already

    def places(self, locations: Float[np.ndarray, "point d"]) -> Float[np.ndarray, "point 2"]:
        """Returns the positions (x, y) of locations in [-1, 1]^d, as shares of the picture's width and height."""
        points = np.asarray(locations, np.float64)
        signs = 1.0 if self.through is None else -1.0
        down = points[:, self.rows] if self.rows is not None else np.zeros(len(points))
        return (np.stack([points[:, self.columns], down], -1) * signs + 1) / 2

    def lengths(self, extents: Float[np.ndarray, "point d"]) -> Float[np.ndarray, "point 2"]:
        """Converts extents from shares of the image to shares (x, y) of the picture's width and height."""
        extents = np.asarray(extents, np.float64)
        down = extents[:, self.rows] if self.rows is not None else np.zeros(len(extents))
        return np.stack([extents[:, self.columns], down], -1)

    def crosses(
        self, at: np.ndarray, locations: Float[np.ndarray, "point d"], extents: Float[np.ndarray, "point d"]
    ) -> Bool[np.ndarray, " point"]:
        """Returns which boxes the cut at the location `at` goes through."""
        if self.through is None:
            return np.ones(len(locations), bool)
        return np.abs(locations[:, self.through] - at[self.through]) <= extents[:, self.through] + 1e-6

    def proportions(self, sides: Sequence[float]) -> tuple[float, float]:
        """Returns height and width of the picture, from the lengths of the image's axes."""
        return (sides[self.columns] / 8 if self.rows is None else sides[self.rows]), sides[self.columns]


_SIGNAL, _PLANE = Plane(None, 0), Plane(0, 1)
_VOLUME = (Plane(1, 2, 0, "axial", "R"), Plane(0, 2, 1, "coronal", "R"), Plane(0, 1, 2, "sagittal", "A"))


def planes(size: Sequence[int]) -> tuple[Plane, ...]:
    """Returns the planes in which to show an image of this size; a volume of one slice is shown as that slice only."""
    if len(size) < 3:
        return (_SIGNAL,) if len(size) == 1 else (_PLANE,)
    worth = tuple(plane for plane in _VOLUME if size[plane.rows or 0] > 1 and size[plane.columns] > 1)
    return worth or _VOLUME[:1]


def coloured(image: UInt8[np.ndarray, "channel height width"], colour: bool = True) -> Picture:
    """Returns the first three channels as red, green and blue; without `colour`, or with fewer, the first as grey."""
    channels = image[:3] if colour and len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    return np.ascontiguousarray(channels.transpose(1, 2, 0))
