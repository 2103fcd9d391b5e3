"""Train an agent on a cohort: pretrain, warm up, learn where to look, and report on the test split.

glimpse train env=wsi agent=ppo
glimpse train env=wsi agent=ppo env.cohort.path=my_cohort.csv max_glimpses=32
glimpse train resume=runs/wsi-ppo-0 joint.updates=400
"""

import contextlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.vec_env import VecEnv

from glimpse.cohort import Cohort, CohortError
from glimpse.cohort.preflight import PreflightError, check_sizes, check_stepped, with_known_sizes, with_unknown_sizes
from glimpse.cohort.recorded import SPLITS_FILE, read_given_splits, read_learned, read_splits, write_learned
from glimpse.cohort.settling import with_settled_task
from glimpse.cohort.skipped import FAILURES_FILE, write_failures
from glimpse.contract.protocol import ProtocolError, contract_of
from glimpse.contract.stepped_sources import ViewableCases, viewable_cases
from glimpse.errors import DivergedError, SettingsError, UserError
from glimpse.learning.remarks import remarks
from glimpse.learning.stages import STAGES, Stage, Training, restore_policy, seed_everything
from glimpse.networks.feature_store import using
from glimpse.ranks.group import agreed, alike, first, machine_by_machine, once, taking_part
from glimpse.ranks.sharing import check_shared
from glimpse.report.comparison import Report
from glimpse.report.validation import validator
from glimpse.runs.folder import Run, check_continues, settings_of
from glimpse.runs.initial import run_of, take_weights, weights_file
from glimpse.runs.loading import (
    POLICY_FILE,
    build_policy,
    check_sizes_and_network,
    feature_store,
    load_together,
    read_settings,
    save_policy,
    untrained_policy,
)
from glimpse.runs.parts import REMEDY, foreign_targets, told
from glimpse.settings.allocator import keep_freed_memory
from glimpse.settings.building import build, build_setting
from glimpse.settings.checking import checked, typed_keys
from glimpse.settings.command import in_one_line, run_command
from glimpse.settings.kinds import check_kind
from glimpse.settings.options import at_least, check_device, check_later
from glimpse.settings.paths import with_whole_paths
from glimpse.settings.progress import say
from glimpse.settings.quoting import typed
from glimpse.settings.resuming import resumed
from glimpse.sources.tolerant import unread
from glimpse.tasks import Task
from glimpse.views import MisfitError

_LARGEST_SEED = 2**32 - 10_000  # numpy takes no seed from 2^32 on, and each stage adds to it


@dataclass(frozen=True)
class Plan:
    """The parts of a training that can be built from its configuration before the cohort is loaded.

    Attributes:
        settings: the configuration as nested dictionaries, with interpolations resolved and keys checked.
        stages: the stages by their names, in order.
        report: the comparison with baselines at the end.
    """

    settings: Mapping[str, Any]
    stages: Mapping[str, Stage]
    report: Report


def train(config: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Runs all stages that a configuration asks for and returns the content of `metrics.json`.

    Args:
        config: the configuration, from Hydra or from `glimpse.settings.composing.composed`. If `config.resume` is set,
            the run in that folder is continued with its own settings.
        overrides: what was typed on the command line, as `key=value`. If a run is resumed, they change its settings.

    Raises:
        UserError: something is wrong with the settings, the cohort or the run folder; the message says what to change.
            Settings are checked before the cohort is loaded.
    """
    with alike():
        plan = planned(config, overrides)
        _check_shares(plan.settings)
    plan = replace(plan, settings={**plan.settings, "run": agreed(plan.settings["run"])})  # it may have the time in it
    settings = plan.settings
    seed_everything(settings["seed"], settings["threads"])
    with machine_by_machine():
        cohort = _cohort(settings)
    with alike():
        plan.report.check_split(cohort)
        check_shared("The training split", len(cohort.split("train")))
    settings = {**settings, "env": with_settled_task(settings["env"], cohort)}
    plan = replace(plan, settings=_weighing(settings, cohort))
    training = _prepare(plan, cohort)
    training.validate = validator(training, cohort, plan.report)
    with using(feature_store(settings, training.cases.cases)):
        return _run(plan, training, cohort)


def _run(plan: Plan, training: Training, cohort: Cohort) -> dict[str, Any]:
    """Runs all stages that have not ended yet, and reports."""
    run = training.run
    restore_policy(training)
    for name, stage in plan.stages.items():
        if not run.finished(name, STAGES):
            _learn(stage, training, name)
            if run.seconds.get(name, 0) >= 1:
                say(f"{name}: done in {run.seconds[name]:.0f} s", training.progress)
    best = run.checkpoint("best")
    device = str(training.policy.device)
    there = agreed(best.exists())
    final = load_together(run.folder, f"checkpoints/{best.name}", device) if there else training.policy
    once(lambda: save_policy(final, run.folder / POLICY_FILE))
    return plan.report.write(training, final, cohort)


def planned(config: DictConfig, overrides: Sequence[str] = ()) -> Plan:
    """Checks all settings, and builds stages and report, so that mistakes show before the cohort is loaded.

    Args and errors are those of `train`.
    """
    given: Any = OmegaConf.to_container(config, resolve=True)
    resume = given["resume"]
    if not isinstance(resume, str | None):
        raise _no_path("resume", resume)
    if resume:
        given = resumed(settings_of(resume), given, overrides) | {"resume": resume}
    if isinstance(given.get("splits"), str):
        given["splits"] = os.path.abspath(os.path.expanduser(given["splits"]))
    given |= {"env": with_whole_paths(given.get("env"))}
    given |= {"network": with_whole_paths(given.get("network"), folders=("name",))}  # of a Hugging Face model
    if isinstance(given.get("initial_weights"), str):
        given["initial_weights"] = os.path.abspath(os.path.expanduser(given["initial_weights"]))
    settings = checked(given, overrides)
    _check_values(settings)
    for target in foreign_targets(settings):  # whoever loads the run would refuse it
        raise SettingsError(f"{told(target, '_target_')} {REMEDY}")
    if settings.get("initial_weights") and _begins(settings):
        weights_file(settings["initial_weights"])
    if resume:
        check_continues(resume, settings["joint"].get("updates"), typed_keys(overrides))
    stages = {name: _stage(name, settings[name]) for name in STAGES[:-1]}
    feature_store(settings)
    shown = build_setting("report", settings["report"], _convert_="all")
    check_later(shown["full_scan"])
    name, budget, seed = settings["agent"]["name"], settings["max_glimpses"], settings["seed"]
    report = build_setting(
        "report", {"_target_": "glimpse.report.comparison.Report"}, agent=name, max_glimpses=budget, seed=seed, **shown
    )
    encoder = build_setting("network.encoder", settings["network"]["encoder"])
    if hasattr(encoder.func, "check_installed"):
        encoder.func.check_installed()
    check_sizes_and_network(settings["env"]["make"], settings["network"])
    return Plan(settings, stages, report)


def _check_shares(settings: Mapping[str, Any]) -> None:
    """Refuses steps of fewer cases or glimpses than there are processes to share them."""
    algorithm = settings["joint"].get("algorithm") or {}
    parts = max(1, int(algorithm.get("minibatches") or 1))
    check_shared("pretrain.batch", settings["pretrain"].get("batch") or 0)
    _check_overviews(settings["pretrain"])
    check_shared("warm_up.batch", settings["warm_up"].get("batch") or 0)
    of = "agent.algorithm.cases_per_rollout" + (f" / agent.algorithm.minibatches={parts}" if parts > 1 else "")
    check_shared(of, (algorithm.get("cases_per_rollout") or 0) // parts)
    check_shared("report.overview.cases_per_rollout", settings["report"]["overview"].get("cases_per_rollout") or 0)


def _check_overviews(pretrain: Mapping[str, Any]) -> None:
    """Refuses a pretraining with foresight that has fewer overviews in a step, or at all, than there are processes."""
    if not (pretrain.get("foresight") and pretrain.get("steps")):
        return
    each, name = pretrain["glimpses_per_overview"], "pretrain.glimpses_per_overview"
    for of in ("batch", "pool"):
        count = pretrain[of]
        what = f"Overviews, pretrain.{of} / {name} = {count} / {each}"
        check_shared(what, max(1, count // each), f"set a larger pretrain.{of} or a smaller {name}")


def _check_values(settings: Mapping[str, Any]) -> None:
    """Checks the values of settings that belong to no section."""
    for name in ("seed", "threads", "read_threads", "max_glimpses"):
        at_least(name, settings[name], 0, whole=True)
        if settings[name] >= 2**63:
            raise SettingsError(f"{name}: {settings[name]} is too large.")
    if settings["seed"] > _LARGEST_SEED:
        raise SettingsError(f"seed: {settings['seed']} is too large; choose one of at most {_LARGEST_SEED}.")
    at_least("save_seconds", settings["save_seconds"], 0)
    if not isinstance(settings["run"], str):
        raise _no_path("run", settings["run"])
    if not isinstance(settings.get("splits"), str | None):
        raise _no_path("splits", settings["splits"], "CSV")
    _check_answers_learn(settings)
    if not isinstance(settings.get("initial_weights"), str | None):
        raise _no_path("initial_weights", settings["initial_weights"], "run folder")
    check_kind("progress", settings["progress"], bool)
    check_device(settings["device"])


def _no_path(name: str, value: Any, what: str = "folder") -> SettingsError:
    return SettingsError(f"{name}: expected the path of a {what}, got {value!r}; type {typed(name, str(value))}.")


def _stage(name: str, section: Mapping[str, Any]) -> Stage:
    stage = build_setting(name, section)
    if not hasattr(stage, "run"):
        raise SettingsError(
            f"{name}: expected a stage, a section with a _target_ such as the options of this group have; "
            f"{name}=none leaves the stage out."
        )
    return stage


def _learn(stage: Stage, training: Training, name: str) -> None:
    try:
        stage.run(training, name)
    except DivergedError as error:
        rate = "joint.learning_rate.rate" if name == "joint" else f"{name}.learning_rate"
        raise DivergedError(
            f"{name}: {error} Begin anew in another folder (run=), with a lower {rate}, and with "
            "network.autocast=false if it was on."
        ) from error


def _cohort(settings: Mapping[str, Any]) -> Cohort:
    """Loads the cohort. In a run that is resumed, cases are in the splits that they had when it began."""
    section, resume = settings["env"]["cohort"], settings["resume"]
    if resume and section.get("path") and not Path(section["path"]).exists():
        raise SettingsError(
            f"{section['path']}: the cohort of this run is not there any more. Say where it is now, beside resume=: "
            "env.cohort.path=<path of its CSV>."
        )
    try:
        cohort: Cohort = build_setting("env.cohort", section)
    except CohortError as error:
        raise with_unknown_sizes(error, settings["env"]["make"]) from error
    if section.get("on_error") == "skip":
        cohort = with_known_sizes(cohort, settings["env"]["make"])
    given, begins = settings.get("splits"), _begins(settings)
    written = resume and (not begins or (Path(resume) / SPLITS_FILE).exists())
    recorded = read_splits(resume) if written else read_given_splits(given) if given else None
    cohort = cohort if recorded is None else recorded.of_run(cohort)
    initial = settings.get("initial_weights")
    learned = read_learned(run_of(initial)) if initial and begins else None
    if learned is None:
        return cohort
    if given:
        learned.check_not_learned(cohort)
    return learned.kept_apart(cohort)


def _begins(settings: Mapping[str, Any]) -> bool:
    """Whether nothing was learned yet: in a new run, and in one that was stopped before its first checkpoint."""
    return not settings["resume"] or not Run.has_learned(settings["resume"])


def _weighing(settings: Mapping[str, Any], cohort: Cohort) -> dict[str, Any]:
    """Returns the settings with the options of the task that depend on the training cases, such as class weights.

    They are written into `config.yaml` as numbers, and so stay what they are when the run goes on.
    """
    env = dict(settings["env"])
    section = env["make"].get("task") or env.get("task")
    if not isinstance(section, Mapping):  # an environment of one's own
        return dict(settings)
    task: Task = build(section)
    found = task.weighing([case.target for case in cohort.split("train")])
    if not found:
        return dict(settings)
    weighed = OmegaConf.to_container(OmegaConf.merge(section, found))
    for name in ("make", "cohort"):
        if "task" in env[name]:
            env[name] = {**env[name], "task": weighed}
    return {**settings, "env": env | ({"task": weighed} if "task" in env else {})}


def _prepare(plan: Plan, cohort: Cohort) -> Training:
    """Builds what all stages share; what does not fit the cohort is refused before the run folder is written."""
    settings = plan.settings
    make, seed = settings["env"]["make"], settings["seed"]

    def lanes(split: str, count: int) -> VecEnv:
        part = cohort.split(split)
        return build(settings["vector"])([build(make, cohort=part, split=split) for _ in range(count)])

    def viewable(split: str) -> ViewableCases:
        return viewable_cases(build(make, cohort=cohort.split(split), split=split), seed)

    try:
        env = build(make, cohort=cohort, split="train")
        contract, cases = contract_of(env), viewable_cases(env, seed)
        policy = build_policy(settings["network"], contract.observation_space, contract.layout)
    except UserError:
        raise
    except MisfitError as error:  # the first image does not fit; this says what all of them need
        policy = untrained_policy(settings["network"], error.channels, error.views)
        check_sizes(cohort, error.views, policy.grid, progress=settings["progress"], view_grid=policy.view_grid)
        raise PreflightError(str(error)) from error
    except (ProtocolError, TypeError, ValueError) as error:
        raise PreflightError(f"The settings of env.make or network do not go together: {error}") from error
    if not cases.stepped:
        check_sizes(cohort, cases.views, policy.grid, progress=settings["progress"], view_grid=policy.view_grid)
        plan.report.check_patches(cohort, cases.views)
    else:
        check_stepped(cases.cases, cases.views, policy.grid, policy.view_grid)
    for remark in remarks(settings, policy):
        warnings.warn(remark, UserWarning, stacklevel=2)
    resume, initial = settings["resume"], settings.get("initial_weights")
    begins = _begins(settings)
    if initial and begins:
        _check_taken(take_weights(policy, initial, settings), initial, settings)
    for stage in plan.stages.values():
        if hasattr(stage, "check"):
            stage.check(policy)
    policy = policy.to(torch.device(settings["device"]))
    kept = {**settings, "resume": None}
    run = Run(resume or settings["run"], kept, resume=bool(resume), save_seconds=settings["save_seconds"])
    if first() and not (run.folder / SPLITS_FILE).exists():  # what was learned from must not change
        cohort.write_splits(run.folder / SPLITS_FILE)
    if first() and cohort.skipped:
        write_failures(run.folder / FAILURES_FILE, cohort.skipped)
    if first() and initial and begins:
        write_learned(run.folder, run_of(initial))
    threads = 1 if cases.stepped else settings["read_threads"] or 1
    return Training(run, policy, cases, lanes, viewable, seed, threads, settings["progress"])


def _check_answers_learn(settings: Mapping[str, Any]) -> None:
    """Refuses a training in which nothing teaches answers: neither the warm-up nor the joint stage.

    Raises:
        SettingsError: it is one.
    """
    if _untaught(settings) and not settings.get("initial_weights"):
        raise SettingsError(
            "Answers would never learn: there is no warm-up, and agent.algorithm.train_answers=false leaves them as "
            "they are. Set agent.algorithm.train_answers=true, keep the warm-up, or give initial_weights=<run folder>."
        )


def _check_taken(answers: bool, initial: str, settings: Mapping[str, Any]) -> None:
    """Refuses answers that begin anew beside the weights of a run, and that nothing teaches."""
    if not answers and _untaught(settings):
        raise SettingsError(
            f"Answers would never learn: they begin anew beside the weights of {initial}, there is no warm-up, and "
            "agent.algorithm.train_answers=false leaves them as they are. Set agent.algorithm.train_answers=true, or "
            "keep the warm-up."
        )


def _untaught(settings: Mapping[str, Any]) -> bool:
    """Whether no stage teaches answers."""
    algorithm, warm_up = settings["joint"].get("algorithm") or {}, settings["warm_up"]
    without = warm_up.get("_target_", "").endswith(".NoStage") or 0 in (warm_up.get("steps"), warm_up.get("updates"))
    return algorithm.get("train_answers") is False and without


def _one(config: DictConfig) -> None:
    """Trains once; launchers of Hydra find this function by its name, in whichever process they call it."""
    keep_freed_memory()
    overrides = HydraConfig.get().overrides.task
    with in_one_line(), unread.named_at_the_end(), taking_part(_device(config, overrides)):
        train(config, overrides)


def _device(config: DictConfig, overrides: Sequence[str]) -> Any:
    """Returns where is computed: on the device of the run that goes on, unless another one was typed."""
    saved: Mapping[str, Any] | None = None
    resume = config.get("resume")
    if isinstance(resume, str) and resume and "device" not in typed_keys(overrides):
        with contextlib.suppress(UserError):  # which the training says better
            saved = read_settings(Path(resume))
    return (saved or config).get("device")


_main = hydra.main(version_base="1.3", config_path="pkg://glimpse.configs", config_name="train")(_one)


def main() -> None:
    """Runs the command; mistakes of the user end it with a one-line message and exit code 2."""
    run_command(_main)


if __name__ == "__main__":
    main()
