"""What learning without labels brings: a linear probe tells two kinds of spots apart by the features of glimpses.

python -m benchmarks.pretraining --env wsi --cohort <CSV> --minutes 10

Each objective trains the encoder on glimpses of the training split for so many minutes, from random weights and from
pretrained ones. Then the encoder stays as it is: glimpses at the spots of training cases teach a logistic regression,
which is asked about those of test cases. Where the spots lie is in a table `regions.csv` beside the cohort's CSV, with
the columns slide_id, kind, y, x and radius, in level-0 pixels.
"""

import argparse
import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.common import Benchmark, Row, add_seeds, figure, parser, setting, table
from glimpse.cohort import Case, Cohort
from glimpse.contract.protocol import contract_of
from glimpse.contract.stepped_sources import viewable_cases
from glimpse.learning.stages import Training, seed_everything
from glimpse.modalities import find_modality
from glimpse.networks.policy import GlimpsePolicy
from glimpse.runs.folder import Run
from glimpse.runs.loading import build_policy
from glimpse.settings.building import build
from glimpse.settings.composing import composed
from glimpse.views import Views

NAME = "pretraining"
OBJECTIVES = ("none", "contrastive", "vicreg", "masked", "distillation")
ENCODERS = {"random": "small", "pretrained": "efficientnet_lite0"}
_RATES = {"random": None, "pretrained": 1e-4}  # None: the objective's own; what is known already is soon forgotten
_PER_SPOT = 6  # glimpses
_COLUMNS = ("slide_id", "kind", "y", "x", "radius")


@dataclass(frozen=True)
class Spot:
    """A place of a known kind in an image; centre (y, x) and radius in level-0 pixels."""

    case: str
    kind: str
    centre: tuple[float, float]
    radius: float


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--env", default="wsi", help="an environment of planes whose cohort is a CSV (default: wsi)")
    made.add_argument("--cohort", type=Path, help="the cohort's CSV (default: the embedded cohort)")
    made.add_argument("--minutes", type=float, default=10, help="of training for each row (default: 10)")
    made.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), help="default: all")
    made.add_argument("--start", nargs="+", choices=list(ENCODERS), default=list(ENCODERS), help="default: both")
    made.add_argument("--extent", type=int, help="field of view in level-0 pixels (default: the environment's)")
    made.add_argument(
        "--learning-rate", type=float, help="default: the objective's own, and 1e-4 from pretrained weights"
    )
    made.add_argument("--pool", type=int, default=4096, help="glimpses that are read to learn from (default: 4096)")
    add_seeds(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    given = bench.options
    regions = _cohort_of(bench).with_name("regions.csv")
    spots = spots_of(bench, regions)
    minutes = 0.02 if given.quick else given.minutes
    for seed in given.seeds:
        for start in given.start:
            for objective in given.objectives:
                settings: Row = {"env": given.env, "objective": objective, "start": start, "seed": seed}
                settings |= {"extent": given.extent, "pool": given.pool}
                settings |= {"minutes": minutes if objective != "none" else 0}
                settings |= {"learning_rate": given.learning_rate or _RATES[start]}
                if bench.results.find(**settings) is None:
                    bench.results.put(settings, **_measure(bench, settings, spots))
    report(bench)


def _cohort_of(bench: Benchmark) -> Path:
    """The CSV of the cohort, which is made if it is the embedded one."""
    if bench.options.cohort:
        return Path(bench.options.cohort).resolve()
    maker = find_modality(bench.options.env).maker()
    if maker is None or find_modality(bench.options.env).draws:
        bench.error(f"--env {bench.options.env} has no CSV; choose another one.")
    return Path(maker())


def spots_of(bench: Benchmark, path: Path) -> list[Spot]:
    """Reads the table of spots; ends the program with a message where it is missing, or not of two kinds."""
    if not path.is_file():
        bench.error(f"{path} is not there: the spots have to be listed in it. Write one with {','.join(_COLUMNS)}.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in _COLUMNS if rows and name not in rows[0]]
    kinds = {row["kind"] for row in rows} if not missing else set()
    if missing or len(kinds) != 2:
        wrong = f"lacks the columns {', '.join(missing)}" if missing else f"has {len(kinds)} kinds of spots, not 2"
        bench.error(f"{path} {wrong}. Write it with the columns {','.join(_COLUMNS)} and two kinds.")
    return [
        Spot(row["slide_id"], row["kind"], (float(row["y"]), float(row["x"])), float(row["radius"])) for row in rows
    ]


def _measure(bench: Benchmark, settings: Mapping[str, Any], spots: Sequence[Spot]) -> Row:
    given, seed = bench.options, settings["seed"]
    overrides = [f"env={given.env}", f"pretrain={settings['objective']}", f"seed={seed}", "joint=none", "warm_up=none"]
    overrides += [f"network/encoder={ENCODERS[settings['start']]}"]
    overrides += [setting("env.cohort.path", _cohort_of(bench))]
    if settings["objective"] != "none":
        overrides += ["pretrain.steps=1000000000", f"pretrain.pool={64 if given.quick else given.pool}"]
        rate = settings["learning_rate"]
        overrides += [f"pretrain.learning_rate={rate}"] if rate else []
    if given.extent:
        overrides += [f"env.make.glimpse_extents=[{given.extent}]"]
    config: Any = composed(*overrides)
    seed_everything(seed, given.threads)
    cohort: Cohort = build(config.env.cohort)
    env = build(config.env.make, cohort=cohort, split="train")
    contract, viewable = contract_of(env), viewable_cases(env, seed)
    policy = build_policy(config.network, contract.observation_space, contract.layout).to(given.device)
    row: Row = {"steps": 0, "seconds": 0.0}
    if settings["objective"] != "none":
        run = Run(bench.runs / "unused", {}, resume=True)

        def no_lanes(split: str, count: int) -> Any:
            raise AssertionError("no episodes are played")

        training = Training(run, policy, viewable, no_lanes, lambda split: viewable, seed, 2, progress=False)
        row = train_for(build(config.pretrain).trainer(training), 60 * settings["minutes"])
    row["auc"] = probe(policy, viewable.views, cohort, spots, seed)
    print(f"{NAME}: {settings['start']}, {settings['objective']}: AUC {row['auc']:.3f}", flush=True)
    return row


def train_for(trainer: Any, seconds: float) -> Row:
    """Makes steps for so many seconds, at least two, and returns their number and the first and the last losses."""
    trainer.calibrate()
    losses: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(losses) < 2:
        losses.append(trainer.step())
    taken = time.perf_counter() - began
    trainer.calibrate()
    part = max(1, len(losses) // 10)
    ends = {"first_loss": float(np.mean(losses[:part])), "last_loss": float(np.mean(losses[-part:]))}
    return {"steps": len(losses), "seconds": taken, **ends}


def probe(policy: GlimpsePolicy, views: Views, cohort: Cohort, spots: Sequence[Spot], seed: int) -> float:
    """Returns the test AUC of a logistic regression on pooled features; the score of a spot is its glimpses' mean."""
    rng = np.random.default_rng(seed)
    learned, asked = (_features(policy, views, list(cohort.split(part)), spots, rng) for part in ("train", "test"))
    second = max(spot.kind for spot in spots)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    classifier.fit(learned[0].reshape(-1, learned[0].shape[-1]), np.repeat(learned[1] == second, _PER_SPOT))
    scores = classifier.decision_function(asked[0].reshape(-1, asked[0].shape[-1]))
    return float(roc_auc_score(asked[1] == second, scores.reshape(-1, _PER_SPOT).mean(1)))


def _features(
    policy: GlimpsePolicy, views: Views, cases: Sequence[Case], spots: Sequence[Spot], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Reads glimpses in the inner half of each spot; returns features (spot, glimpse, number) and kinds (spot)."""
    known, found, kinds = {case.id: case.source for case in cases}, [], []
    for spot in spots:
        source = known.get(spot.case)
        if source is None:
            continue
        offsets = rng.uniform(-1, 1, (_PER_SPOT, 2)) * spot.radius / 2
        places = np.array(spot.centre) + offsets
        locations = np.clip(places / np.array(source.shape) * 2 - 1, -1, 1).astype(np.float32)
        found.append(np.stack([views.glimpse(source, location) for location in locations]))
        kinds.append(spot.kind)
    with torch.no_grad():
        pixels = torch.from_numpy(np.concatenate(found))
        summaries = policy.summary_in_chunks(pixels).cpu().numpy()
    return summaries.reshape(len(kinds), _PER_SPOT, -1), np.array(kinds)


def report(bench: Benchmark) -> None:
    """Prints a line for each objective and start, and draws the AUC."""
    lines, (made, axes) = [], figure(6.4, 4.2)
    for offset, start in enumerate(ENCODERS):
        rows = [row for row in bench.results.rows if row["start"] == start]
        for objective in OBJECTIVES:
            some = [row for row in rows if row["objective"] == objective]
            if some:
                value = float(np.mean([row["auc"] for row in some]))
                steps = round(float(np.mean([row["steps"] for row in some])))
                lines.append([f"{start}, {objective}", len(some), steps, value])
                color = f"tab:{('blue', 'orange')[offset]}"
                axes.bar(OBJECTIVES.index(objective) + 0.4 * offset - 0.2, value, 0.38, color=color)
    print(table(("start, objective", "rows", "steps", "test AUC"), lines))
    axes.set(xticks=range(len(OBJECTIVES)), xticklabels=OBJECTIVES, ylabel="test AUC of a linear probe", ylim=(0.4, 1))
    bench.picture(made)


if __name__ == "__main__":
    main()
