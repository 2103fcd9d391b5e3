"""The README's Python code runs, and its tree names all files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_python_code_runs(tiny_slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_slides.parent)  # where its cohort.csv is
    blocks = re.findall(r"<!-- tested -->\n```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks, "README.md has no Python block marked <!-- tested -->"
    names = {"__name__": "readme"}  # one after another, as somebody pastes them
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


def named_in_the_tree() -> set[str]:
    """Paths of the folders and Python files that the README's tree names."""
    tree = README.split("## The tree", 1)[1].split("```")[1]
    top, room, found = "", "", set()
    for line in tree.strip().splitlines():
        if not line.startswith(" "):
            top, room = line.split()[0], ""
            found.add(top)
        elif line.startswith("  ") and line[2] != " ":
            first = line.split()[0].rstrip(",")
            room = first if first.endswith("/") else ""
            found |= {top + name for name in re.findall(r"(?:^|\s)([\w/]+/)(?=[,\s]|$)", line[:25])}
        found |= {top + room + name for name in re.findall(r"\b(\w+\.py)\b", line)}
    return found


def test_its_tree_names_what_is_there() -> None:
    for name in named_in_the_tree():
        assert (ROOT / name).exists(), f"README.md's tree names {name}, which does not exist"


def test_its_tree_is_complete() -> None:
    there = {
        str(file.relative_to(ROOT))
        for top in ("glimpse", "envs", "agents")
        for file in (ROOT / top).rglob("*.py")
        if file.name != "__init__.py"
    }
    assert there <= named_in_the_tree(), f"README.md's tree lacks {sorted(there - named_in_the_tree())}"
