"""Checkpoints: whole or refused, also while a run puts new ones in their place."""

import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from glimpse.runs.checkpoints import Checkpoint, CheckpointError


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved = Checkpoint(meta={"stage": "joint", "updates": 3})
    saved.add_module("net", nn.Linear(3, 2))
    saved.save(tmp_path / "last.safetensors")
    loaded, net = Checkpoint.load(tmp_path / "last.safetensors"), nn.Linear(3, 2)
    assert loaded.meta == saved.meta
    loaded.restore_module("net", net)
    assert torch.equal(net.weight, saved.tensors["net/weight"])
    assert not list(tmp_path.glob(".*"))


def test_a_file_can_be_read_while_others_take_its_place(tmp_path: Path) -> None:
    path, stop = tmp_path / "last.safetensors", threading.Event()
    small, large = (Checkpoint({"x": torch.ones(count)}, {"count": count}) for count in (10_000, 90_000))
    small.save(path)

    def replace() -> None:
        while not stop.is_set():
            large.save(path)
            small.save(path)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(200):
            loaded = Checkpoint.load(path)
            assert len(loaded.tensors["x"]) == loaded.meta["count"]
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("kept", [0, 4, 40, -4])
def test_a_file_cut_short_is_refused_by_name(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    Checkpoint({"x": torch.ones(100)}, {"updates": 1}).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"last\.safetensors: not a complete"):
        Checkpoint.load(path)


def test_another_network_is_refused(tmp_path: Path) -> None:
    saved = Checkpoint()
    saved.add_module("net", nn.Linear(3, 2))
    with pytest.raises(CheckpointError, match="The saved net does not fit"):
        saved.restore_module("net", nn.Linear(4, 2))


def drawn() -> list[float]:
    return [torch.rand(3).tolist(), torch.randn(1).item(), *np.random.random(3), np.random.normal(), random.gauss(0, 1)]


def test_all_global_generators_go_on_where_they_were(tmp_path: Path) -> None:
    drawn()  # so that numpy and Python hold a second normal number back
    saved = Checkpoint()
    saved.add_global_generators()
    saved.save(tmp_path / "last.safetensors")
    expected = drawn()
    drawn()
    Checkpoint.load(tmp_path / "last.safetensors").restore_global_generators()
    assert drawn() == expected


def test_generators_of_all_gpus_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    states = [torch.full((16,), 3, dtype=torch.uint8), torch.full((16,), 5, dtype=torch.uint8)]
    restored = {}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)  # one more than there was
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, index: restored.update({index: state.tolist()}))
    saved = Checkpoint()
    saved.add_global_generators()
    saved.save(tmp_path / "last.safetensors")
    Checkpoint.load(tmp_path / "last.safetensors").restore_global_generators()
    assert restored == {0: [3] * 16, 1: [5] * 16}


class Gpus:
    """The generators of some GPUs, each a number that counts what was drawn; `torch.cuda` as one process sees it."""

    def __init__(self, patch: pytest.MonkeyPatch, count: int) -> None:
        self.drawn = [0] * count
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: count)
        patch.setattr(torch.cuda, "get_rng_state_all", lambda: [self.state(index) for index in range(count)])
        patch.setattr(torch.cuda, "get_rng_state", self.state)
        patch.setattr(torch.cuda, "set_rng_state", self.take)

    def state(self, device: int | torch.device) -> torch.Tensor:
        return torch.full((16,), self.drawn[self._index(device)], dtype=torch.uint8)

    def take(self, state: torch.Tensor, device: int | torch.device) -> None:
        self.drawn[self._index(device)] = int(state[0])

    @staticmethod
    def _index(device: int | torch.device) -> int:
        return device if isinstance(device, int) else device.index or 0


@pytest.mark.parametrize("saved_on", [0, 1])
@pytest.mark.parametrize("now_on", [0, 1, 2])
def test_a_process_goes_on_with_its_random_numbers_on_whichever_gpu_it_has(
    saved_on: int, now_on: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first rank saves what it has drawn, and each rank goes on from there; its other GPU was idle."""
    before, saved = Gpus(monkeypatch, 2), Checkpoint()
    before.drawn[saved_on] = 7
    saved.add_global_generators(torch.device("cuda", saved_on))
    saved.save(tmp_path / "last.safetensors")
    after = Gpus(monkeypatch, 3)
    Checkpoint.load(tmp_path / "last.safetensors").restore_global_generators(torch.device("cuda", now_on))
    assert after.drawn[now_on] == 7
    on_cpu = Gpus(monkeypatch, 3)
    Checkpoint.load(tmp_path / "last.safetensors").restore_global_generators(torch.device("cpu"))
    assert [number for number in on_cpu.drawn if number] == [7]  # that GPU's state is kept for whoever uses it


def test_others_may_read_what_they_may_read_of_other_files(tmp_path: Path) -> None:
    Checkpoint({"x": torch.ones(3)}).save(tmp_path / "policy.safetensors")
    (tmp_path / "plain.txt").write_text("plain")
    modes = {oct(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1
