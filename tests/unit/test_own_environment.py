"""An environment written from scratch, which knows nothing of `GlimpseEnv`, is checked, trained on and evaluated."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import glimpse
from glimpse.cohort.preflight import PreflightError, check_stepped
from glimpse.contract.protocol import ProtocolError, contract_of
from glimpse.contract.stepped_sources import viewable_cases
from glimpse.envs import FlattenAction, GlimpseVecEnv, check
from glimpse.errors import EvaluationError
from glimpse.evaluate import evaluate
from glimpse.geometry import CellGrid
from glimpse.reading.lanes import access_to
from glimpse.reading.readers import reader_named
from glimpse.reading.records import Reading
from glimpse.sources.array import ArraySource
from glimpse.train import train
from glimpse.views import Views
from tests.own_environment import PATCH, SIDE, OwnEnv, Picture, configuration, load_pictures

HERE = __name__


# ---------------------------------------------------------------------------------------------- trained on
def test_it_passes_the_checker_but_for_what_needs_sources() -> None:
    notes = check(OwnEnv(load_pictures()))
    assert [note.partition(":")[0] for note in notes] == ["locations"] and "views" in notes[0]
    assert check(FlattenAction(OwnEnv(load_pictures(), zooms=2))) == notes


@pytest.mark.parametrize("zooms", [1, 2])
def test_all_stages_run_and_its_readers_are_compared(
    zooms: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = train(configuration(tmp_path, zooms=zooms))
    assert set(metrics["readers"]) == {"ppo", "random", "grid", "overview"}
    assert "full_scan is left out" in capsys.readouterr().out
    assert metrics["readers"]["random"]["glimpses"] == 3
    assert metrics["readers"]["random"]["share_read"] == pytest.approx(3 * PATCH**2 / SIDE**2)
    assert [look["updates"] for look in metrics["validation"]] == [0, 1, 2, 3]
    assert set(metrics["seconds"]) >= {"pretrain", "warm_up", "joint", "report"}
    assert len(list((tmp_path / "run" / "scanpaths").glob("*.png"))) == 1
    result = evaluate(tmp_path / "run", max_glimpses=5, readers=("policy", "grid"), progress=False)
    assert result.rows["grid"]["glimpses"] == 5
    capsys.readouterr()
    result = evaluate(tmp_path / "run", max_glimpses=2, readers=("full_scan", "grid"))
    assert list(result.rows) == ["grid"] and "full_scan is left out" in capsys.readouterr().out
    with pytest.raises(EvaluationError, match="full_scan is left out: this environment is read through its steps"):
        evaluate(tmp_path / "run", readers=("full_scan",))
    saved = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert saved["readers"]["ppo"] == metrics["readers"]["ppo"]
    assert glimpse.load(tmp_path / "run").layout.zooms == zooms


def test_wrappers_are_stepped_through(tmp_path: Path) -> None:
    env = Dimmed(OwnEnv(load_pictures()))
    vector = GlimpseVecEnv([env])
    vector.set_options([{"case": 0}])
    vector.reset()
    seen = vector.step(vector.layout.pack([[0.0, 0.0]], [False], [[0.0, 0.0]]))[0]["glimpse"][0]
    assert 0 < seen.max() <= 120
    looked = viewable_cases(Dimmed(OwnEnv(load_pictures())))
    np.testing.assert_array_equal(looked.views.glimpse(looked.cases[0].source, [0.0, 0.0]), seen)


def test_lanes_do_what_the_environment_does_alone() -> None:
    rng, alone = np.random.default_rng(0), OwnEnv(load_pictures())
    vector = GlimpseVecEnv([OwnEnv(load_pictures()), FlattenAction(OwnEnv(load_pictures()))], threads=2)
    assert vector.get_attr("layout") == [alone.layout] * 2
    vector.set_options([{"case": 1}, {"case": 1}])
    batch, (observation, _) = vector.reset(), alone.reset(options={"case": 1})
    for step in range(4):
        for key, value in observation.items():
            np.testing.assert_array_equal(batch[key], np.stack([value, value]), err_msg=key)
        action = alone.layout.pack(rng.uniform(-1, 1, 2), False, rng.normal(size=2))
        batch, rewards, dones, infos = vector.step(np.stack([action, action]))
        observation, reward, ended, _, info = alone.step(alone.layout.to_dict(action))
        assert rewards.tolist() == pytest.approx([reward, reward]) and dones.tolist() == [ended, ended]
        assert ended == (step == 3)
    for lane in (0, 1):
        np.testing.assert_array_equal(infos[lane]["scanpath"], info["scanpath"])
        np.testing.assert_array_equal(infos[lane]["terminal_observation"]["glimpse"], observation["glimpse"])
        assert infos[lane]["episode"]["l"] == 4
        assert infos[lane]["episode"]["r"] == pytest.approx(info["score"] - 0.3)


def test_looks_go_through_its_steps() -> None:
    looked = viewable_cases(OwnEnv(load_pictures(), zooms=2))
    assert looked.stepped and len(looked.cases) == 8 and looked.cases[2].target == 1
    source, image = looked.cases[2].source, OwnEnv(load_pictures()).cases[2].pixels()
    np.testing.assert_array_equal(looked.views.overview(source), image.reshape(1, 32, 2, 32, 2).mean((2, 4)) // 1)
    assert looked.views.foreground(source).all()
    for _ in range(2):  # again, after another case
        np.testing.assert_array_equal(looked.views.glimpse(source, [0.0, 0.5], 1)[0], image[24:40, 40:56])
        wide = image[16:48, 32:64].reshape(16, 2, 16, 2).mean((1, 3)) // 1
        np.testing.assert_array_equal(looked.views.glimpse(source, [0.0, 0.5], 0)[0], wide)
        for zoom, seen in ((1, image[24:40, 40:56]), (0, wide)):
            np.testing.assert_array_equal(looked.views.kept_glimpse(source, [0.0, 0.5], zoom)[0], seen)
        looked.views.glimpse(looked.cases[0].source, [0.0, 0.0])
    np.testing.assert_allclose(looked.views.extent(source, 1), [8, 8])  # a quarter of the overview's side
    np.testing.assert_allclose(looked.views.extent(source, 0), [16, 16])
    single = viewable_cases(OwnEnv(load_pictures()))
    np.testing.assert_allclose(single.views.extent(single.cases[0].source), [8, 8])


# ---------------------------------------------------------------------------------------------- sizes are checked
class FineFirst(OwnEnv):
    """Its fields of view go from fine to wide."""

    def spans_of(self, zooms: int) -> list[int]:
        return super().spans_of(zooms)[::-1]


class Narrow(OwnEnv):
    """Its glimpses span 4 of 64 pixels, and the cells of its overview lie 8 apart."""

    def spans_of(self, zooms: int) -> list[int]:
        return [4]


class Dimmed(gymnasium.ObservationWrapper):
    def observation(self, observation: Any) -> Any:
        return {**observation, "glimpse": observation["glimpse"] // 2}


def narrow_and_wrapped(cohort: Any, **options: Any) -> Dimmed:
    return Dimmed(Narrow(cohort, **options))


@pytest.mark.parametrize(
    ("made", "zooms", "words"),
    [
        ("FineFirst", 2, "fields of view have to go from wide to fine.* 8 x 8, 16 x 16 pixels of the overview"),
        ("Narrow", 1, "8 x 8 cells lie 4 x 4 pixels of the overview apart, but a glimpse spans 2 x 2"),
        ("narrow_and_wrapped", 1, "cells coarser than glimpses"),
    ],
)
def test_sizes_that_do_not_go_together_end_a_training_before_it_begins(
    made: str, zooms: int, words: str, tmp_path: Path
) -> None:
    with pytest.raises(PreflightError, match=words) as raised:
        train(configuration(tmp_path, _target_=f"{HERE}.{made}", zooms=zooms))
    remedy = "Let the environment's extents go from wide to fine" if made == "FineFirst" else "Change the environment's"
    assert f"(And 6 more.) {remedy}" in str(raised.value)  # of 8 cases, 2 are shown
    assert not (tmp_path / "run").exists()


def test_a_check_of_sizes_asks_a_few_cases_and_leaves_the_seed_for_the_first_reading() -> None:
    class Noting(OwnEnv):
        seeds: list[Any] = []
        asked: list[int] = []

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.seeds.append(seed)
            self.asked.append(options["case"])
            return super().reset(seed=seed, options=options)

    looked = viewable_cases(Noting(load_pictures(80)), seed=7)
    check_stepped(looked.cases, looked.views, CellGrid((32, 32), (4, 4)))
    assert len(looked.cases) == 40 and Noting.asked == sorted(set(Noting.asked))
    assert len(Noting.asked) == 12 and (Noting.asked[0], Noting.asked[-1]) == (0, 39)
    Noting.seeds.clear()
    looked.views.glimpse(looked.cases[3].source, [0.0, 0.0])
    looked.views.glimpse(looked.cases[4].source, [0.0, 0.0])
    assert Noting.seeds == [7, None]


def test_each_field_of_view_is_as_wide_as_the_observation_says() -> None:
    class Uneven(gymnasium.ObservationWrapper):
        def observation(self, observation: Any) -> Any:
            return {**observation, "extents": np.array([0.5, 0.25, 0.125, 0.0625], np.float32)}

    looked = viewable_cases(Uneven(OwnEnv(load_pictures(), zooms=2)))
    for zoom, sides in enumerate(([16, 8], [4, 2])):  # in pixels of the overview
        assert looked.views.extent(looked.cases[1].source, zoom).tolist() == sides


class SourcedEnv(OwnEnv):
    """It has views, and its cases have sources."""

    def __init__(self, cohort: Any, **options: Any) -> None:
        super().__init__(cohort, **options)
        self.views = Views((32, 32), (PATCH, PATCH), (PATCH,))
        self.cases = [
            SourcedPicture(
                case.id, case.patient, case.bright, case.target, case.split, ArraySource(case.pixels()[None])
            )
            for case in self.cases
        ]


@dataclass(frozen=True)
class SourcedPicture(Picture):
    source: ArraySource


def test_sources_are_read_directly_unless_a_wrapper_changes_what_is_shown() -> None:
    env = SourcedEnv(load_pictures())
    assert not viewable_cases(env).stepped and not viewable_cases(FlattenAction(env)).stepped
    assert viewable_cases(Dimmed(env)).stepped


def test_a_misspelt_reader_ends_a_training_before_it_begins(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    config.report.readers = ["random", "overveiw"]
    with pytest.raises(EvaluationError, match=r"got 'overveiw' .did you mean 'overview'"):
        train(config)
    config.report.readers, config.report.split = ["random"], "tests"
    with pytest.raises(EvaluationError, match=r"report\.split of train, val, test, got 'tests'"):
        train(config)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- what is missing
class Bare(gymnasium.Env[Any, Any]):
    """Has no part of what training needs."""

    observation_space = gymnasium.spaces.Box(0, 1, (3,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, cohort: Any = None, split: Any = None, **_: Any) -> None:
        pass


def test_all_that_is_missing_is_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"(?s)Bare lacks.*observation_space.*action_space.*`task`.*`cases`.*`max_"):
        contract_of(Bare())
    with pytest.raises(TypeError, match="Bare"):
        GlimpseVecEnv([Bare()])
    with pytest.raises(ProtocolError, match=r"(?s)Bare lacks.*glimpse\.envs\.check"):
        train(configuration(tmp_path, _target_=f"{HERE}.Bare"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("task", None, "`task`, a glimpse.tasks.Task, not None"),
        ("cases", [], "`cases`, a sequence of at least one case"),
        ("cases", [3], "id, patient, target missing in 3"),
        ("max_glimpses", -1, "`max_glimpses`, a number from 0 on, not -1"),
        ("action_space", gymnasium.spaces.Dict(), "action_space as"),
    ],
)
def test_each_missing_part_is_named(attribute: str, value: Any, words: str) -> None:
    env = OwnEnv(load_pictures())
    setattr(env, attribute, value)
    with pytest.raises(ProtocolError, match=words) as raised:
        contract_of(env)
    assert str(raised.value).count("\n  - ") == 1


def test_an_episode_that_ends_too_early_is_told() -> None:
    class Impatient(OwnEnv):
        def step(self, action: Any) -> Any:
            observation, reward, _, truncated, info = super().step(action)
            return observation, reward, True, truncated, info

    looked = viewable_cases(Impatient(load_pictures()))
    with pytest.raises(ProtocolError, match="ended after 1 glimpses, without `stop`"):
        looked.views.glimpse(looked.cases[0].source, [0.0, 0.0])


def test_readings_are_the_same_with_any_number_of_lanes(tmp_path: Path) -> None:
    config = configuration(tmp_path, zooms=1)
    config.joint = {"_target_": "glimpse.learning.stages.NoStage"}
    config.report.readers = ["random"]
    train(config)
    policy = glimpse.load(tmp_path / "run").policy
    looked = viewable_cases(OwnEnv(load_pictures(), "test"))

    def read(lanes: int) -> list[Reading]:
        def vector(count: int) -> GlimpseVecEnv:
            return GlimpseVecEnv([OwnEnv(load_pictures(), "test") for _ in range(count)], park=count > 1)

        return reader_named("random", policy, access_to(looked, vector, lanes=lanes), 3).read(looked.cases)

    for a, b in zip(read(1), read(3), strict=True):
        np.testing.assert_array_equal(a.scanpath, b.scanpath)
        np.testing.assert_allclose(a.prediction, b.prediction, atol=1e-5)
