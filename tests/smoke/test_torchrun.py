"""A training by torchrun: a process that is killed ends the other one, and the run goes on with another number."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from glimpse.runs.checkpoints import Checkpoint, CheckpointError

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
SMALL = ["report.readers=[random]", "report.pictures=1", "report.pages=3", "progress=false"]


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    told = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    return subprocess.Popen(command, cwd=folder, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def reached(run: Path) -> int:
    """The updates of the joint stage that the last checkpoint has."""
    try:
        return int(Checkpoint.load(run / "checkpoints" / "last.safetensors").meta.get("updates", 0))
    except CheckpointError:
        return 0


def test_a_killed_rank_ends_the_other_and_the_run_goes_on_with_one(tiny_slides: Path, tmp_path: Path) -> None:
    options = ["experiment=smoke", f"env.cohort.path={tiny_slides}", "joint.updates=5000", "joint.validate_every=0"]
    training = started(
        tmp_path, *TORCHRUN, "-m", "glimpse.train", *options, *SMALL, "run=run", "save_seconds=0", "pretrain.steps=0"
    )
    try:
        until = time.monotonic() + 120
        while reached(tmp_path / "run") < 3:
            assert training.poll() is None and time.monotonic() < until, training.communicate()[1]
            time.sleep(0.1)
        ranks = [int(one) for one in Path(f"/proc/{training.pid}/task/{training.pid}/children").read_text().split()]
        second = next(one for one in ranks if b"\0RANK=1\0" in Path(f"/proc/{one}/environ").read_bytes())
        os.kill(second, signal.SIGKILL)
        killed = time.monotonic()
        said = training.communicate(timeout=60)[1]
        assert time.monotonic() - killed < 60
        assert training.returncode != 0
        assert not any(Path(f"/proc/{one}").exists() for one in ranks)
    finally:
        training.kill()
    assert "process 0 of 2 stops, because another one has ended" in said
    assert "torchrun --nproc-per-node=2 -m glimpse.train resume=run" in said
    done = reached(tmp_path / "run")
    going_on = started(tmp_path, "-m", "glimpse.train", "resume=run", f"joint.updates={done + 2}", *SMALL)
    said = going_on.communicate(timeout=120)[1]
    assert going_on.returncode == 0, said
    assert reached(tmp_path / "run") == done + 2
    assert set(json.loads((tmp_path / "run" / "metrics.json").read_text())["readers"]) == {"ppo", "random"}
