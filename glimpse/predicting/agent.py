"""The agent of a run, ready to read images: `glimpse.load(run).read("slide.svs")`."""

import os
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from glimpse.cohort import Case
from glimpse.cohort.preflight import PreflightError
from glimpse.errors import EvaluationError, SettingsError
from glimpse.geometry import UNKNOWN_SIZE, Extent
from glimpse.modalities import Modality, find_modality
from glimpse.networks.policy import GlimpsePolicy
from glimpse.predicting.inputs import Found
from glimpse.predicting.readings import CaseReading
from glimpse.reading.calibration import calibrated, read_temperatures
from glimpse.reading.lanes import Access
from glimpse.reading.playing import compute_threads
from glimpse.reading.readers import MOST_GLIMPSES, PolicyReader
from glimpse.reading.records import Reading
from glimpse.runs.loading import POLICY_FILE, restored
from glimpse.runs.loading import load as load_policy
from glimpse.settings.building import build
from glimpse.settings.options import at_least
from glimpse.sources import ImageSource, open_source
from glimpse.sources.blank import is_blank
from glimpse.tasks import Task
from glimpse.views import Views

_LANES = 16  # rollouts that are read at once
_SIZES_STAY = "A run keeps the sizes that it was trained with: leave this image out, or train another run."


class Agent:
    """Reads images as the agent of a run does.

    Attributes and methods that it lacks are looked up in `policy`. Calls, assignments and `isinstance` are not.

    An image is read by itself, with a seed of its own: its answer depends neither on other images nor on their order.

    Args:
        policy: The policy of a run, as `glimpse.runs.loading.load` returns it.
        folder: The run folder.

    Attributes:
        policy: The policy.
        folder: The run folder.
    """

    def __init__(self, policy: GlimpsePolicy, folder: str | os.PathLike[str]) -> None:
        self.policy, self.folder = policy, Path(folder)

    @cached_property
    def task(self) -> Task:
        """What is predicted.

        Raises:
            EvaluationError: The run's settings do not say it.
        """
        section = self._make.get("task") or self.policy.settings["env"].get("task")
        if not isinstance(section, Mapping):
            raise self._unknown("task")
        with restored(self.folder):
            task: Task = build(section)
            task.columns, task.outputs  # noqa: B018 - a class that is no task has none
        return task

    @cached_property
    def views(self) -> Views:
        """What is seen of an image, and at which sizes.

        Raises:
            EvaluationError: The run's settings do not say it.
        """
        extents = self._make.get("glimpse_extents")
        if extents is None:
            raise self._unknown("glimpse_extents")
        space: Any = self.policy.observation_space
        overview, glimpse = (tuple(space[name].shape[1:]) for name in ("overview", "glimpse"))
        listed = extents if isinstance(extents, list) else [extents]
        with restored(self.folder):
            return Views(overview, glimpse, tuple(Extent.parse(one) for one in listed))

    @property
    def _make(self) -> Mapping[str, Any]:
        make: Mapping[str, Any] = self.policy.settings["env"]["make"]
        return make

    def _unknown(self, what: str) -> EvaluationError:
        return EvaluationError(
            f"{self.folder}: config.yaml states no {what} in env.make, so images cannot be read as in training. Take a "
            "run of env=wsi, xray, photo, mri, ct, or of a modality of your own."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "policy":  # not there yet while a copy is made
            raise AttributeError(name)
        return getattr(self.policy, name)

    def __repr__(self) -> str:
        return f"Agent({str(self.folder)!r}: {self.policy.layout.outputs} outputs, {self.budget} glimpses)"

    @cached_property
    def temperature(self) -> float | None:
        """What predictions are divided by (see `glimpse.reading.calibration`); None where the run is not calibrated.

        Raises:
            EvaluationError: the file of the run cannot be read.
        """
        found = read_temperatures(self.folder) if self.task.calibrates else {}
        return found.get(self.policy.settings["agent"]["name"])

    @property
    def budget(self) -> int:
        """How many glimpses the run was trained to read at most."""
        with restored(self.folder):
            return int(self.policy.settings["max_glimpses"])

    @property
    def threads(self) -> int:
        """With how many threads the run computes; 0 for as many as PyTorch takes."""
        with restored(self.folder):
            return int(self.policy.settings["threads"])

    @property
    def modality(self) -> Modality:
        """The kind of images that the run reads.

        Raises:
            EvaluationError: its images are drawn, or of an environment of its own, so that no files can be read.
            ModalityError: the package that brings the modality is not installed.
        """
        section = self.policy.settings["env"]["cohort"]
        name = section.get("modality") if isinstance(section, Mapping) else None
        known = find_modality(name) if isinstance(name, str) else None
        if known is None or known.source is None:
            raise EvaluationError(
                f"{self.folder}: this run reads no files: its images are drawn, or those of an environment of its own"
                f"{'' if name is None else f' (env={name})'}. Take a run of env=wsi, xray, photo, mri, ct, or of a "
                "modality of your own."
            )
        return known

    def open(self, path: str | os.PathLike[str], **options: Any) -> ImageSource:
        """Opens an image with the options of the run, such as its windows.

        Args:
            path: The file, or a folder that is one image.
            **options: Options of this image, such as `mpp=0.5`, `series` or `frame`; they count more than the run's.

        Raises:
            ImageReadError, UnsupportedImageError: The image is missing, damaged, or of another kind.
        """
        known, section = self.modality, self.policy.settings["env"]["cohort"]
        names = {*known.cohort_options(), *known.shared}
        given = {name: value for name, value in section.items() if name in names}
        synthetic = section.get("path") is None
        return open_source(path, **(known.source_options(given, synthetic) | options))

    def read(
        self,
        image: str | os.PathLike[str] | ImageSource | Case,
        /,
        max_glimpses: int | None = None,
        *,
        name: str | None = None,
        **options: Any,
    ) -> CaseReading:
        """Reads an image once, to the end.

        Args:
            image: A file, or a folder that is one image; a source; or a case.
            max_glimpses: The budget, any number; the run's own if not given.
            name: The name of the case; by default that of the file without its suffix, as in `glimpse predict`.
            **options: Options of the source, as for `open`; a source or a case has its own already.

        Raises:
            ImageReadError, UnsupportedImageError: The image is missing, damaged, or of another kind.
            PreflightError: The run's sizes do not fit the image.
            SettingsError: `max_glimpses` is no whole number from 0 to 100,000, or options would have no effect.
        """
        with self._case(image, name, options) as case:
            (reading,) = self._read(case, max_glimpses)
        return reading

    def rollouts(
        self,
        image: str | os.PathLike[str] | ImageSource | Case,
        /,
        count: int = 16,
        max_glimpses: int | None = None,
        *,
        seed: int = 0,
        name: str | None = None,
        **options: Any,
    ) -> list[CaseReading]:
        """Reads an image several times with choices that are drawn, as in learning, not the most probable ones.

        How far they agree says how sure the agent is of where to look: `glimpse.pictures.episodes.agreement_picture`.

        Args:
            image: As for `read`.
            count: How many times.
            max_glimpses: As for `read`.
            seed: With which choices are drawn.
            name: As for `read`.
            **options: As for `read`.

        Raises:
            ImageReadError, UnsupportedImageError, PreflightError, SettingsError: As for `read`.
        """
        at_least("count", count, 1, whole=True)
        with self._case(image, name, options) as case:
            return self._read(case, max_glimpses, count, seed)

    @contextmanager
    def _case(
        self, image: str | os.PathLike[str] | ImageSource | Case, name: str | None, options: Mapping[str, Any]
    ) -> Iterator[Case]:
        """Opens an image as a case."""
        if options and isinstance(image, Case | ImageSource):
            raise SettingsError(
                f"{', '.join(sorted(options))}: options are of files, and this image is open already. Give its path, "
                "or give them to what opens it."
            )
        if isinstance(image, Case):
            yield image
            return
        path = Path(image.name if isinstance(image, ImageSource) else image)
        known = name or Found(path, path.name).short or path.name
        if isinstance(image, ImageSource):
            yield Case(known, known, image, None)
            return
        with closing(self.open(image, **options)) as source:
            source.check()
            yield Case(known, known, source, None)

    def _read(self, case: Case, max_glimpses: int | None, count: int = 1, seed: int | None = None) -> list[CaseReading]:
        """Reads a case `count` times; choices are drawn if there is a seed."""
        budget = self.budget if max_glimpses is None else max_glimpses
        at_least("max_glimpses", budget, 0, whole=True, most=MOST_GLIMPSES)
        source, policy = case.source, self.policy
        space: Any = policy.observation_space
        axes = len(space["overview"].shape) - 1
        problems = self.views.problems(source, policy.grid, policy.view_grid) if source.ndim == axes else []
        if problems:
            unknown = all(UNKNOWN_SIZE in problem for problem in problems)
            raise PreflightError(" ".join(problems if unknown else [*problems, _SIZES_STAY]))
        access = Access(self.views, self.task, lanes=min(count, _LANES), threads=1)
        reader = PolicyReader("policy", policy, access, int(budget), seed=seed or 0, drawn=seed is not None)
        devices = [policy.device] if policy.device.type == "cuda" else []
        with torch.random.fork_rng(devices), compute_threads(self.threads):
            torch.manual_seed(zlib.crc32(case.id.encode("utf-8", "surrogatepass")))
            readings = reader.read([case] * count, trace=True)
        _warn_of_blank(source, readings[0])
        return [CaseReading.of(calibrated(reading, self.temperature), source, self.views) for reading in readings]


def _warn_of_blank(source: ImageSource, reading: Reading) -> None:
    """Warns of an image that shows nothing, as far as its overview tells."""
    trace = reading.trace
    assert trace is not None
    if is_blank(trace.overview, source.background, trace.foreground[0] > 0):
        warnings.warn(
            f"{source.name}: its overview shows one value or background only, so there is nothing to see. Do not trust "
            "its answer: look at the image, or leave it out.",
            UserWarning,
            stacklevel=2,
        )


def load(run: str | os.PathLike[str], file: str = POLICY_FILE, device: str = "cpu", **changes: Any) -> Agent:
    """Loads the agent of a run folder; its `read` reads an image, and `policy` is its network, in evaluation mode.

    Args:
        run: The run folder.
        file: The file with the parameters, relative to the folder, such as "checkpoints/best.safetensors".
        device: Where the policy computes.
        **changes: Override keys of the section `network`, as for `glimpse.runs.loading.load`.

    Raises:
        CheckpointError: The folder, its `config.yaml` or its parameters are missing or broken.
        SettingsError: PyTorch cannot compute on the device.
    """
    return Agent(load_policy(run, file, device, **changes), run)
