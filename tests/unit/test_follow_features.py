"""Statistics of the features of cells that follow an encoder while it learns."""

from functools import partial
from typing import Any

import pytest
import torch

from glimpse.envs import GlimpseVecEnv
from glimpse.networks.locator import PointerLocator
from tests.unit.test_zoom import ENCODER, environment, trained


def test_statistics_move_towards_those_of_the_cells_that_were_noted() -> None:
    torch.manual_seed(0)
    locator = PointerLocator(4, 4, zooms=2, follow_features=True)
    locator.calibrate(torch.randn(100, 4))
    shift, spread = locator.shift.clone(), locator.spread.clone()
    inside = torch.randn(6, 50, 4) * 3 + 7
    level, opened = torch.tensor([0, 1, 0, 0, 1, 0]), torch.rand(6, 50) < 0.7
    with locator.noting():
        for part in (slice(0, 4), slice(4, 6)):  # those of both calls count
            locator.note(inside[part], opened[part], level[part])
    locator.note(inside + 100, opened)  # outside of `noting`
    locator.follow()
    for part, index, old in ((locator, 0, (shift, spread)), (locator.finer[0], 1, (torch.zeros(4), torch.ones(4)))):
        flat = inside[level == index][opened[level == index]]  # closed cells do not count
        torch.testing.assert_close(part.shift, old[0] + 0.05 * (flat.mean(0) - old[0]))
        expected = flat.std(0, correction=0) + 1e-3
        torch.testing.assert_close(part.spread, old[1] + 0.05 * (expected - old[1]))
    before = locator.shift.clone()
    locator.follow()  # nothing is counted twice
    assert torch.equal(locator.shift, before)
    for _ in range(200):
        with locator.noting():
            locator.note(inside, opened, level)
        locator.follow()
    seen = (inside[level == 1][opened[level == 1]] - locator.finer[0].shift) / locator.finer[0].spread
    torch.testing.assert_close(seen.mean(0), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(4), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("spread", "smaller"), [(0.01, 0.01), (4.0, 1.0)])
def test_the_gradient_that_is_passed_on_is_not_enlarged(spread: float, smaller: float) -> None:
    features, found = torch.randn(3, 5, 4), {}
    for follows in (False, True):
        torch.manual_seed(1)
        locator = PointerLocator(4, 4, follow_features=follows)
        locator.spread.fill_(spread)
        given = features.clone().requires_grad_()
        keys, unary = locator.describe(given, torch.zeros_like(given))
        (keys.square().sum() + unary.sum()).backward()
        found[follows] = (keys.detach(), unary.detach(), given.grad, locator.key.weight.grad)
    for index in (0, 1, 3):  # outputs, and what the locator itself learns
        torch.testing.assert_close(found[True][index], found[False][index], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[True][2], found[False][2] * smaller, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("follows", [False, True])
def test_an_agent_follows_the_features_of_all_levels(follows: bool) -> None:
    kwargs: dict[str, Any] = {"encoder": ENCODER, "locator": partial(PointerLocator, follow_features=follows)}
    agent = trained(3, rollouts=3, policy_kwargs=kwargs)
    locator = agent.policy.locator
    for part in (locator, *locator.finer):
        assert bool((part.shift != 0).any()) == follows
        assert part.noted == []
    agent.policy.set_training_mode(False)
    before = locator.shift.clone()
    lanes = GlimpseVecEnv([environment(3) for _ in range(2)], park=True)
    agent.policy.predict(lanes.reset())
    assert torch.equal(locator.shift, before)
