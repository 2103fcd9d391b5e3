"""A baseline that looks at random places of the foreground and learns only to answer."""

from torch import nn

from glimpse.agents.base import GlimpseAlgorithm
from glimpse.networks.locator import RandomLocator


class Random(GlimpseAlgorithm):
    """Supervised learning on glimpses at random foreground locations; also the warm-up of the other agents."""

    explores = False

    def override(self) -> nn.Module:
        return RandomLocator()
