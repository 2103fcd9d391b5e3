"""Gymnasium environments: one per modality over one base, wrappers, a vector environment and a contract checker."""

from glimpse.envs.array import array_cases, make_array
from glimpse.envs.base import GlimpseEnv
from glimpse.envs.building import build_views
from glimpse.envs.checking.checker import ContractError, check
from glimpse.envs.cluttered_mnist import make_cluttered_mnist
from glimpse.envs.ct import make_ct
from glimpse.envs.episode import Episode
from glimpse.envs.mnist import make_megapixel_mnist
from glimpse.envs.mri import make_mri
from glimpse.envs.relations import make_relations
from glimpse.envs.vector import GlimpseVecEnv
from glimpse.envs.wrappers import FlattenAction
from glimpse.envs.wsi import make_wsi
from glimpse.envs.xray import make_xray

__all__ = [
    "ContractError",
    "Episode",
    "FlattenAction",
    "GlimpseEnv",
    "GlimpseVecEnv",
    "array_cases",
    "build_views",
    "check",
    "make_array",
    "make_cluttered_mnist",
    "make_ct",
    "make_megapixel_mnist",
    "make_mri",
    "make_relations",
    "make_wsi",
    "make_xray",
]
