"""Baselines that learn only to predict: from random locations, a regular grid, or the overview alone."""

import copy
from collections.abc import Callable

from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv
from torch import nn
from tqdm import tqdm

from glimpse.agents.base import GlimpseAlgorithm
from glimpse.errors import SettingsError
from glimpse.learning.averaging import Average
from glimpse.networks.blind import GridLocator, RandomLocator
from glimpse.networks.policy import GlimpsePolicy
from glimpse.ranks.sharing import align, share_of
from glimpse.settings.progress import silent

_DECAY = 0.98  # of the running average of parameters, as in the joint stage


class _Baseline(GlimpseAlgorithm):
    """Learns to predict, but not where to look; it has none of the options for learning decisions."""

    defaults = {"cases_per_rollout": 32, "weight_decay": 1e-4}
    fixed = {"rollouts_per_case": 1}
    unused = frozenset({
        "baseline",
        "credit",
        "encoder_share",
        "ent_coef",
        "extra_glimpses",
        "gae_lambda",
        "look_coef",
        "min_glimpses",
        "minibatches",
        "overview_share",
        "replay_rollouts",
        "replay_steps",
        "stop_from",
        "train_answers",
        "vf_coef",
    })  # fmt: skip


class Random(_Baseline):
    """Supervised learning on glimpses at random foreground locations; `warm_up=random` uses it, too."""

    def override(self) -> nn.Module:
        return RandomLocator()


class Grid(_Baseline):
    """Supervised learning on glimpses at the points of a regular grid, as many as the budget allows."""

    def override(self) -> nn.Module:
        return GridLocator(self.rollouts.budget)


class Overview(_Baseline):
    """Supervised learning on overviews, without glimpses; its encoder is trained if it has parameters that train."""

    fixed = {**_Baseline.fixed, "max_glimpses": 0}
    unused = _Baseline.unused | {"encoder_rate", "augment"}


class _UnplayedOverview(Overview):
    """As `Overview`, but overviews are not encoded in rollouts, whose answers are used for logs only.

    Every update encodes them again, with gradients. Those of an encoder that does not train are encoded once.
    """

    encodes_overviews = False


def train_overview(
    policy: GlimpsePolicy,
    lanes: Callable[[int], VecEnv],
    validate: Callable[[GlimpsePolicy], float | None] | None,
    *,
    updates: int = 60,
    validate_every: int = 5,
    patience: int = 5,
    cases_per_rollout: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: bool = False,
) -> GlimpsePolicy:
    """Trains a policy, encoder included (unless none of its parameters trains), to predict from overviews alone.

    Returns the policy at its best validation score. Where there is no score, all updates are made, and the policy that
    is returned has the running average of its parameters.

    Args:
        policy: The policy to train, which is changed. It must have been built with `overview_dropout=0`.
        lanes: Takes a number, and returns a vector of so many environments of the training split.
        validate: Returns the validation score of a policy, or None where it is not defined (for example with cases of
            one class only); None without validation cases.
        updates: Number of updates at most.
        validate_every: Number of updates between two validations.
        patience: Training ends after so many validations without a better score.
        cases_per_rollout: Number of cases per update.
        learning_rate: Learning rate of AdamW.
        seed: Seed of the order of cases.
        progress: Whether to show a bar.

    Raises:
        SettingsError: The policy has an `overview_dropout` above 0.
    """
    if policy.overview_dropout:
        raise SettingsError(
            f"A policy that answers from the overview alone must see it: expected overview_dropout 0, got "
            f"{policy.overview_dropout}."
        )
    align([policy])
    share = share_of(cases_per_rollout)
    env, device = lanes(share.stop - share.start), policy.device
    model = _UnplayedOverview(policy, env, learning_rate, seed=seed, device=device, cases_per_rollout=cases_per_rollout)
    model.set_logger(Logger(None, []))
    highest = validate(policy) if validate is not None else None
    best, average = None if highest is None else copy.deepcopy(policy.state_dict()), Average(policy, _DECAY)
    with tqdm(total=updates, desc="overview alone", unit="update", disable=silent(progress)) as bar:
        since = 0  # validations since the best one
        while model.updates < updates and since < patience:
            model.learn(model.steps_per_update, reset_num_timesteps=False)
            average.update()
            bar.update()
            due = model.updates % validate_every == 0 or model.updates == updates
            reached = validate(policy) if due and validate is not None else None
            better = reached is not None and (highest is None or reached > highest)
            if better:
                best, highest = copy.deepcopy(policy.state_dict()), reached
            since = 0 if better else since + (reached is not None)
    env.close()
    policy.load_state_dict(average.state if best is None else best)
    policy.set_training_mode(False)
    return policy
