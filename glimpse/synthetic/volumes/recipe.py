"""The embedded cohorts of volumes: MR of heads and CT of chests, as NIfTI files in mixed orientations.

In both, a volume holds 7 to 10 bright spots. In a positive one, 3 to 6 of them are lesions rather than look-alikes;
both are made of the same parts in another arrangement, so that neither an overview nor the texture of a glimpse tells
them apart, but only their form; see `glimpse.synthetic.volumes.spots`. Small volumes have room for less: 3 or 4 spots,
of which 1 or 2 are lesions in a positive one. Masks show the lesions. Contrast, noise, bias field (MR) and sharpness
(CT) differ from volume to volume, as they do between hospitals.

Beside `cohort.csv` lies `regions.csv` (slide_id, kind, z, y, x in voxels, radius in millimetres): where the spots are,
for pictures and tests, never for training. Its voxels are those of the volume whose axes (z, y, x) grow to superior,
anterior and right, as `glimpse.sources.VolumeSource` reads it.

Made once per machine, in about two minutes on two cores, into a folder named after what was asked for (see
`glimpse.synthetic.making`).
"""

import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import scipy

from glimpse.synthetic.making import CaseRecord, Recipe, Table, embedded, generator, write_whole
from glimpse.synthetic.volumes.brain import make_head
from glimpse.synthetic.volumes.chest import make_chest
from glimpse.synthetic.volumes.fields import Volume, smooth_field
from glimpse.synthetic.volumes.spots import Rule, Spot, draw_spots, paint_spot

VERSION = 4
"""Raised whenever the painting changes, so that cohorts of different painting never mix."""

COARSE = 2
"""Voxels between places where a spot may lie."""

Anatomy = Callable[[np.random.Generator, Sequence[int], Sequence[float], int], tuple[Volume, np.ndarray]]


@dataclass(frozen=True)
class Kind:
    """One kind of volume.

    Attributes:
        anatomy: draws the volume without spots and noise, and where spots may lie.
        finish: adds what the scanner adds and brings values to the file's type.
        spacing: millimetres per voxel along z, y and x.
        shares: of the size along z, y and x.
        step: sizes are multiples of it.
        least: smallest size.
        full: size from which on there is room for all spots.
        orientations: that files come in, as nibabel writes them.
        rule: of the spots.
    """

    anatomy: Anatomy
    finish: Callable[[np.random.Generator, Volume, Sequence[float]], np.ndarray]
    spacing: tuple[float, float, float]
    shares: tuple[float, float, float]
    step: int
    least: int
    full: int
    orientations: tuple[str, ...]
    rule: Rule

    def shape(self, size: int) -> tuple[int, ...]:
        """Voxels along z, y and x."""
        return tuple(round(share * size) for share in self.shares)

    def rule_of(self, size: int) -> Rule:
        """Of the spots of a volume of this size."""
        return self.rule if size >= self.full else _few(self.rule)

    def check(self, size: int) -> None:
        """Refuses impossible sizes."""
        if size < self.least or size % self.step:
            raise ValueError(
                f"size={size}: the longest side of a volume is a multiple of {self.step} voxels of at least "
                f"{self.least}; try {self.least} or {self.full}."
            )


def embedded_mri(
    folder: str | Path | None = None,
    n: int = 220,
    seed: int = 0,
    size: int = 192,
    progress: bool = False,
    workers: int | None = None,
) -> Path:
    """Makes the embedded cohort of MR volumes unless it is there already.

    Args:
        folder: Where to keep it; by default a folder of its own in `GLIMPSE_CACHE`, else in the user's cache folder.
        n: Number of volumes, at least 6.
        seed: Seed of everything drawn.
        size: Voxels of 1 mm from front to back, a multiple of 6 of at least 72; the other sides have 5/6 of it.
        progress: Whether to show a progress bar, on a terminal.
        workers: Number of processes; by default one per core, and only this one for a small cohort.

    Returns:
        Path of `cohort.csv` (case_id, slide_id, path, target, split, mask).

    Raises:
        ValueError: If `n`, `size` or `workers` is out of range, or the folder holds another cohort.
        OSError: If the folder cannot be written to or its disk is full.
    """
    return embedded(MRI, folder, n, seed, size, progress, workers)


def embedded_ct(
    folder: str | Path | None = None,
    n: int = 240,
    seed: int = 0,
    size: int = 240,
    progress: bool = False,
    workers: int | None = None,
) -> Path:
    """Makes the embedded cohort of CT volumes unless it is there already; see `embedded_mri`.

    Args:
        folder: Where to keep it.
        n: Number of volumes, at least 6.
        seed: Seed of everything drawn.
        size: Voxels of 0.8 mm from side to side, a multiple of 60 of at least 120; there is 3/4 of it from front to
            back and 3/10 of it, of 2 mm, from below to above.
        progress: Whether to show a progress bar, on a terminal.
        workers: Number of processes.

    Returns:
        Path of `cohort.csv` (case_id, slide_id, path, target, split, mask).

    Raises:
        ValueError: If `n`, `size` or `workers` is out of range, or the folder holds another cohort.
        OSError: If the folder cannot be written to or its disk is full.
    """
    return embedded(CT, folder, n, seed, size, progress, workers)


def make_mri_volume(record: CaseRecord, folder: Path, seed: int, size: int) -> None:
    """Draws one MR volume and writes it, after its mask."""
    make_volume(HEAD, record, folder, seed, size)


def make_ct_volume(record: CaseRecord, folder: Path, seed: int, size: int) -> None:
    """Draws one CT volume and writes it, after its mask."""
    make_volume(THORAX, record, folder, seed, size)


@dataclass(frozen=True)
class Drawn:
    """A volume (z, y, x) as a file holds it, its lesions (bool, same shape), and its spots."""

    values: np.ndarray
    mask: np.ndarray
    spots: tuple[Spot, ...]


def draw(kind: Kind, record: CaseRecord, seed: int, size: int) -> Drawn:
    """Draws one volume; the target decides over nothing but the kinds of its spots."""
    empty, spots = _anatomy(kind, record, seed, size)
    volume, mask = empty.copy(), np.zeros(kind.shape(size), bool)
    for spot in spots:
        block, covered = paint_spot(volume, spot, kind.rule_of(size), kind.spacing)
        if spot.kind == "lesion":
            mask[block] |= covered
    return Drawn(kind.finish(generator(VERSION, record, seed, 2), volume, kind.spacing), mask, spots)


@lru_cache(maxsize=1)  # a volume's regions are asked for after it has been painted
def _anatomy(kind: Kind, record: CaseRecord, seed: int, size: int) -> tuple[Volume, tuple[Spot, ...]]:
    """A volume without spots and noise, and its spots."""
    volume, room = kind.anatomy(generator(VERSION, record, seed, 0), kind.shape(size), kind.spacing, COARSE)
    rng = generator(VERSION, record, seed, 1)
    return volume, tuple(draw_spots(rng, record.target, kind.rule_of(size), room, kind.spacing, COARSE))


def mri_regions(record: CaseRecord, seed: int, size: int) -> Iterator[tuple[str, str, float, float, float, float]]:
    """The rows of an MR volume in `regions.csv`."""
    yield from regions(HEAD, record, seed, size)


def ct_regions(record: CaseRecord, seed: int, size: int) -> Iterator[tuple[str, str, float, float, float, float]]:
    """The rows of a CT volume in `regions.csv`."""
    yield from regions(THORAX, record, seed, size)


def regions(
    kind: Kind, record: CaseRecord, seed: int, size: int
) -> Iterator[tuple[str, str, float, float, float, float]]:
    """The rows of a volume of a kind in `regions.csv`."""
    for spot in _anatomy(kind, record, seed, size)[1]:
        z, y, x = (round(place, 2) for place in spot.middle)
        yield record.id, spot.kind, z, y, x, round(spot.radius, 2)


def _few(rule: Rule) -> Rule:
    """What there is room for in a small volume."""
    low, high = rule.radius
    return replace(rule, spots=(3, 4), lesions=(1, 2), apart=9.0, radius=(0.4 * low, 0.4 * high))


def make_volume(kind: Kind, record: CaseRecord, folder: Path, seed: int, size: int) -> None:
    """Draws one volume of a kind and writes it, after its mask."""
    drawn = draw(kind, record, seed, size)
    rng = generator(VERSION, record, seed, 3)
    codes = kind.orientations[rng.integers(len(kind.orientations))]
    shift = rng.uniform(-20, 20, 3)
    for name, values in ((record.mask, drawn.mask.astype(np.uint8)), (record.path, drawn.values)):
        if name:  # the mask first: an image that is there counts as finished
            packed = name.endswith(".gz")
            write = partial(_write_nifti, values=values, spacing=kind.spacing, codes=codes, shift=shift, packed=packed)
            write_whole(folder / name, write)


def _write_nifti(
    path: Path, values: np.ndarray, spacing: Sequence[float], codes: str, shift: np.ndarray, packed: bool
) -> None:
    """Writes a canonical volume (z, y, x) in another orientation; the same bytes every time."""
    import nibabel  # slow to import, and other modalities' commands look at this file for its options
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

    voxels, sides = values.T, np.asarray(spacing)[::-1]
    affine = np.diag([*sides, 1.0])
    affine[:3, 3] = -sides * (np.asarray(voxels.shape) - 1) / 2 + shift
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    stored = np.ascontiguousarray(apply_orientation(voxels, turn))
    image = nibabel.Nifti1Image(stored, affine @ inv_ornt_aff(turn, voxels.shape))
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    path.write_bytes(gzip.compress(content, compresslevel=1, mtime=0) if packed else content)


def _head(
    rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], coarse: int
) -> tuple[Volume, np.ndarray]:
    """A head with a contrast of its own between fluid, grey and white matter, as sequences differ between scanners."""
    volume, room = make_head(rng, shape, spacing, coarse)
    return with_contrast(rng, volume), room


def with_contrast(rng: np.random.Generator, volume: Volume) -> Volume:
    """A head in the contrast of a sequence of its own."""
    return np.maximum(volume, 0) ** np.float32(rng.uniform(0.85, 1.25))


def _finish_mri(rng: np.random.Generator, volume: Volume, spacing: Sequence[float]) -> np.ndarray:
    """Coil sensitivity, Rician noise and a scale of the scanner's own: uint8."""
    volume *= np.exp(np.float32(rng.uniform(0.04, 0.14)) * smooth_field(rng, volume.shape, spacing, 70.0))
    real, imaginary = (rng.standard_normal(volume.shape, np.float32) for _ in range(2))
    noise = np.float32(rng.uniform(0.015, 0.035))
    volume = np.sqrt((volume + noise * real) ** 2 + (noise * imaginary) ** 2)
    return np.clip(volume * np.float32(rng.uniform(75, 105)) + np.float32(0.5), 0, 255).astype(np.uint8)


def _finish_ct(rng: np.random.Generator, volume: Volume, spacing: Sequence[float]) -> np.ndarray:
    """Noise with the grain of a kernel that is softer or sharper: int16 Hounsfield units."""
    noise = rng.standard_normal(volume.shape, np.float32)
    side = rng.uniform(0.1, 0.4)
    for axis in (1, 2):
        noise = scipy.ndimage.correlate1d(noise, np.array([side, np.sqrt(1 - 2 * side**2), side], np.float32), axis)
    volume += noise * np.float32(rng.uniform(14, 32))
    return np.clip(np.rint(volume), -1024, 3071).astype(np.int16)


HEAD = Kind(
    anatomy=_head,
    finish=_finish_mri,
    spacing=(1.0, 1.0, 1.0),
    shares=(5 / 6, 1.0, 5 / 6),
    step=6,
    least=72,
    full=144,
    orientations=("RAS", "LPS", "LAS", "PIR", "LIP", "ASL"),
    rule=Rule(spots=(7, 10), lesions=(3, 6), apart=22.0, radius=(8.0, 9.0), weight=(0.26, 0.34)),
)

THORAX = Kind(
    anatomy=make_chest,
    finish=_finish_ct,
    spacing=(2.0, 0.8, 0.8),
    shares=(0.3, 3 / 4, 1.0),
    step=60,
    least=120,
    full=180,
    orientations=("LPS", "RAS", "LAS", "RPI"),
    rule=Rule(
        spots=(7, 10),
        lesions=(3, 6),
        apart=22.0,
        radius=(8.0, 9.0),
        weight=(400.0, 500.0),
        wave=0.5,
        upright=True,
        level=True,
    ),
)

COLUMNS = ("slide_id", "kind", "z", "y", "x", "radius")

MRI = Recipe(
    kind="mri",
    version=VERSION,
    noun="volume",
    folder="volumes",
    suffix=".nii.gz",
    make="glimpse.synthetic.volumes.recipe:make_mri_volume",
    tables={"regions.csv": Table(COLUMNS, "glimpse.synthetic.volumes.recipe:mri_regions")},
    check=HEAD.check,
    megabytes=lambda size: float(np.prod(HEAD.shape(size))) * 0.75 / 1e6,
    mask=".nii.gz",
)

CT = Recipe(
    kind="ct",
    version=VERSION,
    noun="volume",
    folder="volumes",
    suffix=".nii",
    make="glimpse.synthetic.volumes.recipe:make_ct_volume",
    tables={"regions.csv": Table(COLUMNS, "glimpse.synthetic.volumes.recipe:ct_regions")},
    check=THORAX.check,
    megabytes=lambda size: float(np.prod(THORAX.shape(size))) * 2.0 / 1e6,
    mask=".nii.gz",
)
