"""Where in a volume a head, a body or lungs lie: tissue is told from the air around it and within."""

from typing import NamedTuple

import numpy as np
import scipy  # whose parts are imported where they are used first: `scipy.ndimage` takes long
from jaxtyping import Bool, UInt8

from glimpse.sources.thresholds import otsu_threshold

SMALLEST_PART = 0.1  # of the largest part's pixels; smaller ones are noise, cushions and cables
_HOMOGENEOUS = 0.1  # median deviation of air over its distance from tissue, at most
_MARGIN = 0.2  # of the way from air to tissue is still air
_DEVIATIONS = 4.0  # of its noise, too
_DARK = 0.3  # air over the brightest tissue, at most, where values cannot be negative
_HOUNSFIELD_RANGE = 100.0

HOUNSFIELD_AIR = -400.0
"""Of lungs and of what surrounds a body, values are below this; those of tissue are above."""


class ValueRange(NamedTuple):
    """Values of a volume that hardly any others lie beyond."""

    low: float
    high: float

    @property
    def may_hold_air(self) -> bool:
        """Whether the lowest values can be air's.

        Of magnetic resonance (no negative values) air gives hardly any signal. Negative values over a wide range are
        Hounsfield units, in which air has -1000. Of other values nothing is known.
        """
        if self.low >= 0:
            return self.low <= _DARK * self.high
        return self.hounsfield_air if self.high - self.low > _HOUNSFIELD_RANGE else True

    @property
    def hounsfield_air(self) -> bool:
        """Whether these are Hounsfield units, some of them air's."""
        return self.low < HOUNSFIELD_AIR and self.high - self.low > _HOUNSFIELD_RANGE


def body_mask(
    overview: UInt8[np.ndarray, "depth height width"], values: ValueRange, air: float | None = None
) -> Bool[np.ndarray, "depth height width"]:
    """Head or body in an overview: what is brighter than air, its largest parts, with their holes filled.

    A hole is what is enclosed in any axial, coronal or sagittal plane, so that lungs, ventricles and bowels belong to
    the body. Where there is no air, all of the volume is body. Never empty.

    Args:
        overview: one channel.
        values: of the volume; they tell whether there can be air.
        air: the grey that air has at most, where that is known; else it is told by `air_threshold`.
    """
    if air is None:
        air = air_threshold(overview) if values.may_hold_air else None
    if air is None:
        return np.ones(overview.shape, bool)
    mask = _filled(_largest_parts(overview > air))
    return mask if mask.any() else np.ones(overview.shape, bool)


def lung_mask(
    overview: UInt8[np.ndarray, "depth height width"], body: Bool[np.ndarray, "depth height width"], air: float
) -> Bool[np.ndarray, "depth height width"]:
    """Lungs in an overview: the largest parts of what is air within the body, with what they enclose in any plane.

    Where there is no such air, the body.

    Args:
        overview: one channel.
        body: as `body_mask` gives it.
        air: the grey that air has at most.
    """
    inside = _largest_parts(scipy.ndimage.binary_erosion(body) & (overview <= air))
    return _filled(scipy.ndimage.binary_closing(inside)) if inside.any() else body


def _filled(mask: Bool[np.ndarray, "*size"]) -> Bool[np.ndarray, "*size"]:
    """A mask with what it encloses in any axial, coronal or sagittal plane."""
    for axis in range(mask.ndim):
        plane = scipy.ndimage.generate_binary_structure(mask.ndim, 1)
        plane[tuple(slice(None) if other == axis else 1 for other in range(mask.ndim))] = False
        plane[(1,) * mask.ndim] = True
        mask = scipy.ndimage.binary_fill_holes(mask, plane)
    return mask


def air_threshold(overview: UInt8[np.ndarray, "*size"]) -> float | None:
    """The grey that air has at most, or None where the darker values do not look like air.

    Otsu's threshold parts dark from bright. The dark values are air if most of them differ little, compared with
    their distance from the bright ones: halves of one kind of tissue, or two kinds, do not. Dim tissue lies among the
    dark values, too, so the threshold is moved down towards those of air.
    """
    threshold = otsu_threshold(overview)
    dark, bright = overview[overview <= threshold], overview[overview > threshold]
    if not dark.size or not bright.size:
        return None
    air = float(np.median(dark))
    distance, deviation = float(np.median(bright)) - air, float(np.median(np.abs(dark - air)))
    if deviation > _HOMOGENEOUS * distance:
        return None
    return min(float(threshold), air + max(_MARGIN * distance, _DEVIATIONS * 1.4826 * deviation))


def _largest_parts(mask: Bool[np.ndarray, "*size"]) -> Bool[np.ndarray, "*size"]:
    parts, count = scipy.ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    return (sizes >= SMALLEST_PART * sizes.max())[parts] & mask
