"""Slides of real tissue: the agent with several budgets beside random places, a grid, the overview and every patch.

python -m benchmarks.tissue [--cohort <CSV> --overview <pixels>]

Nothing is set but the cohort and the size of its overviews. Without a cohort, these are the embedded slides, quilted
from two images of real H&E.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Benchmark, Row, add_seeds, facts_of, figure, parser, setting, table
from glimpse.evaluate import evaluate

NAME = "tissue"
_TRAINED = 8  # glimpses; the default of env=wsi
_BY_POLICY = ("policy", "random", "grid")


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--cohort", type=Path, help="CSV of slides (default: the embedded ones)")
    made.add_argument("--overview", type=int, help="pixels of an overview's side (default: that of env=wsi)")
    made.add_argument("--glimpses", type=int, nargs="+", default=[8, 16], help="budgets of reading (default: 8 16)")
    add_seeds(made, (0, 1, 2))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    if bench.options.cohort is not None and not bench.options.cohort.is_file():
        bench.error(f"--cohort {bench.options.cohort}: there is no such file.")
    for seed in bench.options.seeds:
        settings = {"cohort": _name(bench), "overview": bench.options.overview, "seed": seed}
        if bench.results.find(**settings) is None:
            bench.results.put(settings, **_measure(bench, seed))
    report(bench)


def _name(bench: Benchmark) -> str:
    """What rows call the cohort: its folder's name, because paths are somebody's own."""
    return "embedded" if bench.options.cohort is None else bench.options.cohort.resolve().parent.name


def _measure(bench: Benchmark, seed: int) -> Row:
    chosen, quick = bench.options, bench.options.quick
    given = ["env=wsi", f"seed={seed}", "report.readers=[overview,full_scan]"]
    given += ["experiment=smoke"] if quick else []
    given += [setting("env.cohort.path", chosen.cohort.resolve())] if chosen.cohort is not None else []
    given += [f"env.make.overview_size={chosen.overview}"] if chosen.overview is not None else []
    run = bench.train(f"{_name(bench)}-{seed}", given)
    others = {name: one for name, one in run.metrics["readers"].items() if name in ("overview", "full_scan")}
    row: Row = {"seconds": run.seconds}
    for budget in chosen.glimpses[: 1 if quick else None]:
        found = evaluate(run.folder, max_glimpses=budget, readers=list(_BY_POLICY), progress=False)
        for reader, values in zip(_BY_POLICY, found.rows.values(), strict=True):
            row |= facts_of(f"{reader} {budget}", values)
    for reader, values in others.items():
        row |= facts_of(reader, values)
    return row


def report(bench: Benchmark) -> None:
    """Prints the test AUC of every reader in each row, and draws the agent's and the others'."""
    rows = bench.results.rows
    readers = [key.removesuffix(" auc") for key in rows[0] if key.endswith(" auc")]
    header = ("cohort, seed", *readers, "seconds")
    print(table(header, [[f"{row['cohort']}, {row['seed']}", *(row.get(f"{one} auc") for one in readers),
                          row["seconds"]] for row in rows]))  # fmt: skip
    made, axes = figure(7.2, 3.6)
    for place, reader in enumerate(readers):
        values = [row[f"{reader} auc"] for row in rows if f"{reader} auc" in row]
        axes.plot([place] * len(values), values, "o", color="tab:blue" if reader.startswith("policy") else "tab:gray")
    axes.set(ylabel="test AUC", xticks=range(len(readers)), ylim=(0.4, 1.02))
    axes.set_xticklabels([one.replace("policy", "agent") for one in readers], rotation=20)
    bench.picture(made)


if __name__ == "__main__":
    main()
