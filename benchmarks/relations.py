"""A task whose answer lies in how objects relate: the transformer beside pooling, with the same encoder and glimpses.

python -m benchmarks.relations

With 32 glimpses nearly everything that is drawn can be read: what is measured is relating, not searching.
"""

import argparse
from collections.abc import Sequence

from benchmarks.common import QUICK_CASES, Benchmark, Row, add_seeds, figure, parser, table, value_of

NAME = "relations"
TARGETS = {"transformer": (0.95, 1.0), "attention_pooling": (0.0, 0.65), "mean_pooling": (0.0, 0.65)}  # from, to


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--aggregator", nargs="+", choices=list(TARGETS), default=list(TARGETS), help="default: all")
    add_seeds(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    for aggregator in bench.options.aggregator:
        for seed in bench.options.seeds:
            settings = {"aggregator": aggregator, "seed": seed}
            if bench.results.find(**settings) is None:
                bench.results.put(settings, **_measure(bench, aggregator, seed))
    report(bench)


def _measure(bench: Benchmark, aggregator: str, seed: int) -> Row:
    cases = (*QUICK_CASES, "max_glimpses=2") if bench.options.quick else ()
    run = bench.train(
        f"{aggregator}-{seed}",
        ["env=relations", "max_glimpses=32", f"network/aggregator={aggregator}", f"seed={seed}", *cases],
    )
    entry = run.own["accuracy"]
    interval = {"low": entry["low"], "high": entry["high"]}
    others = {"hit_rate": value_of(run.own, "hit_rate"), "glimpses": run.own["glimpses"], "seconds": run.seconds}
    return {"accuracy": entry["value"], **interval, **others}


def report(bench: Benchmark) -> None:
    """Prints and draws accuracies with their targets."""
    rows = bench.results.rows
    header = ("aggregator", "seed", "accuracy", "target", "objects hit", "glimpses", "training, s")
    print(table(header, [[row["aggregator"], row["seed"], row["accuracy"], _target(row["aggregator"]), row["hit_rate"],
                          row["glimpses"], row["seconds"]] for row in rows]))  # fmt: skip
    made, axes = figure()
    names = list(dict.fromkeys(row["aggregator"] for row in rows))
    for i, name in enumerate(names):
        low, high = TARGETS[name]
        axes.fill_between([i - 0.35, i + 0.35], low, high, color="tab:green", alpha=0.15, linewidth=0)
        own = [row for row in rows if row["aggregator"] == name]
        places = [i + (k - (len(own) - 1) / 2) * 0.1 for k in range(len(own))]
        values = [row["accuracy"] for row in own]
        spans = [[row["accuracy"] - row["low"] for row in own], [row["high"] - row["accuracy"] for row in own]]
        axes.errorbar(places, values, spans, fmt="o", color="tab:blue", capsize=3)
    axes.set(xticks=range(len(names)), xticklabels=names, ylabel="test accuracy (green: target)", ylim=(0, 1))
    bench.picture(made)


def _target(aggregator: str) -> str:
    low, high = TARGETS[aggregator]
    return f">= {low}" if high == 1 else f"< {high}"


if __name__ == "__main__":
    main()
