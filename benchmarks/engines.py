"""Sixty slides, five of them broken, predicted by each engine: seconds, and whether the bytes are the same.

python -m benchmarks.engines

One process, two processes that share the output folder, two actors of Ray, and two jobs of submitit on this machine.
What an engine needs must be installed: pip install -e ".[ray,slurm]". The seconds hold the start of Python, of Ray and
of the jobs.
"""

import argparse
import subprocess
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.common import ROOT, Benchmark, Row, figure, parser, table
from benchmarks.sixty_slides import command, counts, digests, environment, make_slides, train, words

NAME = "engines"
WAYS: dict[str, tuple[int, tuple[str, ...], str]] = {
    "one process": (1, (), ""),
    "two processes": (2, (), ""),
    "engine=ray workers=2": (1, ("engine=ray", "workers=2"), "ray"),
    "engine=submitit workers=2": (1, ("engine=submitit", "workers=2", "jobs={cluster: local}"), "submitit"),
}
"""How slides are predicted: how many commands at once, what each is told, and what it needs."""


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--slides", type=int, default=60, help="slides, at least 30 (default: 60)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    given = bench.options
    if given.quick:
        given.slides = 30
    if given.slides < 30:
        bench.error("--slides: give at least 30, five of which are broken")
    cohort, _ = make_slides(bench.runs / "slides", given.slides)
    if not (bench.runs / "run" / "metrics.json").exists():
        train(bench, cohort)
    for way, (_, _, needed) in WAYS.items():
        if bench.results.find(what=way, slides=given.slides) is None:
            if needed and find_spec(needed) is None:
                print(f"{way}: left out, since {needed} is not installed")
                continue
            began = time.perf_counter()
            row = _predict(bench, way, cohort.parent / "slides")
            bench.results.put({"what": way, "slides": given.slides}, **row, seconds=time.perf_counter() - began)
    report(bench)


def _predict(bench: Benchmark, way: str, slides: Path) -> Row:
    """Predicts all slides in one way; the first one is what the others are compared with."""
    count, told, _ = WAYS[way]
    folders = {name: bench.runs / name.replace(" ", "-").replace("=", "-") for name in WAYS}
    line = command(*words(bench.runs / "run", slides, folders[way]), *told)
    both = [
        subprocess.Popen(line, cwd=ROOT, env=environment(bench), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(count)
    ]
    codes = [process.wait() for process in both]
    own, first = (
        {file: digest for file, digest in digests(folder).items() if not file.startswith("jobs/")}
        for folder in (folders[way], folders[next(iter(WAYS))])
    )
    return counts(folders[way]) | {"same": own == first, "files": len(own), "codes": codes}


def report(bench: Benchmark) -> None:
    """Prints what each way has written, and draws how long it took."""
    rows = [row for row in bench.results.rows if row["slides"] == bench.options.slides]
    names = ("seconds", "predicted", "failed", "files", "same", "codes")
    header = ("way", "s", "predicted", "failed", "files", "same bytes", "exit codes")
    print(table(header, [[row["what"], *(row[name] for name in names)] for row in rows]))
    made, axes = figure(6.4, 2.2)
    axes.barh([row["what"] for row in rows][::-1], [row["seconds"] for row in rows][::-1], color="tab:blue")
    axes.set(xlabel="seconds")
    bench.picture(made)


if __name__ == "__main__":
    main()
