"""Contrastive pretraining: the encoder learns, without labels, to tell glimpses of the training split apart."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from glimpse.learning.augment import Augment
from glimpse.learning.pretrainer import Pretrainer
from glimpse.networks.policy import GlimpsePolicy
from glimpse.ranks.sharing import one_of, over_all


def contrastive_loss(first: Float[Tensor, "batch d"], second: Float[Tensor, "batch d"], temperature: float) -> Tensor:
    r"""NT-Xent (Chen et al. 2020): -log exp(z_i z_j / \tau) / \sum_{k != i} exp(z_i z_k / \tau), positives i, j.

    The mean is over all i of both views; z have length 1.
    """
    z = F.normalize(torch.cat([first, second]), dim=-1)
    similarity = (z @ z.T / temperature).fill_diagonal_(-1e9)
    batch = len(first)
    positives = torch.cat([torch.arange(batch) + batch, torch.arange(batch)]).to(z.device)
    return F.cross_entropy(similarity, positives)


class ContrastivePretrainer(Pretrainer):
    """SimCLR (Chen et al. 2020) on a pool of glimpses.

    Args:
        policy: The policy whose encoder and token pool are trained.
        pool: uint8 (count, channel, *size * margin), as `sample_glimpses` reads them.
        augment: Makes two random views of each glimpse.
        temperature: Temperature of `contrastive_loss`.
        **options: `batch`, `learning_rate` and `seed`, as of `Pretrainer`.
    """

    def __init__(
        self,
        policy: GlimpsePolicy,
        pool: np.ndarray,
        augment: Augment,
        *,
        temperature: float = 0.2,
        **options: Any,
    ) -> None:
        embed = policy.width
        self.head = nn.Sequential(nn.Linear(embed, 128), nn.ReLU(), nn.Linear(128, embed))
        super().__init__(policy, pool, augment, {"head": self.head}, **options)
        self.temperature = temperature

    def loss(self, rows: Int64[Tensor, " glimpse"], images: Tensor) -> Tensor:
        first, second = self.head(self.policy.embed(self._two_views(images))).chunk(2)
        loss = contrastive_loss(over_all(first), over_all(second), self.temperature)
        return one_of(loss) + self._further_loss(rows, first)

    def _further_loss(self, rows: Int64[Tensor, " glimpse"], shown: Float[Tensor, "glimpse d"]) -> Tensor:
        """Returns what else is minimised, given the projections of the drawn glimpses; here nothing, 0."""
        return shown.new_zeros(())
