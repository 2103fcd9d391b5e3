"""Contrastive pretraining: the encoder learns, without labels, to tell glimpses of the training split apart."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from glimpse.cohort import Case
from glimpse.learning.augment import Augment
from glimpse.learning.trainer import Trainer
from glimpse.networks.policy import GlimpsePolicy
from glimpse.sources import ImageSource
from glimpse.views import Views

CALIBRATION = 2048
"""So many glimpses set the statistics of the policy's `TokenPool`."""


def sample_glimpses(
    cases: Sequence[Case],
    views: Views,
    count: int,
    *,
    margin: float = 1.0,
    seed: int = 0,
    threads: int = 2,
    progress: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """Reads glimpses at random foreground locations of random cases; returns uint8 (count, channel, *size).

    Args:
        cases: The cases to read.
        views: Sizes and fields of view of glimpses.
        count: How many glimpses to read in all.
        margin: Factor by which field of view and size are enlarged, as room for shifts and turns.
        seed: Seed of the choice of cases and locations.
        threads: How many threads read.
        progress: Called for each case with the number of glimpses that are read from it.
    """
    rng = np.random.default_rng(seed)
    per_case = np.bincount(rng.integers(len(cases), size=count), minlength=len(cases))
    seeds = rng.integers(2**63, size=len(cases))

    def read(index: int) -> list[np.ndarray]:
        source, number = cases[index].source, int(per_case[index])
        locations, zooms = random_places(views, source, number, np.random.default_rng(seeds[index]))
        if progress is not None:
            progress(number)
        both = zip(locations, zooms.tolist(), strict=True)
        return [views.glimpse(source, location, zoom, margin) for location, zoom in both]

    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(itertools.chain.from_iterable(pool.map(read, np.flatnonzero(per_case).tolist()))))


def random_places(
    views: Views, source: ImageSource, count: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "count d"], Int64[np.ndarray, " count"]]:
    """Draws locations in [-1, 1] evenly from a source's foreground, and for each the index of a field of view."""
    inside = views.foreground(source)[0] > 0
    pixels = np.argwhere(inside)[rng.integers(int(inside.sum()), size=count)]
    size = np.array(inside.shape)
    locations = (pixels + rng.random((count, len(size)))) / size * 2 - 1
    return locations.astype(np.float32), rng.integers(len(views.glimpse_extents), size=count)


def contrastive_loss(first: Float[Tensor, "batch d"], second: Float[Tensor, "batch d"], temperature: float) -> Tensor:
    r"""NT-Xent (Chen et al. 2020): -log exp(z_i z_j / \tau) / \sum_{k != i} exp(z_i z_k / \tau), positives i, j."""
    z = F.normalize(torch.cat([first, second]), dim=-1)
    similarity = (z @ z.T / temperature).fill_diagonal_(-1e9)
    batch = len(first)
    positives = torch.cat([torch.arange(batch) + batch, torch.arange(batch)]).to(z.device)
    return F.cross_entropy(similarity, positives)


class ContrastivePretrainer(Trainer):
    """SimCLR (Chen et al. 2020) on a pool of glimpses.

    Args:
        policy: The policy whose encoder and token pool are trained.
        pool: uint8 (count, channel, *size * margin), as `sample_glimpses` reads them.
        augment: Makes two random views of each glimpse.
        batch: Glimpses per step; each of them gives two views.
        learning_rate: Learning rate of AdamW.
        temperature: Temperature of `contrastive_loss`.
        seed: Seed of the choice of glimpses and of their views.

    Attributes:
        done: How many steps have been made.
    """

    def __init__(
        self,
        policy: GlimpsePolicy,
        pool: np.ndarray,
        augment: Augment,
        *,
        batch: int = 128,
        learning_rate: float = 2e-3,
        temperature: float = 0.2,
        seed: int = 0,
    ) -> None:
        embed = policy.encoder.embed
        self.head = nn.Sequential(nn.Linear(embed, 128), nn.ReLU(), nn.Linear(128, embed)).to(policy.device)
        self.policy, self.augment, self.done = policy, augment, 0
        self.pool = torch.from_numpy(pool)
        self.batch, self.temperature = min(batch, len(pool)), temperature
        trained = [*policy.encoder.parameters(), *policy.pool.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(trained, learning_rate)
        self.generator = torch.Generator().manual_seed(seed)

    def calibrate(self, count: int = CALIBRATION) -> None:
        """Sets the statistics of the policy's `TokenPool` from the first `count` glimpses, without their margin."""
        margins = [(have - want) // 2 for have, want in zip(self.pool.shape[2:], self.augment.size, strict=True)]
        centre = tuple(slice(m, m + size) for m, size in zip(margins, self.augment.size, strict=True))
        self.policy.calibrate(self.pool[(slice(count), slice(None), *centre)])

    def step(self) -> float:
        """Makes one update and returns its loss."""
        policy = self.policy
        rows = self._draw()
        images = self.pool[rows].to(policy.device)
        views = [self.augment(images, self.generator) for _ in range(2)]
        first, second = self.head(policy.embed(torch.cat(views))).chunk(2)
        loss = contrastive_loss(first, second, self.temperature) + self._further_loss(rows, first)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.done += 1
        return loss.item()

    def _draw(self) -> Int64[Tensor, " glimpse"]:
        """Draws the glimpses of a step, as indices into the pool."""
        return torch.randint(len(self.pool), (self.batch,), generator=self.generator)

    def _further_loss(self, rows: Int64[Tensor, " glimpse"], shown: Float[Tensor, "glimpse d"]) -> Tensor:
        """Returns what else is minimised, given the projections of the drawn glimpses; here nothing, 0."""
        return shown.new_zeros(())

    def modules(self) -> dict[str, nn.Module]:
        """The policy and the projection head."""
        return {"policy": self.policy, "head": self.head}
