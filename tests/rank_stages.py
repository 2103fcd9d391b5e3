"""Every stage of a training on small images in float64: what several ranks, and one by itself, end with.

python -m tests.rank_stages <file>     in each of several processes, with what torchrun sets in the environment
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from glimpse.agents import PPO, Reinforce
from glimpse.envs import FlattenAction, GlimpseVecEnv, array_cases, make_array
from glimpse.learning.augment import Augment
from glimpse.learning.contrastive import ContrastivePretrainer
from glimpse.learning.distillation import DistillationPretrainer
from glimpse.learning.foresight import ForesightPretrainer, sample_foreseen
from glimpse.learning.masked import MaskedPretrainer
from glimpse.learning.sampling import sample_glimpses
from glimpse.learning.second_look import SecondLook
from glimpse.learning.vicreg import VICRegPretrainer
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.learning.zoom_warm_up import ZoomWarmUp
from glimpse.networks.aggregator import CausalTransformer
from glimpse.networks.encoder import ConvEncoder
from glimpse.networks.policy import GlimpsePolicy
from glimpse.ranks.group import ranks, taking_part
from glimpse.ranks.sharing import share_of

STEPS, CASES = 20, 10
_PARTS: dict[str, Any] = {
    "encoder": lambda channels, ndim: ConvEncoder(channels, ndim, widths=(8, 8), strides=(2, 2)),
    "aggregator": lambda embed: CausalTransformer(embed, layers=1, heads=2, dropout=0.1),
    "overview_dropout": 0.3,
}


def environment(extents: list[int]) -> Any:
    rng = np.random.default_rng(0)
    targets = np.arange(CASES) % 2
    arrays = rng.integers(0, 100, (CASES, 1, 48, 48)) + 120 * targets[:, None, None, None]
    cases = array_cases(arrays.astype(np.uint8), targets)
    sizes: dict[str, Any] = {"overview_size": 24, "glimpse_size": 8, "glimpse_extents": extents}
    return FlattenAction(make_array(cases, split=None, max_glimpses=3, **sizes))


def made(extents: list[int]) -> tuple[Any, GlimpsePolicy]:
    """An environment and a policy in float64, the same in every process."""
    torch.manual_seed(0)
    env = environment(extents)
    policy = GlimpsePolicy(env.observation_space, env.action_space, layout=env.unwrapped.layout, **_PARTS)
    return env.unwrapped, policy.double()


def pretrained(kind: type, **options: Any) -> dict[str, nn.Module]:
    env, policy = made([8, 16])
    given: dict[str, Any] = {"batch": 7, "seed": 3, **options}
    augment = Augment((8, 8), policy.encoder.background, quarter_turns=True, zoom=0.0, noise=2.0)
    if kind is ForesightPretrainer:
        pool: Any = sample_foreseen(policy, env.cases, env.views, 40, 4, margin=1.5, seed=1)
        given |= {"per_case": 2, "batch": 6}
    else:
        pool = sample_glimpses(env.cases, env.views, 40, margin=1.5, seed=1)
    trainer = kind(policy, pool, augment, **given)
    for module in trainer.modules().values():
        module.double()
    if isinstance(trainer, DistillationPretrainer):  # its outputs are made float32, as those in bfloat16 are
        trainer.teacher.centre = trainer.teacher.centre.float()
    trainer.calibrate()
    for _ in range(STEPS):
        trainer.step()
    return dict(trainer.modules())


def warmed(kind: type[TokenWarmUp], second: bool = False, **options: Any) -> dict[str, nn.Module]:
    env, policy = made([8, 16])
    given: dict[str, Any] = {"glimpses_per_case": 6, "max_sequence": 4, "batch": 7, "steps": STEPS, "threads": 1}
    given |= {"seed": 3, "look_coef": 1.0, **options}
    trainer = kind(policy, env.cases, env.views, env.task, **given)
    torch.set_default_dtype(torch.float64)  # of judges
    trainer.encode()
    torch.set_default_dtype(torch.float32)
    for module in trainer.modules().values():
        module.double()
    for _ in range(STEPS):
        trainer.step()
    if second:
        unlearned = trainer.unlearned
        assert unlearned is not None
        trainer = SecondLook(policy, env.cases, env.views, env.task, **given)
        trainer.begin(unlearned)
        trainer.encode()
        for _ in range(STEPS):
            trainer.step()
    return dict(trainer.modules())


def played(
    kind: Any, extents: list[int], stop_bias: float = -0.5, worth: bool = False, **options: Any
) -> dict[str, nn.Module]:
    env, policy = made(extents)
    if "replay_steps" in options:
        policy.overview_dropout = 1.0
    given: dict[str, Any] = {"cases_per_rollout": 5, "rollouts_per_case": 2, "stop_from": 0.2, "seed": 3, **options}
    share = share_of(given["cases_per_rollout"])
    lanes = GlimpseVecEnv([environment(extents) for _ in range(2 * (share.stop - share.start))], park=True)
    agent = kind(policy, lanes, device="cpu", **given)
    with torch.no_grad():
        policy.stop_head.bias.fill_(stop_bias)  # episodes of different lengths
    if worth:
        warm_up = ZoomWarmUp(policy, env.cases, env.views, env.task, branches=[3, 2], max_sequence=4, threads=1, seed=0)
        warm_up.encode()
        agent.worth = warm_up.worth()
    agent.learn(STEPS * agent.steps_per_update)
    return {"policy": policy}


STAGES: dict[str, Callable[[], dict[str, nn.Module]]] = {
    "contrastive": lambda: pretrained(ContrastivePretrainer),
    "foresight": lambda: pretrained(ForesightPretrainer),
    "vicreg": lambda: pretrained(VICRegPretrainer, width=16),
    "masked": lambda: pretrained(MaskedPretrainer),
    "distillation": lambda: pretrained(DistillationPretrainer, prototypes=8),
    "warm_up": lambda: warmed(TokenWarmUp, look_expected=True),
    "warm_up, judged": lambda: warmed(TokenWarmUp, look_judges=[2], answer_judges=[2]),
    "second look": lambda: warmed(TokenWarmUp, True, second_look=0.5, second_steps=STEPS),
    # A number that is added to all scores has a gradient of rounding only; AdamW makes steps of it, by its rate.
    "zoom warm_up": lambda: warmed(ZoomWarmUp, branches=[3, 2], learning_rate=1e-3),
    "zoom warm_up, surprise": lambda: warmed(
        ZoomWarmUp, branches=[3, 2], learning_rate=1e-3, look_judges=[2], look_worth="surprise", look_among=3
    ),
    "zoom warm_up, answers of judges": lambda: warmed(
        ZoomWarmUp, branches=[3, 2], learning_rate=1e-3, answer_judges=[2]
    ),
    "zoom warm_up, contexts": lambda: warmed(ZoomWarmUp, branches=[3, 2], learning_rate=1e-3, look_contexts=2),
    "reinforce": lambda: played(Reinforce, [8], encoder_share=0.5, overview_share=0.5, min_glimpses=1),
    "ppo": lambda: played(PPO, [8, 16], baseline="critic"),
    # Of the few episodes of a rank, often all stop before a wide glimpse.
    "zoom": lambda: played(PPO, [24, 8], 1.5, worth=True, cases_per_rollout=2, stop_from=0.0, look_coef=0.1),
    "replay": lambda: played(Reinforce, [8], min_glimpses=1, replay_steps=3, replay_rollouts=2),
    "replay of zoom, random views": lambda: played(
        Reinforce, [24, 8], min_glimpses=1, replay_steps=3, replay_rollouts=2, augment={"noise": 2.0, "zoom": 0.0}
    ),
}


def states(stage: str) -> dict[str, torch.Tensor]:
    """All parameters and buffers after a stage."""
    modules = STAGES[stage]()
    return {f"{name}/{key}": one for name, part in modules.items() for key, one in part.state_dict().items()}


def main() -> None:
    torch.set_num_threads(1)
    with taking_part("cpu"):
        torch.save({stage: states(stage) for stage in STAGES}, f"{sys.argv[1]}.{ranks().rank}")


if __name__ == "__main__":
    main()
