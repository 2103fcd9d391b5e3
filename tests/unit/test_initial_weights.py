"""Learning that begins with the weights of another run."""

import csv
import re
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file

from glimpse.cohort import Case, Cohort, CohortError
from glimpse.cohort.recorded import read_learned
from glimpse.cross_validate import cross_validate
from glimpse.errors import SettingsError
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from glimpse.runs.initial import take_weights
from glimpse.runs.loading import load, save_policy
from glimpse.settings.composing import composed
from glimpse.sources import open_source
from glimpse.tasks import Classification
from glimpse.train import train
from tests.unit.test_transfer import SETTINGS, network

SHORT = ("experiment=smoke", "env=wsi", "threads=1", "progress=false", "joint.updates=1", "report.readers=[]")


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
    cohort = write(tmp_path / "mixed.csv", slides[3:9], "evttev")  # trained on, validated on, tested on, and three more
    learned, splits = slides[3].stem, {}
    with pytest.warns(UserWarning, match=f"learned from images of the patients of case {learned} "):
        again(first, cohort, tmp_path / "moved", "pretrain=none", "warm_up=none")
    for row in csv.DictReader((tmp_path / "moved" / "splits.csv").open()):
        splits[row["slide_id"]] = row["split"]
    assert [splits[one.stem] for one in slides[3:9]] == ["train", "val", "train", "train", "test", "val"]
    given = tmp_path / "given.csv"
    text = (tmp_path / "moved" / "splits.csv").read_text()
    given.write_text(text.replace(f"{learned},train", f"{learned},val"))
    with pytest.raises(CohortError, match=f"learned from images of the patients of case {learned} "):
        again(first, cohort, tmp_path / "refused", f"splits={given}")
    assert not (tmp_path / "refused").exists()
    typed = [f"initial_weights={first}", f"env.cohort.path={cohort}", *SHORT]
    with pytest.raises(CohortError, match="learned from images"):
        cross_validate(typed, folds=2, folder=tmp_path / "folds")
    assert not (tmp_path / "folds").exists()
    unsplit = tmp_path / "unsplit.csv"  # two patients are too few to be split
    lines = [f"p{one.stem},{one.stem},{one},{at}" for at, one in enumerate(slides[3:5])]
    unsplit.write_text("\n".join(["case_id,slide_id,path,target", *lines]) + "\n")
    with pytest.raises(CohortError, match="learned from images"):
        cross_validate(
            [*typed[:1], f"env.cohort.path={unsplit}", *SHORT], folds=2, validation=0, folder=tmp_path / "two"
        )
    # whoever goes on from there knows what its weights were learned from in the first run
    other = write(tmp_path / "other.csv", [slides[0], *slides[9:12]], "etve")
    with pytest.warns(UserWarning, match=f"patients of case {slides[0].stem} "):
        again(tmp_path / "moved", other, tmp_path / "third", "pretrain=none", "warm_up=none")
    before = {row["slide_id"] for row in csv.DictReader((tmp_path / "third" / "learned_before.csv").open())}
    assert {one.stem for one in slides[:5]} <= before


def test_what_was_learned_from_is_kept_where_splits_were_written_before(
    first: Path, slides: list[Path], tmp_path: Path
) -> None:
    """As in the folds of a cross-validation."""
    cohort, run = write(tmp_path / "other.csv", slides[6:12], "ttttve"), tmp_path / "fold-1"
    run.mkdir()
    Cohort.from_csv(cohort, Classification(2), source_options={"reader": "slide"}).write_splits(run / "splits.csv")
    again(first, cohort, run, "pretrain=none", "warm_up=none", f"splits={run / 'splits.csv'}")
    before = {row["slide_id"] for row in csv.DictReader((run / "learned_before.csv").open())}
    assert before == {one.stem for one in slides[:5]}


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_with_these_weights_again(
    first: Path, slides: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = write(tmp_path / "mixed.csv", slides[3:9], "evttev")
    run = tmp_path / "run"
    with monkeypatch.context() as stopped, pytest.warns(UserWarning, match="learned from"), pytest.raises(SystemExit):
        stopped.setattr("glimpse.train.restore_policy", sys.exit)  # as if it were killed there
        again(first, cohort, run, "pretrain=none", "warm_up=none", "joint.learning_rate.rate=1e-12", "seed=5")
    assert not list((run / "checkpoints").iterdir())
    (run / "learned_before.csv").unlink()  # or a little earlier
    (run / "splits.csv").unlink()
    with pytest.warns(UserWarning, match="learned from"):
        train(composed(f"resume={run}"), [f"resume={run}"])
    old, new = load(first).state_dict(), load(run).state_dict()
    for name, part in new.items():
        torch.testing.assert_close(part, old[name], msg=name)
    splits = {row["slide_id"]: row["split"] for row in csv.DictReader((run / "splits.csv").open())}
    assert splits[slides[3].stem] == "train" and (run / "learned_before.csv").exists()


def test_weights_that_are_none_are_refused(first: Path, tmp_path: Path) -> None:
    """Broken files, and what a training that diverged may leave."""
    good = Checkpoint.load(first / "policy.safetensors")
    name = next(one for one, part in good.tensors.items() if part.is_floating_point())
    broken = {
        f"{name.removeprefix('policy/')} has values that are not finite": {name: good.tensors[name] * torch.nan},
        "has numbers of another kind": {name: good.tensors[name].long()},
    }
    file = tmp_path / "weights.safetensors"
    for said, change in broken.items():
        Checkpoint(good.tensors | change, good.meta).save(file)
        with pytest.raises(CheckpointError, match=said):
            take_weights(network(), file, SETTINGS)
    for meta in ({**good.meta, "layout": {"zooms": -3}}, {**good.meta, "layout": [1]}):
        Checkpoint(good.tensors, meta).save(file)
        with pytest.raises(CheckpointError, match="these are no weights of a policy"):
            take_weights(network(), file, SETTINGS)
    save_file(good.tensors, file, {"glimpse": "[1]"})
    with pytest.raises(CheckpointError, match=r"not a complete safetensors file .* is no dictionary"):
        take_weights(network(), file, SETTINGS)


def test_weights_for_images_of_other_channels_are_refused_as_such(tmp_path: Path) -> None:
    save_policy(network(), tmp_path / "policy.safetensors")
    grey = network(channels=1)
    said = r"has the shape \(\d+, 3, .* there, \(\d+, 1, .* for images of as many channels"
    with pytest.raises(CheckpointError, match=said):
        take_weights(grey, tmp_path / "policy.safetensors", SETTINGS)


def test_a_damaged_list_of_what_was_learned_from_is_refused(first: Path, tmp_path: Path) -> None:
    for line in ("patient,slide", "patient,,train,print"):
        (tmp_path / "splits.csv").write_text(f"{(first / 'splits.csv').read_text()}{line}\n")
        with pytest.raises(CohortError, match=r"splits.csv: line 8 has not as many cells .* Restore the file"):
            read_learned(tmp_path)


def test_a_cross_validation_goes_on_where_the_run_with_its_weights_was_moved(
    first: Path, slides: list[Path], tmp_path: Path
) -> None:
    cohort = write(tmp_path / "other.csv", slides[6:12], "ttttve")
    common = [*SHORT, f"env.cohort.path={cohort}", "pretrain=none", "warm_up=none"]
    folds = tmp_path / "folds"
    kept, moved = tmp_path / "kept", tmp_path / "moved"
    shutil.copytree(first, kept)
    cross_validate([*common, f"initial_weights={kept}"], folds=2, validation=0, folder=folds)
    (folds / "fold-2" / "metrics.json").unlink()
    kept.rename(moved)
    again = cross_validate([*common, f"initial_weights={moved}"], folds=2, validation=0, folder=folds)
    assert again.record["folds"] == 2
    other = Checkpoint.load(moved / "policy.safetensors")
    name = next(iter(other.tensors))
    Checkpoint(other.tensors | {name: other.tensors[name] + 1}, other.meta).save(moved / "policy.safetensors")
    with pytest.raises(SettingsError, match="initial_weights=weights with the checksum"):
        cross_validate([*common, f"initial_weights={moved}"], folds=2, validation=0, folder=folds)


def test_a_patient_whose_image_was_learned_from_is_not_tested_with_others(first: Path, slides: list[Path]) -> None:
    learned = read_learned(first)
    assert learned is not None

    def case(name: str, patient: str, slide: Path) -> Case:
        known = learned.cases.get(slide.stem)
        return Case(name, patient, open_source(slide), 0, "test", fingerprint=known.fingerprint if known else "other")

    cohort = [case(str(at), "one", slide) for at, slide in enumerate(slides[5:8])]
    assert [one.split for one in learned.kept_apart(Cohort(cohort))] == ["test"] * 3  # it was tested on
    cohort += [case("9", "one", slides[0])]
    with pytest.warns(UserWarning, match="learned from images of the patients of cases 0, 1, 2, 9 "):
        assert [one.split for one in learned.kept_apart(Cohort(cohort))] == ["train"] * 4
    left_out = [replace(case("9", "one", slides[0]), split=None)]  # in none of the splits that were given
    assert [one.split for one in learned.kept_apart(Cohort(left_out))] == [None]
    validated = [replace(case(str(at), str(at), slides[at]), split="val") for at in (0, 4)]  # on 4 it was validated
    with pytest.warns(UserWarning, match="of the patients of case 0 "):
        assert [one.split for one in learned.kept_apart(Cohort(validated))] == ["train", "val"]
    with pytest.raises(CohortError, match="of the patients of case 0 "):
        learned.check_not_learned(Cohort(validated))
    learned.check_not_learned(Cohort(validated[1:]))
    with pytest.raises(CohortError, match="of the patients of case 4 "):
        learned.check_not_learned(Cohort(validated[1:]), folds=True)
    renamed = [case(slides[0].stem, "p", slides[9])]
    with pytest.warns(UserWarning, match=f"with the names of case {slides[0].stem} .*, but from other images"):
        assert [one.split for one in learned.kept_apart(Cohort(renamed))] == ["test"]


def test_answers_to_another_task_begin_anew(first: Path, slides: list[Path], tmp_path: Path) -> None:
    cohort = write(tmp_path / "other.csv", slides[6:12], "ttttve")
    own = ("pretrain=none", "warm_up=none", "joint.learning_rate.rate=1e-12", "env.task.classes=[no,yes]")
    with pytest.warns(UserWarning, match=r"begin anew: answer_head, glimpse_head, value_head \(their task"):
        again(first, cohort, tmp_path / "named", *own)
    old, new = load(first).state_dict(), load(tmp_path / "named").state_dict()
    assert not torch.allclose(new["answer_head.weight"], old["answer_head.weight"])
    torch.testing.assert_close(new["locator.key.weight"], old["locator.key.weight"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("/nowhere", "/nowhere: there is no such file. Give the folder of a run that has ended"),
        ("{first}/checkpoints/overview.safetensors", "overview.safetensors: there is no such file. Give .*best.safet"),
        ("{tmp_path}", "not a run folder"),
        ("3", "initial_weights: expected the path of a run folder, got 3"),
    ],
)
def test_mistakes_are_found_before_anything_is_read(value: str, message: str, first: Path, tmp_path: Path) -> None:
    typed = (*SHORT, f"initial_weights={value.format(tmp_path=tmp_path, first=first)}", "env.cohort.path=/nowhere.csv")
    with pytest.raises((SettingsError, CheckpointError), match=message):
        train(composed(*typed), typed)


def test_an_encoder_in_a_folder_that_was_moved_is_the_same(first: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(first, run)

    def named(settings: DictConfig, name: str) -> DictConfig:
        OmegaConf.update(settings, "network.encoder.name", name, force_add=True)
        return settings

    theirs = OmegaConf.load(run / "config.yaml")
    assert isinstance(theirs, DictConfig)
    OmegaConf.save(named(theirs, "/before/model"), run / "config.yaml")
    take_weights(network(), run, named(composed(*SHORT), "/now/model"))
    with pytest.raises(CheckpointError, match=r"made otherwise than network.encoder here .name=/before/model there"):
        take_weights(network(), run, named(composed(*SHORT), "/now/another"))


def test_settings_that_differ_from_those_of_the_run_are_named(first: Path) -> None:
    with pytest.warns(UserWarning, match="network.encoder has background=255 there, 7 here"):
        take_weights(network(), first, composed(*SHORT, "network.encoder.background=7"))
    with pytest.warns(UserWarning, match=r"No effect beside .*: network.stop_bias, network.locator.seen_penalty"):
        take_weights(network(), first, composed(*SHORT, "network.stop_bias=0", "network.locator.seen_penalty=3"))
    with pytest.raises(CheckpointError, match=r"made otherwise than network.encoder here .kernels=None there"):
        take_weights(network(), first, composed(*SHORT, "network.encoder.kernels=[4,4,4,3]"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take_weights(network(), first, composed(*SHORT))


def test_an_option_that_the_run_did_not_know_yet_is_named_only_where_it_is_on(first: Path) -> None:
    for value, named in ((False, False), (0, False), (None, False), (True, True)):
        settings = composed(*SHORT)
        OmegaConf.update(settings, "network.encoder.new_option", value, force_add=True)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            take_weights(network(), first, settings)
        assert ["new_option=None there, True here" in str(one.message) for one in found] == [True] * named


def test_an_option_that_only_the_run_had_is_named_where_it_was_on_there(first: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(first, run)
    settings = OmegaConf.load(run / "config.yaml")
    for value, named in ((False, False), (True, True)):
        OmegaConf.update(settings, "network.encoder.old_option", value, force_add=True)
        OmegaConf.save(settings, run / "config.yaml")
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            take_weights(network(), run, composed(*SHORT))
        assert ["old_option=True there, None here" in str(one.message) for one in found] == [True] * named


# ---------------------------------------------------------------------------------------------- nothing teaches answers
UNTAUGHT = {
    "no warm-up": ("warm_up=none",),
    "no steps": ("warm_up=tokens", "warm_up.steps=0"),
    "no updates": ("warm_up=random", "warm_up.updates=0"),
}


@pytest.mark.parametrize("without", UNTAUGHT)
def test_answers_that_nothing_teaches_are_refused_before_anything_is_done(without: str, tmp_path: Path) -> None:
    config = composed(*SHORT, *UNTAUGHT[without], "agent.algorithm.train_answers=false", f"run={tmp_path / 'run'}")
    with pytest.raises(SettingsError, match=r"agent\.algorithm\.train_answers=true"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_answers_of_another_run_need_no_teaching_but_those_that_begin_anew_do(
    first: Path, slides: list[Path], tmp_path: Path
) -> None:
    cohort = write(tmp_path / "other.csv", slides[6:12], "ttttve")
    own = ("pretrain=none", "warm_up=none", "agent.algorithm.train_answers=false")
    with (
        pytest.raises(SettingsError, match=r"they begin anew beside the weights of .*keep the warm-up"),
        pytest.warns(UserWarning, match="begin anew: answer_head"),
    ):
        again(first, cohort, tmp_path / "anew", *own, "env.task.classes=[no,yes]")
    assert not (tmp_path / "anew").exists()
    again(first, cohort, tmp_path / "same", *own)
    old, new = load(first).state_dict(), load(tmp_path / "same").state_dict()
    torch.testing.assert_close(new["answer_head.weight"], old["answer_head.weight"], rtol=0, atol=0)
    torch.testing.assert_close(new["position.project.2.weight"], old["position.project.2.weight"], rtol=0, atol=0)
