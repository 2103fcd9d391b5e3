"""Random views turn the finest glimpses in their own proportions, not in those of wider fields of view."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glimpse.agents.random_views import random_view
from glimpse.contract.stepped_sources import viewable_cases
from glimpse.envs import FlattenAction, GlimpseVecEnv, array_cases, make_array
from glimpse.learning.pretraining import VICReg
from glimpse.learning.stages import Training
from glimpse.runs.folder import Run
from tests.zooming import policy_for, warmed

TURNED: dict[str, Any] = {"quarter_turns": True, "flips": False, "zoom": 0, "tilt": 0, "noise": 0, "strength": 0}


def environment(extents: Any = ((64, 32), (16, 16))) -> FlattenAction:
    """Noise with glimpses of 16 x 16 pixels: wide ones span twice as much along y as along x, fine ones are square."""
    arrays = np.random.default_rng(0).integers(1, 255, (6, 1, 96, 96), np.uint8)
    cases = array_cases(arrays, np.arange(6) % 2)
    sizes: dict[str, Any] = {"overview_size": 24, "glimpse_size": 16, "glimpse_extents": extents}
    return FlattenAction(make_array(cases, split=None, max_glimpses=6, **sizes))


def quarters(seen: np.ndarray, read: np.ndarray) -> int:
    """By how many quarters a square glimpse (channel, y, x) was turned."""
    (found,) = [turns for turns in range(4) if np.array_equal(seen, np.rot90(read, turns, (1, 2)))]
    return found


def test_the_warm_up_turns_square_glimpses_by_quarters_where_wide_ones_are_oblong() -> None:
    env = environment()
    _, trainer = warmed(env, 1, augment=TURNED)
    inner: Any = env.unwrapped
    found = set()
    for index, case in enumerate(inner.cases):
        wide, fine = trainer._tree(index)
        for image, place in zip(wide.images, wide.location, strict=True):
            assert quarters(image, inner.views.glimpse(case.source, place, 0)) == 0
        for image, place in zip(fine.images, fine.location, strict=True):
            found.add(quarters(image, inner.views.glimpse(case.source, place, 1)))
    assert found == {0, 1, 2, 3}


def test_episodes_turn_square_glimpses_by_quarters_where_wide_ones_are_oblong() -> None:
    env = environment()
    view = random_view(GlimpseVecEnv([env]), policy_for(env), TURNED)
    assert view is not None
    read = torch.randint(0, 256, (60, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    zoom, seen = torch.arange(60) % 2, view(read, torch.arange(60) % 2)
    found = [{quarters(seen[row].numpy(), read[row].numpy()) for row in np.flatnonzero(zoom == one)} for one in (0, 1)]
    assert found == [{0}, {0, 1, 2, 3}]


def no_lanes(split: str, count: int) -> Any:
    raise AssertionError("pretraining plays no episodes")


@pytest.mark.parametrize(
    ("extents", "expected"),
    [
        (((64, 32), (16, 16)), (16.0, 16.0)),
        (((48, 48), (8, 24)), (8.0, 24.0)),
        (((16, 24),), (16.0, 24.0)),
    ],
)
def test_pretraining_turns_in_the_proportions_of_the_finest_glimpses(
    extents: Any, expected: tuple[float, ...], tmp_path: Path
) -> None:
    env = environment(extents)
    cases = viewable_cases(env)
    given: dict[str, Any] = {"seed": 0, "threads": 1, "progress": False}
    training = Training(Run(tmp_path, {}), policy_for(env), cases, no_lanes, lambda split: cases, **given)
    stage = VICReg(steps=1, batch=4, pool=8, margin=1.0, learning_rate=1e-3, augment=TURNED)
    augment = stage.trainer(training).augment
    assert tuple(augment.sides.tolist()) == expected[::-1]
