"""Marks: boxes around what matters in an image, read from a mask. Reports count how many of them an agent looked at."""

import math
import zlib
from pathlib import Path

import numpy as np
import scipy  # whose parts are imported where they are used first: `scipy.ndimage` takes long
import tifffile
from jaxtyping import Bool, Float
from PIL import Image

from glimpse.sources.base import ImageReadError, ImageSource, UnsupportedImageError, missing_file

MOST_PIXELS = 1 << 26  # largest mask of a plane; of a pyramid, the finest level that is not larger is read
_DISTORTION = 0.02  # relative difference that the scales of a mask's two axes may have


def read_marks(path: Path, source: ImageSource) -> Float[np.ndarray, "mark 2 d"]:
    """Reads a mask, and returns boxes around its connected parts.

    Args:
        path: for a plane, a PNG or TIFF of any resolution (of a pyramid, the finest level of at most `MOST_PIXELS` is
            read); for a volume, a NIfTI file on the image's grid. A pixel is marked if it is not 0 in any channel; the
            transparency does not count.
        source: the image to which the mask belongs.

    Returns:
        The low and high corners of the boxes, in level-0 pixels of the image.

    Raises:
        ImageReadError: the file is missing or damaged.
        UnsupportedImageError: the file is of another kind, or does not fit the image.
        PermissionError: the file may not be read.
    """
    if not path.is_file():
        raise missing_file(path)
    volume = path.name.lower().endswith((".nii", ".nii.gz"))
    if volume != (source.ndim == 3):
        kind = "NIfTI (.nii or .nii.gz) for a volume, PNG or TIFF for a plane"
        raise UnsupportedImageError(f"{path}: the image has {source.ndim} axes; a mask is {kind}.")
    mask = _read_volume(path) if volume else _read_plane(path)
    return boxes(mask) * _scale(path, mask, source)


def boxes(mask: Bool[np.ndarray, "*size"]) -> Float[np.ndarray, "mark 2 d"]:
    """Returns corners, in mask pixels, of boxes around its parts; pixels that touch at a corner are connected."""
    parts, _ = scipy.ndimage.label(mask, np.ones((3,) * mask.ndim))
    found = [
        [[side.start for side in part], [side.stop for side in part]] for part in scipy.ndimage.find_objects(parts)
    ]
    return np.array(found, np.float64).reshape(-1, 2, mask.ndim)


def _scale(path: Path, mask: np.ndarray, source: ImageSource) -> np.ndarray:
    """Returns the number of pixels of the image per pixel of its mask, (d,); refuses a mask that does not fit."""
    scale = np.divide(source.shape, mask.shape) if mask.ndim == source.ndim else np.full(source.ndim, np.nan)
    if source.ndim == 3:
        fits, rule = bool((scale == 1).all()), "expected the grid of its volume"
    else:
        rounding = max(_DISTORTION, 1.5 / min(mask.shape))
        fits, rule = bool(scale.max() <= scale.min() * (1 + rounding)), "expected the proportions of its image"
    if not fits:
        sizes = " x ".join(map(str, mask.shape)), " x ".join(map(str, source.shape))
        raise UnsupportedImageError(f"{path}: {rule}, {sizes[1]} pixels, got a mask of {sizes[0]}. Export it again.")
    return scale


# ---------------------------------------------------------------------------------------------- planes
def _read_plane(path: Path) -> Bool[np.ndarray, "height width"]:
    try:
        pixels = _read_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else _read_picture(path)
    except Image.DecompressionBombError as error:
        raise UnsupportedImageError(f"{path}: {_too_large()}") from error
    except PermissionError:
        raise
    except (OSError, ValueError, SyntaxError, IndexError, tifffile.TiffFileError) as error:
        if isinstance(error, UnsupportedImageError):
            raise
        raise ImageReadError(f"{path}: cannot be read as a mask ({error}). Save it as PNG.") from error
    return pixels != 0 if pixels.ndim == 2 else (pixels != 0).any(axis=2)


def _read_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        levels = file.series[0].levels
        level = next((one for one in levels if math.prod(one.shape[:2]) <= MOST_PIXELS), None)
        if level is None:
            raise UnsupportedImageError(f"{path}: {_too_large()}")
        if level is not levels[0]:
            return level.asarray()
    return _read_picture(path)  # pillow reads more compressions


def _read_picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        if image.width * image.height > MOST_PIXELS:
            raise UnsupportedImageError(f"{path}: {_too_large()}")
        pixels = np.asarray(image)
    transparency = pixels.ndim == 3 and image.mode in ("LA", "RGBA", "PA")
    return pixels[..., :-1] if transparency else pixels


def _too_large() -> str:
    return (
        f"a mask may have {MOST_PIXELS / 1e6:.0f} million pixels. Save it smaller: it may have any resolution, in the "
        "proportions of its image."
    )


# ---------------------------------------------------------------------------------------------- volumes
def _read_volume(path: Path) -> Bool[np.ndarray, "depth height width"]:
    """Reads a NIfTI mask, with axes as in volumes: z to superior, y to anterior, x to the right."""
    import nibabel  # imported here because planes do not need it

    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        values = np.asanyarray(image.dataobj)
    except PermissionError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise ImageReadError(f"{path}: cannot be read as NIfTI ({error}). Export the mask again.") from error
    return (values.reshape(values.shape[:3]) if values.shape[3:] in ((), (1,)) else values).T != 0
