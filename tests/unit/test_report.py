"""The report at the end of a run: what its readers are, and where they compute."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from glimpse import train as training
from glimpse.errors import SettingsError
from glimpse.evaluate import evaluate
from glimpse.networks.policy import GlimpsePolicy
from glimpse.reading import playing
from glimpse.reading.costs import Meter
from glimpse.reading.records import Reading, Trace
from glimpse.report import comparison, keeping
from glimpse.report.comparison import Report
from glimpse.report.tables import MEASURED, counted
from glimpse.runs.checkpoints import Checkpoint
from glimpse.runs.loading import OVERVIEW_FILE, load
from glimpse.settings.composing import composed

QUICK = ["experiment=smoke", "progress=false", "threads=1", "pretrain.steps=0", "joint.updates=1", "report.pictures=2"]


def run(cohort: Path, folder: Path, *options: str) -> dict[str, Any]:
    return training.train(composed(*QUICK, f"env.cohort.path={cohort}", f"run={folder}", *options))


def without_validation(cohort: Path, to: Path) -> Path:
    rows = list(csv.DictReader(cohort.open()))
    path = to / "cohort.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            split = "train" if row["split"] == "val" else row["split"]
            writer.writerow({**row, "path": str(cohort.parent / row["path"]), "split": split})
    return path


@pytest.mark.parametrize(
    ("cases", "patients", "said"),
    [
        (68, 58, "68 cases of 58 patients."),
        (20, 20, "20 cases of 20 patients."),
        (21, 19, "21 cases of 19 patients. Bootstrapped intervals of so few patients are too narrow."),
        (1, 1, "1 case of 1 patient. Bootstrapped intervals of so few patients are too narrow."),
    ],
)
def test_tables_say_on_how_many_cases_they_were_measured(cases: int, patients: int, said: str) -> None:
    assert counted(cases, patients) == said


def test_without_validation_cases_the_overview_network_is_trained_kept_and_evaluated_again(
    tiny_slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    metrics = run(without_validation(tiny_slides, tmp_path), folder, "agent=random", "report.readers=[overview]")
    lines = list(csv.DictReader((folder / "predictions.csv").open()))
    measured_on = len([line for line in lines if line["reader"] == "overview"])
    assert f"\nSplit test: {measured_on} cases of " in capsys.readouterr().out
    kept, start = (
        Checkpoint.load(folder / file).tensors for file in (OVERVIEW_FILE, "checkpoints/pretrained.safetensors")
    )
    assert not torch.equal(kept["policy/answer_head.weight"], start["policy/answer_head.weight"])
    again = evaluate(folder, readers=["overview"]).rows["overview"]
    for row in (again, metrics["readers"]["overview"]):
        for name in MEASURED:
            row.pop(name)
    assert again == metrics["readers"]["overview"]
    answers = [
        line["p_1"] for line in csv.DictReader((folder / "predictions.csv").open()) if line["reader"] == "overview"
    ]
    assert len(set(answers)) > 1  # a network that sees no overview answers the same to all of them


def test_an_overview_agent_without_validation_cases_learns(tiny_slides: Path, tmp_path: Path) -> None:
    path = without_validation(tiny_slides, tmp_path)
    options = ["agent=overview", "report.readers=[random]", "joint.average=0.98", "joint.updates=2"]
    run(path, tmp_path / "run", *options)
    final, start = load(tmp_path / "run"), load(tmp_path / "run", "checkpoints/pretrained.safetensors")
    last = Checkpoint.load(tmp_path / "run" / "checkpoints" / "last.safetensors").tensors
    assert not torch.equal(final.answer_head.weight, start.answer_head.weight)
    assert torch.equal(final.answer_head.weight, last["average/answer_head.weight"])
    assert not (tmp_path / "run" / OVERVIEW_FILE).exists()


@pytest.mark.parametrize("agent", ["random", "grid", "overview"])
def test_pictures_show_the_agents_own_scanpaths(
    agent: str, tiny_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Reading] = []

    def picture(reading: Reading) -> np.ndarray:
        drawn.append(reading)
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(keeping, "scanpath_picture", picture)
    run(tiny_slides, tmp_path / "run", f"agent={agent}", "report.readers=[random]")
    rows = evaluate(tmp_path / "run", readers=["policy", "random", "grid"]).readings
    assert len(drawn) == 2
    for shown in drawn:
        own, random, grid = (
            next(one for one in rows[name] if one.id == shown.id) for name in (agent, "random", "grid")
        )
        np.testing.assert_array_equal(shown.scanpath, own.scanpath)
        np.testing.assert_allclose(shown.prediction, own.prediction, atol=1e-5)
        assert len(own.scanpath) == (0 if agent == "overview" else 3)
        for name, other in (("random", random), ("grid", grid)):
            assert np.array_equal(shown.scanpath, other.scanpath) == (agent == name)


def test_patches_that_do_not_fit_the_images_are_refused_before_there_is_a_run(
    tiny_slides: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"one number or 2 .*report.full_scan.extent=null"):
        run(tiny_slides, tmp_path / "run", "report.readers=[full_scan]", "report.full_scan.extent=[8,8,8]")
    assert not (tmp_path / "run").exists()


def test_all_readers_compute_on_the_device_of_the_run(
    tiny_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, str]] = []

    def loading(run: Path, file: str, device: str = "none was given") -> GlimpsePolicy:
        loaded.append((file, device))
        return load(run, file, device)

    monkeypatch.setattr(training, "load_together", loading)
    run(tiny_slides, tmp_path / "run", "report.readers=[random]")
    assert loaded == [("checkpoints/best.safetensors", "cpu")]
    # PyTorch's device "meta" stands for a GPU: nothing can be computed there, but networks can be moved there.
    devices: dict[str, torch.device] = {}

    def overview(start: GlimpsePolicy, *_: Any, **__: Any) -> GlimpsePolicy:
        devices["overview"] = start.device
        return load(tmp_path / "run")

    class Scan:
        choice = "full_scan: the head is 'top_k'."

        def __init__(self, policy: GlimpsePolicy, *_: Any, **__: Any) -> None:
            devices["full_scan"] = policy.device

        def fit(self, *_: Any) -> None: ...

    folder = SimpleNamespace(
        folder=tmp_path / "run", checkpoint=lambda name: tmp_path / f"run/checkpoints/{name}.safetensors"
    )
    trained: Any = SimpleNamespace(
        run=folder, policy=SimpleNamespace(device=torch.device("meta")), cases=SimpleNamespace(views=None, task=None),
        threads=1, progress=False, lanes=lambda split, count: None,
    )  # fmt: skip
    cohort: Any = SimpleNamespace(split=lambda name: [])
    report = Report("ppo", 3, 0, overview=overview, full_scan=Scan)
    report._overview(trained, cohort)
    report._full_scan(trained, trained.policy, cohort)
    assert {name: device.type for name, device in devices.items()} == {"overview": "meta", "full_scan": "meta"}
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["readers"].keys() == {"ppo", "random"}


def test_costs_are_those_of_all_processes_and_unknown_where_patches_were_known(
    tiny_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[str] = []
    trace = playing._trace

    def tracing(*given: Any) -> Trace:
        traced.append(given[2].id)
        return trace(*given)

    class Counting(Meter):
        """Takes a joule for each trace, and 8 of another process."""

        def __enter__(self) -> "Counting":
            self.already = len(traced)
            return self

        def __exit__(self, *_: Any) -> None:
            self.peak_mib, self.joules = 100.0, float(len(traced) - self.already)

    monkeypatch.setattr(playing, "_trace", tracing)
    monkeypatch.setattr(comparison, "Meter", Counting)
    monkeypatch.setattr("glimpse.reading.costs.everyones", lambda own: [*own, (70.0, 8.0)])
    options = ["report.readers=[grid,full_scan]", "report.calibrate=false", "warm_up=none", "report.full_scan.epochs=1"]
    options += ["report.full_scan.head=top_k", "report.full_scan.ensemble=1", "joint.validate_every=0"]
    found = run(tiny_slides, tmp_path / "run", *options)["readers"]
    with (tmp_path / "run" / "predictions.csv").open() as file:
        cases = [line["slide_id"] for line in csv.DictReader(file) if line["reader"] == "ppo"]
    assert traced == cases and len(list((tmp_path / "run" / "pages").iterdir())) == len(cases)
    of_each = {"peak_mib": 100.0, "joules_per_case": 8 / len(cases)}
    of_agent = {"peak_mib": 100.0, "joules_per_case": 1 + 8 / len(cases)}  # pictures are made of the same reading
    spent = {name: {key: row[key] for key in of_each} for name, row in found.items()}
    assert spent == {"ppo": of_agent, "grid": of_each, "full_scan": of_each}
    again = training.train(composed(f"resume={tmp_path / 'run'}"), [f"resume={tmp_path / 'run'}"])["readers"]
    spent = {name: {key: row[key] for key in of_each} for name, row in again.items()}
    assert spent == {"ppo": of_agent, "grid": of_each, "full_scan": dict.fromkeys(of_each)}
    assert again["full_scan"]["seconds_per_case"] > 0
