"""Small NIfTI files for tests of volumes."""

from pathlib import Path

import nibabel
import numpy as np

from glimpse.sources import VolumeSource

RNG = np.random.default_rng(0)
IDENTITY = np.diag([1.0, 1.0, 1.0, 1.0])


def write(path: Path, values: np.ndarray, affine: np.ndarray = IDENTITY) -> Path:
    """A NIfTI-1 file that holds an array (x, y, z) exactly as it is."""
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def whole(source: VolumeSource) -> np.ndarray:
    return source.overview(source.shape)


def greys(shape: tuple[int, ...]) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype(np.int16)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Dice's coefficient."""
    return 2 * (a & b).sum() / (a.sum() + b.sum())
