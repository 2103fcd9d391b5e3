"""The field of view of a photograph: where a camera or an endoscope saw something, within a dark surround."""

import numpy as np
import scipy  # whose parts are imported where they are used first: `scipy.ndimage` takes long
from jaxtyping import Bool, UInt8

from glimpse.sources.pictures.edges import reaching_the_edge

CORNER = 0.04  # of a side: how far from a corner the surround is measured
FLAT = 6.0  # of 255: how much the surround varies within a corner, at most
DARK = 0.4  # of the brightness of the picture: a surround is darker
STEP = (
    0.08  # of the range from the surround to the picture: what is darker than that, and reaches the edge, is surround
)
LEAST_STEP = 2.5  # of 255, above the noise of dark pictures
PART = 0.1  # of the largest part: smaller ones are letters beside the picture
LEAST = 0.05  # of the image; where less is left, the rule does not fit the picture


def field_of_view(colours: UInt8[np.ndarray, "3 height width"]) -> Bool[np.ndarray, "height width"]:
    """Returns where a photograph shows something: everything but the dark surround that reaches three of its corners.

    All brightness is measured against the corners, so that pictures may be as dark as they like. A picture without such
    a surround is seen everywhere.

    Args:
        colours: the overview.

    Returns:
        The mask, never empty.
    """
    value = scipy.ndimage.median_filter(colours.max(axis=0), 3).astype(np.float32)
    everything = np.ones(value.shape, bool)
    sides = [max(2, round(CORNER * n)) for n in value.shape]
    corners = [value[rows, columns] for rows in _ends(sides[0]) for columns in _ends(sides[1])]
    levels = [float(np.median(corner)) for corner in corners]
    dark = float(np.median(levels))
    bright = float(np.percentile(value, 95))
    step = max(STEP * (bright - dark), LEAST_STEP)
    flat = [
        np.ptp(np.percentile(corner, (5, 95))) <= FLAT and level <= dark + step
        for corner, level in zip(corners, levels, strict=True)
    ]
    if sum(flat) < 3 or dark > DARK * bright or bright - dark < 2 * step:
        return everything
    surround = reaching_the_edge(value <= dark + step)
    mask = scipy.ndimage.binary_fill_holes(~surround)
    parts, count = scipy.ndimage.label(mask)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    mask = (sizes >= PART * sizes.max())[parts] & mask
    return mask if mask.mean() >= LEAST else everything


def _ends(side: int) -> tuple[slice, slice]:
    return slice(None, side), slice(-side, None)
