"""Contrastive pretraining: the encoder learns, without labels, to tell glimpses of the training split apart."""

import math
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

_HARDLY = 0.98  # of the loss of an encoder to which all glimpses are alike
_ENOUGH = 100  # steps after which a loss as high as that is a bad sign


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
        self.share: Float[Tensor, ""] | None = None  # of the loss of such an encoder; a moving average

    def loss(self, rows: Int64[Tensor, " glimpse"], images: Tensor) -> Tensor:
        first, second = self.head(self.policy.embed(self._two_views(images))).chunk(2)
        first_of_all, second_of_all = over_all(first), over_all(second)
        loss = contrastive_loss(first_of_all, second_of_all, self.temperature)
        share = loss.detach() / math.log(max(2 * len(first_of_all) - 1, 2))
        self.share = share if self.share is None else 0.9 * self.share + 0.1 * share
        return one_of(loss) + self._further_loss(rows, first)

    def doubt(self) -> str | None:
        """What speaks against the encoder: glimpses look alike to it, as after too high a learning rate."""
        if self.done < _ENOUGH or self.share is None or not self.share.item() > _HARDLY:
            return None
        return (
            f"After {self.done} steps the encoder hardly tells glimpses apart: its contrastive loss is "
            f"{self.share.item():.1%} of what it is where all look alike. Lower pretrain.learning_rate; if that does "
            "not help, most glimpses of these images may show the same (see glimpse check)."
        )

    def _further_loss(self, rows: Int64[Tensor, " glimpse"], shown: Float[Tensor, "glimpse d"]) -> Tensor:
        """Returns what else is minimised, given the projections of the drawn glimpses; here nothing, 0."""
        return shown.new_zeros(())
