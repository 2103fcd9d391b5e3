"""The shared encoder: overview and glimpses alike become a feature map, and the pooled map becomes a token."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
_CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

PerLayer = Sequence[int | Sequence[int]]


class ConvEncoder(nn.Module):
    """A small convolutional net with group normalisation, in 1, 2 or 3 dimensions and for any number of input channels.

    Pixels arrive as uint8 and are mapped to `(pixel - background) / 127.5`, so that what lies outside the image is the
    zero that the convolutions pad with.

    Args:
        channels: channels of the images.
        ndim: dimensions of the images.
        widths: output channels of each convolution; the last is the embedding's width.
        kernels: odd kernel sizes, one per convolution: a number for all axes, or one per axis ([1, 3, 3] leaves slices
            apart). A kernel may be wider than an axis.
        strides: likewise, none above its kernel; their product is the side of a cell in overview pixels. Where voxels
            are deeper than they are wide, [1, 2, 2] keeps slices while it halves the planes.
        groups: groups of each group normalisation.
        background: pixel value outside the image (255 for slides, 0 for most others).
        channels_last: keep channels beside each other in memory. Training becomes about a quarter quicker on
            processors (and more on GPUs), forward passes alone a tenth slower.
    """

    def __init__(
        self,
        channels: int,
        ndim: int = 2,
        widths: Sequence[int] = (16, 32, 64, 64),
        kernels: PerLayer = (5, 3, 3, 3),
        strides: PerLayer = (2, 2, 2, 1),
        groups: int = 4,
        background: float = 0.0,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        if not len(widths) == len(kernels) == len(strides):
            raise ValueError(
                f"Expected one kernel and one stride per width, got widths={list(widths)}, kernels={list(kernels)}, "
                f"strides={list(strides)}."
            )
        self.embed, self.ndim, self.background = widths[-1], ndim, background
        self.kernels, self.strides = _per_axis("kernels", kernels, ndim), _per_axis("strides", strides, ndim)
        _check_reach(self.kernels, self.strides)
        layers: list[nn.Module] = []
        for before, after, kernel, stride in zip([channels, *widths], widths, self.kernels, self.strides, strict=False):
            padding = tuple(side // 2 for side in kernel)
            convolution = _CONVOLUTIONS[ndim](before, after, kernel, stride, padding)
            layers += [convolution, nn.GroupNorm(groups, after), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.memory_format = _CHANNELS_LAST.get(ndim) if channels_last else None
        if self.memory_format is not None:
            self.layers.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Cells per axis of the feature map of an image of `size` pixels."""
        cells = tuple(size)
        for stride in self.strides:
            cells = tuple((n - 1) // step + 1 for n, step in zip(cells, stride, strict=True))
        return cells

    def forward(self, image: Tensor) -> Tensor:
        """Feature map (batch, embed, *grid(size)) of images in [0, 255], (batch, channel, *size)."""
        if self.memory_format is not None:
            image = image.contiguous(memory_format=self.memory_format)
        return self.layers((image.to(next(self.parameters()).dtype) - self.background) / 127.5)


def _per_axis(name: str, values: PerLayer, ndim: int) -> tuple[tuple[int, ...], ...]:
    """One number per axis and layer, from one per layer or one per axis and layer."""
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


def _check_reach(kernels: Sequence[tuple[int, ...]], strides: Sequence[tuple[int, ...]]) -> None:
    """Refuses kernels that shift cells against pixels, and strides that leap over pixels."""
    for kernel, stride in zip(kernels, strides, strict=True):
        if any(side % 2 == 0 for side in kernel):
            raise ValueError(f"Expected odd kernel sizes (they keep cells aligned with pixels), got {list(kernel)}.")
        if any(step > side for side, step in zip(kernel, stride, strict=True)):
            raise ValueError(
                f"A stride above its kernel leaps over pixels that no cell ever sees: got stride {list(stride)} with "
                f"kernel {list(kernel)}. Widen the kernel or shorten the stride."
            )


class TokenPool(nn.Module):
    """Mean and maximum of a feature map over its cells, standardised and projected to one token.

    What glimpses have in common is far larger than what sets them apart, and learning from few labels would spend its
    time on the former. So the pooled features are brought to mean 0 and standard deviation 1 over a sample of glimpses
    (`calibrate`), in the spirit of data-dependent initialisation (Krähenbühl et al. 2016); the statistics then stay.
    """

    shift: Tensor
    spread: Tensor
    bound = 6.0  # standard deviations: an overview is no glimpse, and must not drown what glimpses tell

    def __init__(self, embed: int) -> None:
        super().__init__()
        self.project = nn.Linear(2 * embed, embed)
        self.register_buffer("shift", torch.zeros(2 * embed))
        self.register_buffer("spread", torch.ones(2 * embed))

    def summary(self, features: Float[Tensor, "batch embed *cells"]) -> Float[Tensor, "batch pooled"]:
        """Mean and maximum over the cells, not yet standardised."""
        flat = features.flatten(2)
        return torch.cat([flat.mean(-1), flat.amax(-1)], -1)

    def calibrate(self, summaries: Float[Tensor, "batch pooled"]) -> None:
        """Sets the statistics to those of a sample of glimpses."""
        self.shift.copy_(summaries.mean(0))
        self.spread.copy_(summaries.std(0) + 1e-3)

    def token(self, summary: Float[Tensor, "*batch pooled"]) -> Float[Tensor, "*batch embed"]:
        """The token of a summary."""
        standardised = (summary - self.shift) / self.spread
        return self.project(standardised.clamp(-self.bound, self.bound))

    def forward(self, features: Float[Tensor, "batch embed *cells"]) -> Float[Tensor, "batch embed"]:
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
