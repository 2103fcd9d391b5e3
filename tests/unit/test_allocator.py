"""Freed memory stays with the process; measured in a process of its own, since it is for all of one."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from glimpse.predicting import actors, jobs
from glimpse.predicting.order import Order
from glimpse.predicting.outputs import Form

SCRIPT = """
import resource, sys
import torch
from glimpse.settings.allocator import keep_freed_memory
assert keep_freed_memory() or sys.argv[1] == "0"
torch.set_num_threads(1)
for _ in range(20):  # the heap grows until a freed block fits the next
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(1 << 24)  # 64 MiB, 16384 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be told")
def test_large_tensors_are_made_in_memory_that_is_there_already() -> None:
    def faults(script: str) -> int:
        ended = subprocess.run([sys.executable, "-c", script, "1"], capture_output=True, text=True, check=True)
        return int(ended.stdout)

    assert faults(SCRIPT) < 16384
    assert faults(SCRIPT.replace("assert keep_freed_memory()", "assert True")) > 10 * 16384


@pytest.mark.parametrize(
    ("command", "words"),
    [("train", ["threads=-1"]), ("evaluate", []), ("predict", []), ("cross_validate", ["folds=1"])],
)
def test_commands_that_compute_keep_freed_memory(
    command: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, told = import_module(f"glimpse.{command}"), list[bool]()
    monkeypatch.setattr(module, "keep_freed_memory", lambda: told.append(True))
    monkeypatch.setattr(sys, "argv", [command, *words])
    with pytest.raises(SystemExit, match="2"):
        module.main()
    assert told == [True]


@pytest.mark.parametrize("engine", [actors, jobs])
def test_processes_of_engines_keep_freed_memory(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def hand(order: Order) -> None:
        raise InterruptedError

    told = list[bool]()
    monkeypatch.setattr(Order, "hand", hand)
    monkeypatch.setattr(engine, "keep_freed_memory", lambda: told.append(True))
    order = Order(("run",), ("slides",), "predictions", None, Form(), "cpu", None)
    with pytest.raises(InterruptedError):
        actors._Reader(order) if engine is actors else jobs._Share(order, Path(), (1, 1), 0.0)()
    assert told == [True]
