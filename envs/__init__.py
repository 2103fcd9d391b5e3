"""Gymnasium environments: the base class, the built-in modalities, wrappers, a vector environment and a checker."""

from glimpse.envs.array import array_cases, make_array
from glimpse.envs.base import GlimpseEnv
from glimpse.envs.building import build_views
from glimpse.envs.checking import ContractError, check
from glimpse.envs.episode import Episode
from glimpse.envs.glyphs import (
    make_cluttered_mnist,
    make_gigapixel_mnist,
    make_megapixel_mnist,
    make_needle_mnist,
    make_relations,
)
from glimpse.envs.medical import make_ct, make_mri, make_photo, make_wsi, make_xray
from glimpse.envs.modality import make_modality
from glimpse.envs.vector import GlimpseVecEnv
from glimpse.envs.wrappers import FlattenAction

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
    "make_gigapixel_mnist",
    "make_megapixel_mnist",
    "make_modality",
    "make_mri",
    "make_needle_mnist",
    "make_photo",
    "make_relations",
    "make_wsi",
    "make_xray",
]
