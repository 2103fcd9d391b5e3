"""Megapixel MNIST with few training images: test accuracy over their number.

python -m benchmarks.low_data --root <folder of MNIST's IDX files>

No validation images are used: what is tested is the last policy. Published, on the same task at 3000 x 3000 pixels, is
what IPS reaches (Bergner et al. 2023); this is measured at 1500 x 1500.
"""

import argparse
from collections.abc import Sequence

from benchmarks.common import QUICK_CASES, Benchmark, Row, add_seeds, figure, parser, table, value_of
from benchmarks.mnist import add_root, root_of

NAME = "low_data"
PUBLISHED = {400: 0.10, 1000: 0.67, 2000: 0.88}  # IPS, 3000 x 3000
_UPDATES = 800  # few images are learnt by heart before


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    add_root(made)
    made.add_argument("--train", type=int, nargs="+", default=[400, 1000, 2000], help="training images")
    add_seeds(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    for images in [8] if bench.options.quick else bench.options.train:
        for seed in bench.options.seeds:
            settings = {"train": images, "seed": seed}
            if bench.results.find(**settings) is None:
                bench.results.put(settings, **_measure(bench, images, seed))
    report(bench)


def _measure(bench: Benchmark, images: int, seed: int) -> Row:
    cases = QUICK_CASES if bench.options.quick else (f"env.cohort.n.train={images}", "env.cohort.n.test=1000")
    fixed = ("env=megapixel_mnist", root_of(bench), "max_glimpses=12", "joint.validate_every=0")
    fixed += () if bench.options.quick else (f"joint.updates={_UPDATES}",)
    run = bench.train(f"{images}-{seed}", [*fixed, f"seed={seed}", *cases])
    return {**{name: value_of(run.own, name) for name in ("accuracy", "hit_rate", "glimpses")}, "seconds": run.seconds}


def report(bench: Benchmark) -> None:
    """Prints and draws accuracies beside the published ones."""
    rows = sorted(bench.results.rows, key=lambda row: (row["train"], row["seed"]))
    header = ("training images", "seed", "accuracy", "digits hit", "training, s", "IPS, published")
    print(table(header, [[str(row["train"]), row["seed"], row["accuracy"], row["hit_rate"], row["seconds"],
                          PUBLISHED.get(row["train"])] for row in rows]))  # fmt: skip
    made, axes = figure()
    axes.plot([row["train"] for row in rows], [row["accuracy"] for row in rows], "o", label="glimpse, 1500 x 1500")
    axes.plot(list(PUBLISHED), list(PUBLISHED.values()), "k--", marker="x", label="IPS, 3000 x 3000 (published)")
    axes.set(xlabel="training images", ylabel="test accuracy", xlim=(0, None), ylim=(0, 1))
    axes.legend()
    bench.picture(made)


if __name__ == "__main__":
    main()
