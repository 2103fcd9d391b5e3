"""TIFFs to read in tests, with levels in SubIFDs or pages."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile

NAMES = ["DAPI", "CD3", "CD8", "CK"]
HEIGHT, WIDTH = 152, 201
TILED: dict[str, Any] = {"tile": (64, 64), "photometric": "minisblack"}
GREY: dict[str, Any] = {"photometric": "minisblack", "metadata": None}


def pixels(channels: int = 4, dtype: str = "u2", height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Values (channel, y, x) that are grey levels times the channel's number plus 1, in 16 bits."""
    greys = np.random.default_rng(0).integers(0, 256, (channels, height, width))
    return (greys * (np.arange(channels)[:, None, None] + 1 if dtype != "u1" else 1)).astype(dtype)


def halved(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[1] // 2, image.shape[2] // 2
    boxes = image[:, : height * 2, : width * 2].reshape(len(image), height, 2, width, 2)
    return np.floor(boxes.mean((2, 4)) + 0.5).astype(image.dtype)


def write_ome(path: Path, image: np.ndarray, levels: int = 2, axes: str = "CYX", **options: Any) -> Path:
    """An OME-TIFF with levels as SubIFDs."""
    facts = {"axes": axes, "Channel": {"Name": NAMES[: len(image)]}, "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm",
             "PhysicalSizeY": 250.0, "PhysicalSizeYUnit": "nm"}  # fmt: skip
    options = {**TILED, "compression": "zlib", **options}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(image, subifds=levels, metadata=facts, **options)
        for _ in range(levels):
            image = halved(image)
            tiff.write(image, subfiletype=1, **options)
    return path


def write_pages(path: Path, image: np.ndarray, **options: Any) -> Path:
    """Levels as pages, in strips."""
    with tifffile.TiffWriter(path) as tiff:
        for _ in range(3):
            tiff.write(image.transpose(1, 2, 0), photometric="rgb", rowsperstrip=16, metadata=None, **options)
            image = halved(image)
    return path


def imagej(path: Path, image: np.ndarray) -> None:
    facts = {"axes": "CYX", "Labels": NAMES, "unit": "um"}
    tifffile.imwrite(path, image, imagej=True, resolution=(2.0, 4.0), metadata=facts)
