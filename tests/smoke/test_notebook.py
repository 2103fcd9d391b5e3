"""The notebooks run from their first cell to their last, and show what they promise; what is committed can be kept."""

import base64
import csv
import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import nibabel
import numpy as np
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 200_000  # bytes
_INTERVAL = re.compile(r"(\d\.\d+) \((\d\.\d+) to (\d\.\d+)\)")


@dataclass(frozen=True)
class Ran:
    """What an executed notebook has printed and shown, and the folder in which it has worked."""

    text: str
    pictures: list[bytes]
    folder: Path

    def intervals(self, count: int) -> None:
        """Asserts that so many metrics were printed, each within its interval from 0 to 1."""
        found = [tuple(map(float, one)) for one in _INTERVAL.findall(self.text)]
        assert len(found) == count and all(0 <= low <= value <= high <= 1 for value, low, high in found)

    def rows(self, name: str) -> list[dict[str, str]]:
        """The lines of a CSV."""
        with open(self.folder / name, encoding="utf-8") as file:
            return list(csv.DictReader(file))


def _watch_a_policy(ran: Ran) -> None:
    assert len(ran.pictures) == 5
    assert ran.pictures[0] != ran.pictures[1], "training has changed nothing"
    assert (ran.folder / "after.gif").read_bytes().startswith(b"GIF89a")


def _new_modality(ran: Ran) -> None:
    assert len(ran.pictures) == 3
    assert "384 x 384 pixels of 0.5 um" in ran.text and "all of the contract was checked, and is kept" in ran.text
    ran.intervals(3)  # of the agent and two other readers
    assert len(ran.rows("run/splits.csv")) == 24 == len(list(ran.folder.glob("field-*.npz")))


def _what_it_learned(ran: Ran) -> None:
    assert len(ran.pictures) == 5
    ran.intervals(2 * 3)  # of two readers with three budgets
    without = [float(p) for p in re.findall(r"without look \d, at .*, it is (\d\.\d+)", ran.text)]
    assert 1 <= len(without) <= 6 and all(0 <= p <= 1 for p in without)
    counts = [int(count) for count in re.findall(r"\(mean of (\d+)\)", ran.text)]
    assert 1 <= sum(counts[:2]) <= 12 * 6, "looks at a glyph and others, of twelve cases"


def _volumes(ran: Ran) -> None:
    assert len(ran.pictures) == 3
    looks = re.findall(r"look \d: 24 mm wide, centre at +(\S+) right, +(\S+) anterior, +(\S+) superior", ran.text)
    assert 1 <= len(looks) <= 4 and np.abs(np.array(looks, float)).max() < 200
    labels = sorted((ran.folder / "predictions" / "labels").glob("*.nii.gz"))
    assert len(labels) == 2 == len(ran.rows("predictions/predictions.csv"))
    values = np.unique(np.asarray(nibabel.load(labels[0]).dataobj))  # type: ignore[attr-defined]
    assert values[0] == 0 and 1 <= values[-1] <= 4


def _your_own_slides(ran: Ran) -> None:
    assert len(ran.pictures) == 2
    results, compared = ran.text.split("Intervals are 95 %", 1)
    Ran(results, ran.pictures, ran.folder).intervals(3)  # of the agent and two other readers
    readers = json.loads((ran.folder / "run" / "metrics.json").read_text("utf-8"))["readers"]
    (told,) = re.findall(r"^accuracy +(\S+) \(.*?\) +(\S+) \(.*?\) +(\S+) \(", compared, re.MULTILINE)
    first, second, apart = map(float, told)
    assert (first, second) == tuple(round(readers[name]["accuracy"]["value"], 3) for name in ("ppo", "random"))
    assert apart == pytest.approx(first - second, abs=2e-3)
    (broken,) = (row["slide_id"] for row in ran.rows("predictions/failures.csv"))
    assert {row["slide_id"] for row in ran.rows("checks/findings.csv") if row["kind"] == "wrong"} == {broken}
    assert broken not in {row["slide_id"] for row in ran.rows("run/splits.csv")}, "it was left out of the training"
    read = {row["slide_id"] for row in ran.rows("predictions/predictions.csv")}
    assert len(read) == 11 and broken not in read
    for slide in read:
        collection = json.loads((ran.folder / "predictions" / "geojson" / f"{slide}.geojson").read_text("utf-8"))
        assert collection["type"] == "FeatureCollection" and 1 <= len(collection["features"]) <= 3


def _zoom(ran: Ran) -> None:
    assert len(ran.pictures) == 2
    ran.intervals(2)
    shares = [float(share) for share in re.findall(r"possible ones \((\d+\.\d)%\), AUC", ran.text)]
    assert len(shares) == 2 and 0 <= min(shares) <= max(shares) < 25, "a small part of the finest field of view"
    assert "level 0: looks of 512 pixels" in ran.text and "level 1: looks of 64 pixels" in ran.text
    looks = re.findall(r"look +(\d): (wide|fine), found in (the overview|look \d)", ran.text)
    assert 1 <= len(looks) <= 4 and looks[0][1:] == ("wide", "the overview")
    assert all((width == "wide") == (parent == "the overview") for _, width, parent in looks)


CHECKS: dict[str, tuple[Callable[[Ran], None], str | None]] = {
    "01_watch_a_policy": (_watch_a_policy, "tiny_slides"),
    "02_new_modality": (_new_modality, None),
    "03_what_it_learned": (_what_it_learned, None),
    "04_volumes": (_volumes, "tiny_mri"),
    "05_your_own_slides": (_your_own_slides, "tiny_slides"),
    "06_zoom": (_zoom, "tiny_slides"),
}
"""What is to be true of each notebook, and the cohort that it is given."""


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_runs(path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    proves, cohort = CHECKS[path.stem]
    if cohort is not None:
        monkeypatch.setenv("GLIMPSE_NOTEBOOK_COHORT", str(request.getfixturevalue(cohort)))
    for name, value in {
        "GLIMPSE_NOTEBOOK_QUICK": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    pictures = [base64.b64decode(picture) for picture in shown]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    (folder,) = tmp_path.glob("glimpse-*")
    assert (folder / "run" / "policy.safetensors").stat().st_size > 0
    proves(Ran(text, pictures, folder))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_what_is_committed_is_small_and_tells_of_no_machine(path: Path) -> None:
    assert path.stat().st_size < LARGEST, f"{path.name} is too large to commit: shrink its pictures"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(cell.metadata == {} for cell in notebook.cells), "metadata hold times of execution"
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs, "commit it with its outputs"
    for output in outputs:
        assert output.output_type != "error" and output.get("name") != "stderr"
        pictures = {name for name in output.get("data", {}) if name.startswith("image/")}
        text = json.dumps({name: value for name, value in output.get("data", {}).items() if name not in pictures})
        text += output.get("text", "")
        assert not re.search(r"/(tmp|home|root|work|Users|var)/", text) and socket.gethostname() not in text


def test_every_notebook_has_its_check() -> None:
    assert [path.stem for path in NOTEBOOKS] == list(CHECKS)
