"""Nothing is a plane in disguise: encoder, baselines and augmentation in one, two and three dimensions."""

from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from glimpse.learning.augment import Augment
from glimpse.networks import ConvEncoder, GridLocator
from glimpse.settings.composing import composed

FLAT: dict[str, Any] = {"kernels": [[1, 6, 6], [4, 4, 4], 3, 3], "strides": [[1, 2, 2], [2, 2, 2], 1, 1]}


# ---------------------------------------------------------------------------------------------- encoder
@pytest.mark.parametrize(
    ("options", "size", "grid"),
    [
        (FLAT, (20, 48, 44), (10, 12, 11)),
        (FLAT, (1, 32, 32), (1, 8, 8)),
        (FLAT, (8, 32, 32), (4, 8, 8)),
        ({"strides": [[1, 2, 2]] * 2 + [1, 1]}, (7, 30, 31), (7, 8, 8)),
    ],
)
def test_strides_and_kernels_per_axis(options: dict[str, Any], size: tuple[int, ...], grid: tuple[int, ...]) -> None:
    encoder = ConvEncoder(2, 3, widths=(4, 8, 8, 8), **options)
    features = encoder(torch.randint(0, 256, (2, 2, *size), dtype=torch.uint8))
    assert encoder.grid(size).cells == grid == tuple(features.shape[2:])
    features.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters() if p.ndim > 1)


def test_one_number_means_all_axes() -> None:
    torch.manual_seed(0)
    short = ConvEncoder(1, 3)
    long = ConvEncoder(1, 3, kernels=[[k] * 3 for k in (4, 4, 4, 3)], strides=[[s] * 3 for s in (2, 2, 2, 1)])
    long.load_state_dict(short.state_dict())
    image = torch.randint(0, 256, (1, 1, 9, 10, 11), dtype=torch.uint8)
    assert torch.equal(short(image), long(image))


def reach(encoder: ConvEncoder, size: tuple[int, ...], cell: tuple[int, ...]) -> list[tuple[int, int]]:
    """The first and the last pixel per axis on which the features of a cell depend."""
    for parameter in encoder.parameters():
        torch.nn.init.ones_(parameter)
    for part in encoder.layers:
        if isinstance(part, torch.nn.GroupNorm):
            part.forward = lambda x: x  # type: ignore[method-assign]  # it spreads every pixel over the whole map
    image = torch.full((1, 1, *size), 1.0, requires_grad=True)
    encoder(image)[(0, slice(None), *cell)].sum().backward()
    assert image.grad is not None
    places = torch.nonzero(image.grad[0, 0])
    return list(zip(places.amin(0).tolist(), places.amax(0).tolist(), strict=True))


@pytest.mark.parametrize(
    ("options", "size", "cell"),
    [
        (FLAT, (20, 48, 48), (5, 6, 6)),
        (FLAT, (19, 45, 46), (5, 6, 6)),  # no whole number of cells along any axis
        ({"strides": [2, 2, 2, 1]}, (72, 64), (4, 4)),
        ({"strides": [2, 2, 1, 1]}, (70, 65), (8, 8)),
        ({"strides": [1, 2, 2, 2]}, (73, 64), (4, 4)),
        ({"strides": [4, 4], "widths": (4, 4)}, (100, 90), (3, 3)),
        ({"strides": [1, 2], "kernels": [3, 2], "widths": (4, 4)}, (21, 24), (6, 6)),
        ({"strides": [3, 2], "kernels": [5, 6], "widths": (4, 4)}, (63, 60, 61), (5, 5, 5)),
    ],
)
def test_a_cell_lies_in_the_middle_of_what_it_sees(
    options: dict[str, Any], size: tuple[int, ...], cell: tuple[int, ...]
) -> None:
    """Its features depend on all pixels that it stands for, and reach equally far beyond them on both sides."""
    encoder = ConvEncoder(1, len(size), **{"widths": (4, 4, 4, 4), **options})
    grid = encoder.grid(size)
    location = grid.locations()[np.ravel_multi_index(cell, grid.cells)]
    for (first, last), where, pixels, side in zip(
        reach(encoder, size, cell), location, size, encoder.cell, strict=True
    ):
        middle = (where + 1) / 2 * pixels
        assert abs((first + last + 1) / 2 - middle) < 1e-4
        assert first <= middle - side / 2 and middle + side / 2 <= last + 1


def test_slices_stay_apart_where_kernels_are_flat() -> None:
    encoder = ConvEncoder(1, 3, widths=(4, 4), kernels=[[1, 6, 6], [1, 4, 4]], strides=[[1, 2, 2], [1, 2, 2]])
    image = torch.zeros(1, 1, 4, 16, 16, requires_grad=True)
    encoder.layers[0](image + 1.0)[0, :, 2].sum().backward()
    assert image.grad is not None
    assert image.grad[0, 0].flatten(1).any(1).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": [[2, 2], 2, 1, 1]}, "strides to be a number above 0, or 3 of them"),
        ({"strides": [0, 2, 1, 1]}, "strides to be a number above 0"),
        ({"kernels": [5, 3, 3, 3]}, r"point beside what they see. Take \[6, 6, 6\], or leave kernels out"),
        ({"kernels": [4, 4, 4, 4]}, r"kernel \[4, 4, 4\] with stride \[1, 1, 1\].*Take \[5, 5, 5\]"),
        ({"kernels": [[1, 4, 4], 4, 4, 3]}, "leaps over pixels"),
        ({"kernels": [4, 4]}, "one kernel and one stride per width, got 4 widths, 2 kernels and 4 strides"),
    ],
)
def test_impossible_layers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvEncoder(1, 3, **options)


def test_strides_per_axis_from_the_command_line() -> None:
    layers = ("network.encoder.strides=[[1,2,2],[2,2,2],1,1]", "network.encoder.kernels=[[3,6,6],[4,4,4],3,3]")
    config = composed("network/encoder=small", *layers)
    encoder = instantiate(config.network.encoder)(1, 3)
    assert encoder.strides == ((1, 2, 2), (2, 2, 2), (1, 1, 1), (1, 1, 1))
    assert encoder.kernels[0] == (3, 6, 6)


# ---------------------------------------------------------------------------------------------- a regular grid
@pytest.mark.parametrize(
    ("grid", "budget", "expected"),
    [
        ((4, 4, 4), 8, [[1, 1, 1], [1, 1, 3], [1, 3, 1], [1, 3, 3], [3, 1, 1], [3, 1, 3], [3, 3, 1], [3, 3, 3]]),
        ((1, 8, 8), 4, [[0, 2, 2], [0, 2, 7], [0, 7, 2], [0, 7, 7]]),
        ((2, 16, 16), 4, [[1, 5, 5], [1, 5, 15], [1, 15, 5], [1, 15, 15]]),
        ((12,), 3, [[2], [6], [10]]),
    ],
)
def test_a_grid_is_regular_along_long_and_short_axes(
    grid: tuple[int, ...], budget: int, expected: list[list[int]]
) -> None:
    everywhere = torch.ones(int(np.prod(grid)), dtype=torch.bool)
    plan = GridLocator(budget).plan(everywhere, grid)
    assert np.stack(np.unravel_index(plan.numpy(), grid), -1).tolist() == expected


# ---------------------------------------------------------------------------------------------- augmentation
STILL: dict[str, Any] = {"zoom": 0.0, "shift": 0.0, "strength": 0.0, "noise": 0.0}


def ball(size: tuple[int, ...], sides: tuple[float, ...], radius: float) -> Tensor:
    """A ball of the object in a grid of voxels, which need not be cubes: (1, 1, *size)."""
    axes = [(np.arange(n) + 0.5) / n * side - side / 2 for n, side in zip(size, sides, strict=True)]
    squares = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))
    return torch.from_numpy(200.0 * (squares < radius**2))[None, None].float()


@pytest.mark.parametrize(
    ("size", "sides"), [((32,), None), ((32, 32), None), ((16, 32), (32, 32)), ((8, 32, 32), (32, 32, 32))]
)
def test_a_ball_stays_a_ball_however_it_is_turned(size: tuple[int, ...], sides: tuple[float, ...] | None) -> None:
    lengths = sides or tuple(map(float, size))
    room = tuple(n + n // 4 * 2 for n in size)
    image = ball(room, tuple(r / n * side for r, n, side in zip(room, size, lengths, strict=True)), 10.0)
    views = Augment(size, 0, sides, **STILL)(image.repeat(6, *[1] * (len(size) + 1)), torch.Generator().manual_seed(0))
    expected = ball(size, lengths, 10.0)
    differs = ((views - expected).abs() > 100).float().mean(tuple(range(1, views.ndim)))
    assert differs.max() < 0.02  # voxels at its surface
    if len(size) > 1:
        assert not torch.equal(views[0], views[1])


def test_a_volume_is_turned_about_its_first_axis_and_mirrored_along_all() -> None:
    rng = torch.Generator().manual_seed(0)
    image = torch.zeros(64, 1, 9, 9, 9)
    image[:, :, 7, 4, 7] = 255  # up and to the right
    views = Augment((9, 9, 9), 0, tilt=0.0, **STILL)(image, rng)[:, 0]
    height, place = views.sum((2, 3)).argmax(1), views.sum(1).flatten(1).argmax(1)
    assert set(height.tolist()) == {1, 7}  # the mirrored ones below
    assert len(set(place.tolist())) > 10  # all round
    views = Augment((9, 9, 9), 0, tilt=0.0, turn=0.0, flips=[True, False, False], **STILL)(image, rng)[:, 0]
    assert set(views.sum((2, 3)).argmax(1).tolist()) == {1, 7}
    assert set(views.sum(1).flatten(1).argmax(1).tolist()) == {4 * 9 + 7}


def test_tilts_are_small_turns_out_of_the_plane() -> None:
    image = torch.zeros(64, 1, 9, 9, 33)
    image[..., 4, 4, 30] = 255
    rng = torch.Generator().manual_seed(0)
    views = Augment((9, 9, 33), 0, turn=0.0, tilt=0.2, flips=False, **STILL)(image, rng)[:, 0]
    heights = views.sum((2, 3)).argmax(1)
    assert int(heights.min()) < 4 < int(heights.max())  # 14 voxels times 0.2 is nearly 3
    assert (heights - 4).abs().max() <= 3


def test_a_single_slice_is_turned_within_its_plane() -> None:
    image = torch.randint(0, 256, (4, 3, 1, 24, 24), generator=torch.Generator().manual_seed(0))
    views = Augment((1, 16, 16), 0, (3.0, 16.0, 16.0))(image, torch.Generator().manual_seed(0))
    assert views.shape == (4, 3, 1, 16, 16) and torch.isfinite(views).all()
    assert views.std() > 20


def test_flips_and_sides_fit_the_axes() -> None:
    with pytest.raises(ValueError, match="for each of 3 axes"):
        Augment((8, 8, 8), 0, flips=[True, False])
