"""Any network of PyTorch as an encoder: what it returns becomes the feature map of whole cells."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from glimpse.errors import SettingsError, UserError
from glimpse.geometry import CellGrid
from glimpse.networks.adapters import Trainable, choose_trained, freeze_statistics
from glimpse.networks.encoder import whole_cells
from glimpse.spaces import axes_and_channels

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys under which files of weights often hold them
_MOST_OTHERS = 17  # class and register tokens


class EncoderError(UserError, ValueError):
    """A network or its weights cannot be used as an encoder; the message says why."""


class ModuleEncoder(nn.Module):
    """A network of PyTorch as an encoder of planes.

    Normalisation: `(pixel / 255 - mean) / std`, one mean and one std per channel of the network. A single channel of
    the images is given to each of them. Input size: with `input_size`, images that are larger are cut into squares of
    that side, and smaller ones are enlarged to it; without, the network takes any whole number of cells. Resolution:
    that of the images which the network was trained on; glimpses should be read at it.

    The network returns one of these, which is found out by a trial with zeros:

    - a map (batch, embed, rows, columns) with one row and column for each `stride` pixels;
    - tokens (batch, token, embed), one for each patch of `stride` x `stride` pixels, row by row; any others, such as
      class and register tokens, come first and are left out;
    - a vector (batch, embed): images are then cut into cells of `stride` pixels, and each of them, enlarged to
      `input_size`, is encoded by itself.

    Args:
        channels: channels of the images, 1 or as many as `mean` has.
        ndim: dimensions of the images, which must be 2.
        module: the network; in a configuration, a section with its `_target_`.
        stride: side of a cell in pixels.
        embed: number of features; None finds it out.
        mean: mean of each channel, for pixels from 0 to 1. The defaults are those of ImageNet.
        std: standard deviation of each channel.
        input_size: side of the images that the network takes; None: any whole number of cells.
        checkpoint: file of its weights, in the format of safetensors or of `torch.save`, of which only tensors are
            read; None: the network has its weights already.
        background: pixel value outside the image; pretraining uses it to augment glimpses.
        trainable: which of the weights train: 0 for none, a number for so many of the last blocks, or "all".
        lora_rank: rank of low-rank adapters, which train beside the weights that do not; 0 for no adapters.

    Raises:
        EncoderError: the weights do not fit the network, or it returns something else.
        SettingsError: an argument has an impossible value.
    """

    padding = "replicate"
    costly = True  # features of images are worth keeping on disk (see `KeptFeatures`)
    pretrained = True

    def __init__(
        self,
        channels: int,
        ndim: int = 2,
        module: Any = None,
        stride: int | None = None,
        embed: int | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        input_size: int | None = None,
        checkpoint: str | None = None,
        background: float = 0.0,
        trainable: Trainable = 0,
        lora_rank: int = 0,
    ) -> None:
        super().__init__()
        _check(module, stride, channels, ndim, mean, std, input_size)
        assert stride is not None
        self.ndim, self.stride, self.input_size, self.background = ndim, stride, input_size, background
        self.mean, self.std = tuple(float(value) for value in mean), tuple(float(value) for value in std)
        self.module = module
        if checkpoint is not None:
            load_weights(self.module, checkpoint)
        self.vectors, self.others = False, 0
        self.embed = self._tried(embed)
        choose_trained(self, blocks_of(self.module), trainable, lora_rank)
        self.train()

    def grid(self, size: Sequence[int]) -> CellGrid:
        """Returns the cells that the feature map of an image of `size` pixels has."""
        return CellGrid(tuple(size), (self.stride,) * self.ndim)

    def train(self, mode: bool = True) -> "ModuleEncoder":
        """Sets the mode of everything but batch normalisation; a network that does not train stays as when it is used.

        So it has no dropout, and features that are kept are those that would be computed again.
        """
        super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))
        freeze_statistics(self)
        return self

    def forward(self, image: Tensor) -> Float[Tensor, "batch embed rows columns"]:
        """Returns the feature map (batch, embed, *grid(size).cells) of images (batch, channel, *size) in [0, 255]."""
        grid = self.grid(image.shape[2:])
        image = whole_cells(self._normalised(image), grid, self.padding)
        rows, columns = grid.cells
        if self.vectors:
            return self._joined(_cut(image, self.stride), rows, columns)
        side = self.input_size
        if side is None:
            return self._map(image)
        if max(image.shape[2:]) <= side:
            larger = F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False)
            return F.adaptive_avg_pool2d(self._map(larger), (rows, columns))
        high, wide = (-(-n // side) for n in image.shape[2:])
        squares = F.pad(image, (0, wide * side - image.shape[3], 0, high * side - image.shape[2]), mode="replicate")
        return self._joined(_cut(squares, side), high, wide)[..., :rows, :columns]

    def _normalised(self, image: Tensor) -> Tensor:
        like = next(self.parameters(), torch.zeros(()))
        mean, std = (torch.tensor(values, dtype=like.dtype, device=image.device) for values in (self.mean, self.std))
        return (image.to(like.dtype) / 255 - mean[:, None, None]) / std[:, None, None]

    def _joined(self, squares: Tensor, rows: int, columns: int) -> Tensor:
        """Encodes squares (batch * rows * columns, channel, side, side) and joins their maps to one."""
        if self.vectors and self.input_size is not None:
            size = (self.input_size, self.input_size)
            squares = F.interpolate(squares, size=size, mode="bilinear", align_corners=False)
        maps = self._map(squares)
        own = maps.shape[-1]
        maps = maps.view(-1, rows, columns, self.embed, own, own).permute(0, 3, 1, 4, 2, 5)
        return maps.reshape(len(maps), self.embed, rows * own, columns * own)

    def _map(self, image: Tensor) -> Tensor:
        """Returns what the network makes of normalised images, as a map; a vector is a map of one cell."""
        features = self.run(image)
        if features.ndim == 2:
            return features[..., None, None]
        cells = tuple(-(-n // self.stride) for n in image.shape[2:])
        if features.ndim == 3:
            count = cells[0] * cells[1]
            if features.shape[1] != count + self.others:
                raise self._misfit(features, image, cells)
            return features[:, -count:].transpose(1, 2).unflatten(2, cells)
        if features.ndim != 4 or tuple(features.shape[2:]) != cells:
            raise self._misfit(features, image, cells)
        return features

    def run(self, image: Tensor) -> Tensor:
        """Runs the network on normalised images; a subclass may take what it needs from the result."""
        return self.module(image)

    @torch.no_grad()
    def _tried(self, embed: int | None) -> int:
        """Finds out what the network returns, and with how many features."""
        self.eval()
        side = self.input_size or 4 * self.stride
        image = next(self.parameters(), torch.zeros(())).new_zeros(1, len(self.mean), side, side)
        features = self.run(image)
        self.vectors = features.ndim == 2
        if not self.vectors and side % self.stride:
            raise SettingsError(f"Expected input_size as a multiple of the stride {self.stride}, got {side}.")
        count = (side // self.stride) ** 2
        self.others = features.shape[1] - count if features.ndim == 3 else 0
        if self.others >= min(count, _MOST_OTHERS):  # tokens of smaller patches
            raise self._misfit(features, image, (side // self.stride,) * 2)
        found = int(self._map(image).shape[1])
        if self.input_size is None and not self.vectors:
            self._map(image.new_zeros(1, len(self.mean), side, 2 * side))
        if embed not in (None, found):
            raise SettingsError(f"Expected embed of {found}, which is what the network has, got {embed}.")
        return found

    def _misfit(self, features: Tensor, image: Tensor, cells: tuple[int, ...]) -> EncoderError:
        pixels, wanted = (" x ".join(map(str, sizes)) for sizes in (image.shape[2:], cells))
        return EncoderError(
            f"{type(self.module).__name__} returns {tuple(features.shape)} for an image of {pixels} pixels, where a "
            f"stride of {self.stride} has {wanted} cells. Set network.encoder.stride to the pixels of each row."
        )


def _check(
    module: Any, stride: int | None, channels: int, ndim: int, mean: Sequence[float], std: Sequence[float], side: Any
) -> None:
    if not isinstance(module, nn.Module):
        raise SettingsError(
            f"Expected module as a torch.nn.Module, got {module!r}. Name its class or a function that makes it: "
            "'network.encoder.module={_target_: package.Class}'."
        )
    if stride is None or stride < 1:
        raise SettingsError(f"Expected a stride of at least 1 pixel, got {stride}. Type network.encoder.stride=16.")
    if side is not None and side < 1:
        raise SettingsError(f"Expected an input_size of at least 1 pixel, got {side}.")
    if len(mean) != len(std) or not mean or min(std) <= 0:
        raise SettingsError(f"Expected one mean and one std above 0 per channel, got {list(mean)} and {list(std)}.")
    if ndim != 2 or channels not in (1, len(mean)):
        raise SettingsError(
            f"This encoder takes planes of 1 or {len(mean)} channels, got {axes_and_channels(ndim, channels)}. Give "
            "one mean and one std per channel, or take network/encoder=planar (volumes) or network/encoder=small."
        )


def _cut(image: Tensor, side: int) -> Tensor:
    """Cuts images (batch, channel, rows * side, columns * side) into squares (batch * rows * columns, ...)."""
    squares = image.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # batch, channel, row, y, column, x
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Returns the blocks of a network: the longest list or sequence of modules in it, and nothing if it has none."""
    lists = [part for part in network.modules() if isinstance(part, nn.ModuleList | nn.Sequential)]
    return list(max(lists, key=len)) if lists else []


def load_weights(network: nn.Module, path: str) -> None:
    """Loads the weights of a network from a local file, without unpickling anything but tensors.

    Raises:
        EncoderError: the file is missing or broken, or its weights are those of another network.
    """
    try:
        if Path(path).suffix == ".safetensors":
            weights: Any = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise EncoderError(f"{path}: there is no such file of weights. Name one that exists.") from error
    except (OSError, RuntimeError, UnpicklingError, SafetensorError, EOFError, ValueError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EncoderError(
            f"{path}: these weights cannot be read ({why}). Save them as safetensors, or with torch.save."
        ) from error
    for key in _WRAPPERS:
        if isinstance(weights, Mapping) and isinstance(weights.get(key), Mapping):
            weights = weights[key]
    if not isinstance(weights, Mapping) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise EncoderError(f"{path}: expected named tensors, a state_dict. Save network.state_dict() with torch.save.")
    own = network.state_dict()
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    wrong += [name for name in weights if name not in own]
    if wrong:
        raise EncoderError(
            f"{path}: the weights are not those of {type(network).__name__}: {len(wrong)} tensors are "
            f"missing, too many or of another shape, such as {', '.join(wrong[:3])}. Name the file of this network."
        )
    network.load_state_dict(dict(weights))
