"""Predictions by actors of Ray and jobs of submitit: the same files as one process writes, also when workers die."""

import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from glimpse.errors import MissingExtraError, SettingsError
from glimpse.predict import predict
from tests.predictions import command, contents, untrained_run, write_slide

COUNT, BROKEN = 6, 2
ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed"))
    for name in ("submitit", "ray")
]


@pytest.fixture(scope="module")
def run(tiny_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = ("experiment=smoke", "env.make.glimpse_size=64", "env.make.glimpse_extents=[64um]")
    return untrained_run(tmp_path_factory.mktemp("runs") / "one", *own, f"env.cohort.path={tiny_slides}")


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


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_writes_what_one_process_does(
    engine: str, run: Path, slides: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    words = [f"model={run}", f"input={slides}", f"output={tmp_path}", f"engine={engine}", "workers=2"]
    words += ["jobs={cluster: local}"] if engine == "submitit" else []
    process = command(*words)
    shown, said = process.communicate()
    assert process.returncode == 1, said  # some cases have failed
    assert f"{COUNT - BROKEN} of {COUNT} cases" in shown and f"Failed: {BROKEN}" in shown
    assert said.count("glimpse: failed: ") == BROKEN
    assert written(tmp_path) == whole
    again = command(*words)
    assert f"{COUNT - BROKEN} had been read before" in again.communicate()[0]
    assert written(tmp_path) == whole
