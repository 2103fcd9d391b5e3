"""Accuracy over the budget, 1 to 48 glimpses, of one trained run, beside random places and a regular grid.

python -m benchmarks.budget --run <run folder>

The run's own network answers for all three; how many glimpses it may read is free at test time. Beside the rows here,
each budget's answers stand in the run folder, as `python -m glimpse.evaluate` writes them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Benchmark, Row, parser, table, value_of
from glimpse.evaluate import evaluate
from glimpse.pictures.curves import budget_curve

NAME = "budget"
READERS = ("policy", "random", "grid")


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--run", type=Path, help="folder of a run that has ended; --quick trains one")
    made.add_argument("--budgets", type=int, nargs="+", default=[1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48], help="glimpses")
    made.add_argument("--metric", choices=["accuracy", "auc", "score"], default="accuracy", help="default: accuracy")
    made.add_argument("--split", choices=["train", "val", "test"], default="test", help="default: test")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    run = bench.options.run
    if run is None:
        if not bench.options.quick:
            bench.error("give --run, the folder that training wrote.")
        run = bench.train("smoke", ["env=wsi", "experiment=smoke", "report.readers=[]"]).folder
    for budget in [1, 2] if bench.options.quick else bench.options.budgets:
        _measure(bench, run, budget)
    report(bench, run)


def _measure(bench: Benchmark, run: Path, budget: int) -> None:
    fixed = {"run": run.resolve().name, "split": bench.options.split, "budget": budget}
    if all(bench.results.find(**fixed, reader=reader) for reader in READERS):
        return
    print(f"reading with at most {budget} glimpses", flush=True)
    device, split = bench.options.device, bench.options.split
    found = evaluate(run, max_glimpses=budget, split=split, readers=READERS, device=device, progress=False)
    for reader, row in zip(READERS, found.rows.values(), strict=True):
        bench.results.put({**fixed, "reader": reader}, **row)


def report(bench: Benchmark, run: Path) -> None:
    """Prints a line per budget, and draws a curve per reader."""
    metric, wanted = bench.options.metric, {"run": run.resolve().name, "split": bench.options.split}
    curves: dict[str, dict[int, Row]] = {reader: {} for reader in READERS}
    for row in bench.results.rows:
        if wanted.items() <= row.items():
            curves[row["reader"]][row["budget"]] = row
    lines = [
        [str(budget), *(value_of(curves[reader][budget], metric) for reader in READERS), row["glimpses"]]
        for budget, row in sorted(curves["policy"].items())
    ]
    print(table(("glimpses at most", *(f"{metric}, {reader}" for reader in READERS), "policy's glimpses"), lines))
    bench.picture(budget_curve(curves, metric))


if __name__ == "__main__":
    main()
