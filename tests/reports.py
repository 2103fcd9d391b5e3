"""Run folders that are quick to make, with everything that a report shows, for tests of reports."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from glimpse.envs import FlattenAction, array_cases, make_array
from glimpse.networks.policy import GlimpsePolicy
from glimpse.pictures.pages import PAGES, page_record, page_text
from glimpse.reading.lanes import Access
from glimpse.reading.readers import reader_named
from glimpse.reading.records import Reading, Trace
from glimpse.report.tables import summarise, write_predictions
from glimpse.runs.file_names import file_names
from glimpse.settings.composing import composed

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
NAMES = (HOSTILE, "=1+2", "b & c", "ümläut/sl'ash#?%.x", "plain", "another")
GLIMPSES = 3


def readings_of(names: Sequence[str] = NAMES, axes: int = 2, seed: int = 0) -> list[Reading]:
    """Readings with traces of images of noise, by a policy that has learned nothing."""
    shape = (64, 96) if axes == 2 else (24, 32, 40)
    arrays = np.random.default_rng(seed).integers(1, 256, (len(names), 3 if axes == 2 else 1, *shape), np.uint8)
    targets = [i % 2 for i in range(len(names))]
    env = FlattenAction(
        make_array(array_cases(arrays, targets), overview_size=32, glimpse_size=8, max_glimpses=GLIMPSES)
    )
    torch.manual_seed(seed)
    policy = GlimpsePolicy(env.observation_space, env.action_space, layout=env.layout)
    inner = env.unwrapped
    found = reader_named("policy", policy, Access(inner.views, inner.task), GLIMPSES).read(inner.cases, trace=True)
    return [replace(one, id=name, patient=f"patient of {name}") for one, name in zip(found, names, strict=True)]


def reading_by_hand(name: str, target: object, predictions: np.ndarray, scanpath: np.ndarray, trace: Trace) -> Reading:
    """A reading with one field of view, of which the rest does not matter."""
    return Reading(
        id=name,
        patient=name,
        target=target,
        prediction=predictions[-1],
        predictions=predictions,
        scanpath=scanpath,
        zooms=np.zeros(len(scanpath), np.int64),
        glimpses=len(scanpath),
        share_read=0.1,
        pixels_read=100,
        seconds=0.1,
        trace=trace,
    )


def write_pages(folder: Path, readings: Sequence[Reading]) -> list[str]:
    """Writes the record of each reading; returns the names of the files."""
    names = file_names([reading.id for reading in readings])
    (folder / PAGES).mkdir(parents=True)
    for name, reading in zip(names, readings, strict=True):
        (folder / PAGES / f"{name}.json").write_text(page_text(page_record([reading])))
    return names


def write_run(folder: Path, readings: Sequence[Reading]) -> Path:
    """Writes what a training leaves of these readings, with one baseline."""
    write_pages(folder, readings)
    task = readings[0].traced.task
    by_reader = {"ppo": list(readings), "random": list(readings)}
    config = composed("env=wsi", f"run={folder}")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    write_predictions(folder / "predictions.csv", by_reader, task, "test")
    rows = {name: summarise(answers, task) for name, answers in by_reader.items()}
    metrics = {"split": "test", "seed": 0, "max_glimpses": GLIMPSES, "seconds": {"joint": 90.0}, "readers": rows}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder
