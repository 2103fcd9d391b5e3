"""The texture that comes with the package, and the sheets of tissue quilted from it, once per process.

The files in `texture/` are made from the images of histolytics (BSD 3-Clause) by `benchmarks.tissue_texture`. Slides
for training and validation take the upper half of each image, slides for testing the lower half.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from glimpse.synthetic.slides.likeness import look_alike
from glimpse.synthetic.slides.quilting import COARSE, Source, quilt

FOLDER = Path(__file__).parent / "texture"

SHEET = 1600
"""Side of the sheets of tumour and of look-alikes in pixels."""

_SMALL_SHEET = 640  # for small slides, whose spots are few and small

_GROUND = 3200  # side of the largest sheet of stroma; larger slides repeat it
_STROMA, _TUMOUR = (224, 64), (128, 48)  # side of a patch, and overlap; less that, whole numbers of them make a sheet
_HALVES = (slice(0, 182), slice(193, 375))  # rows of the masks; those between belong to neither half


@dataclass(frozen=True)
class Texture:
    """What comes with the package.

    Attributes:
        stroma: uint8 (height, width, 3), an image of stroma.
        nest: likewise, an image of a nest of tumour, with stroma at its margin.
        masks: where patches may be taken: "stroma", "nest_stroma" and "nest_tumour", one cell for `COARSE` pixels.
        labels: map of the tissue of a whole slide.
        islands: outlines of its tumour islands, (island, points, 2), centred and with a largest extent of 1.
        walls: uint8, walls between fat cells; the map continues itself on all sides.
    """

    stroma: np.ndarray
    nest: np.ndarray
    masks: dict[str, np.ndarray]
    labels: np.ndarray
    islands: np.ndarray
    walls: np.ndarray


@dataclass(frozen=True)
class Sheets:
    """Tissue to take windows of; all sheets continue themselves on all sides.

    Attributes:
        ground: stroma, uint8 (side, side, 3).
        tumour: likewise, of another side.
        look_alike: stroma with the statistics of `tumour`, of the same shape.
    """

    ground: np.ndarray
    tumour: np.ndarray
    look_alike: np.ndarray


@lru_cache(maxsize=1)
def texture() -> Texture:
    """Reads the files of the package."""
    images = {name: np.asarray(Image.open(FOLDER / f"{name}.jpg").convert("RGB")) for name in ("stroma", "nest")}
    with np.load(FOLDER / "tissue.npz") as file:
        cells = images["stroma"].shape[1] // COARSE
        masks = {
            name: np.unpackbits(file[name], axis=1)[:, :cells] > 0 for name in ("stroma", "nest_stroma", "nest_tumour")
        }
        return Texture(**images, masks=masks, labels=file["labels"], islands=file["outlines"], walls=file["walls"])


@lru_cache(maxsize=4)
def sheets(half: int, ground: int, spots: int) -> Sheets:
    """Quilts the sheets of one half of the images; they depend on nothing else.

    Args:
        half: 0 for the upper half, 1 for the lower.
        ground: Side of the sheet of stroma in pixels.
        spots: Side of the other two.
    """
    given, rng = texture(), np.random.default_rng([half, ground, spots, 0x5EE7])
    masks = {name: np.zeros_like(mask) for name, mask in given.masks.items()}
    for name, mask in given.masks.items():
        masks[name][_HALVES[half]] = mask[_HALVES[half]]
    patch, overlap = _STROMA
    stroma = Source.of([given.stroma, given.nest], [masks["stroma"], masks["nest_stroma"]], patch)
    below = quilt(rng, stroma, ground, overlap, coherent=True)
    fibres = quilt(rng, stroma, spots, overlap, coherent=True)
    patch, overlap = _TUMOUR
    tumour = quilt(rng, Source.of([given.nest], [masks["nest_tumour"]], patch), spots, overlap)
    return Sheets(below, tumour, look_alike(fibres, tumour))


def sides(size: int) -> tuple[int, int]:
    """Sides of the sheets for slides of a size: of stroma, and of tumour and look-alikes."""
    step = _STROMA[0] - _STROMA[1]
    return min(-(-size // step) * step, _GROUND), SHEET if size > 2048 else _SMALL_SHEET
