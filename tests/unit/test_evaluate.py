"""Evaluating a saved run."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import glimpse.evaluate
from glimpse.atomic import WriteError
from glimpse.cohort import CohortError
from glimpse.cohort.preflight import PreflightError
from glimpse.errors import EvaluationError, SettingsError
from glimpse.evaluate import evaluate
from glimpse.reading.calibration import Temperature, write_temperatures
from glimpse.reading.records import Reading
from glimpse.report.html.contents import result_tables
from glimpse.report.html.gathering import Gathered
from glimpse.runs.checkpoints import CheckpointError
from glimpse.runs.loading import OVERVIEW_FILE, build_policy, load, save_policy
from glimpse.settings.composing import composed
from glimpse.sources.slide.source import SlideSource
from tests.commands import ran


# ---------------------------------------------------------------------------------------------- a saved run
@pytest.fixture(scope="module")
def run(tiny_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has learned nothing."""
    folder = tmp_path_factory.mktemp("run")
    own = [f"env.cohort.path={tiny_slides}", f"run={folder}", "env.make.glimpse_extents=[128]"]
    config = composed("experiment=smoke", "pretrain.steps=0", *own)
    torch.manual_seed(0)
    env = instantiate(config.env.make, cohort=instantiate(config.env.cohort), split="train").unwrapped
    save_policy(build_policy(config.network, env.observation_space, env.layout), folder / "policy.safetensors")
    other = build_policy(config.network, env.observation_space, env.layout, overview_dropout=0.0)
    save_policy(other, folder / OVERVIEW_FILE)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    return folder


def test_answers_to_the_split_on_which_temperatures_were_fitted_are_not_calibrated(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    write_temperatures(own, {"ppo": Temperature(4.0, 5)})
    for split, temperature in (("test", 4.0), ("val", None)):
        found = evaluate(own, max_glimpses=2, split=split, readers=["policy"])
        row = found.rows["ppo"]
        assert row["temperature"] == temperature and ("uncalibrated" in row) == (split == "test")
        assert ("Not calibrated: these answers are to the validation split" in found.note) == (split == "val")


def test_a_saved_run_reads_with_any_number_of_glimpses(run: Path) -> None:
    result = evaluate(run, max_glimpses=7, lanes=2, progress=False)
    assert list(result.rows) == ["ppo", "random", "grid", "overview"]
    assert result.rows["random"]["glimpses"] == 7 and result.rows["overview"]["glimpses"] == 0
    summary, answers = run / "evaluation-test-7.json", run / "predictions-test-7.csv"
    assert result.files == (summary, answers, run / "calibration-test-7.png", run / "confusion-test-7.png")
    count = len(result.readings["ppo"])
    patients = len({reading.patient for reading in result.readings["ppo"]})
    assert patients < count
    few = f"{count} cases of {patients} patients. Bootstrapped intervals of so few patients are too narrow."
    assert result.counted == (
        f"Read: {count} of the {result.of} cases of the cohort (split=test); split=all reads them all. "
        f"Measured on {few}"
    )
    everything = evaluate(run, split="all", readers=["grid"], lanes=2)
    assert everything.counted.startswith(f"Read: all {result.of} cases of the cohort (split=all). Measured on ")
    assert result.of > count
    record = json.loads(summary.read_text())
    assert (record["split"], record["seed"], record["max_glimpses"]) == ("test", 0, 7)
    assert record["readers"] == result.rows
    lines = list(csv.DictReader(answers.open()))
    assert len(lines) == 4 * len(result.readings["ppo"]) and {line["split"] for line in lines} == {"test"}


def test_every_reader_pays_for_what_it_reads(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the first one would take longer than all others, which find overviews in the process's caches."""
    made, honest = [], SlideSource.overview
    monkeypatch.setattr(SlideSource, "overview", lambda self, size: made.append(self.path) or honest(self, size))
    found = evaluate(run, max_glimpses=1, readers=["random", "grid", "policy"], output=tmp_path)
    assert len(set(made)) == len(found.readings["grid"]) and set(Counter(made).values()) == {3}


def test_other_readers_replace_no_earlier_evaluation(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    asked = (["overview"], ["grid"], ["overview", "grid"], ["grid"])
    found = [evaluate(own, max_glimpses=2, readers=readers).files[0].name for readers in asked]
    assert found == [f"evaluation-test-2{number}.json" for number in ("", "-2", "", "-2")]


def test_the_result_can_lie_in_a_folder_of_several_runs(run: Path, tmp_path: Path) -> None:
    before, out = sorted(run.rglob("*")), tmp_path / "all" / "results"
    runs = [run, shutil.copytree(run, tmp_path / "run"), run]
    found = [evaluate(one, max_glimpses=1, readers=["grid"], output=out) for one in runs]
    assert [one.files[0].name for one in found] == [f"evaluation-test-1{number}.json" for number in ("", "-2", "")]
    assert all(file.exists() and file.parent == out for one in found for file in one.files)
    assert json.loads(found[1].files[0].read_text())["run"] == str(tmp_path / "run")
    assert sorted(run.rglob("*")) == before
    with pytest.raises(EvaluationError, match="this is the folder of another run"):
        evaluate(run, max_glimpses=1, readers=["grid"], output=tmp_path / "run")
    for _ in "ab":  # its own folder is the one that is meant anyway
        own = evaluate(tmp_path / "run", max_glimpses=1, readers=["grid"], output=tmp_path / "run")
        assert own.files[0].name == "evaluation-test-1.json" and "run" not in own.record
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file: cannot be written"):
        evaluate(run, max_glimpses=1, readers=["grid"], output=tmp_path / "file")
    for wrong in ({"readers": ["grdi"]}, {"split": "tset"}):
        with pytest.raises(EvaluationError):
            evaluate(run, output=tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()


def test_cases_that_the_run_has_learned_from_are_named(run: Path, tiny_slides: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    instantiate(load(run).settings["env"]["cohort"]).write_splits(own / "splits.csv")
    rows = [row | {"path": str(tiny_slides.parent / row["path"])} for row in csv.DictReader(tiny_slides.open())]
    learned = [row for row in rows if row["split"] == "train"][:1]
    others = [{**row, "slide_id": f"new {row['slide_id']}", "case_id": f"new {row['case_id']}"} for row in learned]
    _write_csv(tmp_path / "others.csv", others + [row for row in rows if row["split"] == "test"])
    result = evaluate(own, max_glimpses=1, readers=["grid"], cohort=tmp_path / "others.csv", split="all")
    assert f"Of the {result.of} cases, 1 ({others[0]['slide_id']}) show patients of whom images were in" in result.note
    whole = evaluate(own, max_glimpses=1, readers=["grid"], split="all")
    count = sum(row["split"] in ("train", "val") for row in rows)
    assert f"Of the {len(rows)} cases, {count} (" in whole.note
    metrics = Gathered(own, "run", (), (), (), None, result.record)
    captions = [one.caption for one in result_tables(metrics) if "a later evaluation. " in one.caption]
    assert any("patients. Bootstrapped intervals" in one and whole.note in one for one in captions)
    assert evaluate(own, max_glimpses=1, readers=["grid"]).note == ""


def test_a_reader_that_the_report_did_not_have_is_said_to_be_uncalibrated(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    write_temperatures(own, {"ppo": Temperature(4.0, 5)})
    found = evaluate(own, max_glimpses=1, readers=["policy", "grid"])
    assert found.note == "Not calibrated: grid, which the run's own report did not have."


def test_the_result_of_a_cohort_of_any_name_can_be_written(run: Path, tiny_slides: Path) -> None:
    named = tiny_slides.with_name("x" * 240 + ".csv")
    shutil.copy(tiny_slides, named)
    try:
        result = evaluate(run, cohort=named, readers=["grid"], max_glimpses=1)
    finally:
        named.unlink()
    assert all(file.exists() and file.parent == run for file in result.files)


def test_the_overview_row_is_of_the_network_that_was_kept_for_it(run: Path) -> None:
    (answer, *_) = evaluate(run, readers=["overview"]).readings["overview"]
    network = load(run, OVERVIEW_FILE, overview_dropout=0.0)
    policy = load(run)
    case = next(case for case in instantiate(policy.settings["env"]["cohort"]) if case.id == answer.id)
    views = instantiate(policy.settings["env"]["make"], cohort=[case], split=None).unwrapped.views
    with torch.no_grad():
        source = case.source
        seen = (views.overview(source), views.foreground(source), views.relative_extents(source))
        scene = network.scene(*(torch.from_numpy(part.copy())[None] for part in seen))
        decision = network.decide(scene, network.begin(scene), torch.tensor([True]), deterministic=True)
    np.testing.assert_allclose(answer.prediction, decision.prediction[0].numpy(), atol=1e-5)


def test_a_full_scan_learns_from_the_training_cases_of_the_run(run: Path, tiny_slides: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    first = evaluate(own, readers=["full_scan"], progress=False)
    again = evaluate(own, readers=["full_scan", "policy"], seed=5, max_glimpses=2, progress=False)
    other = evaluate(own, readers=["full_scan"], cohort=_without_training(tiny_slides, tmp_path), split="all")
    by_id = {name: read.prediction for name, read in _by_id(other).items()}
    assert list(again.rows) == ["full_scan", "ppo"]
    assert list(evaluate(own, readers=["ppo", "policy"], max_glimpses=2).rows) == ["ppo"]
    for found in (first, again):
        for name, reading in _by_id(found).items():
            assert reading.share_read > 0.9, "every patch"
            np.testing.assert_allclose(reading.prediction, by_id[name], rtol=1e-4, atol=1e-5)
    kept = sorted(path.name for path in (own / "checkpoints").glob("full_scan-*"))
    assert kept == ["full_scan-test.safetensors", "full_scan-train.safetensors", "full_scan-val.safetensors"]
    assert [row["seconds_per_case"] > 0 for row in first.rows.values()] == [True]


def test_a_full_scan_without_training_cases_is_refused_before_anything_is_read(
    run: Path, tiny_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    config = OmegaConf.load(own / "config.yaml")
    config.env.cohort.path = str(tmp_path / "gone.csv")
    (own / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    monkeypatch.setattr("glimpse.reading.readers.PolicyReader.read", lambda *_, **__: pytest.fail("it has read"))
    others = _without_training(tiny_slides, tmp_path), tiny_slides  # the run has no splits.csv, so it knows none
    for cohort in others:
        with pytest.raises(EvaluationError, match=r"training cases, which are not there any more.*leave full_scan out"):
            evaluate(own, readers=["policy", "full_scan"], cohort=cohort, split="all")


def test_a_full_scan_of_a_moved_cohort_learns_from_cases_that_the_run_knows(
    run: Path, tiny_slides: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    cohort = instantiate(load(run).settings["env"]["cohort"])
    cohort.write_splits(own / "splits.csv")
    expected = _by_id(evaluate(own, readers=["full_scan"], progress=False))
    shutil.rmtree(own / "checkpoints")
    config = OmegaConf.load(own / "config.yaml")
    config.env.cohort.path = str(tmp_path / "gone.csv")
    (own / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    rows = [row | {"path": str(tiny_slides.parent / row["path"])} for row in csv.DictReader(tiny_slides.open())]
    _write_csv(tmp_path / "moved.csv", rows)
    found = _by_id(evaluate(own, readers=["full_scan"], cohort=tmp_path / "moved.csv", progress=False))
    for name, reading in expected.items():
        np.testing.assert_allclose(found[name].prediction, reading.prediction, rtol=1e-4, atol=1e-5)
    train = [row for row in rows if row["split"] == "train"]
    _write_csv(tmp_path / "part.csv", [*train[:1], *(row for row in rows if row["split"] != "train")])
    with pytest.raises(CohortError, match=r"Of the images that the run has learned from, \d are not in the cohort"):
        evaluate(own, readers=["full_scan"], cohort=tmp_path / "part.csv", split="all")
    foreign = []
    for seed, split in enumerate(("train", "test")):
        pixels = np.random.default_rng(seed).integers(0, 200, (1024, 1024, 3), np.uint8)
        path, stated = tmp_path / f"{split}.tif", {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", **stated)
        foreign.append({**rows[0], "path": str(path), "slide_id": f"f{seed}", "case_id": f"f{seed}", "split": split})
    _write_csv(tmp_path / "foreign.csv", foreign)
    with pytest.raises(EvaluationError, match="training cases, which are not there any more"):
        evaluate(own, readers=["full_scan"], cohort=tmp_path / "foreign.csv", split="all")


def test_a_full_scan_without_the_encoder_of_its_run_is_refused(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    config = OmegaConf.load(own / "config.yaml")
    config.pretrain.steps = 2
    (own / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    with pytest.raises(EvaluationError, match=r"pretrained\.safetensors: the encoder of a full scan is missing"):
        evaluate(own, readers=["full_scan"])
    del config.report.full_scan
    (own / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    with pytest.raises(EvaluationError, match=r"no section report\.full_scan\. Leave full_scan out"):
        evaluate(own, readers=["full_scan"])


def _without_training(cohort: Path, folder: Path) -> Path:
    rows = [row for row in csv.DictReader(cohort.open()) if row["split"] != "train"]
    path = folder / "others.csv"
    _write_csv(path, [row | {"path": str(cohort.parent / row["path"])} for row in rows])
    return path


def _by_id(result: glimpse.evaluate.Result) -> dict[str, Reading]:
    return {reading.id: reading for reading in result.readings["full_scan"]}


def test_without_such_a_network_the_overview_is_left_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "a b")
    (tmp_path / "a b" / OVERVIEW_FILE).unlink()
    assert list(evaluate(tmp_path / "a b").rows) == ["ppo", "random", "grid"]
    typed = f'glimpse train "resume=\'{tmp_path}/a b\'" "report.readers=[random,grid,overview,full_scan]"'
    assert f"has kept no network that answers from overviews. Train one with: {typed}" in capsys.readouterr().out
    config = OmegaConf.load(run / "config.yaml")
    for readers, expected in (["full_scan", "random"], "full_scan,random,overview"), ([], "overview"):
        config.report.readers = readers
        (tmp_path / "a b" / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
        with pytest.raises(EvaluationError, match="overview is left out") as caught:
            evaluate(tmp_path / "a b", readers=["overview"])
        assert f'"report.readers=[{expected}]"' in str(caught.value), "a report with fewer rows would replace the run's"


def test_images_that_do_not_fit_a_run_are_told_with_what_can_be_done(run: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (128, 4096, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tiff", pixels, tile=(128, 128), photometric="rgb", compression="zlib", metadata=None)
    (tmp_path / "wide.csv").write_text("case_id,slide_id,path,target,split\na,a,a.tiff,1,test\n")
    with pytest.raises(PreflightError, match=r"sizes do not fit the images: a: .* leave these cases out") as raised:
        evaluate(run, cohort=tmp_path / "wide.csv")
    assert "env.make" not in str(raised.value)  # which evaluate does not take


def test_a_first_image_that_is_too_small_is_told_in_the_same_way(run: Path, tmp_path: Path) -> None:
    pixels = np.full((48, 48, 3), 150, np.uint8)
    tifffile.imwrite(tmp_path / "a.tiff", pixels, tile=(16, 16), photometric="rgb", compression="zlib", metadata=None)
    (tmp_path / "small.csv").write_text("case_id,slide_id,path,target,split\na,a,a.tiff,1,test\n")
    with pytest.raises(PreflightError, match=r"larger than the image .* A run keeps the sizes that it was") as raised:
        evaluate(run, cohort=tmp_path / "small.csv")
    assert "glimpse_extents" not in str(raised.value)  # which a trained policy keeps


def test_another_cohort_keeps_its_own_files(run: Path, tiny_slides: Path) -> None:
    rows = list(csv.DictReader(tiny_slides.open()))
    other = tiny_slides.with_name("other.csv")
    _write_csv(other, rows[:4])
    result = evaluate(run, split="all", cohort=other, readers=["overview"], progress=False)
    assert [reading.id for reading in result.readings["overview"]] == [row["slide_id"] for row in rows[:4]]
    assert result.files[0].name == "evaluation-other-all-3.json" and result.record["cohort"] == str(other)
    namesake = tiny_slides.parent / "elsewhere" / "other.csv"
    namesake.parent.mkdir()
    _write_csv(namesake, [{**row, "path": str(tiny_slides.parent / row["path"])} for row in rows[:2]])
    for cohort, name in ((namesake, "other-2"), (other, "other"), (namesake, "other-2")):
        again = evaluate(run, split="all", cohort=cohort, readers=["overview"], progress=False)
        assert again.files[0].name == f"evaluation-{name}-all-3.json"
        assert again.files[1].name == f"predictions-{name}-all-3.csv"


def _write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_images_are_read_from_a_stage(run: Path, tiny_slides: Path, tmp_path: Path) -> None:
    plain = evaluate(run, readers=["grid"], max_glimpses=2)
    staged = evaluate(run, readers=["grid"], max_glimpses=2, stage=tmp_path / "stage", stage_gigabytes=1)
    for one, two in zip(plain.readings["grid"], staged.readings["grid"], strict=True):
        np.testing.assert_array_equal(one.prediction, two.prediction)
    sizes = {path.stat().st_size for path in tiny_slides.parent.rglob("*") if path.is_file()}
    copies = [path for path in (tmp_path / "stage").rglob("*") if path.is_file() and path.stat().st_size in sizes]
    assert len(copies) >= len(staged.readings["grid"])
    with pytest.raises(SettingsError, match="stage_gigabytes"):
        evaluate(run, stage=tmp_path / "stage", stage_gigabytes=0)
    with pytest.raises(SettingsError, match="stage as the path"):
        evaluate(run, stage="")
    drawn = {"cohort": OmegaConf.to_container(composed("env=relations").env.cohort)}
    with pytest.raises(EvaluationError, match="are drawn, so no files can be copied"):
        glimpse.evaluate._cohort(drawn, run, None, {"stage": "x", "progress": False})


def test_what_cannot_be_evaluated_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run folder"):
        evaluate(tmp_path)
    with pytest.raises(EvaluationError, match="got 'tests'"):
        evaluate(run, split="tests")
    for name, said in (("polcy", r"got 'polcy' \(did you mean 'policy'\?\)"), ("reinforce", "got 'reinforce'")):
        with pytest.raises(EvaluationError, match=said):
            evaluate(run, readers=[name])
    with pytest.raises(SettingsError, match="lanes as a whole number of at least 1, got 0"):
        evaluate(run, lanes=0)
    with pytest.raises(CohortError, match=r"absent\.csv"):
        evaluate(run, cohort=tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("options", "said"), [([], "run=<run folder>"), (["run=nowhere"], "nowhere: not a run folder")]
)
def test_a_mistake_is_one_line_and_exit_code_two(tmp_path: Path, options: list[str], said: str) -> None:
    done = ran("glimpse.evaluate", *options, folder=tmp_path)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and said in done.stderr
    assert list(tmp_path.iterdir()) == []
