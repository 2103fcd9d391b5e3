"""Checkpoints: whole or refused, also while a run puts new ones in their place."""

import threading
from pathlib import Path

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
