"""Environments that each break one rule of the contract, for the checker to find."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from glimpse.envs import (
    GlimpseEnv,
    array_cases,
    build_views,
)
from glimpse.tasks import Classification


def build(cls: type[GlimpseEnv], **options: Any) -> GlimpseEnv:
    rng = np.random.default_rng(0)
    cases = array_cases([rng.integers(0, 256, (1, 60, 80), dtype=np.uint8) for _ in range(3)], [0, 1, 1])
    settings: dict[str, Any] = {"max_glimpses": 3, "glimpse_cost": 0.1} | options
    return cls(cases, Classification(2), build_views(2, 40, 16, cls.__dict__.get("extents", 16)), **settings)


class LeaksIntoPixels(GlimpseEnv):
    def case_views(self) -> Any:
        overview, foreground, extents = super().case_views()
        overview = overview.copy()
        overview[0, 0, 0] = self.episode.case.target
        return overview, foreground, extents


class LeaksIntoRemaining(GlimpseEnv):
    def location_and_remaining(self) -> Any:
        location, remaining = super().location_and_remaining()
        return location, remaining - np.float32(1e-7 * self.episode.case.target)


class LeaksIntoLocation(GlimpseEnv):
    def location_and_remaining(self) -> Any:
        location, remaining = super().location_and_remaining()
        return np.nextafter(location, np.float32(self.episode.case.target)), remaining


class LeaksIntoForeground(GlimpseEnv):
    def case_views(self) -> Any:
        overview, foreground, extents = super().case_views()
        foreground[0, -1, -1] = 255 * self.episode.case.target
        return overview, foreground, extents


class LeaksIntoGlimpse(GlimpseEnv):
    """Of the last glimpse only."""

    def read_glimpse(self) -> Any:
        self._glimpse = super().read_glimpse().copy()
        if self.episode.glimpses == self.episode.budget:
            self._glimpse[0, 0, 0] = self.episode.case.target
        return self._glimpse


class LeaksByAnotherKey(GlimpseEnv):
    def _observation(self, *views: Any) -> Any:
        return super()._observation(*views) | {"hint": np.array([self.episode.case.target])}


class LeaksByLength(GlimpseEnv):
    def begin(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> None:
        super().begin(seed, options)
        self.episode.budget -= self.episode.case.target


class LeaksOneClass(GlimpseEnv):
    """Of ten classes, only the last leaves a trace."""

    def case_views(self) -> Any:
        overview, foreground, extents = super().case_views()
        return overview | np.uint8(self.episode.case.target == 9), foreground, extents


class LeaksInOneCase(GlimpseEnv):
    def case_views(self) -> Any:
        overview, foreground, extents = super().case_views()
        last = self.episode.case.id == self.cases[-1].id
        return overview ^ np.uint8(last and self.episode.case.target), foreground, extents


class ChangesTheOverview(GlimpseEnv):
    def case_views(self) -> Any:
        overview, foreground, extents = super().case_views()
        return overview ^ np.uint8(self.episode.glimpses > 1), foreground, extents


class FloatGlimpse(GlimpseEnv):
    def _observation(self, *views: Any) -> Any:
        observation = super()._observation(*views)
        return observation | {"glimpse": observation["glimpse"].astype(np.float32)}


class WrongShape(GlimpseEnv):
    def _observation(self, *views: Any) -> Any:
        observation = super()._observation(*views)
        return observation | {"remaining": observation["remaining"][0]}


class ForgetsAKey(GlimpseEnv):
    def _observation(self, *views: Any) -> Any:
        return {key: value for key, value in super()._observation(*views).items() if key != "foreground"}


class CarriesOver(GlimpseEnv):
    """Begins an episode with the score of the one before."""

    def begin(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> None:
        before = 0.0 if self._episode is None else self._episode.score
        super().begin(seed, options)
        self.episode.score = before


class DoublesRewards(GlimpseEnv):
    def act(self, action: Any, score: float) -> float:
        return 2 * super().act(action, score)


class DoublesScores(GlimpseEnv):
    """Consistent in itself, but not what the task says."""

    def act(self, action: Any, score: float) -> float:
        return super().act(action, 2 * score)


class ForgetsTheLastGain(GlimpseEnv):
    def act(self, action: Any, score: float) -> float:
        return super().act(action, self.episode.score if self.episode.glimpses == self.episode.budget else score)


class StopsLate(GlimpseEnv):
    asked = False

    def act(self, action: Any, score: float) -> float:
        asked, self.asked = self.asked, bool(action.stop)
        return super().act(action._replace(stop=np.asarray(asked)), score)


class IgnoresTheFirstStop(GlimpseEnv):
    def act(self, action: Any, score: float) -> float:
        return super().act(action._replace(stop=action.stop & (self.episode.glimpses > 0)), score)


class ReadsWhenItStops(GlimpseEnv):
    def act(self, action: Any, score: float) -> float:
        reward = super().act(action, score)
        if self.episode.ended:
            self._glimpse = self.views.glimpse(self.episode.case.source, action.location, int(action.zoom))
        return reward


class StopsShort(GlimpseEnv):
    def begin(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> None:
        super().begin(seed, options)
        self.episode.budget -= 1


class OffByOneWhereGiven(GlimpseEnv):
    """Its own budget is right, that of the option is not."""

    def begin(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> None:
        super().begin(seed, options)
        self.episode.budget += self.episode.budget > self.max_glimpses


class RemainingOffByOne(GlimpseEnv):
    def location_and_remaining(self) -> Any:
        location, remaining = super().location_and_remaining()
        return location, np.maximum(remaining - np.float32(1 / self.max_glimpses), 0)


class RemainingOfTheOption(GlimpseEnv):
    """The share of this episode's budget, not of the environment's own."""

    def location_and_remaining(self) -> Any:
        location, _ = super().location_and_remaining()
        left = self.episode.budget - self.episode.glimpses
        return location, np.array([left / max(1, self.episode.budget)], np.float32)


class WrongDtype(GlimpseEnv):
    def location_and_remaining(self) -> Any:
        location, remaining = super().location_and_remaining()
        return location.astype(np.float64), remaining


class WrongSpace(GlimpseEnv):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.observation_space["overview"] = gymnasium.spaces.Box(0.0, 1.0, (1, 40, 40), np.float32)


class NoGain(GlimpseEnv):
    """Rewards the score itself at every step."""

    def act(self, action: Any, score: float) -> float:
        super().act(action, score)
        return score - (0.0 if self.episode.ended else self.glimpse_cost)


class CostsAtTheEndToo(GlimpseEnv):
    def act(self, action: Any, score: float) -> float:
        return super().act(action, score) - (self.glimpse_cost if self.episode.ended else 0.0)


class FreeLooks(GlimpseEnv):
    def act(self, action: Any, score: float) -> float:
        return super().act(action, score) + (0.0 if self.episode.ended else self.glimpse_cost)


class SwapsAxes(GlimpseEnv):
    def read_glimpse(self) -> Any:
        self._glimpse = self.views.glimpse(self.episode.case.source, self.episode.locations[-1][::-1])
        return self._glimpse


class LooksElsewhere(GlimpseEnv):
    def read_glimpse(self) -> Any:
        self._glimpse = self.views.glimpse(self.episode.case.source, self.episode.locations[-1] * 0.8)
        return self._glimpse


class ReportsAnotherLocation(GlimpseEnv):
    def location_and_remaining(self) -> Any:
        location, remaining = super().location_and_remaining()
        return location[::-1].copy(), remaining


class IgnoresStop(GlimpseEnv):
    def act(self, action: Any, score: float) -> float:
        return super().act(action._replace(stop=np.asarray(False)), score)


class IgnoresBudget(GlimpseEnv):
    def begin(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> None:
        super().begin(seed, options)
        self.episode.budget += 1


class NoisyGlimpse(GlimpseEnv):
    def read_glimpse(self) -> Any:
        noise = np.random.default_rng().integers(0, 2, (1, 16, 16), dtype=np.uint8)
        self._glimpse = super().read_glimpse() // 2 * 2 + noise
        return self._glimpse


class OwnOrder(GlimpseEnv):
    """Draws cases from a generator that no seed reaches."""

    calls = 0

    def begin(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> None:
        type(self).calls += 1
        super().begin(seed, dict(options or {}) | ({} if seed is not None else {"case": self.calls % 3}))


class IgnoresOptions(GlimpseEnv):
    def begin(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> None:
        super().begin(seed, None)


class ForgetsInfo(GlimpseEnv):
    def info(self) -> dict[str, Any]:
        return {key: value for key, value in super().info().items() if key not in ("target", "pixels_read")}


class GlimpseAtReset(GlimpseEnv):
    def _blank(self) -> Any:
        return np.ones((1, 16, 16), np.uint8)


class Raises(GlimpseEnv):
    def act(self, action: Any, score: float) -> float:
        raise RuntimeError("out of order")


class WideAndFine(GlimpseEnv):
    """Breaks nothing."""

    extents = (48, 16)


class IgnoresZoom(GlimpseEnv):
    """Reads every glimpse with its first field of view."""

    extents = (48, 16)

    def act(self, action: Any, score: float) -> float:
        return super().act(action._replace(zoom=np.asarray(0)), score)


class ReportsAnotherZoom(GlimpseEnv):
    """Reads what was asked for, but says otherwise."""

    extents = (48, 16)

    def info(self) -> dict[str, Any]:
        info = super().info()
        return info | {"zooms": 1 - info["zooms"]} if "zooms" in info else info


class FineToWide(GlimpseEnv):
    extents = (8, 48)


class WideOnOneAxis(GlimpseEnv):
    """Its second field of view is finer along y, and wider along x."""

    extents = ((48, 16), (16, 24))
