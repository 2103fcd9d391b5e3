"""The example of a package that brings a modality: installed, found by its entry point, trained, evaluated."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("experiment=smoke", "progress=false", "threads=1", "report.readers=[random,grid]", "report.pictures=1")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with the installed package."""
    source, site = tmp_path_factory.mktemp("source") / "ultrasound", tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "examples" / "ultrasound", source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    install = [sys.executable, "-m", "pip", "install", *offline, "--target", str(site), str(source)]
    done = subprocess.run(install, cwd=site, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return site


def python(folder: Path, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}", "OMP_NUM_THREADS": "1", "TMPDIR": str(site)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120)


def test_it_trains_and_is_evaluated_from_another_folder(site: Path, tmp_path: Path) -> None:
    trained = python(tmp_path, site, "-m", "glimpse.train", "env=ultrasound", "run=run", *QUICK)
    assert trained.returncode == 0, trained.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["readers"]) == {"ppo", "random", "grid"}
    assert metrics["readers"]["random"]["glimpses"] == 3
    done = python(tmp_path, site, "-m", "glimpse.evaluate", "run=run", "max_glimpses=5", "readers=[random]")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "evaluation-test-5.json").read_text())["readers"]["random"]["glimpses"] == 5


def test_its_options_are_offered_and_its_settings_hold(site: Path, tmp_path: Path) -> None:
    mistyped = python(tmp_path, site, "-m", "glimpse.train", "env=ultrasond")
    assert mistyped.returncode == 2 and "did you mean 'ultrasound'" in mistyped.stderr
    assert "thyroid" in mistyped.stderr and "wsi" in mistyped.stderr
    options = ("env=thyroid", "env.make.glimpse_size=40", "env.cohort.path=images.csv", "--cfg", "job")
    shown = python(tmp_path, site, "-m", "glimpse.train", *options)
    assert shown.returncode == 0, shown.stderr
    for line in ("modality: ultrasound", "path: images.csv", "overview_size: 192", "glimpse_size: 40", "- 8mm"):
        assert line in shown.stdout
    assert "updates: 60" in shown.stdout  # of its recipe


def test_gymnasium_and_open_source_find_it_after_importing_glimpse(site: Path, tmp_path: Path) -> None:
    code = """
import sys, gymnasium, glimpse, glimpse.modalities
assert "glimpse/Ultrasound-v0" in gymnasium.registry and "glimpse_ultrasound" not in sys.modules
from glimpse.envs import check
from glimpse_ultrasound.synthetic import make_cohort
assert "glimpse_ultrasound" in sys.modules and "ultrasound" not in glimpse.modalities._MODALITIES
env = gymnasium.make("glimpse/Ultrasound-v0", cohort=make_cohort(12, 512), overview_size=64, max_glimpses=3)
assert check(env) == (), check(env)
case = env.unwrapped.cases[0]
found = glimpse.open_source(case.source.path)
print(type(found).__name__, found.shape, found.spacing, found.unit)
"""
    done = python(tmp_path, site, "-c", code)
    assert done.stdout.split("\n")[0] == "UltrasoundSource (512, 512) (0.1, 0.1) mm", done.stdout + done.stderr


def test_a_header_that_is_no_plane_of_bytes_says_so(site: Path, tmp_path: Path) -> None:
    header = "NDims = 3\nDimSize = 4 4 4\nElementType = MET_SHORT\nElementDataFile = a.raw\n"
    (tmp_path / "a.mhd").write_text(header, encoding="ascii")
    (tmp_path / "a.raw").write_bytes(bytes(128))
    done = python(tmp_path, site, "-c", "import glimpse; glimpse.open_source('a.mhd').shape")
    assert "Export single frames in 8 bits" in done.stderr
