"""Mutated run folders, output folders and options: each is used, or refused with an error that is documented.

How many are tried: see `tests/smoke/test_fuzzing.py`.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from glimpse.check import check
from glimpse.cohort.recorded import read_splits
from glimpse.predict import predict
from glimpse.predicting.agent import load
from glimpse.report.evaluations import _may_replace
from glimpse.report.html.writing import write_report
from glimpse.runs.folder import settings_of
from tests.fuzzing import PICKLE, Outcome, attempt, explored, mutated, mutated_text, mutations, texts
from tests.predictions import slide_run, write_slide
from tests.smoke.test_fuzzing import seen


@pytest.fixture(scope="module")
def run(tiny_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = slide_run(tmp_path_factory.mktemp("runs") / "one", tiny_slides)
    lines = ["case_id,slide_id,split,fingerprint", "p1,a,train,abc", "p2,b,test,def"]
    (folder / "splits.csv").write_text("\n".join([*lines, ""]))
    (folder / "metrics.json").write_text(json.dumps({"readers": {"ppo": {"auc": {"value": 0.5}}}, "cohort": "c.csv"}))
    return folder


# ---------------------------------------------------------------------------------------------- run folders
FILES = ("config.yaml", "policy.safetensors", "splits.csv", "metrics.json", "calibration.json")
TEMPERATURES = {"split": "val", "readers": {"policy": {"temperature": 1.25, "cases": 40, "reason": ""}}}


def test_run_folders(run: Path, tmp_path: Path) -> None:
    slide, own = write_slide(tmp_path / "s.svs"), tmp_path / "run"
    contents = {name: (run / name).read_bytes() for name in FILES if name != "calibration.json"}
    contents["calibration.json"] = json.dumps(TEMPERATURES).encode()

    def used() -> None:
        load(own).read(slide, 2)
        settings_of(own)
        read_splits(own)
        _may_replace(own / "metrics.json", {"cohort": "c.csv", "readers": {}})
        predict(own, slide, tmp_path / "out", max_glimpses=1)

    shutil.copytree(run, own)
    (own / "calibration.json").write_bytes(contents["calibration.json"])
    used()

    def tried(example: tuple[str, list[Any], list[Any]]) -> Outcome:
        name, in_bytes, in_text = example
        shutil.rmtree(own, ignore_errors=True)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        own.mkdir()
        for file, content in contents.items():
            (own / file).write_bytes(content)
        if name == "policy.safetensors":
            header = 8 + int.from_bytes(contents[name][:8], "little")
            (own / name).write_bytes(mutated(contents[name], tuple(range(min(header, 4000))), in_bytes))
        else:
            (own / name).write_bytes(mutated_text(contents[name].decode(), in_text, ':\n -,{}"'))
        return attempt(used, tmp_path, reads=[run.parent])

    found = explored(0.15, st.tuples(st.sampled_from((*FILES, "config.yaml")), mutations, texts), tried)
    assert not found.faults, "\n".join(found.faults)
    assert found.deep


def test_output_folders(run: Path, tmp_path: Path) -> None:
    """Of `glimpse predict`: records that somebody has changed are read again, or reported as they are."""
    for i in range(2):
        write_slide(tmp_path / "slides" / f"s{i}.svs", i)
    (tmp_path / "slides" / "s2.svs").write_text("nothing")
    out = tmp_path / "out"
    predict(run, tmp_path / "slides", out, max_glimpses=1)
    whole = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    texts_of = [path for path in sorted(whole) if path.suffix in (".json", ".csv", ".geojson")]

    def used() -> None:
        predict(run, tmp_path / "slides", out, max_glimpses=1)
        write_report(out)

    def tried(example: tuple[Path, list[Any]]) -> Outcome:
        name, changes = example
        shutil.rmtree(out, ignore_errors=True)
        for path, content in whole.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(content)
        (out / name).write_bytes(mutated_text(whole[name].decode(), changes, ':\n -,{}[]"'))
        return attempt(used, tmp_path, reads=[run.parent])

    found = explored(0.05, st.tuples(st.sampled_from(texts_of), texts), tried)
    assert not found.faults, "\n".join(found.faults)
    assert found.deep


def test_nothing_is_unpickled(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    (own / "policy.safetensors").write_bytes(PICKLE)
    outcome = attempt(lambda: load(own), tmp_path)
    assert (outcome.fault, outcome.error) == ("", "CheckpointError")
    for name in ("a.npy", "a.svs", "a.dcm", "a.nii", "a.nii.gz", "a.png"):
        (tmp_path / name).write_bytes(PICKLE)
        for env in ("wsi", "xray", "mri"):
            outcome = attempt(lambda name=name, env=env: seen(tmp_path / name, env), tmp_path)  # type: ignore[misc]
            assert not outcome.fault and outcome.error, outcome


# ---------------------------------------------------------------------------------------------- options
ODD: Sequence[Any] = (
    None, True, 0, -1, 1, 2, 2.5, 1e308, float("nan"), float("inf"), 2**70, "", "1/2", "2/1", "0/0", "x", "\x00",
    "a" * 300, "detection", "cpu", "cuda:99", "meta", [], ["x"], {}, b"x", (1,),
)  # fmt: skip


def odd(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), st.sampled_from(ODD), min_size=1, max_size=3)


def inside(folder: Path, work: Callable[[], Any]) -> None:
    """Works in a folder: relative paths begin there."""
    os.chdir(folder)
    work()


def test_options_of_predict(run: Path, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.svs")
    predict(run, slide, tmp_path / "out", max_glimpses=1)

    def tried(example: dict[str, Any]) -> Outcome:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        given = {"model": run, "input": slide, "output": tmp_path / "out", "max_glimpses": 1} | example
        return attempt(lambda: inside(tmp_path, lambda: predict(**given)), tmp_path, reads=[run.parent])

    names = ("model", "input", "output", "max_glimpses", "shard", "objects", "subtract_bounds", "gzip", "device")
    found = explored(0.07, odd(*names, "progress"), tried)
    assert not found.faults, "\n".join(found.faults)
    assert found.deep


def test_options_of_check(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.svs")

    def tried(example: dict[str, Any]) -> Outcome:
        given = {"input": slide, "output": tmp_path / "out", "env": "wsi", "workers": 1, "estimate": False} | example
        given["timeout"] = 0.01 if given.get("timeout") is None else given["timeout"]  # options are of interest here
        return attempt(lambda: inside(tmp_path, lambda: check(**given)), tmp_path, spawns=True)

    names = ("input", "output", "env", "settings", "workers", "timeout", "gigabytes", "places", "seed", "thumbnail")
    found = explored(0.03, odd(*names, "estimate", "progress"), tried)
    assert not found.faults, "\n".join(found.faults)
    assert found.deep
