"""Survival on embedded images whose law is known: concordance of every reader, beside the best possible one.

python -m benchmarks.survival [--env xray wsi]

Each image is a patient. The time of its event is drawn from an exponential law: the hazard is multiplied by e^0.5 with
each nodule (of radiographs, 0 or 3 to 6), or by e with each focus of tumour (of slides, 0 or 1 to 3). Censoring comes
at a time that has nothing to do with it, before the event in about a third of the images. Even who knows the true
hazard cannot foretell times that are drawn; "true hazard" is the concordance that it has on the same test images. With
few of them this is mostly chance. Hence the second table: the mean concordance of the same answers over 500 draws of
the times of the test images, which no answers can have higher than the true hazard has it.
"""

import argparse
import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Benchmark, Row, add_seeds, facts_of, figure, parser, setting, table, write_cohort
from glimpse.synthetic.radiographs.recipe import embedded_cohort as radiographs
from glimpse.synthetic.radiographs.spots import NODULE
from glimpse.synthetic.slides.layout import FOCUS
from glimpse.synthetic.slides.recipe import embedded_cohort as slides
from glimpse.tasks.concordance import weighted_concordance

NAME = "survival"
READERS = ("agent", "random", "grid", "overview", "full_scan")
IMAGES: dict[str, tuple[Any, str, float]] = {"xray": (radiographs, NODULE, 0.5), "wsi": (slides, FOCUS, 1.0)}
"""Of each environment: who makes its images, the kind of spot that matters, and the log of its hazard ratio."""

_MONTHS = 60.0  # mean time of the event without spots
_CENSORED = 1 / 3
_DRAWS = 500
_SEED = 0  # of times; that of the training is another


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--env", nargs="+", choices=list(IMAGES), default=["xray"], help="default: xray")
    add_seeds(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    for env in bench.options.env:
        maker, kind, ratio = IMAGES[env]
        size = 512 if env == "xray" else 1024
        made = maker(bench.runs / env, 12, size=size) if bench.options.quick else maker()
        rows = with_times(made, kind, ratio)
        cohort = write_cohort(bench.runs / f"{env}.csv", rows)
        for seed in bench.options.seeds:
            settings = {"env": env, "seed": seed}
            if bench.results.find(**settings) is None:
                tested = {row["slide_id"]: row for row in rows if row["split"] == "test"}
                bench.results.put(settings, **_measure(bench, env, seed, cohort, tested))
    report(bench)


# ---------------------------------------------------------------------------------------------- the law
def with_times(manifest: Path, kind: str, ratio: float) -> list[dict[str, str]]:
    """Returns the rows of a cohort with times in months, events, and the logs of true hazards, in place of targets."""
    with open(manifest.with_name("regions.csv"), newline="", encoding="utf-8") as file:
        counts = Counter(row["slide_id"] for row in csv.DictReader(file) if row["kind"] == kind)
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    logs = np.array([ratio * counts[row["slide_id"]] for row in rows]) - math.log(_MONTHS)
    rng = np.random.default_rng(_SEED)
    times, censored = draw_times(rng, logs)
    made = []
    for row, time, last, log in zip(rows, times, censored, logs, strict=True):
        found = {key: value for key, value in row.items() if key not in ("target", "case_id")}
        found |= {key: str(manifest.parent / row[key]) for key in ("path", "mask") if row.get(key)}
        seen = {"time": f"{min(time, last):.2f}", "event": str(int(time <= last)), "log_hazard": f"{log:.6f}"}
        made.append({"case_id": row["slide_id"], **found, **seen})
    return made


def draw_times(rng: np.random.Generator, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws times of events, and of censoring, from exponential laws.

    The rate c of censoring is the one with which ``mean c / (c + e^log)``, the expected share that is censored, is as
    wanted; it is found by bisection.
    """
    hazards, low, high = np.exp(logs), 0.0, 1e6
    for _ in range(200):
        rate = (low + high) / 2
        low, high = (rate, high) if (rate / (rate + hazards)).mean() < _CENSORED else (low, rate)
    return rng.exponential(1 / hazards), rng.exponential(1 / rate, len(hazards))


def concordances(risks: np.ndarray, rows: Sequence[Mapping[str, str]]) -> tuple[float, float]:
    """Returns the concordance of risks with the times of rows, and its mean over times that are drawn anew.

    Draws in which no two cases can be compared do not count.
    """
    logs, times, events = (np.array([float(row[key]) for row in rows]) for key in ("log_hazard", "time", "event"))
    rng, one = np.random.default_rng(_SEED + 1), np.ones((1, len(rows)))
    drawn = []
    for _ in range(_DRAWS):
        time, last = draw_times(rng, logs)
        drawn += weighted_concordance(risks, np.minimum(time, last), time <= last, one).tolist()
    return float(weighted_concordance(risks, times, events == 1, one)[0]), float(np.nanmean(drawn))


# ---------------------------------------------------------------------------------------------- measuring
def _measure(bench: Benchmark, env: str, seed: int, cohort: Path, tested: Mapping[str, Mapping[str, str]]) -> Row:
    given = [f"env={env}", f"seed={seed}", "report.readers=[random,grid,overview,full_scan]"]
    given += ["env.task._target_=glimpse.tasks.Survival", "+env.task.unit=months"]
    given += [setting("env.cohort.path", cohort), *(["experiment=smoke"] if bench.options.quick else [])]
    run = bench.train(f"{env}-{seed}", given)
    row: Row = {
        "seconds": run.seconds,
        "cases": len(tested),
        "events": sum(one["event"] == "1" for one in tested.values()),
    }
    with open(run.folder / "predictions.csv", newline="", encoding="utf-8") as file:
        answers = list(csv.DictReader(file))
    for reader, (called, values) in zip(READERS, run.metrics["readers"].items(), strict=True):
        own = [one for one in answers if one["reader"] == called]
        risks = np.array([float(one["risk"]) for one in own])
        row |= facts_of(reader, values)
        row[f"{reader} expected"] = concordances(risks, [tested[one["slide_id"]] for one in own])[1]
    logs = np.array([float(one["log_hazard"]) for one in tested.values()])
    row["true hazard c_index"], row["true hazard expected"] = concordances(logs, list(tested.values()))
    own_index = run.own["c_index"]
    return row | {"agent c_index low": own_index["low"], "agent c_index high": own_index["high"]}


def report(bench: Benchmark) -> None:
    """Prints the concordance of every reader in each row, and draws them."""
    rows, shown = bench.results.rows, (*READERS, "true hazard")
    for what in ("c_index", "expected"):
        lines = [[f"{row['env']}, {row['seed']}", *(row.get(f"{one} {what}") for one in shown), row["seconds"]]
                 for row in rows]  # fmt: skip
        print(table((f"{what}: images, seed", *shown, "seconds"), lines))
    made, axes = figure(6.4, 3.6)
    for place, reader in enumerate(shown):
        values = [row[f"{reader} expected"] for row in rows]
        axes.plot([place] * len(values), values, "o", color="tab:blue" if reader == "agent" else "tab:gray")
    axes.set(ylabel="expected concordance", xticks=range(len(shown)), ylim=(0.3, 1.02))
    axes.set_xticklabels(shown, rotation=20)
    axes.axhline(0.5, color="tab:gray", linewidth=0.8)
    bench.picture(made)


if __name__ == "__main__":
    main()
