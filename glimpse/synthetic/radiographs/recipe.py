"""The embedded cohort of chest radiographs: real DICOM files of 12 bits, some with a few small nodules.

A radiograph is positive if 3 to 6 of the 7 to 10 small round shadows in its lungs are nodules (see
`glimpse.synthetic.radiographs.spots`). In the overview nodules and look-alikes are the same, and so is their texture;
only the form that a glimpse shows tells them apart. Ribs, the heart, vessels, letters and collimators are on all of
them alike. Half of the files are MONOCHROME1, contrast, noise and windows differ, and none of this has to do with the
target.

Made once per machine, about two minutes on two cores and 2 GB of disk: the files are not compressed, so that a glimpse
of them reads only its own pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt16
from PIL import Image, ImageDraw, ImageFont

from glimpse.sources.dicom import require_pydicom
from glimpse.synthetic.making import CaseRecord, Recipe, Table, embedded, generator, write_whole
from glimpse.synthetic.placing import draw_mask
from glimpse.synthetic.radiographs.chest import Anatomy, enlarge, in_lungs, paint_chest
from glimpse.synthetic.radiographs.dicom import Shown, write_radiograph
from glimpse.synthetic.radiographs.spots import NODULE, Spot, draw_spots, paint_bodies, paint_details

VERSION = 3
"""Raised whenever the painting changes, so that cohorts of different painting never mix."""

SPACING = 0.15
"""Size of a full-resolution pixel in millimetres."""

WHITE = 4095  # of 12 bits
_CURVES = (1.9, 2.5)  # how soon a film saturates: the steeper, the more contrast lungs have over the rest
_NOISES = (0.006, 0.015)  # of white, where most rays arrive
_MASK_RADII = 1.3  # radii of a nodule that its mask covers


def embedded_cohort(
    folder: str | Path | None = None,
    n: int = 236,
    seed: int = 0,
    size: int = 2048,
    progress: bool = False,
    workers: int | None = None,
) -> Path:
    """Makes the embedded cohort unless it is there already.

    Beside `cohort.csv` (case_id, slide_id, path, target, split, mask) lies `regions.csv` (slide_id, kind, y, x, radius
    in level-0 pixels): where the shadows are, for pictures and tests, never for training.

    Args:
        folder: Where to keep it; by default a folder of its own in `GLIMPSE_CACHE`, else in the user's cache folder.
        n: Number of radiographs, at least 6.
        seed: Seed of everything drawn.
        size: Side of a radiograph in pixels, a multiple of 256 of at least 512.
        progress: Whether to show a progress bar, on a terminal.
        workers: Number of processes; by default one per core, and only this one for a small cohort.

    Returns:
        Path of `cohort.csv`.

    Raises:
        MissingExtraError: If pydicom is not installed.
        ValueError: If `n`, `size` or `workers` is out of range, or the folder holds another cohort.
        OSError: If the folder cannot be written to or its disk is full.
    """
    require_pydicom()
    return embedded(RECIPE, folder, n, seed, size, progress, workers)


def make_radiograph(record: CaseRecord, folder: Path, seed: int, size: int) -> None:
    """Paints one radiograph and writes its mask, where it has nodules, and then itself."""
    anatomy, spots = plan_radiograph(record, seed, size)
    rng = generator(VERSION, record, seed, 1)
    write_case(rng, record, folder, paint_radiograph(rng, anatomy, spots, size), spots)


def write_case(
    rng: np.random.Generator,
    record: CaseRecord,
    folder: Path,
    pixels: UInt16[np.ndarray, "size size"],
    spots: list[Spot],
) -> None:
    """Writes the mask of a radiograph, where it has nodules, and then itself, to be shown in a window of its own."""
    if record.mask:
        write_whole(folder / record.mask, partial(draw_mask(_nodules(spots), len(pixels)).save, format="PNG"))
    shown = Shown(bool(rng.random() < 0.5), rng.uniform(1900, 2300), rng.uniform(3800, 4400), SPACING)
    write_whole(folder / record.path, partial(write_radiograph, pixels=pixels, shown=shown, record=record))


def plan_radiograph(record: CaseRecord, seed: int, size: int) -> tuple[Anatomy, list[Spot]]:
    """The patient and the shadows of a record."""
    rng = generator(VERSION, record, seed, 0)
    anatomy = Anatomy.draw(rng)
    return anatomy, draw_spots(rng, partial(in_lungs, anatomy), size, record.target)


def paint_radiograph(
    rng: np.random.Generator, anatomy: Anatomy, spots: Sequence[Spot], size: int
) -> UInt16[np.ndarray, "size size"]:
    """A radiograph of 12 bits, bone white, of a painted chest."""
    film = expose(rng, enlarge(paint_chest(rng, anatomy), size).copy(), spots)
    _collimate(rng, film)
    _letter(rng, film)
    return in_bits(film)


def expose(
    rng: np.random.Generator, field: Float[np.ndarray, "size size"], spots: Sequence[Spot]
) -> Float[np.ndarray, "size size"]:
    """A film of what rays lose: ``(1 - exp(-c w)) / (1 - exp(-c))``, with spots and noise; bone is 1.

    Args:
        rng: Source of randomness.
        field: What rays lose without spots, about 0.35 in a lung and 1 in the spine; overwritten.
        spots: Are added, bodies to the field and details to the film.
    """
    paint_bodies(rng, field, spots)
    curve = rng.uniform(*_CURVES)
    film = (1 - np.exp(np.float32(-curve) * field)) / np.float32(1 - np.exp(-curve))
    film = film * np.float32(rng.uniform(0.82, 0.91)) + np.float32(rng.uniform(0.02, 0.04))
    paint_details(rng, film, spots)
    grain = rng.standard_normal(film.shape, dtype=np.float32)
    film += np.float32(rng.uniform(*_NOISES)) * grain * (np.float32(0.7) + np.float32(0.6) * film)
    return film


def in_bits(film: Float[np.ndarray, "size size"]) -> UInt16[np.ndarray, "size size"]:
    """A film as a file of 12 bits holds it."""
    return np.clip(np.rint(film * WHITE), 0, WHITE).astype(np.uint16)


def _collimate(rng: np.random.Generator, film: Float[np.ndarray, "size size"]) -> None:
    """Darkens the edges, where the collimator has kept most rays away, in place."""
    size = len(film)
    for axis in (0, 1):
        first, last = (size * rng.uniform(-0.01, 0.025, 2)).tolist()
        place = np.arange(size, dtype=np.float32)
        open_ = np.clip((np.minimum(place - first, size - last - place)) / (0.003 * size), 0, 1)
        film *= (np.float32(0.04) + np.float32(0.96) * open_)[:, None] if axis == 0 else (0.04 + 0.96 * open_)[None]


def _letter(rng: np.random.Generator, film: Float[np.ndarray, "size size"]) -> None:
    """A letter of lead at the shoulder: R on the patient's right, which is the picture's left, or L on the other."""
    size = len(film)
    right = bool(rng.random() < 0.6)
    side = max(size // 16, 16)
    picture = Image.new("L", (side, side))
    font = ImageFont.load_default(size=0.8 * side)
    ImageDraw.Draw(picture).text((side / 2, side / 2), "R" if right else "L", fill=255, font=font, anchor="mm")
    top = int(size * rng.uniform(0.035, 0.06))
    left = int(size * (rng.uniform(0.04, 0.08) if right else rng.uniform(0.86, 0.90)))
    place = film[top : top + side, left : left + side]
    place += (np.float32(0.97) - place) * (np.asarray(picture, np.float32) / 255)


def _nodules(spots: Iterable[Spot]) -> Iterator[tuple[float, float, float]]:
    """What the mask covers: circles (y, x, radius) around the nodules."""
    yield from ((spot.y, spot.x, _MASK_RADII * spot.radius) for spot in spots if spot.kind == NODULE)


def regions(record: CaseRecord, seed: int, size: int) -> Iterator[tuple[str, str, float, float, float]]:
    """The rows of a radiograph in `regions.csv`."""
    yield from rows_of(record, plan_radiograph(record, seed, size)[1])


def rows_of(record: CaseRecord, spots: Iterable[Spot]) -> Iterator[tuple[str, str, float, float, float]]:
    """The rows of these spots in `regions.csv`."""
    for spot in spots:
        yield record.id, spot.kind, round(spot.y, 1), round(spot.x, 1), round(spot.radius, 1)


def _check_size(size: int) -> None:
    if size < 512 or size % 256:
        raise ValueError(f"size={size}: a radiograph's side is a multiple of 256 of at least 512; try 1024 or 2048.")


COLUMNS = ("slide_id", "kind", "y", "x", "radius")

RECIPE = Recipe(
    kind="xray",
    version=VERSION,
    noun="radiograph",
    folder="radiographs",
    suffix=".dcm",
    make=f"{__name__}:make_radiograph",
    check=_check_size,
    megabytes=lambda size: size**2 * 2 / 1e6,
    mask=".png",
    tables={"regions.csv": Table(COLUMNS, f"{__name__}:regions")},
)
