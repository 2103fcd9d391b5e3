"""Zoom in volumes, with fields of view in millimetres and voxels that are deeper than wide."""

from functools import partial
from typing import Any

import numpy as np
import torch

from glimpse.envs import FlattenAction, array_cases, make_array
from glimpse.learning.zoom_warm_up import ZoomWarmUp
from glimpse.networks import ConvEncoder
from glimpse.networks.policy import GlimpsePolicy
from tests.zooming import MOVED

CASES, SPACING = 16, np.array([3.0, 1.0, 1.0])
ENCODER = partial(ConvEncoder, widths=(8, 16), kernels=[4, 3], strides=[2, 1])


def volumes() -> FlattenAction:
    """Volumes of 36 x 48 x 48 mm: noise with eight grey blocks, of which about two have a bright or a dark core."""
    rng, targets = np.random.default_rng(2), np.arange(CASES) % 2
    images = []
    for target in targets:
        volume = rng.normal(60, 4, (12, 48, 48))
        corners = [(z, y, x) for z in (1, 7) for y in (4, 28) for x in (4, 28)]
        for number, (z, y, x) in enumerate(corners):
            volume[z : z + 4, y : y + 16, x : x + 16] += 40
            if number % 4 == rng.integers(4):
                volume[z : z + 4, y + 4 : y + 12, x + 4 : x + 12] = 220 if target else 10
        images.append(np.clip(volume, 0, 255).astype(np.uint8)[None])
    cases = array_cases(images, targets, spacing=tuple(SPACING), unit="mm")
    extents = [["18mm", "24mm", "24mm"], ["6mm", "8mm", "8mm"]]
    sizes: dict[str, Any] = {"overview_size": (6, 12, 12), "glimpse_size": (6, 8, 8), "glimpse_extents": extents}
    return FlattenAction(make_array(cases, split=None, max_glimpses=6, **sizes))


def warmed(steps: int, **options: Any) -> tuple[Any, GlimpsePolicy, ZoomWarmUp]:
    env = volumes()
    torch.manual_seed(0)
    inner: Any = env.unwrapped
    policy = GlimpsePolicy(
        env.observation_space, env.action_space, layout=inner.layout, encoder=ENCODER, overview_dropout=1.0
    )
    given = {"branches": [6, 4], "batch": 8, "steps": steps, "max_sequence": 10, "threads": 1, "look_by_state": False}
    trainer = ZoomWarmUp(policy, inner.cases, inner.views, inner.task, **given | options)
    trainer.encode()
    return inner, policy, trainer


def test_glimpses_of_volumes_lie_where_they_should_in_millimetres() -> None:
    inner, policy, trainer = warmed(1, augment=MOVED)
    assert policy.view_grid.cells == (3, 4, 4)
    wide, fine = trainer._tree(3)
    half = np.array([18.0, 24.0, 24.0])  # of the volume
    cell = np.array([6.0, 6.0, 6.0])  # of a wide glimpse, three or four of which make its sides
    for child, (index, place) in enumerate(zip(fine.cells, fine.location, strict=True)):
        inside = np.stack(np.unravel_index(index, (3, 4, 4))) + 0.5
        expected = wide.location[child // 4] * half + (inside - np.array([1.5, 2.0, 2.0])) * cell
        np.testing.assert_allclose(place * half, np.clip(expected, -half, half), atol=1e-4)
        shown = inner.views.glimpse(inner.cases[3].source, place, 1)
        np.testing.assert_array_equal(np.sort(fine.images[child], axis=None), np.sort(shown, axis=None))
    for image, place in zip(wide.images, wide.location, strict=True):
        np.testing.assert_array_equal(image, inner.views.glimpse(inner.cases[3].source, place, 0))
    maps = policy.view_features(torch.from_numpy(wide.images)).flatten(2)
    own = torch.stack([maps[child // 4, :, fine.cells[child]] for child in range(24)])
    torch.testing.assert_close(trainer.levels[1].at_cells[3], own, atol=1e-5, rtol=1e-4)


def test_the_warm_up_learns_where_to_look_in_volumes() -> None:
    _, policy, trainer = warmed(150)
    losses = [trainer.step().item() for _ in range(150)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    everyone = torch.arange(CASES)
    single = trainer._losses(policy.glimpse_head(trainer._tokens_of(1, everyone)), everyone).detach()
    for _, scores, worth in trainer._worths([single], everyone):
        chosen = (scores.softmax(1) * worth).sum(1).mean()
        assert chosen > worth.mean() + 0.3 * worth.std()  # far better than at random
