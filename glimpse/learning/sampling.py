"""Reads the random glimpses from which an encoder learns without labels."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from glimpse.cohort import Case
from glimpse.ranks.sharing import gathered_array, share_of
from glimpse.sources import ImageSource
from glimpse.views import Views


def sample_glimpses(
    cases: Sequence[Case],
    views: Views,
    count: int,
    *,
    margin: float = 1.0,
    seed: int = 0,
    threads: int = 2,
    progress: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """Reads glimpses at random foreground locations of random cases; returns uint8 (count, channel, *size).

    Args:
        cases: The cases to read.
        views: Sizes and fields of view of glimpses.
        count: How many glimpses to read in all.
        margin: Factor by which field of view and size are enlarged, as room for shifts and turns.
        seed: Seed of the choice of cases and locations.
        threads: How many threads read.
        progress: Called for each case with the number of glimpses that are read from it.
    """
    rng = np.random.default_rng(seed)
    per_case = np.bincount(rng.integers(len(cases), size=count), minlength=len(cases))
    seeds = rng.integers(2**63, size=len(cases))

    def read(index: int) -> list[np.ndarray]:
        source, number = cases[index].source, int(per_case[index])
        locations, zooms = random_places(views, source, number, np.random.default_rng(seeds[index]))
        if progress is not None:
            progress(number)
        both = zip(locations, zooms.tolist(), strict=True)
        return [views.glimpse(source, location, zoom, margin) for location, zoom in both]

    indices = np.flatnonzero(per_case)
    own = indices[share_of(len(indices)).own].tolist()  # ranks read different cases, and have all glimpses in the end
    with ThreadPoolExecutor(threads) as pool:
        found = list(itertools.chain.from_iterable(pool.map(read, own)))
    shape = views.glimpse(cases[0].source, np.zeros(views.ndim, np.float32), 0, margin).shape if not found else ()
    return gathered_array(np.stack(found) if found else np.zeros((0, *shape), np.uint8))


def random_places(
    views: Views, source: ImageSource, count: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "count d"], Int64[np.ndarray, " count"]]:
    """Draws locations in [-1, 1] evenly from a source's foreground, and for each the index of a field of view."""
    inside = views.foreground(source)[0] > 0
    pixels = np.argwhere(inside)[rng.integers(int(inside.sum()), size=count)]
    size = np.array(inside.shape)
    locations = (pixels + rng.random((count, len(size)))) / size * 2 - 1
    return locations.astype(np.float32), rng.integers(len(views.glimpse_extents), size=count)
