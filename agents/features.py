"""What stock algorithms of Stable-Baselines3 need to see glimpses: features of an observation, in any dimension."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from glimpse.errors import SettingsError
from glimpse.networks.encoder import ConvEncoder, TokenPool
from glimpse.spaces import OBSERVATION_KEYS

_AVERAGE_POOL: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


class GlimpseFeatures(BaseFeaturesExtractor):
    """Features of an observation, for the algorithms that Stable-Baselines3 brings itself.

        PPO("MultiInputPolicy", FlattenAction(env), policy_kwargs=dict(features_extractor_class=GlimpseFeatures))

    One encoder sees the overview and the last glimpse, so that what it learns from one it knows in the other. Images
    may have one, two or three axes, and any size and number of channels. The features are a layer over

    - the glimpse, pooled to one token;
    - the overview, pooled to one token, and averaged over a coarse grid, which keeps where something lies;
    - the share of foreground in each part of that grid, which says where looking can make sense;
    - the last location, and the share of the budget that is left.

    Stock algorithms are not recurrent: what they decide, they decide from the overview and the last glimpse alone.

    Args:
        observation_space: Of a glimpse environment.
        features_dim: Length of the features.
        encoder: `encoder(channels, ndim) -> ConvEncoder` or alike: a network from images in [0, 255] to feature maps
            with `.embed` channels.
        grid: Parts of the overview per axis.
        normalize_images: The option of the same name of Stable-Baselines3's policies. While it is on, as it is by
            default, they divide what they take for an image (uint8, two axes and channels, 0 to 255) by 255, but not a
            volume or a signal; the encoder gets all of them in [0, 255] again. Say False here where the policy is told
            `normalize_images=False`.

    Raises:
        SettingsError: The observations are not those of a glimpse environment.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        features_dim: int = 128,
        encoder: Callable[[int, int], Any] = ConvEncoder,
        grid: int = 4,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(observation_space, features_dim)
        channels, *size = _overview_of(observation_space).shape or ()
        ndim = len(size)
        self.grid = (grid,) * ndim
        self.factors = {
            name: 255.0 if normalize_images and is_image_space(observation_space[name]) else 1.0
            for name in ("overview", "foreground", "glimpse")
        }
        self.encoder = encoder(channels, ndim)
        for weight in self.encoder.parameters():  # Stable-Baselines3 initialises weights through `view`
            weight.data = weight.data.contiguous()
        self.pool = TokenPool(self.encoder.embed)
        inputs = 2 * self.encoder.embed + (self.encoder.embed + 1) * grid**ndim + ndim + 1
        self.project = nn.Sequential(nn.Linear(inputs, features_dim), nn.LayerNorm(features_dim), nn.ReLU())

    def forward(self, observations: dict[str, Tensor]) -> Float[Tensor, "batch features"]:
        pixels = {name: observations[name] * factor for name, factor in self.factors.items()}
        overview = self.encoder(pixels["overview"])
        parts = [
            self.pool(self.encoder(pixels["glimpse"])),
            self.pool(overview),
            self._parts(overview),
            self._parts(pixels["foreground"] / 255.0),
            observations["location"],
            observations["remaining"],
        ]
        return self.project(torch.cat(parts, 1))

    def _parts(self, image: Tensor) -> Float[Tensor, "batch channels_and_parts"]:
        """The mean of an image or feature map (batch, channel, *size) in each part of the grid."""
        return _AVERAGE_POOL[len(self.grid)](image, self.grid).flatten(1)


def _overview_of(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space of overviews, once it is known that all observations are there."""
    found = set(space.spaces) if isinstance(space, spaces.Dict) else set()
    missing = [name for name in OBSERVATION_KEYS if name not in found]
    if missing or not isinstance(space, spaces.Dict):
        raise SettingsError(
            f"GlimpseFeatures needs the observations {', '.join(OBSERVATION_KEYS)} of a glimpse environment; "
            f"{', '.join(missing)} missing in {space}."
        )
    return space["overview"]
