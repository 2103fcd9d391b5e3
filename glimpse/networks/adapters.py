"""Which parameters of a pretrained network train: all, some, none, or low-rank adapters beside frozen weights."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from glimpse.errors import SettingsError

Trainable = int | Literal["all"]


class LowRank(nn.Module):
    r"""A linear layer or a 1x1 convolution W with a low-rank adapter: W x + B A x.

    A has `rank` rows, and W does not train. B begins as zeros, so that the layer begins as it was.
    Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, with its factor alpha / rank of 1.
    """

    def __init__(self, layer: nn.Module, rank: int) -> None:
        super().__init__()
        self.layer = layer
        if isinstance(layer, nn.Linear):
            rank = min(rank, layer.in_features, layer.out_features)
            self.down: nn.Module = nn.Linear(layer.in_features, rank, bias=False)
            self.up: nn.Module = nn.Linear(rank, layer.out_features, bias=False)
        else:
            assert isinstance(layer, nn.Conv2d)
            rank = min(rank, layer.in_channels, layer.out_channels)
            self.down = nn.Conv2d(layer.in_channels, rank, 1, bias=False)
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) + self.up(self.down(inputs))


def _takes_adapter(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.groups == 1
    # The attention of PyTorch reads the weight of this layer without calling it.
    return isinstance(layer, nn.Linear) and not isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear)


def adapt(network: nn.Module, rank: int, besides: Sequence[nn.Module] = ()) -> None:
    """Puts a `LowRank` in place of each linear layer and 1x1 convolution, except in the parts `besides`."""
    for name, layer in list(network.named_children()):
        if any(layer is part for part in besides):
            continue
        if _takes_adapter(layer):
            setattr(network, name, LowRank(layer, rank))
        else:
            adapt(layer, rank, besides)


def choose_trained(network: nn.Module, blocks: Sequence[nn.Module], trainable: Trainable, lora_rank: int = 0) -> None:
    """Sets `requires_grad` of a network's parameters, and adds adapters to it.

    Args:
        network: The network.
        blocks: Its blocks, in the order in which they are passed.
        trainable: "all"; or how many of the last blocks train, the others and everything else being frozen; 0 for none.
        lora_rank: Rank of the adapters of frozen layers, which train; 0 for no adapters.

    Raises:
        SettingsError: There are not so many blocks; or there is nothing left to adapt, as everything trains.
    """
    whole = trainable == "all"
    count = 0 if isinstance(trainable, str) else trainable
    if isinstance(trainable, bool) or (isinstance(trainable, str) and not whole) or not 0 <= count <= len(blocks):
        raise SettingsError(
            f"Expected trainable as 'all' or as the number of last blocks that train, 0 to {len(blocks)}, got "
            f"{trainable!r}."
        )
    if lora_rank < 0 or (lora_rank and whole):
        raise SettingsError(
            f"lora_rank={lora_rank} with trainable={trainable}: adapters stand beside weights that do not train. Take "
            "trainable=0 with a lora_rank above 0, or lora_rank=0."
        )
    network.requires_grad_(whole)
    trained = list(blocks[len(blocks) - count :])
    if lora_rank:
        adapt(network, lora_rank, besides=trained)
    for block in trained:
        block.requires_grad_(True)


def learns(network: nn.Module) -> bool:
    """Returns whether a network has any parameter that trains."""
    return any(parameter.requires_grad for parameter in network.parameters())


def freeze_statistics(network: nn.Module) -> None:
    """Puts every batch normalisation into the mode in which it uses its stored statistics."""
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


def normalised(image: Tensor, mean: Tensor, std: Tensor, like: torch.dtype) -> Tensor:
    """Returns (pixel - mean) / std of images (batch, channel, *size), with one mean and std per channel."""
    shape = (1, -1, *[1] * (image.ndim - 2))
    return (image.to(like) - mean.to(like).view(shape)) / std.to(like).view(shape)
