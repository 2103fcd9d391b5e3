"""Intensity windows: which stored values are black, white, and everything between (DICOM PS3.3, C.11.2)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

from glimpse.sources.base import ImageReadError

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


def regular_sample(values: np.ndarray) -> np.ndarray:
    """A view of every n-th value per axis, of about as many as percentiles need."""
    step = max(1, int(np.ceil((values.size / _SAMPLES) ** (1 / max(values.ndim, 1)))))
    return values[(slice(None, None, step),) * values.ndim]


def finite_sample(path: Path, sample: np.ndarray, parts: Iterable[np.ndarray]) -> np.ndarray:
    """Returns those values of a sample that are finite numbers; if none is, those of the whole image.

    Args:
        path: the file, for messages.
        sample: of the image's values.
        parts: all values, part by part; they are only read if they are needed.

    Raises:
        ImageReadError: no value of the image is finite.
    """
    finite = sample[np.isfinite(sample)]
    if finite.size:
        return finite
    found: list[np.ndarray] = []
    for part in parts:
        finite = part[np.isfinite(part)]
        found += [regular_sample(finite)] if finite.size else []
        if sum(one.size for one in found) >= _SAMPLES:
            break
    if not found:
        raise ImageReadError(
            f"{path}: none of its values is a finite number (all are NaN or infinite), so it shows nothing. Write the "
            "image anew from where it came from, or leave the case out (env.cohort.on_error=skip)."
        )
    return np.concatenate(found)


def percentile_window(values: np.ndarray) -> LinearWindow:
    """A window from percentiles of an image that states none.

    The least and the greatest value are left out where enough others remain: they are the black of a collimator and
    the white of burnt-in letters. Of a large image a regular part of the pixels is taken. Readers refuse images without
    any finite value (`finite_sample`); of a channel without one, the window says nothing.
    """
    sample = regular_sample(values).astype(np.float64)
    sample = sample[np.isfinite(sample)] if np.isfinite(sample).any() else np.zeros(1)
    inner = sample[(sample > sample.min()) & (sample < sample.max())]
    low, high = np.percentile(inner if inner.size >= _LEAST * sample.size and inner.size else sample, PERCENTILES)
    return LinearWindow(float(low), float(high)) if low < high else LinearWindow(float(low) - 1, float(low) + 1)


# ---------------------------------------------------------------------------------------------- CT
# Centre and width in Hounsfield units, as commonly used (https://radiopaedia.org/articles/windowing-ct).
CT_WINDOWS = {
    "brain": (40, 80),
    "subdural": (80, 200),
    "bone": (400, 1800),
    "soft_tissue": (40, 400),
    "lung": (-600, 1500),
    "mediastinum": (50, 350),
    "liver": (30, 150),
}


def parse_windows(given: Any) -> tuple[LinearWindow | None, ...]:
    """Reads "auto" (None in the result), a name of `CT_WINDOWS`, [low, high], or a list of these.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(given, Sequence) and not isinstance(given, str) and not _is_pair(given):
        if not given:
            raise ValueError(f"windows is empty: {_WINDOWS_HELP}")
        return tuple(_parse_window(one) for one in given)
    return (_parse_window(given),)


_WINDOWS_HELP = f"give 'auto', [low, high], one of {', '.join(CT_WINDOWS)} (for CT), or a list of these."


def _is_pair(given: Any) -> bool:
    return len(given) == 2 and all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)


def _parse_window(given: Any) -> LinearWindow | None:
    if isinstance(given, str) and given == "auto":
        return None
    if isinstance(given, str) and given in CT_WINDOWS:
        return LinearWindow.linear_exact(*CT_WINDOWS[given])
    if isinstance(given, Sequence) and not isinstance(given, str) and _is_pair(given):
        return LinearWindow(float(given[0]), float(given[1]))
    raise ValueError(f"cannot read the window {given!r}: {_WINDOWS_HELP}")


_WHITE = np.float32(255.5)


def greys(
    values: Float[np.ndarray, "*size"],
    windows: Sequence[LinearWindow],
    cover: Float[np.ndarray, "*size"] | None = None,
) -> UInt8[np.ndarray, "channel *size"]:
    """Values through windows, ``floor(255 clip((x - low) / (high - low), 0, 1) cover + 1 / 2)``, a channel for each.

    Args:
        values: float32; overwritten.
        windows: one per channel.
        cover: part of each value that lies inside the image, 0 to 1; what lies outside is black.
    """
    shown = np.empty((len(windows), *values.shape), np.uint8)
    # In place, and into one buffer as long as the values are still needed: this takes as long as reading a glimpse.
    buffer = np.empty(values.shape, np.float32) if len(windows) > 1 else values
    for channel, window in enumerate(windows):
        greys = values if channel + 1 == len(windows) else buffer
        scale = 255 / (window.high - window.low)
        if cover is None:
            np.subtract(values, np.float32(window.low - 0.5 / scale), out=greys)  # the half that rounds is added here
            np.multiply(greys, np.float32(scale), out=greys)
            np.clip(greys, 0, _WHITE, out=greys)
        else:
            np.subtract(values, np.float32(window.low), out=greys)
            np.multiply(greys, np.float32(scale), out=greys)
            np.clip(greys, 0, 255, out=greys)
            np.multiply(greys, cover, out=greys)
            np.add(greys, np.float32(0.5), out=greys)
        np.copyto(shown[channel], greys, casting="unsafe")
    return shown
