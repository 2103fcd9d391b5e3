"""Evaluate a saved run: read a split with any number of glimpses, beside the baselines.

glimpse evaluate run=runs/wsi-ppo-0 max_glimpses=32
"""

import functools
import inspect
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.vec_env import VecEnv

from glimpse.atomic import write_atomically
from glimpse.cohort import Case, Cohort
from glimpse.cohort.preflight import PreflightError, check_sizes
from glimpse.contract.protocol import ProtocolError
from glimpse.contract.stepped_sources import viewable_cases
from glimpse.errors import EvaluationError
from glimpse.networks.policy import GlimpsePolicy
from glimpse.reading.lanes import Access, access_to
from glimpse.reading.readers import READERS, check_readers, manner_of, reader_named
from glimpse.reading.records import Reading
from glimpse.report.tables import Row, summarise, table, write_predictions
from glimpse.runs.loading import load
from glimpse.settings.building import build
from glimpse.settings.command import in_one_line, run_command
from glimpse.settings.options import at_least, refuse_unknown
from glimpse.sources.tolerant import unread
from glimpse.tasks import Task


@dataclass(frozen=True)
class Result:
    """The result of an evaluation.

    Attributes:
        record: the content of the JSON file, in the form of a run's `metrics.json`.
        readings: all readings, by the name of the reader.
        headline: the metrics that tables show, from the run's task.
        files: paths of the files that were written.
    """

    record: dict[str, Any]
    readings: dict[str, list[Reading]]
    headline: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def rows(self) -> dict[str, Row]:
        """The row of each reader, by its name."""
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
    """Reads a split with the policy of a run and with its baselines, and writes the result into the run folder.

    Args:
        run: the run folder.
        max_glimpses: budget of each case, any number; the run's own if not given.
        split: "train", "val", "test" or "all".
        readers: names of the readers, of `READERS`.
        cohort: path of the CSV of another cohort; the run's own cohort if not given.
        lanes: how many cases are read at once.
        seed: seed of the random reader and the bootstrap; the run's own if not given.
        device: the device on which the policy computes.
        progress: whether to show progress bars.

    Raises:
        SettingsError: A number is out of range.
        EvaluationError: readers, split or budget cannot be used.
        CheckpointError: there is no complete run in the folder.
        CohortError, PreflightError: the cohort has problems, or does not fit the run's sizes.
    """
    if isinstance(readers, str) or not isinstance(readers, Sequence):
        raise EvaluationError(f"Expected readers as a list such as [policy,random], got {readers!r}.")
    check_readers(readers)
    for name, value in (("max_glimpses", max_glimpses), ("seed", seed), ("lanes", lanes)):
        if value is not None:
            at_least(name, value, 1 if name == "lanes" else 0, whole=True)
    policy = load(run, device=device)
    settings = policy.settings
    budget = int(settings["max_glimpses"] if max_glimpses is None else max_glimpses)
    seed = int(settings["seed"] if seed is None else seed)
    found = _cases(policy, cohort, split, lanes)
    readings: dict[str, list[Reading]] = {}
    with closing(found.access) as access:
        # The policy reads as its agent does, and tables call it after that agent.
        for name in dict.fromkeys(settings["agent"]["name"] if name == "policy" else name for name in readers):
            reader = reader_named(manner_of(name), policy, access, budget, seed=seed, called=name)
            readings[name] = reader.read(found.cases, progress=progress)
    task = found.access.task
    rows = {reader: summarise(answers, task, seed) for reader, answers in readings.items()}
    record = {"split": split, "seed": seed, "max_glimpses": budget, "readers": rows}
    if cohort is not None:
        record["cohort"] = str(cohort)
    return Result(record, readings, task.headline, _write(Path(run), record, readings, task))


@dataclass(frozen=True, eq=False)
class _Cases:
    """The cases to evaluate, and how readers reach their pixels."""

    cases: Sequence[Case]
    access: Access


def _cases(policy: GlimpsePolicy, path: str | Path | None, split: str, lanes: int) -> _Cases:
    """Returns a split of the run's cohort, or of another one, seen through the run's environment."""
    settings = policy.settings
    env = settings["env"]
    cohort: Cohort = build(env["cohort"], **({} if path is None else {"path": str(path)}))
    part = _split(cohort, split)
    if not len(part):
        raise EvaluationError(f"Nothing to read: the split {split!r} has no cases. Choose another split.")
    make = functools.partial(build, env["make"], cohort=part, split=None)
    try:
        looked = viewable_cases(make(), int(settings["seed"]))
    except ProtocolError as error:
        raise PreflightError(str(error)) from error
    if path is not None and not looked.stepped:
        check_sizes(part, looked.views, policy.grid)

    def vector(count: int) -> VecEnv:
        return build(settings["vector"])([make() for _ in range(count)])

    return _Cases(looked.cases, access_to(looked, vector, lanes=lanes, threads=int(settings["threads"] or 2)))


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


@hydra.main(version_base="1.3", config_path="pkg://glimpse.configs", config_name="evaluate")
def _main(config: DictConfig) -> None:
    options: Any = OmegaConf.to_container(config, resolve=True)
    run = options.pop("run")
    with in_one_line(), unread.named_at_the_end():
        refuse_unknown(options, inspect.signature(evaluate).parameters, "glimpse.evaluate")
        if run is None:
            raise EvaluationError("Which run? Give its folder: glimpse evaluate run=<run folder>.")
        result = evaluate(run, **options)
        print(f"\n{table(result.rows, headline=result.headline)}\n\nWritten: {', '.join(map(str, result.files))}")


def main() -> None:
    """Runs the command; mistakes of the user end it with a one-line message and exit code 2."""
    run_command(_main)


if __name__ == "__main__":
    main()
