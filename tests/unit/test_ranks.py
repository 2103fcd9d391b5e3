"""Several processes that train one agent: they end with what one process by itself ends with."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.rank_stages import STAGES, states


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {**os.environ, **{name: str(value) for name, value in told.items()}, "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    """What two ranks have after 20 updates of each stage."""
    file, port = tmp_path_factory.mktemp("ranks") / "states", free_port()
    command = [sys.executable, "-m", "tests.rank_stages", str(file)]
    started = [subprocess.Popen(command, env=environment(rank, 2, port)) for rank in range(2)]
    assert [one.wait(timeout=120) for one in started] == [0, 0]
    return [torch.load(Path(f"{file}.{rank}"), weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_end_with_what_one_ends_with(stage: str, of_two: list[dict[str, dict[str, torch.Tensor]]]) -> None:
    one, (first, second) = states(stage), (found[stage] for found in of_two)
    assert one.keys() == first.keys() == second.keys()
    # What comes before a batch normalisation may be shifted without any effect: the gradients of biases there are
    # nothing but the rounding of zeros, of which AdamW makes steps.
    biases = 1e-8 if stage == "vicreg" else 1e-10
    for name, expected in one.items():
        assert torch.equal(first[name], second[name]), name
        exact = 1e-10 if name.endswith("weight") else biases
        assert (first[name] - expected).abs().max() <= exact, name
