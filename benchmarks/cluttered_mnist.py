"""Cluttered MNIST: error with at most 8 glimpses of 12 x 12 pixels, at 60 x 60 and 100 x 100.

python -m benchmarks.cluttered_mnist --root <folder of MNIST's IDX files>

Published are the recurrent attention model (Mnih et al. 2014) and the best reproduction of it known.
"""

import argparse
from collections.abc import Sequence

from benchmarks.common import QUICK_CASES, Benchmark, Row, add_seeds, figure, parser, table, value_of
from benchmarks.mnist import add_root, root_of

NAME = "cluttered_mnist"
PUBLISHED = {"recurrent attention model": {60: 0.052, 100: 0.108}, "best reproduction": {60: 0.026, 100: 0.059}}
_GLIMPSES, _GLIMPSE = 8, 12


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    add_root(made)
    made.add_argument("--size", type=int, nargs="+", choices=[60, 100], default=[60, 100], help="pixels per side")
    add_seeds(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    for size in bench.options.size:
        for seed in bench.options.seeds:
            settings = {"size": size, "seed": seed}
            if bench.results.find(**settings) is None:
                bench.results.put(settings, **_measure(bench, size, seed))
    report(bench)


def _measure(bench: Benchmark, size: int, seed: int) -> Row:
    views = (f"env.cohort.size={size}", f"env.make.glimpse_size={_GLIMPSE}", f"env.make.glimpse_extents=[{_GLIMPSE}]")
    fixed = ("env=cluttered_mnist", root_of(bench), f"max_glimpses={_GLIMPSES}", f"seed={seed}")
    run = bench.train(f"{size}-{seed}", [*fixed, *views, *(QUICK_CASES if bench.options.quick else ())])
    accuracy = value_of(run.own, "accuracy")
    assert accuracy is not None, "a classification has an accuracy"
    return {"error": 1 - accuracy, "glimpses": run.own["glimpses"], "seconds": run.seconds}


def report(bench: Benchmark) -> None:
    """Prints and draws errors beside the published ones."""
    rows = sorted(bench.results.rows, key=lambda row: (row["size"], row["seed"]))
    header = ("pixels", "seed", "error", "glimpses", "training, s", *(f"{name}, published" for name in PUBLISHED))
    print(table(header, [[f"{row['size']} x {row['size']}", row["seed"], row["error"], row["glimpses"], row["seconds"],
                          *(errors[row["size"]] for errors in PUBLISHED.values())] for row in rows]))  # fmt: skip
    made, axes = figure()
    axes.plot([row["size"] for row in rows], [row["error"] for row in rows], "o", label="glimpse")
    for (name, errors), marker in zip(PUBLISHED.items(), "xs", strict=True):
        axes.plot(list(errors), list(errors.values()), "k", ls="none", marker=marker, mfc="none", label=name)
    axes.set(xlabel="pixels per side", ylabel="test error", xlim=(40, 120), ylim=(0, None))
    axes.legend()
    bench.picture(made)


if __name__ == "__main__":
    main()
