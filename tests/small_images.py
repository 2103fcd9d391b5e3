"""Small random images in memory, environments on them, and options with which an agent updates in a moment."""

from typing import Any

import numpy as np

from glimpse.envs import FlattenAction, GlimpseVecEnv, array_cases, make_array

CASES = 6
BASELINE: dict[str, Any] = {"cases_per_rollout": 4, "seed": 0, "device": "cpu"}
SMALL: dict[str, Any] = {**BASELINE, "rollouts_per_case": 2}


def environment(max_glimpses: int = 3, ndim: int = 2) -> FlattenAction:
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 255, (CASES, 1, *[48] * ndim), dtype=np.uint8)
    cases = array_cases(arrays, np.arange(CASES) % 2)
    sizes: dict[str, Any] = {"overview_size": 24, "glimpse_size": 8, "glimpse_extents": [16]}
    return FlattenAction(make_array(cases, split=None, max_glimpses=max_glimpses, **sizes))


def lanes(count: int = 8, max_glimpses: int = 3) -> GlimpseVecEnv:
    return GlimpseVecEnv([environment(max_glimpses) for _ in range(count)], park=True)
