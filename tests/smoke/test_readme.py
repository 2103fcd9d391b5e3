"""What the README says runs: its Python code, and the files and commands that it names."""

import re
from pathlib import Path

import pytest

from glimpse import __main__ as cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_python_code_runs(tiny_slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_slides.parent)  # where its cohort.csv is
    blocks = re.findall(r"<!-- tested -->\n```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks, "README.md has no Python block marked <!-- tested -->"
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_its_tree_names_what_is_there() -> None:
    tree = README.split("## The tree", 1)[1].split("```")[1]
    parent = ROOT
    for line in tree.strip().splitlines():
        name = line.split()[0]
        parent = parent if line.startswith(" ") else ROOT / name
        place = parent / name if line.startswith(" ") else parent
        assert place.exists(), f"README.md's tree names {place.relative_to(ROOT)}, which does not exist"


def test_its_picture_is_there() -> None:
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).is_file(), f"README.md shows {picture}, which does not exist"


def test_the_commands_it_names_exist() -> None:
    named = set(re.findall(r"python -m glimpse\.(\w+)", README))
    assert named <= set(cli.commands()), f"README.md names commands that do not exist: {named - set(cli.commands())}"
