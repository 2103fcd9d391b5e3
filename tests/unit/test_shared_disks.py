"""Processes on several machines do the same, although a shared disk shows them different files for a while."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glimpse import train as training
from glimpse.agents import full_scan
from glimpse.agents.full_scan import FullScan
from glimpse.errors import UserError
from glimpse.networks import GlimpsePolicy
from glimpse.ranks import group
from glimpse.ranks.group import Group, RankError, from_first, together
from glimpse.report import comparison
from glimpse.runs import folder
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from glimpse.runs.folder import Run
from glimpse.runs.loading import load, load_together, save_policy
from glimpse.tasks import Classification
from tests.predictions import slide_run
from tests.unit.test_full_scan import VIEWS, brightness, made_cases


class Two:
    """Two processes of which the second one runs after the first, and hears what that one has said."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.said: list[bytes] = []
        patch.setattr(group, "_wait", lambda: None)
        for module in (group, folder, comparison, training):
            patch.setattr(module, "agreed", self.agreed)

    def agreed(self, value: Any) -> Any:
        if group.ranks().size == 1:
            return value
        if group.first():
            self.said.append(pickle.dumps(value))
            return value
        return pickle.loads(self.said.pop(0))

    @contextmanager
    def rank(self, number: int) -> Iterator[None]:
        group._joined.append(Group(rank=number, size=2))
        try:
            yield
        finally:
            group._joined.pop()


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Two:
    return Two(monkeypatch)


def test_all_go_on_from_the_checkpoint_that_the_first_one_sees(two: Two, tmp_path: Path) -> None:
    Run(tmp_path / "run", {}, save_seconds=0).save(Checkpoint({"x": torch.arange(3)}, {"updates": 7}), "joint")
    file = tmp_path / "run" / "checkpoints" / "last.safetensors"
    with two.rank(0):
        first = Run(tmp_path / "run", {}, resume=True)
    file.unlink()
    with two.rank(1):
        second = Run(tmp_path / "run", {}, resume=True)
    assert second.last.meta == first.last.meta and second.last.meta["updates"] == 7
    assert second.finished("warm_up", ["warm_up", "joint"]) and second.last.tensors["x"].tolist() == [0, 1, 2]
    assert not two.said


def test_all_load_the_policies_that_the_first_one_reads(
    two: Two, tiny_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = slide_run(tmp_path / "run", tiny_slides)
    policy, files = load(run), [run / "checkpoints" / f"{name}.safetensors" for name in ("pretrained", "best")]
    trained: Any = SimpleNamespace(
        run=SimpleNamespace(folder=run, checkpoint=lambda name: run / "checkpoints" / f"{name}.safetensors"),
        policy=policy,
    )
    plan: Any = SimpleNamespace(stages={}, report=SimpleNamespace(write=lambda trained, final, cohort: final))
    for name in ("restore_policy", "once"):
        monkeypatch.setattr(training, name, lambda *given: None)

    def loaded(rank: int) -> list[GlimpsePolicy]:
        with two.rank(rank):
            whole: Any = training._run(plan, trained, None)  # type: ignore[arg-type]
            return [load_together(run), comparison._pretrained(trained, policy), whole]

    for file in files:
        save_policy(policy, file)
    loaded(0)
    for file in (*files, run / "policy.safetensors"):
        file.unlink()
    for other in loaded(1):
        assert other is not policy and not other.training and other.settings == policy.settings
        for name, value in policy.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name
    assert not two.said


def test_what_the_first_one_cannot_read_is_told_by_all(two: Two, tmp_path: Path) -> None:
    for number in range(2):
        with two.rank(number), pytest.raises(CheckpointError, match=r"nothing\.safetensors: there is no such file"):
            from_first(lambda: Checkpoint.load(tmp_path / "nothing.safetensors"))
    assert issubclass(CheckpointError, UserError) and not two.said


@pytest.mark.parametrize(("missing", "reads"), [(0, 3), (1, 6)])
def test_patches_are_embedded_anew_unless_all_find_them(
    missing: int, reads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, read, honest = made_cases(3, 0, "train"), list[int](), full_scan.read_tiles
    monkeypatch.setattr(full_scan, "read_tiles", lambda *given: read.append(1) or honest(*given))
    scan = FullScan(brightness, VIEWS, Classification(2), folder=tmp_path)
    first, count = scan.bags(cases), len(read)
    assert not scan.known_before
    monkeypatch.setattr(full_scan, "largest", lambda value: max(value, missing))  # of all processes
    second = scan.bags(cases)
    assert len(read) == count * reads // 3 and scan.known_before == (not missing)
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.embeddings, two.embeddings)


def raising(error: Exception) -> Callable[[], None]:
    def communicate() -> None:
        raise error

    return communicate


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:4242"),
        RuntimeError("Timed out waiting 1800000ms for recv operation to complete"),
        torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:1333, remote process exited"),
        torch.distributed.DistNetworkError("The client socket has failed to connect"),
    ],
)
def test_a_lost_connection_says_that_another_process_has_ended(error: Exception) -> None:
    with pytest.raises(RankError, match="another one has ended"):
        together(raising(error))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.distributed.DistBackendError("NCCL error: unhandled cuda error, Cuda failure 2 'out of memory'"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        NotImplementedError("Could not run 'c10d::allreduce_' with arguments from the 'Meta' backend (gloo, nccl)"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as found:
        together(raising(error))
    assert found.value is error
