"""The environment: an agent reads glimpses of a case, one after another, and predicts its target."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from numbers import Integral
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from glimpse.cohort import Case
from glimpse.cohort.proposals import fitting
from glimpse.envs.episode import Episode, GlimpseCost, Ragged, checked_cost
from glimpse.envs.rendering import Window, draw
from glimpse.spaces import Action, ActionLayout, axes_and_channels, observation_space
from glimpse.tasks import Task
from glimpse.views import LARGER, MisfitError, Views, identity_of

Observation = dict[str, NDArray[Any]]


class GlimpseEnv(gymnasium.Env[Observation, dict[str, Any]]):
    """An environment with one case per episode, for images of any number of dimensions.

    The agent sees an overview and reads glimpses at locations that it chooses. Each action contains a prediction from
    what has been seen so far, and says where to look next. The reward is the gain in the prediction's score, less the
    cost of the glimpse (see `Episode`). The spaces are `observation_space` and `ActionLayout.dict_space` of
    `glimpse.spaces`. Locations are clipped to [-1, 1].

    Every info contains `case` (the case's id) and `target`. The infos of steps also contain (not only the last one,
    because a wrapper such as `TimeLimit` may end the episode)

    - scanpath: float32 `(n, d)` in [-1, 1], in the order of the array's axes, and zooms: int64 `(n,)`, the index
      of each glimpse's field of view in `glimpse_extents` (both as `Ragged`);
    - score: the score of the last prediction;
    - pixels_read: full-resolution pixels of all glimpses, clipped to the image; overlaps are counted each time, and a
      glimpse that is wider than the finest counts like a finest one;
    - share_read: `pixels_read` divided by the number of pixels in the foreground;
    - hits: bool `(mark,)`, which marks a glimpse of the finest field of view has hit (as `Ragged`); only if the case
      has marks.

    `reset` takes the options `case` (an index into `cases`) and `max_glimpses` (this episode's budget; any number).
    Without `case` all cases are used in turn, in a new random order each time, or in their own order.

    Args:
        cases: The cases; all of them must have the same number of axes and channels.
        task: Says what is to be predicted, and scores predictions.
        views: Sizes of overview and glimpses.
        max_glimpses: Budget of an episode.
        glimpse_cost: What reading one glimpse costs, in units of the score; or a list, with the cost for each field of
            view, in their order.
        shuffle: Whether cases come in a random order.
        render_mode: None, "rgb_array", or "human", which shows each step in a window.

    Raises:
        ValueError: There are no cases, an argument is out of range, or the first case does not fit the views (a glimpse
            larger than the image, for example).
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 2}

    def __init__(
        self,
        cases: Sequence[Case],
        task: Task,
        views: Views,
        *,
        max_glimpses: int,
        glimpse_cost: GlimpseCost = 0.0,
        shuffle: bool = True,
        render_mode: str | None = None,
    ) -> None:
        _check_arguments(cases, max_glimpses, render_mode)
        _check_fit(cases[0], views)
        self.cases, self.task, self.views = cases, task, views
        self.max_glimpses = int(max_glimpses)
        self.glimpse_cost = checked_cost(glimpse_cost, len(views.glimpse_extents))
        self.shuffle, self.render_mode = shuffle, render_mode
        source = cases[0].source
        self.ndim, self.channels = len(source.shape), source.channels
        self.layout = ActionLayout(self.ndim, task.outputs, len(views.glimpse_extents))
        self.observation_space = observation_space(self.channels, views)  # type: ignore[assignment]
        self.action_space = self.layout.dict_space()
        self._queue: list[int] = []
        self._episode: Episode | None = None
        self._identity: Hashable | None = None  # of its pixels
        self._glimpse = self._blank()
        self._window: Window | None = None

    @property
    def episode(self) -> Episode:
        """The current episode, or the one that ended last."""
        if self._episode is None:
            raise ResetNeeded("No case has been chosen yet: call reset() first.")
        return self._episode

    # --- Gymnasium's interface -----------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode; the class describes the options."""
        self.begin(seed, options)
        self._show()
        return self._observation(), self.info()

    def step(self, action: Mapping[str, Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Scores the action's prediction, then reads the glimpse that it asks for, unless the episode ends."""
        parts = self.layout.from_dict(action)
        reward = self.act(parts, self.scores(parts.prediction[None])[0])
        if not self.episode.ended:
            self.read_glimpse()
        self._show()
        info = self.info()
        if not self.episode.ended:  # a time limit may end it here, without the environment's knowledge
            info = self._course() | info
        info |= {key: Ragged(info[key]) for key in ("scanpath", "zooms", "hits") if key in info}
        return self._observation(), reward, self.episode.ended, False, info

    def render(self) -> NDArray[np.uint8] | None:
        """Returns a picture `(height, width, 3)`: the overview with the scanpath, and the current glimpse beside it.

        Its size is the same for all images of as many axes, so that the pictures of several cases can make one video.
        With `render_mode="human"` it is shown in a window instead, which `reset` and `step` do by themselves.
        """
        if self.render_mode == "human":
            self._show()
        return self._picture() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Closes the window, if there is one."""
        if self._window is not None:
            self._window.close()

    # --- The parts of a step, for `GlimpseVecEnv` ----------------------------------------------------------------

    def begin(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> None:
        """Chooses a case and starts an episode on it, without reading any pixels."""
        super().reset(seed=seed)
        if seed is not None:
            self._queue = []
        options = dict(options or {})
        case, budget = options.pop("case", None), options.pop("max_glimpses", self.max_glimpses)
        if options:
            raise ValueError(f"Unknown reset options {sorted(options)}; known are 'case' and 'max_glimpses'.")
        if not _whole(budget) or budget < 0:
            raise ValueError(f"Expected the reset option max_glimpses to be a whole number from 0 on, got {budget!r}.")
        chosen = self.cases[self._next_case() if case is None else self._checked_case(case)]
        _check_kind(chosen, self.ndim, self.channels)
        self._episode, self._identity = Episode(chosen, int(budget), self.glimpse_cost), None
        self._glimpse = self._blank()

    def scores(self, predictions: NDArray[np.float32]) -> NDArray[Any]:
        """Scores raw predictions `(batch, output)` of the current case; returns `(batch,)`."""
        targets = self.task.stack([self.episode.case.target] * len(predictions))
        return self.task.score(predictions, targets)

    def act(self, action: Action, score: float) -> float:
        """Applies the rules of the episode to one action and returns the reward, without reading any pixels."""
        if self.episode.ended:
            raise ResetNeeded(f"The episode on {self.episode.case.id} has ended: call reset() before step().")
        return self.episode.act(float(score), action.location, bool(action.stop), int(action.zoom))

    def case_views(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
        """Returns what stays in an episode: overview, foreground and extents, as `glimpse.spaces` describes them."""
        source = self.episode.case.source
        foreground = self.views.foreground(source) * np.uint8(255)
        return self.views.overview(source), foreground, self.views.relative_extents(source).ravel()

    def read_glimpse(self) -> NDArray[np.uint8]:
        """Reads and returns the glimpse that the last action asked for, `(channel, *glimpse_size)`."""
        episode = self.episode
        source = episode.case.source
        if self._identity is None:
            self._identity = identity_of(source)
        self._glimpse = self.views.kept_glimpse(source, episode.locations[-1], episode.zooms[-1], self._identity)
        return self._glimpse

    def location_and_remaining(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the last glimpse's location `(d,)` and the share of the budget that is left `(1,)`.

        The share is relative to the environment's own budget. An episode with a smaller budget therefore starts below
        1; one with a larger budget stays at 1 until no more than the environment's budget is left.
        """
        episode = self.episode
        location = episode.locations[-1].copy() if episode.locations else np.zeros(self.ndim, np.float32)
        share = min(1.0, (episode.budget - episode.glimpses) / max(1, self.max_glimpses))
        return location, np.array([share], np.float32)

    def info(self) -> dict[str, Any]:
        """Returns the info, as the class describes it, but with plain arrays in place of `Ragged`.

        Before the end of the episode it contains only `case` and `target`; `step` adds the rest.
        """
        episode = self.episode
        info = {"case": episode.case.id, "target": episode.case.target}
        return info | self._course() if episode.ended else info

    # --- Inner parts ---------------------------------------------------------------------------------------------

    def _show(self) -> None:
        """Shows the picture in a window, if this is wanted."""
        if self.render_mode == "human":
            if self._window is None:
                self._window = Window("glimpse", float(self.metadata.get("render_fps", 2)))
            self._window.show(self._picture())

    def _picture(self) -> NDArray[np.uint8]:
        episode, (overview, *_) = self.episode, self.case_views()
        source, path = episode.case.source, episode.scanpath(self.ndim)
        extents = [self.views.extent(source, zoom) for zoom in episode.zooms]
        boxes = np.array(extents).reshape(-1, self.ndim) / np.array(source.shape)
        sides = self.views.sides(source, episode.zooms[-1] if episode.zooms else 0)
        return draw(overview, self._glimpse, path, boxes, source.frame.sides, sides, source.frame.unit)

    def _course(self) -> dict[str, Any]:
        """Returns what infos say about the course of the episode."""
        episode, views = self.episode, self.views
        source, path = episode.case.source, episode.scanpath(self.ndim)
        pixels = views.pixels_read(source, path, episode.zooms)
        course = {"scanpath": path, "zooms": np.array(episode.zooms, np.int64), "score": episode.score}
        course |= {"pixels_read": pixels, "share_read": pixels / views.foreground_pixels(source)}
        if episode.case.marks is not None:
            course["hits"] = views.hits(source, path, episode.zooms, episode.case.marks)
        return course

    def _observation(self) -> Observation:
        overview, foreground, extents = self.case_views()
        location, remaining = self.location_and_remaining()
        return {
            "overview": overview.copy(),  # the cached array is shared by all environments
            "foreground": foreground,
            "glimpse": self._glimpse.copy(),
            "location": location,
            "remaining": remaining,
            "extents": extents,
        }

    def _blank(self) -> NDArray[np.uint8]:
        return np.zeros((self.channels, *self.views.glimpse_size), np.uint8)

    def _next_case(self) -> int:
        if not self._queue:
            count = len(self.cases)
            order = self.np_random.permutation(count) if self.shuffle else np.arange(count)
            self._queue = order[::-1].tolist()
        return self._queue.pop()

    def _checked_case(self, index: int) -> int:
        if not _whole(index) or not 0 <= index < len(self.cases):
            raise ValueError(f"Expected the reset option case from 0 to {len(self.cases) - 1}, got {index!r}.")
        return int(index)


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_arguments(cases: Sequence[Case], max_glimpses: int, render_mode: str | None) -> None:
    if not len(cases):
        raise ValueError("Expected at least one case, got none; is the split empty?")
    if not _whole(max_glimpses) or max_glimpses < 0:
        raise ValueError(f"Expected max_glimpses to be a whole number of at least 0, got {max_glimpses!r}.")
    if render_mode not in (None, "human", "rgb_array"):
        raise ValueError(f"Expected render_mode None, 'human' or 'rgb_array', got {render_mode!r}.")


def _check_kind(case: Case, ndim: int, channels: int) -> None:
    source = case.source
    if (source.ndim, source.channels) != (ndim, channels):
        named = case.id if source.path is None else f"{case.id}: {source.path}"
        raise ValueError(
            f"{named} has {axes_and_channels(source.ndim, source.channels)}, but the first case has "
            f"{axes_and_channels(ndim, channels)}. Keep images of different kinds in separate cohorts."
        )


def _check_fit(case: Case, views: Views) -> None:
    problems = views.problems(case.source, None)
    if problems:
        what = f"{case.id} cannot be looked at with these sizes: {' '.join(problems)}"
        remedy = ""
        if any(LARGER in problem for problem in problems):
            fits = fitting(views, case.source.frame)
            remedy = f"Fields of view that fit: glimpse_extents={fits}. Or leave the case out."
        raise MisfitError(what, views, case.source.channels, remedy)
