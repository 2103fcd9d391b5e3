"""A vector environment for Stable-Baselines3 that steps many environments at once and reads glimpses in threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from glimpse.contract.lane import SteppedLane
from glimpse.envs.base import GlimpseEnv, Observation
from glimpse.envs.wrappers import FlattenAction
from glimpse.pictures.drawing import on_canvas
from glimpse.spaces import Action

_OF_CASE = ("overview", "foreground", "extents")  # the observations that stay in an episode
_TRANSPARENT = (FlattenAction, OrderEnforcing, PassiveEnvChecker)


class GlimpseVecEnv(VecEnv):
    """Steps many environments, called lanes, together; glimpses are read by the caller's thread and a thread pool.

    Actions are flat, `(lane, size)` as `ActionLayout.pack` returns them, whether or not the environments are wrapped in
    `FlattenAction`. As always in Stable-Baselines3, a lane whose episode ends is reset in the same step, and its last
    observation is `info["terminal_observation"]`. Infos are those of `GlimpseEnv`, with scanpath, zooms and hits as
    plain arrays; before the end of an episode they contain `case` and `target` only. The last one also has `episode` as
    `Monitor` would write it (r, l, t). No `Monitor` is needed, and
    `env_is_wrapped(Monitor)` returns True.

    Observations are arrays `(lane, ...)` that do not change after they were returned, so they can be kept. Do not write
    to them, because steps in which no lane is reset return the same arrays of overviews and foregrounds again. Lanes
    with the same cases share sources and caches.

    Other environments than `GlimpseEnv` can be lanes, too, if they have all that `glimpse.contract.protocol` lists.
    They are stepped one after another in the caller's thread, because they may not be thread-safe.

    Args:
        envs: Environments with equal spaces, or functions that make them. A `GlimpseEnv` may be wrapped in
            `FlattenAction`; other wrappers around it are refused, because they would be bypassed. Other environments
            may have any wrappers.
        threads: Number of threads that read; with 1 the caller's thread reads.
        park: Whether a lane whose episode has ended waits until the next `reset()`, in place of being reset at once. It
            is not active then: its observation does not change, reward is 0, done is False and its info is empty.
    """

    def __init__(
        self,
        envs: Sequence[gymnasium.Env[Any, Any] | Callable[[], gymnasium.Env[Any, Any]]],
        threads: int = 2,
        park: bool = False,
    ) -> None:
        if not envs:
            raise ValueError("Expected at least one environment, got none.")
        self.envs = [env if isinstance(env, gymnasium.Env) else env() for env in envs]
        self.lanes: list[GlimpseEnv | SteppedLane] = [_lane(env) for env in self.envs]
        first = self.lanes[0]
        for lane in self.lanes:
            if lane.observation_space != first.observation_space or lane.layout != first.layout:
                raise ValueError("Expected lanes with equal spaces; build them all with the same views and task.")
        self.stepped = any(isinstance(lane, SteppedLane) for lane in self.lanes)
        self.layout, self.park, self.threads = first.layout, park, 1 if self.stepped else max(1, threads)
        super().__init__(len(envs), first.observation_space, self.layout.box_space())
        self.metadata = {**self.metadata, "render_fps": self.envs[0].metadata.get("render_fps", 2)}
        self._enabled = np.ones(self.num_envs, bool)
        self._parked = np.zeros(self.num_envs, bool)
        self._actions = np.zeros((self.num_envs, self.layout.size), np.float32)
        self._obs = self._blank()
        self._pool: ThreadPoolExecutor | None = None
        self._start = time.time()

    @property
    def active(self) -> NDArray[np.bool_]:
        """Which lanes the next step will step, bool `(lane,)`: those enabled by `set_active` and not parked."""
        return self._enabled & ~self._parked

    def set_active(self, mask: ArrayLike) -> None:
        """Disables lanes that are False in the mask `(lane,)`: they are not stepped or reset until the next call."""
        mask = np.asarray(mask, bool)
        if mask.shape != (self.num_envs,):
            raise ValueError(f"Expected a mask of shape ({self.num_envs},), got {mask.shape}.")
        self._enabled = mask.copy()

    def reset(self) -> Observation:
        """Resets all lanes that `set_active` has not disabled, with the seeds and options that were set before."""
        lanes = np.flatnonzero(self._enabled)
        self._parked[lanes] = False
        some_stay = len(lanes) < self.num_envs
        self._obs = {key: value.copy() for key, value in self._obs.items()} if some_stay else self._blank()
        self._share(lanes, lambda lane: self._reset_lane(lane, self._seeds[lane], self._options[lane]))
        self._reset_seeds()
        self._reset_options()
        return dict(self._obs)

    def step_async(self, actions: ArrayLike) -> None:
        """Takes the actions `(lane, size)`; those of lanes that are not active are ignored."""
        actions = np.asarray(actions, np.float32)
        if actions.shape != self._actions.shape:
            raise ValueError(f"Expected actions of shape {self._actions.shape}, got {actions.shape}.")
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Steps the active lanes; returns observations, rewards float32 `(lane,)`, dones bool `(lane,)` and infos."""
        lanes = np.flatnonzero(self.active)
        rewards = np.zeros(self.num_envs, np.float32)
        dones = np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = [{} for _ in self.lanes]
        actions = self.layout.unpack(self._actions[lanes])
        scores = self._scores(lanes, actions.prediction)
        for row, lane in enumerate(lanes.tolist()):
            action = Action(actions.location[row], actions.stop[row], actions.zoom[row], actions.prediction[row])
            rewards[lane] = self.lanes[lane].act(action, scores[row])
            dones[lane] = self.lanes[lane].episode.ended
        before, self._obs = self._obs, self._next_arrays(dones, len(lanes))
        for lane in lanes.tolist():
            infos[lane] = self._end_lane(lane, before) if dones[lane] else self._move_lane(lane)
        self._share(lanes[~dones[lanes]], self._read_lane)
        if self.park:
            self._parked |= dones
        else:
            self._share(np.flatnonzero(dones), self._reset_lane)
        return dict(self._obs), rewards, dones, infos

    # --- One lane ------------------------------------------------------------------------------------------------

    def _move_lane(self, lane: int) -> dict[str, Any]:
        self._write_numbers(lane)
        return self.lanes[lane].info() | {"TimeLimit.truncated": False}

    def _end_lane(self, lane: int, before: Observation) -> dict[str, Any]:
        """Returns the info of a lane that has ended; its last action read nothing, so `before` still holds."""
        ended = self.lanes[lane]
        episode, info = ended.episode, ended.info() | {"TimeLimit.truncated": False}
        seconds = round(time.time() - self._start, 6)
        info["episode"] = {"r": round(episode.total, 6), "l": episode.steps, "t": seconds}
        info["terminal_observation"] = {key: value[lane] for key, value in before.items()}
        if isinstance(ended, SteppedLane):
            info |= {"TimeLimit.truncated": ended.episode.truncated, "terminal_observation": ended.observation}
        return info

    def _read_lane(self, lane: int) -> None:
        self._obs["glimpse"][lane] = self.lanes[lane].read_glimpse()

    def _reset_lane(self, lane: int, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        env = self.lanes[lane]
        env.begin(seed, options)
        for key, value in zip(_OF_CASE, env.case_views(), strict=True):
            self._obs[key][lane] = value
        self._obs["glimpse"][lane] = 0
        self._write_numbers(lane)
        self.reset_infos[lane] = env.info()

    def _write_numbers(self, lane: int) -> None:
        self._obs["location"][lane], self._obs["remaining"][lane] = self.lanes[lane].location_and_remaining()

    # --- All lanes -----------------------------------------------------------------------------------------------

    def _blank(self) -> Observation:
        shown: Any = self.lanes[0].observation_space
        return {key: np.zeros((self.num_envs, *box.shape), box.dtype) for key, box in shown.spaces.items()}

    def _next_arrays(self, dones: NDArray[np.bool_], stepped: int) -> Observation:
        """Returns arrays to write this step into; the large ones are copied only if something of them stays."""
        ended = bool(dones.any())
        made = dict(self._obs)
        for key, value in self._obs.items():
            if key == "glimpse" and stepped == self.num_envs and not ended:
                made[key] = np.empty_like(value)
            elif key not in _OF_CASE or (ended and not self.park):
                made[key] = value.copy()
        return made

    def _scores(self, lanes: NDArray[np.int64], predictions: NDArray[np.float32]) -> NDArray[Any]:
        chosen = [lane for lane in map(self.lanes.__getitem__, lanes.tolist()) if isinstance(lane, GlimpseEnv)]
        if len(chosen) < len(lanes) or not chosen:
            return np.zeros(len(lanes))  # these environments score by themselves
        task = chosen[0].task
        if all(env.task is task or env.task == task for env in chosen):
            return task.score(predictions, task.stack([env.episode.case.target for env in chosen]))
        return np.array([env.scores(one[None])[0] for env, one in zip(chosen, predictions, strict=True)])

    def _share(self, lanes: NDArray[np.int64], work: Callable[[int], None]) -> None:
        """Calls `work` for each lane; this thread and those of the pool each take the next lane until none is left."""
        todo = deque(lanes.tolist())
        others = min(self.threads, len(todo)) - 1
        futures = [self._readers().submit(_each, todo, work) for _ in range(others)]
        try:
            _each(todo, work)
        finally:
            for future in futures:
                if not future.cancel():  # one that has not begun, because the pool reads ahead, is not waited for
                    future.result()

    def read_ahead(self, cases: Iterable[int]) -> None:
        """Begins to read what episodes on these cases show first, and returns at once; the next `reset` is faster then.

        What cannot be read says so when an episode begins on it. Lanes that are stepped one after another read nothing.
        """
        first = self.lanes[0]
        if isinstance(first, GlimpseEnv) and not self.stepped:
            for case in cases:
                self._readers().submit(first.views.foreground, first.cases[case].source)  # with its overview

    def _readers(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="glimpse-read")
        return self._pool

    # --- The rest of SB3's interface -----------------------------------------------------------------------------

    def close(self) -> None:
        """Ends the threads and closes the environments."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        for env in self.envs:
            env.close()

    def render(self, mode: str | None = None) -> NDArray[np.uint8] | None:
        """Returns one picture of all lanes; lanes whose own `render_mode` is "human" show theirs in windows instead."""
        if self.render_mode != "human":
            return super().render(mode)
        for drawn in self._drawing:
            drawn.render()
        return None

    @property
    def _drawing(self) -> list[GlimpseEnv | gymnasium.Env[Any, Any]]:
        """What draws each lane: itself and not its wrappers, which do not know that it has been reset."""
        return [lane if isinstance(lane, GlimpseEnv) else env for lane, env in zip(self.lanes, self.envs, strict=True)]

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Returns the picture of every lane, all of one size: smaller ones get white margins."""
        drawn: list[Any] = [one.render() for one in self._drawing]
        if any(one is None for one in drawn) or len({one.shape for one in drawn}) == 1:
            return drawn
        size = max(one.shape[1] for one in drawn), max(one.shape[0] for one in drawn)
        return [np.array(on_canvas(Image.fromarray(one), size)) for one in drawn]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Returns an attribute of each environment or of its wrappers."""
        if attr_name == "layout":
            return [self.layout for _ in self._chosen(indices)]
        return [env.get_wrapper_attr(attr_name) for env in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of each environment, on the wrapper or environment that has it."""
        for env in self._chosen(indices):
            env.set_wrapper_attr(attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of each environment."""
        return [env.get_wrapper_attr(method_name)(*method_args, **method_kwargs) for env in self._chosen(indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Returns which environments have a wrapper; always True for `Monitor`, whose statistics are in the infos."""
        return [wrapper_class is Monitor or is_wrapped(env, wrapper_class) for env in self._chosen(indices)]

    def _chosen(self, indices: VecEnvIndices) -> Iterable[gymnasium.Env[Any, Any]]:
        return [self.envs[index] for index in self._get_indices(indices)]


def _each(todo: deque[int], work: Callable[[int], None]) -> None:
    while todo:
        try:
            lane = todo.popleft()
        except IndexError:  # another thread took the last one
            return
        work(lane)


def _lane(env: gymnasium.Env[Any, Any]) -> GlimpseEnv | SteppedLane:
    """Returns the `GlimpseEnv` inside its wrappers, or any other environment as a `SteppedLane`."""
    base, inner = env.unwrapped, env
    if not isinstance(base, GlimpseEnv) or type(base).step is not GlimpseEnv.step:
        return SteppedLane(env)
    while isinstance(inner, gymnasium.Wrapper):
        if not isinstance(inner, _TRANSPARENT):
            raise TypeError(
                f"GlimpseVecEnv steps lanes directly, so {type(inner).__name__} would be passed over; "
                "wrap the vector environment instead, or use DummyVecEnv."
            )
        inner = inner.env
    return base
