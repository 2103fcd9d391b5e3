"""The aggregator: turns the tokens of all glimpses so far into one embedding, from which the answer is computed.

Every aggregator can run in two ways with the same result: `forward` takes a whole sequence and returns the embedding of
each of its prefixes (for training), and `step` takes one token at a time with a cache (for rollouts). A cache is a
dictionary of tensors whose first axis is the batch; `length` (batch,) counts the tokens of each row, so that rows may
have different numbers of tokens. What else it says, such as the number of steps, is on the host: nobody waits for a
device.
"""

import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glimpse.networks.pieces import STEPS_AT_ONCE, is_long, recomputed
from glimpse.networks.top_k import means_of_highest
from glimpse.ranks.sharing import Dropout

Cache = dict[str, Any]

_ROOM = 8  # the fewest steps for which a cache has memory


class Aggregator(Protocol):
    """The interface of aggregators."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Returns the embedding of every prefix of the tokens, both (batch, time, embed)."""

    def empty(self, token: Tensor, steps: int | None = None) -> Cache:
        """Returns the cache before the first token; `token` (batch, embed) only gives its size, type and device.

        Where it is known that there will be `steps` tokens at most, memory is made once for all of them, and without
        gradients `step` writes into it: each cache may be passed on once only. With None, memory grows, and caches stay
        as they are.
        """

    def step(self, token: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Takes one more token (batch, embed); returns the embedding of all so far (batch, embed) and the new cache."""


def _zero_lengths(token: Tensor) -> Tensor:
    return torch.zeros(len(token), dtype=torch.long, device=token.device)


def _room(steps: int) -> int:
    """Returns for how many steps there is memory where so many are needed: 8, 16, 32 and so on."""
    return max(_ROOM, 1 << (steps - 1).bit_length())


class _Block(nn.Module):
    """One transformer layer with normalisation first: attention, then a perceptron of twice the width."""

    def __init__(self, embed: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, Dropout(dropout)
        self.norm_attention, self.norm_perceptron = nn.LayerNorm(embed), nn.LayerNorm(embed)
        self.qkv, self.out = nn.Linear(embed, 3 * embed), nn.Linear(embed, embed)
        self.perceptron = nn.Sequential(nn.Linear(embed, 2 * embed), nn.ReLU(), nn.Linear(2 * embed, embed))

    def project(self, x: Float[Tensor, "batch time embed"]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values, each (batch, head, time, embed / head)."""
        qkv = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        return query, key, value

    def in_pieces(self, x: Float[Tensor, "batch time embed"]) -> Float[Tensor, "batch time embed"]:
        """Returns the layer's result for a long sequence; only keys and values are there at once for all of it."""
        pieces = x.split(STEPS_AT_ONCE, 1)
        known = torch.cat([recomputed(self._known, piece) for piece in pieces], 2)
        ends = itertools.accumulate(piece.shape[1] for piece in pieces)
        return torch.cat(
            [recomputed(self._piece, x, known[:, :, :end]) for x, end in zip(pieces, ends, strict=True)], 1
        )

    def _known(self, x: Tensor) -> Float[Tensor, "batch head time both"]:
        """Returns keys and values."""
        return torch.cat(self.project(x)[1:], -1)

    def _piece(self, x: Tensor, known: Tensor) -> Tensor:
        """Returns the layer's result for the last steps of a sequence, from its keys and values so far."""
        (key, value), (last, steps) = known.chunk(2, -1), (x.shape[1], known.shape[2])
        seen = torch.ones(last, steps, dtype=torch.bool, device=x.device).tril(steps - last)
        return self.finish(x, F.scaled_dot_product_attention(self.project(x)[0], key, value, attn_mask=seen))

    def finish(self, x: Tensor, attended: Tensor) -> Float[Tensor, "batch time embed"]:
        """Adds the result of attention (batch, head, time, embed / head), and then that of the perceptron."""
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.perceptron(self.norm_perceptron(x)))


class CausalTransformer(nn.Module):
    """A causal transformer: one pass gives the embedding of every prefix of a sequence (Vaswani et al. 2017).

    Tokens contain the location of their glimpse, but not its position in the sequence, so that sequences can become
    longer than those of training.

    Args:
        embed: Width of tokens.
        layers: Number of layers.
        heads: Number of heads of each layer.
        dropout: Probability, in training, that a number that a layer adds is left out. With few cases, it keeps the
            answers from being learned by heart.
    """

    def __init__(self, embed: int, layers: int = 2, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"Expected dropout of at least 0 and below 1, got {dropout}.")
        if embed % heads:
            raise ValueError(
                f"Expected an embedding divisible by the number of heads, got {embed} and {heads}. Choose another "
                "network.width or network.aggregator.heads."
            )
        self.embed, self.heads = embed, heads
        self.blocks = nn.ModuleList(_Block(embed, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(embed)

    def _layers(self) -> Iterator["_Block"]:
        return (block for block in self.blocks if isinstance(block, _Block))

    def forward(self, tokens: Float[Tensor, "batch time embed"]) -> Float[Tensor, "batch time embed"]:
        for block in self._layers():
            if is_long(tokens.shape[1]):
                tokens = recomputed(block.in_pieces, tokens)
                continue
            query, key, value = block.project(tokens)
            tokens = block.finish(tokens, F.scaled_dot_product_attention(query, key, value, is_causal=True))
        return self.norm(tokens)

    def weights(self, tokens: Float[Tensor, "batch time embed"]) -> Float[Tensor, "batch layer head time time"]:
        """Returns how much each token attends to itself and to those before it, without gradients.

        With q_s and k_t the queries and keys of a head, both of d numbers, `w_st = exp(q_s . k_t / sqrt(d))` for t <= s
        and 0 for later tokens, divided by its sum over t.
        """
        count, layers = tokens.shape[1], []
        later = torch.ones(count, count, dtype=torch.bool, device=tokens.device).triu(1)
        with torch.no_grad():
            for block in self._layers():
                query, key, value = block.project(tokens)
                scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
                layers.append(scores.masked_fill(later, -torch.inf).softmax(-1))
                tokens = block.finish(tokens, layers[-1] @ value)
        return torch.stack(layers, 1)

    def empty(self, token: Tensor, steps: int | None = None) -> Cache:
        cache = {"length": _zero_lengths(token), "steps": 0, "in_place": steps is not None}
        room = _room(1 if steps is None else steps)
        for i in range(len(self.blocks)):
            for name in ("key", "value"):
                cache[f"{name}{i}"] = token.new_zeros(len(token), self.heads, room, self.embed // self.heads)
        return cache

    def step(self, token: Float[Tensor, "batch embed"], cache: Cache) -> tuple[Tensor, Cache]:
        length, rows, in_place = cache["length"], torch.arange(len(token), device=token.device), cache["in_place"]
        cache = {**cache, "length": length + 1, "steps": cache["steps"] + 1}
        x = token[:, None]
        for i, block in enumerate(self._layers()):
            query, key, value = block.project(x)
            # Attention to what is not there yet is left out as far as memory would have been made without `steps`.
            room = _room(cache["steps"]) if in_place else max(_room(cache["steps"]), cache[f"key{i}"].shape[2])
            for name, new in (("key", key), ("value", value)):
                cache[f"{name}{i}"] = self._append(cache[f"{name}{i}"], new, rows, length, room, in_place)
            keys, values = (cache[f"{name}{i}"][:, :, :room] for name in ("key", "value"))
            seen = torch.arange(room, device=token.device) <= length[:, None]
            attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen[:, None, None])
            x = block.finish(x, attended)
        return self.norm(x[:, 0]), cache

    @staticmethod
    def _append(stored: Tensor, new: Tensor, rows: Tensor, length: Tensor, room: int, in_place: bool) -> Tensor:
        """Returns `stored` with `new` written at each row's own length, and with memory for `room` steps at least.

        `stored` itself changes where it may (`in_place`) and no gradient needs it.
        """
        if room > stored.shape[2]:
            stored = F.pad(stored, (0, 0, 0, room - stored.shape[2]))
        elif not in_place or torch.is_grad_enabled() or stored.requires_grad:
            stored = stored.clone()
        stored[rows, :, length] = new[:, :, 0]
        return stored


class AttentionPooling(nn.Module):
    r"""Gated attention pooling (Ilse, Tomczak, Welling, ICML 2018), over every prefix.

    a_t = w^T (tanh(V h_t) * sigmoid(U h_t)) and z_t = sum_{s <= t} exp(a_s) h_s / sum_{s <= t} exp(a_s).
    Here h_t are the tokens and z_t is the embedding after t of them. Each weight depends on one token only, so that
    tokens cannot be related to each other.
    """

    def __init__(self, embed: int, hidden: int = 64) -> None:
        super().__init__()
        self.embed = embed
        self.tanh, self.gate, self.weight = nn.Linear(embed, hidden), nn.Linear(embed, hidden), nn.Linear(hidden, 1)

    def attention(self, tokens: Float[Tensor, "*batch embed"]) -> Float[Tensor, "*batch"]:
        """Returns the logarithms a of the weights, not normalised."""
        return self.weight(self.tanh(tokens).tanh() * self.gate(tokens).sigmoid())[..., 0]

    def forward(self, tokens: Float[Tensor, "batch time embed"]) -> Float[Tensor, "batch time embed"]:
        attention = self.attention(tokens)
        time = tokens.shape[1]
        later = torch.ones(time, time, dtype=torch.bool, device=tokens.device).triu(1)
        return attention[:, None].masked_fill(later, -torch.inf).softmax(-1) @ tokens

    def empty(self, token: Tensor, steps: int | None = None) -> Cache:
        return {
            "length": _zero_lengths(token),
            "log_total": token.new_full((len(token),), -torch.inf),
            "mean": torch.zeros_like(token),
        }

    def step(self, token: Float[Tensor, "batch embed"], cache: Cache) -> tuple[Tensor, Cache]:
        attention = self.attention(token)
        log_total = torch.logaddexp(cache["log_total"], attention)
        share = (attention - log_total).exp()[:, None]
        mean = cache["mean"] + share * (token - cache["mean"])
        return mean, {"length": cache["length"] + 1, "log_total": log_total, "mean": mean}


class MeanPooling(nn.Module):
    """The embedding of a prefix is the mean of its tokens."""

    def __init__(self, embed: int) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, tokens: Float[Tensor, "batch time embed"]) -> Float[Tensor, "batch time embed"]:
        count = torch.arange(1, tokens.shape[1] + 1, device=tokens.device, dtype=tokens.dtype)
        return tokens.cumsum(1) / count[:, None]

    def empty(self, token: Tensor, steps: int | None = None) -> Cache:
        return {"length": _zero_lengths(token), "mean": torch.zeros_like(token)}

    def step(self, token: Float[Tensor, "batch embed"], cache: Cache) -> tuple[Tensor, Cache]:
        length = cache["length"] + 1
        mean = cache["mean"] + (token - cache["mean"]) / length[:, None].to(token.dtype)
        return mean, {"length": length, "mean": mean}


class ScorePooling(nn.Module):
    r"""Pools scores of single glimpses, and adds what glimpses say together as far as that earns its weight.

    z_t = W m_t + g r_t. Here m_t is, for each of a few linear scores of a token, the mean of its `highest` largest
    values among the first t tokens (of all, if there are fewer), and r_t is the embedding that a causal transformer
    gives. The weight g begins at 0, as in ReZero (Bachlechner et al. 2021), so that answers begin as those of scores
    alone. With few cases, a transformer alone learns them by heart; the mean of the highest scores does so less, and it
    finds what few of many glimpses show (top-k pooling in multiple-instance learning).

    Args:
        embed: Width of tokens.
        scores: Number of scores of a token; at least the number of outputs.
        highest: How many of the highest values of a score are averaged.
        layers, heads, dropout: As for `CausalTransformer`; with 0 layers, answers come from scores alone.
    """

    def __init__(
        self, embed: int, scores: int = 8, highest: int = 4, layers: int = 2, heads: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if scores < 1 or highest < 1:
            raise ValueError(f"Expected scores and highest of at least 1, got {scores} and {highest}.")
        self.embed, self.highest = embed, highest
        self.score, self.mix = nn.Linear(embed, scores), nn.Linear(scores, embed)
        self.together = CausalTransformer(embed, layers, heads, dropout) if layers else None
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Float[Tensor, "batch time embed"]) -> Float[Tensor, "batch time embed"]:
        pooled = self.mix(means_of_highest(self.score(tokens), self.highest))
        return pooled if self.together is None else pooled + self.weight * self.together(tokens)

    def empty(self, token: Tensor, steps: int | None = None) -> Cache:
        cache = {"length": _zero_lengths(token)} if self.together is None else self.together.empty(token, steps)
        cache["highest"] = token.new_full((len(token), self.highest, self.score.out_features), -torch.inf)
        return cache

    def step(self, token: Float[Tensor, "batch embed"], cache: Cache) -> tuple[Tensor, Cache]:
        values = torch.cat([cache["highest"], self.score(token)[:, None]], 1).topk(self.highest, 1).values
        there = values > -torch.inf
        pooled = self.mix(values.masked_fill(~there, 0.0).sum(1) / there.sum(1))
        if self.together is None:
            return pooled, {"length": cache["length"] + 1, "highest": values}
        together, after = self.together.step(token, cache)
        return pooled + self.weight * together, {**after, "highest": values}
