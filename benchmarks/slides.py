"""Slides of any size for `benchmarks.memory`: real SVS files, whose pixels are made while they are written."""

import os
from pathlib import Path

import numpy as np

from glimpse.synthetic.slides.svs import TILE, write_svs

_STEP = 4  # between the sizes of two levels, as scanners write them
_SMALLEST = 512  # side of the last level, at most


class _Level:
    """A disc of stained texture on glass; as much of an array as a writer of tiles needs."""

    dtype = np.dtype(np.uint8)

    def __init__(self, side: int) -> None:
        self.shape = (side, side, 3)
        speckle = np.random.default_rng(side).normal(0, 18, (TILE, TILE, 1)) + np.array([205, 150, 190])
        self._texture = np.clip(speckle, 0, 255).astype(np.uint8)

    def __getitem__(self, region: tuple[slice, slice]) -> np.ndarray:
        side = self.shape[0]
        rows, columns = (np.arange(*part.indices(side)) for part in region)
        inside = np.hypot(rows[:, None] - side / 2, columns - side / 2) < 0.4 * side
        return np.where(inside[..., None], self._texture[rows % TILE][:, columns % TILE], np.uint8(255))


def slide_of(megapixels: float, folder: Path) -> Path:
    """The path of a square slide of about so many megapixels (whole tiles per side), written if it is not there."""
    side = TILE * round((megapixels * 1e6) ** 0.5 / TILE)
    path = folder / f"{megapixels:g}-megapixels.svs"
    if not path.exists():
        sides = [side]
        while sides[-1] > _SMALLEST:
            sides.append(sides[-1] // _STEP)
        print(f"writing {path.name} ({side} x {side} pixels)", flush=True)
        unfinished = path.with_suffix(".unfinished")
        write_svs(unfinished, [_Level(side) for side in sides])
        os.replace(unfinished, path)
    return path
