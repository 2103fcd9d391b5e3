"""Processes that look at images, one at a time each; one that hangs or dies takes no other image along.

They are processes of their own rather than a pool of `multiprocessing`, which would import the user's script again and
waits for ever for a child that was killed.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, TextIO

from glimpse.inspecting.findings import KILLED, SLOW, Finding

_SETTINGS = {"OMP_NUM_THREADS": "1", "GLIMPSE_OPENSLIDE_CACHE_MB": "64", "GLIMPSE_IMAGE_CACHE_MB": "64"}
_READY = "ready\n"  # what a process writes once it can look at images
_START = 120.0  # seconds that a process may take until then, which are no time of reading
_SAID = 300  # characters of what a process wrote last before it died
_GB = 2**30

Order = Mapping[str, Any]


def looked_at(
    orders: Sequence[Order], workers: int, timeout: float, gigabytes: float, name: str = ""
) -> Iterator[tuple[int, dict[str, Any] | Finding]]:
    """Looks at images in other processes.

    Args:
        orders: of each image, the arguments of `glimpse.inspecting.looking.look`.
        workers: number of processes.
        timeout: seconds after which a process that still looks at one image is ended.
        gigabytes: memory that each process may take.
        name: "module:function" to call instead.

    Yields:
        The position of an order, and what looking returned, or why it did not; in the order in which they end.
    """
    idle: SimpleQueue[_Worker] = SimpleQueue()
    made = [_Worker(gigabytes, name) for _ in range(max(1, min(workers, len(orders))))]
    for worker in made:
        idle.put(worker)

    def call(position: int) -> tuple[int, dict[str, Any] | Finding]:
        worker = idle.get()
        try:
            return position, worker.call(orders[position], timeout)
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(len(made), thread_name_prefix="glimpse-check")
    try:
        for done in as_completed([pool.submit(call, position) for position in range(len(orders))]):
            yield done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in made:
            worker.stop()
        pool.shutdown()


def fair_workers() -> int:
    """Returns how many processes suit this machine: one for each core that this one may use."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def fair_memory(workers: int) -> float:
    """Returns the gigabytes of memory that each of some processes may take, at least 1 and at most 16.

    Otherwise it is an equal share of three quarters of the machine's.
    """
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB
    except (AttributeError, ValueError, OSError):
        whole = 8.0
    return min(max(1.0, 0.75 * whole / workers), 16.0)


class _Worker:
    """A process that is started when it is needed, and started again after its death."""

    def __init__(self, gigabytes: float, name: str) -> None:
        self._arguments = [str(gigabytes), *filter(None, [name])]
        self._child: subprocess.Popen[str] | None = None
        self._said: IO[str] | None = None
        self._stopped, self._ready, self._lock = False, False, threading.Lock()

    def call(self, order: Order, timeout: float) -> dict[str, Any] | Finding:
        """Returns what the process answers to an order; a finding where it dies or takes too long."""
        if self._child is not None and self._child.poll() is not None:  # it has died since its last answer
            self._end()
        child = self._started()
        if child is None:
            return Finding(KILLED, "the check was stopped")
        what, seconds, late, line = "starting to read", _START, False, ""
        if not self._ready:
            line, late = _answer(child, None, _START)
            self._ready = line == _READY
        if self._ready and not late:
            what, seconds = "reading", timeout
            line, late = _answer(child, order, timeout)
            if line.endswith("\n"):
                if late:  # it has answered in the last moment, and was ended all the same
                    self._end()
                return dict(json.loads(line))
        code, said = self._end()
        if late:
            return Finding(SLOW, f"{what} took longer than {seconds:g} seconds, and was ended")
        return Finding(KILLED, _how_it_ended(code, said))

    def _started(self) -> "subprocess.Popen[str] | None":
        with self._lock:
            if self._child is None and not self._stopped:
                paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
                # A pipe that nobody reads would fill up and stop the process.
                self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
                self._child = subprocess.Popen(
                    [sys.executable, "-m", __name__, *self._arguments],
                    env={**_SETTINGS, **os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                    text=True,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._said,
                )
            return self._child

    def _end(self) -> tuple[int, str]:
        """Ends the process; returns its exit code, and the last line that it wrote as an error."""
        with self._lock:
            child, self._child, said, self._said = self._child, None, self._said, None
            self._ready = False
        if child is None or said is None:
            return 0, ""
        if child.poll() is None and child.stdout is not None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.5)  # where its pipe broke it is about to end, with a code of its own
        child.kill()
        child.communicate()
        with said:
            said.seek(0)
            lines = said.read().strip().splitlines()
        return child.returncode, lines[-1] if lines else ""

    def stop(self) -> None:
        """Ends the process, whatever it is doing, for good."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.kill()
        self._end()


def _answer(child: "subprocess.Popen[str]", order: Order | None, seconds: float) -> tuple[str, bool]:
    """Returns the next line that a process writes, after an order if there is one, and whether it took too long.

    The line is empty where the process has died, or was stopped.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        assert child.stdin is not None and child.stdout is not None, "both are pipes"
        if order is not None:
            child.stdin.write(json.dumps(order) + "\n")
            child.stdin.flush()
        line = child.stdout.readline()
    except (OSError, ValueError):  # it has died; or it was stopped, and its pipes are closed
        line = ""
    finally:
        timer.cancel()
    return line, late.is_set()


def _how_it_ended(code: int, said: str) -> str:
    try:
        how = f"signal {-code}, {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:
        how = f"signal {-code}"
    return f"the process that read it ended ({how})" + (f": {said[-_SAID:]}" if said else "")


# ---------------------------------------------------------------------------------------------- in the other process
def limit_memory(gigabytes: float) -> None:
    """Bounds what this process may allocate, so that a file which lies about its size cannot take all memory.

    Files that are mapped do not count. Where the system knows no such bound, there is none.
    """
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * _GB),) * 2)
    except (ImportError, ValueError, OSError):
        pass


def _serve(function: Callable[..., dict[str, Any]], orders: TextIO, results: TextIO) -> None:
    results.write(_READY)
    results.flush()
    for order in orders:
        results.write(json.dumps(function(**json.loads(order))) + "\n")
        results.flush()


if __name__ == "__main__":
    written = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print, those written in C, too, must not come between the results
    sys.stdout = sys.stderr
    limit_memory(float(sys.argv[1]))
    _module, _, _name = (sys.argv[2] if len(sys.argv) > 2 else "glimpse.inspecting.looking:look").partition(":")
    _serve(getattr(import_module(_module), _name), sys.stdin, written)
