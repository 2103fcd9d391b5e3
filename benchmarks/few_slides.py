"""Slides with few of them to learn from: test AUC over the number of training slides, beside the full scan's.

python -m benchmarks.few_slides

The embedded slides, of which only the first ones of each class are for training; validation and test are always whole.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Benchmark, Row, add_seeds, facts_of, figure, parser, setting, table, write_cohort
from glimpse.synthetic.slides.recipe import embedded_cohort

NAME = "few_slides"
_READERS = ("ppo", "random", "full_scan")


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--train", type=int, nargs="+", default=[20, 40, 80, 158], help="training slides, even numbers")
    made.add_argument(
        "--overrides", nargs="+", default=[], help="settings of the training, such as warm_up.augment=null"
    )
    add_seeds(made, (0, 1, 2))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    quick = bench.options.quick
    manifest = embedded_cohort(bench.runs / "slides", 12, size=1024) if quick else embedded_cohort()
    for count in [4] if quick else bench.options.train:
        cohort = with_fewer(manifest, count, bench.runs / f"slides-{count}.csv")
        for seed in bench.options.seeds:
            settings = {"train": count, "seed": seed, "overrides": " ".join(bench.options.overrides)}
            if bench.results.find(**settings) is None:
                bench.results.put(settings, **_measure(bench, count, seed, cohort))
    report(bench)


def with_fewer(manifest: Path, count: int, path: Path) -> Path:
    """Writes a CSV with the first count / 2 training slides of each class and all others, and returns its path."""
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    left = {target: count // 2 for target in sorted({row["target"] for row in rows})}
    chosen = []
    for row in rows:
        if row["split"] == "train":
            left[row["target"]] -= 1
        if row["split"] != "train" or left[row["target"]] >= 0:
            chosen.append(row | {"path": str(manifest.parent / row["path"])})
    if any(number > 0 for number in left.values()):
        raise SystemExit(f"benchmarks: {manifest} has fewer than {count} training slides; choose fewer by --train.")
    return write_cohort(path, chosen)


def _measure(bench: Benchmark, count: int, seed: int, cohort: Path) -> Row:
    given = ["env=wsi", f"seed={seed}", "report.readers=[random,full_scan]", setting("env.cohort.path", cohort)]
    given = [*(["experiment=smoke"] if bench.options.quick else []), *given, *bench.options.overrides]
    run = bench.train(f"{count}-{seed}", given)
    row: Row = {"seconds": run.seconds}
    for reader in _READERS:
        row |= facts_of(reader, run.metrics["readers"][reader])
    return row


def report(bench: Benchmark) -> None:
    """Prints the test AUC of every reader in each row, and draws them over the number of training slides."""
    rows = bench.results.rows
    lines = []
    for row in rows:
        name = f"{row['train']}, {row['seed']} {row['overrides']}".strip()
        lines.append([name, *(row.get(f"{one} auc") for one in _READERS), row["seconds"]])
    print(table(("training slides, seed", *_READERS, "seconds"), lines))
    made, axes = figure(4.8, 3.6)
    for reader, colour in zip(_READERS, ("tab:blue", "tab:gray", "tab:orange"), strict=True):
        found = [(row["train"], row[f"{reader} auc"]) for row in rows if f"{reader} auc" in row]
        axes.plot(*zip(*found, strict=True), "o", color=colour, label=reader) if found else None
    axes.set(xlabel="training slides", ylabel="test AUC", xscale="log", ylim=(0.4, 1.02))
    axes.legend()
    bench.picture(made)


if __name__ == "__main__":
    main()
