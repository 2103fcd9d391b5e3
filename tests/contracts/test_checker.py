"""The contract checker finds what is wrong: one planted violation for each rule."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest

from glimpse.envs import (
    ContractError,
    FlattenAction,
    GlimpseEnv,
    array_cases,
    build_views,
    check,
    make_array,
    make_relations,
)
from glimpse.tasks import Classification, Regression


def build(cls: type[GlimpseEnv], **options: Any) -> GlimpseEnv:
    rng = np.random.default_rng(0)
    cases = array_cases([rng.integers(0, 256, (1, 60, 80), dtype=np.uint8) for _ in range(3)], [0, 1, 1])
    settings: dict[str, Any] = {"max_glimpses": 3, "glimpse_cost": 0.1} | options
    return cls(cases, Classification(2), build_views(2, 40, 16, 16), **settings)


class LeaksIntoPixels(GlimpseEnv):
    def case_views(self) -> Any:
        overview, foreground = super().case_views()
        overview = overview.copy()
        overview[0, 0, 0] = self.episode.case.target
        return overview, foreground


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
        overview, foreground = super().case_views()
        foreground[0, -1, -1] = 255 * self.episode.case.target
        return overview, foreground


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
        overview, foreground = super().case_views()
        return overview | np.uint8(self.episode.case.target == 9), foreground


class LeaksInOneCase(GlimpseEnv):
    def case_views(self) -> Any:
        overview, foreground = super().case_views()
        last = self.episode.case.slide_id == self.cases[-1].slide_id
        return overview ^ np.uint8(last and self.episode.case.target), foreground


class ChangesTheOverview(GlimpseEnv):
    def case_views(self) -> Any:
        overview, foreground = super().case_views()
        return overview ^ np.uint8(self.episode.glimpses > 1), foreground


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


def test_a_good_environment_passes() -> None:
    assert check(build(GlimpseEnv)) == ()
    assert check(FlattenAction(build(GlimpseEnv)), seed=5) == ()
    assert check(build(GlimpseEnv, max_glimpses=0)) == ()


@pytest.mark.parametrize(
    ("cls", "finding"),
    [
        (LeaksIntoPixels, "target hidden: overview at step 0 changes with the target"),
        (LeaksIntoRemaining, "target hidden: remaining at step 0 changes"),
        (WrongDtype, "observations: location at step 0: expected float32 .* got float64"),
        (WrongSpace, "spaces: expected overview as a Box of uint8"),
        (NoGain, "rewards: step 1: expected score gained less cost"),
        (CostsAtTheEndToo, "rewards: step 3"),
        (FreeLooks, "rewards: step 0"),
        (SwapsAxes, r"locations: .* the order of axes is swapped, array order is \(y, x\)"),
        (LooksElsewhere, "locations: .* it shows another place"),
        (ReportsAnotherLocation, "observations: location at step 1"),
        (IgnoresStop, "stop: expected stop at step 0 to end the episode"),
        (IgnoresBudget, "budget: expected 4 steps for 3 glimpses, got 5"),
        (NoisyGlimpse, "determinism: equal seeds and actions gave different glimpse"),
        (OwnOrder, "determinism: equal seeds gave the cases"),
        (IgnoresOptions, "reset options: expected"),
        (ForgetsInfo, "infos: 'target' is missing at step 0"),
        (GlimpseAtReset, "observations: expected glimpse to be zeros at reset"),
        (Raises, "stop: raised RuntimeError: out of order"),
        (LeaksIntoLocation, "target hidden: location at step 0 changes"),
        (LeaksIntoForeground, "target hidden: foreground at step 0 changes"),
        (LeaksIntoGlimpse, "target hidden: glimpse at step 3 changes"),
        (LeaksByAnotherKey, "target hidden: hint at step 0 changes"),
        (LeaksByAnotherKey, "observations: expected the keys .* got hint beside them"),
        (LeaksByLength, "target hidden: the episode's length changes with the target"),
        (LeaksInOneCase, "target hidden: overview at step 0 changes"),
        (ChangesTheOverview, "observations: overview at step 2 is not that of the reset"),
        (FloatGlimpse, "observations: glimpse at step 0: expected uint8 .* got float32"),
        (WrongShape, r"observations: remaining at step 0: expected float32 \(1,\), got float32 \(\)"),
        (ForgetsAKey, "observations: (raised KeyError|foreground at step 0)"),
        (CarriesOver, "rewards: "),
        (DoublesRewards, "rewards: "),
        (DoublesScores, "rewards: the answer of step 0, given first, is worth"),
        (ForgetsTheLastGain, "rewards: step 3"),
        (StopsLate, "stop: expected stop at step 0 to end the episode"),
        (IgnoresTheFirstStop, "stop: expected stop at step 0 to end the episode"),
        (ReadsWhenItStops, "stop: glimpse changes with the action that ends the episode"),
        (StopsShort, "budget: expected 4 steps for 3 glimpses, got 3"),
        (OffByOneWhereGiven, "reset options: expected 6 steps with the option max_glimpses=5, got 7"),
        (RemainingOffByOne, "observations: remaining at step 0: expected 1.0000"),
        (RemainingOfTheOption, "reset options: with max_glimpses=1, remaining at step 0: expected 0.3333"),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_planted_violations_are_found(cls: type[GlimpseEnv], finding: str, flat: bool) -> None:
    env = build(cls)
    with pytest.raises(ContractError, match=finding):
        check(FlattenAction(env) if flat else env)


@pytest.mark.parametrize("target", range(10))
def test_a_trace_of_one_class_of_ten_is_found_whatever_the_case_has(target: int) -> None:
    rng = np.random.default_rng(0)
    cases = array_cases([rng.integers(0, 255, (1, 60, 80), dtype=np.uint8) & 254 for _ in range(2)], [target] * 2)
    views = build_views(2, 40, 16, 16)
    assert check(GlimpseEnv(cases, Classification(10), views, max_glimpses=1)) == ()
    with pytest.raises(ContractError, match="target hidden: overview at step 0 changes with the target"):
        check(LeaksOneClass(cases, Classification(10), views, max_glimpses=1))


def test_numbers_as_targets_are_hidden_too() -> None:
    class Leaks(GlimpseEnv):
        def case_views(self) -> Any:
            overview, foreground = super().case_views()
            return overview ^ np.uint8(self.episode.case.target > 50), foreground

    rng = np.random.default_rng(0)
    cases = array_cases([rng.integers(0, 256, (1, 60, 80), dtype=np.uint8) for _ in range(3)], [40.0, 45.0, 60.0])
    settings: Any = (cases, Regression(mean=50, spread=10), build_views(2, 40, 16, 16))
    assert check(GlimpseEnv(*settings, max_glimpses=2)) == ()
    with pytest.raises(ContractError, match="target hidden: overview"):
        check(Leaks(*settings, max_glimpses=2))


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 1, 0), (1, 2, 0)])
def test_any_other_order_of_three_axes_is_found(order: tuple[int, ...]) -> None:
    class Turned(GlimpseEnv):
        def read_glimpse(self) -> Any:
            self._glimpse = self.views.glimpse(self.episode.case.source, self.episode.locations[-1][list(order)])
            return self._glimpse

    rng = np.random.default_rng(0)
    cases = array_cases([rng.integers(0, 256, (1, 20, 40, 40), dtype=np.uint8) for _ in range(2)], [0, 1])
    with pytest.raises(ContractError, match=r"locations: .* the order of axes is swapped"):
        check(Turned(cases, Classification(2), build_views(3, 16, 8, 8), max_glimpses=2))


# ---------------------------------------------------------------------------------------------- few strokes on black
def sparse(cls: type[GlimpseEnv], seed: int) -> GlimpseEnv:
    """Black images of 400 x 400 pixels with one small square each; most glimpses of 24 x 24 are black."""
    rng, images = np.random.default_rng(seed), []
    for _ in range(4):
        image = np.zeros((1, 400, 400), np.uint8)
        y, x = rng.integers(0, 395, 2)
        image[0, y : y + 5, x : x + 5] = 255
        images.append(image)
    return cls(array_cases(images, [0, 1, 0, 1]), Classification(2), build_views(2, 40, 24, 24), max_glimpses=4)


@pytest.mark.parametrize("seed", range(10))
def test_sparse_images_are_checked(seed: int) -> None:
    assert check(sparse(GlimpseEnv, seed), seed=seed) == ()
    with pytest.raises(ContractError, match="the order of axes is swapped"):
        check(sparse(SwapsAxes, seed), seed=seed)


@pytest.mark.parametrize("seed", range(10))
def test_relations_are_checked_whatever_the_seed(seed: int) -> None:
    env = make_relations(n={"train": 6, "val": 2, "test": 2}, seed=seed, glimpse_size=36, strokes=12, max_glimpses=4)
    assert check(env, seed=seed) == ()


def test_one_image_of_several_that_tells_is_enough() -> None:
    plain = [np.zeros((1, 60, 60), np.uint8)] * 4
    told = np.random.default_rng(0).integers(0, 256, (1, 60, 60), dtype=np.uint8)
    assert check(make_array(([*plain, told], [0, 1, 0, 1, 0]), max_glimpses=2)) == ()


def test_cases_that_are_no_dataclasses_will_do() -> None:
    class Plain:
        def __init__(self, case: Any) -> None:
            self.__dict__ |= {field.name: getattr(case, field.name) for field in dataclasses.fields(case)}

    cases: Any = [Plain(case) for case in build(GlimpseEnv).cases]
    settings: Any = (cases, Classification(2), build_views(2, 40, 16, 16))
    assert check(GlimpseEnv(*settings, max_glimpses=2)) == ()
    with pytest.raises(ContractError, match="target hidden"):
        check(LeaksIntoPixels(*settings, max_glimpses=2))


def test_every_broken_rule_is_named_at_once() -> None:
    class TwoThings(SwapsAxes, IgnoresBudget):
        pass

    with pytest.raises(ContractError, match=r"(?s)locations: .*budget: "):
        check(build(TwoThings))


def test_targets_are_put_back() -> None:
    env = build(GlimpseEnv)
    cases = env.cases
    check(env)
    assert env.cases is cases


def test_what_cannot_be_checked_is_said() -> None:
    plain = array_cases([np.zeros((1, 60, 60), np.uint8)], [0])
    env = GlimpseEnv(plain, Classification(2), build_views(2, 40, 16, 16), max_glimpses=2)
    assert any("locations: not checked" in note for note in check(env))


def test_a_foreign_environment_is_told_what_is_expected() -> None:
    with pytest.raises(ContractError, match="expected actions as a Dict"):
        check(gymnasium.make("CartPole-v1"))
