"""Runs that have learned nothing, and slides that are quick to write, for tests of predictions."""

import itertools
import math
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from glimpse.runs.loading import build_policy, save_policy
from glimpse.settings.composing import composed

APERIO = "Aperio Image Library v12.0.15 \r\n{w}x{h} [0,0 {w}x{h}] (64x64) JPEG/RGB Q=75|AppMag = {power}|MPP = {mpp}"


def untrained_run(folder: Path, *overrides: str, seed: int = 0) -> Path:
    """The folder of a run that has learned nothing: what `glimpse.load` needs of it."""
    config = composed(*overrides, f"run={folder}")
    torch.manual_seed(seed)
    env = instantiate(config.env.make, cohort=instantiate(config.env.cohort), split="train").unwrapped
    folder.mkdir(parents=True, exist_ok=True)
    save_policy(build_policy(config.network, env.observation_space, env.layout), folder / "policy.safetensors")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    return folder


def write_slide(path: Path, seed: int = 0, side: int = 512, mpp: float = 0.5) -> Path:
    """An Aperio slide of two levels, without loss: coloured tissue in the middle of glass."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), 240, np.uint8)
    quarter = side // 4
    tissue = rng.integers(90, 200, (2 * quarter, 2 * quarter, 3), np.uint8)
    tissue[..., 1] //= 2
    image[quarter : 3 * quarter, quarter : 3 * quarter] = tissue
    small = image.reshape(side // 4, 4, side // 4, 4, 3).mean((1, 3)).round().astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tiff:
        options = {"photometric": "rgb", "metadata": None, "software": False}
        tiled = {"tile": (64, 64), "compression": "zlib", **options}
        facts = APERIO.format(w=side, h=side, power=round(10 / mpp), mpp=mpp)
        tiff.write(image, description=facts, **tiled)
        tiff.write(small, description="Aperio thumbnail", rowsperstrip=16, **options)
        tiff.write(small, description="Aperio level", **tiled)
    return path


def command(*arguments: str | Path, background: bool = False) -> subprocess.Popen[str]:
    """Starts `glimpse predict` in a process of its own; waits for its end unless it may go on in the background."""
    process = subprocess.Popen(
        [sys.executable, "-m", "glimpse", "predict", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if not background:
        process.wait(timeout=300)
    return process


def contents(folder: Path, without: Sequence[str] = ("manifest.json",)) -> dict[str, bytes]:
    """All files below a folder, hidden ones included, by their path."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name not in without)
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(files)}


def nested_slides(folder: Path) -> Path:
    """Six slides at two magnifications, in nested folders, and files that are none."""
    for i in range(6):
        write_slide(folder / ("a", "b/c")[i % 2] / f"s{i}.svs", i, side=(512, 1024)[i % 2], mpp=(0.5, 0.25)[i % 2])
    (folder / "notes.txt").write_text("nothing")
    (folder / "b" / ".hidden.svs").write_text("nothing")
    return folder


def valid(collection: Any) -> list[dict[str, Any]]:
    """The features of a FeatureCollection of polygons; fails where RFC 7946 or QuPath would not take it."""
    assert set(collection) == {"type", "features"} and collection["type"] == "FeatureCollection"
    for feature in collection["features"]:
        assert feature["type"] == "Feature" and uuid.UUID(feature["id"])
        assert set(feature) == {"type", "id", "geometry", "properties"}
        assert feature["geometry"]["type"] == "Polygon"
        (ring,) = feature["geometry"]["coordinates"]
        assert len(ring) >= 4 and ring[0] == ring[-1]
        assert all(len(point) == 2 and all(math.isfinite(value) for value in point) for point in ring)
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring))
        assert area > 0, "the outer ring runs counterclockwise"
        told = feature["properties"]
        assert told["objectType"] in ("annotation", "detection") and told["isLocked"] is True
        assert told["classification"]["name"] and len(told["classification"]["color"]) == 3
        assert all(math.isfinite(value) for value in told["measurements"].values())
    return collection["features"]
