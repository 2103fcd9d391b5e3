"""What glimpses bring to others that were seen before, where a target lies in how glimpses relate.

One of two glyphs says nothing about whether they are alike. What it brings shows only beside the other one, so it is
averaged over small random contexts S of a case: the loss of the answer from S and the glimpse j, less that from S.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glimpse.networks.aggregator import Aggregator, Cache


@torch.no_grad()
def losses_in_contexts(
    aggregator: nn.Module,
    answer_head: Callable[[Tensor], Tensor],
    sequence: Float[Tensor, "case step embed"],
    tokens: Float[Tensor, "case glimpse embed"],
    lengths: Sequence[int],
    losses: Callable[[Float[Tensor, "case glimpse output"]], Float[Tensor, "case glimpse"]],
) -> Float[Tensor, "case glimpse"]:
    """Returns by how much each glimpse raises the loss of the answer, L(S + j) - L(S), the mean over some contexts S.

    The aggregator takes the tokens of a context once, and goes on from there with each of the glimpses; nothing is
    dropped out.

    Args:
        aggregator: What embeds the tokens that were seen, an `Aggregator`.
        answer_head: Turns an embedding (batch, embed) into an answer.
        sequence: Tokens whose beginnings are the contexts; the first is that of the overview.
        tokens: Tokens of the glimpses, which may be in a context, too.
        lengths: How many tokens each context has, from 1 to the length of the sequence.
        losses: Returns the losses of answers of the cases.
    """
    training, taking = aggregator.training, cast(Aggregator, aggregator)
    aggregator.eval()
    try:
        total, cache = torch.zeros_like(tokens[..., 0]), taking.empty(sequence[:, 0])
        for length, token in enumerate(sequence[:, : max(lengths)].unbind(1), 1):
            answer, cache = taking.step(token, cache)
            if times := lengths.count(length):
                after, _ = taking.step(tokens.flatten(0, 1), _for_each(tokens.shape[1], cache))
                found = losses(answer_head(after).unflatten(0, tokens.shape[:2]))
                total += times * (found - losses(answer_head(answer)[:, None]))
    finally:
        aggregator.train(training)
    return total / len(lengths)


def _for_each(count: int, cache: Cache) -> Cache:
    """Returns the cache of each row so many times."""
    return {
        name: kept.repeat_interleave(count, 0) if isinstance(kept, Tensor) else kept for name, kept in cache.items()
    }
