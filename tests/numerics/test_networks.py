"""Cached and stepwise computations equal the full ones; masks, geometry and gradients are exact."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import glimpse.networks.policy as policy_module
from glimpse.agents.rollout import Views
from glimpse.errors import SettingsError
from glimpse.geometry import CellGrid
from glimpse.networks import (
    AttentionPooling,
    CausalTransformer,
    ConvEncoder,
    GaussianLocator,
    GlimpsePolicy,
    MeanPooling,
    PointerLocator,
    RandomLocator,
    ScorePooling,
)
from glimpse.networks.network import Encoding
from glimpse.networks.overlap import Coverage
from glimpse.networks.records import Conduct, Episodes
from glimpse.networks.where import Candidates, CellDistribution
from glimpse.spaces import ActionLayout


def scores_and_more(embed: int) -> ScorePooling:
    """Score pooling whose transformer has a weight already."""
    aggregator = ScorePooling(embed)
    nn.init.constant_(aggregator.weight, 0.7)
    return aggregator


AGGREGATORS = [CausalTransformer, AttentionPooling, MeanPooling, scores_and_more, partial(ScorePooling, layers=0)]


def make_policy(ndim: int = 2, zooms: int = 1, channels: int = 2, **parts: object) -> GlimpsePolicy:
    """A small policy in float64."""
    layout = ActionLayout(ndim, 3, zooms)
    torch.manual_seed(0)
    space = spaces.Dict({
        "overview": spaces.Box(0, 255, (channels, *[24] * ndim), np.uint8),
        "foreground": spaces.Box(0, 255, (1, *[24] * ndim), np.uint8),
        "glimpse": spaces.Box(0, 255, (channels, *[12] * ndim), np.uint8),
        "location": spaces.Box(-1, 1, (ndim,), np.float32),
        "remaining": spaces.Box(0, 1, (1,), np.float32),
        "extents": spaces.Box(0, 1, (zooms * ndim,), np.float32),
    })  # fmt: skip
    policy = GlimpsePolicy(space, layout.box_space(), layout=layout, stop_bias=-1.5, **parts)
    nn.init.normal_(policy.stop_head.weight, std=0.1)
    return policy


def play(policy: GlimpsePolicy, cases: int = 2, rollouts: int = 8, time: int = 5) -> Episodes:
    """Episodes with random pixels, decided step by step by the policy; some stop early."""
    generator = torch.Generator().manual_seed(1)
    space, batch = policy.observation_space, cases * rollouts

    def pixels(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    overview, glimpses = pixels(cases, *space["overview"].shape), pixels(batch, time, *space["glimpse"].shape)
    foreground = (pixels(cases, *space["foreground"].shape) > 60).to(torch.uint8) * 255
    extents = torch.rand(cases, policy.layout.zooms, len(policy.grid.side), generator=generator) * 0.5 + 0.1
    with torch.no_grad():
        scene = policy.scene(overview, foreground, extents)
        state = policy.begin(scene, rollouts)
        decisions, seen, length, views = [], [], torch.full((batch,), time), Views(policy, batch)
        for step in range(time + 1):
            decision = policy.decide(scene, state, torch.full((batch,), step == time), generator=generator)
            length = torch.where(decision.stop & (length == time), torch.tensor(step), length)
            decisions.append(decision)
            if step < time:
                state = policy.observe(state, glimpses[:, step], decision.location, decision.cell, decision.zoom)
                seen.append(state.seen)
                views.add(state.wide, step, np.ones(batch, bool))

    def column(name: str, steps: int) -> torch.Tensor:
        return torch.stack([getattr(decision, name) for decision in decisions[:steps]], 1)

    return Episodes(
        overview, foreground, extents, scene.features, glimpses, torch.stack(seen, 1), column("location", time),
        column("cell", time), column("zoom", time), length, torch.full_like(length, time), length == time,
        column("prediction", time + 1),
        column("log_prob", time + 1), column("value", time + 1),
        torch.zeros(batch, time + 1), torch.zeros(batch, dtype=torch.long), **views.stacked(),
    )  # fmt: skip


@pytest.mark.parametrize("make", AGGREGATORS)
def test_an_aggregator_with_a_cache_equals_the_full_one(make: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(0)
    aggregator, tokens = make(16).double(), torch.randn(3, 21, 16).double()
    full, cache = aggregator(tokens), aggregator.empty(tokens[:, 0])
    for step in range(tokens.shape[1]):
        answer, cache = aggregator.step(tokens[:, step], cache)
        assert torch.allclose(answer, full[:, step], atol=1e-12)


@pytest.mark.parametrize("make", AGGREGATORS)
def test_an_answer_does_not_depend_on_later_glimpses(make: Callable[[int], nn.Module]) -> None:
    aggregator, tokens = make(16).double(), torch.randn(2, 6, 16).double()
    changed = tokens.clone()
    changed[:, 4:] = torch.randn(2, 2, 16)
    assert torch.allclose(aggregator(tokens)[:, :4], aggregator(changed)[:, :4])
    assert not torch.allclose(aggregator(tokens)[:, 4:], aggregator(changed)[:, 4:])


@pytest.mark.parametrize("highest", [1, 4])
def test_scores_are_averaged_over_the_highest(highest: int) -> None:
    torch.manual_seed(0)
    aggregator, tokens = ScorePooling(8, scores=3, highest=highest).double(), torch.randn(2, 9, 8).double()
    answers = aggregator(tokens)
    scores = aggregator.score(tokens).detach().numpy()
    for step in range(9):
        pooled = np.sort(scores[:, : step + 1], 1)[:, ::-1][:, :highest].mean(1)
        assert torch.allclose(answers[:, step], aggregator.mix(torch.from_numpy(pooled)))  # the transformer weighs 0
    (answers * torch.randn_like(answers)).sum().backward()  # a normalised layer's outputs sum to 0, whatever they are
    assert aggregator.weight.grad is not None and aggregator.weight.grad.abs() > 1e-3  # it can earn a weight
    with pytest.raises(ValueError, match="scores and highest of at least 1, got 0 and 4"):
        ScorePooling(8, scores=0)


def test_dropout_touches_answers_in_training_only() -> None:
    policy = make_policy(aggregator=partial(CausalTransformer, dropout=0.5)).double()
    policy.set_training_mode(False)
    episodes = play(policy)
    decided, answered = episodes.decided, episodes.answered
    still = policy.evaluate_episodes(episodes)
    assert torch.allclose(still.prediction[answered], episodes.prediction[answered], atol=1e-9)
    policy.set_training_mode(True)
    dropped = policy.evaluate_episodes(episodes)
    assert not torch.allclose(dropped.prediction[answered], episodes.prediction[answered], atol=1e-3)
    assert torch.allclose(dropped.log_prob[decided], episodes.log_prob[decided], atol=1e-9)
    with pytest.raises(ValueError, match="dropout of at least 0 and below 1, got 1"):
        CausalTransformer(16, dropout=1)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("locator", [PointerLocator, partial(PointerLocator, near_penalty=3.0), GaussianLocator])
@pytest.mark.parametrize("zooms", [1, 3])
def test_the_ratio_of_probabilities_is_one_before_the_first_update(
    ndim: int, locator: Callable[..., nn.Module], zooms: int
) -> None:
    policy = make_policy(ndim, zooms, locator=locator).double()
    episodes = play(policy)
    assert 0 < int(episodes.forced.sum()) < len(episodes.length)  # both ways to end are there
    evaluation = policy.evaluate_episodes(episodes)
    decided = episodes.decided
    ratio = (evaluation.log_prob - episodes.log_prob).exp()[decided]
    assert torch.allclose(ratio, torch.ones_like(ratio), atol=1e-9)
    assert torch.all(evaluation.log_prob[~decided] == 0)
    answered = episodes.answered
    assert torch.allclose(evaluation.prediction[answered], episodes.prediction[answered], atol=1e-9)
    assert torch.allclose(evaluation.value[answered], episodes.value[answered], atol=1e-9)


def test_an_unknown_keyword_of_the_network_is_refused() -> None:
    assert make_policy(chunk=4, autocast=True).encoding == Encoding(chunk=4, autocast=True)
    with pytest.raises(SettingsError, match="GlimpsePolicy has no option 'chunks'; did you mean 'chunk'"):
        make_policy(chunks=4)
    with pytest.raises(SettingsError, match="chunk as a whole number of at least 0, got -1"):
        make_policy(chunk=-1)


@pytest.mark.parametrize("cells_at_once", [1 << 22, 1])
def test_chunks_leave_the_gradient_as_it_is(cells_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_MANY_CELLS", 0), ("_CELLS_AT_ONCE", cells_at_once), ("_STEPS_AT_ONCE", 1)):
        monkeypatch.setattr(policy_module, name, value)
    made, pieces = policy_module.checkpoint, list[int]()
    monkeypatch.setattr(
        policy_module, "checkpoint", lambda *given, **named: (pieces.append(1), made(*given, **named))[1]
    )
    policy = make_policy().double()
    episodes = play(policy)
    gradients = []
    for chunk in (0, 4):
        policy.encoding = Encoding(chunk=chunk)
        policy.zero_grad()
        evaluation = policy.evaluate_episodes(episodes)
        (evaluation.prediction.pow(2).mean() + evaluation.log_prob.mean() + evaluation.entropy.mean()).backward()
        gradients.append([p.grad.clone() for p in policy.parameters() if p.grad is not None])
    for direct, chunked in zip(*gradients, strict=True):
        assert torch.allclose(direct, chunked, atol=1e-12)
    assert (len(pieces) > 1) == (cells_at_once == 1) and pieces


def test_an_update_encodes_no_more_pixels_at_once_than_a_chunk_or_one_image_has() -> None:
    policy = make_policy()
    episodes, pixels = play(policy), list[tuple[int, int]]()
    glimpse = math.prod(episodes.glimpse.shape[3:])
    policy.encoding = Encoding(chunk=4)
    policy.encoder.register_forward_pre_hook(lambda _, images: pixels.append((len(images[0]), images[0][0, 0].numel())))
    policy.evaluate_episodes(episodes).prediction.sum().backward()
    assert {each for _, each in pixels} == {glimpse, math.prod(episodes.overview.shape[2:])}
    assert all(count == 1 or count * each <= 4 * glimpse for count, each in pixels)


@pytest.mark.parametrize(("share", "frozen"), [(1.0, False), (0.5, False), (0.125, False), (1.0, True)])
def test_a_share_of_the_rollouts_is_encoded_anew(share: float, frozen: bool) -> None:
    policy = make_policy().double()
    episodes, whole = play(policy), []
    conduct = Conduct(train_encoder=not frozen)
    with pytest.MonkeyPatch.context() as patch:
        look = policy.look
        patch.setattr(policy, "look", lambda images, rows, how: whole.append(rows) or look(images, rows, how))
        anew = policy.evaluate_episodes(episodes, share, conduct=conduct)
    full = policy.evaluate_episodes(episodes, conduct=conduct)
    for name in ("log_prob", "prediction", "value"):  # nothing has been learned yet
        assert torch.allclose(getattr(anew, name), getattr(full, name), atol=1e-9)
    rows = sum(map(len, whole))
    assert rows <= share * episodes.cell.numel() and (rows > 0) == (not frozen)
    assert frozen or share < 1 or rows == episodes.length.sum()
    anew.prediction.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in policy.encoder.parameters()) == (not frozen)


def test_no_cell_is_visited_twice_nor_outside_the_foreground() -> None:
    policy = make_policy()
    episodes = play(policy, time=8)
    scene = policy.scene(episodes.overview, episodes.foreground, episodes.extents)
    for row, (cells, length) in enumerate(zip(episodes.cell, episodes.length, strict=True)):
        visited = cells[:length]
        assert len(visited.unique()) == length
        assert scene.open[row // episodes.rollouts][visited].all()


def test_encoding_in_bfloat16_leaves_the_rest_as_it_is() -> None:
    """Features come in the precision of the parameters, near the exact ones; gradients reach the encoder."""
    exact, low = make_policy().float(), make_policy(autocast=True).float()
    images = torch.randint(0, 256, (6, 2, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = low.encode(images)
    assert features.dtype == torch.float32
    difference = (features - exact.encode(images)).norm() / features.norm()
    assert 1e-6 < difference < 2e-2
    episodes = play(low)
    evaluation = low.evaluate_episodes(episodes)
    assert evaluation.prediction.dtype == evaluation.log_prob.dtype == torch.float32
    evaluation.prediction.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in low.encoder.parameters())


def candidates(open_: torch.Tensor, grid: tuple[int, ...]) -> Candidates:
    cells, sides = open_.shape[1], torch.full((len(open_), 1, len(grid)), 0.5)
    keys, unary = torch.zeros(len(open_), cells, 4), torch.zeros(len(open_), cells)
    return Candidates(keys, unary, open_, sides, torch.zeros(cells, len(grid)), CellGrid(grid, (1,) * len(grid)))


def test_visited_cells_open_again_when_none_is_left() -> None:
    few = candidates(torch.tensor([[True, True, False, False]]), (2, 2))
    visited = torch.tensor([[[True, True, False, False]]])
    seen = Coverage(visited, visited.float(), visited.float(), torch.zeros(1, 1, dtype=torch.long))
    where = RandomLocator()(torch.zeros(1, 1, 4), few, seen)
    assert torch.allclose(where.log_probs.exp(), torch.tensor([[[0.5, 0.5, 0.0, 0.0]]]))


def test_cells_are_drawn_as_often_as_they_are_likely_and_closed_ones_never() -> None:
    logits = torch.tensor([[[0.0, 1.0, -1e9, 2.0, -1e9]], [[-1e9, -1e9, -1e9, -1e9, 3.0]]])
    where = CellDistribution(logits.repeat_interleave(4000, 0), torch.arange(10.0).view(5, 2))
    choice = where.sample(torch.Generator().manual_seed(0))
    assert torch.equal(choice.location, where.locations[choice.cell])
    drawn = torch.stack([cells.bincount(minlength=5) for cells in choice.cell[:, 0].view(2, 4000)]) / 4000
    assert torch.allclose(drawn, logits[:, 0].softmax(-1), atol=0.03)
    assert torch.equal(drawn == 0, logits[:, 0] < -1e8)


def test_with_one_layer_the_score_of_a_cell_is_linear_in_its_features() -> None:
    locator = PointerLocator(6, 3, unary_layers=1)
    features, other = torch.randn(2, 1, 5, 6)

    def score(features: torch.Tensor) -> torch.Tensor:
        return locator.describe(features, torch.zeros(1, 5, 6))[1]

    both = score(features + other) + score(torch.zeros(1, 5, 6))
    assert torch.allclose(score(features) + score(other), both, atol=1e-5)
    assert not torch.allclose(score(features), score(other), atol=1e-2)
    with pytest.raises(SettingsError, match="unary_layers"):
        PointerLocator(6, 3, unary_layers=0)


def test_nearest_cell_of_a_location() -> None:
    some = candidates(torch.ones(1, 6, dtype=torch.bool), (2, 3))
    locations = torch.tensor([[-1.0, -1.0], [-0.5, 0.0], [0.5, 0.99], [1.0, 1.0], [0.0, -0.34]])
    assert some.nearest(locations).tolist() == [0, 1, 5, 5, 3]


@pytest.mark.parametrize(("size", "grid"), [((64, 64), (8, 8)), ((65, 63), (9, 8)), ((9, 30, 31), (2, 4, 4))])
def test_the_encoder_knows_its_grid(size: tuple[int, ...], grid: tuple[int, ...]) -> None:
    encoder = ConvEncoder(2, len(size))
    features = encoder(torch.zeros(1, 2, *size, dtype=torch.uint8))
    assert encoder.grid(size).cells == grid == tuple(features.shape[2:])


def test_background_is_zero_to_the_convolutions() -> None:
    encoder = ConvEncoder(1, background=255)
    seen: list[torch.Tensor] = []
    encoder.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(torch.full((1, 1, 8, 8), 255, dtype=torch.uint8))
    assert torch.all(seen[0] == 0)


def test_predict_begins_anew_only_where_an_episode_starts() -> None:
    policy = make_policy().double()
    policy.set_training_mode(False)
    rng = np.random.default_rng(0)

    def observations(batch: int) -> dict[str, np.ndarray]:
        sample = {
            name: np.stack([space.sample() for _ in range(batch)]) for name, space in policy.observation_space.items()
        }
        return sample | {"location": rng.uniform(-1, 1, (batch, 2)), "remaining": np.ones((batch, 1), np.float32)}

    first, second = observations(3), observations(3)
    _, state = policy.predict(first, None, None, deterministic=True)
    mixed, state = policy.predict(second, state, np.array([False, True, False]), deterministic=True)
    alone, _ = policy.predict({k: v[1:2] for k, v in second.items()}, None, None, deterministic=True)
    assert np.allclose(mixed[1], alone[0], atol=1e-6)
    assert state[1].cache["length"].tolist() == [2, 1, 2]


@pytest.mark.parametrize("zooms", [1, 2])
def test_only_open_cells_are_described_and_decisions_are_those_of_all_cells(
    zooms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lower half of one overview is background, and three quarters of another."""
    policy = make_policy(zooms=zooms).double()
    episodes = play(policy)
    episodes.foreground[0, :, 12:] = episodes.foreground[1, :, 6:] = 0
    described: list[int] = []
    describe = policy.locator.describe

    def counted(features: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        described.append(features.shape[1])
        return describe(features, *others)

    monkeypatch.setattr(policy.locator, "describe", counted)
    scene = policy.scene(episodes.overview, episodes.foreground, episodes.extents)
    most, cells = int(scene.open.sum(1).max()), len(policy.cells)
    assert described == [most] and most < cells
    monkeypatch.setattr(policy, "roams", lambda conduct: True)  # now all of them are described
    every = policy.scene(episodes.overview, episodes.foreground, episodes.extents)
    assert described == [most, cells]
    monkeypatch.undo()
    state = policy.begin(scene, episodes.rollouts)
    for step in range(4):
        exhausted, draws = torch.zeros(len(state.memory), dtype=torch.bool), torch.Generator().manual_seed(step)
        same = torch.Generator().manual_seed(step)
        decision = policy.decide(scene, state, exhausted, generator=draws)
        other = policy.decide(every, state, exhausted, generator=same)
        for one, two in zip(decision, other, strict=True):
            torch.testing.assert_close(one, two)
        glimpse = episodes.glimpse[:, step]
        state = policy.observe(state, glimpse, decision.location, decision.cell, decision.zoom)


@pytest.mark.parametrize("aggregator", [CausalTransformer, scores_and_more])
def test_long_episodes_are_computed_in_pieces_with_the_same_results(
    aggregator: Callable[[int], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three pieces of at most 4 steps give the answers, decisions and gradients of all at once; memory's have 3."""
    policy = make_policy(aggregator=aggregator, chunk=5).double()
    episodes = play(policy, time=9)
    found = []
    for steps in (1000, 4):
        monkeypatch.setattr("glimpse.networks.pieces.STEPS_AT_ONCE", steps)
        monkeypatch.setattr("glimpse.networks.aggregator.STEPS_AT_ONCE", steps)
        monkeypatch.setattr("glimpse.networks.memory._AT_ONCE", 3)
        policy.zero_grad()
        evaluation = policy.evaluate_episodes(episodes)
        parts = (evaluation.prediction, evaluation.log_prob, evaluation.value, evaluation.glimpse_prediction)
        sum(part.square().sum() for part in parts).backward()
        found.append([*parts, *(p.grad for p in policy.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 40
    for whole, in_pieces in zip(*found, strict=True):
        torch.testing.assert_close(in_pieces, whole)


def test_a_long_sequence_without_gradient_is_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glimpse.networks.pieces.STEPS_AT_ONCE", 4)
    monkeypatch.setattr("glimpse.networks.pieces.checkpoint", None)
    with torch.no_grad():
        assert CausalTransformer(16)(torch.randn(2, 9, 16)).shape == (2, 9, 16)
