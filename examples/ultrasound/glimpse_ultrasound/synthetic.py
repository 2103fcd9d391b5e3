"""Synthetic B-mode images to try the package out: a sector of speckle with a dark lesion; has it a stone?"""

import csv
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

_SPACING = 0.1  # millimetres


def make_cohort(n: int = 90, size: int = 1024, seed: int = 0, folder: str | Path | None = None) -> Path:
    """Makes a cohort and returns the path of its CSV; one that is there already is taken as it is.

    Args:
        n: number of images; in every second one the lesion holds a stone, a bright grain with a shadow.
        size: pixels of an image's side.
        seed: of the images.
        folder: where; a folder among temporary files when not given.
    """
    place = Path(folder) if folder else Path(tempfile.gettempdir()) / f"glimpse-ultrasound-{n}-{size}-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    cohort = place / "cohort.csv"
    if cohort.is_file():
        return cohort
    for index in range(n):
        image = make_image(np.random.default_rng((seed, index)), size, stone=bool(index % 2))
        write_metaimage(place / f"image-{index:03d}.mhd", image)
    partial = cohort.with_suffix(".partial")
    with open(partial, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("case_id", "slide_id", "path", "target"))
        rows.writerows((f"patient-{i}", f"image-{i:03d}", f"image-{i:03d}.mhd", i % 2) for i in range(n))
    partial.replace(cohort)
    return cohort


def make_image(rng: np.random.Generator, size: int, stone: bool) -> np.ndarray:
    """One image, uint8 (size, size)."""
    y, x = np.mgrid[:size, :size] / size
    depth, angle = np.hypot(y + 0.2, x - 0.5), np.arctan2(x - 0.5, y + 0.2)
    sector = (depth > 0.3) & (depth < 1.15) & (np.abs(angle) < 0.6)
    echo = 110 * np.exp(-0.6 * depth)
    middle = np.array([rng.uniform(0.4, 0.75), rng.uniform(0.35, 0.65)])
    lesion = np.hypot((y - middle[0]) / 0.7, x - middle[1]) < rng.uniform(0.08, 0.12)
    echo = np.where(lesion, 0.35 * echo, echo)
    if stone:
        far, turn = np.hypot(middle[0] + 0.2, middle[1] - 0.5), np.arctan2(middle[1] - 0.5, middle[0] + 0.2)
        echo = np.where((np.abs(angle - turn) < 0.015) & (depth > far), 0.3 * echo, echo)
        echo = np.where(np.hypot(y - middle[0], x - middle[1]) < 0.012, 240.0, echo)
    grain = rng.rayleigh(0.8, (size // 4, size // 4)).astype(np.float32)
    speckle = np.asarray(Image.fromarray(grain).resize((size, size), Image.Resampling.BILINEAR))
    return np.where(sector, np.clip(echo * speckle, 0, 255), 0).astype(np.uint8)


def write_metaimage(path: Path, image: np.ndarray) -> None:
    """Writes uint8 (height, width) as a header and a file of pixels beside it."""
    raw = path.with_suffix(".raw")
    raw.write_bytes(image.tobytes())
    height, width = image.shape
    lines = (
        "ObjectType = Image",
        "NDims = 2",
        f"DimSize = {width} {height}",
        "ElementType = MET_UCHAR",
        f"ElementSpacing = {_SPACING} {_SPACING}",
        f"ElementDataFile = {raw.name}",
    )
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
