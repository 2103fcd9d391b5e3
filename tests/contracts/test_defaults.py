"""Defaults: what a file of `configs/` lists agrees with the code, and `gymnasium.make` with the command line."""

import inspect
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from omegaconf import OmegaConf

import glimpse
from glimpse.agents import PPO, Grid, Overview, Random, Reinforce
from glimpse.agents.full_scan import FullScan
from glimpse.learning.augment import Augment
from glimpse.learning.contrastive import ContrastivePretrainer
from glimpse.learning.distillation import DistillationPretrainer
from glimpse.learning.masked import MaskedPretrainer
from glimpse.learning.pretrainer import Pretrainer
from glimpse.learning.pretraining import Contrastive, Distillation, Masked, VICReg
from glimpse.learning.vicreg import VICRegPretrainer
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.networks import ConvEncoder, GlimpsePolicy
from glimpse.plugins import BUILT_IN
from glimpse.settings.building import build
from glimpse.settings.composing import composed

CONFIGS = Path(glimpse.__file__).parents[1] / "configs"


def listed(file: str, *path: str) -> dict[str, Any]:
    """The plain values that a file of `configs/` lists in a section."""
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / file))
    for key in path:
        node = node[key]
    return {k: v for k, v in node.items() if not k.startswith("_") and not isinstance(v, dict) and "${" not in str(v)}


def options_of(record: Any) -> dict[str, Any]:
    """The values of a record of records, flat."""
    found: dict[str, Any] = {}
    for name, value in vars(record).items():
        found |= options_of(value) if hasattr(value, "__dataclass_fields__") else {name: value}
    return found


@pytest.mark.parametrize(
    ("file", "agent"),
    [("ppo", PPO), ("reinforce", Reinforce), ("random", Random), ("grid", Grid), ("overview", Overview)],
)
def test_agents(file: str, agent: Any) -> None:
    path = ("agent", "algorithm") if file == "overview" else ("algorithm",)
    given = listed(f"agent/{file}.yaml", *path)
    defaults = options_of(agent.parse_options({}))
    assert given == {name: defaults[name] for name in given}
    assert {*given} == {*agent.option_names()} - {"max_glimpses"}  # and all of them are listed


def test_the_warm_up() -> None:
    given = listed("warm_up/tokens.yaml")
    assert given == options_of(TokenWarmUp.parse_options({}))


def test_the_full_scan() -> None:
    given = listed("train.yaml", "report", "full_scan")
    assert given == options_of(FullScan.parse_options({}))


@pytest.mark.parametrize("objective", ["contrastive", "vicreg", "masked", "distillation"])
def test_random_views(objective: str) -> None:
    assert listed(f"pretrain/{objective}.yaml", "augment") == options_of(Augment.parse_options({}))


@pytest.mark.parametrize(
    ("file", "path", "taken"),
    [
        ("pretrain/contrastive.yaml", (), Pretrainer),
        ("pretrain/contrastive.yaml", (), ContrastivePretrainer),
        ("pretrain/contrastive.yaml", (), Contrastive),
        ("pretrain/vicreg.yaml", (), VICReg),
        ("pretrain/vicreg.yaml", (), VICRegPretrainer),
        ("pretrain/masked.yaml", (), Masked),
        ("pretrain/masked.yaml", (), MaskedPretrainer),
        ("pretrain/distillation.yaml", (), Distillation),
        ("pretrain/distillation.yaml", (), DistillationPretrainer),
        ("network/default.yaml", (), GlimpsePolicy),
        ("network/encoder/small.yaml", (), ConvEncoder),
    ],
)
def test_keyword_arguments(file: str, path: tuple[str, ...], taken: Any) -> None:
    given = listed(file, *path)
    for name, one in inspect.signature(taken).parameters.items():
        if name in given and one.default is not one.empty and name not in MEANT_TO_DIFFER:
            default = list(one.default) if isinstance(one.default, tuple) else one.default
            assert given[name] == default, name


# In Python a policy sees the overview unless it is told not to: what it answers from is then what it was shown.
MEANT_TO_DIFFER = {"overview_dropout"}


@pytest.mark.parametrize("name", ["wsi", "xray", "photo", "mri", "ct", "relations"])
def test_gymnasium_and_the_command_line_mean_the_same(name: str, request: pytest.FixtureRequest) -> None:
    tiny = {
        "wsi": "tiny_slides",
        "xray": "tiny_radiographs",
        "photo": "tiny_photos",
        "mri": "tiny_mri",
        "ct": "tiny_ct",
    }
    cohort = request.getfixturevalue(tiny[name]) if name in tiny else None
    few = {} if cohort is not None else {"n": {"train": 2, "val": 1, "test": 1}}
    made: Any = gymnasium.make(BUILT_IN[name], cohort=cohort, **few).unwrapped
    given = [f"env.cohort.path={cohort}"] if cohort is not None else ["env.cohort.n={train: 2, val: 1, test: 1}"]
    config = composed(f"env={name}", *given)
    other: Any = build(config.env.make, cohort=build(config.env.cohort), split="train").unwrapped
    for one in ("views", "max_glimpses", "glimpse_cost", "task"):
        assert getattr(made, one) == getattr(other, one), one
    assert made.observation_space == other.observation_space
    pixels = [env.cases[0].source.overview(env.views.overview_size) for env in (made, other)]
    assert (pixels[0] == pixels[1]).all()
    assert config.max_glimpses == made.max_glimpses
