"""A network whose encoder is compiled computes what one does that is not, and the files of both are the same."""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from glimpse.networks import ConvEncoder, GlimpsePolicy
from glimpse.reading.costs import multiply_adds
from glimpse.runs.checkpoints import Checkpoint
from tests.numerics.test_networks import make_policy, play


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What was compiled; it runs as it is written, since generating code would take minutes."""
    found: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    yield found
    torch._dynamo.reset()


class Encoder(ConvEncoder):
    """It is traced quickly: shapes are not checked inside, and images are whole cells."""

    def __init__(self, channels: int, ndim: int) -> None:
        super().__init__(channels, ndim, widths=(8, 8), strides=(2, 2))

    def forward(self, image):
        return self.layers((image.float() - self.background) / 127.5)


def both() -> tuple[GlimpsePolicy, GlimpsePolicy]:
    """A policy that is not compiled, and one that is, with the same parameters."""
    plain, compiled = make_policy(encoder=Encoder), make_policy(encoder=Encoder, compile=True)
    compiled.load_state_dict(plain.state_dict())
    return plain, compiled


def test_features_and_gradients_are_the_same(graphs: list[Any]) -> None:
    plain, compiled = both()
    episodes = play(plain, rollouts=2, time=3)
    found = []
    for policy in (plain, compiled):
        evaluation = policy.evaluate_episodes(episodes)
        (evaluation.prediction.square().sum() + evaluation.log_prob.sum()).backward()
        assert bool(graphs) == (policy is compiled)
        gradients = [one.grad for one in policy.parameters() if one.grad is not None]
        found.append([evaluation.prediction, evaluation.log_prob, *gradients])
    assert len(found[0]) == len(found[1]) > 20
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_names_copies_and_files_are_those_of_a_network_that_is_not_compiled(graphs: list[Any]) -> None:
    plain, compiled = both()
    assert list(plain.state_dict()) == list(compiled.state_dict())
    images = torch.randint(0, 256, (3, *plain.glimpse_shape), dtype=torch.uint8)
    expected = plain.encode(images)
    for changed, other in (both(), both()[::-1]):
        with torch.no_grad():
            changed.encoder.layers[0].weight.mul_(2)
        saved = Checkpoint()
        saved.add_module("policy", changed)
        saved.restore_module("policy", other)
        torch.testing.assert_close(changed.encode(images), other.encode(images))
        assert not torch.allclose(other.encode(images), expected)
    torch.testing.assert_close(copy.deepcopy(compiled).encode(images), expected)
    assert graphs


def test_what_it_costs_is_counted_as_without_compiling(graphs: list[Any]) -> None:
    plain, compiled = both()
    images = torch.randint(0, 256, (3, *plain.glimpse_shape), dtype=torch.uint8)
    counts = [multiply_adds(lambda policy=policy: policy.encode(images)) for policy in (plain, compiled)]
    assert counts[0] == counts[1] > 0 and not graphs
    compiled.encode(images)
    assert graphs and multiply_adds(lambda: compiled.encode(images)) == counts[0]
