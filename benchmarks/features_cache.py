"""How much sooner a second training ends, whose encoder is not trained and whose features are on disk.

python -m benchmarks.features_cache

The same training of EfficientNet-Lite0 on slides, four times, one after the other: without features on disk, with an
empty folder, with the folder that this has filled, and with that folder and another seed.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.common import ROOT, Benchmark, Row, figure, parser, setting, table

NAME = "features_cache"
SLIDES = ("env=wsi", "agent=ppo", "network/encoder=efficientnet_lite0")
SMALL = (
    "warm_up.glimpses_per_case=48",
    "warm_up.glimpses_per_patch=0",
    "warm_up.steps=200",
    "agent.algorithm.cases_per_rollout=8",
    "joint.updates=10",
    "report.readers=[full_scan]",
    "report.pictures=0",
)
TRAININGS = {"without": 0, "first": 0, "second": 0, "another seed": 1}  # and their seeds


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--cases", type=int, default=60, help="slides of the cohort, which is painted (default: 60)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    settings = {"cases": bench.options.cases}
    if any(bench.results.find(training=name, **settings) is None for name in TRAININGS):
        with TemporaryDirectory() as folder:  # all of them anew: what is on disk depends on the ones before
            for name, seed in TRAININGS.items():
                row = _measure(bench, name, seed, Path(folder))
                bench.results.put({"training": name, **settings}, **row)
    report(bench)


def _measure(bench: Benchmark, name: str, seed: int, folder: Path) -> Row:
    """Trains once; returns the seconds of every stage, the score, and the megabytes that are on disk afterwards."""
    kept, run = folder / "features", folder / name.replace(" ", "-")
    cache = "features_cache=null" if name == "without" else setting("features_cache.folder", kept)
    options = bench.options
    small = (*SMALL, f"env.cohort.synthetic.n={options.cases}")
    sizes = ("experiment=smoke", "pretrain.steps=0") if options.quick else small
    fixed = (f"threads={options.threads}", f"device={options.device}", f"seed={seed}", "progress=false")
    command = [sys.executable, "-m", "glimpse.train", *SLIDES, *sizes, *fixed, cache, setting("run", run)]
    print(f"\n{NAME}: training {name}", flush=True)
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True)
    wall = time.perf_counter() - began
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    with open(run / "predictions.csv", encoding="utf-8", newline="") as file:
        predictions = [{**row, "seconds": ""} for row in csv.DictReader(file)]
    (folder / f"{run.name}.json").write_text(json.dumps(predictions), encoding="utf-8")
    first = folder / "first.json"
    return {
        "seconds": sum(metrics["seconds"].values()),
        "wall_seconds": wall,
        "stages": metrics["seconds"],
        "megabytes": sum(file.stat().st_size for file in kept.rglob("*.features")) / 2**20,
        "as_the_first": first.exists() and json.loads(first.read_text(encoding="utf-8")) == predictions,
    }


def report(bench: Benchmark) -> None:
    """Prints a line for each training, and draws the seconds of its stages."""
    cases = bench.options.cases
    rows = {name: bench.results.find(training=name, cases=cases) for name in TRAININGS}
    first = rows["first"]
    lines, made = [], figure(6.4, 2.6)
    for place, (name, row) in enumerate(rows.items()):
        assert row is not None and first is not None, "all trainings were measured"
        lines.append([name, row["seconds"], row["seconds"] / first["seconds"], row["megabytes"], row["as_the_first"]])
        left = 0.0
        for color, (stage, seconds) in enumerate(row["stages"].items()):
            made[1].barh(place, seconds, left=left, color=f"C{color}", label=stage if place == 0 else None)
            left += seconds
    print(table(("training", "seconds", "share of the first", "MB on disk", "same answers"), lines))
    made[1].set(xlabel="seconds", yticks=range(len(rows)), yticklabels=list(rows))
    made[1].invert_yaxis()
    made[1].legend()
    bench.picture(made[0])


if __name__ == "__main__":
    main()
