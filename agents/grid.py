"""A baseline that looks at a regular grid over the foreground and learns only to answer."""

from torch import nn

from glimpse.agents.base import GlimpseAlgorithm
from glimpse.networks.locator import GridLocator


class Grid(GlimpseAlgorithm):
    """Supervised learning on glimpses at the points of a regular grid, as many as the budget allows."""

    explores = False

    def override(self) -> nn.Module:
        return GridLocator(int(self.max_glimpses or 0))
