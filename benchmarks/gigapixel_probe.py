"""One measurement of `benchmarks.gigapixel`: python -m benchmarks.gigapixel_probe '{"slides": [...], ...}'.

Each size has a process of its own, because peaks of a process never fall. The last line printed is the result as JSON.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from benchmarks.memory_probe import Peak
from glimpse.cohort import Case
from glimpse.envs import make_wsi
from glimpse.envs.base import GlimpseEnv
from glimpse.networks.policy import GlimpsePolicy
from glimpse.reading.lanes import Access
from glimpse.reading.readers import reader_named
from glimpse.runs.loading import build_policy
from glimpse.settings.composing import composed
from glimpse.sources import open_source

OVERVIEW, GLIMPSE = 256, 128  # pixels of the overview and of a glimpse


def main(arguments: Sequence[str]) -> None:
    settings = json.loads(arguments[0])
    torch.manual_seed(0)
    torch.set_num_threads(settings["threads"])
    first, *others = map(Path, settings["slides"])
    config = _configured(settings)
    policy = _policy(config, _env(first, settings), settings["device"])
    _read(first, policy, config, settings)  # what is done once in a process
    with Peak(settings["device"]) as peak:
        cases = [_read(slide, policy, config, settings) for slide in others]
    measured = {name: statistics.median(case[name] for case in cases) for name in cases[0]}
    print(json.dumps({**measured, "reading_mib": peak.added, "process_mib": peak.total}))


def _configured(settings: dict[str, Any]) -> DictConfig:
    """The networks of slides, with the small encoder of Gigapixel MNIST: its cells are 4 pixels wide."""
    small = ("network/encoder=small", "network.encoder.strides=[2,2,1,1]", "network.cell=null")
    return composed("env=wsi", *small, f"threads={settings['threads']}")


def _env(slide: Path, settings: dict[str, Any]) -> GlimpseEnv:
    return make_wsi(
        [Case(slide.stem, slide.stem, open_source(slide), 0)],
        None,
        overview_size=OVERVIEW,
        glimpse_size=GLIMPSE,
        glimpse_extents=settings["extents"],
        max_glimpses=settings["glimpses"],
    ).unwrapped


def _policy(config: DictConfig, env: GlimpseEnv, device: str) -> GlimpsePolicy:
    return build_policy(config.network, env.observation_space, env.layout).to(device)


def _read(slide: Path, policy: GlimpsePolicy, config: DictConfig, settings: dict[str, Any]) -> dict[str, float]:
    """Opens a slide, reads it and answers; returns seconds and what was looked at."""
    started, computed = time.perf_counter(), time.process_time()
    env = _env(slide, settings)
    (case,) = env.cases
    env.views.foreground(case.source)
    seen = time.perf_counter()
    access = Access(env.views, env.task, threads=config.read_threads)
    (found,) = reader_named("policy", policy, access, settings["glimpses"]).read([case])
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - computed
    case.source.close()
    assert found.glimpses == settings["glimpses"], "an untrained policy does not stop by itself"
    fine = float(np.mean(np.asarray(found.zooms) == 1))
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "overview_seconds": seen - started,
        "fine": fine,
        "share_read": found.share_read,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
