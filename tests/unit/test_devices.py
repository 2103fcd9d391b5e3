"""Copies to and from a device, and what is read ahead while it computes."""

import threading
from typing import Any

import numpy as np
import pytest
import torch

from glimpse.agents import rollout
from glimpse.envs import GlimpseVecEnv
from glimpse.networks.devices import arrived, columns_on_host, leaving, on_host, to_device
from glimpse.networks.records import Decision
from tests.small_images import lanes

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_on_the_cpu_nothing_is_copied() -> None:
    values = torch.arange(6.0)
    same = (to_device(values, CPU), on_host(values)[0], leaving(values))
    assert [one.data_ptr() for one in same] == [values.data_ptr()] * 3
    arrived(CPU)
    decisions = [Decision(*(torch.full((2,), float(i)) for i in range(8))) for _ in range(3)]
    columns = columns_on_host(decisions, "cell", "value")
    assert {name: column.tolist() for name, column in columns.items()} == {
        "cell": [[1.0] * 3] * 2,
        "value": [[6.0] * 3] * 2,
    }


@needs_cuda
def test_copies_to_a_gpu_are_whole_when_they_have_arrived() -> None:
    device, values = torch.device("cuda"), torch.randn(1 << 20)
    there = to_device(values, device)
    back, double = on_host(there, 2 * there)
    later = leaving(there + 1)
    arrived(device)
    assert back.is_pinned() and torch.equal(back, values)
    assert torch.equal(double, 2 * values) and torch.equal(later, values + 1)


def test_the_first_views_of_the_next_cases_are_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    env = lanes(2)
    case, names = env.lanes[0].cases[1], []
    views, done = env.lanes[0].views, threading.Event()
    inner = type(views).foreground

    def noted(self: Any, source: Any) -> np.ndarray:
        names.append((source, threading.current_thread().name.startswith("glimpse-read")))
        found = inner(self, source)
        done.set()
        return found

    monkeypatch.setattr(type(views), "foreground", noted)
    rollout.read_ahead(env, CPU, [0, 1], slice(1, 2))
    assert not names  # a CPU that computes has no cores to spare
    rollout.read_ahead(env, torch.device("cuda"), [0, 1], slice(1, 2))
    assert done.wait(10) and names == [(case.source, True)]
    env.close()


def test_what_cannot_be_read_ahead_says_so_when_its_episode_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    env: GlimpseVecEnv = lanes(1)

    def broken(self: Any, source: Any) -> np.ndarray:
        raise OSError("broken")

    monkeypatch.setattr(type(env.lanes[0].views), "foreground", broken)
    env.read_ahead([0])
    with pytest.raises(OSError, match="broken"):
        env.reset()
    env.close()
