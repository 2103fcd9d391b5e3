"""The embedded cohort of fundus photographs: real JPEG files, some with a few microaneurysms.

A photograph is positive if 3 to 6 of its 7 to 10 small reddish spots hold microaneurysms (see
`glimpse.synthetic.photos.spots`). In the overview they and their look-alikes are the same, and so are their colours and
texture; only the form that a glimpse shows tells them apart. Vessels, optic disc, macula, light and pigment differ from
eye to eye, a quarter of the files lie on a side or upside down and say so in their EXIF data, and none of this has to
do with the target.

Made once per machine, about three minutes on two cores and 1 GB of disk.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from glimpse.synthetic.making import CaseRecord, Recipe, Table, embedded, generator, write_whole
from glimpse.synthetic.photos.fundus import Anatomy, in_retina, mask_out, paint_fundus
from glimpse.synthetic.photos.spots import ANEURYSM, Spot, draw_spots, paint_spots
from glimpse.synthetic.placing import draw_mask

VERSION = 1
"""Raised whenever the painting changes, so that cohorts of different painting never mix."""

QUALITY = 95  # of the JPEG files
_NOISES = (0.008, 0.014)  # of white, in full light
_LYING = 0.25  # of the files are stored as the camera was held
_TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""What is done to an upright picture before it is stored, by the EXIF orientation that undoes it."""

_ORIENTATION = 0x0112
_MASK_RADIUS = 30.0  # pixels around a spot's middle that its mask covers


def embedded_cohort(
    folder: str | Path | None = None,
    n: int = 236,
    seed: int = 0,
    size: int = 3072,
    progress: bool = False,
    workers: int | None = None,
) -> Path:
    """Makes the embedded cohort unless it is there already.

    Beside `cohort.csv` (case_id, slide_id, path, target, split, mask) lies `regions.csv` (slide_id, kind, y, x, radius
    in level-0 pixels): where the spots are, for pictures and tests, never for training.

    Args:
        folder: where to keep it; by default a folder of its own in `GLIMPSE_CACHE`, else in the user's cache folder.
        n: number of photographs, at least 6.
        seed: seed of everything drawn.
        size: side of a photograph in pixels, a multiple of 256 of at least 768.
        progress: whether to show a progress bar, on a terminal.
        workers: number of processes; by default one per core, and only this one for a small cohort.

    Returns:
        Path of `cohort.csv`.

    Raises:
        ValueError: `n`, `size` or `workers` is out of range, or the folder holds another cohort.
        OSError: the folder cannot be written to or its disk is full.
    """
    return embedded(RECIPE, folder, n, seed, size, progress, workers)


def make_photo(record: CaseRecord, folder: Path, seed: int, size: int) -> None:
    """Paints one photograph and writes its mask, where it has microaneurysms, and then itself."""
    anatomy, spots = plan_photo(record, seed, size)
    rng = generator(VERSION, record, seed, 1)
    pixels = paint_photo(rng, anatomy, spots, size)
    if record.mask:
        circles = [(spot.y, spot.x, _MASK_RADIUS) for spot in spots if spot.kind == ANEURYSM]
        write_whole(folder / record.mask, partial(draw_mask(circles, size).save, format="PNG"))
    lies = rng.random() < _LYING
    orientation = int(rng.choice(list(_TURNS))) if lies else 1
    write_whole(folder / record.path, partial(write_photo, pixels=pixels, orientation=orientation))


def plan_photo(record: CaseRecord, seed: int, size: int) -> tuple[Anatomy, list[Spot]]:
    """The eye and the spots of a record."""
    rng = generator(VERSION, record, seed, 0)
    anatomy = Anatomy.draw(rng)
    return anatomy, draw_spots(rng, partial(in_retina, anatomy), size, record.target)


def paint_photo(
    rng: np.random.Generator, anatomy: Anatomy, spots: Sequence[Spot], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """A photograph, upright, before it is compressed."""
    picture = paint_fundus(rng, anatomy, size)
    paint_spots(rng, picture, spots)
    mask_out(picture, anatomy)
    _add_noise(rng, picture)
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def _add_noise(rng: np.random.Generator, picture: Float[np.ndarray, "3 size size"]) -> None:
    """Adds what a sensor does, in place: more where it is bright, and nearly the same in all colours."""
    grain = rng.standard_normal(picture.shape[1:], dtype=np.float32)
    grain *= np.float32(rng.uniform(*_NOISES)) * (np.float32(0.3) + np.sqrt(picture[1].clip(0, 1)))
    for channel, share in enumerate((1.0, 1.0, 0.8)):
        picture[channel] += np.float32(share) * grain


def write_photo(path: Path, pixels: UInt8[np.ndarray, "size size 3"], orientation: int) -> None:
    """Writes a JPEG file whose EXIF data say how it is turned upright.

    Args:
        path: of the file.
        pixels: as they are to be seen.
        orientation: 1 (as it is), 3, 6 or 8 (Exif 2.32, 4.6.5).
    """
    image, exif = Image.fromarray(np.ascontiguousarray(pixels)), Image.Exif()
    exif[_ORIENTATION] = orientation
    turned = image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
    turned.save(path, format="JPEG", quality=QUALITY, exif=exif)


def regions(record: CaseRecord, seed: int, size: int) -> Iterator[tuple[str, str, float, float, float]]:
    """The rows of a photograph in `regions.csv`."""
    for spot in plan_photo(record, seed, size)[1]:
        yield record.id, spot.kind, round(spot.y, 1), round(spot.x, 1), round(spot.radius, 1)


def _check_size(size: int) -> None:
    if size < 768 or size % 256:
        raise ValueError(f"size={size}: a photograph's side is a multiple of 256 of at least 768; try 1536 or 3072.")


RECIPE = Recipe(
    kind="photo",
    version=VERSION,
    noun="photo",
    folder="photos",
    suffix=".jpg",
    make=f"{__name__}:make_photo",
    check=_check_size,
    megabytes=lambda size: size**2 * 0.45 / 1e6,
    mask=".png",
    tables={"regions.csv": Table(("slide_id", "kind", "y", "x", "radius"), f"{__name__}:regions")},
)
