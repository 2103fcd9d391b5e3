"""The wheel: what is in it, and that it trains in a folder whose own envs/, agents/ and configs/ would shadow ours."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"glimpse": "glimpse", "envs": "glimpse/envs", "agents": "glimpse/agents", "configs": "glimpse/configs"}
FILES = ("pyproject.toml", "README.md", "LICENSE")


def run(*arguments: str | Path, cwd: Path, **variables: str) -> str:
    """Runs this Python with the arguments; fails with everything it printed if it does not end well."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources: setuptools would pack stale files of an old build/ as well."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for folder in PACKAGES:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, source)
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", dist, source, cwd=source)
    (built,) = dist.glob("glimpse_rl-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that holds the installed wheel; it comes before any editable install."""
    site = tmp_path_factory.mktemp("site")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel, cwd=site)
    return site


@pytest.fixture
def decoys(tmp_path: Path) -> Path:
    """A user's folder with packages of the same names, which must never be imported."""
    for name in ("envs", "agents", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('the decoy {name}/ was imported')\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "somebody-elses"\n')
    return tmp_path


def test_the_wheel_holds_every_module_and_config_and_nothing_beside_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"{target}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, target in PACKAGES.items()
        for pattern in ("*.py", "*.yaml")
        for file in (ROOT / folder).rglob(pattern)
    }
    assert not expected - names, f"pyproject.toml does not pack {sorted(expected - names)}"
    assert "glimpse/py.typed" in names
    texture = ROOT / "glimpse" / "synthetic" / "slides" / "texture"
    files = {file.relative_to(ROOT).as_posix() for file in texture.iterdir()}
    assert files <= names and {file.name for file in texture.iterdir()} >= {"LICENSE", "stroma.jpg", "tissue.npz"}
    policy = {f"glimpse/demo/policy/{file.name}" for file in (ROOT / "glimpse" / "demo" / "policy").iterdir()}
    assert policy <= names and "glimpse/demo/policy/policy.safetensors" in policy
    assert any(name.startswith("glimpse/configs/") and name.endswith(".yaml") for name in names)
    top = {name.split("/")[0] for name in names}
    assert len(top) == 2 and "glimpse" in top, f"the wheel would install {sorted(top)}"


def test_the_packages_are_found_in_the_wheel_and_not_beside_the_user(installed: Path, decoys: Path) -> None:
    code = (
        "import glimpse, glimpse.envs, glimpse.agents, glimpse.configs; "
        "print(*(m.__file__ for m in (glimpse, glimpse.envs, glimpse.agents, glimpse.configs)), sep='\\n')"
    )
    found = run("-c", code, cwd=decoys, PYTHONPATH=str(installed)).split()
    assert len(found) == 4 and all(Path(file).is_relative_to(installed) for file in found), found


def test_the_wheel_shows_its_demo_beside_decoys(installed: Path, decoys: Path) -> None:
    told = run("-m", "glimpse", "demo", "slide=1", cwd=decoys, PYTHONPATH=str(installed))
    assert "none of them foci of tumour" in told and str(decoys / "glimpse-demo" / "report.html") in told
    assert (decoys / "glimpse-demo" / "report.html").is_file() and (decoys / "glimpse-demo" / "slide-005.gif").is_file()


def test_the_wheel_trains_beside_decoys(installed: Path, decoys: Path, tmp_path: Path) -> None:
    arguments = ("env=wsi", "agent=ppo", "experiment=smoke", f"run={tmp_path / 'run'}")
    run("-m", "glimpse.train", *arguments, cwd=decoys, PYTHONPATH=str(installed))
    for name in ("config.yaml", "policy.safetensors", "metrics.json", "predictions.csv"):
        assert (tmp_path / "run" / name).stat().st_size > 0
