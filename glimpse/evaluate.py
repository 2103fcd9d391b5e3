"""Evaluate a saved run: read a split with any number of glimpses, beside the baselines.

python -m glimpse.evaluate run=runs/wsi-ppo-0 max_glimpses=32
"""

import functools
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig
from stable_baselines3.common.vec_env import VecEnv

from glimpse.atomic import write_atomically
from glimpse.cohort import Case, Cohort, CohortError
from glimpse.cohort.preflight import PreflightError, check_sizes
from glimpse.contract.protocol import ProtocolError
from glimpse.contract.stepped_sources import viewable_cases
from glimpse.errors import EvaluationError
from glimpse.networks.policy import GlimpsePolicy
from glimpse.plugins import ModalityError, with_plugins
from glimpse.reading.lanes import Access, access_to
from glimpse.reading.readers import READERS, check_readers, reader_named
from glimpse.reading.records import Reading
from glimpse.report.tables import Row, summarise, table, write_predictions
from glimpse.runs.checkpoints import CheckpointError
from glimpse.runs.loading import load
from glimpse.settings.building import build
from glimpse.sources import ImageReadError, UnsupportedImageError
from glimpse.tasks import Task


@dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Attributes:
        record: the content of the JSON file, in the form of a run's `metrics.json`.
        readings: every reader's answers.
        headline: the metrics that matter for the run's task.
        files: what was written.
    """

    record: dict[str, Any]
    readings: dict[str, list[Reading]]
    headline: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def rows(self) -> dict[str, Row]:
        """The record's row of each reader."""
        return self.record["readers"]


def evaluate(
    run: str | Path,
    *,
    max_glimpses: int | None = None,
    split: str = "test",
    readers: Sequence[str] = READERS,
    cohort: str | Path | None = None,
    lanes: int = 20,
    seed: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Result:
    """Reads a split with a saved run's policy, and writes the result beside the run.

    Args:
        run: the run's folder.
        max_glimpses: budget, any number; that of the run's configuration when not given.
        split: "train", "val" or "test"; of another cohort also "all".
        readers: of `READERS`.
        cohort: CSV of another cohort; the run's own when not given.
        lanes: cases read at once.
        seed: of the random reader and the bootstrap; the run's own when not given.
        device: where to compute.
        progress: whether to show bars.

    Raises:
        EvaluationError: readers, split or budget cannot be used.
        CheckpointError: there is no complete run in the folder.
        CohortError, PreflightError: the cohort has problems, or does not fit the run's sizes.
    """
    check_readers(readers)
    policy = load(run, device=device)
    budget = int(policy.config.max_glimpses if max_glimpses is None else max_glimpses)
    seed = int(policy.config.seed if seed is None else seed)
    found = _cases(policy, cohort, split, lanes)
    readings: dict[str, list[Reading]] = {}
    with closing(found.access) as access:
        for name in readers:
            called = _name(name, policy.config.agent.name)
            reader = reader_named(name, policy, access, budget, seed=seed, called=called)
            readings[called] = reader.read(found.cases, progress=progress)
    task = found.access.task
    rows = {reader: summarise(answers, task, seed) for reader, answers in readings.items()}
    record = {"split": split, "seed": seed, "max_glimpses": budget, "readers": rows}
    if cohort is not None:
        record["cohort"] = str(cohort)
    return Result(record, readings, task.headline, _write(Path(run), record, readings, task))


def _name(reader: str, agent: str) -> str:
    """What tables call a reader: the policy is called after the agent that trained it."""
    return agent if reader == "policy" and agent not in READERS else reader


@dataclass(frozen=True, eq=False)
class _Cases:
    """Cases to evaluate on, and how readers reach their pixels."""

    cases: Sequence[Case]
    access: Access


def _cases(policy: GlimpsePolicy, path: str | Path | None, split: str, lanes: int) -> _Cases:
    """A split of the run's cohort, or of another one, as the run's environment shows it."""
    config = policy.config
    cohort: Cohort = build(config.env.cohort, **({} if path is None else {"path": str(path)}))
    part = _split(cohort, split)
    if not len(part):
        raise EvaluationError(f"Nothing to read: the split {split!r} has no cases. Choose another split.")
    make = functools.partial(build, config.env.make, cohort=part, split=None)
    try:
        looked = viewable_cases(make(), int(config.seed))
    except ProtocolError as error:
        raise PreflightError(str(error)) from error
    if path is not None and not looked.stepped:
        check_sizes(part, looked.views, policy.grid)

    def vector(count: int) -> VecEnv:
        return build(config.vector)([make() for _ in range(count)])

    return _Cases(looked.cases, access_to(looked, vector, lanes=lanes, threads=int(config.threads or 2)))


def _split(cohort: Cohort, split: str) -> Cohort:
    if split == "all":
        return cohort
    if split not in ("train", "val", "test"):
        raise EvaluationError(f"Expected a split of train, val, test or all, got {split!r}.")
    return cohort.split(split)


def _write(run: Path, record: dict[str, Any], readings: dict[str, list[Reading]], task: Task) -> tuple[Path, ...]:
    of = f"{record['split']}-{record['max_glimpses']}"
    if "cohort" in record:
        of = f"{Path(record['cohort']).stem}-{of}"
    summary, answers = run / f"evaluation-{of}.json", run / f"predictions-{of}.csv"
    write_predictions(answers, readings, task, record["split"])
    write_atomically(summary, json.dumps(record, indent=2) + "\n")
    return summary, answers


USER_ERRORS = (
    CheckpointError,
    CohortError,
    EvaluationError,
    ImageReadError,
    ModalityError,
    PreflightError,
    UnsupportedImageError,
)


@hydra.main(version_base="1.3", config_path="pkg://glimpse.configs", config_name="evaluate")
def _main(config: DictConfig) -> None:
    options = {str(name): value for name, value in config.items() if name != "run"}
    options["readers"] = list(options["readers"]) if isinstance(options["readers"], ListConfig) else options["readers"]
    try:
        if config.run is None:
            raise EvaluationError("Which run? Give its folder: python -m glimpse.evaluate run=<run folder>.")
        result = evaluate(config.run, **options)
    except USER_ERRORS as error:
        print(f"glimpse: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"\n{table(result.rows, headline=result.headline)}\n\nWritten: {', '.join(map(str, result.files))}")


def main() -> None:
    """Entry point: what a user can mend ends in one line with exit code 2, not in a traceback."""
    with_plugins(_main)


if __name__ == "__main__":
    main()
