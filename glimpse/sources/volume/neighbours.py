"""Slices with their neighbours as channels: volumes for encoders that see planes."""

import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from glimpse.geometry import Frame, Numbers
from glimpse.sources.base import ImageSource, region
from glimpse.sources.volume.grid import VoxelGrid
from glimpse.sources.volume.source import VolumeSource


class NeighbourSlices(ImageSource):
    """A source whose channels are those of each slice, followed by those of its neighbours.

    With `count` 1 the channels of slice i are those of slices i, i - 1 and i + 1, in the resolution that is read: the
    neighbours of a glimpse of one slice, 3 mm deep, are the 3 mm before and behind it. So a glimpse of size
    (1, height, width) shows depth without a convolution along it.

    Args:
        source: the volume.
        count: neighbours on each side, at least 1.
        axis: across which slices lie.

    Raises:
        ValueError: the count or the axis is impossible.
    """

    def __init__(self, source: ImageSource, count: int = 1, axis: int = 0) -> None:
        if count < 1:
            raise ValueError(f"{source.name}: expected at least one neighbour on each side, got {count}.")
        if axis < 0:
            raise ValueError(f"{source.name}: expected an axis from 0 on, got {axis}.")
        self.source, self.count, self.axis = source, int(count), int(axis)
        self.path, self.name = source.path, source.name

    @property
    def frame(self) -> Frame:
        return self.source.frame

    @property
    def channels(self) -> int:
        return self.source.channels * (2 * self.count + 1)

    @property
    def background(self) -> UInt8[np.ndarray, " channel"]:
        return np.tile(self.source.background, 2 * self.count + 1)

    @property
    def identity(self) -> Hashable:
        return ("neighbours", self.count, self.axis, type(self.source).__qualname__, self.source.identity)

    @property
    def lasting_identity(self) -> Hashable | None:
        inner = self.source.lasting_identity
        return None if inner is None else (self.count, self.axis, type(self.source).__qualname__, inner)

    @property
    def files(self) -> Sequence[Path] | None:
        return self.source.files

    @property
    def grid(self) -> VoxelGrid | None:
        """Returns the grid of the volume in its file, where it has one."""
        return getattr(self.source, "grid", None)

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        _, extents = region(center, extent, size, self.ndim)
        slices = int(size[self.axis])
        wider = [n + 2 * self.count if axis == self.axis else n for axis, n in enumerate(size)]
        extents[self.axis] *= wider[self.axis] / slices
        block = self.source.read(center, extents, wider)
        offsets = sorted(range(-self.count, self.count + 1), key=lambda offset: (abs(offset), offset))
        window = [slice(None)] * block.ndim
        parts = []
        for offset in offsets:
            window[1 + self.axis] = slice(self.count + offset, self.count + offset + slices)
            parts.append(block[tuple(window)])
        return np.concatenate(parts)

    def foreground(self, overview: UInt8[np.ndarray, "channel *size"]) -> Bool[np.ndarray, "*size"]:
        return self.source.foreground(overview[: self.source.channels])

    def check(self) -> None:
        self.source.check()

    def close(self) -> None:
        self.source.close()


def open_volume(path: str | os.PathLike[str], *, neighbours: int = 0, **options: Any) -> ImageSource:
    """Opens a volume, with the slices around each slice as further channels where asked for.

    Args:
        path: a NIfTI file, or a folder of DICOM slices.
        neighbours: slices on either side that become channels of each slice; 0 leaves the volume as it is.
        **options: of `VolumeSource`.

    Raises:
        ValueError: an option is impossible.
    """
    volume = VolumeSource(path, **options)
    return volume if neighbours == 0 else NeighbourSlices(volume, neighbours)
