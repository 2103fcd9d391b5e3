"""What `glimpse predict` was asked for, in texts and numbers that can be sent to other processes."""

import inspect
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from glimpse.errors import EvaluationError, SettingsError
from glimpse.predicting.agent import Agent, load
from glimpse.predicting.hand import OwnHand
from glimpse.predicting.inputs import Item, find_items
from glimpse.predicting.manifest import Manifest, digest_of, model_facts
from glimpse.predicting.outputs import Form, Outputs
from glimpse.sources import ImageSource
from glimpse.sources.staged.remote import is_url
from glimpse.sources.staged.stage import STAGING


@dataclass(frozen=True)
class Order:
    """Models, images, and how results are written.

    Attributes:
        models: run folders.
        inputs: folders, CSVs and images.
        folder: the output folder.
        max_glimpses: budget of each case; None for each run's own.
        form: how results are written.
        device: the device on which networks compute.
        here: the device on which this process loads them, which may lack the other one where only workers compute; None
            for the same.
        engine: who reads, such as "ray"; None for the process that was asked.
        stage: a folder on a local disk, to which images are copied before they are read; None reads them in place.
        stage_gigabytes: how much copies may take there.
        mpp: micrometres per pixel of images of which no CSV states them; None for those of the run's settings, which
            have none in most runs, or what files state.
    """

    models: tuple[str, ...]
    inputs: tuple[str, ...]
    folder: str
    max_glimpses: int | None = None
    form: Form = field(default_factory=Form)
    device: str = "cpu"
    engine: str | None = None
    stage: str | None = None
    stage_gigabytes: float | None = None
    here: str | None = None
    mpp: float | None = None

    @property
    def absolute(self) -> "Order":
        """The same with absolute paths, for processes that work elsewhere."""
        models, inputs = (tuple(map(_absolute, paths)) for paths in (self.models, self.inputs))
        stage = None if self.stage is None else _absolute(self.stage)
        return replace(self, models=models, inputs=inputs, folder=os.path.abspath(self.folder), stage=stage, here=None)

    @cached_property
    def agents(self) -> list[Agent]:
        """The agents of the runs.

        Raises:
            CheckpointError: there is no complete run.
            EvaluationError: they read other images, or predict something else, than the first one.
        """
        agents = [load(run, device=self.here or self.device) for run in self.models]
        _check_together(agents)
        return agents

    @cached_property
    def items(self) -> list[Item]:
        """The images (see `glimpse.predicting.inputs.find_items`).

        Raises:
            SettingsError: the size of their pixels was given, and what reads them does not take it.
        """
        modality = self.agents[0].modality
        if self.mpp is not None and modality.source is not None and not _takes(modality.source, "mpp"):
            raise SettingsError(
                f"mpp={self.mpp:g}: {modality.source.__name__}, which reads images of {modality.name}, takes no mpp. "
                "Leave it out, or give it this argument."
            )
        found = find_items(self.inputs, modality, without=Path(self.folder))
        given = {} if self.mpp is None else {"mpp": self.mpp}
        return [replace(item, options=given | item.options) for item in found]

    @cached_property
    def budgets(self) -> list[int]:
        """The budget of each agent."""
        return [agent.budget if self.max_glimpses is None else self.max_glimpses for agent in self.agents]

    @cached_property
    def _facts(self) -> list[dict[str, str]]:
        return [model_facts(agent.folder) for agent in self.agents]

    @cached_property
    def _made(self) -> dict[str, Any]:
        checksums = [{name: value for name, value in one.items() if name != "run"} for one in self._facts]
        return {"models": checksums, "max_glimpses": self.budgets, **asdict(self.form)}

    def manifest(self, shard: str | None) -> Manifest:
        """Returns the manifest of the output folder.

        Args:
            shard: the part of the images that this process has, such as "1/4"; None for all.

        Raises:
            EvaluationError: the folder holds predictions that were made otherwise.
        """
        given = {"model": [one["run"] for one in self._facts], "input": list(self.inputs)}
        asked = {**given, "max_glimpses": self.max_glimpses, **asdict(self.form)}
        asked |= {"mpp": self.mpp, "device": self.device, "engine": self.engine}
        manifest = Manifest(Path(self.folder), self._made, asked, shard)
        manifest.check()
        return manifest

    def hand(self) -> OwnHand:
        """Returns who reads cases in this process.

        Raises:
            WriteError: the output folder cannot be made.
        """
        outputs = Outputs(Path(self.folder), self.form, digest_of(self._made), _names(self.agents))
        return OwnHand(self.agents, self.budgets, outputs, {name: getattr(self, name) for name in STAGING})


def _takes(source: type[ImageSource], option: str) -> bool:
    """Tells whether the images of a source can be opened with an option."""
    given = inspect.signature(source).parameters.values()
    return any(one.name == option or one.kind is one.VAR_KEYWORD for one in given)


def _absolute(path: str) -> str:
    return path if is_url(path) else os.path.abspath(os.path.expanduser(path))


def _check_together(agents: Sequence[Agent]) -> None:
    """Finds out, before any image is read, whether all runs say how images are read, and predict the same."""
    for one in agents:
        one.modality, one.task, one.views, one.threads, one.temperature  # noqa: B018 - each says what is wrong with the run
    first = agents[0]
    for other in agents[1:]:
        if other.task != first.task or other.modality.name != first.modality.name:
            raise EvaluationError(
                f"{first.folder} and {other.folder} cannot answer together: they predict other things, or read other "
                "images. Give models of one task."
            )


def _names(agents: Sequence[Agent]) -> list[str]:
    """Returns the names of the run folders, with a number where several are called the same."""
    names = [agent.folder.resolve().name for agent in agents]
    return [f"{name}-{i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]
