"""Patterns that differ in form only: the same strokes in two arrangements, made equal in everything simpler.

A target that shows in brightness, contrast, fineness or direction of a texture is seen by filters with random weights.
Here, two patterns are drawn with the same strokes at the same places, turned in one of them. `equalised` then gives
both the same Fourier amplitudes and the same values. What is left to tell them apart is how their parts lie to each
other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

Pattern = np.ndarray
"""float32 (*place), of 2 or 3 dimensions."""


@dataclass(frozen=True)
class Stroke:
    """A short stripe, bright with dark sides; in volumes, a small plate.

    Attributes:
        wave: distance from one bright stripe to the next, if there were more.
        width: standard deviation of its envelope along its normal.
        length: standard deviation of its envelope across the normal.
    """

    wave: float
    width: float
    length: float


def strokes(
    axes: Sequence[np.ndarray], middles: np.ndarray, normals: np.ndarray, signs: np.ndarray, stroke: Stroke
) -> Pattern:
    """Adds up Gabor functions ``s cos(2 pi u / wave) exp(-u^2 / 2 width^2 - v^2 / 2 length^2)``.

    `u` is a place's distance from a stroke's middle along the normal, and `v` the distance across it.

    Args:
        axes: coordinates of places along every axis, evenly spaced.
        middles: of the strokes (stroke, axis), in the same unit.
        normals: of the strokes (stroke, axis), of length 1.
        signs: brightness of the strokes (stroke,).
        stroke: their shape.
    """
    pattern = np.zeros([len(axis) for axis in axes], np.float32)
    reach = 2.5 * max(stroke.width, stroke.length)
    for middle, normal, sign in zip(middles, normals, signs, strict=True):
        box = tuple(
            slice(*np.searchsorted(axis, (place - reach, place + reach)).tolist())
            for axis, place in zip(axes, middle, strict=True)
        )
        near = np.meshgrid(*(axis[part] - m for axis, part, m in zip(axes, box, middle, strict=True)), indexing="ij")
        along = sum(axis * part for axis, part in zip(near, normal, strict=True))
        across = sum(axis**2 for axis in near) - along**2
        envelope = np.exp(-(along**2) / (2 * stroke.width**2) - across / (2 * stroke.length**2))
        pattern[box] += (sign * np.cos(along * (2 * np.pi / stroke.wave)) * envelope).astype(np.float32)
    return pattern


def equalised(
    first: Pattern, second: Pattern, keep: Callable[[Pattern], Pattern], rounds: int = 16
) -> tuple[Pattern, Pattern]:
    """Gives two patterns the same Fourier amplitudes and the same values, each with its own phases.

    As in iterative amplitude-adjusted Fourier transform (Schreiber and Schmitz 1996), amplitudes and values are set by
    turns; here to what the two patterns have in common, so that neither is marked as the one that was changed.

    Args:
        first: a pattern.
        second: another one, of the same shape.
        keep: puts a pattern back among those that are allowed, after every round; for instance takes off the means of
            an overview's pixels.
        rounds: how often.

    Returns:
        Both patterns, of mean square 1 over the two.
    """
    pair = [keep(first), keep(second)]
    for _ in range(rounds):
        pair = [pattern / np.sqrt(np.mean(pattern**2)) for pattern in pair]
        spectra = [scipy.fft.rfftn(pattern) for pattern in pair]
        amplitude = np.sqrt(sum(np.abs(spectrum) ** 2 for spectrum in spectra) / 2)
        pair = [
            _with_amplitude(spectrum, amplitude, pattern.shape) for spectrum, pattern in zip(spectra, pair, strict=True)
        ]
        orders = [np.argsort(pattern, axis=None) for pattern in pair]
        values = np.mean([pattern.ravel()[order] for pattern, order in zip(pair, orders, strict=True)], 0)
        pair = [keep(_with_values(order, values, pattern.shape)) for order, pattern in zip(orders, pair, strict=True)]
    scale = np.sqrt(sum(np.mean(pattern**2) for pattern in pair) / 2)
    return pair[0] / scale, pair[1] / scale


def _with_amplitude(spectrum: np.ndarray, amplitude: np.ndarray, shape: Sequence[int]) -> Pattern:
    size = np.abs(spectrum)
    phases = np.where(size > 0, spectrum / np.maximum(size, np.finfo(size.dtype).tiny), 1)
    return np.ascontiguousarray(scipy.fft.irfftn(amplitude * phases, s=shape), np.float32)


def _with_values(order: np.ndarray, values: np.ndarray, shape: Sequence[int]) -> Pattern:
    pattern = np.empty(len(order), np.float32)
    pattern[order] = values
    return pattern.reshape(shape)


def without_block_means(pattern: Pattern, sides: Sequence[int]) -> Pattern:
    """Takes the mean off every block, counted from the first place on, so that an overview of such blocks is blind.

    Args:
        pattern: of whole blocks.
        sides: of a block, one per axis.
    """
    split = [part for n, side in zip(pattern.shape, sides, strict=True) for part in (n // side, side)]
    means = pattern.reshape(split).mean(tuple(range(1, len(split), 2)))
    for axis, side in enumerate(sides):
        means = means.repeat(side, axis)
    return pattern - means
