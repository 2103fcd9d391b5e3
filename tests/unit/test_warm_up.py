"""The warm-up on glimpses that are encoded once: what it trains, and that it is the same as encoding anew."""

from typing import Any

import numpy as np
import pytest
import torch

from glimpse.envs import FlattenAction, array_cases, make_array
from glimpse.networks.policy import GlimpsePolicy
from glimpse.warm_up import TokenWarmUp

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
    given: dict[str, Any] = {"glimpses": 6, "longest": 4, "batch": 4, "steps": 60, "threads": 1, **options}
    return policy, TokenWarmUp(policy, inner.cases, inner.views, inner.task, **given)


def test_it_learns_to_answer_and_leaves_encoder_and_locator_as_they_are() -> None:
    policy, trainer = make()
    trainer.encode()
    before = {name: value.clone() for name, value in policy.named_parameters()}
    losses = [trainer.step() for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.2 * np.mean(losses[:5])
    changed = {name.split(".")[0] for name, value in policy.named_parameters() if not torch.equal(value, before[name])}
    assert {"pool", "aggregator", "answer_head", "glimpse_head", "position", "scale"} <= changed
    assert not {"encoder", "memory", "locator", "stop_head", "value_head"} & changed
    assert trainer.done == 60


@pytest.mark.parametrize("overview_dropout", [0.0, 1.0])
def test_kept_features_make_the_tokens_that_the_policy_makes(overview_dropout: float) -> None:
    policy, trainer = make(overview_dropout)
    trainer.encode()
    assert ("overviews" in trainer.kept) == (overview_dropout < 1)
    cases = torch.tensor([5, 2])
    tokens, first = trainer._tokens(cases)
    for row, case in enumerate(cases.tolist()):
        images, locations, zooms = trainer._read(case)
        own = policy.glimpse_token(
            policy.look(torch.from_numpy(images)), torch.from_numpy(locations), torch.from_numpy(zooms)
        )
        distance = (tokens[row][:, None] - own[None]).abs().amax(-1)
        assert torch.all(distance.amin(1) < 1e-5)  # every token is one of the case's own
        assert len(set(distance.argmin(1).tolist())) == 4  # and each another one
    if overview_dropout == 0:
        overviews = np.stack([trainer.views.overview(trainer.cases[case].source) for case in cases.tolist()])
        foregrounds = np.stack([trainer.views.foreground(trainer.cases[case].source) for case in cases.tolist()])
        scene = policy.scene(torch.from_numpy(overviews), torch.from_numpy(foregrounds))
        assert torch.allclose(first, scene.token, atol=1e-5)
    else:
        assert torch.equal(first, policy.scale.weight[0].expand(2, -1))


def test_many_cases_get_fewer_glimpses_and_few_cells_get_some_twice() -> None:
    assert make(most=16)[1].glimpses == 2
    assert make(most=1)[1].glimpses == 1
    policy, trainer = make(glimpses=60)  # of 36 cells
    _, locations, _ = trainer._read(0)
    assert len(policy.cells) < 60 == len(locations)


def test_the_same_seed_gives_the_same_losses() -> None:
    runs = []
    for _ in range(2):
        _, trainer = make(seed=3)
        trainer.encode()
        runs.append([trainer.step() for _ in range(3)])
    assert runs[0] == runs[1]
