"""What all ways of learning without labels share: a pool of glimpses, random views of them, steps, and their state."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from glimpse.learning.augment import Augment
from glimpse.learning.trainer import Trainer
from glimpse.networks.devices import to_device
from glimpse.networks.policy import GlimpsePolicy
from glimpse.ranks.sharing import add_gradients, align, sharing, total

CALIBRATION = 2048
"""So many glimpses set the statistics of the policy's `TokenPool`."""


class Pretrainer(Trainer):
    """Trains a policy's encoder on a pool of glimpses, without labels; subclasses have the method `loss`.

    The encoder may have any weights to begin with. Only those of its parameters are trained that require a gradient.

    Args:
        policy: The policy whose encoder and token pool are trained.
        pool: uint8 (count, channel, *size * margin), as `sample_glimpses` reads them.
        augment: Makes random views of glimpses.
        heads: Networks that are trained beside the encoder and not needed afterwards, by the names they have in
            checkpoints.
        batch: Glimpses per step.
        learning_rate: Learning rate of AdamW.
        seed: Seed of the choice of glimpses and of their views.

    Attributes:
        done: How many steps have been made.
    """

    side_by_side = 1  # so many of the drawn glimpses stay in one rank

    def __init__(
        self,
        policy: GlimpsePolicy,
        pool: np.ndarray,
        augment: Augment,
        heads: Mapping[str, nn.Module],
        *,
        batch: int = 128,
        learning_rate: float = 2e-3,
        seed: int = 0,
    ) -> None:
        self.policy, self.augment, self.done = policy, augment, 0
        self.heads = {name: head.to(policy.device) for name, head in heads.items()}
        self.pool = torch.from_numpy(pool)
        self.batch = min(batch, len(pool))
        parts = (policy.encoder, policy.pool, *self.heads.values())
        trained = [one for part in parts for one in part.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, learning_rate)
        self.generator = torch.Generator().manual_seed(seed)

    def calibrate(self, count: int = CALIBRATION) -> None:
        """Sets the statistics of the policy's `TokenPool` from the first `count` glimpses, without their margin."""
        self.policy.calibrate(middles(self.pool.numpy(), self.augment.size)[:count])
        align([self.policy])

    def step(self) -> Float[Tensor, ""]:
        """Makes one update and returns its loss, for which nobody waits as long as it stays on its device."""
        drawn = self._draw().unflatten(0, (-1, self.side_by_side))
        with sharing(len(drawn)) as own:
            rows = drawn[own].flatten()
            loss = self.loss(rows, to_device(self.pool[rows], self.policy.device))
            self.optimizer.zero_grad()
            loss.backward()
            add_gradients(self.optimizer)
            self.optimizer.step()
            self._stepped()
            self.done += 1
            return total(loss).detach()

    def loss(self, rows: Int64[Tensor, " glimpse"], images: Tensor) -> Tensor:
        """Returns what is minimised; with several ranks, this one's part of it (see `glimpse.ranks.sharing`).

        Args:
            rows: The indices of the drawn glimpses in the pool.
            images: These glimpses, uint8 (glimpse, channel, *size * margin), on the policy's device.
        """
        raise NotImplementedError

    def doubt(self) -> str | None:
        """Returns what speaks against using what was learned, for a warning; here nothing."""
        return None

    def modules(self) -> dict[str, nn.Module]:
        """The policy and the heads."""
        return {"policy": self.policy, **self.heads}

    def _stepped(self) -> None:
        """Does what follows the optimizer's step; here nothing."""

    def _draw(self) -> Int64[Tensor, " glimpse"]:
        """Draws the glimpses of a step, as indices into the pool."""
        return torch.randint(len(self.pool), (self.batch,), generator=self.generator)

    def _two_views(self, images: Tensor) -> Tensor:
        """Returns two random views of each image, (2 glimpse, channel, *size): all first ones, then all second ones."""
        return torch.cat([self.augment(images, self.generator) for _ in range(2)])


def middles(pool: np.ndarray, size: Sequence[int]) -> Tensor:
    """Returns the glimpses of a pool without their margin, uint8 (glimpse, channel, *size)."""
    margins = [(have - want) // 2 for have, want in zip(pool.shape[2:], size, strict=True)]
    centre = tuple(slice(margin, margin + want) for margin, want in zip(margins, size, strict=True))
    return torch.from_numpy(pool[(slice(None), slice(None), *centre)])
