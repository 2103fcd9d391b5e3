"""The memory: a recurrent state, updated by each token, from which decisions and their values are computed."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glimpse.networks.pieces import is_long, recomputed
from glimpse.settings.options import at_least

_AT_ONCE = 32  # steps: each of them leaves many small tensors and nodes of the graph


class LooksLeft(nn.Module):
    """Lets decisions depend on how many glimpses may still be read; in the beginning they do not.

    These are the choice of a field of view, and of stopping, and values. Places do not depend on it: when they did,
    fewer answers were right (`docs/results.md`).

    Args:
        hidden: Size of the states of a memory.
        most: The budget of training. With more left, decisions are as with so many.

    Raises:
        SettingsError: `most` is less than 1.
    """

    def __init__(self, hidden: int, most: int) -> None:
        super().__init__()
        at_least("looks_left", most, 1, whole=True)
        self.most, self.weight = most, nn.Parameter(torch.zeros(hidden))

    def forward(
        self, states: Float[Tensor, "*batch hidden"], left: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch hidden"]:
        """Returns the states of a memory, each with what `left` glimpses before the end add to it."""
        share = left.clamp(0, self.most).to(states) / self.most
        return states + share[..., None] * self.weight


class GRUMemory(nn.Module):
    """A gated recurrent unit over tokens (Cho et al. 2014); the state before the first token is zero.

    Args:
        embed: Size of the tokens.
        hidden: Size of the state; None means that of the tokens.
        looks_left: The budget of training, if fields of view, stopping and values are to depend on how many glimpses
            may still be read (see `LooksLeft`). With None they depend on what was seen only. Another memory may have
            an attribute `looks_left`, too, which is None or a `LooksLeft`.
    """

    def __init__(self, embed: int, hidden: int | None = None, looks_left: int | None = None) -> None:
        super().__init__()
        self.hidden = hidden or embed
        self.cell = nn.GRU(embed, self.hidden, batch_first=True)
        self.looks_left = None if looks_left is None else LooksLeft(self.hidden, looks_left)

    def step(
        self, token: Float[Tensor, "batch embed"], state: Float[Tensor, "batch hidden"]
    ) -> Float[Tensor, "batch hidden"]:
        """Returns the state after one more token."""
        return self.cell(token[:, None], state[None].contiguous())[1][0]

    def forward(self, tokens: Float[Tensor, "batch time embed"]) -> Float[Tensor, "batch time hidden"]:
        """Returns the state after each of the tokens."""
        if not is_long(tokens.shape[1]):
            return self.cell(tokens)[0]
        states, state = [], tokens.new_zeros(len(tokens), 1, self.hidden)
        for piece in tokens.split(_AT_ONCE, 1):
            states.append(recomputed(self._from, piece, state, draws=False))
            state = states[-1][:, -1:]
        return torch.cat(states, 1)

    def _from(
        self, tokens: Float[Tensor, "batch time embed"], state: Float[Tensor, "batch 1 hidden"]
    ) -> Float[Tensor, "batch time hidden"]:
        return self.cell(tokens, state.transpose(0, 1).contiguous())[0]
