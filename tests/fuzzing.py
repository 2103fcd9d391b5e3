"""Mutated files, and a process of its own for each attempt to read one, which is watched and bounded.

An attempt is a fork of this process: it may take five seconds of processor time and a gigabyte more memory than there
was before, and must open and write nothing but what it was given. What it may raise is documented: a `UserError`.
"""

import json
import os
import pickle
import resource
import select
import signal
import struct
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import glimpse
from glimpse.errors import UserError

EXAMPLES = int(os.environ.get("GLIMPSE_FUZZ_EXAMPLES", "60"))
"""How many mutations all tests of fuzzing try together; 2,000 take some minutes."""

SECONDS, GROWTH = 5, 2**30
_WALL = 60.0  # seconds after which an attempt is given up that waits without computing
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}
_NEVER = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "subprocess.Popen"}
_INSTALLED = [
    str(Path(place).resolve())
    for place in (
        sys.prefix,
        sys.base_prefix,
        sysconfig.get_path("stdlib"),
        *glimpse.__path__,
        Path(__file__).parents[1],
    )
] + ["/usr", "/etc", "/proc", "/sys", "/dev", "/lib", "/opt"]


@dataclass(frozen=True)
class Outcome:
    """How an attempt has ended.

    Attributes:
        fault: what must not happen; "" if nothing did.
        error: the name of the documented error that was raised; "" if there was none.
        where: the place in the code to which a fault belongs.
        said: the message of the error.
    """

    fault: str
    error: str = ""
    where: str = ""
    said: str = ""


class _Watch:
    """Notes what an attempt must not do. An audit hook cannot be taken away, so one watches all of them."""

    def __init__(self) -> None:
        self.roots: list[str] = []
        self.reads: list[str] = []
        self.seen: list[str] = []
        self.spawns = False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.roots:
            return
        if event in _NEVER and not (self.spawns and event == "subprocess.Popen"):
            self.seen.append(f"{event} {str(arguments[:2])[:200]}")
        elif event in _CHANGES:
            self._check(event, arguments[0], self.roots)
        elif event == "open" and isinstance(arguments[0], str | bytes):
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            mode = arguments[1] or ""
            writes = bool(flags & _WRITES) or any(sign in mode for sign in "wax+")
            self._check("writes" if writes else "reads", arguments[0], self.roots if writes else self.reads)

    def _check(self, event: str, path: Any, roots: Sequence[str]) -> None:
        with suppress(TypeError, ValueError):
            text = os.path.realpath(os.fsdecode(path))
            if text != "/dev/null" and not any(text == root or text.startswith(f"{root}/") for root in roots):
                self.seen.append(f"{event} {text}")


_watch = _Watch()


def attempt(work: Callable[[], Any], *folders: Path, reads: Sequence[Path] = (), spawns: bool = False) -> Outcome:
    """Does work in a process of its own, and returns how it has ended.

    Args:
        work: what is attempted.
        folders: where it may read and write, besides the cache of this run and the folder for temporary files.
        reads: where it may read, too.
        spawns: whether it may start processes.
    """
    _watch.spawns = spawns
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        _in_child(work, [*folders], [*reads], theirs)
    os.close(theirs)
    told, until = b"", time.monotonic() + _WALL
    with open(ours, "rb", buffering=0) as pipe:
        while True:
            if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return Outcome(f"it waits for more than {_WALL:g} seconds")
            part = pipe.read(1 << 16)
            if not part:
                break
            told += part
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGXCPU:
        return Outcome(f"it computes for more than {SECONDS} seconds")
    if status or not told:
        return Outcome(f"its process ended with {status}")
    return Outcome(**json.loads(told))


def _in_child(work: Callable[[], Any], folders: list[Path], reads: list[Path], pipe: int) -> NoReturn:
    code = 1
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(used.ru_utime + used.ru_stime) + 1
        resource.setrlimit(resource.RLIMIT_AS, (size + GROWTH,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (spent + SECONDS,) * 2)
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        torch.set_num_threads(1)  # a fork has none of OpenMP's threads, and would wait for them
        outcome = _done(work, folders, reads)
        os.write(pipe, json.dumps(vars(outcome)).encode())
        code = 0
    finally:
        os._exit(code)


def _done(work: Callable[[], Any], folders: list[Path], reads: list[Path]) -> Outcome:
    cache = [os.environ[name] for name in ("GLIMPSE_CACHE",) if name in os.environ]
    roots = [os.path.realpath(one) for one in (*folders, *cache, tempfile.gettempdir())]
    _watch.reads = [*roots, *(os.path.realpath(one) for one in reads), *_INSTALLED]
    _watch.seen, _watch.roots = [], roots
    outcome = Outcome("")
    try:
        work()
    except UserError as error:
        outcome = Outcome("", type(error).__name__, said=str(error)[:2000])
    except (Exception, SystemExit) as error:
        where = [one for one in traceback.extract_tb(error.__traceback__) if "/glimpse/" in one.filename or "/envs/" in
                 one.filename or f"{os.sep}tests{os.sep}" not in one.filename]  # fmt: skip
        inner = [f"{Path(one.filename).name}:{one.lineno}" for one in where][-6:]
        outcome = Outcome(f"{type(error).__name__}: {str(error)[:300]}", where=" > ".join(inner))
    _watch.roots = []
    if _watch.seen and not outcome.fault:
        outcome = Outcome(f"it {_watch.seen[0]}", where="; ".join(_watch.seen[1:4]))
    return outcome


# ---------------------------------------------------------------------------------------------- mutations
Mutation = tuple[str, float, int]
"""What is done, where (a share of the hot bytes, or of all), and with which value."""

_VALUES = [0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40]
_WAYS = ["hot2", "hot4", "hot4", "hot8", "hotbyte", "byte", "flip", "cut", "drop", "copy", "fill", "float"]

mutations = st.lists(
    st.tuples(
        st.sampled_from(_WAYS), st.floats(0, 1, exclude_max=True), st.sampled_from(_VALUES) | st.integers(0, 2**32 - 1)
    ),
    min_size=1,
    max_size=4,
)


def mutated(content: bytes, hot: Sequence[int], changes: Sequence[Mutation]) -> bytes:
    """Returns content with some changes.

    Args:
        content: the bytes of a file.
        hot: positions at which a change does more than elsewhere, such as those of the fields of a header.
        changes: what is done.
    """
    data = bytearray(content)
    for way, share, value in changes:
        if not data:
            break
        anywhere = int(share * len(data))
        place = min(hot[int(share * len(hot))], len(data) - 1) if hot else anywhere
        if way.startswith("hot") and way != "hotbyte":
            width = int(way[3:])
            data[place : place + width] = (value % 256**width).to_bytes(width, "little" if value % 3 else "big")
        elif way == "float":
            number = [0.0, -1.0, 1e30, float("nan"), float("inf"), 1e-30][value % 6]
            data[place : place + 4] = struct.pack("<f", number)
        elif way == "hotbyte":
            data[place] = value % 256
        elif way == "byte":
            data[anywhere] = value % 256
        elif way == "flip":
            data[place] ^= 1 << value % 8
        elif way == "cut":
            del data[anywhere:]
        elif way == "drop":
            del data[place : place + 1 + value % 64]
        elif way == "copy":
            data[place:place] = data[anywhere : anywhere + 1 + value % 256]
        else:
            data[anywhere : anywhere + 1 + value % 512] = bytes([value % 256]) * (1 + value % 512)
    return bytes(data)


_TOKENS = [
    "", "0", "-1", "1e999", "nan", "null", "true", "[]", "{}", "../..", "/", "a" * 5000, "\x00", "\x1b[31m", "=1+1",
    "é", "${oc.env:HOME}", "${nothing}", "!!python/object/apply:os.getcwd []", "*a", "&a [*a]", '"', "'", "\n", ";",
    "\t", ",", "99999999999999999999", "0.5", "os.getcwd", "builtins.exec", "posix.system", "train", "\ufeff", "\r",
    "1" * 4400,
]  # fmt: skip

texts = st.lists(
    st.tuples(
        st.sampled_from(["put", "value", "drop", "twice", "byte"]),
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(_TOKENS),
    ),
    min_size=1,
    max_size=4,
)


def mutated_text(content: str, changes: Sequence[tuple[str, float, str]], separators: str = ",\n") -> bytes:
    """Returns a text of cells, in which some are put, dropped, doubled or replaced by others, as bytes."""
    cells = [""]
    for sign in content:
        if sign in separators:
            cells += [sign, ""]
        else:
            cells[-1] += sign
    stray = False
    for way, share, token in changes:
        place = int(share * len(cells))
        if way == "put":
            cells.insert(place, token)
        elif way == "value":
            cells[place if cells[place] not in separators else max(place - 1, 0)] = token
        elif way == "drop":
            del cells[place : place + 1 + len(token) % 3]
        elif way == "twice":
            cells[place:place] = cells[place : place + 3]
        else:
            stray = True
        cells = cells or [""]
    return "".join(cells).encode("utf-8", "surrogatepass") + (b"\xff\xfe\x81" if stray else b"")


class Exploit:
    """What runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


PICKLE = pickle.dumps(Exploit())


@dataclass(frozen=True)
class Explored:
    """What has come of all examples.

    Attributes:
        count: how many were tried.
        read: how many of them were read to their end, without an error.
        faults: each kind of fault, with how often it was found, where, and one example.
    """

    count: int
    read: int
    faults: list[str]

    @property
    def deep(self) -> bool:
        """Whether mutations try anything behind the first check; few examples may all end there."""
        return self.read > 0 or self.count < 50


def explored(share: float, strategy: st.SearchStrategy[Any], tried: Callable[[Any], Outcome]) -> Explored:
    """Tries a share of all examples, and returns what has come of them; a fault is printed as soon as it is found."""
    faults: dict[tuple[str, str], list[Any]] = {}
    outcomes: list[Outcome] = []

    @settings(
        max_examples=max(2, round(share * EXAMPLES)),
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(example: Any) -> None:
        outcome = tried(example)
        outcomes.append(outcome)
        if outcome.fault:
            found = faults.setdefault((outcome.fault[:70], outcome.where), [])
            found.append((example, outcome.fault))
            if len(found) == 1:
                print(f"fault: {outcome.fault}\n   at {outcome.where}\n   such as {example!r}"[:1500], flush=True)

    run()
    told = [
        f"{len(found)} x {found[0][1]}\n   at {where}\n   such as {found[0][0]!r}"[:1500]
        for (_, where), found in faults.items()
    ]
    return Explored(len(outcomes), sum(not outcome.fault and not outcome.error for outcome in outcomes), told)
