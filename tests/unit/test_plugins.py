"""Modalities of other packages: found when glimpse is imported, loaded when needed; broken ones stop nobody."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glimpse import plugins
from glimpse.modalities import register_modality
from glimpse.settings.command import run_command
from glimpse.sources import ArraySource

pytestmark = pytest.mark.usefixtures("registrations")

ROOT = Path(__file__).resolve().parents[2]


def package(site: Path, name: str, code: str, points: str) -> None:
    """A package as an installer leaves it."""
    (site / f"{name}.py").write_text(code, encoding="utf-8")
    info = site / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[glimpse.modalities]\n{points}\n", encoding="utf-8")


GOOD = """
import glimpse
from glimpse.sources import ArraySource
class Source(ArraySource): pass
def register(): glimpse.register_modality("fundus", Source, suffixes=(".fundus",))
glimpse.register_modality("thermal", Source, suffixes=(".heat",))
"""
POINTS = "fundus = good_package:register\nthermal = good_package\nwsi = good_package:register"


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code where a good and a broken package are installed."""
    package(tmp_path, "good_package", GOOD, POINTS)
    package(tmp_path, "broken_package", "raise RuntimeError('out of order')", "broken = broken_package:register")

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, **paths, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_packages_are_announced_on_import_and_loaded_when_needed(python: Callable[..., Any]) -> None:
    code = """
import sys, warnings, gymnasium
warnings.simplefilter("error")
import glimpse
assert {"glimpse/Fundus-v0", "glimpse/Thermal-v0", "glimpse/Broken-v0"} <= set(gymnasium.registry)
assert gymnasium.registry["glimpse/WSI-v0"].kwargs == {"modality": "wsi"}
assert not {"good_package", "broken_package", "torch", "hydra"} & set(sys.modules)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from glimpse.modalities import find_modality
    print(find_modality("fundus").source.__name__, find_modality("thermal").env_id)
print(*(str(one.message) for one in caught if issubclass(one.category, UserWarning)), sep="\\n")
try:
    gymnasium.make("glimpse/Broken-v0")
except ValueError as error:
    print(error)
"""
    lines = python("-c", code)
    shown = lines.stdout.splitlines()
    assert shown[0] == "Source glimpse/Thermal-v0", lines.stderr
    about = [line for line in shown[1:] if "broken_package 1.2" in line and "out of order" in line]
    assert len(about) == 2 and "all else goes on" in about[0] and "no modality 'broken'" in about[1], lines.stdout


def test_a_broken_package_does_not_keep_others_from_training(python: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD.replace("thermal", "mine").replace("fundus", "mine"), encoding="utf-8")
    done = python("-m", "glimpse.train", "env=mine", "--cfg", "job", GLIMPSE_MODALITIES="mine")
    assert done.returncode == 0, done.stderr
    assert "broken_package 1.2" in done.stderr and "modality: mine" in done.stdout


def test_an_unknown_option_for_a_part_ends_a_command_in_one_line(python: Callable[..., Any], tmp_path: Path) -> None:
    code = (
        GOOD.replace("thermal", "mine")
        .replace("fundus", "mine")
        .replace('suffixes=(".heat",)', 'suffixes=(".heat",), networks={"encoder": "smal"}, overwrite=True')
    )
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    done = python("-m", "glimpse.train", "env=mine", "--cfg", "job", GLIMPSE_MODALITIES="mine")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert last.startswith("glimpse: There is no option network/encoder=smal (did you mean 'small'?)."), done.stderr
    assert "efficientnet_lite0" in last


def test_a_module_that_the_variable_names_in_vain_ends_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLIMPSE_MODALITIES", "numpy, nowhere")
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: pytest.fail("the command has begun"))
    assert ended.value.code == 2
    assert "GLIMPSE_MODALITIES names the module 'nowhere'" in capsys.readouterr().err


def test_a_function_that_was_called_before_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name, value, module, dist = "retinal_oct", "somewhere:register", "somewhere", None

        def load(self) -> Callable[[], Any]:
            return lambda: register_modality("retinal_oct", ArraySource)

    register_modality("retinal_oct", ArraySource)
    monkeypatch.setattr(plugins, "_points", lambda: [Point()])
    monkeypatch.setattr(plugins, "_failures", {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plugins.load_plugins()
    assert plugins.why_missing("retinal_oct") == ""
