"""The report at the end of a run: compares the agent with its baselines on one split, in tables, files and pictures."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from glimpse.cohort import Cohort
from glimpse.cohort.splits import SPLITS
from glimpse.contract.stepped_sources import ViewableCases
from glimpse.errors import EvaluationError
from glimpse.networks.policy import GlimpsePolicy
from glimpse.ranks.group import agreed, first, once, ranks
from glimpse.reading.calibration import CALIBRATION_FILE, SAME_SPLIT, Temperature, fit, write_temperatures
from glimpse.reading.costs import Meter
from glimpse.reading.lanes import Access, access_to
from glimpse.reading.readers import FULL_SCAN, READERS, PolicyReader, Reader, check_readers, manner_of, reader_named
from glimpse.reading.records import Reading
from glimpse.report.calibrating import draw_answers, measured, told
from glimpse.report.html.writing import write_report
from glimpse.report.keeping import Kept
from glimpse.report.scanning import NO_TILING, check_patches, fitted_scan
from glimpse.report.tables import Row, counted, further_table, summarise, table, value_of, write_predictions
from glimpse.runs.folder import Run
from glimpse.runs.loading import OVERVIEW_FILE, POLICY_FILE, load_together, save_policy
from glimpse.settings.kinds import check_kind
from glimpse.settings.options import above_zero, at_least
from glimpse.settings.progress import silent
from glimpse.sources import caches
from glimpse.tasks import Task
from glimpse.views import Views

ReaderOn = Callable[[Access], Reader]
"""Makes a reader of the cases that can be reached in a given way."""


class Trained(Protocol):
    """What a report needs of a training; `glimpse.learning.stages.Training` has all of it."""

    run: Run
    policy: GlimpsePolicy
    cases: ViewableCases
    threads: int
    progress: bool

    @property
    def lanes(self) -> Callable[[str, int], VecEnv]:
        """Takes a split and a number, and returns a vector of so many environments."""
        ...

    @property
    def viewable(self) -> Callable[[str], ViewableCases]:
        """Takes a split, and returns its cases and how to look at them."""
        ...


@dataclass(frozen=True)
class Report:
    """What is compared at the end of a run, and how.

    It is built before training begins, so that mistakes in its settings show at once.

    Attributes:
        agent: what tables call the agent; its own reading is the first row.
        max_glimpses: budget of each case.
        seed: seed of random places and of the bootstrap.
        overview: trains a network that answers from overviews alone, such as `glimpse.agents.baselines.train_overview`.
            The reader "overview" uses it where the run's own network never sees the overview when it answers.
        full_scan: makes the reader "full_scan", such as the class `glimpse.agents.full_scan.FullScan`.
        split: "train", "val" or "test".
        readers: names of the readers to compare with the agent: any of `READERS`, and "full_scan".
        lanes: how many cases are read at once.
        pictures: how many scanpaths are drawn into the run folder. With 0 there are no pictures of the cohort, either.
        calibrate: whether probabilities of classes are calibrated by a temperature for each reader, which is fitted on
            the validation split (see `glimpse.reading.calibration`).
        pages: of how many cases what the agent saw is recorded in the run folder, for their pages in `report.html`.
    """

    agent: str
    max_glimpses: int
    seed: int
    overview: Callable[..., GlimpsePolicy]
    full_scan: Callable[..., Any]
    split: str = "test"
    readers: Sequence[str] = ("random", "grid", "overview", FULL_SCAN)
    lanes: int = 20
    pictures: int = 6
    calibrate: bool = True
    pages: int = 500

    def __post_init__(self) -> None:
        if isinstance(self.readers, str) or not isinstance(self.readers, Sequence):
            raise EvaluationError(f"Expected report.readers as a list such as [random,grid], got {self.readers!r}.")
        if self.readers:
            check_readers(self.readers, (*READERS, FULL_SCAN, *([] if self.agent in READERS else [self.agent])))
        if self.split not in SPLITS:
            raise EvaluationError(f"Expected report.split of {', '.join(SPLITS)}, got {self.split!r}.")
        at_least("report.lanes", self.lanes, 1, whole=True)
        at_least("report.pictures", self.pictures, 0, whole=True)
        check_kind("report.calibrate", self.calibrate, bool)
        at_least("report.pages", self.pages, 0, whole=True)
        self._check_overview(getattr(self.overview, "keywords", {}))

    def _check_overview(self, options: Mapping[str, Any]) -> None:
        """Refuses impossible values of what trains the overview's network, which is called much later."""
        for name, least in (("updates", 0), ("validate_every", 1), ("patience", 1), ("cases_per_rollout", 1)):
            if name in options:
                at_least(f"report.overview.{name}", options[name], least, whole=True)
        if "learning_rate" in options:
            above_zero("report.overview.learning_rate", options["learning_rate"])

    def check_split(self, cohort: Cohort) -> None:
        """Refuses a cohort without cases to learn from or to report on, before anything is learned.

        Raises:
            EvaluationError: a split is empty; the message names the option that chooses another one.
        """
        filled = [name for name in SPLITS if len(cohort.split(name))]
        if "train" not in filled:
            raise EvaluationError(
                "Nothing to learn from: no case is in the split 'train'. Put cases into it in the CSV's column 'split'."
            )
        if self.split not in filled:
            option = f"report.split={filled[-1]}"
            raise EvaluationError(
                f"Nothing to report on at the end: no case is in the split {self.split!r}. Report on other cases with "
                f"{option}, or put cases into it in the CSV's column 'split'."
            )

    def check_patches(self, cohort: Cohort, views: Views) -> None:
        """Refuses patches of the full scan that cannot be read of all cases, before anything is learned.

        Raises:
            SettingsError: the message names the case and the setting.
        """
        if FULL_SCAN in self.readers:
            check_patches(self.full_scan, views, cohort)

    def access(self, trained: Trained, looked: ViewableCases, split: str) -> Access:
        """Returns how readers reach the pixels of a split; `looked` are the cases of this split."""
        return access_to(looked, lambda count: trained.lanes(split, count), lanes=self.lanes, threads=trained.threads)

    def own_reader(self, policy: GlimpsePolicy, access: Access) -> PolicyReader:
        """Returns the reader that reads as the agent itself does."""
        return self._by_policy(self.agent, policy, access)

    def write(self, trained: Trained, policy: GlimpsePolicy, cohort: Cohort) -> dict[str, Any]:
        """Reads the split once with every reader, writes metrics, predictions and pictures, and prints the table.

        Args:
            trained: the training that has just ended.
            policy: the trained policy to report on.
            cohort: all cases of the run, of every split.

        Returns:
            The content of `metrics.json`.
        """
        run, task = trained.run, trained.cases.task
        with run.timed("report"):
            looked = trained.viewable(self.split)
            raw: dict[str, list[Reading]] = {}
            spent: dict[str, Meter] = {}
            found: dict[str, Temperature] = {}
            kept = Kept(self.pictures, self.pages)
            with closing(self.access(trained, looked, self.split)) as access, self._fitting(trained, cohort) as fitted:
                for name, reader_on in self._readers(trained, policy, cohort):
                    found |= fitted(name, reader_on)
                    reader = reader_on(access)
                    scale = {name: one.temperature for name, one in found.items()}
                    caches.clear_all()  # otherwise what comes first pays for what all read
                    with Meter(policy.device) as spent[name]:
                        if not raw and isinstance(reader, PolicyReader):
                            read = kept.of(reader, looked.cases, scale.get(name))
                        else:
                            read = reader.read(looked.cases)
                    spent[name].over_all()
                    if getattr(reader, "known_before", False):
                        spent[name].forget()
                    raw[name] = reader.counted(read) if isinstance(reader, PolicyReader) else read
                if not first():  # all processes have read; one of them writes
                    return agreed({})
                readings, rows = measured(raw, scale, task, self.seed, spent)
                run.tick("report")
                metrics = self._write(run, readings, rows, found, task)
            draw_answers(rows, run.folder)  # pictures last: numbers must not be lost with them
            kept.write(run.folder)
        run.logger.close()
        agreed(metrics)
        print(f"Report: {write_report(run.folder).file}")
        return metrics

    def _write(
        self,
        run: Run,
        readings: Mapping[str, list[Reading]],
        rows: dict[str, Row],
        found: Mapping[str, Temperature],
        task: Task,
    ) -> dict[str, Any]:
        """Writes predictions, temperatures and metrics, in this order, prints the tables, and returns the metrics."""
        write_predictions(run.folder / "predictions.csv", readings, task, self.split)
        if found:
            write_temperatures(run.folder, found)
        else:
            (run.folder / CALIBRATION_FILE).unlink(missing_ok=True)  # of an earlier report
        metrics = self._metrics(run, rows)
        run.write_json("metrics.json", metrics)
        patients = [reading.patient for reading in next(iter(readings.values())) if reading.target is not None]
        of = f"Split {self.split}: {counted(len(patients), len(set(patients)))}"
        texts = (of, table(rows, task.headline, self.agent), further_table(rows, task.further), told(found))
        print("\n" + "\n\n".join([*filter(None, texts), f"Run folder: {run.folder}"]))
        return metrics

    def _metrics(self, run: Run, rows: dict[str, Row]) -> dict[str, Any]:
        return {
            "split": self.split,
            "seed": self.seed,
            "max_glimpses": self.max_glimpses,
            "seconds": {stage: round(seconds, 1) for stage, seconds in run.seconds.items()},
            "readers": rows,
            "validation": run.last.meta.get("validation", {}).get("history", []),
        }

    # ------------------------------------------------------------------------------------------ readers
    def _readers(self, trained: Trained, policy: GlimpsePolicy, cohort: Cohort) -> Iterator[tuple[str, ReaderOn]]:
        """Yields the agent and the other readers; each one is made, and trained if necessary, when its turn comes."""
        names = [self.agent, *(name for name in self.readers if name != self.agent)]
        for name in tqdm(names, desc="report", unit="reader", disable=silent(trained.progress)):
            if name == FULL_SCAN and trained.cases.stepped:
                first() and print(NO_TILING)
            elif name == FULL_SCAN:
                scan = self._full_scan(trained, policy, cohort)
                yield name, functools.partial(_on_any, scan)
            elif name == "overview" and policy.overview_dropout == 1:
                yield name, functools.partial(self._by_policy, name, self._overview(trained, cohort))
            else:
                yield name, functools.partial(self._by_policy, name, policy)

    @contextlib.contextmanager
    def _fitting(self, trained: Trained, cohort: Cohort) -> Iterator[Callable[[str, ReaderOn], dict[str, Temperature]]]:
        """Yields a function that reads the validation split with a reader, and returns its temperature by its name."""
        task, reason = trained.cases.task, ""
        if self.split == "val":
            reason = SAME_SPLIT
        elif not len(cohort.split("val")):
            reason = "the run has no validation split, which makes it possible"
        if not self.calibrate or not task.calibrates:
            yield lambda name, reader_on: {}
        elif reason:
            yield lambda name, reader_on: {name: Temperature(None, reason=reason)}
        else:
            looked = trained.viewable("val")
            with closing(self.access(trained, looked, "val")) as access:
                yield lambda name, reader_on: {name: fit(reader_on(access).read(looked.cases), task)}

    def _by_policy(self, name: str, policy: GlimpsePolicy, access: Access) -> PolicyReader:
        return reader_named(manner_of(name), policy, access, self.max_glimpses, seed=self.seed, called=name)

    def _overview(self, trained: Trained, cohort: Cohort) -> GlimpsePolicy:
        """Trains a separate network that answers from overviews, for runs whose own network never does."""
        run = trained.run
        start = _pretrained(trained, POLICY_FILE, overview_dropout=0.0)
        looked = trained.viewable("val") if len(cohort.split("val")) else None
        with contextlib.ExitStack() as stack:
            stack.enter_context(own_random_numbers(start.device))
            validate = None
            if looked is not None:
                access = stack.enter_context(closing(self.access(trained, looked, "val")))
                validate = functools.partial(_score_of_overviews, access, looked)
            lanes = functools.partial(trained.lanes, "train")
            found = self.overview(start, lanes, validate, seed=self.seed, progress=trained.progress)
        once(lambda: save_policy(found, run.folder / OVERVIEW_FILE))
        return found

    def _full_scan(self, trained: Trained, policy: GlimpsePolicy, cohort: Cohort) -> Reader:
        """Trains the full scan, with the encoder as it was after pretraining (or the final one if there was none)."""
        return fitted_scan(
            self.full_scan,
            _pretrained(trained, policy),
            trained.cases,
            cohort,
            folder=trained.run.folder / "checkpoints",
            seed=self.seed,
            threads=trained.threads,
            progress=trained.progress,
        )


def _pretrained(trained: Trained, otherwise: GlimpsePolicy | str, **changes: Any) -> GlimpsePolicy:
    """Returns the policy as it was after pretraining, on the run's device.

    Args:
        trained: the training that has just ended.
        otherwise: a policy, or the name of its file, for runs that had no pretraining.
        **changes: override keys of the section `network` (see `load`).
    """
    path, device = trained.run.checkpoint("pretrained"), str(trained.policy.device)
    if agreed(path.exists()):
        otherwise = f"checkpoints/{path.name}"
    return load_together(trained.run.folder, otherwise, device, **changes) if isinstance(otherwise, str) else otherwise


def _score_of_overviews(access: Access, looked: ViewableCases, policy: GlimpsePolicy) -> float | None:
    """Returns the score of a policy that answers from overviews; None where it is not defined."""
    aside = own_random_numbers(policy.device) if ranks().size > 1 else contextlib.nullcontext()
    with aside:  # ranks have different shares, and draw the same numbers afterwards
        readings = reader_named("overview", policy, access, 0).read(looked.cases)
    return value_of(summarise(readings, looked.task), "score")


def _on_any(reader: Reader, access: Access) -> Reader:
    """Returns a reader that reaches the pixels of all cases in the same way."""
    return reader


@contextlib.contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Leaves PyTorch's global random generators as they were before, on the CPU and on the device."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
