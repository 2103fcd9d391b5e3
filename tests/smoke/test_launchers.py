"""Sweeps of trainings, and the folds of a cross-validation, by launchers of Hydra."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf

LAUNCHERS = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(f"hydra_plugins.{package}") is None, reason=package))
    for name, package in (("submitit_local", "hydra_submitit_launcher"), ("joblib", "hydra_joblib_launcher"))
]
SMALL = ["experiment=smoke", "env=wsi", "joint.updates=1", "pretrain=none", "warm_up=none", "progress=false"]
SMALL += ["report.readers=[]", "report.pictures=0", "report.calibrate=false"]


def glimpse(folder: Path, *words: str) -> str:
    """Runs a command in a folder, and returns what it prints."""
    command = [sys.executable, "-m", "glimpse", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_makes_a_run_of_each_job(launcher: str, tiny_slides: Path, tmp_path: Path) -> None:
    words = ["--multirun", f"hydra/launcher={launcher}", "seed=3,4", f"env.cohort.path={tiny_slides}", *SMALL]
    glimpse(tmp_path, "train", *words, "run=runs/sweep-${hydra:job.num}")
    for number in range(2):
        run = tmp_path / "runs" / f"sweep-{number}"
        assert OmegaConf.load(run / "config.yaml").seed == 3 + number
        assert json.loads((run / "metrics.json").read_text())["readers"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_trains_the_folds_of_a_cross_validation(launcher: str, tiny_slides: Path, tmp_path: Path) -> None:
    words = ["cross-validate", "folds=2", "folder=both", f"env.cohort.path={tiny_slides}", *SMALL]
    glimpse(tmp_path, *words, "--multirun", f"hydra/launcher={launcher}", "fold=1,2")
    written = {run: (run / "metrics.json").stat().st_mtime_ns for run in sorted((tmp_path / "both").glob("fold-*"))}
    assert [run.name for run in written] == ["fold-1", "fold-2"]
    assert json.loads((tmp_path / "both" / "metrics.json").read_text())["folds"] == 2  # by the job that was the last
    assert "mean (sd)" in glimpse(tmp_path, *words)
    assert written == {run: (run / "metrics.json").stat().st_mtime_ns for run in written}
