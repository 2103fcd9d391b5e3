"""What tests of zoom share: small images of noise or with spots, a policy, and a warm-up."""

from functools import partial
from typing import Any

import numpy as np
import torch

from glimpse.envs import FlattenAction, array_cases, make_array
from glimpse.learning.zoom_warm_up import ZoomWarmUp
from glimpse.networks import ConvEncoder
from glimpse.networks.aggregator import CausalTransformer
from glimpse.networks.policy import GlimpsePolicy

SIDE, CASES = 96, 8
ENCODER = partial(ConvEncoder, strides=(2, 1, 1, 1))
LEVELS: dict[int, dict[str, Any]] = {
    2: {"overview_size": 24, "glimpse_size": 8, "glimpse_extents": [24, 8]},
    3: {"overview_size": 16, "glimpse_size": 8, "glimpse_extents": [48, 24, 8]},
    4: {"overview_size": 16, "glimpse_size": 8, "glimpse_extents": [64, 32, 16, 8]},
}


def environment(levels: int = 2, max_glimpses: int = 6, ndim: int = 2, **sizes: Any) -> FlattenAction:
    """Noise of which a corner is plain."""
    arrays = np.random.default_rng(0).integers(0, 255, (CASES, 1, *[SIDE] * ndim), np.uint8)
    arrays[:, :, : SIDE // 3, : SIDE // 3] = 0
    cases = array_cases(arrays, np.arange(CASES) % 2)
    return FlattenAction(make_array(cases, split=None, max_glimpses=max_glimpses, **LEVELS[levels] | sizes))


def policy_for(env: FlattenAction, **parts: Any) -> GlimpsePolicy:
    torch.manual_seed(0)
    inner: Any = env.unwrapped
    return GlimpsePolicy(env.observation_space, env.action_space, layout=inner.layout, encoder=ENCODER, **parts)


def spotted() -> FlattenAction:
    """Dim blobs on noise; every third one is full of dots, which are bright on images of class 1 and dark on others.

    Overviews show blobs, wide glimpses show which of them have dots, and fine ones what these are.
    """
    rng = np.random.default_rng(1)
    images, targets = [], np.arange(24) % 2
    for target in targets:
        image = rng.normal(60, 4, (192, 192))
        for number, (y, x) in enumerate((y, x) for y in range(0, 192, 64) for x in range(0, 192, 64)):
            image[y + 8 : y + 56, x + 8 : x + 56] += 40
            if number % 3 == rng.integers(3):
                for _ in range(12):
                    top, left = rng.integers(10, 50, 2)
                    image[y + top : y + top + 4, x + left : x + left + 4] = 220 if target else 10
        images.append(np.clip(image, 0, 255).astype(np.uint8)[None])
    cases = array_cases(images, targets)
    sizes: dict[str, Any] = {"overview_size": 24, "glimpse_size": 16, "glimpse_extents": [64, 16]}
    return FlattenAction(make_array(cases, split=None, max_glimpses=6, **sizes))


def warmed(
    env: FlattenAction, steps: int, aggregator: Any = CausalTransformer, **options: Any
) -> tuple[GlimpsePolicy, ZoomWarmUp]:
    policy, inner = policy_for(env, overview_dropout=1.0, aggregator=aggregator), env.unwrapped
    given = {"branches": [6, 5], "batch": 8, "steps": steps, "max_sequence": 10, "threads": 1, "look_by_state": False}
    trainer = ZoomWarmUp(policy, inner.cases, inner.views, inner.task, **given | options)
    trainer.encode()
    return policy, trainer


MOVED = {"quarter_turns": True, "flips": True, "zoom": 0, "tilt": 0, "noise": 0, "strength": 0}
"""Random views that only move pixels."""
