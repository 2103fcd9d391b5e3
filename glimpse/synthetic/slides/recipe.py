"""The embedded cohort of whole-slide images: real SVS files of real H&E texture, some with tumour foci.

Every slide has 4 to 7 dark spots. On a positive one, 1 to 3 of them are foci of tumour; all others are look-alikes:
stroma with the colours, the contrast and the power spectrum of tumour, and with the same means of small blocks as a
focus in their place would have. In an overview the two are the same; a glimpse tells nuclei from fibres, if its encoder
knows shapes. Number, place, size and outline of the spots are drawn without the target. Stain and scanner vary from
site to site, and less within one. Slides of less than 3,072 pixels a side have room for less: 2 or 3 smaller spots.

Sparse slides are much larger, and mostly glass: 12 to 15 fragments lie far apart. Four or five of them are painted as
a slide is, with its spots; on a positive slide, those of 2 or 3 fragments are foci. The others have no spots, and are
copies of each other. At 32,768 pixels a side, an overview shows where the fragments are, wide glimpses of one of them
show its dark spots, and only a fine one tells what they are.

Slides for testing are made of other parts of the images than those for training and validation. Made once per machine,
in two to three minutes on two cores (a sparse slide of 32,768 pixels takes 5 s of one), into a folder named after what
was asked for (see `glimpse.synthetic.making`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from glimpse.synthetic import making
from glimpse.synthetic.making import CaseRecord, Recipe, Table, embedded, generator, write_whole
from glimpse.synthetic.slides.layout import Layout, lay_out
from glimpse.synthetic.slides.painting import paint
from glimpse.synthetic.slides.patchwork import Patch, Patchwork
from glimpse.synthetic.slides.scattering import SMALLEST, Fragment, fragment_side, scatter
from glimpse.synthetic.slides.staining import SITES, Look, Site
from glimpse.synthetic.slides.svs import write_svs
from glimpse.synthetic.slides.texture import sheets, sides, texture

VERSION = 4
"""Raised whenever the painting changes, so that cohorts of different painting never mix."""

SPARSE_VERSION = 3
"""The same of sparse slides; raised with `VERSION`, too."""

MPP = 0.5
"""Size of a full-resolution pixel in micrometres."""


def embedded_cohort(
    folder: str | Path | None = None,
    n: int = 270,
    seed: int = 0,
    size: int | None = None,
    progress: bool = False,
    workers: int | None = None,
    sparse: bool = False,
) -> Path:
    """Makes the embedded cohort unless it is there already.

    Beside `cohort.csv` (case_id, slide_id, path, target, split, mpp, site) lies `regions.csv` (slide_id, kind, y, x,
    radius in level-0 pixels): the largest circle inside each spot, for pictures and tests, never for training. A kind
    is "tumour focus" or "look-alike". All slides of a patient are of one site. Sparse slides have a column `fragment`
    there, too: in which fragment of its slide a spot lies, from 0 on.

    Args:
        folder: Where to keep it; by default a folder of its own in `GLIMPSE_CACHE`, else in the user's cache folder.
        n: Number of slides, at least 6.
        seed: Seed of everything drawn.
        size: Side of a slide in pixels at full resolution, a multiple of 256: at least 1024, by default 3072; of sparse
            slides at least 8192, by default 32768.
        progress: Whether to show a progress bar, on a terminal.
        workers: Number of processes; by default one per core, and only this one for a small cohort.
        sparse: Whether slides are mostly glass, with fragments of tissue far apart.

    Returns:
        Path of `cohort.csv`.

    Raises:
        ValueError: If `n`, `size` or `workers` is out of range, or the folder holds another cohort.
        OSError: If the folder cannot be written to or its disk is full.
    """
    recipe, usual = (SPARSE, 32_768) if sparse else (RECIPE, 3072)
    return embedded(recipe, folder, n, seed, usual if size is None else size, progress, workers)


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
    rng = generator(VERSION, record, seed, 1)
    look = Look.draw(rng, site_of(record, seed))
    tissue = sheets(int(record.split == "test"), *sides(size))
    slide = paint(rng, _layout(record, seed, size), look, tissue, texture().walls)
    quarter = slide.reduce(4)
    levels = [np.asarray(level) for level in (slide, quarter, quarter.reduce(4))]
    write_whole(folder / record.path, partial(write_svs, levels=levels, mpp=MPP, quality=look.quality))


def make_sparse_slide(record: CaseRecord, folder: Path, seed: int, size: int) -> None:
    """Paints the fragments of one sparse slide and writes it; the slide is never whole in memory."""
    rng = generator(SPARSE_VERSION, record, seed, 1)
    look = Look.draw(rng, site_of(record, seed))
    tissue = sheets(int(record.split == "test"), *sides(size // 8))  # all fragments share them
    patches: list[Patch] = []
    images: dict[int, np.ndarray] = {}  # by the identity of layouts, which some fragments share
    for one in _scattered(record, seed, size):
        if id(one.layout) not in images:
            images[id(one.layout)] = np.asarray(paint(rng, one.layout, look, tissue, texture().walls))
        patches.append(Patch(one.y, one.x, images[id(one.layout)]))
    levels = [Patchwork(size, look.empty, patches)]
    for _ in range(3):  # each level is four times smaller per side
        levels.append(levels[-1].reduced(4))
    write_whole(folder / record.path, partial(write_svs, levels=levels, mpp=MPP, quality=look.quality))


def site_of(record: CaseRecord, seed: int) -> Site:
    """The site at which a patient's slides were made; it has nothing to do with the target."""
    patient = [*record.patient.encode()]
    return SITES[int(np.random.default_rng([VERSION, seed, 0x517E, *patient]).integers(len(SITES)))]


def regions(record: CaseRecord, seed: int, size: int) -> Iterator[tuple[str, str, float, float, float]]:
    """The rows of a slide in `regions.csv`."""
    for spot in _layout(record, seed, size).spots:
        yield record.id, spot.kind, round(spot.y, 1), round(spot.x, 1), round(spot.radius, 1)


def sparse_regions(record: CaseRecord, seed: int, size: int) -> Iterator[tuple[str, str, float, float, float, int]]:
    """The rows of a sparse slide in `regions.csv`."""
    for number, part in enumerate(_scattered(record, seed, size)):
        for spot in part.layout.spots:
            y, x = part.y + spot.y, part.x + spot.x
            yield record.id, spot.kind, round(y, 1), round(x, 1), round(spot.radius, 1), number


@lru_cache(maxsize=1)  # a slide's regions are asked for after it has been painted
def _layout(record: CaseRecord, seed: int, size: int) -> Layout:
    tissue = texture()
    return lay_out(generator(VERSION, record, seed, 0), size, record.target, tissue.labels, tissue.islands)


@lru_cache(maxsize=1)
def _scattered(record: CaseRecord, seed: int, size: int) -> tuple[Fragment, ...]:
    tissue = texture()
    rng = generator(SPARSE_VERSION, record, seed, 0)
    return scatter(rng, size, record.target, tissue.labels, tissue.islands)


def _site_name(record: CaseRecord, seed: int) -> str:
    return site_of(record, seed).name


def _check_size(size: int, kind: str = "slide", least: int = 1024, usual: str = "1024 or 3072") -> None:
    if size < least or size % 256:
        raise ValueError(f"size={size}: a {kind}'s side is a multiple of 256 of at least {least}; try {usual}.")


RECIPE = Recipe(
    kind="wsi",
    version=VERSION,
    noun="slide",
    folder="slides",
    suffix=".svs",
    make=f"{__name__}:make_slide",
    check=_check_size,
    megabytes=lambda size: size**2 * 0.15 / 1e6,
    columns={"mpp": MPP, "site": _site_name},
    tables={"regions.csv": Table(("slide_id", "kind", "y", "x", "radius"), f"{__name__}:regions")},
)

SPARSE = replace(
    RECIPE,
    kind="sparse-wsi",
    version=SPARSE_VERSION,
    make=f"{__name__}:make_sparse_slide",
    check=partial(_check_size, kind="sparse slide", least=SMALLEST, usual="32768"),
    megabytes=lambda size: 6 * fragment_side(size) ** 2 * 0.12 / 1e6,  # different fragments, 0.12 bytes per pixel
    tables={"regions.csv": Table(("slide_id", "kind", "y", "x", "radius", "fragment"), f"{__name__}:sparse_regions")},
)
