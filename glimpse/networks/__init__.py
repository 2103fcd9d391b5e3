"""The parts of a glimpse policy, one per file: encoder, memory, locator, aggregator, network and policy."""

from glimpse.networks.aggregator import AttentionPooling, CausalTransformer, MeanPooling, ScorePooling
from glimpse.networks.encoder import ConvEncoder, LocationEmbedding, TokenPool
from glimpse.networks.locator import GaussianLocator, GridLocator, PointerLocator, RandomLocator
from glimpse.networks.memory import GRUMemory
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.pretrained import EfficientNetLite0

__all__ = [
    "AttentionPooling",
    "CausalTransformer",
    "ConvEncoder",
    "EfficientNetLite0",
    "GRUMemory",
    "GaussianLocator",
    "GlimpsePolicy",
    "GridLocator",
    "LocationEmbedding",
    "MeanPooling",
    "PointerLocator",
    "RandomLocator",
    "ScorePooling",
    "TokenPool",
]
