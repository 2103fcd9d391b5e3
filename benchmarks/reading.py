"""Reads per second through the environment beside OpenSlide alone, and seconds until a saved run has read a slide.

python -m benchmarks.reading

Both read the same regions of the same slides, at random places, with as many threads and by turns, a few steps of all
lanes each; each has a cache of decoded tiles of its own, and one of them is first as often as the other. There are 64
lanes, as a training of `env=wsi agent=ppo` steps together. The second table is a process that loads a trained run and
reads one slide, beside one that imports the packages which every such process needs. Seconds are those of the clock and
those of the processor, which other work on the machine changes less.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import ROOT, Benchmark, Row, figure, parser, setting, table
from glimpse.synthetic.slides.recipe import embedded_cohort

NAME = "reading"
OF_RAW, OF_IMPORTS = 0.9, 1.5  # wanted: at least, at most
READERS = ("environment", "openslide")
SHORT = (
    "warm_up.glimpses_per_case=8",
    "warm_up.glimpses_per_patch=0",
    "warm_up.batch=4",
    "warm_up.steps=2",
    "joint.updates=2",
    "agent.algorithm.cases_per_rollout=2",
    "agent.algorithm.rollouts_per_case=2",
)
"""A short training: how long a reading takes does not depend on what was learned."""
IMPORTS = "import torch, stable_baselines3, openslide, matplotlib"
READS = "import sys, glimpse; print(glimpse.load(sys.argv[1]).read(sys.argv[2]).answer)"


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--read-threads", type=int, nargs="+", default=[1, 2], help="threads that read (default: 1 2)")
    made.add_argument("--lanes", type=int, default=64, help="environments that are stepped together (default: 64)")
    made.add_argument("--steps", type=int, default=16, help="glimpses of each (default: 16)")
    made.add_argument("--repeats", type=int, default=6, help="processes; medians count (default: 6)")
    made.add_argument("--overrides", nargs="+", default=[], help="settings of the training of the second table")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    given = bench.options
    if given.quick:
        given.read_threads, given.lanes, given.steps, given.repeats = [1], 4, 4, 1
    size, count = (1024, 12) if given.quick else (3072, 6)
    cohort = embedded_cohort(bench.runs / "slides", count, size=size)
    for threads in given.read_threads:
        settings = {"what": "reads", "read_threads": threads, "lanes": given.lanes, "steps": given.steps}
        if bench.results.find(**settings) is None:
            bench.results.put(settings, **_reads(bench, cohort, settings))
    settings = {"what": "start", "overrides": " ".join(given.overrides)}
    if bench.results.find(**settings) is None:
        bench.results.put(settings, **_start(bench, cohort))
    report(bench)


def _reads(bench: Benchmark, cohort: Path, settings: Row) -> Row:
    """Medians over processes, each of which reads at other places."""
    found = []
    for repeat in range(bench.options.repeats):
        asked = {"cohort": str(cohort), "lanes": settings["lanes"], "steps": settings["steps"],
                 "threads": settings["read_threads"], "seed": repeat}  # fmt: skip
        said = _timed([sys.executable, "-m", "benchmarks.reading_probe", json.dumps(asked)])[2]
        found.append(json.loads(said.splitlines()[-1]))
    row: Row = {}
    for clock, key in (("", "by_clock"), ("_processor", "by_processor")):
        ratios = [one["environment"][key] / one["openslide"][key] for one in found]
        row |= {f"{name}{clock}": statistics.median(one[name][key] for one in found) for name in READERS}
        row |= {f"of_raw{clock}": statistics.median(ratios), f"ratios{clock}": ratios}
    return row


def _start(bench: Benchmark, cohort: Path) -> Row:
    trained = bench.train("start", ["env=wsi", *SHORT, setting("env.cohort.path", cohort), *bench.options.overrides])
    slide = next((cohort.parent / "slides").glob("*.svs"))
    commands = {
        "imports": [sys.executable, "-c", IMPORTS],
        "reading": [sys.executable, "-c", READS, str(trained.folder), str(slide)],
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(bench.options.repeats + 1):
        for name, command in commands.items():
            found[name].append(_timed(command)[:2])
    row: Row = {}
    for clock, index in (("", 0), ("_processor", 1)):  # the first of each kind fills the caches of the system
        middle = {name: statistics.median(one[index] for one in times[1:]) for name, times in found.items()}
        row |= {f"{name}{clock}": value for name, value in middle.items()}
        row[f"of_imports{clock}"] = middle["reading"] / middle["imports"]
    return {**row, "all": found}


def _timed(command: Sequence[str]) -> tuple[float, float, str]:
    """Runs a command; returns the seconds it has taken, by the clock and of the processor, and what it has printed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled modules are kept, as for users
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"benchmarks: {' '.join(command[:3])} ended with {done.returncode}; see above.")
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


# ---------------------------------------------------------------------------------------------- what is shown
def report(bench: Benchmark) -> None:
    """Prints both tables, with what was wanted, and draws the first."""
    rows = bench.results.rows
    reads = [row for row in rows if row["what"] == "reads"]
    columns = [f"{name}{clock}" for clock in ("", "_processor") for name in (*READERS, "of_raw")]
    lines = [[str(row["read_threads"]), str(row["lanes"]), *(row[name] for name in columns)] for row in reads]
    header = ("environment, reads/s", "OpenSlide, reads/s", "ratio", "of the processor", "OpenSlide", "ratio")
    print(table(("threads", "lanes", *header), lines))
    print(f"wanted: at least {OF_RAW}")
    starts = [row for row in rows if row["what"] == "start"]
    lines = [[name, *(row[f"{column}{clock}"] for column in ("reading", "imports", "of_imports"))] for row in starts
             for name, clock in (("by the clock", ""), ("of the processor", "_processor"))]  # fmt: skip
    print(table(("one slide, from a cold process", "reading, s", "imports, s", "of the imports"), lines))
    print(f"wanted: at most {OF_IMPORTS}")
    made, axes = figure(5.2, 3.2)
    threads = [f"{row['read_threads']}, {row['lanes']} lanes" for row in reads]
    for shift, name in zip((-0.2, 0.2), READERS, strict=True):
        axes.bar([i + shift for i in range(len(reads))], [row[name] for row in reads], 0.4, label=name)
    axes.set(xticks=range(len(reads)), xticklabels=threads, xlabel="threads", ylabel="reads per second")
    axes.legend()
    bench.picture(made)


if __name__ == "__main__":
    main()
