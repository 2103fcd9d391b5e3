"""What glimpses bring to others that were seen before, where a target lies in how glimpses relate.

One of two glyphs says nothing about whether they are alike. What it brings shows only beside the other one, so it is
averaged over random contexts S of a case: the loss of the answer from S and the glimpse j, less that from S.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glimpse.networks.aggregator import Aggregator, Cache

_AT_ONCE = 2048  # glimpses, each of which has what the aggregator knows of its context
_Losses = Callable[[Float[Tensor, "case glimpse output"]], Float[Tensor, "case glimpse"]]


@torch.no_grad()
def losses_in_contexts(
    aggregator: nn.Module,
    answer_head: Callable[[Tensor], Tensor],
    sequence: Float[Tensor, "case step embed"],
    tokens: Float[Tensor, "case glimpse embed"],
    lengths: Sequence[int],
    losses: _Losses,
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
                alone = losses(answer_head(answer)[:, None])
                some = max(1, _AT_ONCE // len(tokens))
                beside = [_beside(aggregator, cache, answer_head, part, losses) for part in tokens.split(some, 1)]
                total += times * (torch.cat(beside, 1) - alone)
    finally:
        aggregator.train(training)
    return total / len(lengths)


def _beside(
    aggregator: nn.Module, cache: Cache, answer_head: Callable[[Tensor], Tensor], tokens: Tensor, losses: _Losses
) -> Float[Tensor, "case glimpse"]:
    """Returns the losses of the answers from a context, which the cache holds, and each of some glimpses."""
    count = tokens.shape[1]
    each = {
        name: kept.repeat_interleave(count, 0) if isinstance(kept, Tensor) else kept for name, kept in cache.items()
    }
    after, _ = cast(Aggregator, aggregator).step(tokens.flatten(0, 1), each)
    return losses(answer_head(after).unflatten(0, tokens.shape[:2]))
