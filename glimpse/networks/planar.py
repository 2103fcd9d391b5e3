"""Planar networks on volumes: slices of the three orientations are encoded, and their maps lie on one grid."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glimpse.errors import SettingsError
from glimpse.geometry import CellGrid
from glimpse.networks.encoder import whole_cells
from glimpse.networks.pretrained import EfficientNetLite0


class PlanarEncoder(nn.Module):
    """A planar network on volumes, with shared weights for the slices of all three orientations.

    A cell is a box of voxels. For each orientation, `slices` slices of each cell, evenly spaced, are enlarged so that
    the cell has as many pixels along each side as the stride of the planar network, and are encoded. The mean over the
    slices of a cell gives a map on the cells; the features of the three maps stand side by side. Glimpses and overviews
    are encoded alike, so what a locator learns of cells and what answers learn of glimpses are of the same kind.

    Normalisation: that of the planar network. A volume of one channel is given to it with the slices before and behind
    as two more channels, unless `neighbours` is false. Input size: any. Resolution: a planar network of natural images
    sees little in a few voxels, hence the enlargement; `scale` is 2 to 4 as a rule.
    Source: the views are those of Roth et al., A New 2.5D Representation for Lymph Node Detection, 2014.

    Args:
        channels: channels of the volumes, 1, 2 or as many as the planar network takes. Of two, the mean is the third.
        ndim: dimensions of the volumes, which must be 3.
        planar: `planar(channels, 2)` returns the planar network, an encoder such as `EfficientNetLite0`.
        scale: by how much slices are enlarged, one number or one per axis (depth, height, width). The side of a cell in
            voxels is the stride of the planar network divided by it, which must be a whole number.
        slices: how many slices of each cell are encoded along each axis.
        axes: the axes across which there are slices, each once; None means all three. Where voxels are much deeper than
            wide, (0,) leaves the blurred slices out, and features are a third as many.
        neighbours: whether a single channel is given with the slices beside it.
        background: voxel value outside the volume; pretraining uses it to augment glimpses.

    Raises:
        SettingsError: an argument has an impossible value.
    """

    padding = "replicate"
    costly = True  # features of images are worth keeping on disk (see `KeptFeatures`)
    pretrained = True

    def __init__(
        self,
        channels: int,
        ndim: int = 3,
        planar: Callable[[int, int], Any] = EfficientNetLite0,
        scale: int | Sequence[int] = 2,
        slices: int = 1,
        axes: Sequence[int] | None = None,
        neighbours: bool = True,
        background: float = 0.0,
    ) -> None:
        super().__init__()
        if ndim != 3:
            raise SettingsError(
                f"This encoder takes volumes, of three axes, got {ndim}. Take network/encoder=efficientnet_lite0."
            )
        self.neighbours = neighbours and channels == 1
        self.ndim, self.background = ndim, background
        self.two = channels == 2
        self.planar = planar(3 if self.neighbours or self.two else channels, 2)
        (stride, _) = self.planar.grid((1, 1)).side
        scales = (scale,) * ndim if isinstance(scale, int) else tuple(scale)
        if len(scales) != ndim or min(scales) < 1 or any(stride % one for one in scales):
            raise SettingsError(
                f"Expected scale as a number that divides the stride {stride} of the planar network, or three of them, "
                f"got {scale}. Type network.encoder.scale=2."
            )
        self.stride, self.side = stride, tuple(stride // one for one in scales)
        if not 1 <= slices <= min(self.side):
            raise SettingsError(f"Expected slices from 1 to {min(self.side)}, the voxels along a cell, got {slices}.")
        self.axes = tuple(range(ndim)) if axes is None else tuple(axes)
        if not self.axes or sorted(set(self.axes)) != sorted(self.axes) or not set(self.axes) <= set(range(ndim)):
            raise SettingsError(
                f"Expected axes as some of 0, 1 and 2 (depth, height, width), each once, got {list(self.axes)}. "
                "Type network.encoder.axes=null for all of them."
            )
        self.slices, self.embed = slices, len(self.axes) * int(self.planar.embed)

    def grid(self, size: Sequence[int]) -> CellGrid:
        """Returns the cells that the feature map of a volume of `size` voxels has."""
        return CellGrid(tuple(size), self.side)

    def forward(self, image: Tensor) -> Float[Tensor, "batch embed depth height width"]:
        """Returns the feature map (batch, embed, *grid(size).cells) of volumes (batch, channel, *size) in [0, 255]."""
        grid = self.grid(image.shape[2:])
        dtype = next(self.parameters(), torch.zeros(())).dtype
        volume = whole_cells(image.to(dtype), grid, self.padding)
        volume = torch.cat([volume, volume.mean(1, keepdim=True)], 1) if self.two else volume
        return torch.cat([self._along(volume, axis, grid.cells) for axis in self.axes], 1)

    def _along(self, volume: Tensor, axis: int, cells: tuple[int, ...]) -> Tensor:
        """Returns the map of the slices across an axis of volumes (batch, channel, depth, height, width)."""
        depth, side = volume.shape[2 + axis], self.side[axis]
        within = ((torch.arange(self.slices) + 0.5) * side / self.slices).long()  # the middle of equal parts of a cell
        chosen = (torch.arange(cells[axis])[:, None] * side + within).flatten().to(volume.device)
        moved = volume.movedim(2 + axis, 1)  # batch, slice, channel, row, column
        beside = [-1, 0, 1] if self.neighbours else [0]
        shown = torch.cat([moved[:, (chosen + step).clamp(0, depth - 1)] for step in beside], 2)
        rows, columns = (count for other, count in enumerate(cells) if other != axis)
        size = (rows * self.stride, columns * self.stride)
        planes = F.interpolate(shown.flatten(0, 1), size=size, mode="bilinear", align_corners=False)
        maps = self.planar(planes).unflatten(0, (len(volume), cells[axis], self.slices)).mean(2)
        return maps.movedim(1, 2 + axis)  # from batch, cell, embed, row, column
