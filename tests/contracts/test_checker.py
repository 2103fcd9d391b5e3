"""The contract checker finds what is wrong: one planted violation for each rule."""

import dataclasses
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
from tests.contracts.violations import (
    CarriesOver,
    ChangesTheOverview,
    CostsAtTheEndToo,
    DoublesRewards,
    DoublesScores,
    FineToWide,
    FloatGlimpse,
    ForgetsAKey,
    ForgetsInfo,
    ForgetsTheLastGain,
    FreeLooks,
    GlimpseAtReset,
    IgnoresBudget,
    IgnoresOptions,
    IgnoresStop,
    IgnoresTheFirstStop,
    IgnoresZoom,
    LeaksByAnotherKey,
    LeaksByLength,
    LeaksInOneCase,
    LeaksIntoForeground,
    LeaksIntoGlimpse,
    LeaksIntoLocation,
    LeaksIntoPixels,
    LeaksIntoRemaining,
    LeaksOneClass,
    LooksElsewhere,
    NoGain,
    NoisyGlimpse,
    OffByOneWhereGiven,
    OwnOrder,
    Raises,
    ReadsWhenItStops,
    RemainingOffByOne,
    RemainingOfTheOption,
    ReportsAnotherLocation,
    ReportsAnotherZoom,
    StopsLate,
    StopsShort,
    SwapsAxes,
    WideAndFine,
    WideOnOneAxis,
    WrongDtype,
    WrongShape,
    WrongSpace,
    build,
)


def test_a_good_environment_passes() -> None:
    assert check(build(GlimpseEnv)) == ()
    assert check(FlattenAction(build(GlimpseEnv)), seed=5) == ()
    assert check(build(GlimpseEnv, max_glimpses=0)) == ()
    assert check(build(WideAndFine)) == ()


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
        (IgnoresZoom, r"infos: expected the zooms \[0, 1, 0\] that were asked for, .* got \[0, 0, 0\]"),
        (ReportsAnotherZoom, r"infos: expected the zooms \[0, 1, 0\] that were asked for, .* got \[1, 0, 1\]"),
        (FineToWide, r"observations: extents: the fields of view have to go from wide to fine, .* 0\.133333 x 0\.1, "),
        (WideOnOneAxis, "observations: extents: the fields of view have to go from wide to fine"),
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
            overview, foreground, extents = super().case_views()
            return overview ^ np.uint8(self.episode.case.target > 50), foreground, extents

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
