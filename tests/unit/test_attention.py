"""How much looks attend to each other, and its picture."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from glimpse.errors import EvaluationError
from glimpse.networks import CausalTransformer, MeanPooling, PointerLocator, ScorePooling
from glimpse.networks.policy import GlimpsePolicy
from glimpse.pictures.charts import attention_chart, svg_of
from glimpse.reading.attention import attention_between, tokens_of
from glimpse.reading.lanes import Access
from glimpse.reading.readers import reader_named
from glimpse.reading.records import Reading
from tests.zooming import environment, policy_for


def read(levels: int = 2, glimpses: int = 6, **parts: Any) -> tuple[GlimpsePolicy, Reading]:
    env = environment(levels)
    inner = env.unwrapped
    policy = policy_for(env, stop_bias=-20.0, **parts)
    assert isinstance(policy.locator, PointerLocator)
    policy.locator.worth_offset.data += torch.arange(levels)  # it looks closely where it can
    reader = reader_named("policy", policy, Access(inner.views, inner.task), glimpses)
    (reading,) = reader.read(inner.cases[:1], trace=True)
    return policy, reading


def test_the_transformer_answers_with_these_weights() -> None:
    torch.manual_seed(0)
    transformer, tokens = CausalTransformer(16, layers=3).double(), torch.randn(2, 7, 16).double()
    weights, x = transformer.weights(tokens), tokens
    assert weights.shape == (2, 3, 4, 7, 7) and not weights.triu(1).any() and not weights.requires_grad
    assert torch.allclose(weights.sum(-1), torch.ones(2, 3, 4, 7).double())
    for layer, block in enumerate(transformer.blocks):
        x = block.finish(x, weights[:, layer] @ block.project(x)[2])  # type: ignore[operator]
    assert torch.allclose(transformer.norm(x), transformer(tokens))


def test_of_equal_keys_each_has_the_same_share() -> None:
    transformer = CausalTransformer(8, layers=1)
    for parameter in transformer.blocks[0].qkv.parameters():  # type: ignore[union-attr]
        nn.init.zeros_(parameter)
    (shares,) = transformer.weights(torch.randn(1, 3, 8))[0].mean(1)
    np.testing.assert_allclose(shares, [[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize("content", [True, False])
@pytest.mark.parametrize("levels", [2, 3])
def test_the_answers_of_a_reading_follow_from_its_tokens(levels: int, content: bool) -> None:
    policy, reading = read(levels, overview_dropout=float(not content))
    assert len(set(reading.zooms.tolist())) > 1
    policy.set_training_mode(False)
    with torch.no_grad():
        answers = policy.answer_head(policy.aggregator(tokens_of(policy, reading)[None]))[0]
    np.testing.assert_allclose(answers, reading.predictions, atol=1e-5)
    weights = attention_between(policy, reading)
    assert weights.shape == (2, 1 + reading.glimpses, 1 + reading.glimpses)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert weights[:, 0].tolist() == [[1, *[0] * reading.glimpses]] * 2, "before the first look there is only the start"


def test_whose_attention_it_is() -> None:
    policy, reading = read(aggregator=partial(ScorePooling, layers=1))
    assert attention_between(policy, reading).shape == (1, 7, 7)
    policy, reading = read(glimpses=0)
    assert attention_between(policy, reading).tolist() == [[[1]], [[1]]]
    for other in (MeanPooling, partial(ScorePooling, layers=0)):
        with pytest.raises(EvaluationError, match="network/aggregator=transformer"):
            attention_between(*read(aggregator=other))


def test_the_chart_shows_each_layer_and_names_the_looks() -> None:
    weights = np.tril(np.full((2, 4, 4), 0.25))
    weights[1] = np.eye(4)
    figure = attention_chart(weights, ["1*", "2", "3*"])
    first, second, _ = figure.axes  # the last one is of the colours
    for axes, values in ((first, weights[0]), (second, weights[1])):
        (image,) = axes.images
        np.testing.assert_array_equal(image.get_array(), values)
        assert image.get_clim() == (0, 1)
        for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert [tick.get_text() for tick in ticks] == ["start", "1*", "2", "3*"]
    assert [axes.get_title() for axes in (first, second)] == ["layer 1", "layer 2"]
    assert "attends to" in svg_of(figure, "attention")
    many = attention_chart(np.eye(61)[None]).axes[0]
    assert [tick.get_text() for tick in many.get_xticklabels()] == ["start", *map(str, range(4, 61, 4))]
    with pytest.raises(ValueError, match="Expected 3 names of looks, got 2"):
        attention_chart(weights, ["1", "2"])
