"""Cells of an image: it is enlarged for an encoder whose stride is wider than they should be."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from glimpse.errors import SettingsError
from glimpse.geometry import CellGrid

Cell = int | Sequence[int] | None
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class ImageCells:
    """The cells of overviews or of wide glimpses, and how these are prepared so that their feature maps have them.

    An encoder has one vector of features for each block of `stride` pixels. Where cells are to be narrower than that,
    the image is enlarged by stride / cell, so that each block of the enlarged image shows one cell.

    Args:
        encoder: The encoder. Its `grid(size)` says what its stride is, and its `padding` how it fills what cells reach
            beyond the image: with "replicate" or, without this attribute, with its `background`.
        size: Pixels of the image per axis.
        cell: Side of a cell in its pixels, one number or one per axis; None means the encoder's stride.
        name: The setting that says how wide cells are, for messages.

    Attributes:
        grid: The cells.

    Raises:
        SettingsError: A cell is wider than the encoder's stride, or not one number or one per axis.
    """

    def __init__(self, encoder: Any, size: Sequence[int], cell: Cell = None, name: str = "cell") -> None:
        self.own: CellGrid = encoder.grid(size)
        side = self.own.side if cell is None else _per_axis(cell, len(self.own.side), name)
        if any(wide > stride for wide, stride in zip(side, self.own.side, strict=True)):
            of = "overview" if name == "cell" else "glimpse"
            raise SettingsError(
                f"Expected cells of at most {_listed(self.own.side)} {of} pixels, which is the stride of the "
                f"encoder, got {_listed(side)}. Choose a smaller network.{name}, or network.{name}=null for this "
                "stride."
            )
        self.grid = CellGrid(self.own.size, side)
        self.background = float(getattr(encoder, "background", 0.0))
        self.padding = getattr(encoder, "padding", "constant")

    @property
    def enlarges(self) -> bool:
        """Whether images are enlarged."""
        return self.grid != self.own

    @property
    def pixels(self) -> int:
        """How many pixels of an image the encoder sees, at each channel."""
        return math.prod(count * side for count, side in zip(self.grid.cells, self.own.side, strict=True))

    def enlarged(self, image: Tensor) -> Float[Tensor, "batch channel *larger"] | Tensor:
        """Returns images (batch, channel, *size) as the encoder should see them.

        Pixel p of the whole number of cells lies at p + 0.5, and at (p + 0.5) stride / cell when it is enlarged, so
        that cell i is the pixels from i stride to (i + 1) stride. Between pixels, values are interpolated linearly.
        """
        if not self.enlarges:
            return image
        margins = [side for axis in reversed(self.grid.margins) for side in axis]  # `F.pad` begins with the last axis
        pixels = image if image.is_floating_point() else image.to(torch.float32)
        if self.padding == "constant":
            pixels = F.pad(pixels, margins, value=self.background)
        else:
            pixels = F.pad(pixels, margins, mode=self.padding)
        target = [count * stride for count, stride in zip(self.grid.cells, self.own.side, strict=True)]
        return F.interpolate(pixels, size=target, mode=_MODES[len(target)], align_corners=False)


def _per_axis(cell: int | Sequence[int], ndim: int, name: str) -> tuple[int, ...]:
    sides = (cell,) * ndim if isinstance(cell, int) else tuple(int(side) for side in cell)
    if len(sides) != ndim or min(sides) < 1:
        raise SettingsError(
            f"Expected network.{name} as a number above 0, or {ndim} of them (one per axis of the images), got {cell}. "
            f"Type network.{name}=null for the stride of the encoder."
        )
    return sides


def _listed(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))
