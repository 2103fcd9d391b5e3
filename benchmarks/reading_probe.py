"""One measurement of `benchmarks.reading`, in a process of its own: it prints reads per second as its last line.

python -m benchmarks.reading_probe '{"what": "environment", "cohort": "cohort.csv", ...}'
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide

from glimpse.cohort import Cohort
from glimpse.envs.modality import make_modality
from glimpse.envs.vector import GlimpseVecEnv
from glimpse.tasks import Classification
from glimpse.views import Views

_CACHE = 512 * 2**20  # bytes of decoded tiles, as glimpse keeps them

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
    if given["what"] == "environment":
        seconds = _environment(envs, places, given["threads"])
    else:
        seconds = _raw(_boxes(envs, places), given["threads"])
    count = given["steps"] * given["lanes"]
    print(json.dumps({"by_clock": count / seconds[0], "by_processor": count / seconds[1]}))


def _environment(envs: list[Any], places: np.ndarray, threads: int) -> tuple[float, float]:
    """Steps all lanes together, at the given places; the overviews that a reset reads do not count."""
    vector = GlimpseVecEnv(envs, threads=threads, park=True)
    vector.reset()
    lanes, layout = len(envs), vector.layout
    seconds, answers = np.zeros(2), np.zeros((lanes, layout.outputs), np.float32)
    for step in places:
        packed, began = layout.pack(step, np.zeros(lanes, bool), answers), _clocks()
        vector.step(packed)
        seconds += _clocks() - began
    vector.close()
    return float(seconds[0]), float(seconds[1])


def _clocks() -> np.ndarray:
    """Seconds by the clock, and of the processor in all threads."""
    return np.array([time.perf_counter(), time.process_time()])


def _boxes(envs: list[Any], places: np.ndarray) -> list[Box]:
    """The regions from which the environments' glimpses are made, in the order in which they are read."""
    boxes = []
    for step in places:
        for env, place in zip(envs, step, strict=True):
            source, views = env.cases[0].source, env.views
            boxes.append(_box(source, views, place))
    return boxes


def _box(source: Any, views: Views, place: np.ndarray) -> Box:
    low, high = views.shown(source, place) + np.asarray(source.offset)
    with openslide.OpenSlide(source.path) as slide:
        downsamples = slide.level_downsamples
    wanted = views.extent(source)[0] / views.glimpse_size[0]
    level = max(i for i, one in enumerate(downsamples) if i == 0 or one <= wanted * 1.01)
    size = np.round((high - low) / downsamples[level]).astype(int)
    return str(source.path), (int(low[1]), int(low[0])), level, (int(size[1]), int(size[0]))


def _raw(boxes: list[Box], threads: int) -> tuple[float, float]:
    """Reads the same regions with OpenSlide alone, by as many threads, with a cache of the same size."""
    cache = openslide.OpenSlideCache(_CACHE)
    slides = {path: openslide.OpenSlide(Path(path)) for path in {box[0] for box in boxes}}
    for slide in slides.values():
        slide.set_cache(cache)
        slide.read_region((0, 0), slide.level_count - 1, (1, 1))

    def read(box: Box) -> Any:
        return slides[box[0]].read_region(*box[1:])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(len, [()] * threads))  # so that the threads are there
        began = _clocks()
        for _ in pool.map(read, boxes):
            pass
        seconds = _clocks() - began
    return float(seconds[0]), float(seconds[1])


if __name__ == "__main__":
    main()
