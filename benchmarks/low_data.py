"""Megapixel MNIST with few training images: test accuracy over their number.

python -m benchmarks.low_data --root <folder of MNIST's IDX files> [--size 3000]

No validation images are used: what is tested is the last policy, on 1,000 images. Published, at 3000 x 3000 pixels, is
what IPS reaches (Bergner et al. 2023). The form 1500 has 50 strokes of noise on 1500 x 1500 pixels, the form 3000 has
800 on 3000 x 3000, which is 4 times as dense. In both, digits have 28 pixels, a pixel of the overview shows 8 x 8 of
the image, cells lie 32 pixels apart, and a glimpse spans 64.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.common import QUICK_CASES, Benchmark, Row, add_seeds, figure, parser, table, value_of
from benchmarks.mnist import add_root, root_of

NAME = "low_data"
PUBLISHED = {400: 0.10, 1000: 0.67, 2000: 0.88}  # IPS, 3000 x 3000
_UPDATES = 800  # few images are learnt by heart before
_TEST = 1000  # images, as IPS has


@dataclass(frozen=True)
class Form:
    """How images look and are read.

    Attributes:
        size: pixels per side.
        strokes: number of strokes of noise.
        glimpses: budget.
        read: glimpses that are read of all images in the warm-up, at most 1,000 of each; None leaves it to the recipe.
            The rarer digits are among strokes, the more of them it takes to see some.
    """

    size: int
    strokes: int
    glimpses: int
    read: int | None

    def overrides(self, images: int) -> list[str]:
        """What a training with so many images sets."""
        given = [f"env.cohort.size={self.size}", f"env.cohort.noise={self.strokes}", f"max_glimpses={self.glimpses}"]
        given += [f"env.make.overview_size={-(-self.size // 8)}"]
        return given + ([f"warm_up.glimpses_per_case={min(1000, self.read // images)}"] if self.read else [])


FORMS = {1500: Form(1500, 50, 12, None), 3000: Form(3000, 800, 16, 400_000)}


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    add_root(made)
    made.add_argument("--train", type=int, nargs="+", default=[400, 1000, 2000], help="training images")
    made.add_argument("--size", type=int, choices=list(FORMS), default=1500, help="pixels per side (default: 1500)")
    add_seeds(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    form = FORMS[bench.options.size]
    for images in [8] if bench.options.quick else bench.options.train:
        for seed in bench.options.seeds:
            settings = {"size": form.size, "train": images, "seed": seed}
            if bench.results.find(**settings) is None:
                bench.results.put(settings, **_measure(bench, form, images, seed))
    report(bench)


def _measure(bench: Benchmark, form: Form, images: int, seed: int) -> Row:
    quick = bench.options.quick
    cases = QUICK_CASES if quick else (f"env.cohort.n.train={images}", f"env.cohort.n.test={_TEST}")
    given = [one for one in form.overrides(images) if not quick or one.startswith("env.")]
    given += ["env=megapixel_mnist", root_of(bench), "joint.validate_every=0", f"seed={seed}", *cases]
    given += [] if quick else [f"joint.updates={_UPDATES}"]
    run = bench.train(f"{form.size}-{images}-{seed}", given)
    return {**{name: value_of(run.own, name) for name in ("accuracy", "hit_rate", "glimpses")}, "seconds": run.seconds}


def report(bench: Benchmark) -> None:
    """Prints and draws accuracies beside the published ones."""
    rows = sorted(bench.results.rows, key=lambda row: (row["size"], row["train"], row["seed"]))
    header = ("pixels per side", "training images", "seed", "accuracy", "digits hit", "training, s", "IPS, published")
    print(table(header, [[str(row["size"]), row["train"], row["seed"], row["accuracy"], row["hit_rate"],
                          row["seconds"], PUBLISHED.get(row["train"])] for row in rows]))  # fmt: skip
    made, axes = figure()
    for size in sorted({row["size"] for row in rows}):
        points = [(row["train"], row["accuracy"]) for row in rows if row["size"] == size]
        axes.plot(*zip(*points, strict=True), "o", label=f"glimpse, {size} x {size}")
    axes.plot(list(PUBLISHED), list(PUBLISHED.values()), "k--", marker="x", label="IPS, 3000 x 3000 (published)")
    axes.set(xlabel="training images", ylabel="test accuracy", xlim=(0, None), ylim=(0, 1))
    axes.legend()
    bench.picture(made)


if __name__ == "__main__":
    main()
