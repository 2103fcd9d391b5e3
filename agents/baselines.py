"""Baselines that learn only to answer: from random places, from a regular grid, or from the overview alone."""

import copy
from collections.abc import Callable

from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv
from torch import nn
from tqdm import tqdm

from glimpse.agents.base import GlimpseAlgorithm
from glimpse.errors import SettingsError
from glimpse.networks.locator import GridLocator, RandomLocator
from glimpse.networks.policy import GlimpsePolicy


class _Baseline(GlimpseAlgorithm):
    """Learns to answer, and nothing about where to look: there are no decisions to compare, to credit or to value."""

    fixed = {"rollouts_per_case": 1}
    unused = frozenset({
        "baseline",
        "credit",
        "encoder_share",
        "ent_coef",
        "extra_glimpses",
        "gae_lambda",
        "min_glimpses",
        "minibatches",
        "stop_from",
        "vf_coef",
    })  # fmt: skip


class Random(_Baseline):
    """Supervised learning on glimpses at random foreground locations; also the warm-up of the other agents."""

    def override(self) -> nn.Module:
        return RandomLocator()


class Grid(_Baseline):
    """Supervised learning on glimpses at the points of a regular grid, as many as the budget allows."""

    def override(self) -> nn.Module:
        return GridLocator(self.rollouts.budget)


class Overview(_Baseline):
    """Supervised learning on overviews; it never looks closer, and its encoder always learns."""

    fixed = {**_Baseline.fixed, "max_glimpses": 0}
    unused = _Baseline.unused | {"encoder_rate"}


def train_overview(
    policy: GlimpsePolicy,
    lanes: VecEnv,
    validate: Callable[[GlimpsePolicy], float],
    *,
    algorithm: Callable[..., Overview] = Overview,
    updates: int = 60,
    validate_every: int = 5,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: bool = False,
) -> GlimpsePolicy:
    """Trains a policy to answer from overviews alone, encoder included, and leaves it where it validated best.

    Args:
        policy: Trained in place. It must have been built with `overview_dropout=0`, for it answers from the overview.
        lanes: Environments of the training split.
        validate: The validation score of a policy.
        algorithm: Makes the `Overview` agent.
        updates: How long to train.
        validate_every: How many updates lie between two looks at the validation split.
        learning_rate: Of AdamW.
        seed: Of the order of cases.
        progress: Whether to show a bar.

    Raises:
        SettingsError: The policy does not answer from overviews.
    """
    if policy.overview_dropout:
        raise SettingsError(
            f"A policy that answers from the overview alone must see it: expected overview_dropout 0, got "
            f"{policy.overview_dropout}."
        )
    model = algorithm(policy, lanes, learning_rate=learning_rate, seed=seed, device=policy.device)
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
