"""The notebook runs from its first cell to its last, and shows pictures."""

import base64
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_watch_a_policy(tiny_slides: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "GLIMPSE_NOTEBOOK_QUICK": "1",
        "GLIMPSE_NOTEBOOK_COHORT": str(tiny_slides),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(ROOT / "notebooks" / "01_watch_a_policy.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [
        base64.b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 5 and all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0] != pictures[1], "training has changed nothing"
    assert list(tmp_path.glob("glimpse-*/run/policy.safetensors")) and list(tmp_path.glob("glimpse-*/after.gif"))


def test_notebooks_are_small_enough_to_keep() -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert path.stat().st_size < 1_000_000, f"{path.name} is too large to commit: clear its outputs"
        nbformat.validate(nbformat.read(path, as_version=4))
