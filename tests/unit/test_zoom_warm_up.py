"""The warm-up with several fields of view: what glimpses are worth is learned from the finest ones up."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glimpse.agents import PPO
from glimpse.envs import FlattenAction, GlimpseVecEnv, array_cases, make_array
from glimpse.errors import SettingsError
from glimpse.learning.warm_up_options import WarmUpGlimpses
from glimpse.learning.zoom_warm_up import ZoomWarmUp
from glimpse.networks.aggregator import CausalTransformer
from glimpse.runs.checkpoints import Checkpoint
from glimpse.settings.composing import composed
from glimpse.train import train
from tests.zooming import ENCODER, LEVELS, MOVED, environment, policy_for, spotted, warmed


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


def test_the_locator_chooses_among_sets_of_so_many() -> None:
    """Of 30 fine glimpses 4 random sets of 7, two being left over; of 6 wide ones a single set."""
    _, trainer = warmed(spotted(), 3, look_among=7)
    cases, single = torch.tensor([2, 7]), torch.rand(2, 30)
    trainer.generator.manual_seed(3)
    loss = trainer._looking([single], cases)
    sets = torch.randperm(30, generator=torch.Generator().manual_seed(3))[:28].split(7)
    (_, scores, worth), (_, wide_scores, outer) = trainer._worths([single], cases)

    def brings(logits: torch.Tensor, worth: torch.Tensor) -> torch.Tensor:
        logs = logits.log_softmax(-1)
        return (logs.exp() * (worth - worth.mean(1, keepdim=True) - 0.01 * logs)).sum(1).mean()

    fine = torch.stack([brings(scores[:, one], worth[:, one]) for one in sets]).mean()
    torch.testing.assert_close(-loss, fine + brings(wide_scores, outer))
    assert trainer.worth().among == 6
    assert warmed(spotted(), 3, look_among=4)[1].worth().among == 4
    every = warmed(spotted(), 3)[1]
    before = every.generator.get_state()
    every._looking([single], cases)
    assert torch.equal(every.generator.get_state(), before)  # without sets, there is no chance in it


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


def test_more_fields_of_view_do_not_make_the_warm_up_read_many_times_as_much() -> None:
    for levels in range(2, 8):
        branches = WarmUpGlimpses().branches_of(levels)
        total = sum(math.prod(branches[: level + 1]) for level in range(levels))
        assert len(branches) == levels and 100 < total <= 800


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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"look_judges": [1, 2], "answer_judges": [2]},
        {"look_judges": [1, 2], "look_worth": "surprise", "look_among": 4},
    ],
)
def test_a_warm_up_goes_on_where_it_stopped(options: dict[str, Any]) -> None:
    aggregator = partial(CausalTransformer, dropout=0.2)  # whose draws are the global generator's
    whole = warmed(spotted(), 6, aggregator=aggregator, **options)[1]
    losses = [whole.step().item() for _ in range(6)]
    stopped = warmed(spotted(), 6, aggregator=aggregator, **options)[1]  # with the same seed again
    for _ in range(3):
        stopped.step()
    checkpoint = Checkpoint()
    stopped.save_state(checkpoint)
    policy = policy_for(spotted(), overview_dropout=1.0, aggregator=aggregator)
    inner: Any = spotted().unwrapped
    given = {"branches": [6, 5], "batch": 8, "steps": 6, "max_sequence": 10, "threads": 1, "look_by_state": False}
    again = ZoomWarmUp(policy, inner.cases, inner.views, inner.task, **options, **given)
    again.restore_state(checkpoint)
    again.encode()
    assert [again.step().item() for _ in range(3)] == pytest.approx(losses[3:], rel=1e-5)
    for name, value in whole.policy.state_dict().items():
        torch.testing.assert_close(policy.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_branches_that_do_not_fit_are_refused_before_anything_is_done(tiny_mnist: Path, tmp_path: Path) -> None:
    config = composed(
        "env=gigapixel_mnist", f"env.root={tiny_mnist}", "env.cohort.n={train: 4, val: 2, test: 2}",
        "env.cohort.size=4000", "env.cohort.islands=3", "warm_up.branches=[4]", f"run={tmp_path / 'run'}",
    )  # fmt: skip
    with pytest.raises(SettingsError, match=r"one of warm_up\.branches for each of the 2 fields of view"):
        train(config)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- as many as there are
def test_no_more_glimpses_are_read_than_there_are_cells() -> None:
    policy, trainer = warmed(spotted(), 1, branches=[1000, 1])
    cells, inner = len(policy.cells), len(policy.view_cells)
    assert trainer.branches == (cells, 1)
    whole = trainer.levels[0].open.all(1)
    assert whole.any()
    for row in trainer.levels[0].cells[whole]:
        assert sorted(row.tolist()) == list(range(cells))  # each place once
    _, trainer = warmed(spotted(), 1, branches=[2, 1000])
    assert trainer.branches == (2, inner) and trainer.levels[1].features.shape[1] == 2 * inner
    assert trainer.step().isfinite()


def test_branches_within_the_number_of_cells_stay() -> None:
    policy, trainer = warmed(spotted(), 1, branches=[6, 5])
    assert trainer.branches == (6, 5) and len(policy.cells) >= 6 and len(policy.view_cells) >= 5
