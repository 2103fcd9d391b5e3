"""Runs commands of the package, each in a process of its own that begins with everything imported.

To import PyTorch and all that it needs takes longer than most commands of these tests. So a server imports it once, and
each command is a fork of that server, in which `python -m` is done by `runpy`. A process that begins with nothing is
what tests of the wheel, of the documentation's commands and of processes that are killed start.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.imported"])


def ran(
    module: str, *words: str | Path, folder: Path, environment: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m <module> <words>` to its end, in a folder, and returns what it has printed.

    Args:
        module: `glimpse`, or the module of a command, such as `glimpse.train`.
        words: What follows.
        folder: The working directory.
        environment: Variables of the environment; those of this process if not given.
        timeout: In seconds.

    Raises:
        subprocess.TimeoutExpired: It takes longer, and was killed.
        AssertionError: It left processes behind, which were killed.
    """
    _serve()
    line = [sys.executable, "-m", module, *map(str, words)]
    variables = dict(os.environ if environment is None else environment)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), variables.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as said:
        printed = [Path(said, name) for name in ("stdout", "stderr")]
        process = _CONTEXT.Process(target=_run, args=(module, line[3:], str(folder), variables, *map(str, printed)))
        process.start()
        process.join(timeout)
        in_time = process.exitcode is not None
        left = _ended(process.pid)
        if not in_time:
            process.kill()  # it may not have become a group yet
            process.join()
            raise subprocess.TimeoutExpired(line, timeout)
        assert not left, f"{line} left processes behind"
        out, err = (path.read_text("utf-8") if path.exists() else "" for path in printed)
    return subprocess.CompletedProcess(line, process.exitcode, out, err)


def _ended(group: int) -> bool:
    """Ends what is left of a group of processes; returns whether anything was."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@cache
def _serve() -> None:
    """Starts the server; it finds what it imports by PYTHONPATH only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        forkserver.ensure_running()


def _run(module: str, words: list[str], folder: str, variables: dict[str, str], out: str, err: str) -> None:
    """What the fork does: it prints into files, and ends as a command does."""
    os.setsid()  # so that whatever it starts can be ended with it
    for number, path in ((0, os.devnull), (1, out), (2, err)):
        file = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process lives
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.path[:] = ["", *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep)), *filter(None, sys.path)]
    os._exit(_code(module, words))


def _code(module: str, words: list[str]) -> int:
    """Runs a module as `python -m` does, with all that follows its end; returns the exit code."""
    sys.argv = [module, *words]
    main = f"{module}.__main__" if hasattr(sys.modules.get(module), "__path__") else module
    sys.modules.pop(main, None)  # it is run, and not imported
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if ended.code is not None and not isinstance(ended.code, int):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code
