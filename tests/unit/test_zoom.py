"""Zoom: with several fields of view, cells of wide glimpses are where finer ones may lie."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glimpse.agents import PPO
from glimpse.envs import FlattenAction, GlimpseVecEnv, array_cases, make_array
from glimpse.errors import SettingsError
from glimpse.learning.zoom_warm_up import ZoomWarmUp
from glimpse.networks import ConvEncoder
from glimpse.networks.aggregator import CausalTransformer
from glimpse.networks.locator import PointerLocator
from glimpse.networks.overlap import NEAR, covered_shares
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.where import Where, at_level
from glimpse.reading.lanes import Access
from glimpse.reading.readers import reader_named
from glimpse.runs.checkpoints import Checkpoint
from glimpse.settings.composing import composed
from glimpse.train import train

SIDE, CASES = 96, 8
ENCODER = partial(ConvEncoder, strides=(2, 1, 1, 1))
LEVELS: dict[int, dict[str, Any]] = {
    2: {"overview_size": 24, "glimpse_size": 8, "glimpse_extents": [24, 8]},
    3: {"overview_size": 16, "glimpse_size": 8, "glimpse_extents": [48, 24, 8]},
    4: {"overview_size": 16, "glimpse_size": 8, "glimpse_extents": [64, 32, 16, 8]},
}


def environment(levels: int = 2, max_glimpses: int = 6, ndim: int = 2) -> FlattenAction:
    """Noise of which a corner is plain."""
    arrays = np.random.default_rng(0).integers(0, 255, (CASES, 1, *[SIDE] * ndim), np.uint8)
    arrays[:, :, : SIDE // 3, : SIDE // 3] = 0
    cases = array_cases(arrays, np.arange(CASES) % 2)
    return FlattenAction(make_array(cases, split=None, max_glimpses=max_glimpses, **LEVELS[levels]))


def policy_for(env: FlattenAction, **parts: Any) -> GlimpsePolicy:
    torch.manual_seed(0)
    inner: Any = env.unwrapped
    return GlimpsePolicy(env.observation_space, env.action_space, layout=inner.layout, encoder=ENCODER, **parts)


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


def test_the_entropy_is_that_of_the_field_of_view_and_of_the_place_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
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
    expected = torch.distributions.Categorical(logits=logits).entropy() + at_level(where, zoom).entropy()
    decided = agent.episodes.decided
    torch.testing.assert_close(entropy[decided], expected[decided])
    assert torch.distributions.Categorical(logits=logits).entropy()[decided].max() > 0.1
    entropy.sum().backward()
    assert any(float(one.grad.abs().max()) > 0 for one in policy.zoom_head.parameters() if one.grad is not None)


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


# ---------------------------------------------------------------------------------------------- the warm-up
def spotted() -> FlattenAction:
    """Dim blobs on noise; every third one is full of dots, which are bright on images of class 1 and dark on others.

    Overviews show blobs, wide glimpses show which of them have dots, and fine ones what these are.
    """
    rng = np.random.default_rng(1)
    images, targets = [], np.arange(24) % 2
    for target in targets:
        image = rng.normal(60, 4, (192, 192))
        for number, (y, x) in enumerate((y, x) for y in range(0, 192, 64) for x in range(0, 192, 64)):
            image[y + 8 : y + 56, x + 8 : x + 56] += 40
            if number % 3 == rng.integers(3):
                for _ in range(12):
                    top, left = rng.integers(10, 50, 2)
                    image[y + top : y + top + 4, x + left : x + left + 4] = 220 if target else 10
        images.append(np.clip(image, 0, 255).astype(np.uint8)[None])
    cases = array_cases(images, targets)
    sizes: dict[str, Any] = {"overview_size": 24, "glimpse_size": 16, "glimpse_extents": [64, 16]}
    return FlattenAction(make_array(cases, split=None, max_glimpses=6, **sizes))


def warmed(
    env: FlattenAction, steps: int, aggregator: Any = CausalTransformer, **options: Any
) -> tuple[GlimpsePolicy, ZoomWarmUp]:
    policy, inner = policy_for(env, overview_dropout=1.0, aggregator=aggregator), env.unwrapped
    given = {"branches": [6, 5], "batch": 8, "steps": steps, "max_sequence": 10, "threads": 1, "look_by_state": False}
    trainer = ZoomWarmUp(policy, inner.cases, inner.views, inner.task, **given | options)
    trainer.encode()
    return policy, trainer


MOVED = {"quarter_turns": True, "flips": True, "zoom": 0, "tilt": 0, "noise": 0, "strength": 0}
"""Random views that only move pixels."""


@pytest.mark.parametrize("augment", [None, MOVED])
def test_what_is_read_in_a_warm_up_lies_where_it_is_said_to_lie(augment: dict[str, Any] | None) -> None:
    """Only glimpses of the finest field of view are moved in random views: nothing is looked at inside them."""
    env = spotted()
    policy, trainer = warmed(env, 1, augment=augment)
    inner: Any = env.unwrapped
    source = inner.cases[3].source
    wide, fine = trainer._tree(3)
    sides = 2 * torch.from_numpy(inner.views.relative_extents(source))
    for number, (cell, place) in enumerate(zip(wide.cells, wide.location, strict=True)):
        np.testing.assert_allclose(place, policy.cells[cell].numpy())
        np.testing.assert_array_equal(wide.images[number], inner.views.glimpse(source, place, 0))
        for child in range(5 * number, 5 * number + 5):
            expected = place + policy.view_cells[fine.cells[child]].numpy() * sides[0].numpy() / 2
            np.testing.assert_allclose(fine.location[child], np.clip(expected, -1, 1), atol=1e-6)
            read = inner.views.glimpse(source, fine.location[child], 1)
            assert np.array_equal(np.sort(fine.images[child], axis=None), np.sort(read, axis=None))
            assert augment is not None or np.array_equal(fine.images[child], read)
    level = trainer.levels[1]
    maps = policy.view_features(torch.from_numpy(wide.images)).flatten(2)
    own = torch.stack([maps[child // 5, :, fine.cells[child]] for child in range(30)])
    torch.testing.assert_close(level.at_cells[3], own, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(level.features[3], policy.look(torch.from_numpy(fine.images)), atol=1e-5, rtol=1e-4)


def test_noise_opens_no_plain_cells() -> None:
    images = np.zeros((8, 1, 192, 192), np.uint8)
    images[:, :, 70:120, 70:120] = 200
    cases = array_cases(list(images), np.arange(8) % 2)
    sizes: dict[str, Any] = {"overview_size": 24, "glimpse_size": 16, "glimpse_extents": [64, 16]}
    env = FlattenAction(make_array(cases, split=None, max_glimpses=6, **sizes))
    _, plain = warmed(env, 1)
    _, noisy = warmed(env, 1, augment={"noise": 30.0, "flips": False})
    for one, other in zip(plain.levels, noisy.levels, strict=True):
        assert torch.equal(one.cells, other.cells) and torch.equal(one.open, other.open)
    agent = PPO(
        "GlimpsePolicy", GlimpseVecEnv([env_of(cases, sizes) for _ in range(4)], park=True), 1e-3, cases_per_rollout=2,
        rollouts_per_case=2, seed=0, device="cpu", policy_kwargs={"encoder": ENCODER, "stop_bias": -20.0},
        augment={"quarter_turns": True, "noise": 30.0},
    )  # fmt: skip
    agent.learn(2 * agent.steps_per_update)
    episodes, reach = agent.episodes, 16
    assert episodes is not None and bool((episodes.zoom == 1).any())
    pixels = (episodes.location[(episodes.zoom == 1) & episodes.read] + 1) * 96
    assert bool(((pixels > 70 - reach) & (pixels < 120 + reach)).all())  # nowhere on plain ground


def env_of(cases: Any, sizes: dict[str, Any]) -> FlattenAction:
    return FlattenAction(make_array(cases, split=None, max_glimpses=6, **sizes))


def test_a_wide_glimpse_is_worth_what_the_choice_inside_it_brings() -> None:
    _, trainer = warmed(spotted(), 3)
    cases, single = torch.tensor([2, 7]), torch.rand(2, 30)
    (fine, scores, worth), (wide, _, outer) = trainer._worths([single], cases)
    assert (fine, wide) == (1, 0)
    gain = single.mean(1, keepdim=True) - single
    torch.testing.assert_close(worth, gain)
    for case in range(2):
        for view in range(6):
            inside = slice(5 * view, 5 * view + 5)
            expected = (scores[case, inside].softmax(0) * gain[case, inside]).sum()
            torch.testing.assert_close(outer[case, view], expected)


def test_with_four_levels_each_is_worth_what_the_choice_inside_it_brings() -> None:
    policy, trainer = warmed(environment(4), 2, branches=[3, 2, 4, 2])
    for _ in range(2):
        assert torch.isfinite(trainer.step())
    assert policy.locator.worth_slope.shape == (4,) and torch.isfinite(policy.locator.worth_offset).all()
    cases, single = torch.tensor([2, 7]), torch.rand(2, 48)
    found = {zoom: (scores.softmax(-1), worth) for zoom, scores, worth in trainer._worths([single], cases)}
    assert [found[zoom][1].shape[1] for zoom in range(4)] == [3, 6, 24, 48]
    for zoom, count in ((0, 2), (1, 4), (2, 2)):
        chances, worth = (one.unflatten(1, (-1, count)) for one in found[zoom + 1])
        torch.testing.assert_close(found[zoom][1], (chances * worth).sum(-1) / chances.sum(-1))


def test_the_locator_learns_to_find_what_only_fine_glimpses_tell() -> None:
    env = spotted()
    policy, trainer = warmed(env, 150)
    losses = [trainer.step() for _ in range(150)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    everyone = torch.arange(24)
    single = trainer._losses(policy.glimpse_head(trainer._tokens_of(1, everyone)), everyone).detach()
    for _, scores, worth in trainer._worths([single], everyone):
        chosen = (scores.softmax(1) * worth).sum(1).mean()
        assert chosen > worth.mean() + 0.3 * worth.std()  # far better than at random
    locator: Any = policy.locator
    assert (locator.worth_slope > 0).all()  # a higher score is worth more, at each level
    for zoom, penalty in enumerate(locator.seen_penalty):  # what was seen completely is no better than the mean place
        scores = trainer._logits(zoom, everyone)[trainer.levels[zoom].open]
        assert penalty.item() == pytest.approx(max(10.0, float(scores.quantile(0.99) - scores.mean())), rel=0.05)


@pytest.mark.parametrize("expected", [False, True])
def test_the_locator_learns_from_what_finest_glimpses_bring_in_contexts(
    monkeypatch: pytest.MonkeyPatch, expected: bool
) -> None:
    """Where contexts say 5 of all glimpses, this is what the locator is told, or what is learned to be expected."""
    _, trainer = warmed(spotted(), 60, look_contexts=3, look_expected=expected)
    asked: list[list[int]] = []

    def in_contexts(sequence: Any, tokens: Any, cases: Any, lengths: list[int]) -> Any:
        asked.append(lengths)
        return torch.full(tokens.shape[:2], 5.0)

    told: list[Any] = []
    looking = trainer._looking
    monkeypatch.setattr(trainer, "_in_contexts", in_contexts)
    monkeypatch.setattr(trainer, "_looking", lambda known, cases: told.append(known[-1]) or looking(known, cases))
    for _ in range(60):
        trainer.step()
    assert all(len(lengths) == 3 and 1 <= min(lengths) <= max(lengths) <= 11 for lengths in asked[:60])
    assert len({tuple(lengths) for lengths in asked[:60]}) > 20
    if expected:
        assert told[-1].mean() > 2 > told[0].mean()
    else:
        assert all((one == 5).all() for one in told)


def test_finest_glimpses_may_be_worth_what_they_bring_in_contexts() -> None:
    policy, trainer = warmed(spotted(), 4, look_contexts=3)
    policy.overview_dropout = 0.3
    losses = [trainer.step() for _ in range(4)]
    assert np.isfinite(losses).all()
    policy.set_training_mode(True)
    worth = trainer.worth()
    assert trainer.brought is not None and trainer.brought[0] == 4, "once for the levels and for the joint stage"
    trainer.brought = None
    again = trainer.worth()
    assert torch.equal(worth.losses, again.losses) and torch.equal(worth.inner[0].losses, again.inner[0].losses)
    tokens = [trainer._tokens_of(zoom, torch.arange(24)) for zoom in (0, 1)]
    alone = trainer._losses(policy.glimpse_head(tokens[1]), torch.arange(24)).detach()
    told = -(alone - alone.mean(1, keepdim=True)).unflatten(1, (6, 5))
    assert not torch.allclose(-worth.inner[0].losses, told, atol=1e-3), "of single glimpses, it would be this"


@pytest.mark.parametrize("given", [[], ["env.make.glimpse_extents=[256,64]", "warm_up.look_coef=0"]])
def test_contexts_are_refused_where_they_would_teach_nothing(
    tiny_slides: Path, tmp_path: Path, given: list[str]
) -> None:
    fixed = ["env=wsi", f"env.cohort.path={tiny_slides}", "experiment=smoke", f"run={tmp_path / 'run'}"]
    with pytest.raises(SettingsError, match=r"look_contexts .* set it to 0"):
        train(composed(*fixed, *given, "warm_up.look_contexts=2"))
    assert not (tmp_path / "run").exists()


def test_for_comparison_each_level_may_be_worth_what_its_own_glimpses_answer() -> None:
    _, trainer = warmed(spotted(), 3, look_inside=False, look_expected=True)
    cases, wide, fine = torch.tensor([2, 7]), torch.rand(2, 6), torch.rand(2, 30)
    found = {zoom: worth for zoom, _, worth in trainer._worths([wide, fine], cases)}
    torch.testing.assert_close(found[0], wide.mean(1, keepdim=True) - wide)
    torch.testing.assert_close(found[1], fine.mean(1, keepdim=True) - fine)
    losses = [trainer.step() for _ in range(3)]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("branches", [[4], [4, 2, 2], [0, 2]])
def test_branches_that_do_not_fit_are_refused(branches: list[int]) -> None:
    with pytest.raises(ValueError, match="branches"):
        warmed(spotted(), 1, branches=branches)


def test_many_cases_get_fewer_wide_glimpses() -> None:
    assert warmed(spotted(), 1, max_total_glimpses=24 * 20)[1].branches == (3, 5)  # 3 of 6 glimpses each
    assert warmed(spotted(), 1, max_total_glimpses=24 * 8)[1].branches == (2, 3)  # then fewer in each
    assert warmed(spotted(), 1, max_total_glimpses=1)[1].branches == (2, 1)
    assert warmed(spotted(), 1, branches=[1, 3])[1].branches == (1, 3)  # as few as were asked for


def test_images_that_are_plain_teach_nothing_and_break_nothing() -> None:
    cases = array_cases([np.zeros((1, 96, 96), np.uint8) for _ in range(6)], np.arange(6) % 2)
    policy, trainer = warmed(FlattenAction(make_array(cases, split=None, max_glimpses=4, **LEVELS[2])), 2)
    for _ in range(2):
        trainer.step()
    locator: Any = policy.locator
    assert all(torch.isfinite(parameter).all() for parameter in policy.parameters())
    assert locator.worth_slope[1] == locator.worth_offset[1] == 0  # no fine glimpse could be chosen


@pytest.mark.parametrize("judges", [None, [1, 2]])
def test_a_warm_up_goes_on_where_it_stopped(judges: list[int] | None) -> None:
    aggregator = partial(CausalTransformer, dropout=0.2)  # whose draws are the global generator's
    whole = warmed(spotted(), 6, aggregator=aggregator, look_judges=judges)[1]
    losses = [whole.step().item() for _ in range(6)]
    stopped = warmed(spotted(), 6, aggregator=aggregator, look_judges=judges)[1]  # with the same seed again
    for _ in range(3):
        stopped.step()
    checkpoint = Checkpoint()
    stopped.save_state(checkpoint)
    policy = policy_for(spotted(), overview_dropout=1.0, aggregator=aggregator)
    inner: Any = spotted().unwrapped
    given = {"branches": [6, 5], "batch": 8, "steps": 6, "max_sequence": 10, "threads": 1, "look_by_state": False}
    again = ZoomWarmUp(policy, inner.cases, inner.views, inner.task, look_judges=judges, **given)
    again.restore_state(checkpoint)
    again.encode()
    assert [again.step().item() for _ in range(3)] == pytest.approx(losses[3:], rel=1e-5)
    for name, value in whole.policy.state_dict().items():
        torch.testing.assert_close(policy.state_dict()[name], value, rtol=1e-4, atol=1e-5)


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


def test_branches_that_do_not_fit_are_refused_before_anything_is_done(tiny_mnist: Path, tmp_path: Path) -> None:
    config = composed(
        "env=gigapixel_mnist", f"env.root={tiny_mnist}", "env.cohort.n={train: 4, val: 2, test: 2}",
        "env.cohort.size=4000", "env.cohort.islands=3", "warm_up.branches=[4]", f"run={tmp_path / 'run'}",
    )  # fmt: skip
    with pytest.raises(SettingsError, match=r"one of warm_up\.branches for each of the 2 fields of view"):
        train(config)
    assert not (tmp_path / "run").exists()


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
