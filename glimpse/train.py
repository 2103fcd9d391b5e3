"""Train an agent on a cohort: pretrain, warm up, learn where to look, and report on the test split.

python -m glimpse.train env=wsi agent=ppo
python -m glimpse.train env=wsi agent=ppo env.cohort.path=my_cohort.csv max_glimpses=32
python -m glimpse.train resume=runs/wsi-ppo-0
"""

import sys
from typing import Any

import hydra
import torch
from omegaconf import DictConfig
from stable_baselines3.common.vec_env import VecEnv

from glimpse.cohort import Cohort, CohortError
from glimpse.cohort.preflight import PreflightError, check_sizes
from glimpse.contract.protocol import ProtocolError, contract_of
from glimpse.contract.stepped_sources import ViewableCases, viewable_cases
from glimpse.errors import UserError
from glimpse.learning.allocator import keep_freed_memory
from glimpse.learning.stages import STAGES, Training, restore_policy, seed_everything, stage_of
from glimpse.plugins import ModalityError, with_plugins
from glimpse.report.comparison import Report
from glimpse.report.validation import validator
from glimpse.runs.checkpoints import CheckpointError
from glimpse.runs.folder import Run, RunError
from glimpse.runs.loading import POLICY_FILE, build_policy, load, save_policy
from glimpse.settings.building import build
from glimpse.sources import ImageReadError, UnsupportedImageError

USER_ERRORS = (
    CheckpointError,
    CohortError,
    ImageReadError,
    ModalityError,
    PreflightError,
    RunError,
    UnsupportedImageError,
    UserError,
)


def train(config: DictConfig) -> dict[str, Any]:
    """Runs all stages that a configuration asks for and returns the content of `metrics.json`.

    With `config.resume` the run of that folder goes on, under its own configuration.

    Raises:
        CohortError, EvaluationError, PreflightError, RunError: before any work begins; the message says what to change.
    """
    resume = config.resume
    if resume:
        config = Run.config_of(resume)
    seed_everything(config.seed, config.threads)
    shown = build(config.report, _convert_="all")
    report = Report(agent=config.agent.name, max_glimpses=config.max_glimpses, seed=config.seed, **shown)
    cohort = build(config.env.cohort)
    training = _prepare(config, cohort, resume)
    training.validate = validator(training, cohort, report)
    run = training.run
    restore_policy(training)
    for stage in STAGES[:-1]:
        settings = config[stage]
        if settings is not None and settings.get("enabled", True) and not run.finished(stage, STAGES):
            stage_of(stage, settings)(training, stage, settings)
    best = run.checkpoint("best")
    final = load(run.folder, f"checkpoints/{best.name}") if best.exists() else training.policy
    save_policy(final, run.folder / POLICY_FILE)
    return report.write(training, final, cohort)


def _prepare(config: DictConfig, cohort: Cohort, resume: str | None) -> Training:
    """Builds what all stages share, and refuses what cannot work before anything is written."""

    def lanes(split: str, count: int) -> VecEnv:
        part = cohort.split(split)
        return build(config.vector)([build(config.env.make, cohort=part, split=split) for _ in range(count)])

    def look(split: str) -> ViewableCases:
        return viewable_cases(build(config.env.make, cohort=cohort.split(split), split=split), config.seed)

    try:
        env = build(config.env.make, cohort=cohort, split="train")
        parts, looked = contract_of(env), viewable_cases(env, config.seed)
        policy = build_policy(config.network, parts.observation_space, parts.layout)
    except (ProtocolError, ValueError) as error:
        raise PreflightError(str(error)) from error
    if not looked.stepped:
        check_sizes(cohort, looked.views, policy.grid, progress=config.progress)
    policy = policy.to(torch.device(config.device))
    run = Run(resume or config.run, config, resume=bool(resume))
    cohort.write_splits(run.folder / "splits.csv")
    threads = 1 if looked.stepped else config.threads or 2
    return Training(run, policy, looked, lanes, look, config.seed, threads, config.progress)


@hydra.main(version_base="1.3", config_path="pkg://glimpse.configs", config_name="train")
def _main(config: DictConfig) -> None:
    keep_freed_memory()
    try:
        train(config)
    except USER_ERRORS as error:
        print(f"glimpse: {error}", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """Entry point: what a user can mend ends in one line with exit code 2, not in a traceback."""
    with_plugins(_main)


if __name__ == "__main__":
    main()
