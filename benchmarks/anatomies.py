"""Cohorts of one real head or chest: bent, turned and exposed anew for every case, with painted spots.

The anatomy is a person's; the spots are those of the embedded cohorts, painted by the same functions, so that lesions
and look-alikes agree in all but their form. Which of them a case has is known, as it is of no real cohort so small.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from glimpse.errors import UserError
from glimpse.sources.dicom import require_pydicom
from glimpse.sources.thresholds import otsu_threshold
from glimpse.synthetic.making import CaseRecord, Recipe, Table, generator
from glimpse.synthetic.radiographs import recipe as radiographs
from glimpse.synthetic.radiographs.spots import Spot, draw_spots
from glimpse.synthetic.volumes import recipe as volumes
from glimpse.synthetic.volumes.brain import ADULT, FLUID, GREY, WHITE
from glimpse.synthetic.volumes.fields import Volume, axes_mm, smooth_field

VERSION = 1
"""Raised whenever the making changes, so that cohorts of different making never mix."""

_BEND = (2.0, 3.5)  # millimetres, standard deviation of a head's displacement
_BEND_SCALE = 40.0  # millimetres between its nodes
_GROW = 0.05  # of each axis, at most
_TURN = 6.0  # degrees around each axis, at most
_SHIFT = 3.0  # millimetres along each axis, at most
_BLUR = (0.0, 0.7)  # voxels
_DEEP = 10.0  # millimetres below an adult brain's surface, at least, where spots lie

_CHEST_BEND = (0.006, 0.012)  # of the image's side, standard deviation of a chest's displacement
_CHEST_SCALE = 0.2  # of the side, between its nodes
_CHEST_BLUR = (0.0, 0.8)  # pixels
_MAP = 256  # pixels per side of the map of lungs
_LUNG = 0.03  # of the image, at least, that each lung takes
_RIM = 0.025  # of the side, from the rim of the lungs, at least


def digest(path: Path) -> str:
    """Names the content of a file, so that cohorts of different templates never mix."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def _recipe(embedded: Recipe, noun: str, template: Path, make: Callable[..., object], regions: Table) -> Recipe:
    """The recipe of an embedded cohort, with another anatomy in its images."""
    return replace(
        embedded,
        kind=f"{noun}s-{digest(template)}",
        version=1000 * VERSION + embedded.version,
        noun=noun,
        folder=f"{noun}s",
        make=make,
        tables={"regions.csv": regions},
    )


# ---------------------------------------------------------------------------------------------- heads
class Head:
    """A brain that has been taken out of a T1-weighted volume, and where in it spots may lie.

    Called as the `anatomy` of a `glimpse.synthetic.volumes.recipe.Kind`.

    Args:
        path: NIfTI file of a head whose surroundings are 0.

    Raises:
        UserError: The file is no such volume.
    """

    def __init__(self, path: Path) -> None:
        try:
            image = nibabel.as_closest_canonical(nibabel.load(path))
            values = np.asarray(image.dataobj, np.float32).T
        except (nibabel.filebasedimages.ImageFileError, OSError, EOFError) as error:
            raise UserError(f"{path}: cannot be read as NIfTI ({error}). Give --template a .nii or .nii.gz.") from error
        inside = values > 0.1 * values.max()
        if values.ndim != 3 or not 0 < inside.mean() < 0.9:
            raise UserError(
                f"{path}: expected one volume of a brain, 0 around it. Give --template a T1-weighted template without "
                "skull, such as MNI152."
            )
        box = ndimage.find_objects(inside.astype(np.uint8))[0]
        self._middle = np.array([(part.start + part.stop - 1) / 2 for part in box])
        self._spacing = np.array(image.header.get_zooms()[:3][::-1], float)
        # As bright as drawn heads: white matter is the bright peak of a T1-weighted volume.
        self._values = values * np.float32(WHITE / np.percentile(values[inside], 90))
        length = (box[1].stop - box[1].start) * self._spacing[1]
        self._deep = _DEEP * min(1.0, length / (0.9 * ADULT))
        self._depth = ndimage.distance_transform_edt(ndimage.binary_fill_holes(inside), self._spacing).astype(
            np.float32
        )
        self._smooth = ndimage.gaussian_filter(self._values, 2.0 / self._spacing)

    def __call__(
        self, rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], coarse: int
    ) -> tuple[Volume, np.ndarray]:
        """Bends the brain into a volume without spots, bias and noise; see `Kind.anatomy`."""
        places = self._places(rng, shape, spacing)
        volume = ndimage.map_coordinates(self._values, places, order=1, prefilter=False)
        volume = volumes.with_contrast(rng, ndimage.gaussian_filter(volume, rng.uniform(*_BLUR)))
        pick = places[(slice(None), *(slice(coarse // 2, None, coarse),) * 3)]
        depth, smooth = (ndimage.map_coordinates(one, pick, order=1) for one in (self._depth, self._smooth))
        return volume, (depth > self._deep) & (smooth > (FLUID + GREY) / 2)  # not in ventricles

    def _places(self, rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
        """Where in the template every voxel is taken from, float32 (axis, z, y, x)."""
        turn = Rotation.from_euler("xyz", rng.uniform(-_TURN, _TURN, 3), degrees=True).as_matrix()
        turn = turn / rng.uniform(1 - _GROW, 1 + _GROW, 3)
        turn[:, 2] *= rng.choice((-1, 1))  # left and right
        axes, shift = axes_mm(shape, spacing), rng.uniform(-_SHIFT, _SHIFT, 3)
        bend = rng.uniform(*_BEND)
        places = np.empty((3, *shape), np.float32)
        for axis in range(3):
            along = sum(one * np.float32(part) for one, part in zip(axes, turn[axis], strict=True))
            bent = np.float32(bend) * smooth_field(rng, shape, spacing, _BEND_SCALE) + np.float32(shift[axis])
            places[axis] = (along + bent) / np.float32(self._spacing[axis]) + np.float32(self._middle[axis])
        return places


def heads(template: Path) -> Recipe:
    """The recipe of a cohort of heads; `size` is that of the embedded one."""
    kind = replace(volumes.HEAD, anatomy=Head(template))
    regions = Table(volumes.COLUMNS, partial(volumes.regions, kind))
    return _recipe(volumes.MRI, "head", template, partial(volumes.make_volume, kind), regions)


# ---------------------------------------------------------------------------------------------- chests
class Chest:
    """What rays lose in a real chest, and where its lungs are.

    Args:
        path: DICOM file of a radiograph whose values are proportional to what rays lose.

    Raises:
        UserError: The file is no such radiograph, or no lungs are found.
    """

    def __init__(self, path: Path) -> None:
        pydicom = require_pydicom()
        try:
            data = pydicom.dcmread(path)
            values = data.pixel_array.astype(np.float32)
        except Exception as error:  # pydicom raises errors of many kinds
            raise UserError(f"{path}: cannot be read as DICOM ({error}). Give --radiograph a chest as .dcm.") from error
        if values.ndim != 2:
            raise UserError(f"{path}: expected one grey image, got {values.shape}. Give --radiograph another one.")
        bright = -values if data.PhotometricInterpretation == "MONOCHROME1" else values
        side = min(bright.shape)
        top, left = ((n - side) // 2 for n in bright.shape)
        square = bright[top : top + side, left : left + side]
        dark = ndimage.zoom(ndimage.gaussian_filter(square, side / _MAP / 2), _MAP / side, order=1)
        lungs = lungs_in(dark)
        if not lungs.any():
            raise UserError(f"{path}: finds no lungs. Give --radiograph a chest from behind, upright.")
        lung, spine = np.median(dark[lungs]), np.percentile(dark, 98)
        self._field = np.clip(0.35 + 0.65 * (square - lung) / (spine - lung), 0, 1.2).astype(np.float32)
        depth = ndimage.distance_transform_edt(lungs)
        self._room = (depth > _RIM * _MAP).astype(np.float32)

    def bent(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The chest in another posture, turned over or not: what rays lose, and the map of places for spots."""
        axis = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2 / size) - 1
        turn = Rotation.from_euler("z", rng.uniform(-_TURN, _TURN) / 2, degrees=True).as_matrix()[:2, :2]
        turn = turn / rng.uniform(1 - _GROW, 1 + _GROW, 2)
        turn[:, 1] *= rng.choice((-1, 1))
        shift, bend = rng.uniform(-0.02, 0.02, 2), 2 * rng.uniform(*_CHEST_BEND)
        places = np.empty((2, size, size), np.float32)
        for row in range(2):
            field = smooth_field(rng, (1, size, size), (1.0, 1.0, 1.0), _CHEST_SCALE * size)[0]
            along = axis[:, None] * np.float32(turn[row, 0]) + axis[None] * np.float32(turn[row, 1])
            places[row] = along + np.float32(bend) * field + np.float32(shift[row])
        whole = (places + 1) * np.float32(len(self._field) / 2) - np.float32(0.5)
        field = ndimage.map_coordinates(self._field, whole, order=1, mode="nearest", prefilter=False)
        step = max(1, size // _MAP)
        coarse = (places[:, step // 2 :: step, step // 2 :: step] + 1) * np.float32(_MAP / 2) - np.float32(0.5)
        room = ndimage.map_coordinates(self._room, coarse, order=1) > 0.5
        return ndimage.gaussian_filter(field, rng.uniform(*_CHEST_BLUR)), room

    @lru_cache(maxsize=1)  # noqa: B019 - one chest lives as long as the command; regions are asked for after painting
    def plan(self, record: CaseRecord, seed: int, size: int) -> tuple[np.ndarray, list[Spot]]:
        """What rays lose without spots, and the spots."""
        rng = generator(VERSION, record, seed, 0)
        field, room = self.bent(rng, size)

        def inside(y: np.ndarray, x: np.ndarray) -> np.ndarray:
            rows, columns = (((one + 1) / 2 * len(room)).astype(int) for one in (y, x))
            return room[rows, columns]

        return field, draw_spots(rng, inside, size, record.target)

    def make(self, record: CaseRecord, folder: Path, seed: int, size: int) -> None:
        """Paints one radiograph and writes it, after its mask."""
        field, spots = self.plan(record, seed, size)
        rng = generator(VERSION, record, seed, 1)
        film = radiographs.expose(rng, field.copy(), spots)
        radiographs.write_case(rng, record, folder, radiographs.in_bits(film), spots)

    def regions(self, record: CaseRecord, seed: int, size: int) -> Iterator[tuple[str, str, float, float, float]]:
        """The rows of a radiograph in `regions.csv`."""
        yield from radiographs.rows_of(record, self.plan(record, seed, size)[1])


def lungs_in(bright: np.ndarray) -> np.ndarray:
    """The two largest dark regions that do not touch the border, without holes, bool; bone is bright.

    The threshold falls from Otsu's in the middle until there are two, because the wall of some is almost as dark.
    """
    side = len(bright)
    middle = bright[side // 6 : -side // 6, side // 6 : -side // 6]
    found = np.zeros(bright.shape, bool)
    low, span = middle.min(), max(np.ptp(middle), 1e-6)
    first = low + span * otsu_threshold(((middle - low) * (255 / span)).astype(np.uint8)) / 255
    for level in np.linspace(first, np.percentile(middle, 10), 12):
        dark = ndimage.binary_opening(bright < level, iterations=max(1, side // 100))
        labels, _ = ndimage.label(dark)
        sizes = np.bincount(labels.ravel(), minlength=3)
        sizes[np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))] = 0
        sizes[0] = 0
        largest = np.argsort(-sizes)[:2]
        if sizes[largest].min() > _LUNG * side**2:
            found = np.isin(labels, largest)
            break
    closed = ndimage.binary_closing(np.pad(found, side // 8), iterations=side // 24)
    return ndimage.binary_fill_holes(closed)[side // 8 : -(side // 8), side // 8 : -(side // 8)]


def chests(radiograph: Path) -> Recipe:
    """The recipe of a cohort of chests; `size` is that of the embedded one."""
    chest = Chest(radiograph)
    regions = Table(radiographs.COLUMNS, chest.regions)
    return _recipe(radiographs.RECIPE, "chest", radiograph, chest.make, regions)
