"""How long the first command of the README takes after the installation, beside another version of the code.

python -m benchmarks.first_command --before <checkout of another version>

Everything is included: painting the cohort, training, and the report. Both versions run one after the other, once with
nothing else running and once with a program that keeps one core busy.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.common import ROOT, Benchmark, Row, figure, parser, table

NAME = "first_command"
COMMAND = ("-m", "glimpse.train", "env=wsi", "agent=ppo", "progress=false")
_SPIN = "while True: pass"


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--before", type=Path, help="folder of a checkout of another version to compare with")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    before = bench.options.before
    if before is not None and not (before / "glimpse" / "train.py").is_file():
        bench.error(f"--before {before}: no checkout of this project (glimpse/train.py is not there).")
    versions = {"now": ROOT, **({} if before is None else {"before": before.resolve()})}
    for busy in (False, True):
        for version, checkout in versions.items():
            settings = {"version": version, "busy": busy}
            if bench.results.find(**settings) is None:
                bench.results.put(settings, **_measure(bench, checkout, busy))
    report(bench)


def _measure(bench: Benchmark, checkout: Path, busy: bool) -> Row:
    """Runs the command with an empty cache; returns the seconds on the clock and those of the processors."""
    extra = ("experiment=smoke",) if bench.options.quick else ()
    with TemporaryDirectory() as folder, _busy_core(busy):
        environment = os.environ | {"PYTHONPATH": str(checkout), "XDG_CACHE_HOME": f"{folder}/cache"}
        environment.pop("OMP_NUM_THREADS", None)
        began, used = time.perf_counter(), _processor_seconds()
        command = [sys.executable, *COMMAND, *extra, f"run={folder}/run"]
        subprocess.run(command, cwd=folder, env=environment, check=True)
        return {"seconds": time.perf_counter() - began, "processor_seconds": _processor_seconds() - used}


def _processor_seconds() -> float:
    """Returns the seconds that ended child processes have used, without the one that keeps a core busy."""
    times = os.times()
    return times.children_user + times.children_system


@contextmanager
def _busy_core(busy: bool) -> Iterator[None]:
    """Keeps one core busy inside, if asked to."""
    spinning = subprocess.Popen([sys.executable, "-c", _SPIN]) if busy else None
    try:
        yield
    finally:
        if spinning is not None:
            spinning.kill()
            spinning.wait()


def report(bench: Benchmark) -> None:
    """Prints a line for each version, with and without a busy core, and draws the seconds."""
    rows = sorted(bench.results.rows, key=lambda row: (row["busy"], row["version"]))
    lines, made = [], figure(6.4, 0.9 + 0.4 * len(rows))
    for place, row in enumerate(rows):
        other = bench.results.find(version="before", busy=row["busy"])
        share = row["seconds"] / other["seconds"] if other else None
        name = f"{row['version']}, {'one core busy' if row['busy'] else 'quiet'}"
        lines.append([name, row["seconds"], row["processor_seconds"], share])
        made[1].barh(place, row["seconds"], color="tab:blue" if row["version"] == "now" else "tab:gray")
    print(table(("version", "seconds", "processor seconds", "share of before"), lines))
    made[1].set(xlabel="seconds", yticks=range(len(rows)), yticklabels=[line[0] for line in lines])
    bench.picture(made[0])


if __name__ == "__main__":
    main()
