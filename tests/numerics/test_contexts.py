"""What glimpses bring in random contexts: by brute force, and where only two of them together tell."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glimpse.errors import SettingsError
from glimpse.learning import contexts
from glimpse.learning.contexts import losses_in_contexts
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.networks.aggregator import AttentionPooling, CausalTransformer, MeanPooling, ScorePooling

WIDTH = 8
AGGREGATORS = {
    "transformer": partial(CausalTransformer, WIDTH, 2, 2, 0.5),  # dropout is left out
    "attention": partial(AttentionPooling, WIDTH),
    "mean": partial(MeanPooling, WIDTH),
    "scores": partial(ScorePooling, WIDTH, 3, 2, 1, 2),
}


def squared(targets: Tensor) -> Any:
    return lambda found: (found[..., 0] - targets[:, None]) ** 2


@pytest.mark.parametrize("at_once", [2048, 6])
@pytest.mark.parametrize("name", AGGREGATORS)
def test_it_is_the_loss_with_the_glimpse_less_that_without(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "_AT_ONCE", at_once)  # of 15
    torch.manual_seed(0)
    aggregator, head = AGGREGATORS[name]().train(), nn.Linear(WIDTH, 1)
    if isinstance(aggregator, ScorePooling):
        nn.init.ones_(aggregator.weight)  # it begins without what its transformer says
    sequence, tokens, lengths = torch.randn(3, 6, WIDTH), torch.randn(3, 5, WIDTH), [1, 4, 4, 6]
    losses = squared(torch.tensor([0.0, 1.0, 2.0]))
    found = losses_in_contexts(aggregator, head, sequence, tokens, lengths, losses)
    assert aggregator.training, "as it was"
    aggregator.eval()
    expected = torch.zeros(3, 5)
    for length in lengths:
        for glimpse in range(5):
            longer = torch.cat([sequence[:, :length], tokens[:, glimpse : glimpse + 1]], 1)
            answers = head(aggregator(longer)[:, -2:])
            without, with_it = losses(answers).unbind(1)
            expected[:, glimpse] += (with_it - without).detach() / len(lengths)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


class _Highest(nn.Module):
    """Embeds a prefix as the highest of each number of its tokens."""

    def empty(self, token: Tensor) -> dict[str, Tensor]:
        return {"highest": torch.full_like(token, -torch.inf)}

    def step(self, token: Tensor, cache: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        highest = torch.maximum(token, cache["highest"])
        return highest, {"highest": highest}


def test_of_two_that_tell_together_each_brings_something_beside_the_other_only() -> None:
    """The answer is right once both kinds were seen; of twelve glimpses, two are of one kind each."""
    tokens = torch.zeros(1, 12, 2)
    tokens[0, 3, 0] = tokens[0, 7, 1] = 1
    told = (_Highest(), lambda highest: highest.amin(-1, keepdim=True))
    generator, nothing = torch.Generator().manual_seed(0), torch.zeros(1, 1, 2)
    losses = squared(torch.ones(1))
    alone = losses_in_contexts(*told, nothing, tokens, [1], losses)
    assert (alone == 0).all(), "a single glimpse says nothing"
    total = torch.zeros(12)
    for _ in range(200):
        order = torch.randperm(12, generator=generator)[:5]
        sequence = torch.cat([nothing, tokens[:, order]], 1)
        length = int(torch.randint(6, (), generator=generator)) + 1
        total += losses_in_contexts(*told, sequence, tokens, [length], losses)[0]
    brought = -total / 200
    # Of k glimpses of 12, the other one is one, and it itself is none, with a probability of k (12 - k) / (12 * 11).
    expected = sum(k * (12 - k) / 132 for k in range(6)) / 6
    assert brought[[3, 7]].tolist() == pytest.approx([expected] * 2, abs=0.07)
    assert brought[[one for one in range(12) if one not in (3, 7)]].abs().max() == 0


def test_contexts_and_judges_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match=r"look_contexts=0, or warm_up\.look_judges=null"):
        TokenWarmUp.parse_options({"look_contexts": 2, "look_judges": [4]})
    with pytest.raises(SettingsError, match="look_contexts of the warm-up"):
        TokenWarmUp.parse_options({"look_contexts": -1})
