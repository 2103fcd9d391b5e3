"""What was seen already: overlaps by hand, their sums, and the penalty that the locators take for them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from glimpse.geometry import CellGrid
from glimpse.networks import PointerLocator, RandomLocator
from glimpse.networks.blind import ShuffledLocator
from glimpse.networks.frontier import Described, joined
from glimpse.networks.locator import SEEN_PENALTY
from glimpse.networks.overlap import NEAR, Coverage, mutual, overlaps, product, summed
from glimpse.networks.where import Candidates, open_ones


def axes_of(grid: CellGrid) -> list[torch.Tensor]:
    return [torch.from_numpy(along).float() for along in grid.along_axes()]


def test_overlaps_along_an_axis_by_hand() -> None:
    axes = [torch.tensor([-0.5, 0.0, 0.5])]
    sides, own = torch.tensor([[0.4]]), torch.tensor([[[0.4], [0.2], [1.0]]])
    location = torch.tensor([[[0.0], [0.1], [0.45]]])
    (shares,) = overlaps(axes, sides, location, own)
    expected = [
        [0.0, 1.0, 0.0],  # the same view again; its neighbours do not touch it
        [0.0, 0.5, 0.0],  # a smaller glimpse that lies inside the view: 0.2 of 0.4
        [0.0, 0.625, 1.0],  # a wider one, from -0.05 to 0.95
    ]
    assert torch.allclose(shares[0], torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("cells", [(9,), (6, 7), (4, 5, 6)])
def test_shares_of_boxes_equal_those_that_are_counted(cells: tuple[int, ...]) -> None:
    """Against counting points of a fine grid, in one, two and three dimensions."""
    rng, ndim = np.random.default_rng(0), len(cells)
    grid = CellGrid(cells, (1,) * ndim)
    view, own, place = rng.uniform(0.3, 0.8, ndim), rng.uniform(0.2, 1.0, ndim), rng.uniform(-1, 1, ndim)
    shares = product(
        overlaps(
            axes_of(grid), *(torch.tensor(part).float() for part in (view[None], place[None, None], own[None, None]))
        )
    )
    offsets = np.stack(np.meshgrid(*[(np.arange(40) + 0.5) / 40 - 0.5] * ndim, indexing="ij"), -1).reshape(-1, ndim)
    points = grid.locations()[:, None] + offsets * view
    counted = (np.abs(points - place) <= own / 2).all(2).mean(1)
    assert np.abs(shares[0, 0].numpy() - counted).max() < 0.06
    assert counted.max() > 0.1


@pytest.mark.parametrize("cells", [(5,), (3, 4), (2, 3, 4)])
def test_the_sum_needs_no_array_of_steps_times_cells(cells: tuple[int, ...]) -> None:
    shares = [torch.rand(2, 6, along) for along in cells]
    assert torch.allclose(summed(shares), product(shares).sum(1), atol=1e-6)
    assert torch.equal(summed([share[:, :0] for share in shares]), torch.zeros(2, int(np.prod(cells))))


def test_mutual_shares_by_hand() -> None:
    location = torch.tensor([[[0.0, 0.0], [0.2, 0.0], [0.0, 0.0]]])
    sides = torch.tensor([[[0.4, 0.4], [0.4, 0.4], [0.8, 0.8]]])
    expected = [[1.0, 0.5, 0.25], [0.5, 1.0, 0.25], [1.0, 1.0, 1.0]]
    assert torch.allclose(mutual(location, sides)[0], torch.tensor(expected), atol=1e-6)
    near = [[1.0, 1.0, 1.0], [1.0, 1.0, 0.75], [1.0, 1.0, 1.0]]  # the second, twice as large, ends at -0.2
    assert torch.allclose(mutual(location, sides, NEAR)[0], torch.tensor(near), atol=1e-6)


def some(share: torch.Tensor, zoom: int = 0, near: torch.Tensor | None = None) -> tuple[Candidates, Coverage]:
    cells, near = share.shape[-1], torch.zeros_like(share) if near is None else near
    grid = CellGrid((cells,), (1,))
    candidates = Candidates(
        keys=torch.zeros(1, cells, 4),
        unary=torch.zeros(1, cells),
        open=torch.ones(1, cells, dtype=torch.bool),
        sides=torch.full((1, 2, 1), 0.5),
        locations=torch.from_numpy(grid.locations()),
        grid=grid,
    )
    unseen = torch.zeros(share.shape, dtype=torch.bool)
    return candidates, Coverage(unseen, share, near, torch.full(share.shape[:2], zoom))


@pytest.mark.parametrize("zoom", [0, 1])
def test_the_penalty_is_the_weight_of_the_extent_times_the_share(zoom: int) -> None:
    share = torch.tensor([[[0.0, 0.25, 1.0]]])
    locator = PointerLocator(4, 3, zooms=2)
    with torch.no_grad():
        locator.seen_penalty.copy_(torch.tensor([2.0, 8.0]))
    candidates, seen = some(share, zoom)
    where = locator(torch.zeros(1, 1, 3), candidates, seen)
    expected = -share * (2.0, 8.0)[zoom]
    assert torch.allclose(where.logits - where.logits[..., :1], expected, atol=1e-6)
    where.log_probs[..., 0].sum().backward()
    assert locator.seen_penalty.grad is not None
    assert locator.seen_penalty.grad[zoom] > 0 == locator.seen_penalty.grad[1 - zoom]


@pytest.mark.parametrize("learned", [False, True])
def test_what_is_near_to_what_was_seen_is_penalised_besides(learned: bool) -> None:
    share, near = torch.tensor([[[0.0, 0.25, 1.0]]]), torch.tensor([[[0.0, 1.0, 1.0]]])
    locator = PointerLocator(4, 3, zooms=2, seen_penalty=2.0, near_penalty=3.0, learn_seen_penalty=learned)
    where = locator(torch.zeros(1, 1, 3), *some(share, 1, near))
    assert torch.allclose(where.logits - where.logits[..., :1], -2 * share - 3 * near, atol=1e-6)
    assert ("near_penalty" in dict(locator.named_parameters())) == learned


def test_a_locator_from_before_there_was_such_a_penalty_is_loaded_without_one() -> None:
    old = {name: value for name, value in PointerLocator(4, 3).state_dict().items() if name != "near_penalty"}
    locator = PointerLocator(4, 3, near_penalty=3.0)
    locator.load_state_dict(old)
    assert locator.near_penalty.item() == 0


def test_random_looks_avoid_what_was_seen_in_training_and_in_reading() -> None:
    """Both draw from the softmax of the penalty."""
    share = torch.tensor([[[0.0, 0.1, 0.3, 1.0]]])
    expected = (-SEEN_PENALTY * share[0, 0]).softmax(-1)
    candidates, seen = some(share)
    where = RandomLocator()(torch.zeros(1, 1, 3), candidates, seen)
    assert torch.allclose(where.log_probs[0, 0].exp(), expected)
    count = 4000
    many = Coverage(*(part.expand(count, *part.shape[1:]) for part in (seen.visited, seen.share, seen.near, seen.zoom)))
    reading = ShuffledLocator(0, range(count))(torch.zeros(count, 1, 3), candidates, many)
    drawn = reading.mode().cell[:, 0].bincount(minlength=4) / count
    assert torch.allclose(drawn, expected, atol=0.03)


def test_open_cells_alone_give_the_same_distribution_as_all_of_them() -> None:
    """Two cases of two rollouts; in the first, 3 of 12 cells of the overview are open, in the second, 5."""
    draw = torch.Generator().manual_seed(0)
    places = torch.rand(12, 2, generator=draw)
    inside = torch.zeros(2, 12, dtype=torch.bool)
    inside[0, [1, 4, 11]] = inside[1, [0, 2, 3, 7, 8]] = True
    of_overview = Candidates(
        torch.randn(2, 12, 8, generator=draw), torch.randn(2, 12, generator=draw), inside,
        torch.full((2, 2, 2), 0.5), places, CellGrid((3, 4), (1, 1)),
    )  # fmt: skip
    wide = Described(
        torch.randn(4, 6, 8, generator=draw), torch.randn(4, 6, generator=draw),
        torch.rand(4, 6, generator=draw) < 0.7, torch.rand(4, 6, 2, generator=draw),
    )  # fmt: skip
    level = torch.ones(4, 6, dtype=torch.long)
    index = open_ones(inside)
    keys, unary, opened = (one.gather(1, index.view(*index.shape, *[1] * (one.ndim - 2)).expand(2, 5, *one.shape[2:]))
                           for one in (of_overview.keys, of_overview.unary, inside))  # fmt: skip
    few_of_overview = replace(of_overview, keys=keys, unary=unary, open=opened, locations=places[index], index=index)
    some = joined(few_of_overview, wide, level)
    whole = joined(of_overview, wide, level)
    assert whole.index is not None and whole.index[0].tolist() == [*range(18)]
    assert some.index is not None and some.index[0].tolist() == [0, 1, 2, 4, 11, *range(12, 18)]  # 0 and 2 are padding
    assert some.index[2].tolist() == [0, 2, 3, 7, 8, *range(12, 18)]
    twice = {name: getattr(of_overview, name).repeat_interleave(2, 0) for name in ("keys", "unary", "open")}
    every = Candidates(
        *(torch.cat([twice[name], getattr(wide, name)], 1) for name in twice), some.sides,
        torch.cat([places.expand(4, -1, -1), wide.location], 1), some.grid,
        torch.cat([level.new_zeros(4, 12), level], 1),
    )  # fmt: skip
    visited = torch.rand(4, 3, 18, generator=draw) < 0.2
    shares = (torch.rand(4, 3, 18, generator=draw) for _ in range(2))
    seen = Coverage(visited, *shares, torch.zeros(4, 3, dtype=torch.long))
    locator, states = PointerLocator(8, 8, zooms=2), torch.randn(4, 3, 8, generator=draw)
    with torch.no_grad():
        few, all_of_them = locator(states, some, seen.at(some.index)), locator(states, every, seen)
    torch.testing.assert_close(few.best(2), all_of_them.best(2))
    for zoom in (0, 1):
        levels = torch.full((4, 3), zoom)
        one, other = few.at(levels), all_of_them.at(levels)
        torch.testing.assert_close(one.of_all(18), other.of_all(18))
        torch.testing.assert_close(one.entropy(), other.entropy())
        drawn = [where.sample(torch.Generator().manual_seed(3)) for where in (one, other)]
        for choice, same in (drawn, (one.mode(), other.mode())):
            assert torch.equal(choice.cell, same.cell) and torch.equal(choice.location, same.location)
            torch.testing.assert_close(one.log_prob(choice), other.log_prob(choice))
    # a case's random numbers do not depend on which cells are open in others
    chosen = [ShuffledLocator(5, range(4))(states, each, seen.at(each.index)).mode().cell for each in (some, every)]
    assert torch.equal(*chosen)
