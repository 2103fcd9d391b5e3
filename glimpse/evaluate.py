"""Evaluate a saved run: read a split with any number of glimpses, beside the baselines.

python -m glimpse.evaluate run=runs/wsi-ppo-0 max_glimpses=32
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import hydra
import numpy as np
from omegaconf import DictConfig, ListConfig
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from glimpse.atomic import write_atomically
from glimpse.cohort import Case, Cohort, CohortError
from glimpse.cohort.preflight import PreflightError, check_sizes
from glimpse.contract.protocol import ProtocolError, contract_of
from glimpse.errors import EvaluationError
from glimpse.networks.locator import GridLocator, ShuffledLocator
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import Conduct
from glimpse.plugins import ModalityError
from glimpse.report.tables import Reading, Row, summarise, table, write_predictions
from glimpse.runs.checkpoints import CheckpointError
from glimpse.runs.loading import load
from glimpse.settings.building import build
from glimpse.sources import ImageReadError, UnsupportedImageError
from glimpse.tasks import Task

Reader = Literal["policy", "random", "grid", "overview"]
READERS: tuple[str, ...] = get_args(Reader)


# ---------------------------------------------------------------------------------------------- reading cases
def read_cases(
    policy: GlimpsePolicy,
    vec_env: VecEnv,
    reader: str = "policy",
    max_glimpses: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[Reading]:
    """Reads every case of a vector environment once, without chance.

    Args:
        policy: it answers; with reader "policy" it also says where to look (its most probable choices) and when to
            stop.
        vec_env: flattened glimpse environments with the same cases. They are read as many at once as it has lanes.
        reader: "policy", "random" (places in the foreground, drawn from the seed and the case), "grid" (a regular grid
            over the foreground) or "overview" (no glimpse at all). Only the policy stops before the budget is spent.
        max_glimpses: budget, any number; the environment's own when not given.
        seed: of the random reader.
        progress: whether to show a bar.

    Returns:
        One reading per case, in the order of the cases.

    Raises:
        EvaluationError: the reader is unknown or the budget negative.
    """
    if reader not in READERS:
        raise EvaluationError(f"Expected a reader of {', '.join(READERS)}, got {reader!r}.")
    if max_glimpses is not None and max_glimpses < 0:
        raise EvaluationError(f"Expected max_glimpses of at least 0, got {max_glimpses}.")
    cases: Sequence[Case] = vec_env.get_attr("cases", [0])[0]
    budget = vec_env.get_attr("max_glimpses", [0])[0] if max_glimpses is None else max_glimpses
    budget = 0 if reader == "overview" else int(budget)
    readings: list[Reading] = []
    with tqdm(total=len(cases), desc=f"reading ({reader})", unit="case", disable=not progress) as bar:
        for start in range(0, len(cases), vec_env.num_envs):
            chosen = range(start, min(start + vec_env.num_envs, len(cases)))
            conduct = _conduct(reader, budget, seed, _one_per_lane(chosen, vec_env))
            with _evaluating(policy):
                readings += _play(policy, vec_env, cases, chosen, budget, conduct)
            bar.update(len(chosen))
    return readings


@contextmanager
def _evaluating(policy: GlimpsePolicy) -> Iterator[None]:
    """Evaluation mode; afterwards the policy is as it was."""
    training = policy.training
    policy.set_training_mode(False)
    try:
        yield
    finally:
        policy.set_training_mode(training)


def _conduct(reader: str, budget: int, seed: int, lanes: Sequence[int]) -> Conduct:
    """The reader's word on where to look."""
    locators = {"random": lambda: ShuffledLocator(seed, lanes), "grid": lambda: GridLocator(max(budget, 1))}
    return Conduct(locators[reader]() if reader in locators else None)


def _one_per_lane(chosen: Sequence[int], vec_env: VecEnv) -> list[int]:
    """The chosen cases, the last repeated where there are more lanes than cases."""
    return [chosen[min(lane, len(chosen) - 1)] for lane in range(vec_env.num_envs)]


def _play(
    policy: GlimpsePolicy, vec_env: VecEnv, cases: Sequence[Case], chosen: Sequence[int], budget: int, conduct: Conduct
) -> list[Reading]:
    """One episode of each chosen case, all at once."""
    began = time.perf_counter()
    vec_env.set_options([{"case": case, "max_glimpses": budget} for case in _one_per_lane(chosen, vec_env)])
    observation: Any = vec_env.reset()
    state: Any = None
    answers: list[list[np.ndarray]] = [[] for _ in chosen]
    ends: list[dict[str, Any]] = [{} for _ in chosen]
    while not all(ends):
        # Lanes that have ended go on with whatever they show (a vector that parks lanes does not step them any more).
        start = np.full(vec_env.num_envs, state is None)
        actions, state = policy.predict(observation, state, start, deterministic=True, conduct=conduct)
        predictions = policy.layout.unpack(actions).prediction
        observation, _, done, infos = vec_env.step(actions)
        for lane in range(len(chosen)):
            if not ends[lane]:
                answers[lane].append(predictions[lane])
                ends[lane] = infos[lane] if done[lane] else {}
    seconds = (time.perf_counter() - began) / len(chosen)
    played = zip(chosen, answers, ends, strict=True)
    return [_reading(cases[case], given, end, seconds) for case, given, end in played]


def _reading(case: Case, answers: list[np.ndarray], end: dict[str, Any], seconds: float) -> Reading:
    return Reading(
        id=case.id,
        patient=case.patient,
        target=case.target,
        prediction=answers[-1],
        predictions=np.stack(answers),
        scanpath=np.asarray(end["scanpath"], np.float32),
        zooms=np.asarray(end["zooms"]),
        glimpses=len(end["scanpath"]),
        share_read=float(end["share_read"]),
        pixels_read=int(end["pixels_read"]),
        seconds=seconds,
        hits=np.asarray(end["hits"]) if "hits" in end else None,
    )


# ---------------------------------------------------------------------------------------------- a saved run
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
    unknown = [reader for reader in readers if reader not in READERS]
    if unknown or not readers:
        raise EvaluationError(f"Expected readers of {', '.join(READERS)}, got {list(readers)}.")
    policy = load(run, device=device)
    config = policy.config
    budget = int(config.max_glimpses if max_glimpses is None else max_glimpses)
    seed = int(config.seed if seed is None else seed)
    env, task = _environments(policy, cohort, split, lanes)
    try:
        readings = {
            _name(reader, config): read_cases(policy, env, reader, budget, seed, progress) for reader in readers
        }
    finally:
        env.close()
    rows = {reader: summarise(answers, task, seed) for reader, answers in readings.items()}
    record = {"split": split, "seed": seed, "max_glimpses": budget, "readers": rows}
    if cohort is not None:
        record["cohort"] = str(cohort)
    return Result(record, readings, task.headline, _write(Path(run), record, readings, task))


def _name(reader: str, config: DictConfig) -> str:
    """What tables call a reader: the policy is called after the agent that trained it."""
    return str(config.agent.name) if reader == "policy" and config.agent.name not in READERS else reader


def _environments(policy: GlimpsePolicy, path: str | Path | None, split: str, lanes: int) -> tuple[VecEnv, Task]:
    """Vector of the run's environment on a split of the run's cohort, or of another one."""
    config = policy.config
    cohort: Cohort = build(config.env.cohort, **({} if path is None else {"path": str(path)}))
    cases = _split(cohort, split)
    if not len(cases) or lanes < 1:
        raise EvaluationError(f"Nothing to read: the split {split!r} has {len(cases)} cases, and lanes is {lanes}.")
    envs = [build(config.env.make, cohort=cases, split=None) for _ in range(min(lanes, len(cases)))]
    try:
        parts = contract_of(envs[0])
    except ProtocolError as error:
        raise PreflightError(str(error)) from error
    if path is not None and parts.views is not None:
        check_sizes(cases, parts.views, policy.grid)
    return build(config.vector)(envs), parts.task


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
