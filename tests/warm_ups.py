"""A small warm-up for tests: eight images of which any glimpse tells the class."""

from typing import Any

import numpy as np
import torch

from glimpse.envs import FlattenAction, array_cases, make_array
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.networks.policy import GlimpsePolicy

CASES = 8


def environment() -> FlattenAction:
    """Dark and bright images, so that any glimpse tells the class."""
    rng = np.random.default_rng(0)
    targets = np.arange(CASES) % 2
    arrays = rng.integers(0, 100, (CASES, 1, 48, 48)) + 120 * targets[:, None, None, None]
    cases = array_cases(arrays.astype(np.uint8), targets)
    sizes: dict[str, Any] = {"overview_size": 24, "glimpse_size": 8, "glimpse_extents": [8, 16]}
    return FlattenAction(make_array(cases, split=None, max_glimpses=3, **sizes))


def make(overview_dropout: float = 1.0, **options: Any) -> tuple[GlimpsePolicy, TokenWarmUp]:
    torch.manual_seed(0)
    env = environment()
    inner: Any = env.unwrapped
    policy = GlimpsePolicy(
        env.observation_space, env.action_space, layout=inner.layout, overview_dropout=overview_dropout
    )
    given: dict[str, Any] = {
        "glimpses_per_case": 6,
        "max_sequence": 4,
        "batch": 4,
        "steps": 60,
        "threads": 1,
        **options,
    }
    return policy, TokenWarmUp(policy, inner.cases, inner.views, inner.task, **given)
