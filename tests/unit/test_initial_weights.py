"""Learning that begins with the weights of another run."""

import csv
import re
import warnings
from pathlib import Path

import pytest
import torch

from glimpse.cohort import CohortError
from glimpse.errors import SettingsError
from glimpse.geometry import Extent
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.transfer import take_over
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from glimpse.runs.loading import build_policy, load, save_policy, take_weights
from glimpse.settings.composing import composed
from glimpse.spaces import ActionLayout, observation_space
from glimpse.train import train
from glimpse.views import Views

SHORT = ("experiment=smoke", "env=wsi", "threads=1", "progress=false", "joint.updates=1", "report.readers=[]")


def network(levels: int = 1, outputs: int = 2, ndim: int = 2, **options: str) -> GlimpsePolicy:
    views = Views((32,) * ndim, (8,) * ndim, tuple(Extent.parse(8 * 2**level) for level in reversed(range(levels))))
    section = composed("env=wsi", "network/encoder=small", *(f"{key}={value}" for key, value in options.items()))
    policy = build_policy(section["network"], observation_space(3, views), ActionLayout(ndim, outputs, levels))
    with torch.no_grad():
        for part in policy.state_dict().values():  # buffers too, which are alike in new policies
            part.copy_(torch.rand_like(part) + 0.5 if part.is_floating_point() else part)
    return policy


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_policy_with_the_same_fields_of_view_takes_over_all(levels: int) -> None:
    other, own = network(levels), network(levels)
    assert take_over(own, other.state_dict(), levels) == []
    for name, part in own.state_dict().items():
        assert torch.equal(part, other.state_dict()[name]), name


@pytest.mark.parametrize(("there", "here"), [(2, 3), (3, 2), (2, 4), (4, 2)])
def test_fields_of_view_correspond_from_the_finest_one_on(there: int, here: int) -> None:
    other, own = network(there), network(here)
    assert take_over(own, other.state_dict(), there) == []
    seen, place, cells = torch.rand(5, other.pool.shift.shape[-1]), torch.rand(5, 2), torch.rand(5, 7, other.width)
    state = torch.rand(5, other.memory.hidden)
    for back in range(min(there, here)):  # counted from the finest one
        old, new = there - 1 - back, here - 1 - back
        torch.testing.assert_close(
            own.glimpse_token(seen, place, torch.full((5,), new)),
            other.glimpse_token(seen, place, torch.full((5,), old)),
        )
        torch.testing.assert_close(own.zoom_head(state)[:, new], other.zoom_head(state)[:, old])
        for name in ("seen_penalty", "near_penalty", "worth_slope", "worth_offset", "worth_moments"):
            assert torch.equal(getattr(own.locator, name)[new], getattr(other.locator, name)[old])
        if old and new:  # the candidates of this level lie in wide glimpses, in both
            where = torch.zeros_like(cells)
            for one, two in zip(
                own.locator.describe(cells, where, torch.full((5,), new)),
                other.locator.describe(cells, where, torch.full((5,), old)),
                strict=True,
            ):
                torch.testing.assert_close(one, two)
    assert torch.equal(own.scale.weight[0], other.scale.weight[0])
    if here > there:  # the widest begin like the widest there
        assert torch.equal(own.zoom_head.weight[0], other.zoom_head.weight[0])
        assert torch.equal(own.locator.finer[0].key.weight, other.locator.key.weight)


def test_between_one_field_of_view_and_several() -> None:
    flat, deep = network(1), network(2)
    kept = take_over(deep, flat.state_dict(), 1)
    assert kept == ["locator.worth_slope", "locator.worth_offset", "locator.worth_moments"]
    assert torch.equal(deep.pool.shift, flat.pool.shift.expand(3, -1))
    deep, flat = network(2), network(1)
    assert take_over(flat, deep.state_dict(), 2) == []
    assert torch.equal(flat.pool.shift, deep.pool.shift[2])
    assert torch.equal(flat.locator.key.weight, deep.locator.finer[0].key.weight)


def test_other_classes_begin_anew_and_nothing_else(tmp_path: Path) -> None:
    other, own = network(outputs=2), network(outputs=5)
    save_policy(other, tmp_path / "policy.safetensors")
    before = own.answer_head.weight.clone()
    said = take_weights(own, tmp_path / "policy.safetensors", {"encoder": {}})
    assert "answer_head, glimpse_head: begin anew" in said
    assert torch.equal(own.answer_head.weight, before)
    assert torch.equal(own.locator.key.weight, other.locator.key.weight)


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    save_policy(network(ndim=2), tmp_path / "policy.safetensors")
    with pytest.raises(CheckpointError, match=r"has another encoder than the network here, where .* parts have"):
        take_weights(network(ndim=3), tmp_path / "policy.safetensors", {"encoder": {}})
    Checkpoint({"a": torch.ones(1)}).save(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="these are no weights of a policy"):
        take_weights(network(), tmp_path / "other.safetensors", {"encoder": {}})


# ---------------------------------------------------------------------------------------------- trainings
@pytest.fixture(scope="module")
def slides(tiny_slides: Path) -> list[Path]:
    return [tiny_slides.parent / row["path"] for row in csv.DictReader(tiny_slides.open())]


def write(path: Path, slides: list[Path], splits: str) -> Path:
    """Writes a cohort; the letters say in which split each slide is."""
    names = {"t": "train", "v": "val", "e": "test"}
    lines = [f"p{one.stem},{one.stem},{one},{at % 2},{names[splits[at]]}" for at, one in enumerate(slides)]
    path.write_text("\n".join(["case_id,slide_id,path,target,split", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def first(slides: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the first six slides."""
    folder = tmp_path_factory.mktemp("first")
    cohort = write(folder / "all.csv", slides[:6], "ttttve")
    train(composed(*SHORT, f"env.cohort.path={cohort}", f"run={folder / 'run'}"))
    return folder / "run"


def again(first: Path, cohort: Path, run: Path, *more: str) -> None:
    typed = (*SHORT, f"initial_weights={first}", f"env.cohort.path={cohort}", f"run={run}", *more)
    train(composed(*typed), typed)


def test_a_training_begins_with_the_weights_of_a_run(
    first: Path, slides: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = write(tmp_path / "other.csv", slides[6:12], "ttttve")
    run = tmp_path / "second"
    again(first, cohort, run, "pretrain=none", "warm_up=none", "joint.learning_rate.rate=1e-12", "progress=true")
    assert re.search(rf"weights of {first}: \d+ parts taken\n", capsys.readouterr().err)
    old, new = load(first).state_dict(), load(run).state_dict()
    for name, part in new.items():
        torch.testing.assert_close(part, old[name], msg=name)
    assert load(run).settings["initial_weights"] == str(first)
    typed = (f"resume={run}", "joint.updates=2")  # goes on with its own weights, also where the first run is gone
    Path(run / "config.yaml").write_text((run / "config.yaml").read_text().replace(str(first), "/nowhere"))
    train(composed(*typed), typed)


def test_no_case_is_tested_that_the_weights_were_learned_from(first: Path, slides: list[Path], tmp_path: Path) -> None:
    cohort = write(tmp_path / "mixed.csv", slides[3:9], "evttve")  # the first was trained on, the third was tested on
    with pytest.warns(UserWarning, match="The run knows the images or patients of cases"):
        again(first, cohort, tmp_path / "moved", "pretrain=none", "warm_up=none")
    splits = {row["slide_id"]: row["split"] for row in csv.DictReader((tmp_path / "moved" / "splits.csv").open())}
    assert [splits[one.stem] for one in slides[3:9]] == ["train", "val", "test", "train", "val", "test"]
    given = tmp_path / "given.csv"
    given.write_text(
        (tmp_path / "moved" / "splits.csv").read_text().replace(f"{slides[3].stem},train", f"{slides[3].stem},val")
    )
    with pytest.raises(CohortError, match=f"was trained on the images or patients of case {slides[3].stem} "):
        again(first, cohort, tmp_path / "refused", f"splits={given}")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("/nowhere", "/nowhere: there is no such file. Give the folder of a run that has ended"),
        ("{tmp_path}", "not a run folder"),
        ("3", "initial_weights: expected the path of a run folder, got 3"),
    ],
)
def test_mistakes_are_found_before_anything_is_read(value: str, message: str, tmp_path: Path) -> None:
    typed = (*SHORT, f"initial_weights={value.format(tmp_path=tmp_path)}", "env.cohort.path=/nowhere.csv")
    with pytest.raises((SettingsError, CheckpointError), match=message):
        train(composed(*typed), typed)


def test_what_the_encoder_of_the_run_has_otherwise_is_named(first: Path) -> None:
    section = composed(*SHORT, "network.encoder.background=7")["network"]
    with pytest.warns(UserWarning, match="network.encoder has there background=255"):
        take_weights(network(), first, section)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take_weights(network(), first, composed(*SHORT)["network"])
