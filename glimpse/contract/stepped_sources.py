"""Makes the cases of any environment readable, as if they had sources, with `reset` and `step` alone.

Pretraining, warm-up and pictures need overviews, foregrounds and glimpses of cases. Where an environment's pixels can
be reached through its steps only, `viewable_cases` returns cases and views that step the environment for every
glimpse.
"""

import itertools
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Bool, Float, UInt8

from glimpse.cohort import Case
from glimpse.contract.protocol import EnvContract, ProtocolError, contract_of
from glimpse.geometry import CellGrid, Extent, Frame, Numbers
from glimpse.sources import ImageReadError, ImageSource
from glimpse.tasks import Task
from glimpse.views import Views, unreached

BUDGET = 10_000  # glimpses of one case before the environment is reset
_serial = itertools.count()


@dataclass(frozen=True, eq=False)
class ViewableCases:
    """Cases, and how to look at them.

    Attributes:
        cases: the cases; each of them has a source.
        views: sizes of overview and glimpses.
        task: the task whose targets are to be predicted.
        stepped: whether the sources step the environment. Then only one glimpse can be read at a time, glimpses have no
            margin, and no other regions can be read.
    """

    cases: Sequence[Case]
    views: Views
    task: Task
    stepped: bool = False


def viewable_cases(env: gymnasium.Env[Any, Any], seed: int = 0) -> ViewableCases:
    """Returns the cases of an environment with their own sources, or with sources that step the environment.

    Args:
        env: the environment; nothing else may step it afterwards, unless its cases have sources of their own.
        seed: seed of its first reset.

    Raises:
        ProtocolError: the environment lacks what `glimpse.contract.protocol` lists.
    """
    parts = contract_of(env)
    if parts.views is not None:
        return ViewableCases(parts.cases, parts.views, parts.task)
    return stepped_cases(env, seed)


def stepped_cases(env: gymnasium.Env[Any, Any], seed: int = 0) -> ViewableCases:
    """Returns the cases of an environment with sources that step it, even if they have sources of their own.

    Args:
        env: the environment; nothing else may step it afterwards.
        seed: seed of its first reset.

    Raises:
        ProtocolError: the environment lacks what `glimpse.contract.protocol` lists.
    """
    parts = contract_of(env)
    stepper = Stepper(env, parts, seed)
    cases = [_stepped(case, stepper, index) for index, case in enumerate(parts.cases)]
    return ViewableCases(cases, SteppedViews.of(stepper), parts.task, stepped=True)


def _stepped(case: Any, stepper: "Stepper", index: int) -> Case:
    source, split = SteppedSource(stepper, index, case.id), getattr(case, "split", None)
    return Case(case.id, case.patient, source, case.target, split)


class Stepper:
    """Reads overviews and glimpses of an environment's cases by resetting and stepping it; safe to call from threads.

    Args:
        env: the environment.
        parts: the environment's parts, from `contract_of`.
        seed: seed of its first reset.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], parts: EnvContract, seed: int = 0) -> None:
        self.env, self.parts = env, parts
        self.serial = next(_serial)
        self._seed: int | None = seed
        self._lock = threading.RLock()
        self._case: int | None = None
        self._taken = 0
        self._flat = isinstance(env.action_space, gymnasium.spaces.Box)
        self._extents: dict[int, np.ndarray] = {}

    def first(self, case: int) -> dict[str, np.ndarray]:
        """Resets the environment to a case, given by its index, and returns the first observation."""
        with self._lock:
            options = {"case": case, "max_glimpses": BUDGET}
            observation, _ = self.env.reset(seed=self._seed, options=options)
            self._seed, self._case, self._taken = None, case, 0
            return dict(observation)

    def glimpse(self, case: int, location: Numbers, zoom: int) -> UInt8[np.ndarray, "channel *size"]:
        """Returns the glimpse of a case at a location (d,) in [-1, 1].

        Raises:
            ProtocolError: the episode ended before its budget was spent.
        """
        with self._lock:
            if self._case != case or self._taken >= BUDGET:
                self.first(case)
            observation, _, ended = self._step(location, zoom, stop=False)
            if ended:
                self._case = None
                raise ProtocolError(
                    f"{self.env}: the episode ended after {self._taken} glimpses, without `stop` and before its budget "
                    f"of {BUDGET} (the reset option max_glimpses) was spent."
                )
            return np.array(observation["glimpse"], np.uint8)

    def extents(self, case: int) -> Float[np.ndarray, "zoom d"]:
        """Returns the sides of a case's glimpses as shares of its image's sides; the next reset is seeded as before."""
        with self._lock:
            if case not in self._extents:
                before = self._seed
                extents = self.first(case)["extents"]
                self._seed, self._case = before, None
                self._extents[case] = np.asarray(extents, np.float64).reshape(-1, self.parts.layout.ndim)
            return self._extents[case]

    def _step(self, location: Numbers, zoom: int, stop: bool) -> tuple[dict[str, Any], dict[str, Any], bool]:
        layout = self.parts.layout
        action: Any = layout.pack(np.asarray(location), stop, np.zeros(layout.outputs), zoom)
        observation, _, terminated, truncated, info = self.env.step(action if self._flat else layout.to_dict(action))
        self._taken += 1
        return observation, info, bool(terminated or truncated)


class SteppedSource(ImageSource):
    """The source of one case that is read by stepping its environment. Its pixel grid is that of the overview.

    Args:
        stepper: steps the environment.
        index: the case's index in the environment's `cases`.
        name: what error messages call the case.
    """

    path = None

    def __init__(self, stepper: Stepper, index: int, name: str) -> None:
        self.stepper, self.index, self.name = stepper, index, name

    @property
    def frame(self) -> Frame:
        return Frame(_shape(self.stepper, "overview")[1:], name=self.name)

    @property
    def channels(self) -> int:
        return _shape(self.stepper, "overview")[0]

    @property
    def background(self) -> UInt8[np.ndarray, " channel"]:
        return np.zeros(self.channels, np.uint8)

    @property
    def identity(self) -> Hashable:
        return ("stepped", self.stepper.serial, self.index)

    def overview(self, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        """Returns the environment's overview; `size` is not used, since there is only one size."""
        return np.array(self.stepper.first(self.index)["overview"], np.uint8)

    def foreground(self, overview: UInt8[np.ndarray, "channel *size"]) -> Bool[np.ndarray, "*size"]:
        """Returns the environment's foreground; `overview` is not used."""
        return np.asarray(self.stepper.first(self.index)["foreground"])[0] > 0

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        """Always raises an error, because steps show glimpses of one size and extent only.

        Raises:
            ImageReadError: always.
        """
        raise ImageReadError(
            f"{self.name}: its pixels are reached through the environment's step() only. Give the environment `views` "
            "and its cases a source (see glimpse.contract.protocol) for what reads regions."
        )


class SteppedViews(Views):
    """The views of an environment whose cases are read by stepping it."""

    @classmethod
    def of(cls, stepper: Stepper) -> "SteppedViews":
        """Makes views with the sizes of the environment's spaces; `extent` asks for the true fields of view later."""
        overview, glimpse = (_shape(stepper, name)[1:] for name in ("overview", "glimpse"))
        return cls(overview, glimpse, (Extent.parse(list(glimpse)),) * stepper.parts.layout.zooms)

    def extent(self, source: ImageSource, zoom: int = 0) -> np.ndarray:
        """Returns the field of view in pixels of the overview, float64 (d,), as the observation's `extents` say."""
        assert isinstance(source, SteppedSource)
        return source.stepper.extents(source.index)[zoom] * np.asarray(source.shape, np.float64)

    def glimpse(
        self, source: ImageSource, location: Numbers, zoom: int = 0, margin: float | int = 1.0
    ) -> UInt8[np.ndarray, "channel *size"]:
        """Returns the glimpse that a step to the location shows; `margin` is not used."""
        assert isinstance(source, SteppedSource)
        return source.stepper.glimpse(source.index, location, int(zoom))

    def problems(
        self, image: ImageSource | Frame, grid: CellGrid | None = None, view_grid: CellGrid | None = None
    ) -> list[str]:
        """Says whether all of an image can be reached, from the extents that its environment shows at a reset."""
        assert isinstance(image, SteppedSource)
        if grid is None:
            return []
        extents = image.stepper.extents(image.index) * image.shape
        why = unreached(image.shape, extents, grid, view_grid or grid, "pixels of the overview")
        return [f"{image.name}: {why}"] if why else []


def _shape(stepper: Stepper, name: str) -> tuple[int, ...]:
    return tuple(stepper.parts.observation_space[name].shape or ())
