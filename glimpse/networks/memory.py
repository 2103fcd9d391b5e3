"""The memory: a recurrent state, updated by each token, from which the locator, stop and value heads compute."""

from jaxtyping import Float
from torch import Tensor, nn


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
        return self.cell(tokens)[0]
