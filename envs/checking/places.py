"""Finds places in an image that show whether an environment has swapped axes; for the contract checker."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glimpse.sources import ImageSource
from glimpse.views import Views

PIXEL_TOLERANCE = 1.0  # mean difference in grey levels up to which two glimpses count as equal
TRIES = 40  # so many places are tried for each glimpse
_NEAREST, _FARTHEST = 0.08, 0.9  # smallest difference of two coordinates, and largest distance from the middle


@dataclass(frozen=True)
class Places:
    """Locations in one image.

    Attributes:
        locations: float32 `(count, d)`.
        telling: Which of them show other pixels if their axes are taken in any other order: bool `(count,)`.
    """

    locations: NDArray[np.float32]
    telling: NDArray[np.bool_]


def find_places(source: ImageSource, views: Views, zooms: NDArray[np.int64], seed: int) -> Places:
    """Looks for one telling place per zoom, at random and where the overview shows details.

    In an image that is mostly black, random places are black, and so is the place with swapped axes.
    """
    rng = np.random.default_rng(seed)
    candidates = _candidates(source, views, rng)
    found, telling = [], []
    for zoom in zooms.tolist():
        for location in itertools.islice(candidates, TRIES):
            tells = all(differ(one, other) > PIXEL_TOLERANCE for one, other in _orders(source, views, location, zoom))
            if tells:
                break
        found.append(location)
        telling.append(tells)
    return Places(np.array(found, np.float32).reshape(-1, views.ndim), np.array(telling, bool))


def read_at(source: ImageSource, views: Views, location: NDArray[np.float32], zoom: int) -> NDArray[np.uint8]:
    """Reads a glimpse with its own conversion of locations to pixels, so that a mistake in `Views` would be found."""
    center = (location.astype(np.float64) + 1) / 2 * np.array(source.shape)
    return source.read(center, views.extent(source, zoom), views.glimpse_size)


def other_orders(location: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Returns the location with its axes in every other order, the reversed one first."""
    axes = tuple(range(len(location)))
    return [location[list(order)] for order in list(itertools.permutations(axes))[:0:-1]]


def differ(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Returns the mean absolute difference in grey levels."""
    return float(np.abs(one.astype(np.float32) - other.astype(np.float32)).mean())


def _orders(
    source: ImageSource, views: Views, location: NDArray[np.float32], zoom: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    there = read_at(source, views, location, zoom)
    for other in other_orders(location):
        yield there, read_at(source, views, other, zoom)


def _candidates(source: ImageSource, views: Views, rng: np.random.Generator) -> Iterator[NDArray[np.float32]]:
    """Yields locations without end, alternately random and on details; none is near an edge or a diagonal."""
    weights, size = _detail(views.overview(source)), np.array(views.overview_size)
    while True:
        for on_detail in (False, True):
            location = rng.uniform(-_FARTHEST, _FARTHEST, views.ndim)
            if on_detail:
                pixel = np.array(np.unravel_index(rng.choice(weights.size, p=weights), views.overview_size))
                location = (pixel + rng.random(views.ndim)) / size * 2 - 1
            location = np.clip(location, -_FARTHEST, _FARTHEST)
            gaps = np.abs(location[:, None] - location)[np.triu_indices(views.ndim, 1)]
            if (gaps > _NEAREST).all() and np.abs(location).max() > _NEAREST:
                yield location.astype(np.float32)


def _detail(overview: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns the probability of choosing each overview pixel: the more it differs from the median, the higher."""
    flat = overview.reshape(len(overview), -1).astype(np.float64)
    strength = np.abs(flat - np.median(flat, axis=1, keepdims=True)).sum(0) + 1e-3
    return strength / strength.sum()
