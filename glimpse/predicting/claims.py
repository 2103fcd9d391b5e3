"""Claims: each case is read by one process only, whichever processes share an output folder."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from glimpse.atomic import started, write_error

BEAT = 10.0  # seconds after which a claim says again that it is alive
STALE = 120.0  # seconds of silence after which a claim of another machine counts as left behind
_WAIT = 0.05
_POLL = 1.0  # seconds between two looks at claims of other machines
_DIED = ".died-"  # before a name: the file that counts who has died with a claim of it in hand


class Claims:
    """The claims of one process in a folder.

    A claim is a file that only one process can create; it holds the machine, the process and the time. It is removed in
    the end. A process that was killed leaves its claim behind, which is taken over: at once if the process was one of
    this machine, and otherwise if the claim has been silent for `STALE` seconds. Should two processes read a case
    after all, since a machine was out of reach for so long, both write the same bytes.

    Args:
        folder: where the claims lie; it is made when it is needed.
        counts_deaths: whether it is counted how many processes have died with a claim of a name in hand (`deaths`).
    """

    def __init__(self, folder: Path, counts_deaths: bool = False) -> None:
        self.folder, self.counts_deaths = folder, counts_deaths
        self._me = {
            "host": socket.gethostname(),
            "namespace": _namespace(),
            "process": os.getpid(),
            "started": started(os.getpid()),
        }

    @contextmanager
    def taken(self, name: str) -> Iterator[bool]:
        """Claims a name while the code inside runs; yields whether that was possible.

        Raises:
            WriteError: claims cannot be written.
        """
        path = self.folder / name
        if not (self._create(path) or (self._abandoned(path) and self._create(path))):
            yield False
            return
        stopped = threading.Event()
        beating = threading.Thread(target=_beat, args=(path, stopped), daemon=True)
        beating.start()
        try:
            yield True
        finally:
            stopped.set()
            with suppress(OSError):
                path.unlink()
            with suppress(OSError):
                self.folder.rmdir()  # the last one

    @contextmanager
    def awaited(self, name: str, seconds: float = 2 * STALE) -> Iterator[None]:
        """Claims a name as soon as no other process has it; what it guards takes moments.

        Raises:
            WriteError: claims cannot be written, or another process has it for longer than `seconds`.
        """
        end = time.monotonic() + seconds
        while True:
            with self.taken(name) as mine:
                if mine:
                    yield
                    return
            if time.monotonic() > end:
                holder = self.holder(name) or "another process"
                raise write_error(self.folder / name, OSError(f"{holder} does not let go of it"))
            time.sleep(_WAIT)

    def holder(self, name: str) -> str | None:
        """Returns who has claimed a name, such as "process 123 on nodea"; None if nobody has."""
        told = _told(self.folder / name)
        return None if told is None else f"process {told.get('process')} on {told.get('host')}"

    def of_process(self, process: int, started: str | None) -> list[str]:
        """Returns the names that a process of this machine has claimed, alive or not.

        Args:
            process: its number.
            started: what `started` has returned while it was alive: another process may have had the number before.
        """
        found = {path.name: _told(path) or {} for path in self.folder.glob("[!.]*")}
        mine = {"process": process, "started": started}
        return sorted(
            name
            for name, told in found.items()
            if self._is_here(told) and all(told.get(key) == value for key, value in mine.items())
        )

    def release(self, names: Iterable[str]) -> None:
        """Removes claims of a process that ends since it was asked to, so that nobody counts this as a death."""
        for name in names:
            with suppress(OSError):
                (self.folder / name).unlink()

    def all_deaths(self) -> dict[str, int]:
        """Returns the names of which processes have died, each with how many, since it was last forgotten."""
        return {path.name.removeprefix(_DIED): self.deaths(path.name.removeprefix(_DIED))
                for path in self.folder.glob(f"{_DIED}*")}  # fmt: skip

    def deaths(self, name: str) -> int:
        """Returns how many processes have died with a claim of a name in hand, since it was last forgotten."""
        told = _told(self.folder / f"{_DIED}{name}") or {}
        count = told.get("deaths")
        return count if isinstance(count, int) else 0

    def count(self, name: str, deaths: int) -> None:
        """Notes how many processes have died of a name."""
        path = self.folder / f"{_DIED}{name}"
        unfinished = path.with_name(f".{self._me['process']}-{threading.get_ident()}{path.name}")
        with suppress(OSError):
            unfinished.write_text(json.dumps({"deaths": deaths}), encoding="utf-8")
            os.replace(unfinished, path)

    def forget(self, name: str) -> None:
        """Forgets how many processes have died of a name: what they died of has been done, or given up."""
        with suppress(OSError):
            (self.folder / f"{_DIED}{name}").unlink()

    def held(self, names: Iterable[str]) -> set[str]:
        """Waits until it is known of all names whether a process keeps them that is alive, and returns those.

        Of a process of this machine it is known at once; of another one when it gives the next sign, or has been silent
        for `STALE` seconds.
        """
        found, unknown = set[str](), {name: _touched(self.folder / name) for name in names}
        end = time.monotonic() + STALE + 2 * BEAT
        while unknown and time.monotonic() < end:
            for name, before in list(unknown.items()):
                path = self.folder / name
                told = _told(path)
                if told is None or self._is_stale(path, told):
                    del unknown[name]
                elif self._is_here(told) or _touched(path) != before:
                    del unknown[name]
                    found.add(name)
            if unknown:
                time.sleep(_POLL)
        return found

    def sweep(self) -> None:
        """Removes what processes have left behind that were killed."""
        with suppress(OSError):
            for path in list(self.folder.iterdir()):
                if path.name.startswith(_DIED):
                    continue
                told = _told(path)
                if path.name.startswith("."):
                    if told is not None and self._is_stale(path, told):
                        path.unlink(missing_ok=True)
                else:
                    self._abandoned(path)
            self.folder.rmdir()

    def _create(self, path: Path) -> bool:
        text = json.dumps({**self._me, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}) + "\n"
        unfinished = path.with_name(f".{self._me['process']}-{threading.get_ident()}-{path.name}")
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                unfinished.write_text(text, encoding="utf-8")
                return _linked(unfinished, path)
            except FileNotFoundError:  # another process has just removed the folder
                continue
            except OSError as error:
                raise write_error(path, error) from error
            finally:
                with suppress(OSError):
                    unfinished.unlink()

    def _abandoned(self, path: Path) -> bool:
        """Removes a claim that a process has left behind, and returns whether there is none any more."""
        told = _told(path)
        if told is None:
            return not path.exists()
        if not self._is_stale(path, told):
            return False
        aside = path.with_name(f".stale-{self._me['host']}-{self._me['process']}-{path.name}")
        try:
            os.rename(path, aside)  # of several processes one succeeds
        except OSError:
            return False
        mistaken = _told(aside) != told  # in between, another process has taken it over, and claimed it
        if mistaken:
            with suppress(OSError):
                os.link(aside, path)
        with suppress(OSError):
            aside.unlink()
        if self.counts_deaths and not mistaken and is_of_a_case(path.name):
            self.count(path.name, self.deaths(path.name) + 1)
        return not mistaken

    def _is_stale(self, path: Path, told: dict[str, Any]) -> bool:
        if self._is_here(told):
            process = told.get("process")
            return not isinstance(process, int) or started(process) != told.get("started")
        try:
            return self._now() - path.stat().st_mtime > STALE
        except OSError:
            return False

    def _is_here(self, told: dict[str, Any]) -> bool:
        """Tells whether a claim is of a process whose number this one can look up: not one of another container."""
        own = self._me["namespace"]
        return told.get("host") == self._me["host"] and told.get("namespace", own) == own

    def _now(self) -> float:
        """Returns the time by the clock of the file system: those of machines may differ."""
        probe = self.folder / f".clock-{self._me['host']}-{self._me['process']}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            with suppress(OSError):
                probe.unlink()


def is_of_a_case(name: str) -> bool:
    """Tells whether a case is claimed, and not the tables that all processes write: names of files begin otherwise."""
    return not name.startswith("~")


def _linked(unfinished: Path, path: Path) -> bool:
    """Creates a file that must not exist, with its content at once; returns whether it did not exist."""
    try:
        os.link(unfinished, path)
        return True
    except FileExistsError:
        return False
    except PermissionError:
        pass  # a file system without links
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(unfinished.read_text(encoding="utf-8"))
        return True
    except FileExistsError:
        return False


def _beat(path: Path, stopped: threading.Event) -> None:
    while not stopped.wait(BEAT):
        with suppress(OSError):
            os.utime(path)


def _touched(path: Path) -> float | None:
    """Returns when a claim has last said that it is alive; None if it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _told(path: Path) -> dict[str, Any] | None:
    """Returns what a claim says; an empty record if it cannot be understood, None if it is not there."""
    try:
        told = json.loads(path.read_text("utf-8"))
        return told if isinstance(told, dict) else {}
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}


def _namespace() -> str:
    """Returns what tells apart processes of containers that have one number; empty where there is no such thing."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
