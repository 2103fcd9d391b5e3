"""A source under a name: environment, option of the command line, reader; and what is refused."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import glimpse
from glimpse import modalities
from glimpse.cohort import CohortError
from glimpse.envs import check
from glimpse.errors import SettingsError
from glimpse.modalities import ModalityError, find_modality, register_modality
from glimpse.settings.building import build
from glimpse.settings.composing import composed
from glimpse.sources import ArraySource, ImageSource

pytestmark = pytest.mark.usefixtures("registrations")

ROOT = Path(__file__).resolve().parents[2]
SIZES: dict[str, Any] = {"overview_size": 32, "glimpse_size": 16, "glimpse_extents": (16,), "max_glimpses": 3}


class OctSource(ArraySource):
    """Scans in files that NumPy wrote, under a suffix of their own."""


class OtherSource(ArraySource):
    """Another reader of the same files."""


class Unfinished(ImageSource):
    """Lacks all but its channels."""

    channels = 1


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Eight scans of 64 x 80 pixels."""
    rng = np.random.default_rng(0)
    lines = ["case_id,slide_id,path,target,split"]
    for i in range(8):
        with open(tmp_path / f"scan-{i}.oct", "wb") as file:
            np.save(file, rng.integers(0, 256, (1, 64, 80), dtype=np.uint8))
        lines.append(f"patient-{i},scan-{i},scan-{i}.oct,{i % 2},{('train', 'val', 'test', 'train')[i // 2]}")
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "cohort.csv"


# ---------------------------------------------------------------------------------------------- what it makes
@pytest.mark.parametrize(
    ("name", "env_id"),
    [
        ("ultrasound", "glimpse/Ultrasound-v0"),
        ("retinal_oct", "glimpse/RetinalOct-v0"),
        ("OCT", "glimpse/OCT-v0"),
        ("oct2_wide", "glimpse/Oct2Wide-v0"),
    ],
)
def test_names_of_environments(name: str, env_id: str) -> None:
    assert register_modality(name, OctSource).env_id == env_id
    assert env_id in gymnasium.registry


def test_the_environment_keeps_the_contract_and_has_its_defaults(cohort: Path) -> None:
    glimpse.register_modality("retinal_oct", source=OctSource, suffixes=(".oct",), **SIZES)
    env = gymnasium.make("glimpse/RetinalOct-v0", cohort=cohort)
    assert check(env) == ()
    inner: Any = env.unwrapped
    assert {type(case.source) for case in inner.cases} == {OctSource} and len(inner.cases) == 4
    assert env.observation_space["overview"].shape == (1, 32, 32) and inner.max_glimpses == 3  # type: ignore[index]
    other: Any = gymnasium.make("glimpse/RetinalOct-v0", cohort=cohort, split="val", max_glimpses=5, glimpse_size=8)
    assert len(other.unwrapped.cases) == 2 and other.unwrapped.max_glimpses == 5
    assert other.observation_space["glimpse"].shape == (1, 8, 8)


def test_the_option_of_the_command_line(cohort: Path) -> None:
    register_modality(
        "retinal_oct",
        OctSource,
        suffixes=(".oct",),
        learning={"joint": {"updates": 7}, "pretrain": {"augment": {"flips": False}}},
        **SIZES,
    )
    config = composed(
        "env=retinal_oct", f"env.cohort.path={cohort}", "env.make.overview_size=[16,40]", "max_glimpses=6"
    )
    assert config.joint.updates == 7 and config.pretrain.augment.flips is False
    env = build(config.env.make, cohort=build(config.env.cohort), split="train")
    assert env.observation_space["overview"].shape == (1, 16, 40) and env.max_glimpses == 6
    default = composed("env=retinal_oct", f"env.cohort.path={cohort}")
    budgets = (default.max_glimpses, default.env.make.max_glimpses, default.agent.algorithm.max_glimpses)
    assert budgets == (3, 3, 3)  # the modality's own
    assert build(default.env.make, cohort=build(default.env.cohort), split="train").max_glimpses == 3
    named = composed("env=retinal_oct", "env.task.classes=[healthy,ill]", "experiment=smoke")
    assert build(named.env.task).names == ("healthy", "ill")


def test_a_task_and_a_synthetic_cohort_of_its_own(cohort: Path) -> None:
    asked: list[dict[str, Any]] = []

    def make(**options: Any) -> Path:
        asked.append(options)
        return cohort

    task = {"_target_": "glimpse.tasks.Regression", "mean": 0.5, "spread": 0.5}
    register_modality("retinal_oct", OctSource, suffixes=(".oct",), task=task, synthetic=make, **SIZES)
    env: Any = gymnasium.make("glimpse/RetinalOct-v0")
    assert env.unwrapped.task.outputs == 1 and [case.target for case in env.unwrapped.cases] == [0.0, 1.0, 0.0, 1.0]
    assert len(build(composed("env=retinal_oct", "+env.cohort.synthetic.n=3").env.cohort)) == 8
    assert asked == [{}, {"n": 3}]


def test_volumes_need_no_more_than_sizes_per_axis(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (1, 8, 40, 40), dtype=np.uint8))
    (tmp_path / "c.csv").write_text("case_id,slide_id,path,target,split\na,a,a.npy,0,train\n", encoding="utf-8")
    sizes = {"overview_size": (4, 20, 20), "glimpse_size": (4, 16, 16), "glimpse_extents": ((4, 16, 16),)}
    register_modality("volumes", OctSource, **sizes)
    env = gymnasium.make("glimpse/Volumes-v0", cohort=tmp_path / "c.csv", max_glimpses=2)
    assert env.observation_space["glimpse"].shape == (1, 4, 16, 16)  # type: ignore[index]
    assert list(composed("env=volumes").env.make.glimpse_extents[0]) == [4, 16, 16]


# ---------------------------------------------------------------------------------------------- readers
def test_open_source_finds_it_by_suffix_and_by_content(cohort: Path) -> None:
    register_modality("by_suffix", OctSource, suffixes=(".oct",))
    assert type(glimpse.open_source(cohort.parent / "scan-0.oct")) is OctSource
    (cohort.parent / "scan").write_bytes(b"OCT1....")
    register_modality("by_content", OtherSource, sniff=lambda path: path.read_bytes()[:4] == b"OCT1")
    assert type(glimpse.open_source(cohort.parent / "scan")) is OtherSource


def test_two_modalities_may_share_a_suffix(cohort: Path) -> None:
    register_modality("first", OctSource, suffixes=(".oct",), **SIZES)
    register_modality("second", OtherSource, suffixes=(".oct",), **SIZES)
    for name, source in (("First", OctSource), ("Second", OtherSource)):
        env: Any = gymnasium.make(f"glimpse/{name}-v0", cohort=cohort)
        assert {type(case.source) for case in env.unwrapped.cases} == {source}


def test_an_unknown_reader_is_named(cohort: Path) -> None:
    with pytest.raises(ValueError, match=r"no reader 'osg'; known are .*slide"):
        glimpse.open_source(cohort.parent / "scan-0.oct", reader="osg")


# ---------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("name", ["two words", "retinal-oct", "2d", "", "class", "_", "öct", None])
def test_what_is_no_identifier_is_refused(name: Any) -> None:
    with pytest.raises(ModalityError, match=r"identifier|letter"):
        register_modality(name, OctSource)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wsi", "WSI|Wsi"),
        ("relations", "environment exists"),
        ("cluttered_mnist", "environment exists"),
        ("slide", "reader called 'slide'"),
    ],
)
def test_names_of_what_glimpse_brings_are_refused(name: str, words: str) -> None:
    for overwrite in (False, True):
        with pytest.raises(ModalityError, match=words):
            register_modality(name, OctSource, overwrite=overwrite)


def test_a_name_is_given_once_unless_it_is_overwritten(cohort: Path) -> None:
    register_modality("retinal_oct", OctSource, suffixes=(".oct",), **SIZES)
    with pytest.raises(ModalityError, match=r"exists already, with the source .*OctSource.*overwrite=True"):
        register_modality("retinal_oct", OtherSource)
    with pytest.raises(ModalityError, match="environment exists already"):
        register_modality("retinalOct", OtherSource)  # another name, and the same id
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_modality("retinal_oct", OtherSource, overwrite=True, **{**SIZES, "overview_size": 16})
    env: Any = gymnasium.make("glimpse/RetinalOct-v0", cohort=cohort)
    assert type(env.unwrapped.cases[0].source) is OtherSource
    assert composed("env=retinal_oct").env.make.overview_size == 16


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (dict, "subclass of glimpse.sources.ImageSource"),
        (np.zeros(3), "subclass"),
        (ArraySource(np.zeros((1, 4, 4), np.uint8)), "the class, not an object"),
        (Unfinished, "lacks background, frame, identity, read"),
    ],
)
def test_what_is_no_source_is_refused(source: Any, words: str) -> None:
    with pytest.raises(ModalityError, match=words):
        register_modality("retinal_oct", source)
    assert "glimpse/RetinalOct-v0" not in gymnasium.registry


def test_unknown_settings_and_tasks_are_refused() -> None:
    with pytest.raises(ModalityError, match=r"overview_sise; known are .*overview_size"):
        register_modality("retinal_oct", OctSource, overview_sise=3)
    with pytest.raises(ModalityError, match="task as a configuration"):
        register_modality("retinal_oct", OctSource, task="two classes")


def test_a_recipe_has_only_keys_that_somebody_takes() -> None:
    with pytest.raises(ModalityError, match=r"no part 'jont' \(did you mean 'joint'\?\)"):
        register_modality("retinal_oct", OctSource, learning={"jont": {"updates": 3}})
    register_modality("retinal_oct", OctSource, learning={"joint": {"updatez": 3}})
    with pytest.raises(SettingsError, match=r"'joint\.updatez' \(did you mean 'joint\.updates'\?\)"):
        composed("env=retinal_oct")
    of_another_option = {"warm_up": {"updates": 7}, "network": {"encoder": {"widths": [8, 8, 8, 8]}}}
    register_modality("retinal_oct", OctSource, overwrite=True, learning=of_another_option)
    assert "updates" not in composed("env=retinal_oct").warm_up
    assert composed("env=retinal_oct", "warm_up=random").warm_up.updates == 7
    assert "widths" not in composed("env=retinal_oct", "network/encoder=efficientnet_lite0").network.encoder
    with pytest.raises(SettingsError, match=r"'warm_up\.updates'"):
        composed("env=retinal_oct", "warm_up.updates=9")  # what is typed must take effect


def test_the_parts_of_a_network_that_suit_the_images() -> None:
    suits = {"encoder": "efficientnet_lite0", "aggregator": "mean_pooling"}
    register_modality("retinal_oct", OctSource, networks=suits)
    chosen = composed("env=retinal_oct").network
    assert chosen.encoder._target_ == "glimpse.networks.EfficientNetLite0"
    assert chosen.aggregator._target_ == "glimpse.networks.MeanPooling"
    assert chosen.locator._target_ == "glimpse.networks.PointerLocator"  # the default, which nothing has changed
    typed = composed("env=retinal_oct", "network/encoder=small").network
    assert typed.encoder._target_ == "glimpse.networks.ConvEncoder" and typed.aggregator == chosen.aggregator
    register_modality("plain", OtherSource)
    assert composed("env=plain").network.encoder._target_ == "glimpse.networks.ConvEncoder"


@pytest.mark.parametrize("order", [1, -1])
def test_slides_have_a_pretrained_encoder_unless_another_one_is_typed(order: int) -> None:
    chosen, typed = composed("env=wsi").network, composed(*["env=wsi", "network/encoder=small"][::order]).network
    assert (chosen.encoder._target_, chosen.encoder.stride) == ("glimpse.networks.EfficientNetLite0", 16)
    assert typed.encoder._target_ == "glimpse.networks.ConvEncoder" and "stride" not in typed.encoder
    assert chosen.aggregator._target_ == typed.aggregator._target_ == "glimpse.networks.ScorePooling"
    assert composed("env=wsi", "network/aggregator=transformer").network.aggregator._target_.endswith("Transformer")


@pytest.mark.parametrize(
    ("networks", "words"),
    [
        ({"encodr": "small"}, r"no part 'encodr' \(did you mean 'encoder'\?\); its parts are encoder, locator, aggreg"),
        ({"memory": "gru"}, "no part 'memory'"),
        ({"encoder": 3}, r"option of network/encoder.*got 3\."),
        ({"encoder": ""}, r"option of network/encoder.*got ''\."),
        (["small"], r"expected networks as a mapping, got \['small'\]"),
    ],
)
def test_unknown_parts_of_a_network_are_refused(networks: Any, words: str) -> None:
    with pytest.raises(ModalityError, match=f"^retinal_oct: .*{words}"):
        register_modality("retinal_oct", OctSource, networks=networks)
    assert "retinal_oct" not in modalities._MODALITIES


def test_the_parts_that_a_modality_may_choose_are_the_groups_of_the_command_line() -> None:
    groups = {folder.name for folder in (ROOT / "configs" / "network").iterdir() if folder.is_dir()}
    assert {*modalities.NETWORK_PARTS} == groups - {"__pycache__"}


def test_what_is_missing_is_said(cohort: Path) -> None:
    register_modality("retinal_oct", OctSource)
    with pytest.raises(CohortError, match=r"env\.cohort\.path=cohort\.csv"):
        gymnasium.make("glimpse/RetinalOct-v0")
    with pytest.raises(ModalityError, match=r"no modality 'retina'; registered are: .*retinal_oct"):
        find_modality("retina")
    cases = [case for case in build(composed("env=retinal_oct", f"env.cohort.path={cohort}").env.cohort)][:2]
    with pytest.raises(ValueError, match="is the split 'val' empty"):
        gymnasium.make("glimpse/RetinalOct-v0", cohort=cases, split="val")
