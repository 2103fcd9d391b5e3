"""Where tissue lies on the overview of a slide, rather than glass or the dark ground that scanners leave."""

import numpy as np
import scipy  # whose parts are imported where they are used first: `scipy.ndimage` takes long
from jaxtyping import Bool, UInt8

from glimpse.sources.base import never_empty
from glimpse.sources.thresholds import otsu_threshold

MIN_SATURATION = 8  # of 255: less than this is never tissue
NEAR_BLACK = 40  # of 255: the ground that a scanner leaves is darker than this in every channel
NEUTRAL = 6  # of 255: its channels differ by no more than this, while those of dark tissue differ by more
LEAST_COLOUR = 0.0005  # part of an overview that is saturated; a slide with less of it is one without colour
CONTRAST = 16  # of 255: means of tissue and ground of a slide without colour differ by at least this
GLASS = 160  # of 255: glass is brighter than this


def tissue(overview: UInt8[np.ndarray, "channel height width"]) -> Bool[np.ndarray, "height width"]:
    """Finds the tissue on the overview of a slide.

    The dark ground (see `dark_ground`) is never tissue. Of the rest, tissue is what is more saturated than Otsu's
    threshold. On a slide without colour, it is what Otsu's threshold on the intensity tells from the ground, and the
    ground is what most of the border is made of.

    Args:
        overview: red, green and blue, or one channel of grey.

    Returns:
        The mask. It is never empty: a blank slide can be looked at everywhere, its dark ground aside.
    """
    high, low = overview.max(axis=0), overview.min(axis=0)
    ground = dark_ground(high, low)
    rest = ~ground
    if not rest.any():  # perhaps dim fluorescence
        return never_empty(_without_colour(_intensity(overview), rest))
    saturation = np.rint(255 * (high.astype(np.float32) - low) / np.maximum(high, 1)).astype(np.uint8)
    coloured = saturation > max(otsu_threshold(saturation[rest]), MIN_SATURATION)
    coloured &= ~_widened(ground, high - low <= NEUTRAL)
    if (saturation[rest] > MIN_SATURATION).mean() < LEAST_COLOUR:
        mask = _without_colour(_intensity(overview), ground)
        if mask.any():
            return mask
    return coloured if coloured.any() else never_empty(rest)


def bright_on_dark(overview: UInt8[np.ndarray, "channel height width"]) -> Bool[np.ndarray, "height width"]:
    """Finds what shines on the dark ground of a fluorescence image.

    Of each channel the square root is taken, in which the noise of counted photons is the same everywhere and dim
    tissue lies farther from the ground; of their mean, smoothed by 3 x 3 pixels, it is what Otsu's threshold tells from
    the ground. Hence a channel of nothing but noise hardly counts beside others.

    Args:
        overview: one channel or more.

    Returns:
        The mask. It is never empty: an image on which nothing stands out can be looked at everywhere.
    """
    roots = np.sqrt(overview.astype(np.float32) * 255).mean(axis=0)
    light = np.rint(scipy.ndimage.uniform_filter(roots, 3)).astype(np.uint8)
    threshold = _parting(light)
    return never_empty(np.zeros(light.shape, bool) if threshold is None else light > threshold)


def ground_is_bright(grey: UInt8[np.ndarray, "height width"]) -> bool:
    """Tells whether most of the border is brighter than Otsu's threshold, as the glass of a bright field is."""
    threshold = _parting(grey)
    if threshold is None:
        return False
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return bool((border > threshold).mean() > 0.5)


def dark_ground(
    high: UInt8[np.ndarray, "height width"], low: UInt8[np.ndarray, "height width"]
) -> Bool[np.ndarray, "height width"]:
    """Finds the near-black ground that scanners leave where they have not scanned.

    It is near-black and neutral, and it reaches the edge of the overview, or lies inside and is uniform, as programs
    fill in what lies between scanned regions. Dark tissue is coloured, or lies inside the slide and has a texture.

    Args:
        high: the greatest of each pixel's channels.
        low: the least of them.
    """
    black = (high - low <= NEUTRAL) & (high <= NEAR_BLACK)
    if not black.any():
        return black
    parts, count = scipy.ndimage.label(black)
    ground = np.zeros(count + 1, bool)
    inner = scipy.ndimage.binary_erosion(black)  # the pixels of a part's rim are mixed with what lies beside it
    numbers = np.unique(parts[inner])
    texture = scipy.ndimage.maximum_filter(high, 3) - scipy.ndimage.minimum_filter(high, 3)
    ground[numbers] = scipy.ndimage.median(texture, np.where(inner, parts, 0), numbers) == 0
    ground[np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])] = True
    ground[0] = False
    return ground[parts]


def _widened(ground: Bool[np.ndarray, "height width"], neutral: Bool[np.ndarray, "height width"]) -> np.ndarray:
    """Adds the neutral pixels on the ground's rim, which mix it with glass."""
    if not ground.any():
        return ground
    return scipy.ndimage.binary_dilation(ground, np.ones((3, 3)), mask=neutral) | ground


def _intensity(overview: UInt8[np.ndarray, "channel height width"]) -> UInt8[np.ndarray, "height width"]:
    return np.rint(overview.mean(axis=0)).astype(np.uint8)


def _without_colour(
    grey: UInt8[np.ndarray, "height width"], ground: Bool[np.ndarray, "height width"]
) -> Bool[np.ndarray, "height width"]:
    """Finds tissue by its intensity alone; the mask is empty where nothing can be told apart.

    Where there is a dark ground, the rest is either a bright field, whose glass lies next to the ground, or bright
    tissue on the dark ground of a fluorescence scan.
    """
    rest = ~ground
    if ground.any():
        inner = ~_widened(ground, rest)
        threshold = _parting(grey[inner])
        border = inner & ~scipy.ndimage.binary_erosion(inner, np.ones((3, 3)), border_value=1)
        if threshold is not None and (grey[border] > max(threshold, GLASS)).mean() > 0.5:
            return inner & (grey <= threshold)
        threshold = _parting(grey)
        return rest if threshold is None else grey > threshold
    threshold = _parting(grey)
    if threshold is None:
        return np.zeros_like(rest)
    bright = grey > threshold
    edge = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    return ~bright if edge.mean() > 0.5 else bright


def _parting(grey: UInt8[np.ndarray, " pixel"] | UInt8[np.ndarray, "height width"]) -> int | None:
    """Returns Otsu's threshold, or None where the classes that it makes differ by too little."""
    threshold = otsu_threshold(grey)
    dark, bright = grey[grey <= threshold], grey[grey > threshold]
    if not dark.size or not bright.size or bright.mean() - dark.mean() < CONTRAST:
        return None
    return threshold
