"""A command that outlives what it reads: a decoder that crashes takes its process along, and another one goes on.

The command's own process only waits. What is done, a child of it does; when that dies with a claim in hand, the next
child reads all other images first. Linux only, which tells children of the death of their parent; elsewhere the same
command has to be typed again.
"""

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from glimpse.predicting.hand import claims_in
from glimpse.settings.terminal import printable

_ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if sys.platform == "linux" else ()
_STOPPED = 130  # the exit code after Ctrl-C
_FROM_PROCESS = 0  # of a signal: a process has sent it; a terminal sends one to child and parent alike
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_POLL = 1.0

_began: float | None = None


def began() -> float | None:
    """Returns when the command was started that this process goes on with, by the clock; None in the first process."""
    return _began


def survived(work: Callable[[], None], folder: Path) -> None:
    """Does work in a child of this process, and again for as long as children die with a claim in hand.

    How the last child ends is how this function ends: it returns, raises `SystemExit` or `KeyboardInterrupt`, or lets
    the process die of the same signal.

    Args:
        work: reads cases with claims, which counts deaths (see `Claims`), so that it ends for good some time.
        folder: the output folder.
    """
    if sys.platform != "linux":
        work()
        return
    start, before = time.time(), None
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {*_ASKED, signal.SIGCHLD})
    try:
        while True:
            child = _started(work, blocked, before)
            code = _end_of(child)
            if not _died_of_a_case(child, code, folder):
                break
            before = start
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if code == _STOPPED:
        raise KeyboardInterrupt
    if code < 0:
        with suppress(OSError, ValueError):  # some cannot be caught, and need not be
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    if code:
        sys.exit(code)


def _started(work: Callable[[], None], mask: Iterable[int], before: float | None) -> int:
    """Starts a child that works, and returns its number; the child does not return."""
    global _began
    sys.stdout.flush()
    sys.stderr.flush()
    parent, child = os.getpid(), os.fork()
    if child:
        return child
    code = 1
    try:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # it has died already
            os._exit(code)
        _began = before
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = _code_of(work)
    finally:
        os._exit(code)


def _code_of(work: Callable[[], None]) -> int:
    """Works, and returns the exit code; errors are printed."""
    import atexit

    try:
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except KeyboardInterrupt:
        code = _STOPPED
    except BaseException:
        traceback.print_exc()
        code = 1
    with suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return code


def _end_of(child: int) -> int:
    """Waits for the end of a child, hands on what the program is asked by signals, and returns its exit code.

    The code is negative if it has died of a signal, as that of `subprocess`.
    """
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        asked = signal.sigtimedwait({*_ASKED, signal.SIGCHLD}, _POLL)
        if asked is not None and asked.si_signo != signal.SIGCHLD and asked.si_code <= _FROM_PROCESS:
            with suppress(ProcessLookupError):
                os.kill(child, asked.si_signo)


def _died_of_a_case(child: int, code: int, folder: Path) -> bool:
    """Tells whether a child has left the claim of a case behind, and says so."""
    cases = [name for name in claims_in(folder).of_process(child) if not name.startswith("~")]
    if cases:
        print(printable(_told(cases, code)), file=sys.stderr, flush=True)
    return bool(cases)


def _told(cases: Sequence[str], code: int) -> str:
    try:
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        how = f"signal {-code}"
    return (
        f"\nglimpse: the process that read {', '.join(cases)} has died ({how}); another one goes on, with the other "
        "cases first."
    )
