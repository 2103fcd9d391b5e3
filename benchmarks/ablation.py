"""What each part of the recipe is worth: megapixel MNIST with one of them left out or exchanged, in the same time.

python -m benchmarks.ablation --root <folder of MNIST's IDX files>

Every variant learns for --minutes, all stages included. So that its learning rate, too, comes to rest in that time, its
updates are counted out beforehand: short runs measure what its updates take, and one run what pretraining takes.
"""

import argparse
import re
from collections.abc import Sequence

from benchmarks.common import (
    QUICK_CASES,
    Benchmark,
    Row,
    Trained,
    add_seeds,
    figure,
    parser,
    table,
    value_of,
)
from benchmarks.mnist import add_root, root_of

NAME = "ablation"
_CRITIC = "agent.algorithm.baseline=critic"
VARIANTS: dict[str, tuple[str, ...]] = {
    "everything": (),
    "no pretraining": ("pretrain=none",),
    "pretraining: statistics only": ("pretrain.steps=0",),
    "no warm-up": ("warm_up=none",),
    "a warm-up that does not look": ("warm_up.look_coef=0",),
    "no gain reward (final score only)": ("agent.algorithm.credit=final",),
    "critic": (_CRITIC,),
    "critic, one rollout per case": (
        _CRITIC,
        "agent.algorithm.cases_per_rollout=64",
        "agent.algorithm.rollouts_per_case=1",
    ),
    "Gaussian locator": ("network/locator=gaussian",),
    "mean pooling": ("network/aggregator=mean_pooling",),
}
_PROBE = 12  # updates of the joint stage that measure its rate


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    add_root(made)
    made.add_argument("--minutes", type=float, default=6, help="of learning per variant (default: 6)")
    made.add_argument("--variant", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="default: all")
    add_seeds(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    for seed in bench.options.seeds:
        for variant in bench.options.variant:
            settings = {"variant": variant, "seed": seed, "minutes": bench.options.minutes}
            if bench.results.find(**settings) is None:
                bench.results.put(settings, **_measure(bench, variant, seed))
    report(bench)


def _measure(bench: Benchmark, variant: str, seed: int) -> Row:
    counted = _updates(bench, variant)
    updates = 2 if bench.options.quick else counted
    fixed = (f"seed={seed}", f"joint.updates={updates}", "joint.validate_every=0", "env.cohort.n.test=1000")
    run = _train(bench, f"{_slug(variant)}-{seed}", *VARIANTS[variant], *fixed)
    found = {name: value_of(run.own, name) for name in ("accuracy", "hit_rate", "glimpses")}
    return {**found, "updates": updates, "seconds": run.seconds}


def _train(bench: Benchmark, label: str, *overrides: str) -> Trained:
    quick = QUICK_CASES if bench.options.quick else ()
    return bench.train(label, ["env=megapixel_mnist", root_of(bench), "max_glimpses=12", *overrides, *quick])


def _updates(bench: Benchmark, variant: str) -> int:
    """How many updates of the joint stage fit beside the other stages."""
    small, overrides = "env.cohort.n.test=10", VARIANTS[variant]
    stages = _train(bench, "stages", "joint=none", small).metrics["seconds"]
    kept = [override for override in overrides if not override.startswith(("pretrain", "warm_up"))]
    counted = ("pretrain.steps=0", "warm_up=none", f"joint.updates={_PROBE}")
    rate = _train(bench, f"rate-{_slug(variant)}", *kept, *counted, "joint.validate_every=0", small).metrics["seconds"]
    left = 60 * bench.options.minutes
    if "warm_up=none" not in overrides:
        left -= stages["warm_up"]
    if "pretrain.steps=0" in overrides:
        left -= rate["pretrain"]
    elif "pretrain=none" not in overrides:
        left -= stages["pretrain"]
    if left <= 0:
        bench.error(f"--minutes {bench.options.minutes:g} are over before the joint stage of {variant!r} begins.")
    return max(1, int(left / (rate["joint"] / _PROBE)))


def _slug(variant: str) -> str:
    return re.sub(r"\W+", "-", variant).strip("-").lower()


def report(bench: Benchmark) -> None:
    """Prints a line per variant and seed, and draws accuracies."""
    rows = [row for row in bench.results.rows if row["minutes"] == bench.options.minutes]
    header = ("variant", "seed", "accuracy", "digits hit", "glimpses", "updates", "learning, s")
    names = ("seed", "accuracy", "hit_rate", "glimpses", "updates", "seconds")
    print(table(header, [[row["variant"], *(row[name] for name in names)] for row in rows]))
    shown = list(dict.fromkeys(row["variant"] for row in rows))[::-1]
    made, axes = figure(7.2, 1.2 + 0.36 * len(shown))
    for row in rows:
        axes.barh(shown.index(row["variant"]), row["accuracy"], color="tab:blue", alpha=0.5)
        axes.plot(row["hit_rate"], shown.index(row["variant"]), "|", color="black", markersize=14)
    axes.plot([], [], "|", color="black", markersize=10, label="share of the digits hit")
    axes.set(xlim=(0, 1), yticks=range(len(shown)), yticklabels=shown)
    axes.set_xlabel(f"test accuracy after {bench.options.minutes:g} minutes")
    axes.legend(loc="lower right", fontsize="small")
    bench.picture(made)


if __name__ == "__main__":
    main()
