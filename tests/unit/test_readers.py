"""Readers: each kind reads every case once, by one loop, whether pixels come from sources or through steps."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from glimpse.agents.full_scan import FullScan
from glimpse.cohort import Case
from glimpse.contract.stepped_sources import ViewableCases, stepped_cases, viewable_cases
from glimpse.envs import FlattenAction, GlimpseVecEnv, array_cases, make_array
from glimpse.errors import EvaluationError
from glimpse.networks import ConvEncoder
from glimpse.networks.policy import GlimpsePolicy
from glimpse.reading.lanes import Access, access_to
from glimpse.reading.readers import READERS, Reader, check_readers, manner_of, reader_named
from glimpse.reading.records import Reading
from glimpse.sources.array import ArraySource
from glimpse.tasks import Classification

Read = Callable[..., list[Reading]]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    rng = np.random.default_rng(0)
    arrays = rng.integers(1, 256, (5, 1, 64, 64), np.uint8)
    arrays[3, :, :, 20:] = 0  # the fourth has foreground on its left only
    return array_cases(arrays, [0, 1, 0, 1, 1])


def flat(cases: list[Case]) -> FlattenAction:
    return FlattenAction(
        make_array(cases, overview_size=32, glimpse_size=8, glimpse_extents=(16,), max_glimpses=3, glimpse_cost=0.01)
    )


@pytest.fixture(scope="module")
def policy(cases: list[Case]) -> GlimpsePolicy:
    torch.manual_seed(0)
    env = flat(cases)
    encoder = partial(ConvEncoder, strides=(2, 2, 1, 1))  # cells of 4 overview pixels
    return GlimpsePolicy(env.observation_space, env.action_space, layout=env.layout, encoder=encoder)  # type: ignore[arg-type]


@pytest.fixture(params=["sources", "parked steps", "steps", "steps of any vector"])
def looked(request: pytest.FixtureRequest, cases: list[Case]) -> tuple[ViewableCases, Callable[[int], VecEnv]]:
    """The cases by their own sources, or by ones that step the environment, and a maker of vectors."""

    def vector(count: int) -> VecEnv:
        if request.param == "steps of any vector":
            return DummyVecEnv([lambda: flat(cases)] * count)
        return GlimpseVecEnv([flat(cases) for _ in range(count)], park=request.param == "parked steps")

    return (viewable_cases if request.param == "sources" else stepped_cases)(flat(cases)), vector


@pytest.fixture
def read(policy: GlimpsePolicy, looked: Any) -> Read:
    """Reads all cases: `read("random", 3, lanes=2)`."""

    def reading(name: str = "policy", budget: int = 3, lanes: int = 2, seed: int = 0, **options: Any) -> list[Reading]:
        access = access_to(looked[0], looked[1], lanes=lanes)
        readings = reader_named(name, policy, access, budget, seed=seed).read(looked[0].cases, **options)
        access.close()
        return readings

    return reading


def test_every_case_is_read_once_in_order(read: Read, cases: list[Case]) -> None:
    readings = read()  # five cases do not divide by two lanes
    assert [reading.id for reading in readings] == [case.id for case in cases]
    assert [reading.patient for reading in readings] == [case.patient for case in cases]
    assert [reading.target for reading in readings] == [0, 1, 0, 1, 1]
    for reading in readings:
        assert reading.glimpses == 3 and reading.scanpath.shape == (3, 2) and reading.zooms.tolist() == [0, 0, 0]
        assert reading.predictions.shape == (4, 2) and reading.trace is None
        np.testing.assert_array_equal(reading.prediction, reading.predictions[-1])
        assert len(np.unique(reading.scanpath, axis=0)) == 3
    assert readings[0].share_read == pytest.approx(readings[0].pixels_read / 64**2)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("budget", [0, 2, 9])
def test_nothing_depends_on_lanes_or_on_how_pixels_are_reached(
    policy: GlimpsePolicy, read: Read, cases: list[Case], name: str, budget: int
) -> None:
    views = flat(cases).unwrapped.views
    together, access = read(name, budget, 3, seed=4), Access(views, Classification(2), lanes=1, threads=1)
    alone = reader_named(name, policy, access, budget, seed=4).read(cases)
    for one, other in zip(together, alone, strict=True):
        assert one.glimpses == (0 if name == "overview" else budget)  # 9 is more than the environment's own budget
        np.testing.assert_array_equal(one.scanpath, other.scanpath)
        np.testing.assert_allclose(one.predictions, other.predictions, atol=1e-4)
        assert (one.pixels_read, one.share_read) == (other.pixels_read, pytest.approx(other.share_read))


@pytest.mark.parametrize("name", ["policy", "grid", "overview"])
def test_a_case_is_read_alike_alone_and_with_others(policy: GlimpsePolicy, cases: list[Case], name: str) -> None:
    reader = reader_named(name, policy, Access(flat(cases).unwrapped.views, Classification(2)), 3)
    for case, among in zip(cases, reader.read(cases), strict=True):
        (alone,) = reader.read([case])
        np.testing.assert_array_equal(alone.scanpath, among.scanpath)
        np.testing.assert_allclose(alone.predictions, among.predictions, atol=1e-4)


@pytest.mark.parametrize("name", READERS)
def test_a_trace_changes_no_answer(policy: GlimpsePolicy, read: Read, cases: list[Case], name: str) -> None:
    views = flat(cases).unwrapped.views
    for case, bare, traced in zip(cases, read(name, seed=3), read(name, seed=3, trace=True), strict=True):
        np.testing.assert_array_equal(traced.predictions, bare.predictions)
        np.testing.assert_array_equal(traced.scanpath, bare.scanpath)
        trace = traced.traced
        np.testing.assert_array_equal(trace.overview, views.overview(case.source))
        np.testing.assert_array_equal(trace.foreground, views.foreground(case.source))
        seen = [views.glimpse(case.source, place) for place in traced.scanpath]
        np.testing.assert_array_equal(trace.glimpses, np.array(seen, np.uint8).reshape(-1, 1, 8, 8))
        assert trace.cells.shape == (len(traced.predictions), *policy.grid.cells)
        assert trace.extents.shape == traced.scanpath.shape and np.allclose(trace.extents, 16 / 64, rtol=0.35)


def test_predictions_are_those_of_each_prefix(read: Read) -> None:
    for more, less in zip(read(budget=4), read(budget=2), strict=True):
        np.testing.assert_allclose(more.predictions[:3], less.predictions, atol=1e-4)
        assert np.abs(np.diff(more.predictions, axis=0)).max(1).min() > 0  # each glimpse changed the answer


def test_random_looks_into_the_foreground_and_depends_on_the_seed(read: Read) -> None:
    first, again, other = (read("random", 9, 5, seed=seed) for seed in (0, 0, 1))
    assert [one.scanpath.tolist() for one in first] == [one.scanpath.tolist() for one in again]
    assert first[0].scanpath.tolist() != other[0].scanpath.tolist()
    assert first[0].scanpath.tolist() != first[1].scanpath.tolist()
    columns = (first[3].scanpath[:, 1] + 1) / 2 * 64
    assert columns.max() < 24  # foreground ends at 20, and a cell is 8 pixels wide
    assert len(np.unique(first[3].scanpath, axis=0)) == 9


@pytest.mark.parametrize("extents", [(16,), (32, 8)])
def test_a_grid_with_fewer_cells_than_looks_never_looks_at_the_same_place(extents: tuple[int, ...]) -> None:
    """The foreground is two cells of 16 pixels, side by side; of 24 looks each gets half."""
    arrays = np.zeros((2, 1, 64, 64), np.uint8)
    arrays[:, :, 18:30, 18:46] = 200
    cases = array_cases(arrays, [0, 1])
    sizes: dict[str, Any] = {"overview_size": 32, "glimpse_size": 8, "glimpse_extents": extents}
    env = FlattenAction(make_array(cases, split=None, max_glimpses=24, **sizes))
    encoder = partial(ConvEncoder, strides=(2, 2, 2, 1))
    policy = GlimpsePolicy(env.observation_space, env.action_space, layout=env.layout, encoder=encoder)  # type: ignore[arg-type]
    access = Access(env.unwrapped.views, Classification(2))  # type: ignore[attr-defined]
    for reading in reader_named("grid", policy, access, 24).read(cases):
        pixels = (reading.scanpath + 1) * 32
        assert len(np.unique(pixels.round(3), axis=0)) == 24
        assert ((pixels > (16, 16)) & (pixels < (32, 48))).all()
        assert (pixels[:, 1] < 32).sum() == 12
        assert (reading.zooms == len(extents) - 1).all()


def test_the_policy_may_stop_and_the_baselines_may_not(policy: GlimpsePolicy, read: Read) -> None:
    bias = policy.stop_head.bias
    before = bias.detach().clone()
    try:
        torch.nn.init.constant_(bias, 5.0)
        assert [reading.glimpses for reading in read()] == [0] * 5
        assert [reading.glimpses for reading in read("random")] == [3] * 5
        assert [reading.glimpses for reading in read("grid")] == [3] * 5
    finally:
        bias.data.copy_(before)


def test_the_policy_is_left_as_it_was(policy: GlimpsePolicy, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    policy.set_training_mode(True)
    read("grid")
    assert policy.training

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(policy, "decide", broken)
    with pytest.raises(OSError, match="fire"):
        read("grid")
    assert policy.training


def test_nobody_needs_a_target(policy: GlimpsePolicy, cases: list[Case]) -> None:
    views = flat(cases).unwrapped.views
    unknown = [replace(case, target=None) for case in cases]
    scan = FullScan(lambda images: images.float().flatten(1), views, Classification(2), epochs=1)
    readers: list[Reader] = [reader_named(name, policy, Access(views, Classification(2)), 2) for name in READERS]
    for reader in [*readers, scan.fit(cases)]:
        known, read = reader.read(cases), reader.read(unknown)
        assert [one.target for one in read] == [None] * 5
        for one, other in zip(known, read, strict=True):
            np.testing.assert_array_equal(one.prediction, other.prediction)


def test_no_cases_are_no_readings(policy: GlimpsePolicy, cases: list[Case]) -> None:
    assert reader_named("policy", policy, Access(flat(cases).unwrapped.views, Classification(2)), 2).read([]) == []


# ---------------------------------------------------------------------------------------------- what is refused
def test_a_misspelt_reader_is_refused_with_the_nearest_name(policy: GlimpsePolicy, cases: list[Case]) -> None:
    with pytest.raises(
        EvaluationError, match=r"policy, random, grid, overview, wide_first, got 'randon' .did you mean 'random'"
    ):
        reader_named("randon", policy, Access(flat(cases).unwrapped.views, Classification(2)), 2)
    with pytest.raises(EvaluationError, match="did you mean 'full_scan'"):  # without any policy
        check_readers(["grid", "fullscan"], (*READERS, "full_scan"))
    with pytest.raises(EvaluationError, match="at least one reader"):
        check_readers([])
    assert [manner_of(agent) for agent in ("ppo", "grid")] == ["policy", "grid"]


def test_budgets_and_lanes_that_cannot_be_are_refused(policy: GlimpsePolicy, cases: list[Case]) -> None:
    views = flat(cases).unwrapped.views
    with pytest.raises(EvaluationError, match="at least 0, got -1"):
        reader_named("policy", policy, Access(views, Classification(2)), -1)
    with pytest.raises(EvaluationError, match="lanes=0"):
        Access(views, Classification(2), lanes=0)


def test_a_case_of_another_kind_is_named(policy: GlimpsePolicy, cases: list[Case]) -> None:
    (colour,) = array_cases(np.ones((1, 3, 64, 64), np.uint8), [0])
    reader = reader_named("policy", policy, Access(flat(cases).unwrapped.views, Classification(2)), 2)
    with pytest.raises(EvaluationError, match=r"array-0000 has 2 axes and 3 channels, but .* 2 axes and 1 channel\."):
        reader.read([cases[0], colour])


def test_a_file_of_another_kind_is_named_by_its_path(policy: GlimpsePolicy, cases: list[Case], tmp_path: Path) -> None:
    path = tmp_path / "colour.npy"
    np.save(path, np.ones((3, 64, 64), np.uint8))
    reader = reader_named("policy", policy, Access(flat(cases).unwrapped.views, Classification(2)), 2)
    with pytest.raises(
        EvaluationError, match=rf"x: {re.escape(str(path))} has .* Convert it to a picture of 1 channel,"
    ):
        reader.read([Case("x", "x", ArraySource(path), 0)])


def test_vectors_are_made_once_per_width_and_closed(policy: GlimpsePolicy, cases: list[Case]) -> None:
    made: list[GlimpseVecEnv] = []

    def vector(count: int) -> VecEnv:
        made.append(GlimpseVecEnv([flat(cases) for _ in range(count)]))
        return made[-1]

    looked = stepped_cases(flat(cases))
    access = access_to(looked, vector, lanes=2)
    reader = reader_named("grid", policy, access, 1)
    for _ in range(2):
        reader.read(looked.cases)
        reader.read(looked.cases[:1])
    assert [one.num_envs for one in made] == [2, 1]
    access.close()
    reader.read(looked.cases)
    assert [one.num_envs for one in made] == [2, 1, 2]
