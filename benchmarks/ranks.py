"""Two processes with one thread each (torchrun) beside one process with one thread and with two: seconds of each stage.

python -m benchmarks.ranks

The three trainings make the same updates on the same cases, one training after another. Reading and encoding what a
stage learns from belong to it; validation and report are left out. The encoder has to be one that is trained.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.common import QUICK, QUICK_CASES, ROOT, Benchmark, Row, figure, parser, setting, table

NAME = "ranks"
WAYS = ((1, 1), (1, 2), (2, 1))  # processes, and threads of each
STAGES = ("pretrain", "warm_up", "joint")
_STEPS = ("pretrain.steps=60", "warm_up.steps=300", "joint.updates=20")


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--env", default="relations", help="environment (default: relations)")
    made.add_argument("--overrides", nargs="+", default=[], help="of the trainings, such as joint.updates=40")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    for processes, threads in WAYS:
        overrides = " ".join(bench.options.overrides)
        settings = {"env": bench.options.env, "processes": processes, "threads": threads, "overrides": overrides}
        if bench.results.find(**settings) is None:
            bench.results.put(settings, **measure(bench, processes, threads))
    report(bench)


def measure(bench: Benchmark, processes: int, threads: int) -> Row:
    """Trains once, and returns the seconds of each stage and of all together."""
    folder = bench.runs / f"{bench.options.env}-{processes}x{threads}"
    many = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    fixed = [f"env={bench.options.env}", *_STEPS, "joint.validate_every=0", "features_cache=null", f"threads={threads}"]
    fixed += [f"device={bench.options.device}", "report.readers=[]", "report.pictures=0", "report.calibrate=false"]
    overrides = [
        *fixed,
        *((*QUICK, *QUICK_CASES) if bench.options.quick else ()),
        *bench.options.overrides,
        setting("run", folder),
    ]
    print(f"\n{NAME}: processes: {processes}, threads of each: {threads}", flush=True)
    told = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    ended = subprocess.run([sys.executable, *many, "-m", "glimpse.train", *overrides], cwd=ROOT, env=told)
    if ended.returncode:
        raise SystemExit(
            f"benchmarks: the training in {folder} ended with exit code {ended.returncode}; its message stands above. "
            "--fresh begins again."
        )
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    seconds = {stage: metrics["seconds"][stage] for stage in STAGES}
    return {**seconds, "all": sum(seconds.values())}


def report(bench: Benchmark) -> None:
    """Prints the seconds, and how many times as quick each way is as one process with one thread; draws the latter."""
    overrides = " ".join(bench.options.overrides)
    wanted = {"env": bench.options.env, "overrides": overrides}
    rows = [bench.results.find(**wanted, processes=one, threads=threads) for one, threads in WAYS]
    found = [row for row in rows if row is not None]
    names = (*STAGES, "all")
    header = ("processes", "threads", *(f"{name}, s" for name in names), *(f"{name}, times as quick" for name in names))
    quicker = [[found[0][name] / max(row[name], 0.1) for name in names] for row in found]
    lines = [
        [str(row["processes"]), str(row["threads"]), *(row[name] for name in names), *times]
        for row, times in zip(found, quicker, strict=True)
    ]
    print(table(header, lines))
    drawn, axes = figure()
    width = 0.8 / len(found)
    for number, (row, times) in enumerate(zip(found, quicker, strict=True)):
        places = [place + number * width for place in range(len(names))]
        axes.bar(places, times, width, label=f"{row['processes']} x {row['threads']} threads")
    axes.set_xticks([place + width for place in range(len(names))], names)
    axes.set_ylabel("times as quick as one process, one thread")
    axes.legend()
    bench.picture(drawn)


if __name__ == "__main__":
    main()
