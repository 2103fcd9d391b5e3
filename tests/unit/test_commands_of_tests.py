"""What `tests.commands` does for other tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ran


def test_a_command_begins_with_everything_imported_and_ends_as_by_python(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text(
        "import os, sys\n"
        "print(sys.argv[1:], os.getcwd(), os.environ['OWN'], {'torch._dynamo', 'glimpse.train'} <= {*sys.modules})\n"
        "print('aside', file=sys.stderr)\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    variables = {**os.environ, "OWN": "x"}
    done = ran("said", "3", "b c", folder=tmp_path, environment=variables)
    assert (done.returncode, done.stderr) == (3, "aside\n")
    assert done.stdout == f"['3', 'b c'] {tmp_path} x True\n" and "OWN" not in os.environ
    line = [sys.executable, "-m", "said", "3", "b c"]
    real = subprocess.run(line, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert (real.returncode, real.stderr, real.stdout) == (3, "aside\n", done.stdout.replace("True", "False"))
    (tmp_path / "fails.py").write_text("raise ValueError('no')")
    done = ran("fails", folder=tmp_path)
    assert done.returncode == 1 and done.stderr.endswith("ValueError: no\n")
    assert ran("glimpse.evaluate", folder=tmp_path).returncode == 2


def test_a_command_that_lasts_or_leaves_processes_behind_is_ended(tmp_path: Path) -> None:
    (tmp_path / "lasts.py").write_text("import time; time.sleep(60)")
    with pytest.raises(subprocess.TimeoutExpired):
        ran("lasts", folder=tmp_path, timeout=0.5)
    (tmp_path / "leaves.py").write_text("import subprocess; print(subprocess.Popen(['sleep', '60']).pid)")
    with pytest.raises(AssertionError, match="left processes behind"):
        ran("leaves", folder=tmp_path)
