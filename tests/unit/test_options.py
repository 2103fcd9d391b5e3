"""Flat options become records, and what is wrong with them is said before anything begins."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from omegaconf import OmegaConf

from glimpse.agents import PPO, Grid, Overview, Random, Reinforce
from glimpse.agents.base import GlimpseAlgorithm
from glimpse.agents.options import Losses, Options, Rollouts, Updates
from glimpse.agents.ppo import PPOLosses, PPOOptions
from glimpse.errors import SettingsError
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.learning.warm_up_options import WarmUpGlimpses, WarmUpLosses, WarmUpOptions, WarmUpSecondLook, WarmUpSteps
from glimpse.settings.composing import composed
from glimpse.settings.kinds import check_kind, fits
from glimpse.settings.nearest import nearest, unknown_message
from glimpse.settings.options import at_least, option_names, sorted_into
from glimpse.settings.paths import folder_for, listed_paths


@dataclass(frozen=True)
class Size:
    width: int = 3
    height: int | None = None


@dataclass(frozen=True)
class Picture:
    size: Size
    title: str = ""
    framed: bool = False
    weight: float = 1.0


# ---------------------------------------------------------------------------------------------- the helpers
def test_options_are_sorted_into_the_records_that_have_them() -> None:
    assert option_names(Picture) == ("width", "height", "title", "framed", "weight")
    made = sorted_into(Picture, {"height": 4, "title": "a head", "weight": 2}, "Picture")
    assert made == Picture(Size(3, 4), "a head", False, 2)
    assert sorted_into(Picture, {}, "Picture") == Picture(Size())


KINDS = {  # a hint: its words, values that it has, values that it has not
    "whole": (int, "a whole number", [0, np.int64(3)], [1.0, True, "1", None]),
    "number": (float | None, "a number or null", [1, 0.5, None], [False, "1", [1.0]]),
    "literal": (Literal["a", 2], "'a' or 2", ["a", 2], ["b", None]),
    "list": (Sequence[int], "a list of whole numbers", [[], [1, 2], (3,)], ["12", [1.5], {"a": 1}, None]),
    "mapping": (Mapping, "a mapping", [{}, {"a": 1}, OmegaConf.create({"a": 1})], [3, "a: 1", ["a"], None]),
    "mapping of": (Mapping[str, int] | None, "a mapping or null", [{"a": 1}, None], [3, "a: 1", ["a"]]),
    "dict": (dict[str, int], "a mapping", [{"a": 1}], [3, None]),
    "section": (Size, "a section", [{"_target_": "Size"}], [None]),
    "anything": (Any, "a section", [None, 3, {}], []),
}


@pytest.mark.parametrize(("hint", "words", "good", "bad"), KINDS.values(), ids=KINDS)
def test_values_are_of_the_kind_that_a_hint_has(hint: Any, words: str, good: list[Any], bad: list[Any]) -> None:
    assert [fits(value, hint) for value in [*good, *bad]] == [True] * len(good) + [False] * len(bad)
    for value in good:
        check_kind("key", value, hint)
    for value in bad:
        with pytest.raises(SettingsError, match=rf"^key: expected {re.escape(f'{words}, got {value!r}.')}$"):
            check_kind("key", value, hint)


@pytest.mark.parametrize(
    ("value", "most", "said"),
    [(2.5, math.inf, "Expected n as a whole number of at least 1, got 2.5."),
     (True, math.inf, "Expected n as a whole number of at least 1, got True."),
     (9, 8, "Expected n as a whole number from 1 to 8, got 9.")],
)  # fmt: skip
def test_a_number_that_must_be_whole_is_said_to_be(value: Any, most: float, said: str) -> None:
    at_least("n", 1, 1, whole=True, most=most)
    with pytest.raises(SettingsError, match=f"^{re.escape(said)}$"):
        at_least("n", value, 1, whole=True, most=most)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widht": 3}, "Picture has no option 'widht'; did you mean 'width'?"),
        ({"zzz": 3}, "Picture has no option 'zzz'; there are: width, height, title, framed, weight."),
        ({"size": 3}, "Picture has no option 'size'; there are: "),
        ({"width": "wide"}, "Expected width of Picture to be a whole number, got 'wide'."),
        ({"width": 2.5}, "Expected width of Picture to be a whole number, got 2.5."),
        ({"width": True}, "Expected width of Picture to be a whole number, got True."),
        ({"width": None}, "Expected width of Picture to be a whole number, got None."),
        ({"height": "x"}, "Expected height of Picture to be a whole number or null, got 'x'."),
        ({"framed": 1}, "Expected framed of Picture to be true or false, got 1."),
        ({"title": 1}, "Expected title of Picture to be a text, got 1."),
        ({"weight": "heavy"}, "Expected weight of Picture to be a number, got 'heavy'."),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        sorted_into(Picture, options, "Picture")
    assert str(caught.value).startswith(message)


def test_the_nearest_name() -> None:
    assert nearest("entcoef", ["ent_coef", "vf_coef"]) == "ent_coef"
    assert nearest("x", ["ent_coef", "vf_coef"]) is None
    assert unknown_message("readers", ["reader"], "A report", "key") == (
        "A report has no key 'readers'; did you mean 'reader'?"
    )
    assert unknown_message("x", ["seed"], "A run") == "A run has no option 'x'; there is: seed."
    assert unknown_message("x", [], "A run") == "A run has no option 'x'; there are: none."


# ---------------------------------------------------------------------------------------------- agents
def test_an_agents_options_come_flat_and_defaults_are_those_of_the_records() -> None:
    given = {"cases_per_rollout": 8, "ent_coef": 0.01, "n_epochs": 4, "clip_range": 0.3}
    assert PPO.parse_options(given) == PPOOptions(
        Rollouts(cases_per_rollout=8), PPOLosses(ent_coef=0.01, clip_range=0.3), Updates(n_epochs=4)
    )
    assert PPO.parse_options({}).updates == Updates(n_epochs=2)
    assert Reinforce.parse_options({}) == Options(Rollouts(), Losses(), Updates())
    alone = Rollouts(cases_per_rollout=32, rollouts_per_case=1, max_glimpses=0)
    assert Overview.parse_options({}).rollouts == alone


def test_baselines_have_only_options_that_mean_something_to_them() -> None:
    answering = {"cases_per_rollout", "prefix_coef", "glimpse_coef", "n_epochs", "max_grad_norm", "weight_decay"}
    looking = answering | {"max_glimpses", "encoder_rate", "augment"}
    assert set(Random.option_names()) == set(Grid.option_names()) == looking
    assert set(Overview.option_names()) == answering
    assert set(PPO.option_names()) == {*Reinforce.option_names(), "clip_range"}
    for name in set(PPO.option_names()) - set(Random.option_names()):
        with pytest.raises(SettingsError, match=f"Random has no option '{name}'"):
            Random.parse_options({name: 1})


@pytest.mark.parametrize(
    ("agent", "options", "message"),
    [
        (PPO, {"n_epoch": 4}, "PPO has no option 'n_epoch'; did you mean 'n_epochs'?"),
        (Reinforce, {"clip_range": 0.2}, "Reinforce has no option 'clip_range'"),
        (Overview, {"max_glimpses": 4}, "Overview has no option 'max_glimpses'"),
        (PPO, {"n_epochs": "four"}, "Expected n_epochs of PPO to be a whole number, got 'four'."),
        (PPO, {"credit": "some"}, 'Expected credit "gain" or "final", got'),
        (PPO, {"baseline": "none"}, 'Expected baseline "leave_one_out" or "critic", got'),
        (PPO, {"rollouts_per_case": 1}, "A leave-one-out baseline needs rollouts_per_case >= 2, got 1;"),
        (PPO, {"encoder_share": 0.0}, "Expected encoder_share above 0 and up to 1, got 0.0."),
        (PPO, {"min_glimpses": 5, "max_glimpses": 4}, "Expected min_glimpses from 0 to max_glimpses (4), got 5."),
        (PPO, {"min_glimpses": -1}, "Expected min_glimpses from 0 to max_glimpses, got -1."),
        (PPO, {"extra_glimpses": -1}, "Expected extra_glimpses of at least 0, got -1."),
        (PPO, {"cases_per_rollout": 0}, "Expected cases_per_rollout of at least 1, got 0."),
        (PPO, {"clip_range": 0}, "Expected clip_range above 0, got 0."),
        (PPO, {"gae_lambda": 2.0}, "Expected gae_lambda from 0 to 1, got 2.0."),
        (PPO, {"max_grad_norm": 0.0}, "Expected max_grad_norm above 0, got 0.0."),
        (PPO, {"encoder_rate": -1.0}, "Expected encoder_rate of at least 0, got -1.0."),
    ],
)
def test_wrong_options_are_refused_without_an_environment(
    agent: type[GlimpseAlgorithm], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        agent.parse_options(options)
    assert str(caught.value).startswith(message)


def test_what_is_left_open_is_settled_by_the_environment() -> None:
    assert Rollouts().settled(6) == Rollouts(max_glimpses=6, extra_glimpses=0)
    assert Rollouts(min_glimpses=2).settled(6) == Rollouts(max_glimpses=6, min_glimpses=2, extra_glimpses=6)
    assert Rollouts(max_glimpses=3, extra_glimpses=1).settled(6).max_glimpses == 3
    with pytest.raises(SettingsError, match=r"min_glimpses from 0 to max_glimpses \(6\), got 7"):
        Rollouts(min_glimpses=7).settled(6)


# ---------------------------------------------------------------------------------------------- the warm-up
def test_the_warm_ups_options() -> None:
    made = TokenWarmUp.parse_options({"steps": 20, "look_coef": 0, "max_sequence": 5})
    assert made == WarmUpOptions(
        WarmUpGlimpses(max_sequence=5), WarmUpLosses(look_coef=0), WarmUpSteps(steps=20), WarmUpSecondLook()
    )
    with pytest.raises(SettingsError, match="TokenWarmUp has no option 'step'; did you mean 'steps'"):
        TokenWarmUp.parse_options({"step": 20})
    with pytest.raises(SettingsError, match="batch of the warm-up above 0, got 0"):
        TokenWarmUp.parse_options({"batch": 0})


# ---------------------------------------------------------------------------------------------- another task
def test_another_task_replaces_the_one_of_the_environment() -> None:
    typed = ("env=mri", "env.task._target_=glimpse.tasks.Regression", "+env.task.mean=50", "+env.task.spread=15")
    env = composed(*typed).env
    task = {"_target_": "glimpse.tasks.Regression", "mean": 50, "spread": 15}
    assert env.task == env.cohort.task == env.make.task == task
    with pytest.raises(SettingsError, match=r"There is no setting 'env\.task\.classes'"):
        composed(*typed, "env.task.classes=3")


def test_paths_of_results_and_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder_for("output", "a/../b") == tmp_path / "b" and folder_for("output", Path("c")) == tmp_path / "c"
    assert listed_paths("input", "a") == ["a"] and listed_paths("input", ("a", Path("b"))) == ["a", Path("b")]
    for wrong in ("", b"x", None, 3, "a\0b", ["a"]):
        with pytest.raises(SettingsError, match="Expected output as the path of a folder, got"):
            folder_for("output", wrong)
    for wrong in ("", [], b"x", None, [""], ["a", 3], {}):
        with pytest.raises(SettingsError, match="Expected input as a path or a list of paths, got"):
            listed_paths("input", wrong)
