"""The parts of a glimpse policy, one per file: encoder, memory, locator, aggregator, network and policy."""

from glimpse.networks.aggregator import AttentionPooling, CausalTransformer, MeanPooling, ScorePooling
from glimpse.networks.blind import GridLocator, RandomLocator
from glimpse.networks.encoder import ConvEncoder, LocationEmbedding, TokenPool
from glimpse.networks.foreign import HuggingFaceEncoder, TimmEncoder
from glimpse.networks.locator import GaussianLocator, PointerLocator
from glimpse.networks.memory import GRUMemory
from glimpse.networks.modules import ModuleEncoder
from glimpse.networks.planar import PlanarEncoder
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.pretrained import EfficientNetLite, EfficientNetLite0, EfficientNetLite1, EfficientNetLite2

__all__ = [
    "AttentionPooling",
    "CausalTransformer",
    "ConvEncoder",
    "EfficientNetLite",
    "EfficientNetLite0",
    "EfficientNetLite1",
    "EfficientNetLite2",
    "GRUMemory",
    "GaussianLocator",
    "GlimpsePolicy",
    "GridLocator",
    "HuggingFaceEncoder",
    "LocationEmbedding",
    "MeanPooling",
    "ModuleEncoder",
    "PlanarEncoder",
    "PointerLocator",
    "RandomLocator",
    "ScorePooling",
    "TimmEncoder",
    "TokenPool",
]
