"""Sweeps of trainings by launchers of Hydra."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf


@pytest.mark.slow
@pytest.mark.skipif(find_spec("hydra_plugins.hydra_submitit_launcher") is None, reason="hydra-submitit-launcher")
def test_a_sweep_by_submitit_makes_a_run_of_each_job(tiny_slides: Path, tmp_path: Path) -> None:
    words = ["--multirun", "hydra/launcher=submitit_local", "experiment=smoke", "env=wsi", "seed=3,4"]
    words += [f"env.cohort.path={tiny_slides}", "run=runs/sweep-${hydra:job.num}", "joint.updates=1", "pretrain=none"]
    words += ["warm_up=none", "progress=false", "report.readers=[]", "report.pictures=0", "report.calibrate=false"]
    done = subprocess.run(
        [sys.executable, "-m", "glimpse", "train", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for number in range(2):
        run = tmp_path / "runs" / f"sweep-{number}"
        assert OmegaConf.load(run / "config.yaml").seed == 3 + number
        assert json.loads((run / "metrics.json").read_text())["readers"]
