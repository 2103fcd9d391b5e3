"""The shared encoder: it turns overviews and glimpses into feature maps, which are pooled into one token each."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from glimpse.geometry import CellGrid

_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
_CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

PerLayer = Sequence[int | Sequence[int]]


class ConvEncoder(nn.Module):
    """A small convolutional network with group normalisation, for images of 1, 2 or 3 dimensions and any channels.

    Pixels are uint8 and are mapped to `(pixel - background) / 127.5`. Pixels outside the image thereby become 0, the
    value with which convolutions pad.

    Every cell of the feature map is computed from pixels around the middle of the pixels that it stands for. A kernel k
    with stride s is padded by (k - s) / 2 on either side, so k - s must be even.

    Args:
        channels: number of channels of the images.
        ndim: number of dimensions of the images.
        widths: output channels of each convolution; the last one is the width of the embedding.
        kernels: kernel sizes, one entry per convolution: a number for all axes, or one per axis ([1, 3, 3] does not mix
            slices). A kernel may be wider than an axis of the image, and is as wide as its stride or wider by an even
            number. With None, each kernel is wider than its stride by 2.
        strides: one entry per convolution, a number or one per axis. Their product is the side of a cell in overview
            pixels. Where voxels are deeper than wide, [1, 2, 2] keeps the number of slices.
        groups: number of groups of each group normalisation.
        background: pixel value outside the image (255 for slides, 0 for most others).
        channels_last: whether to use PyTorch's memory format "channels last". Training becomes about a quarter faster
            on CPUs (and more on GPUs), but forward passes alone become a tenth slower.
    """

    def __init__(
        self,
        channels: int,
        ndim: int = 2,
        widths: Sequence[int] = (16, 32, 64, 64),
        kernels: PerLayer | None = None,
        strides: PerLayer = (2, 2, 2, 1),
        groups: int = 4,
        background: float = 0.0,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.embed, self.ndim, self.background = widths[-1], ndim, background
        self.strides = _per_axis("strides", strides, ndim)
        wider = [tuple(step + 2 for step in layer) for layer in self.strides]
        self.kernels = _per_axis("kernels", wider if kernels is None else kernels, ndim)
        if not len(widths) == len(self.kernels) == len(self.strides):
            raise ValueError(
                f"Expected one kernel and one stride per width, got {len(widths)} widths, {len(self.kernels)} kernels "
                f"and {len(self.strides)} strides: widths={list(widths)}, kernels={kernels}, strides={strides}."
            )
        _check_alignment(self.kernels, self.strides)
        self.cell = tuple(math.prod(steps) for steps in zip(*self.strides, strict=True))
        layers: list[nn.Module] = []
        for before, after, kernel, stride in zip([channels, *widths], widths, self.kernels, self.strides, strict=False):
            padding = tuple((side - step) // 2 for side, step in zip(kernel, stride, strict=True))
            convolution = _CONVOLUTIONS[ndim](before, after, kernel, stride, padding)
            layers += [convolution, nn.GroupNorm(groups, after), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.memory_format = _CHANNELS_LAST.get(ndim) if channels_last else None
        if self.memory_format is not None:
            self.layers.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def grid(self, size: Sequence[int]) -> CellGrid:
        """Returns the cells that the feature map of an image of `size` pixels has."""
        return CellGrid(tuple(size), self.cell)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the feature map (batch, embed, *grid(size).cells) of images (batch, channel, *size) in [0, 255]."""
        if self.memory_format is not None:
            image = image.contiguous(memory_format=self.memory_format)
        pixels = (image.to(next(self.parameters()).dtype) - self.background) / 127.5
        return self.layers(whole_cells(pixels, self.grid(image.shape[2:])))


def whole_cells(image: Tensor, grid: CellGrid, mode: str = "constant") -> Tensor:
    """Pads images (batch, channel, *size) to a whole number of cells, with zeros or as another mode of `F.pad`."""
    margins = [side for axis in reversed(grid.margins) for side in axis]  # `F.pad` begins with the last axis
    return F.pad(image, margins, mode=mode) if any(margins) else image


def _per_axis(name: str, values: PerLayer, ndim: int) -> tuple[tuple[int, ...], ...]:
    """Returns one number per layer and axis; `values` has one per layer, or one per layer and axis."""
    layers = []
    for value in values:
        layer = (value,) * ndim if isinstance(value, int) else tuple(int(side) for side in value)
        if len(layer) != ndim or min(layer) < 1:
            raise ValueError(
                f"Expected each of {name} to be a number above 0, or {ndim} of them (one per axis of the images), got "
                f"{value}."
            )
        layers.append(layer)
    return tuple(layers)


def _check_alignment(kernels: Sequence[tuple[int, ...]], strides: Sequence[tuple[int, ...]]) -> None:
    """Refuses kernels whose cells would not lie in the middle of what they see, and strides that skip pixels."""
    for kernel, stride in zip(kernels, strides, strict=True):
        if any(step > side for side, step in zip(kernel, stride, strict=True)):
            raise ValueError(
                f"A stride above its kernel leaps over pixels that no cell ever sees: got stride {list(stride)} with "
                f"kernel {list(kernel)}. Widen the kernel or shorten the stride."
            )
        if any((side - step) % 2 for side, step in zip(kernel, stride, strict=True)):
            raise ValueError(
                f"Expected kernels as wide as their strides, or wider by an even number, got kernel {list(kernel)} "
                f"with stride {list(stride)}: its cells would point beside what they see. Take "
                f"{[side + (side - step) % 2 for side, step in zip(kernel, stride, strict=True)]}, or leave kernels "
                "out."
            )


class TokenPool(nn.Module):
    """Pools a feature map over its cells (mean and maximum), standardises the result and projects it to one token.

    The pooled features of different glimpses have a large common part and differ little, which makes learning from few
    labels slow. They are therefore scaled to mean 0 and standard deviation 1 over a sample of glimpses (`calibrate`),
    similar to data-dependent initialisation (Krähenbühl et al. 2016). The statistics are not trained.

    Args:
        embed: Features of a cell.
        width: Width of tokens; None means `embed`.
        levels: How many kinds of images have statistics of their own; `level` is the index of a kind.
    """

    shift: Tensor
    spread: Tensor
    bound = 6.0  # in standard deviations; clips overviews, whose features are far from those of glimpses

    def __init__(self, embed: int, width: int | None = None, levels: int = 1) -> None:
        super().__init__()
        self.project, self.levels = nn.Linear(2 * embed, width or embed), levels
        shape = (2 * embed,) if levels == 1 else (levels, 2 * embed)
        self.register_buffer("shift", torch.zeros(shape))
        self.register_buffer("spread", torch.ones(shape))

    def summary(self, features: Float[Tensor, "batch embed *cells"]) -> Float[Tensor, "batch pooled"]:
        """Returns mean and maximum over the cells, not yet standardised."""
        flat = features.flatten(2)
        return torch.cat([flat.mean(-1), flat.amax(-1)], -1)

    def calibrate(self, summaries: Float[Tensor, "batch pooled"], level: int | None = None) -> None:
        """Sets the statistics to those of the summaries of a sample of images, for one level or for all of them."""
        here = slice(None) if level is None or self.levels == 1 else level
        self.shift[here] = summaries.mean(0)
        self.spread[here] = (summaries.std(0) if len(summaries) > 1 else torch.zeros_like(summaries[0])) + 1e-3

    def token(
        self, summary: Float[Tensor, "*batch pooled"], level: Int[Tensor, "*batch"] | int = 0
    ) -> Float[Tensor, "*batch width"]:
        """Standardises a summary and projects it to a token."""
        shift, spread = (self.shift, self.spread) if self.levels == 1 else (self.shift[level], self.spread[level])
        standardised = (summary - shift) / spread
        return self.project(standardised.clamp(-self.bound, self.bound))

    def forward(self, features: Float[Tensor, "batch embed *cells"]) -> Float[Tensor, "batch width"]:
        return self.token(self.summary(features))


class LocationEmbedding(nn.Module):
    """Embeds a location in [-1, 1]^d by sines and cosines of four octaves and a small perceptron."""

    octaves: Tensor

    def __init__(self, ndim: int, embed: int, octaves: int = 4) -> None:
        super().__init__()
        self.register_buffer("octaves", 2.0 ** torch.arange(octaves) * math.pi / 2, persistent=False)
        self.project = nn.Sequential(nn.Linear(2 * octaves * ndim, embed), nn.ReLU(), nn.Linear(embed, embed))

    def forward(self, location: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch embed"]:
        waves = (location[..., None] * self.octaves).flatten(-2)
        return self.project(torch.cat([waves.sin(), waves.cos()], -1))
