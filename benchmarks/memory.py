"""Peak memory of one training update over the number of glimpses, and of reading a slide over its size.

python -m benchmarks.memory

Each measurement has a process of its own. What counts is the memory needed beyond what was resident before: without
the interpreter, PyTorch and the network, and for an update without the stored episodes, which are listed beside it.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.common import ROOT, Benchmark, Row, figure, parser, table
from benchmarks.slides import slide_of

NAME = "memory"
TARGETS = {"update": 1.5, "reading": 1.1}  # the largest over the first

# Freed memory goes back to the system at once, and OpenSlide keeps few tiles: what is measured is what is in use, not
# what the allocator and a cache of bounded size keep for later. What is smaller than a page it keeps all the same.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_TRIM_THRESHOLD_": "4096", "MALLOC_ARENA_MAX": "2"}
ENVIRONMENT = {**_ALLOCATOR, "GLIMPSE_OPENSLIDE_CACHE_MB": "4"}


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--glimpses", type=int, nargs="+", default=[16, 64, 256, 1024], help="per episode of an update")
    made.add_argument("--megapixels", type=float, nargs="+", default=[1.0, 4.0, 16.0, 64.0, 100.0], help="of a slide")
    made.add_argument("--episodes", type=int, default=2, help="of an update (default: 2, of the same case)")
    made.add_argument(
        "--chunk", type=int, default=32, help="glimpses encoded at once (default: 32, which even 16 fill)"
    )
    made.add_argument("--glimpse-size", type=int, default=64, help="pixels of a glimpse (default: 64)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    given = bench.options
    if given.quick:
        given.glimpses, given.megapixels = [4, 8], [1.0, 2.0]
    for chunk in (given.chunk, 0):
        for glimpses in given.glimpses:
            _update(bench, glimpses, chunk)
    for megapixels in given.megapixels:
        _reading(bench, megapixels)
    report(bench)


def _update(bench: Benchmark, glimpses: int, chunk: int) -> None:
    given = bench.options
    settings = {
        "what": "update",
        "glimpses": glimpses,
        "chunk": chunk,
        "episodes": given.episodes,
        "glimpse_size": given.glimpse_size,
    }
    if bench.results.find(**settings) is None:
        # 32 x 32 cells, so that a thousand glimpses find a cell each.
        measured = probed(bench, {**settings, "image": 32 * given.glimpse_size})
        bench.results.put(settings, **measured)


def _reading(bench: Benchmark, megapixels: float) -> None:
    settings = {"what": "reading", "megapixels": megapixels, "glimpses": 4 if bench.options.quick else 16}
    if bench.results.find(**settings) is None:
        slides = {"slide": slide_of(megapixels, bench.runs), "other": slide_of(1.5, bench.runs)}
        measured = probed(bench, {**settings, **{name: str(path) for name, path in slides.items()}})
        bench.results.put(settings, **measured)


def probed(bench: Benchmark, settings: Row, by: str = "memory_probe") -> Row:
    """Runs a probe, such as `benchmarks.memory_probe`, in a process of its own; its last line is the result."""
    settings = {**settings, "threads": bench.options.threads, "device": bench.options.device}
    command = [sys.executable, "-m", f"benchmarks.{by}", json.dumps(settings)]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"benchmarks: measuring {settings} failed with exit code {done.returncode}; see above.")
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------------------------------------- what is shown
def report(bench: Benchmark) -> None:
    """Prints the two tables and draws them."""
    given, rows = bench.options, bench.results.rows
    wanted = {"what": "update", "episodes": given.episodes, "glimpse_size": given.glimpse_size}
    updates = {chunk: _chosen(rows, "glimpses", **wanted, chunk=chunk) for chunk in (given.chunk, 0)}
    readings = _chosen(rows, "megapixels", what="reading")
    header = ("glimpses per episode", "chunk", "update, MiB", "rollout, MiB", "stored episodes, MiB", "process, MiB")
    names = ("chunk", "update_mib", "rollout_mib", "stored_mib", "process_mib")
    print(
        table(header, [[str(row["glimpses"]), *(row[n] for n in names)] for part in updates.values() for row in part])
    )
    _print_ratio("update", "update_mib", updates[given.chunk])
    header = ("megapixels", "reading, MiB", "s/case", "process, MiB")
    print(table(header, [[f"{r['megapixels']:g}", r["reading_mib"], r["seconds"], r["process_mib"]] for r in readings]))
    _print_ratio("reading", "reading_mib", readings)
    _draw(bench, updates, readings)


def _chosen(rows: Sequence[Row], order: str, **settings: Any) -> list[Row]:
    return sorted((row for row in rows if settings.items() <= row.items()), key=lambda row: row[order])


def _print_ratio(what: str, name: str, rows: Sequence[Row]) -> None:
    target = TARGETS[what]
    for shown, key in (("beyond what was resident", name), ("whole process", "process_mib")):
        ratio = max(row[key] for row in rows) / rows[0][key]
        reached = "reached" if ratio <= target else "not reached"
        print(f"largest / first, {shown}: {ratio:.3f} (target: at most {target}; {reached})")


def _draw(bench: Benchmark, updates: dict[int, list[Row]], readings: list[Row]) -> None:
    made, left = figure(9.6, 4.0)
    made.clear()
    left, right = made.subplots(1, 2)
    for chunk, rows in updates.items():
        label = f"in chunks of {chunk}" if chunk else "all at once"
        left.plot([row["glimpses"] for row in rows], [row["update_mib"] for row in rows], marker="o", label=label)
    stored = updates[bench.options.chunk]
    glimpses = [row["glimpses"] for row in stored]
    left.plot(glimpses, [row["stored_mib"] for row in stored], "k:", label="stored episodes")
    left.set(xscale="log", yscale="log", xlabel="glimpses per episode", ylabel="MiB", title="one training update")
    left.legend()
    right.plot([row["megapixels"] for row in readings], [row["reading_mib"] for row in readings], marker="o")
    right.set(xscale="log", ylim=(0, None), xlabel="megapixels", ylabel="MiB", title="reading a slide and answering")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    bench.picture(made)


if __name__ == "__main__":
    main()
