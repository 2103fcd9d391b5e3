"""Where the locator points: cells that lie in the middle of what they see or beside it, what was seen avoided or not.

python -m benchmarks.pointing --root <folder of MNIST's IDX files>

Four trainings on megapixel MNIST for each seed, each read with several budgets, on the validation and the test split.
"""

import argparse
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from benchmarks.common import QUICK_CASES, Benchmark, Row, add_seeds, figure, parser, table, value_of
from benchmarks.mnist import add_root, root_of
from glimpse.evaluate import evaluate
from glimpse.networks import ConvEncoder

NAME = "pointing"
_BESIDE = "network.encoder._target_=benchmarks.pointing.BesideEncoder"
_UNPENALISED = ("network.locator.seen_penalty=0", "network.locator.learn_seen_penalty=false")
VARIANTS: dict[str, tuple[str, ...]] = {
    "in the middle, penalty": (),
    "in the middle, no penalty": _UNPENALISED,
    "beside, penalty": (_BESIDE,),
    "beside, no penalty": (_BESIDE, *_UNPENALISED),
}
_ENV, _BUDGETS, _TRAINED = "megapixel_mnist", (6, 12), 12  # glimpses of reading, and of training


class BesideEncoder(ConvEncoder):
    """The encoder with odd kernels and a padding of half a kernel, as it was before cells lay in the middle.

    Its cell i is computed from pixels around s i + 0.5, but lies at s (i + 0.5), where s is the side of a cell.
    """

    def __init__(self, channels: int, ndim: int = 2, **options: Any) -> None:
        super().__init__(channels, ndim, **{**options, "kernels": None})
        wide = 5
        for index, layer in enumerate(self.layers):
            if isinstance(layer, nn.Conv2d):
                same = (layer.in_channels, layer.out_channels, wide, layer.stride, wide // 2)
                self.layers[index], wide = nn.Conv2d(*same), 3
        if self.memory_format is not None:
            self.layers.to(memory_format=self.memory_format)  # type: ignore[call-overload]


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    add_root(made)
    made.add_argument("--variant", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="default: all")
    made.add_argument("--updates", type=int, default=100, help="of the joint stage (default: 100)")
    made.add_argument("--pretraining", type=int, default=500, help="its steps (default: 500)")
    add_seeds(made, (0, 1, 2))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    root_of(bench)  # asks for what is missing before anything is trained
    for seed in bench.options.seeds:
        for variant in bench.options.variant:
            settings = {"env": _ENV, "variant": variant, "seed": seed}
            if bench.results.find(**settings) is None:
                bench.results.put(settings, **_measure(bench, variant, seed))
    report(bench)


def _measure(bench: Benchmark, variant: str, seed: int) -> Row:
    chosen, quick = bench.options, bench.options.quick
    given = [f"env={_ENV}", f"max_glimpses={_TRAINED}", f"seed={seed}", *VARIANTS[variant]]
    given += [root_of(bench), "env.cohort.n.test=1000"]
    given += QUICK_CASES if quick else (f"joint.updates={chosen.updates}", f"pretrain.steps={chosen.pretraining}")
    run = bench.train(re.sub(r"\W+", "-", f"{_ENV} {variant} {seed}"), given)
    row: Row = {"seconds": run.seconds}
    for split in ("val", "test"):
        for budget in _BUDGETS[: 1 if quick else None]:
            found = evaluate(run.folder, max_glimpses=budget, split=split, readers=["policy"], progress=False)
            own = next(iter(found.rows.values()))
            shown = {name: value_of(own, name) for name in ("accuracy", "hit_rate")}
            row |= {f"{split} {budget} {name}": value for name, value in shown.items() if value is not None}
    return row


def report(bench: Benchmark) -> None:
    """Prints the means over seeds with the lowest and the highest value, and draws the test accuracy."""
    rows = bench.results.rows
    columns = [key for key in rows[0] if key.startswith(("val ", "test ")) and not key.endswith("auc")]
    shown = {variant: [row for row in rows if row["variant"] == variant] for variant in VARIANTS}
    shown = {variant: some for variant, some in shown.items() if some}
    lines = [[variant, *(_spread([row[key] for row in some]) for key in columns)] for variant, some in shown.items()]
    print(f"\nseeds {', '.join(str(row['seed']) for row in next(iter(shown.values())))}")
    print(table(("variant", *columns), lines))
    made, axes = figure()
    for variant, some in shown.items():
        budgets = [budget for budget in _BUDGETS if f"test {budget} accuracy" in some[0]]
        values = [np.mean([row[f"test {budget} accuracy"] for row in some]) for budget in budgets]
        axes.plot(budgets, values, "o-", label=variant)
    axes.set(xlabel="glimpses", ylabel="test accuracy")
    axes.legend(fontsize="small")
    bench.picture(made)


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
