"""Images that show nothing, told by their overviews."""

import numpy as np
from jaxtyping import Bool, UInt8

from glimpse.sources.base import BACKGROUND_TOLERANCE

_ONE_VALUE = 2  # of 255: an overview whose channels vary by no more is all of one value


def is_uniform(overview: UInt8[np.ndarray, "channel *size"]) -> bool:
    """Tells whether each channel of an overview is all of one value, whichever that is."""
    flat = overview.reshape(len(overview), -1)
    return bool((flat.max(axis=1).astype(int) - flat.min(axis=1) <= _ONE_VALUE).all())


def is_ground(overview: UInt8[np.ndarray, "channel *size"], background: UInt8[np.ndarray, " channel"]) -> bool:
    """Tells whether no pixel of an overview is far from the background: a mask of a blank image is all foreground."""
    ground = background.astype(np.int16).reshape(-1, *[1] * (overview.ndim - 1))
    return not (np.abs(overview.astype(np.int16) - ground) > BACKGROUND_TOLERANCE).any()


def is_blank(
    overview: UInt8[np.ndarray, "channel *size"],
    background: UInt8[np.ndarray, " channel"],
    foreground: Bool[np.ndarray, "*size"],
) -> bool:
    """Tells whether an image shows nothing: its overview is all of one value, or nothing but background.

    Args:
        overview: of the image.
        background: its value outside.
        foreground: where looking makes sense; what an image's own reader finds there is not nothing.
    """
    return is_uniform(overview) or bool(foreground.all() and is_ground(overview, background))
