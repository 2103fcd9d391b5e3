"""Looking at the cases of any environment through `reset` and `step` alone, as if they had sources.

Pretraining, warm-up and pictures ask for overviews, foregrounds and glimpses of cases. Where an environment's pixels
are reached through its steps only, `viewable_cases` gives cases and views that answer by stepping it, one look at a
time.
"""

import itertools
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Bool, UInt8

from glimpse.cohort import Case
from glimpse.contract.protocol import EnvContract, ProtocolError, contract_of
from glimpse.geometry import Extent, Frame, Numbers
from glimpse.sources import ImageReadError, ImageSource
from glimpse.tasks import Task
from glimpse.views import Views

BUDGET = 10_000  # glimpses of one case before it is reset
_serial = itertools.count()


@dataclass(frozen=True, eq=False)
class ViewableCases:
    """Cases and how to look at them.

    Attributes:
        cases: each with a source.
        views: sizes of what is seen of them.
        task: what an answer is.
        stepped: whether looks go through the environment's steps; then they cannot be many at once, glimpses have no
            margin, and no pixels can be read beside them.
    """

    cases: Sequence[Case]
    views: Views
    task: Task
    stepped: bool = False


def viewable_cases(env: gymnasium.Env[Any, Any], seed: int = 0) -> ViewableCases:
    """The cases of an environment with sources, its own or ones that step it.

    Args:
        env: nobody else may step it afterwards, unless it has sources of its own.
        seed: of its first reset.

    Raises:
        ProtocolError: it lacks what `glimpse.contract.protocol` lists.
    """
    parts = contract_of(env)
    if parts.views is not None:
        return ViewableCases(parts.cases, parts.views, parts.task)
    return stepped_cases(env, seed)


def stepped_cases(env: gymnasium.Env[Any, Any], seed: int = 0) -> ViewableCases:
    """The cases of an environment with sources that step it, even where it has sources of its own.

    Args:
        env: nobody else may step it afterwards.
        seed: of its first reset.

    Raises:
        ProtocolError: it lacks what `glimpse.contract.protocol` lists.
    """
    parts = contract_of(env)
    stepper = Stepper(env, parts, seed)
    cases = [_stepped(case, stepper, index) for index, case in enumerate(parts.cases)]
    return ViewableCases(cases, SteppedViews.of(stepper), parts.task, stepped=True)


def _stepped(case: Any, stepper: "Stepper", index: int) -> Case:
    source, split = SteppedSource(stepper, index, case.id), getattr(case, "split", None)
    return Case(case.id, case.patient, source, case.target, split)


class Stepper:
    """Steps an environment to where somebody wants to look.

    Args:
        env: the environment.
        parts: of it.
        seed: of its first reset.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], parts: EnvContract, seed: int = 0) -> None:
        self.env, self.parts = env, parts
        self.serial = next(_serial)
        self._seed: int | None = seed
        self._lock = threading.RLock()
        self._case: int | None = None
        self._taken = 0
        self._flat = isinstance(env.action_space, gymnasium.spaces.Box)
        self._shares: dict[tuple[int, int], float] = {}

    def first(self, case: int) -> dict[str, np.ndarray]:
        """The observation with which an episode on a case begins."""
        with self._lock:
            options = {"case": case, "max_glimpses": BUDGET}
            observation, _ = self.env.reset(seed=self._seed, options=options)
            self._seed, self._case, self._taken = None, case, 0
            return dict(observation)

    def glimpse(self, case: int, location: Numbers, zoom: int) -> UInt8[np.ndarray, "channel *size"]:
        """The glimpse of a case at a location (d,)."""
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

    def share(self, case: int, zoom: int) -> float:
        """The share of a case's pixels that a glimpse shows, from what the end of an episode tells."""
        with self._lock:
            if (case, zoom) not in self._shares:
                foreground = float((self.first(case)["foreground"] > 0).mean())
                self._step(np.zeros(self.parts.layout.ndim), zoom, stop=False)
                _, info, _ = self._step(np.zeros(self.parts.layout.ndim), zoom, stop=True)
                self._case = None
                if "share_read" not in info:
                    raise ProtocolError(f"{self.env}: the info at the end of an episode lacks 'share_read'.")
                self._shares[case, zoom] = float(np.clip(info["share_read"] * foreground, 1e-12, 1))
            return self._shares[case, zoom]

    def _step(self, location: Numbers, zoom: int, stop: bool) -> tuple[dict[str, Any], dict[str, Any], bool]:
        layout = self.parts.layout
        action: Any = layout.pack(np.asarray(location), stop, np.zeros(layout.outputs), zoom)
        observation, _, terminated, truncated, info = self.env.step(action if self._flat else layout.to_dict(action))
        self._taken += 1
        return observation, info, bool(terminated or truncated)


class SteppedSource(ImageSource):
    """A case of an environment. Its grid is that of the overview, since no other is known.

    Args:
        stepper: of the environment.
        index: of the case.
        name: what messages call it.
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
        """The environment's overview; it has one size only."""
        return np.array(self.stepper.first(self.index)["overview"], np.uint8)

    def foreground(self, overview: UInt8[np.ndarray, "channel *size"]) -> Bool[np.ndarray, "*size"]:
        """The environment's foreground."""
        return np.asarray(self.stepper.first(self.index)["foreground"])[0] > 0

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        """Always an error: a step shows glimpses of one size and extent only."""
        raise ImageReadError(
            f"{self.name}: its pixels are reached through the environment's step() only. Give the environment `views` "
            "and its cases a source (see glimpse.contract.protocol) for what reads regions."
        )


class SteppedViews(Views):
    """What an environment shows of its cases."""

    @classmethod
    def of(cls, stepper: Stepper) -> "SteppedViews":
        """With the sizes of the environment's spaces; its fields of view are not known before a case is looked at."""
        overview, glimpse = (_shape(stepper, name)[1:] for name in ("overview", "glimpse"))
        return cls(overview, glimpse, (Extent.parse(list(glimpse)),) * stepper.parts.layout.zooms)

    def extent(self, source: ImageSource, zoom: int = 0) -> np.ndarray:
        """Field of view in pixels of the overview, float64 (d,): equal shares of all axes, by the share it covers."""
        assert isinstance(source, SteppedSource)
        share = source.stepper.share(source.index, zoom) ** (1 / self.ndim)
        return share * np.asarray(source.shape, np.float64)

    def glimpse(
        self, source: ImageSource, location: Numbers, zoom: int = 0, margin: float | int = 1.0
    ) -> UInt8[np.ndarray, "channel *size"]:
        """What a step to the location shows; it has no margin."""
        assert isinstance(source, SteppedSource)
        return source.stepper.glimpse(source.index, location, int(zoom))


def _shape(stepper: Stepper, name: str) -> tuple[int, ...]:
    return tuple(stepper.parts.observation_space[name].shape or ())
