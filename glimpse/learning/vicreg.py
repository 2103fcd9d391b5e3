"""VICReg: two views of a glimpse get the same embedding, with numbers that vary and do not repeat each other."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor, nn

from glimpse.learning.augment import Augment
from glimpse.learning.pretrainer import Pretrainer
from glimpse.networks.policy import GlimpsePolicy
from glimpse.ranks.sharing import one_of, over_all

_LEAST = 1e-4  # added to variances, so that their root has a gradient at 0


@dataclass(frozen=True)
class Weights:
    """Weights of the three parts of `vicreg_loss`."""

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0


def vicreg_loss(first: Float[Tensor, "batch d"], second: Float[Tensor, "batch d"], weights: Weights) -> Tensor:
    r"""The loss of Bardes et al. 2022, with means as in the authors' code, for n pairs x_i, y_i of d numbers.

    It is the sum, each with its weight, of

    - invariance: 1 / (n d) \sum_ij (x_ij - y_ij)^2,
    - variance: v(x) / 2 + v(y) / 2, where v(z) = 1/d \sum_j max(0, 1 - \sqrt{Var_i(z_ij) + 10^-4}),
    - covariance: c(x) + c(y), where c(z) = 1/d \sum_{j != k} C_jk^2 and C is the covariance matrix of z.

    Variances and covariances are divided by n - 1.
    """
    loss = weights.invariance * (first - second).square().mean()
    for views in (first, second):
        spread = (views.var(0) + _LEAST).sqrt()
        centred = views - views.mean(0)
        covariance = centred.T @ centred / (len(views) - 1)
        apart = covariance.square().sum() - covariance.diagonal().square().sum()
        loss = loss + weights.variance / 2 * (1 - spread).relu().mean() + weights.covariance / views.shape[1] * apart
    return loss


class VICRegPretrainer(Pretrainer):
    """VICReg on a pool of glimpses.

    Args:
        policy: The policy whose encoder and token pool are trained.
        pool: uint8 (count, channel, *size * margin), as `sample_glimpses` reads them.
        augment: Makes two random views of each glimpse.
        width: Numbers of an embedding on which the loss is computed.
        weights: Weights of the parts of the loss.
        **options: `batch` (at least 2), `learning_rate` and `seed`, as of `Pretrainer`.
    """

    def __init__(
        self,
        policy: GlimpsePolicy,
        pool: np.ndarray,
        augment: Augment,
        *,
        width: int = 256,
        weights: Weights = Weights(),
        **options: Any,
    ) -> None:
        embed = policy.width
        self.expander = nn.Sequential(
            nn.Linear(embed, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)
        )
        super().__init__(policy, pool, augment, {"expander": self.expander}, **options)
        self.weights = weights

    def loss(self, rows: Int64[Tensor, " glimpse"], images: Tensor) -> Tensor:
        embedded = self.policy.embed(self._two_views(images))
        first, second = (self.expander(over_all(views)) for views in embedded.chunk(2))
        return one_of(vicreg_loss(first, second, self.weights))
