"""Cells narrower than the encoder's stride: they lie where they see, in any number of dimensions and at any ratio."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from glimpse.agents import GlimpseFeatures
from glimpse.cohort import Case
from glimpse.cohort.preflight import PreflightError, check_sizes
from glimpse.errors import SettingsError
from glimpse.geometry import CellGrid, Extent
from glimpse.learning.augment import Augment
from glimpse.learning.foresight import Foreseen, ForesightPretrainer
from glimpse.networks import ConvEncoder, GlimpsePolicy
from glimpse.networks.cells import ImageCells
from glimpse.networks.records import Conduct
from glimpse.runs.loading import build_policy
from glimpse.settings.building import build
from glimpse.settings.composing import composed
from glimpse.sources.array import ArraySource
from glimpse.spaces import ActionLayout, observation_space
from glimpse.views import Views

_AVERAGE = {1: nn.functional.avg_pool1d, 2: nn.functional.avg_pool2d, 3: nn.functional.avg_pool3d}


class Blocks(nn.Module):
    """An encoder whose features are the means of blocks of pixels, and which says what it was given."""

    embed, background = 4, 0.0

    def __init__(self, channels: int, ndim: int = 2, stride: int = 16, padding: str = "replicate") -> None:
        super().__init__()
        self.stride, self.ndim, self.padding = stride, ndim, padding
        self.gain = nn.Parameter(torch.ones(4))
        self.given: list[tuple[int, ...]] = []

    def grid(self, size: tuple[int, ...]) -> CellGrid:
        return CellGrid(tuple(size), (self.stride,) * self.ndim)

    def forward(self, image: Tensor) -> Tensor:
        self.given.append(tuple(image.shape[2:]))
        margins = [n for axis in reversed(self.grid(image.shape[2:]).margins) for n in axis]
        image = nn.functional.pad(image.float(), margins, mode="replicate")
        means = _AVERAGE[self.ndim](image[:, :1], self.stride)
        return means * self.gain.view(1, -1, *[1] * self.ndim)


def policy_of(size: tuple[int, ...], encoder: object, **parts: object) -> GlimpsePolicy:
    torch.manual_seed(0)
    views = Views(size, (12,) * len(size), (Extent.parse(12),))
    layout = ActionLayout(len(size), 2, 1)
    return GlimpsePolicy(observation_space(1, views), layout.box_space(), layout=layout, encoder=encoder, **parts)


def test_an_enlarged_line_is_interpolated_between_its_pixels() -> None:
    cells = ImageCells(Blocks(1, 1, stride=4), (4,), 2)
    line = torch.tensor([0, 10, 20, 30], dtype=torch.uint8).view(1, 1, 4)
    # Pixel p of the larger line lies at (p + 0.5) / 2 of the line, whose pixel 0 lies at 0.5.
    assert cells.enlarged(line).flatten().tolist() == [0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30]


@pytest.mark.parametrize(
    ("padding", "beyond"), [("constant", [200.0, 200.0, 50.0, 50.0]), ("replicate", [50.0, 50.0, 50.0, 50.0])]
)
def test_what_cells_reach_beyond_the_overview_is_as_the_encoder_fills_it(padding: str, beyond: list[float]) -> None:
    encoder = Blocks(1, 1, stride=8, padding=padding)
    encoder.background = 200.0
    larger = ImageCells(encoder, (6,), 4).enlarged(torch.full((1, 1, 6), 50, dtype=torch.uint8)).flatten()
    assert larger.shape == (16,)  # two cells of 4 pixels, which reach one pixel beyond either side
    assert larger[[0, 1]].tolist() == [beyond[0] * 1.0, beyond[1] - (37.5 if padding == "constant" else 0)]
    assert larger[4:12].tolist() == [50.0] * 8


@pytest.mark.parametrize(
    ("size", "stride", "cell"),
    [
        ((96,), 16, 8),
        ((96, 96), 16, 6),
        ((101, 67), 16, 6),
        ((90, 75), 14, 5),
        ((40, 40), 16, 16),
        ((33, 48, 50), 8, [4, 6, 8]),
        ((24, 40, 40), 16, 5),
    ],
)
def test_a_cell_sees_the_pixels_around_its_middle(size: tuple[int, ...], stride: int, cell: int | list[int]) -> None:
    """Along a ramp, the mean over what a cell sees is the place of its middle."""
    policy = policy_of(size, partial(Blocks, stride=stride), cell=cell)
    sides = tuple(cell) if isinstance(cell, list) else (cell,) * len(size)
    assert policy.grid == CellGrid(size, sides)
    for axis, n in enumerate(size):
        ramp = torch.arange(n).view([-1 if other == axis else 1 for other in range(len(size))])
        overview = ramp.expand(1, 1, *size).to(torch.uint8)
        seen = policy.features(overview)
        assert seen.shape == (1, 4, *policy.grid.cells)
        count, first = policy.grid.cells[axis], policy.grid.margins[axis][0]
        along = seen[0, 0].movedim(axis, 0).reshape(count, -1)
        middles = (torch.arange(count) + 0.5) * sides[axis] - first - 0.5  # the ramp is p where pixel p lies at p + 0.5
        inner = slice(1, count - 1)
        assert torch.allclose(along[inner], middles[inner, None].expand(-1, along.shape[1]).float(), atol=1e-3)


def test_without_a_cell_the_encoder_is_given_the_overview_itself() -> None:
    for cell in (None, 16):
        policy = policy_of((37, 50), Blocks, cell=cell)
        policy.features(torch.zeros(1, 1, 37, 50, dtype=torch.uint8))
        assert policy.encoder.given == [(37, 50)] and policy.grid.side == (16, 16)


def test_features_that_were_kept_are_those_of_the_same_cells() -> None:
    overview = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 1, 48, 48), np.uint8))
    frozen = Conduct(train_encoder=False)
    for cell in (8, 4, 3, 8):
        policy = policy_of((48, 48), ConvEncoder, cell=cell)  # the same weights each time
        with torch.no_grad():
            expected = policy.encode(policy._overviews.enlarged(overview))
        assert torch.allclose(policy.features(overview, frozen), expected, atol=1e-5)


def test_a_policy_learns_through_an_enlarged_overview() -> None:
    policy = policy_of((40, 40), ConvEncoder, cell=4)
    assert policy.grid.cells == (10, 10) and len(policy.cells) == 100
    overview = torch.randint(0, 256, (2, 1, 40, 40), dtype=torch.uint8)
    foreground = torch.zeros(2, 1, 40, 40, dtype=torch.uint8)
    foreground[:, :, 17, 23] = 255  # in the cell of row 4 and column 5
    scene = policy.scene(overview, foreground, torch.full((2, 2), 0.3))
    assert scene.features.shape == (2, 64, 10, 10) and scene.open.nonzero()[:, 1].tolist() == [45, 45]
    scene.token.sum().backward()
    assert policy.encoder.layers[0].weight.grad.abs().sum() > 0


def test_tokens_and_cells_may_be_narrower_than_features() -> None:
    policy = policy_of((40, 40), ConvEncoder, width=24)
    overview = torch.randint(0, 256, (2, 1, 40, 40), dtype=torch.uint8)
    scene = policy.scene(overview, torch.ones_like(overview), torch.full((2, 2), 0.3))
    assert scene.features.shape == (2, 64, *policy.grid.cells)
    assert scene.token.shape == (2, 24) and scene.candidates.keys.shape == (2, len(policy.cells), 24)
    state = policy.begin(scene)
    decision = policy.decide(scene, state, torch.zeros(2, dtype=torch.bool))
    assert policy.embed(overview[..., :12, :12]).shape == (2, 24) and decision.log_prob.isfinite().all()
    decision.log_prob.sum().backward()
    assert policy.narrow.weight.grad.abs().sum() > 0 and policy.encoder.layers[0].weight.grad.abs().sum() > 0
    with pytest.raises(SettingsError, match=r"network\.width of at least 1"):
        policy_of((40, 40), ConvEncoder, width=0)


@pytest.mark.parametrize(
    ("size", "cell", "words"),
    [
        ((64, 64), 12, r"at most 8 x 8 .* got 12 x 12.*network.cell=null"),
        ((64, 64), [4, 4, 4], "2 of them"),
        ((64, 64), 0, "above 0"),
    ],
)
def test_impossible_cells_are_refused(size: tuple[int, ...], cell: int | list[int], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        policy_of(size, ConvEncoder, cell=cell)


def test_cells_foresee_from_an_enlarged_overview() -> None:
    policy, rng = policy_of((32, 32), partial(ConvEncoder), cell=4), np.random.default_rng(0)
    foreseen = Foreseen(
        rng.integers(0, 256, (6, 2, 1, 12, 12), np.uint8),
        rng.integers(0, 64, (6, 2)),
        np.zeros((6, 2), np.int64),
        rng.integers(0, 256, (2, 1, 32, 32), np.uint8),
    )
    trainer = ForesightPretrainer(policy, foreseen, Augment((12, 12), 0.0, (12, 12)), per_case=6, batch=12)
    assert np.isfinite(trainer.step())
    with pytest.raises(RuntimeError):  # there are 16 cells of the encoder's own stride
        policy.encode(trainer.overviews).flatten(2).gather(2, torch.full((2, 64, 1), 63))


def test_sizes_are_checked_with_the_cells_of_the_policy() -> None:
    views = Views((32, 32), (12, 12), (Extent.parse(32),))
    case = Case("one", "one", ArraySource(np.zeros((1, 256, 256), np.uint8), name="one"), 0)
    with pytest.raises(PreflightError, match=r"cells coarser than glimpses.*network\.cell"):
        check_sizes([case], views, policy_of((32, 32), ConvEncoder).grid)  # 64 pixels apart
    check_sizes([case], views, policy_of((32, 32), ConvEncoder, cell=4).grid)


def test_stock_algorithms_have_finer_cells_too() -> None:
    space = observation_space(1, Views((40, 40), (12, 12), (Extent.parse(12),)))
    features = GlimpseFeatures(space, encoder=Blocks, cell=5)
    batch = {name: torch.zeros(2, *(box.shape or ())) for name, box in space.items() if isinstance(box, spaces.Box)}
    assert features(batch).shape == (2, 128)
    assert features.encoder.given == [(128, 128), (12, 12)]


def test_the_cell_is_an_option_of_the_command(tiny_slides: Path) -> None:
    config = composed("network.cell=4", f"env.cohort.path={tiny_slides}")
    env = build(config.env.make, cohort=build(config.env.cohort), split="train").unwrapped
    policy = build_policy(config.network, env.observation_space, env.layout)
    overview = env.observation_space["overview"].shape[1:]
    assert policy.grid == CellGrid(overview, (4, 4))
