"""A run that one process began and two go on with: their report says what one process reads of the same policy."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glimpse.evaluate import evaluate
from glimpse.reading.calibration import CALIBRATION_FILE
from glimpse.report.tables import MEASURED
from glimpse.runs.checkpoints import Checkpoint
from glimpse.runs.loading import OVERVIEW_FILE
from glimpse.settings.composing import composed
from glimpse.train import train

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
SMALL = ["experiment=smoke", "threads=1", "progress=false", "pretrain.steps=0", "warm_up=none", "joint.updates=1"]
SMALL += ["report.pictures=2", "report.pages=3", "report.full_scan.epochs=2", "report.full_scan.ensemble=1"]
READERS = "report.readers=[random,overview,full_scan]"


@pytest.fixture(scope="module")
def runs(tiny_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of which two processes made the second update and the report; and a copy of which one made the report."""
    folder = tmp_path_factory.mktemp("ranks")
    begun = [*SMALL, f"env.cohort.path={tiny_slides}", f"run={folder / 'run'}"]
    train(composed(*begun, "report.readers=[]", "report.calibrate=false", "joint.validate_every=0"))
    words = ["report.overview.updates=3", "report.calibrate=true", READERS]
    told = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *TORCHRUN, "-m", "glimpse.train", "resume=run", "joint.updates=2", *words]
    command.append("joint.validate_every=1")
    done = subprocess.run(command, cwd=folder, env=told, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("full_scan: the head is") == done.stdout.count("Report: ") == 1
    alone = shutil.copytree(folder / "run", folder / "alone")
    for file in (*alone.glob("checkpoints/full_scan-*"), alone / OVERVIEW_FILE, alone / CALIBRATION_FILE):
        file.unlink(missing_ok=True)  # which are made anew
    words.append(f"resume={alone}")
    train(composed(*words), words)
    return folder / "run", alone


def answers(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Each line of a table of answers without its seconds, by reader and case; all cells that are numbers as such."""
    found = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            del row["seconds"]
            key = row.pop("reader"), row.pop("slide_id")
            found[key] = {
                name: float(text) if name != "case_id" and name != "split" else text for name, text in row.items()
            }
    return found


def close(found: Any, expected: Any) -> None:
    """Compares what was read from JSON; numbers may differ by the rounding of sums in another order."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            close(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            close(*pair)
    else:
        assert found == (pytest.approx(expected, rel=1e-3, abs=1e-4) if isinstance(expected, float) else expected)


def test_two_processes_report_what_one_reports_of_the_same_policy(runs: tuple[Path, Path]) -> None:
    both, alone = (json.loads((run / "metrics.json").read_text())["readers"] for run in runs)
    assert list(both) == ["ppo", "random", "overview", "full_scan"]
    assert (runs[0] / OVERVIEW_FILE).exists()
    for row in (*both.values(), *alone.values()):
        assert row["peak_mib"] is None or row["peak_mib"] > 50
        for name in MEASURED:
            del row[name]
    close(both, alone)
    close(*(answers(run / "predictions.csv") for run in runs))
    for name in ("pages", "scanpaths"):
        first, second = (sorted(file.name for file in (run / name).iterdir()) for run in runs)
        assert first == second and len(first) == (3 if name == "pages" else 2)


def test_one_process_evaluates_and_validates_to_what_two_have_found(runs: tuple[Path, Path]) -> None:
    run, _ = runs
    metrics = json.loads((run / "metrics.json").read_text())
    found = evaluate(run, readers=["policy", "random", "overview"])
    for name, row in found.rows.items():
        close(*({key: one[key] for key in row if key not in MEASURED} for one in (row, metrics["readers"][name])))
    written = answers(run / "predictions.csv")
    close(answers(found.files[1]), {key: row for key, row in written.items() if key[0] != "full_scan"})
    assert Checkpoint.load(run / "checkpoints" / "last.safetensors").meta["updates"] == 2
    (validated,) = metrics["validation"]
    assert validated["updates"] == 2
    row = evaluate(run, split="val", readers=["policy"]).rows["ppo"]
    assert validated["glimpses"] == row["glimpses"]
    close(validated["score"], (row if row["temperature"] is None else row["uncalibrated"])["score"]["value"])
