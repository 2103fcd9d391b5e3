"""Processes that are called one order at a time, so that a slow core, or one busy with other work, is given fewer.

They are processes of their own rather than a pool of `multiprocessing`: a pool would import the user's script again,
and runs from neither a notebook nor a script without a main guard.
"""

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

# Painting makes many arrays of a megabyte or more. By default glibc returns their memory to the system each time, and
# the system fills its pages with zeros again when they are next touched. One thread per process: there is one process
# per core.
_SETTINGS = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


def function_named(name: str) -> Any:
    """Returns the function that "module:function" names."""
    module, function = name.split(":")
    return getattr(import_module(module), function)


def in_processes(name: str, orders: Sequence[Mapping[str, Any]], workers: int) -> Iterator[tuple[int, Any]]:
    """Calls a function once per order, in other processes, and yields what it returns as soon as it is there.

    Args:
        name: "module:function", importable in another process.
        orders: its keyword arguments for each call; arguments and results must be made of what JSON knows.
        workers: number of processes.

    Yields:
        The position of an order and the result of its call; orders that take less time come first.

    Raises:
        OSError: a process found the disk full.
        RuntimeError: a process failed; the message is what it wrote to its standard error.
    """
    processes = [_Process(name) for _ in range(min(workers, len(orders)))]
    idle: SimpleQueue[_Process] = SimpleQueue()
    for process in processes:
        idle.put(process)

    def call(position: int) -> tuple[int, Any]:
        process = idle.get()
        try:
            return position, process.call(orders[position])
        finally:
            idle.put(process)

    pool = ThreadPoolExecutor(max(len(processes), 1), thread_name_prefix="glimpse-paint")
    try:
        for done in as_completed([pool.submit(call, position) for position in range(len(orders))]):
            yield done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.stop()
        pool.shutdown()


class _Process:
    """One other process; it reads orders as lines of JSON from its standard input, and writes results likewise."""

    def __init__(self, name: str) -> None:
        paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | _SETTINGS | {"PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", __name__, name]
        # A pipe that nobody reads would fill up and stop the process. `stop` closes the file.
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(
            command, env=environment, text=True, bufsize=1, stdin=pipe, stdout=pipe, stderr=self._said
        )

    def call(self, order: Mapping[str, Any]) -> Any:
        """Returns the result of one order."""
        assert self._child.stdin is not None and self._child.stdout is not None, "they were asked for"
        try:
            self._child.stdin.write(json.dumps(order) + "\n")
            line = self._child.stdout.readline()
        except (BrokenPipeError, ValueError):  # it has died; or it was stopped, and its pipes are closed
            line = ""
        if not line:
            raise self._failure()
        return json.loads(line)

    def stop(self) -> None:
        """Ends the process, whatever it is doing."""
        self._child.terminate()
        self._child.communicate()
        self._said.close()

    def _failure(self) -> Exception:
        self._child.wait()
        if self._said.closed:
            return RuntimeError("The process was stopped.")
        self._said.seek(0)
        message = self._said.read().strip()
        if f"[Errno {errno.ENOSPC}]" in message:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return RuntimeError(f"Painting the embedded cohort failed in process {self._child.pid}:\n{message}")


def serve(name: str, orders: TextIO, results: TextIO) -> None:
    """Calls a function with every order, until there are no more."""
    function = function_named(name)
    for order in orders:
        results.write(json.dumps(function(**json.loads(order))) + "\n")
        results.flush()


if __name__ == "__main__":
    written, sys.stdout = sys.stdout, sys.stderr  # what a library prints must not come between the results
    serve(sys.argv[1], sys.stdin, written)
