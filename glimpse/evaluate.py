"""Evaluate a saved run: read a split with any number of glimpses, beside the baselines.

glimpse evaluate run=runs/wsi-ppo-0 max_glimpses=32
"""

import functools
import inspect
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.vec_env import VecEnv

from glimpse.atomic import made_folder
from glimpse.cohort import Case, Cohort
from glimpse.cohort.preflight import PreflightError, check_sizes, with_known_sizes
from glimpse.cohort.recorded import read_learned, read_splits
from glimpse.cohort.splits import SPLITS
from glimpse.contract.protocol import ProtocolError
from glimpse.contract.stepped_sources import ViewableCases, viewable_cases
from glimpse.errors import EvaluationError, UserError
from glimpse.geometry import UNKNOWN_SIZE
from glimpse.networks.feature_store import using
from glimpse.networks.policy import GlimpsePolicy
from glimpse.reading.calibration import SAME_SPLIT, read_temperatures
from glimpse.reading.costs import Meter
from glimpse.reading.lanes import Access, access_to
from glimpse.reading.playing import compute_threads
from glimpse.reading.readers import (
    DEFAULT_READERS,
    FULL_SCAN,
    MOST_GLIMPSES,
    READERS,
    PolicyReader,
    Reader,
    check_readers,
    manner_of,
    reader_named,
)
from glimpse.reading.records import Reading
from glimpse.report.calibrating import measured
from glimpse.report.evaluations import write_evaluation
from glimpse.report.scanning import NO_TILING, scan_of_run
from glimpse.report.tables import Row, further_table, measured_on, table
from glimpse.runs.loading import POLICY_FILE, feature_store, load, overview_network
from glimpse.settings.allocator import keep_freed_memory
from glimpse.settings.building import build
from glimpse.settings.command import in_one_line, run_command
from glimpse.settings.options import at_least, check_device, refuse_unknown
from glimpse.settings.paths import folder_for
from glimpse.settings.quoting import typed, with_paths
from glimpse.sources import caches
from glimpse.sources.staged.stage import Stage
from glimpse.sources.tolerant import unread
from glimpse.views import MisfitError

_NAMED = 5  # so many cases are named in a message
_SIZES_STAY = "A run keeps the sizes that it was trained with: leave these cases out of the CSV, or train another run."


@dataclass(frozen=True)
class Result:
    """The result of an evaluation.

    Attributes:
        record: the content of the JSON file, in the form of a run's `metrics.json`.
        readings: all readings, by the name of the reader.
        headline: the metrics that tables show, from the run's task.
        files: paths of the files that were written.
        of: the number of cases in the cohort, of all splits.
        further: the metrics that a second table shows.
        note: sentences on what numbers are worth: which cases the run has learned from, and whose answers are not
            calibrated though others are; else empty.
        agent: what tables call the agent of the run.
    """

    record: dict[str, Any]
    readings: dict[str, list[Reading]]
    headline: tuple[str, ...]
    files: tuple[Path, ...]
    of: int
    further: tuple[str, ...] = ()
    note: str = ""
    agent: str = ""

    @property
    def rows(self) -> dict[str, Row]:
        """The row of each reader, by its name."""
        return self.record["readers"]

    @property
    def counted(self) -> str:
        """A sentence that says how many cases were read, and how to read the others."""
        read, split = next(iter(self.readings.values())), self.record["split"]
        of = measured_on(read)
        if len(read) == self.of:
            return f"Read: all {len(read)} cases of the cohort (split={split}). {of}"
        return f"Read: {len(read)} of the {self.of} cases of the cohort (split={split}); split=all reads them all. {of}"


def evaluate(
    run: str | Path,
    *,
    max_glimpses: int | None = None,
    split: str = "test",
    readers: Sequence[str] = DEFAULT_READERS,
    cohort: str | Path | None = None,
    output: str | Path | None = None,
    lanes: int = 20,
    seed: int | None = None,
    device: str = "cpu",
    progress: bool = False,
    stage: str | Path | None = None,
    stage_gigabytes: float | None = None,
) -> Result:
    """Reads a split with the policy of a run and with its baselines, and writes the result.

    Probabilities are calibrated by the temperatures that the run has for its readers (see
    `glimpse.reading.calibration`); not where the validation split is read, on which they were fitted.

    Args:
        run: the run folder.
        max_glimpses: budget of each case, any number; the run's own if not given.
        split: "train", "val", "test" or "all". The cases of a split are those that it had in training.
        readers: names of the readers, of `glimpse.reading.readers.READERS`; "policy" may also be called as in tables,
            by the name of the run's agent. "overview" is left out, and a line says so, where the network of the run
            never sees overviews when it answers and the run has kept no other network that does. "full_scan" embeds
            every patch. Its heads learn here, with the run's seed, from the run's own training cases, whose images must
            be there; their embedded patches are kept in the run folder. It has no budget, and is calibrated only where
            the run's own report had it.
        cohort: path of the CSV of another cohort, or of the run's own one if it was moved. Images that the run knows,
            and other cases of their patients, stay in the split that they had in training. The run's own cohort if not
            given.
        output: the folder for the result, which is made if need be; the run folder if not given.
        lanes: how many cases are read at once.
        seed: seed of the random reader and the bootstrap; the run's own if not given.
        device: the device on which all networks compute.
        progress: whether to show progress bars, on a terminal.
        stage: a folder on a local disk, to which images are copied before they are read; by default as in the run.
        stage_gigabytes: how much copies may take there; those used longest ago are removed first.

    Raises:
        SettingsError: A number is out of range, the stage is none, or patches of a full scan cannot be read of all
            cases.
        EvaluationError: readers, split or budget cannot be used.
        CheckpointError: there is no complete run in the folder.
        CohortError, PreflightError: the cohort has problems, or does not fit the run's sizes.
        WriteError: the result cannot be written.
    """
    _check(readers, max_glimpses=max_glimpses, seed=seed, lanes=lanes)
    check_device(device)
    Stage.of(stage, stage_gigabytes)  # says at once what is wrong with them
    staging = {"stage": stage, "stage_gigabytes": stage_gigabytes}
    policy = load(run, device=device)
    settings = policy.settings
    known = ["policy" if name == settings["agent"]["name"] else name for name in readers]
    check_readers(known, (*READERS, FULL_SCAN))
    output = _other_folder(run, output)
    budget = int(settings["max_glimpses"] if max_glimpses is None else max_glimpses)
    seed = int(settings["seed"] if seed is None else seed)
    changes = {name: value for name, value in staging.items() if value is not None} | {"progress": progress}
    found = _cases(policy, Path(run), cohort, split, lanes, changes)
    folder = Path(run) if output is None else made_folder(output)
    readings, spent = _read(policy, Path(run), readers, found, budget, seed, progress)
    task = found.access.task
    temperatures = read_temperatures(Path(run)) if task.calibrates else {}
    if split == "val":
        note = f"Not calibrated: {SAME_SPLIT}." if temperatures else ""
        temperatures = {}
    else:
        without = [name for name in readings if temperatures and name not in temperatures]
        note = f"Not calibrated: {', '.join(without)}, which the run's own report did not have." if without else ""
    readings, rows = measured(readings, temperatures, task, seed, spent)
    record = {"split": split, "seed": seed, "max_glimpses": budget, "readers": rows}
    if cohort is not None:
        record["cohort"] = os.path.abspath(cohort)
    if output is not None:
        record["run"] = os.path.abspath(run)
    notes = " ".join([*found.learned, note]).strip()
    record["remarks"] = [measured_on(next(iter(readings.values()))), *found.learned, *filter(None, [note])]
    files = write_evaluation(folder, record, readings, task)
    agent = settings["agent"]["name"]
    return Result(record, readings, task.headline, files, found.of, task.further, notes, agent)


def _check(readers: Sequence[str], **numbers: int | None) -> None:
    """Refuses readers that are no list, and numbers that are out of range; None stands for the run's own."""
    if isinstance(readers, str) or not isinstance(readers, Sequence):
        raise EvaluationError(f"Expected readers as a list such as [policy,random], got {readers!r}.")
    for name, value in numbers.items():
        if value is not None:
            most = MOST_GLIMPSES if name == "max_glimpses" else math.inf
            at_least(name, value, 1 if name == "lanes" else 0, whole=True, most=most)


def _other_folder(run: str | Path, output: str | Path | None) -> Path | None:
    """Returns the folder for the result, or None if it is that of the run, which must then allow to write there."""
    folder = Path(run) if output is None else folder_for("output", output)
    if folder.exists() and not os.access(folder, os.W_OK):
        raise EvaluationError(
            f"{folder}: the result could not be written into this folder. Allow this user to write there, or choose "
            "another one: output=<folder>."
        )
    if folder.resolve() == Path(run).resolve():
        return None
    if (folder / POLICY_FILE).exists():
        raise EvaluationError(f"output={folder}: this is the folder of another run. Choose another one.")
    return folder


def _left_out(run: str | Path, settings: Mapping[str, Any]) -> str:
    readers = (settings.get("report") or {}).get("readers") or ()  # a new report has these rows only
    how = f'glimpse train {typed("resume", run)} "report.readers=[{",".join(dict.fromkeys([*readers, "overview"]))}]"'
    return f"overview is left out: {run} has kept no network that answers from overviews. Train one with: {how}"


@dataclass(frozen=True, eq=False)
class _Cases:
    """The cases to evaluate, how readers reach their pixels, and the number of cases of all splits.

    Attributes:
        looked: the cases, and how they are looked at.
        access: how readers reach their pixels.
        of: the number of cases of all splits.
        learned: a sentence that names those from which the run has learned, where they stand among others; else none.
        own: loads the run's own cohort, with all splits.
        whole: whether the cases are one whole split of that cohort.
    """

    looked: ViewableCases
    access: Access
    of: int
    learned: Sequence[str]
    own: Callable[[], Cohort]
    whole: bool


def _cases(
    policy: GlimpsePolicy, run: Path, path: str | Path | None, split: str, lanes: int, changes: dict[str, Any]
) -> _Cases:
    """Returns a split of the run's cohort, or of another one, seen through the run's environment.

    `changes` are options of the cohort that differ from the run's own.
    """
    settings = policy.settings
    env = settings["env"]
    if split not in (*SPLITS, "all"):
        raise EvaluationError(f"Expected a split of {', '.join(SPLITS)} or all, got {split!r}.")
    cohort = _cohort(env, run, path, changes)
    if split != "all" and cohort.unsplit:
        raise EvaluationError(f"{cohort.unsplit} Without splits, split=all reads all cases.")
    part = cohort if split == "all" else cohort.split(split)
    if not len(part):
        others = [name for name in SPLITS if len(cohort.split(name))]
        others = [f"split={name}" for name in (*others, "all")] if len(cohort) else []
        raise EvaluationError(f"Nothing to read: the split {split!r} has no cases. There are: {', '.join(others)}.")
    make = functools.partial(build, env["make"], cohort=part, split=None)
    try:
        looked = viewable_cases(make(), int(settings["seed"]))
    except ProtocolError as error:
        raise PreflightError(str(error)) from error
    except MisfitError as error:  # the first case does not fit the sizes of the run
        raise PreflightError(f"{error.what} {'' if UNKNOWN_SIZE in error.what else _SIZES_STAY}".rstrip()) from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise PreflightError(f"{error} {_SIZES_STAY}") from error
    if path is not None and not looked.stepped:
        check_sizes(part, looked.views, policy.grid, changes["progress"], _SIZES_STAY, policy.view_grid)

    def vector(count: int) -> VecEnv:
        return build(settings["vector"])([make() for _ in range(count)])

    access = access_to(looked, vector, lanes=lanes, threads=int(settings["read_threads"]))
    own = (lambda: cohort) if path is None else functools.partial(_own, env, run, cohort, changes)
    mixed = path is not None or split == "all"  # with cases that the run knows, and others
    return _Cases(looked, access, len(cohort), _learned(run, part) if mixed else (), own, whole=not mixed)


def _learned(run: Path, cases: Iterable[Case]) -> list[str]:
    """Says which cases the run has learned from, if it has from any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is recorded was said before
        recorded = read_learned(run)
    cases = list(cases)
    names = [] if recorded is None else recorded.learned_in(cases)
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [
        f"Of the {len(cases)} cases, {len(names)} ({', '.join(names[:_NAMED])}{more}) show patients of whom images "
        "were in the run's training or validation split: answers to them may be better than to new ones."
    ]


def _own(env: Mapping[str, Any], run: Path, other: Cohort, changes: dict[str, Any]) -> Cohort:
    """Loads the run's own cohort; where its CSV is gone, its cases can only be in the other one that was given."""
    path = env["cohort"].get("path")
    if path is None or Path(path).exists():
        return _cohort(env, run, None, changes)
    recorded = read_splits(run)
    return Cohort([]) if recorded is None else recorded.known_of(other)


def _cohort(env: Mapping[str, Any], run: Path, path: str | Path | None, changes: dict[str, Any]) -> Cohort:
    """Loads the run's cohort, or another one. What the run knows stays in the split that it had in training."""
    settings = env["cohort"]
    own = settings.get("path")
    if path is None and own is not None and not Path(own).exists():
        raise EvaluationError(
            f"{own}: the cohort of this run is not there any more. Say where it is now: cohort=<path of its CSV>."
        )
    if "progress" not in settings:  # images that are drawn: nothing is opened, and nothing copied
        if "stage" in changes or "stage_gigabytes" in changes:
            raise EvaluationError("stage: the images of this run are drawn, so no files can be copied. Leave it out.")
        changes = {}
    if path is not None:
        changes = changes | {"path": os.path.expanduser(path)}
    cohort: Cohort = build(settings, **changes)
    if settings.get("on_error") == "skip":
        cohort = with_known_sizes(cohort, env["make"])
    recorded = read_splits(run)
    if recorded is None or not isinstance(cohort, Cohort):
        return cohort
    if path is None:
        return recorded.of_run(cohort)
    return (read_learned(run) or recorded).of_another(cohort)


def _read(
    policy: GlimpsePolicy, run: Path, readers: Sequence[str], found: _Cases, budget: int, seed: int, progress: bool
) -> tuple[dict[str, list[Reading]], dict[str, Meter]]:
    """Reads the cases once for each reader; returns the readings and what they cost, by the name of the reader."""
    settings = policy.settings
    readings, spent, reasons = dict[str, list[Reading]](), dict[str, Meter](), list[str]()
    looked, cases, scan = found.looked, found.looked.cases, None
    store = feature_store(settings, cases)
    with compute_threads(int(settings["threads"])), closing(found.access) as access, using(store):
        if FULL_SCAN in readers and not looked.stepped:  # what it lacks is said before anything is read
            scan = scan_of_run(run, policy, looked, found.own(), keep=found.whole, progress=progress)
        # The policy reads as its agent does, and tables call it after that agent.
        for name in dict.fromkeys(settings["agent"]["name"] if name == "policy" else name for name in readers):
            reader: Reader | None
            if name == FULL_SCAN:
                reader = None if scan is None else scan()
            else:
                network = overview_network(run, policy) if name == "overview" else policy
                named = functools.partial(reader_named, manner_of(name), seed=seed, called=name)
                reader = None if network is None else named(network, access, budget)
            if reader is None:
                reasons.append(NO_TILING if name == FULL_SCAN else _left_out(run, settings))
                continue
            caches.clear_all()  # otherwise what comes first pays for what all read
            with Meter(policy.device) as spent[name]:
                read = reader.read(cases, progress=progress)
            if getattr(reader, "known_before", False):  # its patches were embedded by an earlier command
                spent[name].forget()
            readings[name] = reader.counted(read) if isinstance(reader, PolicyReader) else read
    if not readings:
        raise EvaluationError(" ".join(reasons))
    print(*reasons, sep="\n", end="\n" * bool(reasons))
    return readings, spent


@hydra.main(version_base="1.3", config_path="pkg://glimpse.configs", config_name="evaluate")
def _main(config: DictConfig) -> None:
    options: Any = OmegaConf.to_container(config, resolve=True)
    run = options.pop("run")
    keep_freed_memory()
    with in_one_line(), unread.named_at_the_end():
        refuse_unknown(options, inspect.signature(evaluate).parameters, "glimpse.evaluate")
        if run is None:
            raise EvaluationError("Which run? Give its folder: glimpse evaluate run=<run folder>.")
        result = evaluate(run, **options)
        tables = table(result.rows, result.headline, result.agent), further_table(result.rows, result.further)
        print("\n" + "\n\n".join([*filter(None, (*tables, result.note)), result.counted]))
        print(f"Written: {', '.join(map(str, result.files))}")


def main() -> None:
    """Runs the command; mistakes of the user end it with a one-line message and exit code 2.

    The folder may be typed without `run=`.
    """
    sys.argv[1:] = with_paths(sys.argv[1:], "run")
    run_command(_main)


if __name__ == "__main__":
    main()
