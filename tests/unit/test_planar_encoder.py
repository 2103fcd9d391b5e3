"""Planar networks on volumes: slices of three orientations, on one grid of cells."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glimpse.errors import SettingsError
from glimpse.geometry import CellGrid, Extent
from glimpse.networks import PlanarEncoder
from glimpse.runs.loading import build_policy
from glimpse.settings.composing import composed
from glimpse.spaces import ActionLayout, observation_space
from glimpse.views import Views


class Means(nn.Module):
    """Means of blocks of pixels."""

    def __init__(self, channels: int, ndim: int, stride: int = 8) -> None:
        super().__init__()
        self.stride, self.embed = stride, channels
        self.gain = nn.Parameter(torch.tensor(1.0))

    def grid(self, size: Any) -> CellGrid:
        return CellGrid(tuple(size), (self.stride,) * 2)

    def forward(self, image: Tensor) -> Tensor:
        return F.avg_pool2d(image, self.stride) * self.gain


def ramp(size: tuple[int, ...], axis: int) -> Tensor:
    along = torch.arange(size[axis]).view([-1 if other == axis else 1 for other in range(3)])
    return along.expand(1, 1, *size).to(torch.uint8)


@pytest.mark.parametrize(
    ("size", "scale", "side"),
    [((16, 24, 20), 2, (4, 4, 4)), ((12, 32, 32), [4, 1, 2], (2, 8, 4)), ((13, 30, 17), 2, (4, 4, 4))],
)
def test_a_cell_sees_the_voxels_around_its_middle(
    size: tuple[int, ...], scale: int | list[int], side: tuple[int, ...]
) -> None:
    """Each orientation tells the same place of a cell, along a ramp of each axis."""
    encoder = PlanarEncoder(1, planar=Means, scale=scale, slices=2, neighbours=False)
    grid = encoder.grid(size)
    assert grid == CellGrid(size, side) and encoder.embed == 3
    for axis in range(3):
        features = encoder(ramp(size, axis))
        assert features.shape == (1, 3, *grid.cells)
        count, before = grid.cells[axis], grid.margins[axis][0]
        middles = (torch.arange(count) + 0.5) * side[axis] - before - 0.5
        inner = slice(1, count - 1)
        for orientation in range(3):
            along = features[0, orientation].movedim(axis, 0).reshape(count, -1)[inner]
            # Across slices, two of each cell are taken: at most half a voxel beside the middle.
            allowed = 0.51 if orientation == axis else 1e-3
            assert (along - middles[inner, None]).abs().max() <= allowed


def test_the_slices_beside_are_channels_of_their_own() -> None:
    encoder = PlanarEncoder(1, planar=Means, scale=2)
    features = encoder(ramp((16, 16, 16), 0))
    assert encoder.embed == 9
    assert features[0, :3, 1, 1, 1].tolist() == [5.0, 6.0, 7.0]  # the middle slice of cell 1, voxels 4 to 7, and others
    assert features[0, :3, 3, 1, 1].tolist() == [13.0, 14.0, 15.0]
    coloured = PlanarEncoder(3, planar=Means, scale=2)
    assert coloured.embed == 9 and coloured(torch.zeros(1, 3, 8, 8, 8, dtype=torch.uint8)).shape == (1, 9, 2, 2, 2)


def test_orientations_see_what_others_do_not() -> None:
    """A stripe that only slices across one axis show from the side."""
    encoder = PlanarEncoder(1, planar=Means, scale=2, neighbours=False)
    volume = torch.zeros(1, 1, 16, 16, 16, dtype=torch.uint8)
    volume[0, 0, 6] = 200  # the slice that is taken of cell 1 along depth
    features = encoder(volume)[0, :, :, 1, 1]
    assert features[0].tolist() == [0, 200, 0, 0]
    assert torch.allclose(features[1:].sum(1), torch.tensor(50.0))  # a quarter of the cell, seen from the side


def test_slices_along_some_axes_only() -> None:
    rng = np.random.default_rng(0)
    volume = torch.from_numpy(rng.integers(0, 256, (2, 1, 16, 16, 16), np.uint8))
    every = PlanarEncoder(1, planar=Means, scale=2)(volume).unflatten(1, (3, -1))
    for axes in ([0], [2, 0]):
        encoder = PlanarEncoder(1, planar=Means, scale=2, axes=axes)
        assert encoder.embed == 3 * len(axes) and torch.equal(encoder(volume), every[:, axes].flatten(1, 2))


def test_ct_has_axial_slices_by_default() -> None:
    config = composed("env=ct")
    views = Views((8, 16, 20), (8, 16, 16), (Extent.parse(8),))
    policy = build_policy(config.network, observation_space(1, views), ActionLayout(3, 2, 1))
    assert policy.encoder.axes == (0,) and policy.encoder.side == (2, 8, 8) and policy.grid.side == (2, 3, 3)
    seen = policy.features(torch.randint(0, 256, (1, 1, 8, 16, 20), dtype=torch.uint8))
    assert seen.shape == (1, 112, *policy.grid.cells)


def test_the_default_is_a_pretrained_network_and_works_in_a_policy() -> None:
    config = composed("env=mri", "network/encoder=planar", "network.encoder.planar.lora_rank=2", "network.cell=2")
    views = Views((8, 16, 20), (8, 8, 8), (Extent.parse(8),))
    layout = ActionLayout(3, 2, 1)
    policy = build_policy(config.network, observation_space(1, views), layout)
    assert policy.encoder.embed == 3 * 112 and policy.width == 128 and policy.grid == CellGrid((8, 16, 20), (2, 2, 2))
    overview = torch.randint(0, 256, (1, 1, 8, 16, 20), dtype=torch.uint8)
    features = policy.features(overview)
    assert features.shape == (1, 336, 4, 8, 10)
    features.square().mean().backward()
    trained = [p for p in policy.encoder.parameters() if p.requires_grad]
    assert trained and any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    assert policy.embed(overview[..., :8, :8]).shape == (1, 128)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ndim": 2}, "network/encoder=efficientnet_lite0"),
        ({"scale": 3}, "divides the stride 8"),
        ({"scale": [2, 2]}, "three of them"),
        ({"slices": 5}, "from 1 to 4"),
        ({"axes": []}, "some of 0, 1 and 2"),
        ({"axes": [0, 0]}, "each once"),
        ({"axes": [3]}, "axes=null"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        PlanarEncoder(1, **{"planar": partial(Means, stride=8), **options})
