"""One measurement of `benchmarks.reading`, in a process of its own: it prints reads per second as its last line.

python -m benchmarks.reading_probe '{"cohort": "cohort.csv", "lanes": 64, "steps": 16, "threads": 2, "seed": 0}'
"""

import json
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openslide

from glimpse.cohort import Cohort
from glimpse.envs.modality import make_modality
from glimpse.envs.vector import GlimpseVecEnv
from glimpse.tasks import Classification
from glimpse.views import Views

_CACHE = 512 * 2**20  # bytes of decoded tiles, as glimpse keeps them
_STEPS = 2  # of all lanes by one, then the same regions by the other
_CLOCKS = ("by_clock", "by_processor")

Box = tuple[str, tuple[int, int], int, tuple[int, int]]
"""A path, and what `read_region` is asked for: the corner (x, y), the level and the size."""


def main() -> None:
    given = json.loads(sys.argv[1])
    cohort = Cohort.from_csv(given["cohort"], Classification((0, 1)), source_options={"reader": "slide"})
    places = np.random.default_rng(given["seed"]).uniform(-0.8, 0.8, (given["steps"], given["lanes"], 2))
    places = places.astype(np.float32)
    envs = [
        make_modality([cohort[lane % len(cohort)]], None, modality="wsi", max_glimpses=given["steps"], shuffle=False)
        for lane in range(given["lanes"])
    ]
    readers = {"environment": Environment(envs, given["threads"]), "openslide": Raw(envs, given["threads"])}
    seconds = {name: np.zeros(2) for name in readers}
    for turn, begin in enumerate(range(0, given["steps"], _STEPS)):  # a machine that slows down slows down both
        # Who is second finds the file's bytes at hand, so each is first as often: a b, b a, b a, a b and so on.
        for name in sorted(readers, reverse=bool((turn + turn // 2 + given["seed"]) % 2)):
            seconds[name] += readers[name].seconds(places[begin : begin + _STEPS])
    count = given["steps"] * given["lanes"]
    print(json.dumps({name: dict(zip(_CLOCKS, count / one, strict=True)) for name, one in seconds.items()}))


class Environment:
    """Steps all lanes together; the overviews that a reset reads do not count."""

    def __init__(self, envs: list[Any], threads: int) -> None:
        self.vector = GlimpseVecEnv(envs, threads=threads, park=True)
        self.vector.reset()

    def seconds(self, places: np.ndarray) -> np.ndarray:
        """Reads glimpses at places `(step, lane, 2)`; returns the seconds of both clocks."""
        lanes, layout = self.vector.num_envs, self.vector.layout
        seconds, answers = np.zeros(2), np.zeros((lanes, layout.outputs), np.float32)
        for step in places:
            packed, began = layout.pack(step, np.zeros(lanes, bool), answers), _clocks()
            self.vector.step(packed)
            seconds += _clocks() - began
        return seconds


class Raw:
    """Reads the same regions with OpenSlide alone, by as many threads, with a cache of the same size."""

    def __init__(self, envs: list[Any], threads: int) -> None:
        self.lanes = [(env.cases[0].source, env.views) for env in envs]
        cache = openslide.OpenSlideCache(_CACHE)
        self.slides = {str(source.path): openslide.OpenSlide(source.path) for source, _ in self.lanes}
        for slide in self.slides.values():
            slide.set_cache(cache)
            slide.read_region((0, 0), slide.level_count - 1, (1, 1))
        self.others = threads - 1  # the caller's thread reads, too, as in the environment
        self.pool = ThreadPoolExecutor(threads)
        list(self.pool.map(len, [()] * threads))  # so that the threads are there

    def seconds(self, places: np.ndarray) -> np.ndarray:
        """Reads the regions of glimpses at places `(step, lane, 2)`; returns the seconds of both clocks."""
        boxes = deque(self._box(lane, place) for step in places for lane, place in zip(self.lanes, step, strict=True))
        began = _clocks()
        reading = [self.pool.submit(self._read, boxes) for _ in range(self.others)]
        self._read(boxes)
        for one in reading:
            one.result()
        return _clocks() - began

    def _read(self, boxes: deque[Box]) -> None:
        """Reads one region after another until none is left."""
        while boxes:
            try:
                path, *region = boxes.popleft()
            except IndexError:  # another thread took the last one
                return
            self.slides[path].read_region(*region)

    def _box(self, lane: tuple[Any, Views], place: np.ndarray) -> Box:
        """The region from which the environment's glimpse at a place is made."""
        source, views = lane
        low, high = views.shown(source, place) + np.asarray(source.offset)
        downsamples = self.slides[str(source.path)].level_downsamples
        wanted = views.extent(source)[0] / views.glimpse_size[0]
        level = max(i for i, one in enumerate(downsamples) if i == 0 or one <= wanted * 1.01)
        size = np.round((high - low) / downsamples[level]).astype(int)
        return str(source.path), (int(low[1]), int(low[0])), level, (int(size[1]), int(size[0]))


def _clocks() -> np.ndarray:
    """Seconds by the clock, and of the processor in all threads."""
    return np.array([time.perf_counter(), time.process_time()])


if __name__ == "__main__":
    main()
