"""`glimpse doctor`: what it says of an installation that works, and of one in which packages are missing or broken."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import openslide
import pytest
import torch

from glimpse import doctor as command
from glimpse.inspecting import machine
from glimpse.inspecting.machine import EXTRAS, REQUIRED, Line, Section, examine
from glimpse.inspecting.probes import Probed, probe, probe_all

ROOT = Path(__file__).resolve().parents[2]
ALL = [*REQUIRED, *(name for _, several in EXTRAS.values() for name in several)]
DICOM = {"uncompressed": "", "JPEG": "", "RLE": ""}
PILLOW = {"JPEG": True, "JPEG 2000": True, "WebP": True, "TIFF": True, "PNG": True}
TORCH: dict[str, Any] = {"cuda": "", "devices": [], "threads": 2, "bfloat16": False}
FACTS: dict[str, Any] = {"torch": TORCH, "openslide": {"library": "4.0.1"}, "PIL": PILLOW, "pydicom": DICOM}


def modules(**changed: Probed) -> dict[str, Probed]:
    """An installation in which everything works, but for what is changed."""
    return {name: Probed(name, "9999.0", facts=FACTS.get(name, {})) for name in ALL} | changed


def lines(sections: tuple[Section, ...], title: str) -> dict[str, Line]:
    return {line.name: line for section in sections if section.title == title for line in section.lines}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    line = [sys.executable, "-m", "glimpse", "doctor", *arguments]
    return subprocess.run(line, env=given, capture_output=True, text=True, timeout=300)


# ---------------------------------------------------------------------------------------------- one that works
def test_it_describes_this_installation() -> None:
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for word in ("This machine", "Packages", "Extras", "Codecs", "Formats", "Caches", sys.executable):
        assert word in done.stdout
    assert torch.__version__ in done.stdout
    assert f"{openslide.__version__}, library {openslide.__library_version__}" in done.stdout
    assert "NIfTI: can be read" in done.stdout and "All that is needed works." in done.stdout


@pytest.mark.parametrize("words", [["doctor"], ["doctor", "json=true"], ["doctor", "--help"], [], ["--version"]])
def test_a_full_disk_ends_it_in_one_line(words: list[str]) -> None:
    line = [sys.executable, "-m", "glimpse", *words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "glimpse: what is printed cannot be written (No space left on device)."
    assert "Traceback" not in done.stderr


def test_it_is_read_by_programs_too() -> None:
    done = run("json=true")
    plain = json.loads(done.stdout)
    assert {"This machine", "Packages", "Extras", "Codecs", "Formats", "Caches"} == set(plain)
    assert all(set(line) == {"name", "text", "state", "remedy"} for several in plain.values() for line in several)


def test_it_looks_for_what_the_distribution_needs() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    needed = text.split("\ndependencies = [")[1].split("]\n")[0].split('"')[1::2]
    names = {one.partition(">=")[0] for one in needed} - {"openslide-bin"}  # which openslide-python brings in
    assert names == set(REQUIRED.values())
    extras = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    others = {"test", "dev", "docs", "notebooks"}  # for whoever works on glimpse, and Jupyter
    assert {line.split(" = ")[0] for line in extras.splitlines() if " = [" in line} - others == set(EXTRAS)


def test_where_everything_works_nothing_is_to_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    sections = examine(modules())
    found = [line for section in sections if section.title != "Caches" for line in section.lines]
    assert all(line.state == "ok" and not line.remedy for line in found)
    assert not command.is_broken(sections)
    assert "cpu only (PyTorch is built without CUDA)" in lines(sections, "This machine")["devices"].text


def test_devices_have_names_and_memory() -> None:
    facts = TORCH | {"cuda": "13.0", "devices": [{"name": "A Device", "free": 70e9, "total": 80e9}]}
    found = lines(examine(modules(torch=Probed("torch", "9999", facts=facts))), "This machine")
    assert found["cuda:0"].text == "A Device, 70.0 of 80.0 GB free; device=cuda" and "devices" not in found
    facts = TORCH | {"cuda": "13.0"}
    found = lines(examine(modules(torch=Probed("torch", "9999", facts=facts))), "This machine")
    assert "built for CUDA 13.0, but finds none" in found["devices"].text


# ---------------------------------------------------------------------------------------------- what is missing
def test_an_extra_that_is_missing_is_named_with_the_command_of_pip() -> None:
    absent = {name: Probed(name, problem="not installed", installed=False) for name in EXTRAS["dicom"][1]}
    sections = examine(modules(**absent))
    extra = lines(sections, "Extras")["dicom"]
    assert extra.state == "missing" and "pip install 'glimpse-rl[dicom]'" in extra.remedy
    formats = lines(sections, "Formats")
    assert {name for name, line in formats.items() if line.state == "missing"} == {
        "DICOM volumes",
        "DICOM radiographs",
        "DICOM photographs",
    }
    assert "cannot be read: pydicom not installed" in formats["DICOM volumes"].text
    assert lines(sections, "Codecs")["DICOM"].state == "missing"
    assert not command.is_broken(sections), "what is optional may be missing"
    assert (
        "Missing, and optional: dicom, DICOM, DICOM volumes, DICOM radiographs, DICOM photographs."
        in command.written(sections)
    )


def test_decoders_and_codecs_that_are_missing_are_named_per_format() -> None:
    facts = DICOM | {"JPEG-LS": "pylibjpeg-libjpeg"}
    pillow = PILLOW | {"JPEG": False, "WebP": False}
    sections = examine(modules(pydicom=Probed("pydicom", "9999", facts=facts), PIL=Probed("PIL", "9999", facts=pillow)))
    assert "without JPEG-LS" in lines(sections, "Codecs")["DICOM"].text
    assert "without JPEG, WebP" in lines(sections, "Codecs")["Pillow"].text
    formats = lines(sections, "Formats")
    assert formats["DICOM radiographs"].text.endswith("but not where pixels are compressed as JPEG-LS")
    assert formats["radiographs"].text.endswith("but not where pixels are compressed as JPEG")
    assert formats["photographs"].text.endswith("but not where pixels are compressed as JPEG, WebP")


def test_tiffs_that_need_a_package_are_named() -> None:
    absent = Probed("imagecodecs", problem="not installed", installed=False)
    sections = examine(modules(imagecodecs=absent))
    assert lines(sections, "Formats")["microscopy"].text.endswith(
        "compressed as LZW, JPEG, JPEG 2000, Zstandard or WebP"
    )
    assert "pip install 'glimpse-rl[tiff]'" in lines(sections, "Extras")["tiff"].remedy
    partly = Probed("imagecodecs", "9999", facts={"LZW": True, "JPEG 2000": False})
    assert lines(examine(modules(imagecodecs=partly)), "Formats")["microscopy"].text.endswith("compressed as JPEG 2000")
    assert not command.is_broken(sections)


def test_what_is_needed_and_does_not_work_is_broken() -> None:
    why = "it cannot be imported (OSError: no libopenslide)"
    sections = examine(modules(openslide=Probed("openslide", "1.4.7", why)))
    package = lines(sections, "Packages")["openslide-python"]
    assert package.state == "broken" and why in package.text and "openslide-bin" in package.remedy
    assert lines(sections, "Formats")["slides"].state == "broken"
    assert lines(sections, "Formats")["volumes"].state == "ok"
    assert command.is_broken(sections) and "Broken, and needed: openslide-python, slides" in command.written(sections)
    sections = examine({})
    assert all(line.state == "broken" for line in lines(sections, "Packages").values())
    assert "PyTorch does not work" in lines(sections, "This machine")["devices"].text


def test_a_package_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "requires", lambda name: ["torch>=2.3", "numpy>=1.26"])
    sections = examine(modules(torch=Probed("torch", "1.13.1+cpu", facts=TORCH), numpy=Probed("numpy", "1.26.0")))
    old = lines(sections, "Packages")["torch"]
    assert old.state == "broken" and "needs 2.3 or newer" in old.text and "'torch>=2.3'" in old.remedy
    assert lines(sections, "Packages")["numpy"].state == "ok"


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "file" / "cache"))
    (folder,) = lines(examine(modules()), "Caches").values()
    assert folder.state == "broken" and "GLIMPSE_CACHE" in folder.remedy


def test_a_cache_with_little_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10**9})
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage)
    assert lines(examine(modules()), "Caches")["folder"].state == "missing"


# ---------------------------------------------------------------------------------------------- broken packages
@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder of modules that break in different ways when they are imported."""
    (tmp_path / "aa_raises.py").write_text("raise RuntimeError('the wrong\\n  library')\n")
    (tmp_path / "bb_kills.py").write_text("import os; os.kill(os.getpid(), 11)\n")
    (tmp_path / "cc_leaves.py").write_text("import os; os._exit(0)\n")
    (tmp_path / "dd_exits.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "ee_lacks.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "ff_talks.py").write_text("print('{\"name\": \"ff\"}'); __version__ = '1.2'\n")
    (tmp_path / "gg_waits.py").write_text("import time; time.sleep(600)\n")
    return tmp_path


def test_a_package_that_ends_the_process_is_named_and_the_others_are_asked(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(broken))
    names = ["aa_raises", "bb_kills", "cc_leaves", "dd_exits", "ee_lacks", "ff_talks", "hh_absent", "json"]
    found = probe_all(names)
    assert list(found) == names
    assert "RuntimeError: the wrong library" in found["aa_raises"].problem
    assert "signal 11, SIGSEGV" in found["bb_kills"].problem and "exit code 0" in found["cc_leaves"].problem
    assert "SystemExit" in found["dd_exits"].problem
    assert found["ee_lacks"].installed and "nothing_of_this_name" in found["ee_lacks"].problem
    assert found["ff_talks"].works and found["ff_talks"].version == "1.2"
    assert not found["hh_absent"].installed and found["json"].works


def test_a_package_that_never_ends_is_given_up(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(broken))
    found = probe_all(["gg_waits"], seconds=3.0)
    assert found["gg_waits"].problem == "importing it takes too long"


def test_the_whole_command_works_where_packages_are_broken(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libc10.so: cannot open shared object file')\n")
    (tmp_path / "timm.py").write_text("import os; os.kill(os.getpid(), 11)\n")
    (tmp_path / "pydicom.py").write_text("raise ImportError('a part of it is gone')\n")
    (tmp_path / "hydra.py").write_text("raise ImportError('half of it')\n")
    done = run(PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr == "" and "libc10.so" in done.stdout and "half of it" in done.stdout
    assert "timm importing it ends the process (signal 11, SIGSEGV)" in done.stdout
    assert "folders of slices: cannot be read: pydicom it cannot be imported" in done.stdout
    assert "NIfTI: can be read" in done.stdout
    assert "Broken, and needed: devices, torch" in done.stdout


def test_what_is_asked_of_a_package_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    from glimpse.inspecting import probes

    def fails(module: Any) -> dict[str, Any]:
        raise ValueError("no such thing")

    monkeypatch.setitem(probes._FACTS, "json", fails)
    assert probe("json").works and probe("json").facts == {"problem": "ValueError: no such thing"}


# ---------------------------------------------------------------------------------------------- the command
def test_mistakes_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["input=x"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "'input=x'" in said.err
    assert command.main(["--help"]) == 0
    assert "json=true" in capsys.readouterr().out


def test_nothing_that_it_looks_for_is_imported_by_it() -> None:
    code = "import sys, glimpse.doctor; print([n for n in ('torch', 'openslide', 'hydra', 'PIL') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
