"""Megapixel MNIST (majority of five digits on 1500 x 1500 pixels): test accuracy over the seconds of training.

python -m benchmarks.megapixel_mnist --root <folder of MNIST's IDX files>

5,000 training images, 12 glimpses, all stages included. PPO with seeds 0, 1 and 2 and REINFORCE with seed 0; --agent,
--seeds and --updates choose others. The test split is read after the run, from the policies kept at each look at the
validation split, so that testing costs the run no time.
"""

import argparse
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks import reference
from benchmarks.common import QUICK_CASES, Benchmark, Row, figure, parser, table, value_of
from benchmarks.mnist import add_root, root_of
from glimpse.reading.lanes import Access
from glimpse.reading.readers import reader_named
from glimpse.report.tables import summarise
from glimpse.runs.folder import settings_of
from glimpse.runs.loading import load
from glimpse.settings.building import build

NAME = "megapixel_mnist"
TARGETS = ((0.90, 8), (0.96, 20))  # test accuracy, and the minutes it may take
_PLAN = (("ppo", 0), ("ppo", 1), ("ppo", 2), ("reinforce", 0))
_TRAIN, _TEST, _GLIMPSES, _UPDATES = 5000, 1000, 12, 1200


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    add_root(made)
    made.add_argument("--agent", nargs="+", help="agents, each with every seed (default: see above)")
    made.add_argument("--seeds", type=int, nargs="+", help="seeds (default: see above)")
    made.add_argument("--updates", type=int, default=_UPDATES, help=f"of the joint stage (default: {_UPDATES})")
    made.add_argument(
        "--every", type=int, default=25, help="updates of the joint stage between two looks (default: 25)"
    )
    made.add_argument("--reference-seconds", type=float, default=615, help="of its warm-up and joint stage")
    reference.add_option(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    given = bench.options
    if given.quick:
        given.every = 1
    chosen = given.agent or given.seeds or given.quick or given.updates != _UPDATES
    plan = product(given.agent or ["ppo"], given.seeds or [0]) if chosen else _PLAN
    if given.reference:
        _reference(bench)
    for agent, seed in plan:
        learn(bench, agent, seed)
    report(bench)


def learn(bench: Benchmark, agent: str, seed: int) -> None:
    """One training, then its curve on the test split, point by point."""
    settings = {"agent": agent, "seed": seed, "updates": bench.options.updates}
    row = bench.results.find(**settings)
    if row is not None and row["complete"]:
        return
    run = bench.train(f"{agent}-{seed}", _overrides(bench, agent, seed))
    looks = [look for look in run.metrics["validation"] if look["stage"] == "joint"]
    curve: list[Row] = [] if row is None else row["curve"]
    test = TestSplit(run.folder)
    for look in looks[len(curve) :]:
        found = test.read(f"checkpoints/joint-{look['updates']:05d}.safetensors")
        curve = [*curve, {"updates": look["updates"], "seconds": look["seconds"], **found}]
        print(f"{look['seconds']:6.0f} s  test accuracy {found['accuracy']:.3f}", flush=True)
        bench.results.put(settings, complete=False, curve=curve)
    final = {name: value_of(run.own, name) for name in ("accuracy", "hit_rate")}
    bench.results.put(settings, complete=True, seconds=run.seconds, **final, **_times(curve), curve=curve)


def _overrides(bench: Benchmark, agent: str, seed: int) -> list[str]:
    cases = QUICK_CASES if bench.options.quick else (f"env.cohort.n.train={_TRAIN}", f"env.cohort.n.test={_TEST}")
    looks = ("joint.keep=true", f"joint.validate_every={bench.options.every}")
    updates = () if bench.options.quick else (f"joint.updates={bench.options.updates}",)
    return [
        "env=megapixel_mnist",
        root_of(bench),
        f"agent={agent}",
        f"seed={seed}",
        f"max_glimpses={_GLIMPSES}",
        *cases,
        *looks,
        *updates,
    ]


class TestSplit:
    """Reads the test split of a run's cohort with any of the policies in its folder."""

    __test__ = False  # for pytest: no test

    def __init__(self, folder: Path, lanes: int = 50) -> None:
        self.folder, config = folder, OmegaConf.create(settings_of(folder))
        cases = build(config.env.cohort).split("test")
        self.config, self.env = config, build(config.env.make, cohort=cases, split="test").unwrapped
        self.access = Access(self.env.views, self.env.task, lanes, config.read_threads)

    def read(self, file: str) -> Row:
        """Accuracy, and share of the digits that a glimpse has shown."""
        policy = load(self.folder, file, device=self.config.device)
        reader = reader_named("policy", policy, self.access, self.config.max_glimpses)
        row = summarise(reader.read(self.env.cases), self.env.task, self.config.seed)
        return {name: value_of(row, name) for name in ("accuracy", "hit_rate")}


def _reference(bench: Benchmark) -> None:
    given, settings = bench.options, {"agent": "reference", "seed": 0}
    if bench.results.find(**settings) is None:
        times = ["--seconds", str(given.reference_seconds)]
        sizes = ["--train", str(_TRAIN), "--test", str(_TEST), "--glimpses", str(_GLIMPSES)]
        looks = reference.run(
            given.reference, "--mnist", str(given.root), "--threads", str(given.threads), *times, *sizes
        )
        last = {name: looks[-1][name] for name in ("seconds", "accuracy", "hit_rate")}
        bench.results.put(settings, complete=True, **last, **_times(looks), curve=looks)


# ---------------------------------------------------------------------------------------------- what is shown
def _times(curve: Sequence[Row]) -> Row:
    """Seconds at which each target is reached: at the first look, and where the line between the looks crosses it."""
    looks = {f"seconds_to_{level:.2f}": _first(curve, level) for level, _ in TARGETS}
    return {**looks, **{f"crossing_{level:.2f}": _crossing(curve, level) for level, _ in TARGETS}}


def _first(curve: Iterable[Row], level: float) -> float | None:
    return next((float(look["seconds"]) for look in curve if look["accuracy"] >= level), None)


def _crossing(curve: Sequence[Row], level: float) -> float | None:
    """Curves that are looked at at different times are compared by this; looks are up to a minute late."""
    before = (0.0, 0.0)
    for look in curve:
        now = (float(look["seconds"]), float(look["accuracy"]))
        if now[1] >= level:
            return before[0] + (now[0] - before[0]) * (level - before[1]) / (now[1] - before[1])
        before = now
    return None


def report(bench: Benchmark) -> None:
    """Prints a line per training, and draws all curves with the targets."""
    rows = [row for row in bench.results.rows if row["complete"]]
    names = ("seconds_to_0.90", "seconds_to_0.96", "seconds", "accuracy", "hit_rate")
    header = ("training", "0.90 at, s", "0.96 at, s", "all, s", "final accuracy", "digits hit")
    print(table(header, [[_label(row), *(row[name] for name in names)] for row in rows]))
    for level, minutes in TARGETS:
        reached = [_label(row) for row in rows if (row[f"seconds_to_{level:.2f}"] or 1e9) <= 60 * minutes]
        print(f"target: {level:.2f} within {minutes} minutes; reached by {', '.join(reached) or 'none'}")
    measure = next((row["crossing_0.90"] for row in rows if row["agent"] == "reference"), None)
    for row in rows:
        if measure and row["agent"] != "reference" and row["crossing_0.90"]:
            print(f"{_label(row)}: time to 0.90 over that of the reference: {row['crossing_0.90'] / measure:.2f}")
    _draw(bench, rows)


def _label(row: Row) -> str:
    if row["agent"] == "reference":
        return "reference"
    longer = "" if row["updates"] == _UPDATES else f", {row['updates']} updates"
    return f"{row['agent']}, seed {row['seed']}{longer}"


def _draw(bench: Benchmark, rows: Sequence[Row]) -> None:
    made, axes = figure(7.2, 4.6)
    for row in rows:
        points: list[tuple[Any, Any]] = [(look["seconds"] / 60, look["accuracy"]) for look in row["curve"]]
        style = {"color": "black", "linestyle": "--"} if row["agent"] == "reference" else {"marker": ".", "ms": 4}
        axes.plot(*zip(*points, strict=True), label=_label(row), **style)
    for level, minutes in TARGETS:
        axes.plot(minutes, level, "*", color="tab:red", markersize=12)
    axes.plot([], [], "*", color="tab:red", label="targets")
    axes.set(xlabel="minutes of training, all stages", ylabel="test accuracy", xlim=(0, None), ylim=(0, 1))
    axes.legend()
    bench.picture(made)


if __name__ == "__main__":
    main()
