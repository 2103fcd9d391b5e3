"""docs/new_modality.md does what it says: its files, its Python code and its commands, one after another."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "new_modality.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- tested(?:: (?P<file>\S+))? -->\n```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)

QUICK = (
    "pretrain.steps=2 pretrain.batch=8 pretrain.pool=16 warm_up.glimpses_per_case=4 warm_up.batch=4 "
    "warm_up.steps=2 joint.updates=2 agent.algorithm.cases_per_rollout=2 agent.algorithm.rollouts_per_case=2 "
    "report.overview.updates=1 report.overview.cases_per_rollout=4 report.pictures=1 progress=false threads=1"
)


def run(folder: Path, *command: str) -> str:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def quickly(commands: str) -> str:
    """The commands with this Python, and training at its smallest."""
    lines = commands.replace("python -m", f"{sys.executable} -m").splitlines()
    return "\n".join(f"{line} {QUICK}" if "glimpse.train" in line else line for line in lines)


def test_the_guide_from_its_first_line_to_its_last(tmp_path: Path) -> None:
    blocks = list(BLOCK.finditer(GUIDE))
    assert [block["language"] for block in blocks] == ["python"] * 3 + ["bash"] + ["python"] * 2 + [
        "yaml",
        "yaml",
        "bash",
    ]
    for block in blocks:
        if block["file"]:
            target = tmp_path / block["file"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block["code"], encoding="utf-8")
        elif block["language"] == "python":
            run(tmp_path, sys.executable, "-c", block["code"])
        else:
            run(tmp_path, "bash", "-euo", "pipefail", "-c", quickly(block["code"]))
    assert (tmp_path / "runs" / "moles" / "evaluation-test-16.json").is_file()
    assert (tmp_path / "runs" / "dots" / "metrics.json").is_file()


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", GUIDE))
def test_its_links_lead_somewhere(link: str) -> None:
    assert (ROOT / "docs" / link).exists()
