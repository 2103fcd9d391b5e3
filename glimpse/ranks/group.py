"""Which processes train together, and what they do one after another; a process by itself is the only rank.

`glimpse.ranks.sharing` says how they share the work of a step. PyTorch is imported where it is needed, because
importing it takes long.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from glimpse.errors import SettingsError, UserError
from glimpse.ranks.watching import Watch

Result = TypeVar("Result")

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets
_JOINING = timedelta(minutes=10)  # for others that begin
_PATIENCE = timedelta(days=2)  # for others that read or write; those that have ended are noticed by `Watch`
_CONNECTIONS = re.compile("gloo|nccl|connection|socket|broken pipe|timed out|timeout", re.IGNORECASE)


class RankError(UserError, RuntimeError):
    """Another of the processes that train together has ended."""


@dataclass
class Group:
    """The processes that train together, as one of them sees them.

    Attributes:
        rank: the number of this process, from 0 on; the first one alone writes files and shows progress.
        size: how many there are.
        local: the number of this process on its machine.
        folder: the run folder, once it is known, for messages.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    folder: str = "<run folder>"

    def lost(self) -> str:
        """Returns what to say where another process has ended."""
        return (
            f"process {self.rank} of {self.size} stops, because another one has ended; what that one wrote says why. "
            f"The run goes on from its last checkpoint, with any number of processes: torchrun "
            f"--nproc-per-node={self.size} -m glimpse.train resume={self.folder}"
        )


_ALONE = Group()
_joined: list[Group] = []


def ranks() -> Group:
    """Returns the group of this process; a group of one outside of `taking_part`."""
    return _joined[-1] if _joined else _ALONE


def first() -> bool:
    """Returns whether this process is the one that writes files and shows progress."""
    return ranks().rank == 0


@contextmanager
def taking_part(device: Any = "cpu") -> Iterator[Group]:
    """Joins the other processes that torchrun has started, inside; without torchrun, nothing is done.

    Messages between processes go through gloo; those about tensors on GPUs go through NCCL. On a GPU, each process
    takes the one that has its number on the machine.

    Args:
        device: where is computed: "cpu" or "cuda".

    Raises:
        SettingsError: there are fewer GPUs than processes, the device is one GPU for all of them, the variables that
            torchrun sets are impossible, or the others did not come.
    """
    if any(name not in os.environ for name in _NEEDED) or _numbers()[1] == 1:
        yield ranks()
        return
    import torch.distributed as dist

    group = Group(*_numbers()[:3])
    on_gpu = str(device).startswith("cuda")
    if on_gpu:
        _take_gpu(str(device), group)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    if "TORCHELASTIC_RUN_ID" not in os.environ and group.rank == 0:  # torchrun sets it
        print(
            f"glimpse: waiting for {group.size - 1} other processes, since RANK and WORLD_SIZE are set. To train with "
            "one process, unset them.",
            file=sys.stderr,
            flush=True,
        )
    try:
        joint, rank, size = next(dist.rendezvous("env://", timeout=_JOINING))
    except (RuntimeError, ValueError) as error:  # of the address, or because somebody is missing
        raise SettingsError(
            f"RANK={group.rank} WORLD_SIZE={group.size} MASTER_ADDR={os.environ['MASTER_ADDR']}: the {group.size} "
            f"processes did not find each other ({error}). Start torchrun, or unset RANK and WORLD_SIZE."
        ) from error
    joint.set_timeout(_PATIENCE)
    dist.init_process_group(backend, store=joint, rank=rank, world_size=size, timeout=_PATIENCE)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=30))
    _joined.append(group)
    with Watch(store, group.rank, group.size, lambda: f"glimpse: {group.lost()}"):
        try:
            yield group
            together(dist.barrier)  # the one that keeps the store must not leave before the others
        finally:
            _joined.pop()
    dist.destroy_process_group()


def _numbers() -> tuple[int, int, int, int]:
    """Returns the rank, how many there are, the number on this machine, and the port, from torchrun's variables."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    given = [os.environ.get(name, "0") for name in names]
    said = " ".join(f"{name}={value}" for name, value in zip(names, given, strict=True))
    try:
        rank, size, local, port = (int(value) for value in given)
    except ValueError as error:
        raise SettingsError(
            f"{said}: expected whole numbers. Start torchrun, which sets them, or unset them."
        ) from error
    if size < 1 or not (0 <= rank < size and 0 <= local < size and 0 <= port < 1 << 16):
        raise SettingsError(
            f"{said}: expected RANK and LOCAL_RANK from 0 to WORLD_SIZE - 1, and a port below 65536. Start torchrun, "
            "which sets them, or unset them."
        )
    return rank, size, local, port


def _take_gpu(device: str, group: Group) -> None:
    import torch

    count = torch.cuda.device_count()
    if device != "cuda":
        raise SettingsError(f"device={device}: several processes cannot share one GPU. Type device=cuda.")
    if group.local >= count:
        raise SettingsError(
            f"device=cuda: process {group.local} of this machine has no GPU of its own, there are {count}. Start "
            f"torchrun with --nproc-per-node={max(1, count)}, or type device=cpu."
        )
    torch.cuda.set_device(group.local)


def together(communicate: Callable[[], Result]) -> Result:
    """Calls what all processes have to call at the same point.

    Raises:
        RankError: another process has ended. Other errors, such as too little memory on a GPU, stay what they are.
    """
    try:
        return communicate()
    except RuntimeError as error:
        if not _of_connections(error):
            raise
        raise RankError(ranks().lost()) from error


def _of_connections(error: RuntimeError) -> bool:
    """Returns whether an error is one that gloo or NCCL raise when a connection is closed."""
    import torch.distributed as dist

    if "out of memory" in str(error):  # NCCL says so, too
        return False
    plain = type(error) is RuntimeError and _CONNECTIONS.search(str(error)) is not None  # gloo's have no type
    return plain or isinstance(error, dist.DistError)


def once(write: Callable[[], object]) -> None:
    """Lets the first process write, and the others wait until it has written."""
    with in_turn(first()):
        if first():
            write()


@contextmanager
def in_turn(early: bool) -> Iterator[None]:
    """Runs what is inside in some processes before the others: in those that are `early`."""
    if ranks().size > 1 and not early:
        _wait()
    yield
    if ranks().size > 1 and early:
        _wait()


def machine_by_machine() -> Any:
    """Runs what is inside in one process of each machine before its others, such as what fills a cache on disk."""
    return in_turn(ranks().local == 0)


def _wait() -> None:
    import torch.distributed as dist

    together(dist.barrier)


def agreed(value: Result) -> Result:
    """Returns the first process's value, in all processes; it is pickled."""
    if ranks().size == 1:
        return value
    import torch.distributed as dist

    values = [value]
    together(lambda: dist.broadcast_object_list(values, 0))
    return values[0]


def from_first(make: Callable[[], Result]) -> Result:
    """Returns what the first process makes, in all processes; it is pickled.

    What is read from a disk is read in this way if all have to do the same with it: machines that share the disk may
    see different files for a while.

    Raises:
        UserError: the first process has met with it; all of them raise it.
    """
    if ranks().size == 1:
        return make()
    made: Any = None
    error: UserError | None = None
    if first():
        try:
            made = make()
        except UserError as met:
            error = met
    made, error = agreed((made, error))
    if error is not None:
        raise error
    return made


def largest(number: int) -> int:
    """Returns the largest of the numbers that the processes give."""
    if ranks().size == 1:
        return number
    import torch
    import torch.distributed as dist

    found = torch.tensor(number)
    together(lambda: dist.all_reduce(found, dist.ReduceOp.MAX))
    return int(found)


def everyones(values: list[Result]) -> list[Result]:
    """Returns the values of the first process, then those of the second, and so on; they are pickled."""
    if ranks().size == 1:
        return values
    import torch.distributed as dist

    parts: list[Any] = [None] * ranks().size
    together(lambda: dist.all_gather_object(parts, values))
    return [value for part in parts for value in part]


@contextmanager
def alike() -> Iterator[None]:
    """Lets the first process of a machine tell a mistake that all of its processes find, and the others wait for it."""
    try:
        yield
    except UserError:
        if ranks().local:
            Watch.pause()
            sys.exit(2)
        raise
