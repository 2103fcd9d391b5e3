"""Baselines that learn only to answer: from random places, from a regular grid, or from the overview alone."""

import copy
from collections.abc import Callable
from typing import Any

from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv
from torch import nn
from tqdm import tqdm

from glimpse.agents.base import GlimpseAlgorithm
from glimpse.networks.locator import GridLocator, RandomLocator
from glimpse.networks.policy import GlimpsePolicy


class Random(GlimpseAlgorithm):
    """Supervised learning on glimpses at random foreground locations; also the warm-up of the other agents."""

    explores = False

    def override(self) -> nn.Module:
        return RandomLocator()


class Grid(GlimpseAlgorithm):
    """Supervised learning on glimpses at the points of a regular grid, as many as the budget allows."""

    explores = False

    def override(self) -> nn.Module:
        return GridLocator(int(self.max_glimpses or 0))


class Overview(GlimpseAlgorithm):
    """Supervised learning on overviews; it never looks closer, whatever the budget."""

    explores = False

    def __init__(self, policy: Any, env: Any, learning_rate: Any = 1e-3, **options: Any) -> None:
        super().__init__(policy, env, learning_rate, **{**options, "max_glimpses": 0})


def train_overview(
    policy: GlimpsePolicy,
    lanes: Callable[[int], VecEnv],
    validate: Callable[[GlimpsePolicy], float],
    *,
    algorithm: Callable[..., Overview] = Overview,
    cases_per_rollout: int = 32,
    updates: int = 60,
    validate_every: int = 5,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: bool = False,
) -> GlimpsePolicy:
    """Trains a policy to answer from overviews alone, encoder included, and leaves it where it validated best.

    Args:
        policy: trained in place; its answers are made to see the overview.
        lanes: given a number, a vector of so many environments of the training split.
        validate: the validation score of a policy.
        algorithm: makes the `Overview` agent.
        cases_per_rollout: how many cases it sees between two updates.
        updates: how long to train.
        validate_every: how many updates lie between two looks at the validation split.
        learning_rate: of AdamW.
        seed: of the order of cases.
        progress: whether to show a bar.
    """
    policy.overview_dropout = 0.0
    env, sizes = lanes(cases_per_rollout), {"cases_per_rollout": cases_per_rollout, "rollouts_per_case": 1}
    model = algorithm(policy, env, learning_rate=learning_rate, seed=seed, device=policy.device, **sizes)
    model.set_logger(Logger(None, []))
    best, highest = copy.deepcopy(policy.state_dict()), validate(policy)
    with tqdm(total=updates, desc="overview alone", unit="update", disable=not progress) as bar:
        while model.updates < updates:
            model.learn(
                min(validate_every, updates - model.updates) * model.steps_per_update, reset_num_timesteps=False
            )
            bar.update(model.updates - bar.n)
            reached = validate(policy)
            if reached > highest:
                best, highest = copy.deepcopy(policy.state_dict()), reached
    policy.load_state_dict(best)
    policy.set_training_mode(False)
    return policy
