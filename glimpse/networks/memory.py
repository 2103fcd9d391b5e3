"""The memory: a recurrent state, updated by each token, from which the locator, stop and value heads compute."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glimpse.networks.pieces import is_long, recomputed

_AT_ONCE = 32  # steps: each of them leaves many small tensors and nodes of the graph


class GRUMemory(nn.Module):
    """A gated recurrent unit over tokens (Cho et al. 2014); the state before the first token is zero."""

    def __init__(self, embed: int, hidden: int | None = None) -> None:
        super().__init__()
        self.hidden = hidden or embed
        self.cell = nn.GRU(embed, self.hidden, batch_first=True)

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
