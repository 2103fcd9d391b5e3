"""Places of an image that tell one order of axes from another; for the contract checker."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glimpse.sources import ImageSource
from glimpse.views import Views

PIXEL_TOLERANCE = 1.0  # mean grey levels by which a glimpse may differ from what lies at its location
TRIES = 40  # places looked at before one is given up
_NEAREST, _FARTHEST = 0.08, 0.9  # of a location's axes from the middle


@dataclass(frozen=True)
class Places:
    """Locations in one image.

    Attributes:
        locations: float32 `(count, d)`.
        telling: Which of them show something else when their axes are read in any other order: bool `(count,)`.
    """

    locations: NDArray[np.float32]
    telling: NDArray[np.bool_]


def find_places(source: ImageSource, views: Views, zooms: NDArray[np.int64], seed: int) -> Places:
    """Looks for telling places, one per zoom of `zooms`: at random, and where the overview shows something.

    Most places of an image with a few strokes on black are black, whatever the order of their axes.
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
    """Reads by [-1, 1] -> pixels alone, `(location + 1) / 2 * shape`, not by `Views`."""
    center = (location.astype(np.float64) + 1) / 2 * np.array(source.shape)
    return source.read(center, views.extent(source, zoom), views.glimpse_size)


def other_orders(location: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The location with its axes in every other order, the reversed one first."""
    axes = tuple(range(len(location)))
    return [location[list(order)] for order in list(itertools.permutations(axes))[:0:-1]]


def differ(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Mean difference in grey levels."""
    return float(np.abs(one.astype(np.float32) - other.astype(np.float32)).mean())


def _orders(
    source: ImageSource, views: Views, location: NDArray[np.float32], zoom: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    there = read_at(source, views, location, zoom)
    for other in other_orders(location):
        yield there, read_at(source, views, other, zoom)


def _candidates(source: ImageSource, views: Views, rng: np.random.Generator) -> Iterator[NDArray[np.float32]]:
    """Locations without end, off the edges and the diagonals: random ones, and ones on what stands out, in turn."""
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
    """How likely each overview pixel is to be looked at: by how far it is from the most common grey level."""
    flat = overview.reshape(len(overview), -1).astype(np.float64)
    strength = np.abs(flat - np.median(flat, axis=1, keepdims=True)).sum(0) + 1e-3
    return strength / strength.sum()
