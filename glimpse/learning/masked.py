"""Masked prediction: from the rest of a glimpse, the encoder learns to tell how hidden parts of it are textured."""

import functools
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from glimpse.errors import SettingsError
from glimpse.geometry import CellGrid
from glimpse.learning.augment import Augment
from glimpse.learning.pretrainer import CALIBRATION, Pretrainer, middles
from glimpse.networks.encoder import whole_cells
from glimpse.networks.policy import GlimpsePolicy
from glimpse.ranks.sharing import own_rows, total

_POOL: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_STEPS = (1, 2, 4)  # pixels between those that are compared
_CHUNK = 256  # glimpses whose statistics are computed at once


def local_statistics(images: Tensor, grid: CellGrid) -> Float[Tensor, "batch statistic *cells"]:
    r"""Returns how the pixels of each cell are distributed, for each channel; texture, with p in units of 127.5.

    These are the mean of p, its standard deviation, and, for each step s of 1, 2 and 4 pixels that an axis has, the
    root of the mean of (p(x + s e_a) - p(x))^2 along each axis a, and the mean of the product of the differences along
    each two axes, which tells in which diagonal direction lines run. Pixels beyond an edge repeat it.

    Args:
        images: Pixels in [0, 255], (batch, channel, *size).
        grid: The cells of images of this size.
    """
    pixels = whole_cells(images.float() / 127.5, grid, "replicate")
    ndim = pixels.ndim - 2

    def averaged(values: Tensor) -> Tensor:
        return _POOL[ndim](values, grid.side)

    mean = averaged(pixels)
    found = [mean, (averaged(pixels.square()) - mean.square()).clamp_min(0).add(1e-6).sqrt()]
    for step in _STEPS:
        axes = [axis for axis in range(2, 2 + ndim) if pixels.shape[axis] > step]
        changes = [_change(pixels, axis, step) for axis in axes]
        found += [averaged(change.square()).add(1e-6).sqrt() for change in changes]
        found += [averaged(one * other) for i, one in enumerate(changes) for other in changes[:i]]
    return torch.cat(found, 1)


def _change(pixels: Tensor, axis: int, step: int) -> Tensor:
    """Returns how much larger the pixel is that lies `step` further along an axis; beyond the edge, the last."""
    count = pixels.shape[axis]
    further = torch.arange(step, count + step, device=pixels.device).clamp_max(count - 1)
    return pixels.index_select(axis, further) - pixels


def random_masks(
    count: int, grid: CellGrid, patch: int, share: float, generator: torch.Generator
) -> Bool[Tensor, "count *cells"]:
    """Draws which cells of each image are hidden: whole patches of neighbours, at least one, and never all.

    Args:
        count: How many masks to draw.
        grid: The cells.
        patch: Side of a patch, in cells; at most half the cells of an axis, rounded up.
        share: Share of the patches that are hidden, rounded to a whole number of patches.
        generator: Draws them.
    """
    sides = [min(patch, math.ceil(cells / 2)) for cells in grid.cells]
    patches = [math.ceil(cells / side) for cells, side in zip(grid.cells, sides, strict=True)]
    number = math.prod(patches)
    hidden = min(max(round(share * number), 1), max(number - 1, 1))
    order = own_rows(functools.partial(torch.rand, generator=generator), count, number).argsort(1)
    masks = (order < hidden).view(count, *patches)
    for axis, (side, cells) in enumerate(zip(sides, grid.cells, strict=True), start=1):
        masks = masks.repeat_interleave(side, axis).narrow(axis, 0, cells)
    return masks


def hidden_pixels(
    images: Float[Tensor, "batch channel *size"], masks: Bool[Tensor, "batch *cells"], grid: CellGrid
) -> Float[Tensor, "batch channel *size"]:
    """Returns images whose hidden cells have, in each channel, the mean of the pixels that are not hidden."""
    hidden = masks
    for axis, (side, margin, size) in enumerate(zip(grid.side, grid.margins, images.shape[2:], strict=True), start=1):
        hidden = hidden.repeat_interleave(side, axis).narrow(axis, margin[0], size)
    shown = (~hidden)[:, None].to(images)
    axes = tuple(range(2, images.ndim))
    mean = (images * shown).sum(axes, keepdim=True) / shown.sum(axes, keepdim=True).clamp_min(1)
    return torch.where(hidden[:, None], mean, images)


def masked_loss(
    predicted: Float[Tensor, "batch k *cells"],
    true: Float[Tensor, "batch k *cells"],
    masks: Bool[Tensor, "batch *cells"],
) -> Tensor:
    r"""The mean of (predicted - true)^2 over all hidden cells M: 1 / (|M| k) \sum_{i in M} |p_i - t_i|^2."""
    wrong = (predicted - true).square().mean(1)
    hidden = wrong[masks]
    return hidden.mean() * (hidden.numel() / total(torch.tensor(hidden.numel())).item())


class Predictor(nn.Module):
    """Predicts standardised statistics of all cells from the features of those that are not hidden.

    Args:
        ndim: Axes of the images.
        embed: Features of a cell.
        statistics: Statistics of the cells of a sample of glimpses, (batch, statistic, *cells). Their mean and standard
            deviation are those with which statistics are standardised.
        width: Channels between the convolutions.
    """

    shift: Tensor
    spread: Tensor

    def __init__(self, ndim: int, embed: int, statistics: Tensor, width: int = 128) -> None:
        super().__init__()
        convolution = _CONVOLUTIONS[ndim]
        self.layers = nn.Sequential(
            convolution(embed + 1, width, 3, padding=1),
            nn.ReLU(),
            convolution(width, width, 3, padding=1),
            nn.ReLU(),
            convolution(width, statistics.shape[1], 1),
        )
        flat = statistics.transpose(0, 1).flatten(1)
        shape = (-1, *[1] * ndim)
        self.register_buffer("shift", flat.mean(1).view(shape))
        self.register_buffer("spread", (flat.std(1, correction=0) + 1e-3).view(shape))

    def standardised(self, statistics: Tensor) -> Tensor:
        """Returns statistics of mean 0 and standard deviation 1 over the sample."""
        return (statistics - self.shift) / self.spread

    def forward(self, features: Tensor, masks: Bool[Tensor, "batch *cells"]) -> Float[Tensor, "batch k *cells"]:
        hidden = masks[:, None].to(features)
        return self.layers(torch.cat([features * (1 - hidden), hidden], 1))


class MaskedPretrainer(Pretrainer):
    """Masked prediction on a pool of glimpses.

    Some patches of each glimpse are hidden from the encoder. From its features of the cells that remain, a small
    convolutional network predicts the `local_statistics` of the hidden ones, standardised over the pool, so that a
    blind guess has a loss of about 1. The targets are not learned and therefore cannot collapse.
    Source: after MaskFeat (Wei et al. 2022), which predicts histograms of gradients; these statistics exist for any
    number of axes.

    Args:
        policy: The policy whose encoder is trained; its token pool is not.
        pool: uint8 (count, channel, *size * margin), as `sample_glimpses` reads them.
        augment: Makes one random view of each glimpse.
        share: Share of the patches that are hidden.
        patch: Side of a patch, in cells of the encoder.
        **options: `batch`, `learning_rate` and `seed`, as of `Pretrainer`.

    Raises:
        SettingsError: Glimpses have a single cell, of which no part can be hidden.
    """

    def __init__(
        self,
        policy: GlimpsePolicy,
        pool: np.ndarray,
        augment: Augment,
        *,
        share: float = 0.5,
        patch: int = 2,
        **options: Any,
    ) -> None:
        self.grid: CellGrid = policy.encoder.grid(augment.size)
        if math.prod(self.grid.cells) == 1:
            raise SettingsError(
                f"pretrain=masked: a glimpse of {' x '.join(map(str, augment.size))} pixels is a single cell of the "
                "encoder, and no part of it can be hidden. Choose a larger env.make.glimpse_size, or pretrain=vicreg."
            )
        parts = middles(pool, augment.size)[:CALIBRATION].split(_CHUNK)
        statistics = torch.cat([local_statistics(part, self.grid) for part in parts])
        self.predictor = Predictor(len(augment.size), policy.encoder.embed, statistics)
        super().__init__(policy, pool, augment, {"predictor": self.predictor}, **options)
        self.share, self.patch = share, patch

    def loss(self, rows: Int64[Tensor, " glimpse"], images: Tensor) -> Tensor:
        views = self.augment(images, self.generator)
        masks = random_masks(len(views), self.grid, self.patch, self.share, self.generator).to(views.device)
        features = self.policy.encode(hidden_pixels(views, masks, self.grid))
        true = self.predictor.standardised(local_statistics(views, self.grid))
        return masked_loss(self.predictor(features, masks), true, masks)
