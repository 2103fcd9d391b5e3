"""Lanes: several cases that are read at the same time, so that the policy handles all of them in one forward pass.

There are two kinds. `SourceLanes` read the cases' pixels from their sources, in threads. `SteppedLanes` step a vector
of environments that users wrote from scratch; only these environments can read their pixels. The loop in
`glimpse.reading.playing` is the same for both.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from stable_baselines3.common.vec_env import VecEnv

from glimpse.cohort import Case
from glimpse.contract.stepped_sources import SteppedSource, ViewableCases
from glimpse.errors import EvaluationError
from glimpse.spaces import Action
from glimpse.tasks import Task
from glimpse.views import Views

Item = TypeVar("Item")
Found = TypeVar("Found")


# ---------------------------------------------------------------------------------------------- records
@dataclass(frozen=True, eq=False)
class Start:
    """What all lanes show before the first glimpse.

    Attributes:
        overview: The overview of each lane's case.
        foreground: 255 where looking can make sense, 0 elsewhere.
        extents: Sides of glimpses, as shares of the sides of each lane's image.
        exhausted: Whether the budget is spent already, so that no glimpse may be read.
    """

    overview: UInt8[np.ndarray, "lane channel *size"]
    foreground: UInt8[np.ndarray, "lane 1 *size"]
    extents: Float[np.ndarray, "lane zoom d"]
    exhausted: Bool[np.ndarray, " lane"]


@dataclass(frozen=True, eq=False)
class Seen:
    """What all lanes show after a step. The rows of lanes whose episode has ended mean nothing.

    Attributes:
        glimpse: The glimpse that each lane read last.
        location: The centre of that glimpse in [-1, 1].
        exhausted: Whether the budget is spent.
        ended: Whether the lane's episode has ended.
    """

    glimpse: UInt8[np.ndarray, "lane channel *glimpse_size"]
    location: Float[np.ndarray, "lane d"]
    exhausted: Bool[np.ndarray, " lane"]
    ended: Bool[np.ndarray, " lane"]


@dataclass(frozen=True, eq=False)
class Ending:
    """What a lane reports about an episode that has ended; the fields mean the same as those of `Reading`."""

    scanpath: Float[np.ndarray, "glimpse d"]
    zooms: Int[np.ndarray, " glimpse"]
    pixels_read: int
    share_read: float
    hits: Bool[np.ndarray, " mark"] | None


@runtime_checkable
class Lanes(Protocol):
    """The interface of lanes: one episode on one case per lane."""

    @property
    def width(self) -> int:
        """How many lanes there are."""
        ...

    def start(self, cases: Sequence[Case], budget: int) -> Start:
        """Opens an episode on each case; there must be as many cases as lanes."""
        ...

    def step(self, action: Action) -> Seen:
        """Reads the glimpse that each lane's action asks for, unless the action or the budget ends the episode."""
        ...

    def ending(self, lane: int) -> Ending:
        """Returns the facts about a lane's episode, once it has ended."""
        ...


# ---------------------------------------------------------------------------------------------- from sources
class SourceLanes:
    """Lanes that read the sources of their cases.

    Args:
        views: Sizes of what is seen.
        width: How many lanes there are.
        pool: Threads that read images; with None the calling thread reads them.
    """

    def __init__(self, views: Views, width: int, pool: ThreadPoolExecutor | None = None) -> None:
        self.views, self.width, self._pool = views, width, pool
        self._cases: Sequence[Case] = ()
        self._budget = 0

    def start(self, cases: Sequence[Case], budget: int) -> Start:
        """Opens an episode on each case; there must be as many cases as lanes."""
        self._cases, self._budget = cases, budget
        self._paths: list[list[np.ndarray]] = [[] for _ in cases]
        self._zooms: list[list[int]] = [[] for _ in cases]
        self._ended = np.zeros(self.width, bool)
        self._location = np.zeros((self.width, self.views.ndim), np.float32)
        self._glimpse = np.zeros((self.width, cases[0].source.channels, *self.views.glimpse_size), np.uint8)
        overviews = self._shared(lambda case: self.views.overview(case.source), cases)
        foregrounds = self._shared(lambda case: self.views.foreground(case.source) * np.uint8(255), cases)
        extents = [self.views.relative_extents(case.source) for case in cases]
        return Start(np.stack(overviews), np.stack(foregrounds), np.stack(extents), self._exhausted())

    def step(self, action: Action) -> Seen:
        """Reads the glimpse that each lane's action asks for, unless the action or the budget ends the episode."""
        self._ended = self._ended | action.stop | self._exhausted()
        going = np.flatnonzero(~self._ended).tolist()
        self._location, self._glimpse = (
            self._location.copy(),
            self._glimpse.copy(),
        )  # arrays that were returned earlier stay as they are
        for lane in going:
            self._location[lane] = action.location[lane]
            self._paths[lane].append(self._location[lane])
            self._zooms[lane].append(int(action.zoom[lane]))
        for lane, glimpse in zip(going, self._shared(self._read, going), strict=True):
            self._glimpse[lane] = glimpse
        return Seen(self._glimpse, self._location, self._exhausted(), self._ended)

    def ending(self, lane: int) -> Ending:
        """Returns the facts about a lane's episode, once it has ended."""
        views, case, zooms = self.views, self._cases[lane], np.array(self._zooms[lane], np.int64)
        path = np.array(self._paths[lane], np.float32).reshape(-1, views.ndim)
        pixels = views.pixels_read(case.source, path, zooms)
        hits = None if case.marks is None else views.hits(case.source, path, zooms, case.marks)
        return Ending(path, zooms, pixels, pixels / views.foreground_pixels(case.source), hits)

    def _read(self, lane: int) -> np.ndarray:
        return self.views.glimpse(self._cases[lane].source, self._paths[lane][-1], self._zooms[lane][-1])

    def _exhausted(self) -> Bool[np.ndarray, " lane"]:
        return np.array([len(path) >= self._budget for path in self._paths])

    def _shared(self, work: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
        return list(map(work, items) if self._pool is None else self._pool.map(work, items))


# ---------------------------------------------------------------------------------------------- by steps
class SteppedLanes:
    """Lanes that step a vector of environments, and take the facts about an ended episode from its last info.

    Args:
        env: A vector of flattened environments that all have the same cases. `start` must be given the cases that
            `glimpse.contract.stepped_sources` has made for these environments.
    """

    def __init__(self, env: VecEnv) -> None:
        self.env, self.width = env, env.num_envs
        self.layout = env.get_attr("layout", [0])[0]
        self._endings: list[Ending | None] = []

    def start(self, cases: Sequence[Case], budget: int) -> Start:
        """Opens an episode on each case; there must be as many cases as lanes."""
        self._endings = [None] * self.width
        self.env.set_options([{"case": _index(case), "max_glimpses": budget} for case in cases])
        shown: Any = self.env.reset()
        extents = shown["extents"].reshape(self.width, self.layout.zooms, -1)
        return Start(shown["overview"], shown["foreground"], extents, shown["remaining"][:, 0] <= 0)

    def step(self, action: Action) -> Seen:
        """Steps every lane. A lane whose episode has ended goes on with another one, which is ignored."""
        flat = self.layout.pack(action.location, action.stop, action.prediction, action.zoom)
        shown: Any
        shown, _, done, infos = self.env.step(flat)
        for lane in np.flatnonzero(done).tolist():
            if self._endings[lane] is None:
                self._endings[lane] = _told(infos[lane])
        ended = np.array([ending is not None for ending in self._endings])
        return Seen(shown["glimpse"], shown["location"], shown["remaining"][:, 0] <= 0, ended)

    def ending(self, lane: int) -> Ending:
        """Returns what the environment reported at the end of a lane's episode."""
        ending = self._endings[lane]
        assert ending is not None, "the episode has not ended"
        return ending


def _index(case: Case) -> int:
    assert isinstance(case.source, SteppedSource), "only the environment itself can read its cases"
    return case.source.index


def _told(info: dict[str, Any]) -> Ending:
    hits = np.asarray(info["hits"]) if "hits" in info else None
    path, zooms = np.asarray(info["scanpath"], np.float32), np.asarray(info["zooms"])
    return Ending(path, zooms, int(info["pixels_read"]), float(info["share_read"]), hits)


# ---------------------------------------------------------------------------------------------- access
class SteppedVectors:
    """Makes vectors of environments when they are first needed, and keeps one for each number of environments.

    Args:
        make: Takes a number, and returns a vector of so many environments.
    """

    def __init__(self, make: Callable[[int], VecEnv]) -> None:
        self._make = make
        self._made: dict[int, VecEnv] = {}

    def of_width(self, width: int) -> VecEnv:
        """Returns the vector of `width` environments."""
        if width not in self._made:
            self._made[width] = self._make(width)
        return self._made[width]

    def close(self) -> None:
        """Closes all vectors; `of_width` makes new ones if it is called again."""
        while self._made:
            self._made.popitem()[1].close()


@dataclass(frozen=True, eq=False)
class Access:
    """How readers reach the pixels of cases; they open lanes with it.

    Attributes:
        views: Sizes of what is seen.
        task: The task whose targets are to be predicted.
        lanes: How many cases are read at once.
        threads: How many threads read sources.
        stepped: Where only environments can read the pixels: these environments. None where cases have sources.
    """

    views: Views
    task: Task
    lanes: int = 20
    threads: int = 2
    stepped: SteppedVectors | None = None

    def __post_init__(self) -> None:
        if self.lanes < 1:
            raise EvaluationError(f"Nothing can be read: expected lanes of at least 1, got lanes={self.lanes}.")

    @contextmanager
    def opened(self, count: int) -> Iterator[Lanes]:
        """Opens lanes to read `count` cases: at most `lanes` of them, and no more than there are cases."""
        width = min(self.lanes, count)
        if self.stepped is not None:
            yield SteppedLanes(self.stepped.of_width(width))
        elif self.threads <= 1:
            yield SourceLanes(self.views, width)
        else:
            with ThreadPoolExecutor(self.threads, thread_name_prefix="glimpse-read") as pool:
                yield SourceLanes(self.views, width, pool)

    def close(self) -> None:
        """Closes the environments that were made for reading, if there are any."""
        if self.stepped is not None:
            self.stepped.close()


def access_to(looked: ViewableCases, vector: Callable[[int], VecEnv], *, lanes: int = 20, threads: int = 2) -> Access:
    """Returns the access to the cases of an environment.

    Args:
        looked: The cases, and how to look at them.
        vector: Takes a number, and returns a vector of so many of these environments. It is called only where the
            pixels can be reached in no other way than by stepping the environments.
        lanes: How many cases are read at once.
        threads: How many threads read sources.

    Raises:
        EvaluationError: `lanes` is less than 1.
    """
    stepped = SteppedVectors(vector) if looked.stepped else None
    return Access(looked.views, looked.task, lanes, threads, stepped)
