"""One measurement of `benchmarks.volumes`: python -m benchmarks.volumes_probe '{"what": "speed", "path": ..., ...}'.

It prints a line when it is about to begin and waits for one, so that whoever started it can watch its memory from
outside; the last line printed is its result as JSON.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from glimpse.sources import VolumeSource, open_source

WINDOW = (-160.0, 240.0)
_ROUNDS = 15


def speed(settings: dict[str, Any], source: VolumeSource) -> dict[str, float]:
    """Microseconds per block at random places, all ways in turn, so that what disturbs one disturbs all.

    `slice` copies a block out of a memory map, `window` does that and the arithmetic of an intensity window in as many
    lines, `read` is the source.
    """
    side, size = settings["glimpse"], source.shape
    values = np.memmap(settings["plain"], "<i2", "r", settings["offset"], size)
    low, scale = np.float32(WINDOW[0]), np.float32(255 / (WINDOW[1] - WINDOW[0]))

    def sliced(place: Any) -> np.ndarray:
        z, y, x = place
        return np.array(values[z : z + side, y : y + side, x : x + side])

    def windowed(place: Any) -> np.ndarray:
        return (np.clip((sliced(place) - low) * scale, 0, 255) + np.float32(0.5)).astype(np.uint8)

    def read(place: Any) -> np.ndarray:
        return source.read(place + side / 2, side, (side, side, side))[0]

    ways = {"slice": sliced, "window": windowed, "read": read}
    rng = np.random.default_rng(0)
    for place in rng.integers(0, np.subtract(size, side) + 1, (8, 3)):
        np.testing.assert_array_equal(read(place), windowed(place))
    source.overview((settings["overview"],) * 3)  # agents begin with it; it brings all pages of the map into reach
    values.max()  # so for the bare one, too
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            places = rng.integers(0, np.subtract(size, side) + 1, (settings["reads"], 3))
            seconds[name].append(_seconds(way, places))
    return {f"{name}_us": median(taken) / settings["reads"] * 1e6 for name, taken in seconds.items()}


def _seconds(way: Callable[[Any], np.ndarray], places: np.ndarray) -> float:
    started = time.perf_counter()
    for place in places:
        way(place)
    return time.perf_counter() - started


def memory(settings: dict[str, Any], source: VolumeSource) -> dict[str, float]:
    """Opens a volume, makes its overview and reads glimpses at random places; all of them are kept."""
    side = settings["glimpse"]
    started = time.perf_counter()
    source.check()
    opened = time.perf_counter()
    kept = [source.overview((settings["overview"],) * 3)]
    made = time.perf_counter()
    for place in np.random.default_rng(0).random((settings["glimpses"], 3)):
        kept.append(source.read(place * source.shape, side, (side, side, side)))
    return {"open_seconds": opened - started, "overview_seconds": made - opened}


def main(arguments: Sequence[str]) -> None:
    settings = json.loads(arguments[0])
    source = open_source(settings["path"], windows=WINDOW)
    _ = source.shape  # imports the reader of headers, which is no part of a volume
    print("ready", flush=True)
    sys.stdin.readline()
    measured = {"speed": speed, "memory": memory}[settings["what"]](settings, source)  # type: ignore[arg-type]
    print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
