"""Runs that have learned nothing, and slides that are quick to write, for tests of predictions."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from glimpse.runs.loading import build_policy, save_policy
from glimpse.settings.composing import composed

APERIO = "Aperio Image Library v12.0.15 \r\n{w}x{h} [0,0 {w}x{h}] (64x64) JPEG/RGB Q=75|AppMag = {power}|MPP = {mpp}"
LEICA = (
    '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection {whole}>{images}'
    "</collection></scn>"
)
LEICA_IMAGE = (
    '<image><creationDate>2020-01-01T00:00:00Z</creationDate><device model="m" version="1"/><pixels sizeX="{w}" '
    'sizeY="{h}">{pixels}</pixels><view {view}/><scanSettings><objectiveSettings><objective>{power}</objective>'
    "</objectiveSettings><illuminationSettings><numericalAperture>0.4</numericalAperture><illuminationSource>brightfield"
    "</illuminationSource></illuminationSettings></scanSettings></image>"
)


def untrained_run(folder: Path, *overrides: str, seed: int = 0) -> Path:
    """The folder of a run that has learned nothing: what `glimpse.load` needs of it."""
    config = composed(*overrides, f"run={folder}")
    torch.manual_seed(seed)
    env = instantiate(config.env.make, cohort=instantiate(config.env.cohort), split="train").unwrapped
    folder.mkdir(parents=True, exist_ok=True)
    save_policy(build_policy(config.network, env.observation_space, env.layout), folder / "policy.safetensors")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    return folder


def slide_run(folder: Path, cohort: Path, extents: str = "[64um]", seed: int = 0) -> Path:
    """The folder of an untrained smoke run on the slides of a CSV, whose glimpses have 64 pixels a side."""
    own = ("experiment=smoke", "env.make.glimpse_size=64", f"env.make.glimpse_extents={extents}")
    return untrained_run(folder, *own, f"env.cohort.path={cohort}", seed=seed)


def tissue_on_glass(seed: int = 0, side: int = 512, grain: int = 1) -> np.ndarray:
    """The pixels of a slide: coloured tissue in the middle of glass, in grains of one colour."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), 240, np.uint8)
    quarter, grains = side // 4, side // 2 // grain
    tissue = rng.integers(90, 200, (grains, grains, 3), np.uint8)
    tissue[..., 1] //= 2
    image[quarter : 3 * quarter, quarter : 3 * quarter] = tissue.repeat(grain, 0).repeat(grain, 1)
    return image


def write_slide(path: Path, seed: int = 0, side: int = 512, mpp: float = 0.5, image: np.ndarray | None = None) -> Path:
    """An Aperio slide of two levels, without loss: of `tissue_on_glass`, or of an image."""
    image = tissue_on_glass(seed, side) if image is None else image
    side = len(image)
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


def write_scn(path: Path, seed: int = 0, mpp: float = 0.5) -> Path:
    """A Leica slide of 640 x 512 pixels, of which only 384 x 352 from (x 128, y 96) on were scanned: its bounds."""
    rng, nanometres = np.random.default_rng(seed), round(mpp * 1000)
    image = rng.integers(90, 200, (352, 384, 3), np.uint8)
    small = image.reshape(88, 4, 96, 4, 3).mean((1, 3)).round().astype(np.uint8)
    overview = np.full((128, 160, 3), 240, np.uint8)
    entries = []
    for ifds, (wide, high), (x, y), power in (([0], (640, 512), (0, 0), 1), ([1, 2], (384, 352), (128, 96), 20)):
        sizes = [overview.shape[:2]] if power == 1 else [image.shape[:2], small.shape[:2]]
        pixels = [
            f'<dimension sizeX="{size[1]}" sizeY="{size[0]}" r="{r}" ifd="{ifd}"/>'
            for r, (ifd, size) in enumerate(zip(ifds, sizes, strict=True))
        ]
        view = {"sizeX": wide, "sizeY": high, "offsetX": x, "offsetY": y}
        place = " ".join(f'{name}="{value * nanometres}"' for name, value in view.items())
        entries.append(
            LEICA_IMAGE.format(w=sizes[0][1], h=sizes[0][0], pixels="".join(pixels), view=place, power=power)
        )
    whole = f'sizeX="{640 * nanometres}" sizeY="{512 * nanometres}"'
    xml = LEICA.format(whole=whole, images="".join(entries))
    options: dict[str, Any] = {"tile": (64, 64), "compression": "zlib", "photometric": "rgb", "metadata": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for page, described in ((overview, {"description": xml}), (image, {}), (small, {})):
            tiff.write(page, resolution=(1e4 / mpp,) * 2, resolutionunit=3, software=False, **described, **options)
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
