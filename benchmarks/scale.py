"""Cohorts of 1,000, 10,000 and 100,000 images: seconds and memory until the first update of a training.

python -m benchmarks.scale

Each image is a file of a few bytes, from which its pixels are drawn, so that what is measured is the cohort: its CSV,
looking for every file, splits and preflight; not pixels. Each cohort is trained on twice: the second time, its images
were checked before. Pretraining and warm-up, which read every image, are left out.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import ROOT, Benchmark, Row, figure, parser, setting, table, write_cohort

NAME = "scale"
SETTINGS = (
    "env=seeds",
    "pretrain=none",
    "warm_up=none",
    "joint.updates=2",
    "joint.validate_every=0",
    "report.readers=[]",
)


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--cases", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="sizes of the cohorts")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    if bench.options.quick:
        bench.options.cases = [200]
    for count in bench.options.cases:
        for which in ("first", "second"):
            if bench.results.find(cases=count, training=which) is None:
                cohort = _cohort(bench.runs / str(count), count)
                bench.results.put({"cases": count, "training": which}, **_measured(bench, cohort, which))
    report(bench)


def _cohort(folder: Path, count: int) -> Path:
    """Makes a cohort unless it is there."""
    path = folder / "cohort.csv"
    if path.exists():
        return path
    rows = []
    for i in range(count):
        image = folder / f"{i // 1000:03}" / f"{i:06}.seed"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_text(str(i), encoding="ascii")
        row = {"case_id": f"patient-{i // 2}", "slide_id": f"image-{i}", "path": str(image.relative_to(folder))}
        rows.append({**row, "target": str(i % 2)})
    return write_cohort(path, rows)


def _measured(bench: Benchmark, cohort: Path, which: str) -> Row:
    run = bench.runs / f"run-{cohort.parent.name}-{which}"
    words = [
        *SETTINGS,
        setting("env.cohort.path", cohort),
        setting("run", run),
        "progress=false",
        "features_cache=null",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLIMPSE_CACHE": str(bench.runs / "cache")}
    line = [sys.executable, "-m", "benchmarks.scale_probe", *words]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode or not done.stdout.strip():
        raise SystemExit(f"benchmarks: the training ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def report(bench: Benchmark) -> None:
    """Prints seconds and memory over the number of images, and draws them."""
    rows = [row for row in bench.results.rows if row["cases"] in bench.options.cases]
    header = ("images", "training", "s", "MiB")
    print(table(header, [[row[name] for name in ("cases", "training", "seconds", "mib")] for row in rows]))
    made, axes = figure(4.8, 3.0)
    for which in ("first", "second"):
        own = [row for row in rows if row["training"] == which]
        axes.plot([row["cases"] for row in own], [row["seconds"] for row in own], "o-", label=f"{which} training")
    axes.set(xscale="log", yscale="log", xlabel="images", ylabel="seconds until the first update")
    axes.legend()
    bench.picture(made)


if __name__ == "__main__":
    main()
