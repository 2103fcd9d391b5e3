"""Intensity windows: which stored values are black, white, and everything between (DICOM PS3.3, C.11.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

Window: TypeAlias = Callable[[Float[np.ndarray, "*size"]], Float[np.ndarray, "*size"]]
"""Maps values to [0, 1], 0 for black."""

PERCENTILES = (0.5, 99.5)
_SAMPLES = 1 << 18  # pixels that percentiles are taken of
_LEAST = 0.01  # part of the samples that is enough to judge by


@dataclass(frozen=True)
class LinearWindow:
    """Black up to ``low``, white from ``high`` on, linear between: ``clip((x - low) / (high - low), 0, 1)``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise ValueError(f"a window goes from a lower to a higher value, got ({self.low}, {self.high}).")

    @classmethod
    def linear(cls, center: float, width: float) -> "LinearWindow":
        """DICOM's LINEAR: from ``center - width / 2`` to ``center + width / 2 - 1`` (C.11.2.1.2.1)."""
        half = max(width - 1, 1e-6) / 2
        return cls(center - 0.5 - half, center - 0.5 + half)

    @classmethod
    def linear_exact(cls, center: float, width: float) -> "LinearWindow":
        """DICOM's LINEAR_EXACT: from ``center - width / 2`` to ``center + width / 2`` (C.11.2.1.3.2)."""
        return cls(center - width / 2, center + width / 2)

    def __call__(self, values: Float[np.ndarray, "*size"]) -> Float[np.ndarray, "*size"]:
        return np.clip((values - np.float32(self.low)) / np.float32(self.high - self.low), 0, 1)


@dataclass(frozen=True)
class SigmoidWindow:
    """DICOM's SIGMOID: ``1 / (1 + exp(-4 (x - center) / width))`` (C.11.2.1.3.1)."""

    center: float
    width: float

    def __call__(self, values: Float[np.ndarray, "*size"]) -> Float[np.ndarray, "*size"]:
        power = np.clip(-4 * (values - np.float32(self.center)) / np.float32(self.width), -60, 60)
        return 1 / (1 + np.exp(power))


@dataclass(frozen=True, eq=False)
class LookupWindow:
    """A table: value ``first + i`` becomes ``table[i]``, values beyond its ends become the first or last entry.

    The least entry is black and the greatest white, because what a table says of its own bit depth is often wrong.
    """

    first: int
    table: Float[np.ndarray, " entry"]

    @classmethod
    def scaled(cls, first: int, entries: np.ndarray) -> "LookupWindow":
        """A window of entries in any units."""
        low, high = float(entries.min()), float(entries.max())
        return cls(first, ((entries - low) / max(high - low, 1)).astype(np.float32))

    def __call__(self, values: Float[np.ndarray, "*size"]) -> Float[np.ndarray, "*size"]:
        index = np.clip(np.rint(values) - self.first, 0, len(self.table) - 1).astype(np.int64)
        return self.table[index]


def percentile_window(values: np.ndarray) -> LinearWindow:
    """A window from percentiles of an image that states none.

    The least and the greatest value are left out where enough others remain: they are the black of a collimator and
    the white of burnt-in letters. Of a large image a regular part of the pixels is taken.
    """
    step = max(1, int(np.ceil(np.sqrt(values.size / _SAMPLES))))
    sample = values[(slice(None, None, step),) * values.ndim].astype(np.float64)
    sample = sample[np.isfinite(sample)] if np.isfinite(sample).any() else np.zeros(1)
    inner = sample[(sample > sample.min()) & (sample < sample.max())]
    low, high = np.percentile(inner if inner.size >= _LEAST * sample.size and inner.size else sample, PERCENTILES)
    return LinearWindow(float(low), float(high)) if low < high else LinearWindow(float(low) - 1, float(low) + 1)
