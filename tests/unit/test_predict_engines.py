"""Predictions by actors of Ray and jobs of submitit: the same files as one process writes, also when workers die."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glimpse.errors import MissingExtraError, SettingsError
from glimpse.predict import predict
from glimpse.predicting.actors import share_of_gpu
from glimpse.predicting.hand import READ, Outcome
from glimpse.predicting.inputs import Item
from glimpse.predicting.jobs import Jobs
from glimpse.predicting.order import Order
from glimpse.runs.file_names import file_names
from glimpse.settings.options import check_device
from tests.predictions import command, contents, write_slide

COUNT, BROKEN = 6, 2
ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed"))
    for name in ("submitit", "ray")
]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for i in range(COUNT):
        path = write_slide(folder / f"site-{i % 2}" / f"slide-{i}.svs", i)
        if i < BROKEN:
            path.write_bytes(path.read_bytes()[: 40_000 if i else 10])
    return folder


@pytest.fixture(scope="module")
def whole(run: Path, slides: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes."""
    folder = tmp_path_factory.mktemp("whole")
    assert len(predict(run, slides, folder).done.failed) == BROKEN
    return contents(folder)


def written(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if not name.startswith("jobs/")}


def test_jobs_wait_for_what_is_asked_now_not_for_what_was_read_before(
    run: Path, slides: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    for name, content in whole.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    order = Order((str(run),), (str(slides),), str(tmp_path))
    jobs: Any = object.__new__(Jobs)  # as much of them as is asked
    jobs._outputs = order.hand().outputs
    items = dict(zip(file_names([item.id for item in order.items]), order.items, strict=True))
    read = [name for name, outcome in jobs._written(items, time.time() + 1) if outcome.state == READ]
    assert len(read) == COUNT - BROKEN
    otherwise = {name: replace(item, options={"mpp": 0.4}) for name, item in items.items()}
    assert list(jobs._written(otherwise, time.time() + 1)) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_writes_what_one_process_does(
    engine: str, run: Path, slides: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    words = [f"model={run}", f"input={slides}", f"output={tmp_path}", f"engine={engine}", "workers=2"]
    process = command(*words)
    shown, said = process.communicate()
    assert process.returncode == 1, said  # some cases have failed
    assert f"{COUNT - BROKEN} of {COUNT} cases" in shown and f"Failed: {BROKEN}" in shown
    assert said.count("glimpse: failed: ") == BROKEN
    assert written(tmp_path) == whole
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["arguments"]["engine"] == engine == manifest["processes"][0]["engine"]
    assert sum(one["read"] for one in manifest["processes"]) == COUNT - BROKEN
    assert sum(one["failed"] for one in manifest["processes"]) == BROKEN
    assert said.count("Slurm's commands were not found") == (engine == "submitit")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_a_case_of_which_actors_die_fails_and_the_others_are_read(
    run: Path, slides: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glimpse.predicting import actors

    class Mortal:
        def __init__(self, order: Order) -> None:
            self._hand = order.hand()

        def ready(self) -> None:
            pass

        def read(self, item: Item, name: str, moment: float) -> Outcome:
            if item.id.endswith("slide-5") or (item.id.endswith("slide-4") and not (tmp_path / "died").exists()):
                with self._hand.claims.taken(name):
                    (tmp_path / "died").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            return self._hand.one(item, name, moment)

    monkeypatch.setattr(actors, "_Reader", Mortal)
    done = predict(run, slides, tmp_path / "out", engine="ray", workers=2).done
    assert sorted(done.failed) == ["site-0/slide-0", "site-1/slide-1", "site-1/slide-5"]
    kept = {name: content for name, content in whole.items() if "slide-5" not in name and "/" in name}
    there = contents(tmp_path / "out")
    assert kept == {name: content for name, content in there.items() if "slide-5" not in name and "/" in name}
    assert b"3 processes have ended while they read it" in there["failures.csv"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed")
def test_jobs_that_are_killed_or_preempted_lose_nothing(
    run: Path, slides: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from submitit.local.local import LocalJob

    from glimpse.predicting.jobs import Jobs

    told, submit = list[str](), Jobs._submit
    later = slides / "later.svs"

    def disturbed(self: Jobs, missing: Mapping[str, Item], moment: float) -> None:
        write_slide(later)  # jobs read what was there when they were asked for
        submit(self, missing, moment)
        if told:  # the second time, for what is left
            told.append(f"{len(missing)} more")
            return
        for job, number in zip(self._jobs, (signal.SIGKILL, signal.SIGUSR2), strict=True):
            assert isinstance(job, LocalJob)
            task = child_of(job._process.pid)
            os.kill(task, number)
            told.append(signal.Signals(number).name)

    monkeypatch.setattr(Jobs, "_submit", disturbed)
    try:
        predicted = predict(run, slides, tmp_path, engine="submitit", workers=2, jobs={"cluster": "local"})
    finally:
        later.unlink()
    assert told[:2] == ["SIGKILL", "SIGUSR2"] and not predicted.lost
    assert (predicted.done.read, len(predicted.done.failed)) == (COUNT - BROKEN, BROKEN)
    assert written(tmp_path) == whole
    logs = "".join(path.read_text() for path in (tmp_path / "jobs").glob("*_log.out"))
    assert "Requeued job" in logs


def child_of(process: int) -> int:
    """The child of a process that handles the signal of preemption already."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            status = Path(f"/proc/{child}/status").read_text()
            caught = int(status.split("SigCgt:")[1].split()[0], 16)
            if caught >> (signal.SIGUSR2 - 1) & 1:
                return int(child)
        time.sleep(0.02)
    raise TimeoutError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "dask"}, "Expected engine as one of ray, submitit, got 'dask'"),
        ({"workers": 2}, "workers is of an engine"),
        ({"engine": "ray", "shard": "1/2"}, "leave out shard, or engine"),
        ({"engine": "ray", "workers": 0}, "workers"),
        ({"engine": "ray", "jobs": {"cluster": "local"}}, "jobs is of engine=submitit"),
        ({"workers": 0}, "workers is of an engine"),
        ({"engine": "submitit", "jobs": "local"}, "jobs: expected a mapping or null, got 'local'"),
        ({"engine": "submitit", "jobs": {"cluster": "debug"}}, "Expected cluster in jobs as slurm or local"),
        *[
            ({"engine": "submitit", "jobs": {"timeout_min": minutes}}, "timeout_min in jobs as a whole number of at l")
            for minutes in (0, -5, 1.5, "ten", True, None)
        ],
        ({"engine": "submitit", "jobs": {"cluster": "local", "slurm_partitions": "gpu"}}, "mean 'slurm_partition'"),
        ({"engine": "submitit", "jobs": {"cluster": "local", "mem_g": 3}}, "mean 'mem_gb'"),
        ({"engine": "submitit", "jobs": {"cluster": "local", "mem_gb": "many"}}, 'but value: "many"'),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    run: Path, slides: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        predict(run, slides, tmp_path, **options)
    assert not list(tmp_path.iterdir()) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("gpus", "workers", "share"),
    [(0, 4, 0.0), (1, 1, 1.0), (4, 4, 1.0), (4, 2, 1.0), (1, 4, 0.25), (1, 7, 0.1428), (2, 3, 0.5), (8, 20, 0.3333)],
)
def test_actors_on_shares_of_gpus_all_run_at_once(gpus: float, workers: int, share: float) -> None:
    assert share_of_gpu(gpus, workers) == share
    assert share == 0 or workers <= gpus * int(1 / share)  # a share lies in one GPU


def test_who_asks_for_workers_on_gpus_needs_none(run: Path, slides: Path, tmp_path: Path) -> None:
    order = Order((str(run),), (str(slides),), str(tmp_path), device="cuda", engine="submitit", here="cpu")
    assert order.agents[0].policy.device.type == "cpu" and order.absolute.here is None
    assert order.manifest(None).arguments["device"] == "cuda"
    check_device("cuda", here=False)
    with pytest.raises(SettingsError, match="device=gpu: cannot compute there"):
        check_device("gpu", here=False)


@pytest.mark.parametrize(
    ("device", "said"), [(None, "got None"), (True, "got True"), (0, r"Did you mean device=cuda:0\?"), (["cpu"], "got")]
)
def test_a_device_is_a_name(run: Path, slides: Path, tmp_path: Path, device: Any, said: str) -> None:
    for work in (lambda: predict(run, slides, tmp_path / "out", device=device), lambda: check_device(device)):
        with pytest.raises(SettingsError, match=f"Expected device as the name of one, .*{said}"):
            work()
    assert check_device(torch.device("cpu")) == "cpu"


@pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed")
@pytest.mark.parametrize(
    ("mine", "options", "seen"),
    [("2,GPU-5", {}, "2,GPU-5"), ("2,GPU-5", {"gpus_per_node": 1}, "2"), (None, {}, "0,1")],
)
def test_jobs_of_this_machine_see_the_gpus_that_this_process_sees(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: str | None, options: dict[str, Any], seen: str
) -> None:
    from glimpse.predicting import jobs

    if mine is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mine)
    monkeypatch.setattr(jobs, "_gpus", lambda: 2)
    order = Order((str(run),), (str(tmp_path),), str(tmp_path / "out"), device="cuda", engine="submitit", here="cpu")
    made = jobs.Jobs(order, order.hand(), 2, {"cluster": "local", **options})
    taken, shares = list[tuple[int, str]](), list[Any]()
    monkeypatch.setattr(made._executor, "submit", shares.append)
    with pytest.warns(RuntimeWarning, match="No submission"):
        made._submit({name: Item(name, tmp_path / name, {}) for name in "ab"}, 0.0)
    monkeypatch.setattr(Order, "hand", lambda self: None)
    monkeypatch.setattr(Order, "manifest", lambda self, shard: None)
    monkeypatch.setattr(jobs, "Work", lambda *given: SimpleNamespace(help=lambda *given: SimpleNamespace(counts={})))
    monkeypatch.setattr(jobs, "_take_gpu", lambda number: taken.append((number, os.environ["CUDA_VISIBLE_DEVICES"])))
    for share in shares:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # as submitit numbers them in each job
        share()
    assert taken == [(0, seen), (1, seen)]


@pytest.mark.parametrize(("engine", "extra"), [("ray", "ray"), ("submitit", "slurm")])
def test_an_engine_that_is_not_installed_names_its_extra(
    run: Path, slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(MissingExtraError, match=re.escape(f'pip install "glimpse-rl[{extra}]"')):
        predict(run, slides, tmp_path, engine=engine)
