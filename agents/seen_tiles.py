"""Embeds the tiles of a full scan, and looks up those that were embedded before, if features are kept on disk."""

from copy import deepcopy

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from glimpse.agents.tiles import read_tiles
from glimpse.networks.network import GlimpseNetwork
from glimpse.networks.places import KnownPlaces
from glimpse.sources import ImageSource
from glimpse.views import Views

_KIND = "pooled"  # as policies call the pooled features of glimpses, which are the same


class SeenTiles:
    """A copy of a policy's encoder and pool. It is safe from several threads.

    Args:
        policy: the policy; its `kept` knows whether the encoder was trained.
    """

    def __init__(self, policy: GlimpseNetwork) -> None:
        self.encoder, self.pool = deepcopy(policy.encoder).eval(), deepcopy(policy.pool).eval()
        self.kept = deepcopy(policy.kept)

    @classmethod
    def of(cls, policy: object) -> "SeenTiles | None":
        """Returns the tiles of a policy; None for what only embeds images."""
        return cls(policy) if isinstance(policy, GlimpseNetwork) else None

    @torch.no_grad()
    def embeddings(
        self, source: ImageSource, views: Views, tiles: Int[np.ndarray, "tile d"], zoom: int = 0
    ) -> Float[Tensor, "tile embed"] | None:
        """Returns the embeddings of neighbouring tiles; None if features are not kept on disk.

        If one of them is missing, all are read, so that what is seen of a tile never depends on what else is missing.
        """
        shelf = self.kept.shelf(self.encoder, _KIND, (source.channels, *views.glimpse_size))
        if shelf is None:
            return None
        device, places = next(self.encoder.parameters()).device, KnownPlaces(shelf)
        extent = views.extent(source, zoom)

        def regions() -> tuple[np.ndarray, np.ndarray]:
            return (tiles + 0.5) * extent, np.broadcast_to(extent, tiles.shape)

        def read(missing: list[int]) -> np.ndarray:
            return read_tiles(views, source, tiles, zoom)[missing]

        def compute(images: Tensor) -> Tensor:
            return self.pool.summary(self.encoder(images.to(device)))

        glanced = places.glance(source, views, len(tiles), regions, read, "tile")
        pooled = places.features([glanced], lambda images: self.kept.of(self.encoder, images, _KIND, compute))
        return pooled.float().cpu()
