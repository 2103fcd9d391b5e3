"""A feature extractor with which Stable-Baselines3's own algorithms can learn on glimpse environments."""

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
from glimpse.networks.cells import Cell, ImageCells
from glimpse.networks.encoder import ConvEncoder, TokenPool
from glimpse.spaces import OBSERVATION_KEYS

_AVERAGE_POOL: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


class GlimpseFeatures(BaseFeaturesExtractor):
    """Computes features of an observation, for Stable-Baselines3's own algorithms.

        PPO("MultiInputPolicy", FlattenAction(env), policy_kwargs=dict(features_extractor_class=GlimpseFeatures))

    The same encoder is used for the overview and the last glimpse. Images may have one, two or three axes, and any size
    and number of channels. The features are computed by one layer from

    - the glimpse, pooled to one token;
    - the overview, pooled to one token, and averaged in each part of a coarse grid, which keeps positions;
    - the share of foreground in each part of that grid;
    - the last location, and the share of the budget that is left.

    Stable-Baselines3's own algorithms are not recurrent: they decide from the overview and the last glimpse alone.

    Args:
        observation_space: The observations of a glimpse environment.
        features_dim: Number of features.
        encoder: `encoder(channels, ndim)` returns a `ConvEncoder`, or another network that turns images in [0, 255]
            into feature maps with `embed` channels.
        cell: Side of a cell of the overview's feature map in overview pixels, one number or one per axis, where it is
            to be narrower than the encoder's stride; None means the stride.
        grid: Number of parts of the overview per axis.
        normalize_images: Must have the same value as the option of this name of the policy. If it is True, the default,
            Stable-Baselines3 divides images of two axes by 255, but not volumes or signals; the division is undone
            here.

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
        cell: Cell = None,
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
        self._overviews = ImageCells(self.encoder, size, cell)
        for weight in self.encoder.parameters():  # Stable-Baselines3 initialises weights through `view`
            weight.data = weight.data.contiguous()
        self.pool = TokenPool(self.encoder.embed)
        inputs = 2 * self.encoder.embed + (self.encoder.embed + 1) * grid**ndim + ndim + 1
        self.project = nn.Sequential(nn.Linear(inputs, features_dim), nn.LayerNorm(features_dim), nn.ReLU())

    def apply(self, fn: Callable[[nn.Module], None]) -> "GlimpseFeatures":
        """Applies a function to all parts, except to an encoder that is pretrained.

        Stable-Baselines3 initialises all layers in this way, which would overwrite what the encoder has learned.
        """
        for name, part in self.named_children():
            if name != "encoder" or not getattr(part, "pretrained", False):
                part.apply(fn)
        fn(self)
        return self

    def forward(self, observations: dict[str, Tensor]) -> Float[Tensor, "batch features"]:
        pixels = {name: observations[name] * factor for name, factor in self.factors.items()}
        overview = self.encoder(self._overviews.enlarged(pixels["overview"]))
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
        """Returns the mean of an image or feature map (batch, channel, *size) in each part of the grid."""
        return _AVERAGE_POOL[len(self.grid)](image, self.grid).flatten(1)


def _overview_of(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Returns the space of overviews, after checking that all observations are there."""
    found = set(space.spaces) if isinstance(space, spaces.Dict) else set()
    missing = [name for name in OBSERVATION_KEYS if name not in found]
    if missing or not isinstance(space, spaces.Dict):
        raise SettingsError(
            f"GlimpseFeatures needs the observations {', '.join(OBSERVATION_KEYS)} of a glimpse environment; "
            f"{', '.join(missing)} missing in {space}."
        )
    return space["overview"]
