"""Reading volumes: speed of random glimpses beside a bare memory map's, and memory over the number of glimpses.

python -m benchmarks.volumes

The volume has 512 x 512 x 512 values of 16 bits, as .nii and as .nii.gz; it lies in memory as far as the system keeps
files there, so that what is measured is the reader and not the disk. A read is a copy out of a memory map and the
arithmetic of an intensity window; the table compares it with the copy alone and with both written out by hand.

Memory is what a process of its own has allocated (RssAnon, watched from outside every millisecond), beyond what it had
before the volume was opened. Pages of a mapped file are not counted: they are the system's copy of the file, which it
takes back at any time, and would only tell how much of the file has been touched.
"""

import argparse
import gzip
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

from benchmarks.common import ROOT, Benchmark, Row, figure, parser, table

NAME = "volumes"
KINDS = (".nii", ".nii.gz")
SPEED, MEMORY = 0.5, 1.2  # at least, of a bare slice's speed; below, of what opening and the overview take

# Freed memory goes back to the system at once: what is measured is what is in use.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2"}


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--side", type=int, default=512, help="pixels of the volume per axis (default: 512)")
    made.add_argument("--glimpse", type=int, default=32, help="pixels of a glimpse per axis (default: 32)")
    made.add_argument("--overview", type=int, default=64, help="pixels of the overview per axis (default: 64)")
    made.add_argument("--glimpses", type=int, default=100, help="of the measurement of memory (default: 100)")
    made.add_argument("--reads", type=int, default=200, help="of each way, 15 times (default: 200)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    given = bench.options
    if given.quick:
        given.side, given.glimpses, given.reads = 96, 10, 10
    with tempfile.TemporaryDirectory(dir=bench.runs) as folder:
        files = volumes(Path(folder), given.side)
        for kind in KINDS:
            _speed(bench, files, kind)
            for glimpses in (0, given.glimpses):
                _memory(bench, files, kind, glimpses)
    report(bench)


# ---------------------------------------------------------------------------------------------- the volume
def volumes(folder: Path, side: int) -> dict[str, Path]:
    """The same CT of a ball in air, in a file of each kind."""
    files = {kind: folder / f"volume{kind}" for kind in KINDS}
    header = nibabel.Nifti1Header()
    header.set_data_dtype("<i2")
    header.set_data_shape((side, side, side))
    header.set_sform(np.diag([0.5, 0.5, 0.5, 1]), "scanner")
    header["vox_offset"] = header.single_vox_offset
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 20, (side, side)).astype(np.int16)
    places = np.arange(side) - side / 2 + 0.5
    across = places[:, None] ** 2 + places**2
    with open(files[".nii"], "wb") as file:
        header.write_to(file)
        for index, place in enumerate(places):
            inside = across + place**2 < (0.4 * side) ** 2
            file.write((np.where(inside, 50, -1000) + np.roll(noise, 7 * index)).astype("<i2").tobytes())
    with open(files[".nii"], "rb") as plain, gzip.open(files[".nii.gz"], "wb", compresslevel=1) as packed:
        shutil.copyfileobj(plain, packed, 1 << 20)
    return files


# ---------------------------------------------------------------------------------------------- measuring
def _speed(bench: Benchmark, files: dict[str, Path], kind: str) -> None:
    given = bench.options
    settings = {"what": "speed", "kind": kind, "side": given.side, "glimpse": given.glimpse}
    if bench.results.find(**settings) is None:
        plain = {"plain": str(files[".nii"]), "offset": 352, "reads": given.reads, "overview": given.overview}
        bench.results.put(settings, **_probe({**settings, **plain, "path": str(files[kind])})[0])


def _memory(bench: Benchmark, files: dict[str, Path], kind: str, glimpses: int) -> None:
    given = bench.options
    sizes = {"side": given.side, "glimpse": given.glimpse, "overview": given.overview}
    settings = {"what": "memory", "kind": kind, **sizes, "glimpses": glimpses}
    if bench.results.find(**settings) is None:
        measured, peak = _probe({**settings, "path": str(files[kind])})
        bench.results.put(settings, peak_mib=peak, **measured)


def _probe(settings: Row) -> tuple[Row, float]:
    """What `benchmarks.volumes_probe` measures, with an empty cache, and its peak of memory beyond the start in MiB."""
    command = [sys.executable, "-m", "benchmarks.volumes_probe", json.dumps(settings)]
    with tempfile.TemporaryDirectory(dir=Path(settings["path"]).parent) as cache:
        environment = {**os.environ, "GLIMPSE_CACHE": cache, **(_ALLOCATOR if settings["what"] == "memory" else {})}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as child:  # type: ignore[call-overload]
            said = child.stdout.readline()
            before = peak = _allocated(child.pid) if said else 0.0
            if said:
                child.stdin.write("go\n")
                child.stdin.flush()
            while said and not select.select([child.stdout], [], [], 0.001)[0]:
                peak = max(peak, _allocated(child.pid))
            lines = child.stdout.read().splitlines()
        if child.returncode:
            raise SystemExit(f"benchmarks: measuring {settings} failed with exit code {child.returncode}; see above.")
    return json.loads(lines[-1]), peak - before


def _allocated(process: int) -> float:
    """Resident memory of a process that belongs to no file (RssAnon), in MiB; 0 once it has ended."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0) / 1024


# ---------------------------------------------------------------------------------------------- what is shown
def report(bench: Benchmark) -> None:
    """Prints the two tables and draws them."""
    given, find = bench.options, bench.results.find
    speeds, peaks = {}, {}
    for kind in KINDS:
        row = find(what="speed", kind=kind, side=given.side, glimpse=given.glimpse)
        assert row is not None, "it has just been measured"
        speeds[kind] = row
        sizes = {"side": given.side, "glimpse": given.glimpse, "overview": given.overview}
        pair = [find(what="memory", kind=kind, **sizes, glimpses=n) for n in (0, given.glimpses)]
        peaks[kind] = [row for row in pair if row is not None]
    ways = ("slice_us", "window_us", "read_us")
    header = ("microseconds", "slice", "slice and window", "source", "speed of slice", "speed of both")
    ratios = {
        kind: (row["slice_us"] / row["read_us"], row["window_us"] / row["read_us"]) for kind, row in speeds.items()
    }
    print(table(header, [[kind, *(row[way] for way in ways), *ratios[kind]] for kind, row in speeds.items()]))
    worst = min(ratio for ratio, _ in ratios.values())
    _print_target(worst, f"at least {SPEED}", worst >= SPEED)
    header = ("peak, MiB", "overview", f"and {given.glimpses} glimpses", "ratio", "opening, s", "overview, s")
    growth = {kind: rows[1]["peak_mib"] / rows[0]["peak_mib"] for kind, rows in peaks.items()}
    seconds = ("open_seconds", "overview_seconds")
    print(
        table(
            header,
            [
                [kind, *(row["peak_mib"] for row in rows), growth[kind], *(rows[0][name] for name in seconds)]
                for kind, rows in peaks.items()
            ],
        )
    )
    worst = max(growth.values())
    _print_target(worst, f"below {MEMORY}", worst < MEMORY)
    _draw(bench, speeds, peaks)


def _print_target(worst: float, target: str, reached: bool) -> None:
    print(f"worst: {worst:.3f} (target: {target}; {'reached' if reached else 'not reached'})")


def _draw(bench: Benchmark, speeds: dict[str, Row], peaks: dict[str, list[Row]]) -> None:
    made, left = figure(9.6, 4.0)
    made.clear()
    left, right = made.subplots(1, 2)
    side = bench.options.glimpse
    for shift, (kind, row) in zip((-0.2, 0.2), speeds.items(), strict=True):
        left.bar(np.arange(3) + shift, [row[f"{way}_us"] for way in ("slice", "window", "read")], 0.35, label=kind)
        right.bar(np.arange(2) + shift, [row["peak_mib"] for row in peaks[kind]], 0.35, label=kind)
    left.set_xticks(range(3), ["slice of a\nmemory map", "slice and\nwindow", "source"])
    left.set(ylabel="microseconds", title=f"a glimpse of {side} x {side} x {side} at a random place")
    right.set_xticks(range(2), ["overview", f"overview and\n{bench.options.glimpses} glimpses"])
    right.set(ylabel="MiB", title="memory beyond that of the process")
    for axes in (left, right):
        axes.grid(alpha=0.3, axis="y")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right")
    bench.picture(made)


if __name__ == "__main__":
    main()
