"""What the tests of `glimpse check` share: small files with something wrong, and what was found in them."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from glimpse.check import Checked, check
from glimpse.inspecting.findings import Finding
from tests.predictions import write_slide

SIZES = ("env.make.overview_size=64", "env.make.glimpse_size=32", "env.make.glimpse_extents=[64um]")
FAST: dict[str, Any] = {"settings": SIZES, "workers": 1, "estimate": False, "places": 4}


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline="")))


def rules(checked: Checked, notes: bool = True) -> dict[str, list[str]]:
    """The rules that each case breaks, by its id."""
    return {case.id: [one.rule for one in findings if notes or not one.note] for case, _, findings in checked.cases}


def broken_tiles(path: Path) -> Path:
    """Overwrites the content of some tiles of the finest level; the file opens, and its size is right."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        places = [(page.dataoffsets[i], page.databytecounts[i]) for i in range(20, 28)]
    with open(path, "r+b") as file:
        for start, count in places:
            file.seek(start)
            file.write(b"\xab" * count)
    return path


def without_mpp(path: Path, seed: int, power: bool = False, image: np.ndarray | None = None) -> Path:
    """A tiled image whose header states no size of a pixel; with `power`, an Aperio one with its objective's."""
    pixels = np.full((512, 512, 3), 240, np.uint8) if image is None else image
    if image is None:
        pixels[128:384, 128:384] = np.random.default_rng(seed).integers(60, 200, (256, 256, 3)) // np.array([1, 2, 1])
    text = "Aperio Image Library v12.0.15 \r\n512x512 (64x64) JPEG/RGB Q=75" + ("|AppMag = 20" if power else "")
    tiled: dict[str, Any] = {"tile": (64, 64), "compression": "zlib", "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, description=text, software=False, **tiled)
    return path


def listed(path: Path, *lines: str, header: str = "case_id,slide_id,path,target,split") -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def found_in(path: Path, env: str = "wsi", folder: Path | None = None, **options: Any) -> list[Finding]:
    output = (folder or path.parent) / f"out-{path.name}"
    ((_, _, findings),) = check(path, output, env=env, **{**FAST, **options}).cases
    return list(findings)


def three_slides(folder: Path) -> Path:
    """Three small slides."""
    for i in range(3):
        write_slide(folder / f"s{i}.svs", i)
    return folder
