"""The embedded cohort of whole-slide images: real SVS files of stained tissue, some with small tumour foci.

A slide is positive if 3 to 6 of its 6 to 10 dark blobs are tumour (large, pleomorphic, crowded nuclei) rather than
lymphoid aggregates (small, round, dark, uniform ones). In the overview the two look the same; a glimpse tells them
apart. Glands, folds and ink are on slides of both classes alike. Slides of less than 3,072 pixels a side have room for
less: 3 or 4 blobs, of which 1 or 2 are tumour in a positive one.

Made once per machine, in one to two minutes on two cores, into a folder named after what was asked for (see
`glimpse.synthetic.making`).
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from glimpse.synthetic import making
from glimpse.synthetic.making import CaseRecord, Recipe, Table, embedded, generator, write_whole
from glimpse.synthetic.slides.atlas import GLANDS, atlas
from glimpse.synthetic.slides.layout import Layout, lay_out
from glimpse.synthetic.slides.svs import colours, write_svs
from glimpse.synthetic.slides.tissue import paint

VERSION = 3
"""Raised whenever the painting changes, so that cohorts of different painting never mix."""

MPP = 0.5
"""Size of a full-resolution pixel in micrometres."""


def embedded_cohort(
    folder: str | Path | None = None,
    n: int = 270,
    seed: int = 0,
    size: int = 4096,
    progress: bool = False,
    workers: int | None = None,
) -> Path:
    """Makes the embedded cohort unless it is there already.

    Beside `cohort.csv` (case_id, slide_id, path, target, split, mpp) lies `regions.csv` (slide_id, kind, y, x, radius
    in level-0 pixels): where the blobs are, for pictures and tests, never for training.

    Args:
        folder: Where to keep it; by default a folder of its own in `GLIMPSE_CACHE`, else in the user's cache folder.
        n: Number of slides, at least 6.
        seed: Seed of everything drawn.
        size: Side of a slide in pixels at full resolution, a multiple of 256 of at least 1024.
        progress: Whether to show a progress bar, on a terminal.
        workers: Number of processes; by default one per core, and only this one for a small cohort.

    Returns:
        Path of `cohort.csv`.

    Raises:
        ValueError: If `n`, `size` or `workers` is out of range, or the folder holds another cohort.
        OSError: If the folder cannot be written to or its disk is full.
    """
    return embedded(RECIPE, folder, n, seed, size, progress, workers)


def cache_folder(n: int, seed: int, size: int) -> Path:
    """Folder of a cohort in the cache; another version, number, seed or size has another folder."""
    return making.cache_folder(RECIPE, n, seed, size)


def plan_cohort(n: int, seed: int) -> list[CaseRecord]:
    """Draws targets, splits and patients: both targets in equal numbers in each split, 1 or 2 slides per patient."""
    return making.plan(n, seed, RECIPE)


def make_slides(folder: Path, records: Iterable[CaseRecord], seed: int, size: int) -> Iterator[CaseRecord]:
    """Paints those of the slides that are not there yet; yields each record once its file is complete."""
    return making.make_cases(RECIPE.make, folder, records, seed, size)


def make_slide(record: CaseRecord, folder: Path, seed: int, size: int) -> None:
    """Paints one slide and writes it."""
    slide = paint(generator(VERSION, record, seed, 1), _layout(record, seed, size), atlas(VERSION, seed))
    quarter = colours(slide).reduce(4)
    levels = [slide, np.asarray(quarter), np.asarray(quarter.reduce(4))]
    write_whole(folder / record.path, partial(write_svs, levels=levels, mpp=MPP))


def regions(record: CaseRecord, seed: int, size: int) -> Iterator[tuple[str, str, float, float, float]]:
    """The rows of a slide in `regions.csv`."""
    for blob in _layout(record, seed, size).blobs:
        yield record.id, blob.kind, round(blob.y, 1), round(blob.x, 1), round(blob.radius, 1)


@lru_cache(maxsize=1)  # a slide's regions are asked for after it has been painted
def _layout(record: CaseRecord, seed: int, size: int) -> Layout:
    return lay_out(generator(VERSION, record, seed, 0), size, record.target, GLANDS)


def _check_size(size: int) -> None:
    if size < 1024 or size % 256:
        raise ValueError(f"size={size}: a slide's side is a multiple of 256 of at least 1024; try 1024 or 4096.")


RECIPE = Recipe(
    kind="wsi",
    version=VERSION,
    noun="slide",
    folder="slides",
    suffix=".svs",
    make=f"{__name__}:make_slide",
    check=_check_size,
    megabytes=lambda size: size**2 * 0.15 / 1e6,
    columns={"mpp": MPP},
    tables={"regions.csv": Table(("slide_id", "kind", "y", "x", "radius"), f"{__name__}:regions")},
)
