"""Gigapixel MNIST (majority of five digits in three of ten islands, 12,288 to 98,304 pixels a side): what zoom brings.

python -m benchmarks.gigapixel_mnist --root <folder of MNIST's IDX files>

4,000 training images, 24 looks, test accuracy and the share of the digits that a glimpse has shown. Rows: `zoom` with
two fields of view; `large`, 98,304 pixels with three, of which the first only says where in a cell of the overview an
island is, so that it takes ten looks more and has 36: it begins with the weights of `zoom` of the same seed, which is
trained first, and its encoder is not trained any more; `flat`, one field of view under an overview of 768 x 768 pixels;
`own answers`, a control in which a wide glimpse is worth what it answers itself, and not what the choice inside it
brings. Beside each stand the overview alone, and the same network at random places, also wide ones first, and on a
grid.
"""

import argparse
from collections.abc import Sequence

from benchmarks.common import QUICK_CASES, Benchmark, Row, Trained, add_seeds, figure, parser, setting, table, value_of
from benchmarks.mnist import add_root, root_of
from glimpse.evaluate import evaluate

NAME = "gigapixel_mnist"
TARGET = 0.90  # of accuracy and of digits hit, on 12,288 pixels
_MINUTES = 40
_TRAIN, _TEST, _GLIMPSES = 4000, 1000, 24
_COSTLY = ("max_glimpses=", "warm_up.max_total_glimpses=", "warm_up.second_steps=")  # left out of a quick run
WAYS = {
    "zoom": [],
    "large": [
        "pretrain=none",
        "max_glimpses=36",
        "env.cohort.size=98304",
        "env.make.glimpse_extents=[3072,512,128]",
        "warm_up.branches=[8,4,3]",
        "warm_up.max_total_glimpses=600000",
        "warm_up.max_sequence=40",
        "warm_up.second_look=0.8",
        "warm_up.second_steps=1500",
        "network.locator.discount_seen=true",
        "agent.algorithm.replay_steps=16",
        "agent.algorithm.replay_rollouts=125",
        "agent.algorithm.encoder_rate=0.0",
    ],
    "flat": [
        "env.make.overview_size=768",
        "env.make.glimpse_extents=[128]",
        "warm_up.branches=null",
        "warm_up.glimpses_per_case=96",
        "warm_up.max_sequence=24",
    ],
    "own answers": ["warm_up.look_inside=false"],
}
"""Settings of each row."""

READERS = ("policy", "random", "wide_first", "grid", "overview")


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    add_root(made)
    made.add_argument("--ways", nargs="+", choices=sorted(WAYS), default=list(WAYS), help="rows (default: all)")
    made.add_argument("--overrides", nargs="+", default=[], help="of the trainings, such as joint.updates=600")
    add_seeds(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    for way in bench.options.ways:
        for seed in bench.options.seeds:
            learn(bench, way, seed)
    report(bench)


def learn(bench: Benchmark, way: str, seed: int) -> None:
    """One training, then the test split by each reader."""
    given = bench.options
    settings = {"way": way, "seed": seed, "overrides": " ".join(given.overrides)}
    if bench.results.find(**settings) is not None:
        return
    run = _trained(bench, way, seed)
    readers = [one for one in READERS if one != "wide_first" or way != "flat"]
    found = evaluate(run.folder, readers=readers, device=given.device, progress=True).rows
    measured = {
        f"{'agent' if name not in READERS else name} {metric}": value_of(row, metric)
        for name, row in found.items()
        for metric in ("accuracy", "hit_rate", "seconds_per_case")
    }
    bench.results.put(settings, seconds=run.seconds, **measured)


def _trained(bench: Benchmark, way: str, seed: int) -> Trained:
    """One training; that of `large` follows that of `zoom`, which is taken as it is if it has ended."""
    given = bench.options
    cases = QUICK_CASES if given.quick else (f"env.cohort.n.train={_TRAIN}", f"env.cohort.n.test={_TEST}")
    more = [f"max_glimpses={_GLIMPSES}", *WAYS[way]]
    more = [one for one in more if not (given.quick and one.startswith(_COSTLY))]
    if way == "large":
        more.append(setting("initial_weights", _trained(bench, "zoom", seed).folder))
    overrides = ["env=gigapixel_mnist", root_of(bench), f"seed={seed}", "report.readers=[overview]", *cases, *more]
    if way in given.ways:  # not the training of `zoom` with which `large` alone begins
        overrides += given.overrides
    return bench.train(f"{way.replace(' ', '-')}-{seed}", overrides)


def report(bench: Benchmark) -> None:
    """Prints a line per training, and draws accuracy and digits hit of all readers."""
    rows = [row for row in bench.results.rows if row["overrides"] == " ".join(bench.options.overrides)]
    shown = ("agent", "random", "wide_first", "grid", "overview")
    header = ("way, seed", "minutes", *(f"{name}: {what}" for name in shown for what in ("accuracy", "hit")))
    names = [f"{name} {metric}" for name in shown for metric in ("accuracy", "hit_rate")]
    print(table(header, [[_label(row), row["seconds"] / 60, *map(row.get, names)] for row in rows]))
    met = [_label(row) for row in rows if _reached(row)]
    print(f"target: {TARGET:.2f} of both within {_MINUTES} minutes, `zoom`; reached by {', '.join(met) or 'none'}")
    made, axes = figure(7.2, 1.5 + 0.45 * len(rows))
    for name, marker in zip(shown, "os^vD", strict=True):
        places = [(row[f"{name} accuracy"], at) for at, row in enumerate(rows) if f"{name} accuracy" in row]
        if places:
            axes.plot(*zip(*places, strict=True), marker, label=name.replace("_", " "))
    axes.axvline(TARGET, color="grey", linestyle=":")
    axes.set(xlim=(0, 1), xlabel="test accuracy", yticks=range(len(rows)), yticklabels=[_label(row) for row in rows])
    axes.legend()
    bench.picture(made)


def _reached(row: Row) -> bool:
    good = min(row["agent accuracy"] or 0, row["agent hit_rate"] or 0) >= TARGET
    return row["way"] == "zoom" and good and row["seconds"] <= 60 * _MINUTES


def _label(row: Row) -> str:
    return f"{row['way']}, {row['seed']}"


if __name__ == "__main__":
    main()
