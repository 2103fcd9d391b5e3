"""A command that outlives what it reads: a decoder that crashes takes its process along, and another one goes on.

The command's own process only waits, and hands on what it is asked by signals. What is done, a child of it does; when
that dies with a claim in hand, the next child reads all other images first. Linux only, which tells children of the
death of their parent; elsewhere the same command has to be typed again.
"""

import atexit
import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from glimpse.atomic import started
from glimpse.predicting.claims import is_of_a_case
from glimpse.predicting.hand import claims_in
from glimpse.predicting.outputs import FAILURES, RECORDS
from glimpse.settings.terminal import printable

_ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if sys.platform == "linux" else ()
_STOPPED = 130  # the exit code after Ctrl-C
_UNWRITTEN = 120  # and where the last of what is printed cannot be written, as Python has it
_FROM_PROCESS = 0  # of a signal: a process has sent it; Ctrl-C on a terminal goes to child and parent alike
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_IN_VAIN = 10  # so many children in a row may die without finishing a case; then something else is wrong
_POLL = 1.0

_began: float | None = None


def began() -> float | None:
    """Returns when the command was typed, by the clock, in a child that replaces one that has died; else None."""
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
    start, before, vain, finished = time.time(), None, 0, -1
    heard = {one for one in _ASKED if signal.getsignal(one) != signal.SIG_IGN}  # nohup ignores SIGHUP
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {*heard, signal.SIGCHLD})
    children = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever ignores it never learns how a child has ended
    try:
        while True:
            child = _forked(work, blocked, before)
            born = started(child)
            code, asked = _end_of(child, heard)
            cases = [name for name in claims_in(folder).of_process(child, born) if is_of_a_case(name)]
            if asked:
                claims_in(folder).release(cases)
            if asked or not cases:
                vain = 0
                break
            before_it, finished = finished, _finished(folder)
            vain = vain + 1 if finished == before_it else 1
            if vain >= _IN_VAIN:
                break
            _say(f"the process that read {', '.join(cases)} has died ({_how(code)}); another one goes on, with the "
                 "other cases first.")  # fmt: skip
            before = start
    finally:
        signal.signal(signal.SIGCHLD, children)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if vain >= _IN_VAIN:
        _say(f"{vain} processes in a row have died ({_how(code)}) without finishing a case, of too little memory "
             "perhaps. The same command goes on from there.")  # fmt: skip
    _end(code, asked)


def _end(code: int, asked: Sequence[int]) -> None:
    """Ends as the child has, or as the program was asked to."""
    if code == _STOPPED or (asked and asked[-1] == signal.SIGINT and code < 0):
        raise KeyboardInterrupt
    if code < 0:
        with suppress(OSError, ValueError):  # some cannot be caught, and need not be
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        sys.exit(128 - code)  # the first process of a container does not die of it
    if code:
        sys.exit(code)


def _finished(folder: Path) -> int:
    """Returns how many cases have been read or have failed for good."""
    return sum(1 for room in (RECORDS, FAILURES) for _ in (folder / room).glob("[!.]*.json"))


def _forked(work: Callable[[], None], mask: Iterable[int], before: float | None) -> int:
    """Starts a child that works, and returns its number; the child does not return."""
    global _began
    _flush()
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
    code = 0
    try:
        work()
    except SystemExit as error:
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:
        code = _STOPPED
    except BrokenPipeError:  # nobody reads what is printed any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    with suppress(BaseException):
        atexit._run_exitfuncs()
    return code if _flush() else code or _UNWRITTEN


def _flush() -> bool:
    """Writes what was printed; tells whether that was possible."""
    written = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # as where it was closed before the program began
                stream.flush()
        except (OSError, ValueError):
            written = False
    return written


def _end_of(child: int, heard: Iterable[int]) -> tuple[int, list[int]]:
    """Waits for the end of a child, and hands on what the program is asked by signals that it heeds.

    Returns:
        Its exit code, negative if it has died of a signal, as that of `subprocess`; and the signals, in their order.
    """
    asked: list[int] = []
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), asked
        said = signal.sigtimedwait({*heard, signal.SIGCHLD}, _POLL)
        if said is None or said.si_signo == signal.SIGCHLD:
            continue
        asked.append(said.si_signo)
        if said.si_signo != signal.SIGINT or said.si_code <= _FROM_PROCESS:
            with suppress(ProcessLookupError):
                os.kill(child, said.si_signo)


def _say(text: str) -> None:
    """Writes a line below a bar that may stand there."""
    print(f"\nglimpse: {printable(text)}", file=sys.stderr, flush=True)


def _how(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"
