"""One measurement of `benchmarks.memory`: python -m benchmarks.memory_probe '{"what": "update", "glimpses": 64, ...}'.

Peaks of a process never fall, and what one measurement leaves behind the next would find; so each has a process of its
own. The last line printed is its result as JSON.
"""

import ctypes
import gc
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from glimpse.cohort import Case
from glimpse.envs import make_wsi
from glimpse.envs.array import make_array
from glimpse.networks.policy import GlimpsePolicy
from glimpse.reading.lanes import Access
from glimpse.reading.readers import reader_named
from glimpse.runs.loading import build_policy
from glimpse.settings.building import build
from glimpse.settings.composing import composed
from glimpse.sources import open_source

MIB = 2**20


class Peak:
    """Memory that what happens inside a `with` needs at most, beyond what was in use before, in MiB.

    On a CPU it is resident memory, as Linux counts it; on a GPU what PyTorch has allocated.
    """

    def __init__(self, device: str) -> None:
        self.device, self.added, self.total = device, 0.0, 0.0

    def __enter__(self) -> "Peak":
        gc.collect()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device) / MIB
        else:
            _return_freed_memory()
            Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
            self._before = _resident("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        peak = torch.cuda.max_memory_allocated(self.device) / MIB if self._cuda else _resident("VmHWM")
        self.added, self.total = peak - self._before, peak

    @property
    def _cuda(self) -> bool:
        return self.device.startswith("cuda")


def _resident(name: str) -> float:
    """VmRSS (resident now) or VmHWM (resident at most, so far), in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def _return_freed_memory() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


# ---------------------------------------------------------------------------------------------- one update
def update(settings: dict[str, Any]) -> dict[str, Any]:
    """Peaks of one rollout and of the PPO update (all epochs) that follows it, after both were done once, smaller."""
    side = settings["image"]
    image = np.random.default_rng(0).integers(0, 256, (3, side, side), np.uint8)
    config = _configured(settings, "network/encoder=small")  # one that trains, which is what takes memory
    episodes, size = settings["episodes"], settings["glimpse_size"]
    sizes: dict[str, Any] = {"overview_size": 256, "glimpse_size": size, "glimpse_extents": [size]}
    envs = [make_array(([image], [0]), max_glimpses=settings["glimpses"], **sizes) for _ in range(episodes)]
    lanes, device = build(config.vector)(envs), settings["device"]
    policy = build_policy(config.network, envs[0].observation_space, envs[0].layout).to(device)
    options = {"cases_per_rollout": 1, "rollouts_per_case": episodes, "seed": 0, "device": device}
    small = instantiate(config.joint.algorithm)(policy, lanes, max_glimpses=2, **options)
    small.learn(small.steps_per_update)
    algorithm = instantiate(config.joint.algorithm)(policy, lanes, max_glimpses=settings["glimpses"], **options)
    rollout, learning = _watched(algorithm, "collect_rollouts", device), _watched(algorithm, "train", device)
    algorithm.learn(algorithm.steps_per_update)
    stored = algorithm.episodes
    held = {field.name: getattr(stored, field.name).nbytes / MIB for field in fields(stored)}
    return {
        "update_mib": learning.added,
        "rollout_mib": rollout.added,
        "stored_mib": sum(held.values()),
        "stored_glimpses_mib": held["glimpse"],
        "process_mib": learning.total,
        "cells": len(policy.cells),
    }


def _configured(settings: dict[str, Any], *overrides: str) -> DictConfig:
    """The networks and PPO of slides."""
    return composed(
        "env=wsi",
        f"network.chunk={settings.get('chunk', 512)}",
        "agent.algorithm.min_glimpses=null",  # every episode as long as the budget
        f"threads={settings['threads']}",
        "agent.algorithm.encoder_rate=1",
        *overrides,
    )


def _watched(algorithm: Any, name: str, device: str) -> Peak:
    """The peak of a method, measured whenever it runs."""
    peak, method = Peak(device), getattr(algorithm, name)

    def watched(*arguments: Any, **options: Any) -> Any:
        with peak:
            return method(*arguments, **options)

    setattr(algorithm, name, watched)
    return peak


# ---------------------------------------------------------------------------------------------- reading
def reading(settings: dict[str, Any]) -> dict[str, Any]:
    """Peak and time of opening one slide, reading it and answering, after another slide was read."""
    config, other, slide = _configured(settings), Path(settings["other"]), Path(settings["slide"])
    policy = _policy(config, other, settings["device"])
    _read(policy, config, other, settings["glimpses"])
    started = time.perf_counter()
    with Peak(settings["device"]) as peak:
        _read(policy, config, slide, settings["glimpses"])
    seconds = time.perf_counter() - started
    return {"reading_mib": peak.added, "seconds": seconds, "process_mib": peak.total}


def _case(slide: Path) -> Case:
    return Case(slide.stem, slide.stem, open_source(slide), 0)


def _policy(config: DictConfig, slide: Path, device: str) -> GlimpsePolicy:
    env = make_wsi([_case(slide)], None, overview_size=256, glimpse_size=64, glimpse_extents=[128])
    return build_policy(config.network, env.observation_space, env.layout).to(device)


def _read(policy: GlimpsePolicy, config: DictConfig, slide: Path, glimpses: int) -> None:
    case = _case(slide)
    env = make_wsi([case], None, overview_size=256, glimpse_size=64, glimpse_extents=[128], max_glimpses=glimpses)
    access = Access(env.unwrapped.views, env.unwrapped.task, threads=config.read_threads)
    (found,) = reader_named("policy", policy, access, glimpses).read([case])
    assert found.glimpses == glimpses, "an untrained policy does not stop by itself"
    case.source.close()


def main(arguments: Sequence[str]) -> None:
    settings = json.loads(arguments[0])
    torch.manual_seed(0)
    torch.set_num_threads(settings["threads"])
    measured = {"update": update, "reading": reading}[settings["what"]](settings)
    print(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1:])
