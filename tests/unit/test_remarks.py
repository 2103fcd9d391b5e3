"""What settings ask for in vain is said before a training begins."""

from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from glimpse.learning.remarks import remarks
from glimpse.networks.locator import GaussianLocator
from glimpse.settings.composing import composed
from tests.zooming import environment, policy_for


def said(*overrides: str, **parts: Any) -> list[str]:
    settings = OmegaConf.to_container(composed(*overrides), resolve=False)
    return list(remarks(cast(dict[str, Any], settings), policy_for(environment(levels=3), **parts)))


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        (["env=wsi", "network.encoder.lora_rank=8"], "network.encoder.lora_rank=8 has"),
        (["env=wsi", "agent=grid", "network.encoder.trainable=all"], "network.encoder.trainable=all has"),
        (["env=mri", "network.encoder.planar.trainable=2"], "network.encoder.planar.trainable=2 has"),
        (["env=wsi", "network.encoder.trainable=2", "pretrain=none", "warm_up=random"], "trainable=2 has"),
        (["env=relations", "network/encoder=efficientnet_lite0", "network.encoder.lora_rank=4", "joint=none"], ""),
        (["env=wsi", "network.encoder.lora_rank=8", "agent.algorithm.encoder_rate=1", "joint=none"], "lora_rank=8 has"),
        (
            ["env=wsi", "network.encoder.lora_rank=8", "agent.algorithm.encoder_rate=1", "joint.updates=0"],
            "lora_rank=8",
        ),
        (["env=wsi", "network.encoder.lora_rank=8", "agent.algorithm.encoder_rate=1"], ""),
        (["env=wsi", "network.encoder.lora_rank=8", "pretrain.steps=10"], ""),
        (["env=wsi", "network.encoder.lora_rank=8", "agent=overview"], ""),
        (["env=wsi"], ""),
        (["env=gigapixel_mnist", "pretrain=none", "agent.algorithm.encoder_rate=0.0"], ""),
    ],
)
def test_an_encoder_that_no_stage_trains(overrides: list[str], asked: str) -> None:
    least = [] if "agent=" in " ".join(overrides) else ["agent.algorithm.min_glimpses=3"]
    found = said(*overrides, *least, "max_glimpses=8")
    assert [one for one in found if asked in one and "encoder_rate=1" in one] == found
    assert len(found) == bool(asked)


def test_episodes_that_never_reach_the_finest_field_of_view() -> None:
    given = ["env=wsi", "env.make.glimpse_extents=[4096um,512um,64um]"]
    (found,) = said(*given)
    assert "min_glimpses=1: with 3 fields" in found and "experiment=whole_slides" in found
    assert said("env=wsi", "experiment=whole_slides") == said(*given, "agent.algorithm.min_glimpses=3") == []
    assert said(*given, "joint=none") == said(*given, locator=GaussianLocator) == said(*given, "agent=grid") == []


def test_a_budget_with_which_the_finest_field_of_view_is_never_reached() -> None:
    given = ["env=gigapixel_mnist", "max_glimpses=2"]
    (found,) = said(*given)
    assert "max_glimpses=2: with 3 fields of view" in found and "at least 3" in found
    assert said("env=gigapixel_mnist", "max_glimpses=3") == said("env=gigapixel_mnist", "max_glimpses=0") == []
    assert said(*given, locator=GaussianLocator) == said(*given, "agent=grid") == []  # these look anywhere
    assert said(*given, "agent=overview") == []  # or nowhere


@pytest.mark.parametrize(
    ("branches", "steps", "reads"),
    [
        ("[1000,2,1000]", 10, True),
        ("[1000,2,1000]", 0, False),
        ("[3,2,2]", 10, False),
        ("null", 10, False),
    ],
)
def test_branches_that_would_read_the_same_places_again(branches: str, steps: int, reads: bool) -> None:
    policy = policy_for(environment(levels=3))
    cells, inner = len(policy.cells), len(policy.view_cells)
    found = [one for one in said("env=wsi", f"warm_up.branches={branches}", f"warm_up.steps={steps}") if "cells" in one]
    assert len(found) == reads
    if reads:
        assert f"there are {cells} cells in an overview and {inner} in each wide glimpse" in found[0]
        assert f"so [{cells}, 2, {inner}] are read" in found[0]
