"""Where a body is on the overview of a radiograph, rather than air or the shadow of a collimator."""

import numpy as np
import scipy  # whose parts are imported where they are used first: `scipy.ndimage` takes long
from jaxtyping import Bool, UInt8

from glimpse.sources.pictures.edges import reaching_the_edge

DARK = 0.25  # of the range of greys: air and collimators are darker, if they reach the edge
SATURATED = 250  # of 255: what is as white as this and flat, and reaches most corners, is background shown inverted
LEAST = 0.05  # part of an image that a body covers; where less is left, the rule does not fit the image


def body(grey: UInt8[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """The body: everything but dark areas that reach the edge of the image.

    Lungs are as dark as air, but do not reach the edge. In an image that has not been inverted, air is white: there,
    flat white areas are left out that reach three of its corners.

    Args:
        grey: the overview, air and collimator dark.

    Returns:
        The mask, never empty.
    """
    low, high = (float(value) for value in np.percentile(grey, (0.5, 99.5)))
    bright = grey >= SATURATED
    white = scipy.ndimage.binary_dilation(reaching_the_edge(bright & (_range(grey) <= 1)), np.ones((3, 3)), mask=bright)
    inverted = sum(bool(white[row, column]) for row in (0, -1) for column in (0, -1)) >= 3
    outside = white if inverted else reaching_the_edge(grey <= low + DARK * (high - low))
    mask = scipy.ndimage.binary_fill_holes(~outside)
    return mask if mask.mean() >= LEAST and high > low else np.ones_like(mask)


def _range(grey: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """The difference between the brightest and the darkest of a pixel and its eight neighbours."""
    return scipy.ndimage.maximum_filter(grey, 3) - scipy.ndimage.minimum_filter(grey, 3)
