"""Large slides, mostly glass: the agent with zoom beside a full scan with the same encoder, in AUC and in seconds.

python -m benchmarks.sparse_slides

60 slides of 32,768 x 32,768 pixels of real H&E texture (`experiment=sparse_slides`); or, with `--sizes 49152`, of
49,152 x 49,152, with twice as many patches of tissue. The agent is trained with 24 looks, some of them wide, and takes
20 at each slide of 32,768 pixels and 24 at each of 49,152; the full scan embeds every patch of tissue. Features are not
kept on disk, so that both read and encode all that they see. Beside them stand the same network at random places, at
random places with wide looks first, and on a grid.
"""

import argparse
from collections.abc import Sequence

from benchmarks.common import Benchmark, Row, add_seeds, facts_of, figure, parser, table, value_of
from glimpse.evaluate import evaluate

NAME = "sparse_slides"
_BELOW, _SHARE, _QUICKER = 0.02, 0.01, 30  # of AUC at most; of the patches at most; times at least
_SIZES, _QUICK_SIZE = (32_768, 49_152), 8192
_LOOKS = {32_768: 20}  # 24, with which it is trained, may be more than 1 % of the patches there
READERS = ("policy", "random", "wide_first", "grid")
_QUICK = (
    "env.cohort.synthetic.n=12",
    "pretrain.steps=0",
    "warm_up.branches=[2,2]",
    "warm_up.second_steps=2",
    "agent.algorithm.min_glimpses=1",
)


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--sizes", type=int, nargs="+", choices=_SIZES, default=[32_768], help="default: 32768")
    add_seeds(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    for size in [_QUICK_SIZE] if bench.options.quick else bench.options.sizes:
        for seed in bench.options.seeds:
            if bench.results.find(seed=seed, size=size) is None:
                bench.results.put({"seed": seed, "size": size}, **_measure(bench, seed, size))
    report(bench)


def _measure(bench: Benchmark, seed: int, size: int) -> Row:
    given = ["env=wsi", "experiment=sparse_slides", f"seed={seed}", "features_cache=null", "report.readers=[full_scan]"]
    given.append(f"env.cohort.synthetic.size={size}")
    run = bench.train(f"sparse-{size}-{seed}", [*given, *(_QUICK if bench.options.quick else ())])
    scan, looks = run.metrics["readers"]["full_scan"], _LOOKS.get(size)
    row: Row = {"seconds": run.seconds, "patches": scan["glimpses"], **facts_of("full_scan", scan)}
    readers = READERS if looks else READERS[1:]
    found = evaluate(run.folder, readers=list(readers), max_glimpses=looks, device=bench.options.device, progress=True)
    values = dict(zip(readers, found.rows.values(), strict=True))
    agent = values.pop("policy", run.own)  # with all its looks, the run's report has it beside the full scan
    for reader, one in {"agent": agent, **values}.items():
        row |= facts_of(reader, one)
    row |= {"looks": agent["glimpses"], "seconds ratio": scan["seconds_per_case"] / agent["seconds_per_case"]}
    below = (value_of(scan, "auc") or 0) - (value_of(agent, "auc") or 0)
    row |= {"share of patches": agent["glimpses"] / scan["glimpses"], "below the full scan": below}
    return row


def report(bench: Benchmark) -> None:
    """Prints the AUC of all readers and what the agent and the full scan cost, and draws the AUC over the seconds."""
    rows, shown = bench.results.rows, ("agent", "random", "wide_first", "grid", "full_scan")
    costs = ("share of patches", "agent seconds_per_case", "full_scan seconds_per_case", "seconds ratio")
    header = ("pixels", "seed", *(f"{name} auc" for name in shown), *costs)
    print(table(header, [[str(_size(row)), str(row["seed"]), *(row.get(f"{name} auc") for name in shown),
                          *map(row.get, costs)] for row in rows]))  # fmt: skip
    met = [f"{row['seed']} ({_size(row)} pixels)" for row in rows if _reached(row)]
    print(
        f"targets: AUC at most {_BELOW} below the full scan's, with {_SHARE:.0%} of its patches and 1/{_QUICKER} of "
        f"its seconds or fewer; all are reached by seed {', '.join(met) or 'none'}"
    )
    made, axes = figure()
    for name, colour in zip(shown, ("tab:blue", "tab:gray", "tab:olive", "tab:brown", "tab:red"), strict=True):
        places = [(row[f"{name} seconds_per_case"], row[f"{name} auc"]) for row in rows if f"{name} auc" in row]
        if places:
            axes.plot(*zip(*places, strict=True), "o", color=colour, label=name.replace("_", " "))
    axes.set(xscale="log", xlabel="seconds per slide", ylabel="test AUC", ylim=(0.3, 1.02))
    axes.legend()
    bench.picture(made)


def _size(row: Row) -> int:
    return int(row.get("size", 32_768))  # older results have no other sizes


def _reached(row: Row) -> bool:
    cheap = row["share of patches"] <= _SHARE and row["seconds ratio"] >= _QUICKER
    return cheap and row["below the full scan"] <= _BELOW


if __name__ == "__main__":
    main()
