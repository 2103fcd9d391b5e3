"""A device is not waited for in a step of a rollout nor in one of an update, and results stay what they were."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from glimpse.networks import CausalTransformer, GlimpsePolicy, ScorePooling
from glimpse.networks.records import Episodes
from glimpse.networks.where import open_ones
from glimpse.ranks.sharing import raced
from tests.numerics.test_networks import make_policy, play

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
LONG = 21  # steps: memory for 8, 16 and 32 of them is used


def doubled(aggregator: CausalTransformer, tokens: Tensor) -> list[Tensor]:
    """The embedding of each prefix from copies of memory that is doubled whenever it is full."""
    found, room = [], 8
    blocks: Any = list(aggregator.blocks)
    shape = (len(tokens), aggregator.heads, room, aggregator.embed // aggregator.heads)
    kept = [[tokens.new_zeros(shape) for _ in range(2)] for _ in blocks]
    for step in range(tokens.shape[1]):
        x = tokens[:, step : step + 1]
        if step == room:
            kept, room = [[F.pad(one, (0, 0, 0, room)) for one in pair] for pair in kept], 2 * room
        for block, pair in zip(blocks, kept, strict=True):
            query, *new = block.project(x)
            for one, part in zip(pair, new, strict=True):
                one[:, :, step] = part[:, :, 0]
            seen = (torch.arange(room) <= step).expand(len(tokens), 1, 1, -1)
            x = block.finish(x, F.scaled_dot_product_attention(query, *pair, attn_mask=seen))
        found.append(aggregator.norm(x[:, 0]))
    return found


@pytest.mark.parametrize("steps", [None, LONG, 5])
@torch.no_grad()
def test_embeddings_are_the_same_to_the_last_bit_whatever_is_known_of_the_steps(steps: int | None) -> None:
    torch.manual_seed(0)
    aggregator, tokens = CausalTransformer(16), torch.randn(3, LONG, 16)
    cache = aggregator.empty(tokens[:, 0], steps)
    for step, expected in enumerate(doubled(aggregator, tokens)):
        answer, cache = aggregator.step(tokens[:, step], cache)
        assert torch.equal(answer, expected), step


@pytest.mark.parametrize("kind", [CausalTransformer, ScorePooling])
def test_memory_is_made_once_where_the_steps_are_known(kind: Any) -> None:
    aggregator, token = kind(16), torch.randn(3, 16)

    def memory(steps: int | None) -> list[int]:
        cache, found = aggregator.empty(token, steps), []
        for _ in range(LONG):
            _, cache = aggregator.step(token, cache)
            found.append(cache["key1"].data_ptr())
        assert cache["key1"].shape[2] == 32 and cache["steps"] == LONG
        return found

    with torch.no_grad():
        assert len(set(memory(LONG))) == 1
        assert len(set(memory(None))) > 1  # earlier caches stay as they are
    assert len(set(memory(LONG))) > 1  # gradients need them, too


@torch.no_grad()
def test_rows_that_begin_anew_do_not_make_memory_grow() -> None:
    policy = make_policy(aggregator=CausalTransformer).double()
    policy.set_training_mode(False)
    observation = {name: space.sample()[None].repeat(2, 0) for name, space in policy.observation_space.items()}
    state = None
    for step in range(12):  # one of two lanes begins anew every fourth step
        anew = None if state is None else torch.tensor([step % 4 == 0, step % 4 == 2]).numpy()
        _, state = policy.predict(observation, state, anew, deterministic=True)
    assert state is not None and state[1].cache["steps"] == int(state[1].cache["length"].max()) <= 4
    assert state[1].cache["key0"].shape[2] == 8


def test_choices_are_those_of_multinomial() -> None:
    probs = torch.rand(50, 7).softmax(-1)
    expected = torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(3))
    assert torch.equal(raced(probs, torch.Generator().manual_seed(3)), expected)


PUT = (torch.ops.aten.index_put, torch.ops.aten.index_put_, torch.ops.aten._index_put_impl_)


class Refused(TorchDispatchMode):
    """Refuses what would wait for a device if these tensors were on one.

    That is: to read numbers, to index by masks, and to put a plain number where indices point.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = [one for one in args[1] if one is not None] if func.overloadpacket == torch.ops.aten.index else []
        waits = func.overloadpacket == torch.ops.aten._local_scalar_dense
        waits |= func.overloadpacket in PUT and args[2].ndim == 0
        assert not waits and all(one.dtype != torch.bool for one in masks), f"{func} waits for a device"
        return func(*args, **(kwargs or {}))


@contextmanager
def refused(device: str) -> Iterator[None]:
    """Inside, waiting for the device is an error."""
    if device == "cpu":
        with Refused():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def counted_first(monkeypatch: pytest.MonkeyPatch, episodes: Episodes, policy: GlimpsePolicy) -> None:
    """Gives an update what it waits for at its beginning: which cells are open."""
    known = open_ones(policy.open_cells(episodes.foreground))
    monkeypatch.setattr("glimpse.networks.network.open_ones", lambda inside: known)


def on(device: str, record: Any) -> Any:
    return type(record)(**{name: tensor.to(device) for name, tensor in vars(record).items()})


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("zooms", [1, 2, 3])
def test_no_step_of_a_rollout_or_an_update_waits(device: str, zooms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(zooms=zooms)
    episodes = play(policy)
    policy, there = policy.to(device), on(device, episodes)
    with torch.no_grad():
        scene = policy.scene(there.overview, there.foreground, there.extents)
        state = policy.begin(scene, episodes.rollouts, budget=5)
        exhausted = torch.zeros(len(there.length), dtype=torch.bool, device=device)
        for step in range(5):
            with refused(device):
                decision = policy.decide(scene, state, exhausted)
            zoom, glimpse = decision.zoom.cpu(), there.glimpse[:, step]
            with refused(device):
                state = policy.observe(state, glimpse, decision.location, decision.cell, decision.zoom, on_host=zoom)
    counted_first(monkeypatch, there, policy)
    with refused(device):
        evaluation = policy.evaluate_episodes(there, encoder_share=0.5, on_host=episodes)
        (evaluation.prediction.sum() + evaluation.log_prob.sum()).backward()
    assert policy.encoder.layers[0].weight.grad.abs().sum() > 0
