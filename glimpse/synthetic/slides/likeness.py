"""Look-alikes of tumour: stroma with the colours, contrasts and power spectrum of tumour, but not its cells.

A look-alike is made from a sheet of stroma and one of tumour, its phantom, in optical densities, because stains act on
those as a linear map. What is alike for one stain is then alike for all.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import scipy

from glimpse.synthetic.slides.enlarging import bordered, enlarged
from glimpse.synthetic.slides.quilting import DENSITY, block_means

BLOCK = 8
"""Side in pixels of the blocks whose means are those of the phantom, hence also at any coarser level."""

_ROUNDS = 3
_QUANTILES = np.concatenate([[0, 0.0005, 0.002, 0.005], np.linspace(0.01, 0.99, 197), [0.995, 0.998, 0.9995, 1]])
_SAMPLE = 7  # every so many pixels are ranked: colours of whole sheets need no more


def look_alike(stroma: np.ndarray, phantom: np.ndarray) -> np.ndarray:
    """Gives stroma the statistics of a phantom, in rounds of one after the other.

    The means of blocks are the phantom's, and so are, about, the local contrast, the joint distribution of colours, and
    the radial power spectrum of each principal component of colour. What is left of the stroma are the forms within and
    across the blocks: fibres in place of nuclei.

    Args:
        stroma: uint8 (side, side, 3), a sheet that continues itself on all sides, as `quilt` makes it.
        phantom: likewise, of the same shape.

    Returns:
        uint8 (side, side, 3).
    """
    wanted, mean, basis = _components(DENSITY[phantom])
    found, _, own = _components(DENSITY[stroma])
    signs = np.sign((own * basis).sum(0))
    planes = []
    for plane, sign, like in zip(found, np.where(signs == 0, 1, signs), wanted, strict=True):
        plane = _with_contrast(plane * sign, like)
        power = _radial_power(scipy.fft.rfft2(like))
        for _ in range(_ROUNDS):
            plane = _with_values(_with_means(plane, like), like)
            plane = _with_power(plane, power)
        planes.append(_with_means(plane, like))
    density = np.stack(planes, axis=-1) @ basis.T + mean
    return np.clip(256 * np.exp(-density) - 0.5, 0, 255).astype(np.uint8)


def matched(image: np.ndarray, phantom: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Multiplies an image by a smooth field until its means of blocks are those of the phantom.

    Args:
        image: float32 (height, width, 3) of at least 0, whole blocks.
        phantom: likewise.
        rounds: how often.
    """
    wanted = block_means(phantom, BLOCK) + 1
    image = image + 1
    for _ in range(rounds):
        ratio = wanted / block_means(image, BLOCK)
        image *= np.stack([enlarged(bordered(ratio[..., channel]), BLOCK) for channel in range(3)], axis=-1)
    return image - 1


def _components(density: np.ndarray) -> tuple[Iterator[np.ndarray], np.ndarray, np.ndarray]:
    """Principal components of colour, one plane each, the mean, and the basis in columns, the largest first."""
    sample = density.reshape(-1, 3)[::_SAMPLE]
    mean = sample.mean(0)
    _, vectors = np.linalg.eigh(np.cov(sample - mean, rowvar=False))
    basis = vectors[:, ::-1].astype(np.float32)
    basis *= np.sign(basis.sum(0))
    return ((density - mean) @ column for column in basis.T), mean, basis


def _with_contrast(plane: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Detail within blocks as strong, place by place, as the phantom's, on the phantom's means of blocks."""
    details = []
    for image in (plane, like):
        detail = image - _enlarged(block_means(image, BLOCK))
        power = scipy.ndimage.gaussian_filter(block_means(detail**2, BLOCK), 1.5, mode="wrap")
        details.append((detail, np.sqrt(power) + 1e-4))
    (detail, strength), (phantom, wanted) = details
    return like - phantom + detail * _enlarged(wanted / strength)


def _with_means(plane: np.ndarray, like: np.ndarray) -> np.ndarray:
    for _ in range(2):
        plane = plane + _enlarged(block_means(like - plane, BLOCK))
    return plane


def _with_values(plane: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The phantom's distribution of values."""
    have, want = (np.quantile(image.ravel()[::_SAMPLE], _QUANTILES) for image in (plane, like))
    have += np.arange(len(have)) * 1e-7  # interpolation needs values that rise
    return np.interp(plane.ravel(), have, want).astype(np.float32).reshape(plane.shape)


def _with_power(plane: np.ndarray, power: np.ndarray) -> np.ndarray:
    """The phantom's radial power spectrum."""
    spectrum = scipy.fft.rfft2(plane)
    gain = np.sqrt(power / (_radial_power(spectrum) + 1e-12)).astype(np.float32)
    gain[0] = 1
    return scipy.fft.irfft2(spectrum * gain[_rings(len(plane))], plane.shape)


def _radial_power(spectrum: np.ndarray) -> np.ndarray:
    rings = _rings(len(spectrum))
    return np.bincount(rings.ravel(), (np.abs(spectrum) ** 2).ravel())


@lru_cache(maxsize=2)
def _rings(side: int) -> np.ndarray:
    """The ring of each frequency of a real transform, rings of 4 cycles per sheet; the mean has ring 0 for itself."""
    radius = np.hypot(scipy.fft.fftfreq(side)[:, None], scipy.fft.rfftfreq(side)[None]) * side
    return (radius / 4 + 0.75).astype(np.int64)


def _enlarged(means: np.ndarray) -> np.ndarray:
    """Means of blocks as a smooth map that continues itself on all sides."""
    return enlarged(np.pad(means, 1, mode="wrap"), BLOCK)
