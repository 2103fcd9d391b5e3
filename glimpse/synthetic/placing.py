"""Where small things lie in synthetic planes, and how they get there without telling of the target elsewhere."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

Room = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Tells which points (y, x) in [-1, 1] of an image a spot's middle may be at, bool (point,)."""

Spot = TypeVar("Spot")

_DARKEST, _LIGHTEST = 0.02, 0.98  # of white, which leaves room for noise
_MASK_SCALE = 4  # pixels of the image per pixel of its mask


def each(rng: np.random.Generator, spots: Sequence[Spot]) -> Iterator[tuple[Spot, np.random.Generator]]:
    """The spots with random numbers of their own, so that one can change without the others."""
    for spot, seed in zip(spots, rng.integers(0, 2**32, len(spots)), strict=True):
        yield spot, np.random.default_rng(seed)


def whole_squares(
    middle: tuple[float, float], reach: float, shape: Sequence[int], side: int
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The whole squares that a spot may touch, and the way from its middle to their pixels, y and x.

    Args:
        middle: of the spot, (y, x) in pixels.
        reach: of the spot, in pixels.
        shape: of the image, (height, width).
        side: of a square, in pixels.
    """
    sides = []
    for centre, length in zip(middle, shape, strict=True):
        low = max(int((centre - reach) // side), 0)
        high = min(int((centre + reach) // side) + 1, length // side)
        sides.append(slice(low * side, high * side))
    y, x = np.mgrid[sides[0], sides[1]].astype(np.float32) + np.float32(0.5)
    return (sides[0], sides[1]), y - np.float32(middle[0]), x - np.float32(middle[1])


def share_that_fits(film: np.ndarray, detail: np.ndarray) -> float:
    """The part of a detail that can be added without leaving the film's range, where means would change."""
    room = np.where(detail > 0, _LIGHTEST - film, film - _DARKEST)
    return float(np.clip((room / np.maximum(np.abs(detail), 1e-6)).min(), 0, 1))


def draw_mask(circles: Iterable[tuple[float, float, float]], size: int) -> Image.Image:
    """A mask of circles (y, x, radius in pixels) in an image of ``size`` pixels a side, at a quarter of its size."""
    mask = Image.new("L", (size // _MASK_SCALE, size // _MASK_SCALE))
    pen = ImageDraw.Draw(mask)
    for y, x, radius in circles:
        middle, reach = np.array([x, y]) / _MASK_SCALE, radius / _MASK_SCALE
        pen.ellipse([*(middle - reach), *(middle + reach)], fill=255)
    return mask
