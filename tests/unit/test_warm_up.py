"""The warm-up on glimpses that are encoded once: what it trains, and that it is the same as encoding anew."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glimpse.envs import FlattenAction, make_array
from glimpse.errors import SettingsError
from glimpse.learning.looking import Worth
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.networks import ConvEncoder
from glimpse.networks.overlap import mutual
from glimpse.networks.policy import GlimpsePolicy
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from tests.warm_ups import CASES, environment, make


@pytest.mark.parametrize("look_coef", [0.0, 1.0])
def test_it_learns_to_answer_and_leaves_the_encoder_as_it_is(look_coef: float) -> None:
    policy, trainer = make(look_coef=look_coef)
    trainer.encode()
    before = {name: value.clone() for name, value in policy.named_parameters()}
    losses = [trainer.step() for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.2 * np.mean(losses[:5])
    changed = {name.split(".")[0] for name, value in policy.named_parameters() if not torch.equal(value, before[name])}
    assert {"pool", "aggregator", "answer_head", "glimpse_head", "position", "scale"} <= changed
    assert not {"encoder", "memory", "stop_head", "value_head"} & changed
    assert ("locator" in changed) == (look_coef > 0)
    assert trainer.done == 60


@pytest.mark.parametrize("overview_dropout", [0.0, 1.0])
def test_kept_features_make_the_tokens_that_the_policy_makes(overview_dropout: float) -> None:
    policy, trainer = make(overview_dropout, look_coef=0.0)
    trainer.encode()
    assert ("overviews" in trainer.kept) == (overview_dropout < 1)
    cases = torch.tensor([5, 2])
    tokens, first = trainer._tokens((cases[:, None], torch.tensor([[3, 0, 5, 2], [1, 4, 0, 3]])))
    for row, case in enumerate(cases.tolist()):
        glanced, cells, zooms = trainer._read(case)
        locations = policy.cells.numpy()[cells]
        own = policy.glimpse_token(
            policy.look(torch.from_numpy(glanced.images)), torch.from_numpy(locations), torch.from_numpy(zooms)
        )
        distance = (tokens[row][:, None] - own[None]).abs().amax(-1)
        assert torch.all(distance.amin(1) < 1e-5)  # every token is one of the case's own
        assert len(set(distance.argmin(1).tolist())) == 4  # and each another one
    if overview_dropout == 0:
        overviews = np.stack([trainer.views.overview(trainer.cases[case].source) for case in cases.tolist()])
        foregrounds = np.stack([trainer.views.foreground(trainer.cases[case].source) for case in cases.tolist()])
        extents = np.stack([trainer.views.relative_extents(trainer.cases[case].source) for case in cases.tolist()])
        scene = policy.scene(*(torch.from_numpy(part) for part in (overviews, foregrounds, extents)))
        assert torch.allclose(first, scene.token, atol=1e-5)
    else:
        assert torch.equal(first, policy.scale.weight[0].expand(2, -1))


def test_many_cases_get_fewer_glimpses_and_few_cells_get_some_twice() -> None:
    assert make(max_total_glimpses=16)[1].glimpses_per_case == 2
    assert make(max_total_glimpses=1)[1].glimpses_per_case == 1
    policy, trainer = make(glimpses_per_case=60)  # of 36 cells
    _, cells, _ = trainer._read(0)
    assert len(policy.cells) < 60 == len(cells)


def test_larger_foregrounds_get_more_glimpses_within_bounds() -> None:
    _, plain = make(glimpses_per_case=4)
    source, views = plain.cases[0].source, plain.views
    patches = views.foreground_pixels(source) / np.prod(views.extent(source))  # of each image, they are alike
    assert patches > 5
    for each, expected in ((0.1, 4), (5 / patches, 5), (9 / patches, 9), (1000.0, 16)):
        assert make(glimpses_per_case=4, glimpses_per_patch=each)[1].glimpses_per_case == expected
    assert make(glimpses_per_case=4, glimpses_per_patch=1000.0, max_total_glimpses=24)[1].glimpses_per_case == 3
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="glimpses_per_patch of the warm-up of at least 0"):
            make(glimpses_per_patch=wrong)


def test_the_same_seed_gives_the_same_losses() -> None:
    runs = []
    for _ in range(2):
        _, trainer = make(seed=3)
        trainer.encode()
        runs.append([trainer.step() for _ in range(3)])
    assert runs[0] == runs[1]


def spotted(count: int, size: int = 64) -> tuple[list[np.ndarray], list[int], list[tuple[int, int]]]:
    """Images with four squares of 16 pixels: a grey one, rough where the target is 1, and three white ones."""
    rng = np.random.default_rng(0)
    images, targets, middles = [], [], []
    for index in range(count):
        image, corners = rng.integers(0, 30, (1, size, size)), rng.permutation(16)[:4]
        for y, x in zip(corners // 4 * 16, corners % 4 * 16, strict=True):
            image[:, y : y + 16, x : x + 16] = 255
        image[:, y : y + 16, x : x + 16] = 128 + 90 * rng.choice([-1, 1], (1, 16, 16)) * (index % 2)
        images.append(image.astype(np.uint8))
        targets.append(index % 2)
        middles.append((int(y) + 8, int(x) + 8))
    return images, targets, middles


def test_the_locator_learns_where_what_tells_lies() -> None:
    torch.manual_seed(0)
    images, targets, middles = spotted(360)
    sizes: dict[str, Any] = {"overview_size": 32, "glimpse_size": 16, "glimpse_extents": [16]}
    env = FlattenAction(make_array((images, targets), max_glimpses=3, **sizes))
    inner: Any = env.unwrapped
    encoder = partial(ConvEncoder, strides=(2, 2, 1, 1))  # cells of 4 overview pixels
    policy = GlimpsePolicy(
        env.observation_space, env.action_space, layout=inner.layout, encoder=encoder, overview_dropout=1.0
    )
    train, test = inner.cases[:320], inner.cases[320:]
    trainer = TokenWarmUp(
        policy, train, inner.views, inner.task, glimpses_per_case=30, max_sequence=30, steps=200, batch=40, threads=1
    )
    policy.calibrate(torch.from_numpy(np.concatenate([trainer._read(case)[0].images for case in range(40)])))
    trainer.encode()
    before = first_found(policy, inner.views, test, middles[320:])
    for _ in range(200):
        trainer.step()
    assert first_found(policy, inner.views, test, middles[320:]) >= max(0.6, before + 0.3)


def first_found(policy: GlimpsePolicy, views: Any, cases: Any, middles: list[tuple[int, int]]) -> float:
    """The share of images whose grey square the first glimpse would touch."""
    found = []
    for case, middle in zip(cases, middles, strict=True):
        source = case.source
        shown = (views.overview(source), views.foreground(source), views.relative_extents(source))
        scene = policy.scene(*(torch.from_numpy(part.copy())[None] for part in shown))
        decision = policy.decide(scene, policy.begin(scene), torch.tensor([False]), deterministic=True)
        found.append(np.abs((decision.location[0].numpy() + 1) / 2 * 64 - middle).max() < 16)
    return float(np.mean(found))


@pytest.mark.parametrize(("among", "used", "chosen"), [(None, 4, 4), (2, 6, 2)])
def test_sets_are_made_of_all_glimpses(among: int | None, used: int, chosen: int) -> None:
    _, trainer = make(look_among=among)
    assert (trainer.used, trainer.among) == (used, chosen)


def test_the_worth_of_glimpses_is_known_after_the_warm_up(tmp_path: Path) -> None:
    policy, trainer = make(look_among=3)
    trainer.encode()
    for _ in range(3):
        trainer.step()
    worth = trainer.worth()
    inner: Any = environment().unwrapped
    case, place = 5, 2
    zoom = int(trainer.kept["zooms"][case, place])
    where = policy.cells[worth.cells[case, place]]
    shown = torch.from_numpy(inner.views.glimpse(inner.cases[case].source, where.numpy(), zoom).copy())[None]
    with torch.no_grad():
        token = policy.glimpse_token(policy.look(shown), where[None], torch.tensor([zoom]))
        loss = inner.task.loss(policy.glimpse_head(token), torch.tensor([case % 2]))
    assert float(worth.losses[case, place]) == pytest.approx(float(loss), rel=1e-4)
    assert (worth.among, worth.entropy) == (3, 0.01)
    worth.save(tmp_path / "worth.safetensors")
    ids = [case.id for case in inner.cases]
    some = Worth.load(tmp_path / "worth.safetensors", [ids[6], ids[1]])
    assert torch.equal(some.cells, worth.cells[[6, 1]]) and torch.equal(some.losses, worth.losses[[6, 1]])
    assert (some.among, some.entropy) == (3, 0.01)
    with pytest.raises(CheckpointError, match="lacks 'another'"):
        Worth.load(tmp_path / "worth.safetensors", ["another"])


def test_what_a_glimpse_shows_says_what_it_is_expected_to_be_worth(tmp_path: Path) -> None:
    """What is expected comes near the losses without being them, and is the same after an interruption."""
    _, trainer = make(look_expected=True, look_among=3, learning_rate=1e-2)
    trainer.encode()
    assert trainer.expect is not None
    before = [value.clone() for value in trainer.expect.parameters()]
    for _ in range(60):
        trainer.step()
    assert not any(torch.equal(old, new) for old, new in zip(before, trainer.expect.parameters(), strict=True))
    single = make_worth_of_losses(trainer)
    expected = trainer.worth().losses
    assert float((expected - single).abs().mean()) < 0.5 * float(single.std()) + 0.05
    assert not torch.equal(expected, single)
    checkpoint = Checkpoint()
    trainer.save_state(checkpoint)
    checkpoint.save(tmp_path / "state.safetensors")
    _, other = make(look_expected=True, look_among=3, learning_rate=1e-2)
    other.restore_state(Checkpoint.load(tmp_path / "state.safetensors"))
    other.encode()
    assert torch.equal(other.worth().losses, expected)
    assert [trainer.step(), trainer.step()] == [other.step(), other.step()]


def make_worth_of_losses(trainer: TokenWarmUp) -> torch.Tensor:
    """The losses of the answers from each glimpse alone, as the trainer's policy gives them now."""
    kept, trainer.expect = trainer.expect, None
    losses = trainer.worth().losses
    trainer.expect = kept
    return losses


def test_without_looking_nothing_is_expected() -> None:
    assert make(look_expected=True, look_coef=0.0)[1].expect is None
    assert make()[1].expect is None


def test_a_step_with_sets_trains_single_answers_on_all_glimpses(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, trainer = make(look_among=3)
    trainer.encode()
    lengths = []
    monkeypatch.setattr(policy.glimpse_head, "forward", lambda tokens: _noting(tokens, lengths, policy.glimpse_head))
    trainer.step()
    assert lengths == [6]
    assert policy.locator.unary[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("look_by_state", [False, True])
def test_the_state_has_a_say_in_the_choice_or_none(look_by_state: bool) -> None:
    policy, trainer = make(look_by_state=look_by_state)
    trainer.encode()
    before = policy.locator.query.weight.clone()
    trainer.step()
    assert policy.locator.unary[0].weight.grad.abs().sum() > 0
    assert torch.equal(policy.locator.query.weight, before) is not look_by_state


STILL: dict[str, Any] = {"quarter_turns": True, "zoom": 0.0, "tilt": 0.0, "flips": False, "strength": 0.0, "noise": 0.0}


def test_glimpses_are_seen_in_random_views_the_same_each_time() -> None:
    plain, noisy, again = (make(augment=one)[1] for one in (None, STILL | {"noise": 20.0}, STILL | {"noise": 20.0}))
    read = [trainer._read(3)[0].images.astype(float) for trainer in (plain, noisy, again)]
    assert np.array_equal(read[1], read[2])
    assert 5 < np.abs(read[1] - read[0]).mean() < 30  # half-turned or turned to the side besides
    _, still = make(augment=STILL)
    for one, view in zip(read[0], still._read(3)[0].images, strict=True):
        assert any(np.array_equal(view, np.rot90(one, turns, (1, 2))) for turns in range(4))


def test_views_on_disk_are_not_taken_for_glimpses_as_they_are() -> None:
    manners = {make(augment=one)[1]._manner for one in (None, STILL, STILL | {"noise": 20.0})}
    assert len(manners) == 3


def test_views_that_images_cannot_have_are_refused() -> None:
    with pytest.raises(SettingsError, match="stains are changed in images of 3 channels, these have 1"):
        make(augment={"stain": 0.2})
    with pytest.raises(SettingsError, match="no option 'stains'; did you mean 'stain'"):
        make(augment={"stains": 0.2})
    for most, blur in (("32", 1e9), ("32", float("inf"))):
        with pytest.raises(SettingsError, match=rf"augment\.blur from 0 to {most}"):
            make(augment={"blur": blur})


def _noting(tokens: torch.Tensor, lengths: list[int], head: torch.nn.Linear) -> torch.Tensor:
    lengths.append(tokens.shape[1])
    return torch.nn.functional.linear(tokens, head.weight, head.bias)


def cells_of_cases(policy: GlimpsePolicy, trainer: TokenWarmUp) -> torch.Tensor:
    """The features of the cells at which a trainer's glimpses lie, from overviews that are encoded one by one."""
    found = []
    for index, case in enumerate(trainer.cases):
        overview = torch.from_numpy(trainer.views.overview(case.source).copy())[None]
        with torch.no_grad():
            features = policy.encoder(overview.float())[0].flatten(1)
        found.append(features[:, torch.from_numpy(trainer._read(index)[1])].T)
    return torch.cat(found)


def test_features_of_cells_are_calibrated_over_the_training_split() -> None:
    policy, trainer = make()
    with torch.no_grad():  # as of a pretrained encoder: channels of very different size, with a common part
        last = policy.encoder.layers[-2]
        last.weight.copy_(torch.logspace(0, 2, policy.encoder.embed))
        last.bias.copy_(3 * last.weight)
    trainer.encode()
    cells = cells_of_cases(policy, trainer)
    assert len(cells) == CASES * trainer.glimpses_per_case
    spread = cells.double().std(0)
    assert float(spread.max() / spread.min()) > 10 and float((cells.mean(0).abs() / spread).min()) > 1
    calibrated = (cells - policy.locator.shift) / policy.locator.spread
    assert float(calibrated.mean(0).abs().max()) < 1e-3
    expected = (spread / (0.1 * spread.median())).clamp_max(1)  # less than 1 where a channel hardly varies
    assert 0 < int((expected < 1).sum()) < policy.encoder.embed / 4
    assert torch.allclose(calibrated.std(0), expected.float(), atol=0.01)
    keys, unary = policy.locator.describe(cells[None], torch.zeros(1, len(cells), policy.encoder.embed))
    assert torch.allclose(keys[0], policy.locator.key(calibrated), atol=1e-4)
    assert torch.allclose(unary[0], 3 * policy.locator.unary(calibrated)[:, 0], atol=1e-4)


def test_a_channel_that_hardly_varies_over_cells_does_not_drown_others_once_it_is_used() -> None:
    policy, _ = make()
    torch.manual_seed(0)
    cells = torch.randn(400, policy.encoder.embed)
    cells[:, 0] *= 1e-4
    cells[:, 1] = 0.0
    policy.locator.calibrate(cells[None])
    median = cells.std(0).median()
    torch.testing.assert_close(policy.locator.spread[:2], (0.1 * median + 1e-3).expand(2))
    torch.testing.assert_close(policy.locator.spread[2:], cells.std(0)[2:] + 1e-3)
    used = torch.randn(400, policy.encoder.embed)  # the encoder has learned to use all channels alike
    calibrated = (used - policy.locator.shift) / policy.locator.spread
    assert float(calibrated.std(0).max()) < 12
    policy.locator.calibrate(cells[:1, :])
    torch.testing.assert_close(policy.locator.spread, torch.full((policy.encoder.embed,), 1e-3))


def test_statistics_of_cells_are_neither_trained_nor_taken_anew(tmp_path: Path) -> None:
    policy, trainer = make()
    trainer.encode()
    taken = policy.locator.shift.clone(), policy.locator.spread.clone()
    for _ in range(3):
        trainer.step()
    assert torch.equal(policy.locator.shift, taken[0]) and torch.equal(policy.locator.spread, taken[1])
    policy.locator.shift += 7  # of a policy that has learned with other statistics
    trainer.encode()
    assert torch.equal(policy.locator.shift, taken[0] + 7)
    checkpoint = Checkpoint()
    trainer.save_state(checkpoint)
    checkpoint.save(tmp_path / "state.safetensors")
    again, other = make()
    other.restore_state(Checkpoint.load(tmp_path / "state.safetensors"))
    other.encode()
    assert torch.equal(again.locator.shift, taken[0] + 7) and torch.equal(again.locator.spread, taken[1])


@pytest.mark.parametrize("options", [{"look_calibrated": False}, {"look_coef": 0.0}])
def test_features_of_cells_may_be_left_as_they_are(options: dict[str, Any]) -> None:
    policy, trainer = make(**options)
    trainer.encode()
    trainer.step()
    assert torch.equal(policy.locator.shift, torch.zeros(policy.encoder.embed))
    assert torch.equal(policy.locator.spread, torch.ones(policy.encoder.embed))
    cells = torch.randn(1, 5, policy.encoder.embed)
    keys, _ = policy.locator.describe(cells, torch.zeros_like(cells))
    assert torch.equal(keys, policy.locator.key(cells))


def test_a_policy_that_was_saved_before_there_were_statistics_of_cells() -> None:
    policy, trainer = make()
    trainer.encode()
    old = policy.state_dict()
    del old["locator.shift"], old["locator.spread"]
    other, _ = make()
    other.load_state_dict(old)
    assert not other.locator.shift.any() and torch.equal(other.locator.spread, torch.ones(other.encoder.embed))
    assert "locator.shift" not in old
    assert torch.equal(other.locator.key.weight, policy.locator.key.weight)


@pytest.mark.parametrize("value", [1, 2.5, True])
def test_sets_that_leave_no_choice_are_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match="look_among"):
        make(look_among=value)


def test_the_penalty_is_learned_from_the_gains_of_later_glimpses() -> None:
    """Where a second look at the same place gains nothing, the weight grows; where it gains most, it shrinks."""
    policy, trainer = make()
    trainer.encode()
    rows = torch.tensor([[0], [1]]), torch.arange(4).expand(2, 4)
    trainer.kept["cells"][0, :4] = torch.tensor([0, 8, 0, 4])  # the third is the first
    trainer.kept["cells"][1, :4] = torch.tensor([0, 8, 2, 6])  # nothing overlaps
    trainer.kept["zooms"][:2, :4] = 0
    torch.nn.init.ones_(policy.locator.seen_penalty)
    logits = torch.zeros(2, 4)
    moved = []
    for third, elsewhere in ((0.0, 1.0), (1.0, 0.0)):
        gains = torch.tensor([[0.0, 0.0, third, 0.0], [0.0, 0.0, elsewhere, 0.0]])
        every = torch.cat([torch.zeros(2, 1), -gains.cumsum(1)], 1)
        policy.zero_grad()
        trainer.seeing_loss(rows, logits, every).backward()
        assert policy.locator.seen_penalty.grad is not None
        moved.append(-float(policy.locator.seen_penalty.grad[0]))
        assert all(p.grad is None for name, p in policy.named_parameters() if name != "locator.seen_penalty")
    assert moved[0] > 0 > moved[1]


def test_the_estimate_of_later_gains_is_unbiased() -> None:
    """Over all orders of three glimpses, its mean is the expected gain of the second choice, less the mean gain."""
    policy, trainer = make()
    trainer.encode()
    logits, gains = torch.tensor([0.3, -0.5, 1.2]), np.array([[0.0, 2.0, 7.0], [1.0, 0.0, 3.0], [5.0, 4.0, 0.0]])
    places, zooms, sides = trainer.kept["cells"][0, :3], trainer.kept["zooms"][0, :3], trainer.kept["sides"][0]
    shares = mutual(policy.cells[places][None], sides[zooms][None])[0].clamp_max(1)
    orders, second, expected = list(itertools.permutations(range(3))), [], []
    for first, chosen, other in orders:
        others = [chosen, other]
        probs = (logits[others] - 10 * shares[first, others]).softmax(0).numpy()
        expected.append(probs @ gains[first, others])
        second.append(gains[first, chosen])
    every = torch.zeros(len(orders), 4)
    every[:, 2:] = -torch.tensor(second)[:, None]
    rows = torch.zeros(len(orders), 1, dtype=torch.long), torch.tensor(orders)
    loss = trainer.seeing_loss(rows, logits[rows[1]], every)
    assert -2 * float(loss) == pytest.approx(np.mean(expected) - np.mean(second), rel=1e-4)  # of two later choices
