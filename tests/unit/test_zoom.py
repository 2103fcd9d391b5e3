"""Zoom: with several fields of view, cells of wide glimpses are where finer ones may lie."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from glimpse.agents import PPO
from glimpse.envs import GlimpseVecEnv
from glimpse.errors import SettingsError
from glimpse.networks.locator import PointerLocator
from glimpse.networks.overlap import NEAR, covered_shares
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.where import Where, at_level
from glimpse.reading.lanes import Access
from glimpse.reading.readers import reader_named
from glimpse.settings.composing import composed
from glimpse.train import train
from tests.zooming import ENCODER, environment, policy_for


def trained(levels: int, rollouts: int = 1, **options: Any) -> PPO:
    """An agent after some updates, which keeps the last episodes."""
    lanes = GlimpseVecEnv([environment(levels) for _ in range(8)], park=True)
    kwargs = {"encoder": ENCODER, "stop_bias": -3.0}
    given = {"cases_per_rollout": 4, "rollouts_per_case": 2, "seed": 0, "device": "cpu", "policy_kwargs": kwargs}
    agent = PPO("GlimpsePolicy", lanes, 1e-3, **given | options)
    return agent.learn(rollouts * agent.steps_per_update)


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_every_glimpse_lies_in_a_cell_of_a_wider_one_that_was_read_before(levels: int) -> None:
    agent = trained(levels, rollouts=3)
    episodes, policy = agent.episodes, agent.policy
    assert episodes is not None
    checked = 0
    for row in range(len(episodes.length)):
        read = [
            (episodes.location[row, step], int(episodes.zoom[row, step]), int(episodes.cell[row, step]))
            for step in range(int(episodes.length[row]))
        ]
        sides = 2 * episodes.extents[row // 2]
        views: list[int] = []
        for step, (location, zoom, cell) in enumerate(read):
            if zoom == 0:
                assert torch.equal(policy.cells[cell], location)
            else:
                view, inner = divmod(cell - len(policy.cells), len(policy.view_cells))
                at, wider, _ = read[views[view]]
                assert wider == zoom - 1 and views[view] < step
                expected = at + policy.view_cells[inner] * sides[wider] / 2
                torch.testing.assert_close(location, expected)
                checked += 1
            if zoom < levels - 1:
                views.append(step)
        assert episodes.view_step[row, : len(views)].tolist() == views
    assert checked > 5


def test_plain_cells_and_those_beyond_the_image_are_closed() -> None:
    env = environment()
    policy = policy_for(env)
    inner: Any = env.unwrapped
    source, views = inner.cases[0].source, inner.views
    sides = 2 * torch.from_numpy(views.relative_extents(source)).float()[None].expand(3, -1, -1)
    at = torch.tensor([[-0.75, -0.75], [-0.34, -0.34], [0.9, 0.9]])  # in the plain corner, on its edge, at the border
    glimpses = torch.from_numpy(np.stack([views.glimpse(source, place.numpy()) for place in at]))
    opened = policy.open_view_cells(glimpses, policy.view_places(at, torch.zeros(3, dtype=torch.long), sides))
    assert not opened[0].any()
    assert opened[1].any() and not opened[1].all()
    places = policy.view_places(at, torch.zeros(3, dtype=torch.long), sides)[2]
    assert torch.equal(opened[2], (places.abs() <= 1).all(-1)) and not opened[2].all()
    assert policy_for(env, plain=0).open_view_cells(glimpses, torch.zeros(3, len(policy.view_cells), 2)).all()
    with pytest.raises(SettingsError, match="plain of at least 0"):
        policy_for(env, plain=-1)


def test_cells_of_one_pixel_are_plain_where_their_neighbours_are_too() -> None:
    env = environment()
    policy = policy_for(env, view_cell=1)
    assert max(policy.view_grid.side) == 1
    glimpses = torch.full((1, *policy.glimpse_shape), 100, dtype=torch.uint8)
    glimpses[..., 0, 0] = 200
    opened = policy.open_view_cells(glimpses, torch.zeros(1, len(policy.view_grid.locations()), 2))
    expected = torch.zeros(policy.view_grid.cells, dtype=torch.bool)
    expected[:2, :2] = True
    assert torch.equal(opened.reshape(policy.view_grid.cells), expected)


def test_the_entropy_is_that_of_the_place_with_the_field_of_view_that_was_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That of the field of view is left out: a bonus for it keeps a choice open that what places are worth decides."""
    agent = trained(3, stop_from=1.0)
    policy, whole = agent.policy, GlimpsePolicy.levels
    asked: list[tuple[torch.Tensor, Where]] = []

    def levels(self: GlimpsePolicy, states: torch.Tensor, where: Where, *rest: Any) -> torch.Tensor:
        asked.append((whole(self, states, where, *rest), where))
        return asked[-1][0]

    monkeypatch.setattr(GlimpsePolicy, "levels", levels)
    entropy = policy.evaluate_episodes(agent.episodes, conduct=agent.conduct).entropy
    logits, where = asked[-1]
    zoom = torch.nn.functional.pad(agent.episodes.zoom, (0, 1))
    decided = agent.episodes.decided
    torch.testing.assert_close(entropy[decided], at_level(where, zoom).entropy()[decided])
    assert torch.distributions.Categorical(logits=logits).entropy()[decided].max() > 0.1  # there is one to leave out
    policy.zero_grad()
    entropy.sum().backward()
    assert all(one.grad is None or not one.grad.any() for one in policy.zoom_head.parameters())


@pytest.mark.parametrize("wide_worth", [0.0, 5.0])
def test_a_trace_says_where_the_next_glimpse_lies_whatever_its_field_of_view(wide_worth: float) -> None:
    env = environment(levels=3)
    policy = policy_for(env)
    inner: Any = env.unwrapped
    locator: Any = policy.locator
    with torch.no_grad():
        locator.worth_offset[1:] = wide_worth  # the second time it looks closely as soon as it can
    reader = reader_named("policy", policy, Access(inner.views, inner.task, threads=1), 6)
    reading = reader.read(inner.cases[:1], trace=True)[0]
    trace = reading.traced
    np.testing.assert_allclose(trace.cells.sum((1, 2)), 1, atol=1e-5)
    assert (reading.zooms > 0).any() == (wide_worth > 0)
    inside = (reading.scanpath + 1) / 2 * policy.grid.cells
    inside = np.minimum(inside.astype(int), np.array(policy.grid.cells) - 1)
    assert np.unravel_index(trace.cells[0].argmax(), policy.grid.cells) == tuple(inside[0])
    for step, zoom in enumerate(reading.zooms):
        if zoom:  # what is chosen inside a wide glimpse counts for the cell of the overview in which it lies
            assert trace.cells[step][tuple(inside[step])] >= trace.chances[step] / 3


@pytest.mark.parametrize("name", ["policy", "random", "wide_first", "grid"])
def test_a_trace_changes_neither_looks_nor_answers(name: str) -> None:
    env = environment(levels=3)
    policy = policy_for(env)
    inner: Any = env.unwrapped
    bare, traced = (
        reader_named(name, policy, Access(inner.views, inner.task, threads=1), 6).read(inner.cases[:2], trace=trace)
        for trace in (False, True)
    )
    for one, other in zip(bare, traced, strict=True):
        np.testing.assert_array_equal(one.zooms, other.zooms)
        np.testing.assert_array_equal(one.scanpath, other.scanpath)
        np.testing.assert_array_equal(one.predictions, other.predictions)


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_wide_glimpses_cover_no_finer_candidate(levels: int) -> None:
    """The coverage that grows step by step is that of all glimpses that are not wider, by their overlaps."""
    env = environment(levels)
    policy, inner = policy_for(env, locator=partial(PointerLocator, near_penalty=1.0)), env.unwrapped
    overview, foreground, extents = (
        torch.from_numpy(np.asarray(one)[None])
        for one in (lambda o: (o["overview"], o["foreground"], o["extents"]))(env.reset(seed=0)[0])
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        scene = policy.scene(overview, foreground, extents)
        state, path = policy.begin(scene), []
        for _ in range(7):
            decision = policy.decide(scene, state, torch.zeros(1, dtype=torch.bool), generator=generator)
            place, zoom = decision.location[0].numpy(), int(decision.zoom[0])
            glimpse = torch.from_numpy(inner.views.glimpse(inner.cases[0].source, place, zoom))[None]
            state = policy.observe(state, glimpse, decision.location, decision.cell, decision.zoom)
            path.append((decision.location, zoom))
    frontier = state.frontier
    assert frontier is not None and {zoom for _, zoom in path} >= {0, 1}
    for name, enlarged in (("covered", 1.0), ("near", NEAR)):
        expected = torch.zeros_like(frontier.covered)
        for place, zoom in path:
            own = enlarged * state.sides[:, zoom]
            views = state.sides[torch.zeros_like(frontier.level), frontier.level]
            share = covered_shares(frontier.location, views, place[:, None], own[:, None])[:, 0]
            expected += share * (zoom >= frontier.level)
        torch.testing.assert_close(getattr(frontier, name), expected)


@pytest.mark.parametrize(("levels", "sizes"), [(2, {"glimpse_extents": [32, 8]}), (3, {})])
def test_a_place_that_several_wide_glimpses_show_is_looked_at_once(levels: int, sizes: dict[str, Any]) -> None:
    """Without a penalty on what was seen nothing else keeps the policy from it; a replay knows the same places."""
    lanes = GlimpseVecEnv([environment(levels, max_glimpses=60, **sizes) for _ in range(4)], park=True)
    locator = partial(PointerLocator, seen_penalty=0.0, learn_seen_penalty=False)
    kwargs = {"encoder": ENCODER, "stop_bias": -50.0, "locator": locator}
    given = {"cases_per_rollout": 2, "rollouts_per_case": 2, "seed": 0, "device": "cpu", "policy_kwargs": kwargs}
    agent = PPO("GlimpsePolicy", lanes, 0.0, **given)
    episodes, policy = agent.learn(agent.steps_per_update).episodes, agent.policy
    assert episodes is not None and episodes.read.all()
    offered = 0
    for row in range(len(episodes.length)):
        looks = [
            (*place, zoom)
            for place, zoom in zip(_rounded(episodes.location[row]), episodes.zoom[row].tolist(), strict=True)
        ]
        finer = [look for look in looks if look[-1] > 0]
        assert len(set(finer)) == len(finer) > 20
        wide = [look for look in looks if look[-1] < levels - 1]
        shown = [
            (*place, look[-1] + 1)
            for look in wide
            for place in _rounded(torch.tensor(look[:2]) + policy.view_cells * episodes.extents[row // 2, look[-1]])
        ]
        offered += sum(shown.count(look) > 1 for look in finer)
    assert offered > 20, "or there was nothing to repeat"
    with torch.no_grad():
        replayed = policy.evaluate_episodes(episodes).log_prob
    torch.testing.assert_close(replayed[episodes.decided], episodes.log_prob[episodes.decided], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["policy", "random", "wide_first"])
@pytest.mark.parametrize("levels", [2, 3])
def test_no_glimpse_is_read_again_while_others_are_left_at_any_level(name: str, levels: int) -> None:
    env = environment(levels, overview_size=8)
    policy, inner = policy_for(env), cast(Any, env.unwrapped)
    access, cells = Access(inner.views, inner.task, threads=1), len(policy.cells)

    def looks(budget: int) -> list[tuple[float, ...]]:
        reading = reader_named(name, policy, access, budget).read(inner.cases[:1])[0]
        pairs = zip(np.round(reading.scanpath, 4).tolist(), reading.zooms.tolist(), strict=True)
        return [(*place, zoom) for place, zoom in pairs]

    few = looks(5 * cells)
    assert len(set(few)) == 5 * cells and sum(zoom == 0 for *_, zoom in few) <= cells
    if levels == 2:  # 16 wide ones, and 16 fine ones in each: then it begins again
        many = looks(300)
        used_up = next(step for step in range(300) if many[step] in many[:step])
        assert len(set(many)) == used_up > 10 * cells and {zoom for *_, zoom in many[used_up:]} == {0}


def _rounded(places: torch.Tensor) -> list[tuple[float, ...]]:
    return [tuple(round(value, 3) for value in place) for place in places.tolist()]


def test_episodes_that_begin_anew_among_others_are_as_alone() -> None:
    """In the interface of Stable-Baselines3, rows restart at different times; frontiers then differ in length."""
    env = environment()
    policy, inner = policy_for(env), env.unwrapped
    policy.set_training_mode(False)

    def played(starts: list[int], steps: int) -> list[list[np.ndarray]]:
        """The actions of rows that begin at some steps, with what the image shows at the places that they chose."""
        first = {
            key: np.stack([value] * len(starts)) for key, value in env.reset(seed=0, options={"case": 0})[0].items()
        }
        state, observation, actions = None, first, []
        for step in range(steps):
            anew = np.array([step == begin or step == 0 for begin in starts])
            action, state = policy.predict(observation, state, anew, deterministic=True)
            actions.append(list(action))
            shown = [policy.layout.unpack(row) for row in action]
            observation = dict(first)
            observation["location"] = np.stack([one.location for one in shown])
            observation["glimpse"] = np.stack(
                [inner.views.glimpse(inner.cases[0].source, one.location, int(one.zoom)) for one in shown]
            )
        return actions

    alone = played([0], 5)
    both = played([0, 3], 8)
    for step in range(5):
        np.testing.assert_allclose(both[step][0], alone[step][0], atol=1e-5)
        np.testing.assert_allclose(both[3 + step][1], alone[step][0], atol=1e-5)
    assert {int(policy.layout.unpack(row[0]).zoom) for row in alone} == {0, 1}


def test_a_budget_with_which_the_finest_field_of_view_is_never_reached_is_warned_of(
    tiny_mnist: Path, tmp_path: Path
) -> None:
    config = composed(
        "env=gigapixel_mnist", f"env.root={tiny_mnist}", "env.cohort.n={train: 4, val: 2, test: 2}", "max_glimpses=1",
        "env.cohort.size=4000", "env.cohort.islands=3", "warm_up.branches=[4]", f"run={tmp_path / 'run'}",
    )  # fmt: skip
    with (
        pytest.warns(UserWarning, match="max_glimpses=1: with 2 fields of view, .* Give at least 2, better more"),
        pytest.raises(SettingsError, match="branches"),  # so that nothing is learned
    ):
        train(config)
