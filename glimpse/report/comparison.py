"""The end of a run: the agent beside its baselines on the test split, as a table, a JSON, a CSV and pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from glimpse.cohort import Cohort
from glimpse.contract.stepped_sources import ViewableCases
from glimpse.evaluate import read_cases
from glimpse.learning.stages import Training
from glimpse.networks.policy import GlimpsePolicy
from glimpse.pictures.episodes import Watched, scanpath_picture, watch
from glimpse.report.tables import Reading, summarise, table, value_of, write_predictions
from glimpse.runs.loading import POLICY_FILE, load


def validator(training: Training, cohort: Cohort, config: DictConfig) -> Callable[[], Any]:
    """A function that reads the validation split with the policy as it stands: scores, and one scanpath's picture."""
    cases = cohort.split("val")
    if not len(cases):
        return lambda: ({}, None)
    reader = config.agent.name if config.agent.name in ("random", "grid", "overview") else "policy"
    lanes: list[VecEnv] = []
    looked: list[ViewableCases] = []

    def validate() -> tuple[dict[str, float], np.ndarray | None]:
        if not lanes:
            lanes.append(training.lanes("val", min(config.report.lanes, len(cases))))
            looked.append(training.look("val"))
        training.policy.set_training_mode(False)
        readings = read_cases(training.policy, lanes[0], reader, config.max_glimpses, seed=config.seed)
        row = summarise(readings, training.env.task, seed=config.seed)
        found = {name: value_of(row, name) for name in ("score", *row)}
        scores = {name: value for name, value in found.items() if value is not None} | {"glimpses": row["glimpses"]}
        picture = scanpath_picture(_watched(training.policy, looked[0], 0, config.max_glimpses))
        return scores, picture

    return validate


def report(training: Training, policy: GlimpsePolicy, cohort: Cohort, config: DictConfig) -> dict[str, Any]:
    """Reads the test split with every reader, once; writes metrics, predictions and pictures; prints the table."""
    run, split, settings = training.run, config.report.split, config.report
    with run.timed("report"):
        readings = _read(training, policy, cohort, config)
        task = training.env.task
        rows = {reader: summarise(answers, task, seed=config.seed) for reader, answers in readings.items()}
        pictures = run.folder / "scanpaths"
        looked = training.look(split)
        for index, case in enumerate(looked.cases[: settings.pictures]):
            _draw(policy, looked, index, config.max_glimpses, pictures / f"{case.id}.png")
    metrics = {
        "split": split,
        "seed": config.seed,
        "max_glimpses": config.max_glimpses,
        "seconds": {stage: round(seconds, 1) for stage, seconds in run.seconds.items()},
        "readers": rows,
        "validation": run.last.meta.get("validation", {}).get("history", []),
    }
    write_predictions(run.folder / "predictions.csv", readings, task, split)
    run.write_json("metrics.json", metrics)
    run.logger.close()
    print(f"\n{table(rows, headline=task.headline)}\n\nRun folder: {run.folder}")
    return metrics


def _read(training: Training, policy: GlimpsePolicy, cohort: Cohort, config: DictConfig) -> dict[str, list[Reading]]:
    """The answers of the agent and of every reader asked for, on the report's split."""
    settings, own = config.report, config.agent.name
    lanes = training.lanes(settings.split, min(settings.lanes, len(cohort.split(settings.split))))
    readers = [own, *(reader for reader in settings.readers if reader != own)]
    readings: dict[str, list[Reading]] = {}
    for reader in tqdm(readers, desc="report", unit="reader", disable=not config.progress):
        if reader == "full_scan" and training.env.stepped:
            print("full_scan is left out: this environment is read through its steps, which show no whole tiling.")
        elif reader == "full_scan":
            readings[reader] = _full_scan(training, policy, cohort, config)
        elif reader == "overview" and policy.overview_dropout == 1:
            readings[reader] = read_cases(_overview(training, cohort, config), lanes, reader, 0, seed=config.seed)
        else:
            how = reader if reader in ("random", "grid", "overview") else "policy"
            readings[reader] = read_cases(policy, lanes, how, config.max_glimpses, seed=config.seed)
    lanes.close()
    return readings


def _overview(training: Training, cohort: Cohort, config: DictConfig) -> GlimpsePolicy:
    """A network of its own that answers from overviews, where the run's network was made not to."""
    settings, val = config.report.overview, cohort.split("val")
    pretrained = training.run.checkpoint("pretrained")
    file = f"checkpoints/{pretrained.name}" if pretrained.exists() else POLICY_FILE
    start = load(training.run.folder, file, config.device, overview_dropout=0.0)
    checks = training.lanes("val", min(config.report.lanes, len(val))) if len(val) else None

    def validate(policy: GlimpsePolicy) -> float:
        if checks is None:
            return 0.0
        return float(summarise(read_cases(policy, checks, "overview", 0), training.env.task)["score"]["value"])

    with torch.random.fork_rng(devices=[]):
        train = training.lanes("train", int(settings.algorithm.cases_per_rollout))
        return instantiate(settings)(start, train, validate, seed=config.seed, progress=config.progress)


def _pretrained(training: Training, otherwise: GlimpsePolicy) -> GlimpsePolicy:
    """The network as pretraining left it, or another one where there was no pretraining."""
    path = training.run.checkpoint("pretrained")
    return load(training.run.folder, f"checkpoints/{path.name}") if path.exists() else otherwise


def _full_scan(training: Training, policy: GlimpsePolicy, cohort: Cohort, config: DictConfig) -> list[Reading]:
    """Every foreground patch, by the encoder as pretraining left it (or the final one, where there was none)."""
    scan = instantiate(config.report.full_scan)(
        _pretrained(training, policy),
        training.env.views,
        training.env.task,
        folder=training.run.folder / "checkpoints",
        seed=config.seed,
        threads=training.threads,
        progress=config.progress,
    )
    scan.fit(cohort.split("train"), cohort.split("val"))
    return scan.read(cohort.split(config.report.split))


def _draw(policy: GlimpsePolicy, looked: ViewableCases, index: int, max_glimpses: int, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(scanpath_picture(_watched(policy, looked, index, max_glimpses))).save(path)


def _watched(policy: GlimpsePolicy, looked: ViewableCases, index: int, max_glimpses: int) -> Watched:
    return watch(policy, looked.views, looked.cases[index], max_glimpses, looked.task)
