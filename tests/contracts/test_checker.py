"""The contract checker finds what is wrong: one planted violation for each rule."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest

from glimpse.envs import ContractError, FlattenAction, GlimpseEnv, array_cases, build_views, check
from glimpse.tasks import Classification


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
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_planted_violations_are_found(cls: type[GlimpseEnv], finding: str, flat: bool) -> None:
    env = build(cls)
    with pytest.raises(ContractError, match=finding):
        check(FlattenAction(env) if flat else env)


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
