"""Where a regular grid looks: in the foreground, evenly, and between cells where there are fewer than looks."""

import math

import pytest
import torch

from glimpse.geometry import CellGrid
from glimpse.networks import GridLocator
from glimpse.networks.overlap import Coverage
from glimpse.networks.where import Candidates, Choice
from tests.numerics.test_networks import candidates


def test_the_grid_is_regular_and_inside_the_foreground() -> None:
    foreground = torch.zeros(8, 8, dtype=torch.bool)
    foreground[2:6, :] = True
    plan = GridLocator(8).plan(foreground.flatten(), (8, 8))
    assert foreground.flatten()[plan].all()
    assert len(plan.unique()) == 8
    rows, columns = plan // 8, plan % 8
    assert rows.unique().tolist() == [3, 5]
    assert columns.unique().tolist() == [1, 3, 5, 7]


def looked(few: Candidates, budget: int) -> Choice:
    """Where a grid looks in all steps of one episode, and in which cells."""
    locator, unseen = GridLocator(budget), torch.zeros(1, budget, few.open.shape[1])
    step, states = torch.arange(budget)[None], torch.zeros(1, budget, 4)
    together = locator(states, few, Coverage(unseen > 0, unseen, unseen, 0 * step, step=step)).mode()
    for number in range(budget):  # in a rollout, one step at a time
        seen = Coverage(unseen[:, :1] > 0, unseen[:, :1], unseen[:, :1], step[:, :1], step=step[:, number : number + 1])
        one = locator(states[:, :1], few, seen).mode()
        assert torch.equal(one.cell[:, 0], together.cell[:, number])
        assert torch.equal(one.location[:, 0], together.location[:, number])
    return together


@pytest.mark.parametrize(
    ("size", "opened", "budget"), [((4, 4), 2, 24), ((3, 5), 5, 7), ((2, 2, 3), 3, 20), ((6,), 2, 9)]
)
def test_a_grid_of_few_cells_looks_between_them_equally_often(size: tuple[int, ...], opened: int, budget: int) -> None:
    few = candidates(torch.arange(math.prod(size))[None] % (math.prod(size) // opened) == 1, size)
    assert few.open.sum() == opened
    few.locations = torch.from_numpy(few.grid.locations())
    cell, place = looked(few, budget).cell[0], looked(few, budget).location[0]
    assert few.open[0, cell].all()
    counts = cell.bincount()
    assert (counts > 0).sum() == opened and counts.max() <= -(-budget // opened)
    assert len(place.unique(dim=0)) == budget and torch.equal(few.nearest(place), cell)
    for one in cell.unique():  # points fill their cell evenly: their mean lies near to its centre
        within = (place[cell == one] - few.locations[one]) * torch.tensor(size) / 2
        assert within.abs().max() < 0.5 and within.mean(0).abs().max() < 0.15


def test_a_grid_divides_cells_by_the_width_of_glimpses_and_stays_inside_the_image() -> None:
    """A cell of 16 of 24 pixels reaches 4 beyond the edge; along its second axis a glimpse is as wide as the cell."""
    few = candidates(torch.tensor([[False, False, False, True]]), (2, 2))
    few.grid = CellGrid((24, 32), (16, 16))
    few.locations = torch.from_numpy(few.grid.locations())
    few.sides = torch.tensor([[[1.0, 1.0], [0.2, 1.0]]])
    place = (looked(few, 3).location[0] + 1) / 2 * torch.tensor([24.0, 32.0])
    torch.testing.assert_close(place, torch.tensor([[14.0, 24.0], [18.0, 24.0], [22.0, 24.0]]))


def test_what_is_planned_for_some_images_is_not_taken_for_others() -> None:
    locator, seen, step = GridLocator(2), torch.zeros(1, 1, 12), torch.zeros(1, 1, dtype=torch.long)
    for half in (slice(0, 6), slice(6, 12), slice(0, 6)):
        foreground = torch.zeros(1, 12, dtype=torch.bool)
        foreground[:, half] = True
        given = candidates(foreground, (3, 4))
        given.locations = torch.rand(12, 2)
        choice = locator(torch.zeros(1, 1, 4), given, Coverage(seen > 0, seen, seen, step, step=step)).mode()
        assert choice.cell.item() == locator.plan(foreground[0], (3, 4))[0]
        assert torch.equal(choice.location[0, 0], given.locations[choice.cell.item()])


def test_a_grid_of_enough_cells_looks_at_their_centres() -> None:
    many = candidates(torch.ones(2, 12, dtype=torch.bool), (3, 4))
    many.locations = torch.rand(12, 2)
    step = torch.arange(7).expand(4, 7)
    seen = torch.zeros(4, 7, 12)
    choice = GridLocator(7)(torch.zeros(4, 7, 4), many, Coverage(seen > 0, seen, seen, 0 * step, step=step)).mode()
    assert torch.equal(choice.cell, GridLocator(7).plan(many.open[0], (3, 4)).expand(4, 7))
    assert torch.equal(choice.location, many.locations[choice.cell])
